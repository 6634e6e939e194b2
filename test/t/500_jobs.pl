# The queue and the engine's client, with a double in the engine's place that
# crashes, lies, dawdles and ignores signals.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib $FindBin::Bin;
use JobTest;

my $node = PostgreSQL::Test::Cluster->new('jobs');
$node->init;
my $double = make_double($node);
$node->append_conf('postgresql.conf', "avcurate.engine_path = '$double'
max_worker_processes = 12
avcurate.max_workers = 3
avcurate.retry_delay = 0
fsync = on");
$node->start;
setup_frames($node, 20);
behave($node);

my $steps = 6;
my $options = qq({"max_steps": $steps, "batch_size": 4, "checkpoint_every": 2});

sub train
{
	my ($given) = @_;
	$given //= $options;
	return $node->safe_psql('postgres', "SELECT avcurate.train('all_frames', 'm', '$given')");
}

sub wait_for
{
	my ($job) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.wait_job($job, '180 s')");
	return ($out, $err);
}

# --- a plain run
my $job = train();
is((wait_for($job))[0], 'succeeded', 'a job succeeds');
is($node->safe_psql('postgres', "SELECT count(*), min(step), max(step) FROM avcurate.job_progress WHERE job = $job"),
	"$steps|1|$steps", 'one progress row a step');
is($node->safe_psql('postgres', "SELECT progress, attempts, checkpoint IS NOT NULL, started_at <= finished_at, failed_rows FROM avcurate.jobs WHERE job = $job"),
	'1|1|t|t|0', 'its row is complete');
is($node->safe_psql('postgres', "SELECT version, rows, step, digest = (SELECT digest FROM avcurate.slice_versions WHERE slice = 'all_frames'::regclass) FROM avcurate.checkpoints WHERE job = $job"),
	"1|20|$steps|t", 'the checkpoint carries its pin');
is($node->safe_psql('postgres', "SELECT count(*) FROM _avcurate.checkpoints WHERE state"), '0',
	'step checkpoints are freed');
my $weights = weights_of($node, $job);
ok($weights, 'weights have a hash');
is($node->safe_psql('postgres', "SELECT string_agg(check_name || ' ' || ok, ', ' ORDER BY check_name) FROM avcurate.verify_checkpoint((SELECT checkpoint FROM avcurate.checkpoints WHERE job = $job))"),
	'pin true, tensors true', 'verify_checkpoint agrees');
$job = train();
wait_for($job);
is(weights_of($node, $job), $weights, 'the same options give the same weights');

# --- progress: of the view, and told while waiting
behave($node, 'slow 900');
$job = train('{"max_steps": 15, "batch_size": 4}');
ok(defined poll($node, "SELECT count(*) > 0 FROM avcurate.jobs WHERE job = $job AND state = 'running' AND progress > 0 AND progress < 1 AND images_per_s > 0 AND eta > '0'", 't'),
	'a running job shows progress, speed and the time that is left');
my ($text, $told) = wait_for($job);
is($text, 'succeeded', 'wait for it');
like($told, qr/NOTICE:  job $job: \d+ % done, [\d.]+ images\/s/, 'which tells how far it is');
is($node->safe_psql('postgres', "SELECT progress, eta FROM avcurate.jobs WHERE job = $job"), '1|', 'at the end nothing is left');
behave($node);

# --- engines of backends
is($node->safe_psql('postgres', "SELECT avcurate.create_checkpoint('m', 5) > 0"), 't', 'a backend uses an engine');
is(poll($node, "SELECT 1", '1') && engines_of($double), 0, 'no engine is left');

behave($node, 'slow_load 20000');
my ($rc, $out, $err) = $node->psql('postgres', "SET statement_timeout = '300ms'; SELECT avcurate.create_checkpoint('m')");
like($err, qr/canceling statement due to statement timeout/, 'a statement that waits for an engine can be cancelled');
is(engines_of($double), 0, 'the engine is ended');
$node->safe_psql('postgres', q{CREATE FUNCTION try_it() RETURNS text LANGUAGE plpgsql AS $$
	BEGIN PERFORM avcurate.create_checkpoint('m'); RETURN 'no error';
	EXCEPTION WHEN external_routine_exception THEN RETURN sqlerrm; END $$});
behave($node, 'no_hello');
is($node->safe_psql('postgres', 'SELECT try_it()'), 'engine ended with exit code 4', 'an engine that fails in a subtransaction');
is(engines_of($double), 0, 'is ended with it');
behave($node);

# --- waiting in the queueing transaction
($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.wait_job(avcurate.train('all_frames', 'm', '$options'))");
like($err, qr/was queued or changed by this transaction/, 'wait_job(train()) is refused');
like($err, qr/HINT:  Commit first/, 'with a hint');
($rc, $out, $err) = $node->psql('postgres', "BEGIN; SELECT avcurate.train('all_frames', 'm', '$options') AS job \\gset\nSELECT avcurate.wait_job(:job);");
like($err, qr/was queued or changed by this transaction/, 'also in a later statement');
is($node->safe_psql('postgres', "SELECT count(*) FROM avcurate.jobs"), '3', 'a rolled back job leaves no row');
($rc, $out, $err) = $node->psql('postgres', "BEGIN; SELECT avcurate.resume_job($job); SELECT avcurate.wait_job($job);");
like($err, qr/was queued or changed/, 'nor is a job waited for that this transaction has locked');


# --- an engine that fails
foreach my $case (
	[ 'kill_at 3', qr/engine was ended by signal 9/, 'engine killed' ],
	[ 'exit_at 3', qr/engine ended with exit code 3 \(Last line of the engine: the double gave up\)/, 'engine exits' ],
	[ 'garbage_at 3', qr/engine sent garbage/, 'engine sends garbage' ],
	[ 'huge_at 3', qr/engine ended with exit code 0/, 'engine announces more than it sends' ],
	[ 'long_at 3', qr/engine sent garbage: blob of a frame is longer/, 'engine announces too much' ],
	[ 'nan_at 3', qr/loss of step 3 is not finite \(frames /, 'loss is not finite' ],
	[ 'no_hello', qr/exit code 4 \(Last line of the engine: double has nothing to say\)/, 'engine does not start' ])
{
	my ($word, $message, $name) = @$case;
	behave($node, $word);
	my $before = $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()');
	$job = train();
	($out, $err) = wait_for($job);
	like($err, $message, "$name: wait_job raises it");
	like($node->safe_psql('postgres', "SELECT state || ': ' || error FROM avcurate.jobs WHERE job = $job"),
		qr/^failed: .*$message/, "$name: the job has failed with the message");
	is(engines_of($double), 0, "$name: no engine is left");
	is($node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()'), $before, "$name: the server went on");
}

# --- a failed job resumes after its last step checkpoint
behave($node, 'kill_at 5');
$job = train();
wait_for($job);
is(state_of($node, $job), 'failed', 'a job fails at step 5');
is($node->safe_psql('postgres', "SELECT max(step), count(*) FROM _avcurate.checkpoints WHERE job = $job AND state"), '4|2',
	'its step checkpoints are kept');
is($node->safe_psql('postgres', "SELECT count(*) FROM avcurate.checkpoints WHERE job = $job"), '0', 'and are no checkpoints for users');
behave($node);
is($node->safe_psql('postgres', "SELECT avcurate.resume_job($job)"), 't', 'resume_job');
is((wait_for($job))[0], 'succeeded', 'the resumed job succeeds');
is(weights_of($node, $job), $weights, 'with the weights of an undisturbed run');
like($node->safe_psql('postgres', "SELECT string_agg(message, ';' ORDER BY at) FROM avcurate.job_log WHERE job = $job"),
	qr/resumed after step 4 of 6/, 'and says where it resumed');
is($node->safe_psql('postgres', "SELECT avcurate.resume_job($job)"), 'f', 'a job that is done is not resumed');

# --- much talk on stderr does not block
behave($node, 'chatty');
$job = train();
is((wait_for($job))[0], 'succeeded', 'an engine that talks much');

# --- skipped steps
behave($node, 'skip_at 2');
$job = train();
is((wait_for($job))[0], 'succeeded', 'a skipped step');
is($node->safe_psql('postgres', "SELECT step, loss IS NULL FROM avcurate.job_progress WHERE job = $job AND step = 3"), '3|t', 'has no loss');
like($node->safe_psql('postgres', "SELECT message FROM avcurate.job_log WHERE job = $job AND level = 'notice'"), qr/step 3 was skipped/, 'is logged');

# --- cancel in every phase
foreach my $phase ([ 'slow_load 20000', 'loading' ], [ 'slow 20000', 'in a step' ],
	[ 'slow_save 20000', 'saving' ], [ "slow 20000\ndeaf", 'with a deaf engine' ])
{
	my ($words, $name) = @$phase;
	behave($node, $words);
	$job = train();
	poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'running');
	poll($node, "SELECT count(*) > 1 FROM avcurate.job_progress WHERE job = $job", 't') if $name eq 'saving';
	# the double is slow in what it is asked for soon after its start
	foreach (1 .. 3000) { last if engines_of($double); select undef, undef, undef, 0.02 }
	select undef, undef, undef, 0.5;
	ok(defined poll($node, "SELECT xact_start IS NULL, backend_xmin IS NULL, count(l.*) FROM pg_stat_activity a LEFT JOIN pg_locks l ON l.pid = a.pid AND l.locktype = 'relation' WHERE backend_type = 'avcurate job worker' GROUP BY 1, 2",
		't|t|0'), 'no transaction, snapshot or relation lock is held meanwhile') if $name eq 'in a step';
	is($node->safe_psql('postgres', "SELECT avcurate.cancel_job($job)"), 't', "cancel while $name");
	my $took = poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'cancelled');
	ok(defined $took && $took < 10, 'ends before the engine is done' . (defined $took ? sprintf ' (%.2f s)', $took : ''));
	is(engines_of($double), 0, 'and leaves no engine');
	is((wait_for($job))[0], 'cancelled', 'wait_job says so');
}
is($node->safe_psql('postgres', "SELECT avcurate.cancel_job($job)"), 'f', 'a cancelled job is not cancelled again');

# --- a cancel counts from its commit on, and holds nobody up before
behave($node, 'slow 100');
$job = train();
poll($node, "SELECT count(*) > 0 FROM avcurate.job_progress WHERE job = $job", 't');
my $open = $node->background_psql('postgres', on_error_stop => 0);
is($open->query("BEGIN; SELECT avcurate.cancel_job($job)"), 't', 'cancel a running job in a transaction that stays open');
ok(defined poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'succeeded'), 'the job goes on');
$open->query('COMMIT');
is(state_of($node, $job), 'succeeded', 'a commit that comes too late changes nothing');
is(weights_of($node, $job), $weights, 'nor the weights');
behave($node, 'slow 20000');
$job = train();
poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'running');
$open->query("BEGIN; SELECT avcurate.cancel_job($job); ROLLBACK");
$open->query("BEGIN; SAVEPOINT s; SELECT avcurate.cancel_job($job); ROLLBACK TO s; COMMIT");
($rc, $out, $err) = $node->psql('postgres', "BEGIN; SELECT avcurate.cancel_job($job); SELECT avcurate.wait_job($job)");
like($err, qr/was queued or changed by this transaction/, 'wait_job does not wait for what its own transaction cancels');
is($node->safe_psql('postgres', "SELECT state, cancel_requested, (SELECT count(*) FROM _avcurate.cancel_requests) FROM _avcurate.jobs WHERE job = $job"),
	'running|f|0', 'what is rolled back is not cancelled');
$open->query("BEGIN; SAVEPOINT s; SELECT avcurate.cancel_job($job); RELEASE s");
is($node->safe_psql('postgres', "SELECT avcurate.cancel_job($job)"), 't', 'another session need not wait to cancel it');
ok(defined poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'cancelled'), 'which happens at its commit');
$open->query('COMMIT');
is($node->safe_psql('postgres', "SELECT avcurate.cancel_job($job), (SELECT count(*) FROM _avcurate.cancel_requests)"), 'f|0', 'and once');
is($open->query(q{BEGIN; CREATE TABLE cancel_requests (job bigint); CREATE TRIGGER t AFTER INSERT ON cancel_requests FOR EACH ROW EXECUTE FUNCTION _avcurate.cancel_at_commit();
	CREATE ROLE nobody; ALTER TABLE cancel_requests OWNER TO nobody; INSERT INTO cancel_requests VALUES (1)}), '', 'another table');
like($open->{stderr}, qr/must be fired by _avcurate.cancel_requests/, 'cannot ask for it');
$open->quit;

# --- limits: three at once, the rest wait, in order; waiting jobs can be cancelled
behave($node, 'slow 600');
my @jobs = map { train() } 1 .. 5;
poll($node, "SELECT count(*) FROM avcurate.jobs WHERE state = 'running'", '3');
is($node->safe_psql('postgres', "SELECT string_agg(job::text, ' ' ORDER BY job) FROM avcurate.jobs WHERE state = 'pending'"), "$jobs[3] $jobs[4]",
	'avcurate.max_workers limits, oldest first');
is($node->safe_psql('postgres', "SELECT avcurate.cancel_job($jobs[4])"), 't', 'a pending job is cancelled');
is(state_of($node, $jobs[4]), 'cancelled', 'at once');
is((wait_for($_))[0], 'succeeded', "job $_ succeeds") foreach @jobs[ 0 .. 3 ];
is($node->safe_psql('postgres', 'SELECT avcurate.run_pending()'), '0', 'nothing is left to run');

# --- a worker that is terminated: the job goes on in another
behave($node, 'hang_at 4');
$job = train();
poll($node, "SELECT count(*) FROM avcurate.job_progress WHERE job = $job", '4');
$node->safe_psql('postgres', "SELECT pg_terminate_backend(worker_pid) FROM _avcurate.jobs WHERE job = $job");
poll($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'avcurate job worker'", '0');
is(engines_of($double), 0, 'a terminated worker takes its engine along');
is(state_of($node, $job), 'running', 'its job has no worker');
behave($node);
is($node->safe_psql('postgres', 'SELECT avcurate.run_pending()'), '1', 'run_pending starts one');
is((wait_for($job))[0], 'succeeded', 'the job succeeds');
is($node->safe_psql('postgres', "SELECT attempts FROM avcurate.jobs WHERE job = $job"), '2', 'at the second attempt');
is(weights_of($node, $job), $weights, 'with the weights of an undisturbed run');

# --- the same, found by wait_job itself
behave($node, 'hang_at 4');
$job = train();
poll($node, "SELECT count(*) FROM avcurate.job_progress WHERE job = $job", '4');
behave($node);
$node->safe_psql('postgres', "SELECT pg_terminate_backend(worker_pid) FROM _avcurate.jobs WHERE job = $job");
is((wait_for($job))[0], 'succeeded', 'wait_job finds a new worker by itself');
is(weights_of($node, $job), $weights, 'the weights are the same');

# --- immediate stop, and kill -9 of the postmaster
foreach my $how ('immediate', 'kill9', 'fast')
{
	behave($node, 'hang_at 4');
	$job = train();
	poll($node, "SELECT count(*) FROM avcurate.job_progress WHERE job = $job", '4');
	behave($node);
	my @children = children_of($node->{_pid});
	if ($how eq 'kill9') { $node->kill9 } else { $node->stop($how) }
	# killed this way, its children let the shared memory go by themselves
	my $start = time;
	select undef, undef, undef, 0.05
	  while (engines_of($double) || grep { -e "/proc/$_" } @children) && time - $start < 60;
	is(engines_of($double), 0, "$how stop: no engine is left");
	$node->start;
	is(state_of($node, $job), 'running', "$how stop: the row says running");
	cmp_ok($node->safe_psql('postgres', 'SELECT avcurate.run_pending()'), '>=', 1, "$how stop: run_pending finds it");
	is((wait_for($job))[0], 'succeeded', "$how stop: the job resumes");
	is(weights_of($node, $job), $weights, "$how stop: the weights are the same");
}

# --- a job that loses its worker again and again
behave($node, 'hang_at 0');
$job = train();
foreach my $attempt (1 .. 3)
{
	poll($node, "SELECT state, attempts FROM avcurate.jobs WHERE job = $job", "running|$attempt");
	poll($node, "SELECT count(*) FROM _avcurate.jobs WHERE job = $job AND worker_pid IS NOT NULL", '1');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend(worker_pid) FROM _avcurate.jobs WHERE job = $job");
	poll($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'avcurate job worker'", '0');
	$node->safe_psql('postgres', 'SELECT avcurate.run_pending()');
}
poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'failed');
is($node->safe_psql('postgres', "SELECT state, error FROM avcurate.jobs WHERE job = $job"),
	'failed|worker ended without a result, 3 times', 'a job is tried max_attempts times');

# --- a later refresh does not change what is trained on
behave($node, 'slow 200');
$job = train();
$node->safe_psql('postgres', "DELETE FROM frames WHERE frame_id > 10; SELECT avcurate.refresh_slice('all_frames')");
is((wait_for($job))[0], 'succeeded', 'a job runs while its slice is refreshed');
is(weights_of($node, $job), $weights, 'on the pinned rows and images');
is($node->safe_psql('postgres', "SELECT bool_and(ok) FROM avcurate.verify_checkpoint((SELECT checkpoint FROM avcurate.jobs WHERE job = $job))"),
	't', 'the pin is intact');
$job = train(qq({"max_steps": 2, "batch_size": 4}));
wait_for($job);
is($node->safe_psql('postgres', "SELECT version, rows FROM avcurate.checkpoints WHERE job = $job"), '2|10', 'a new job takes the new version');
$job = train(qq({"max_steps": $steps, "batch_size": 4, "checkpoint_every": 2, "version": 1}));
wait_for($job);
is(weights_of($node, $job), $weights, 'the old version can be asked for');

# --- a dropped slice: the pin stays
$node->safe_psql('postgres', "SELECT avcurate.create_slice('passing', 'frames', 'frame_id < 9')");
$job = $node->safe_psql('postgres', "SELECT avcurate.train('passing', 'm', '$options')");
poll($node, "SELECT count(*) > 1 FROM avcurate.job_progress WHERE job = $job", 't');
$node->safe_psql('postgres', 'DROP MATERIALIZED VIEW passing');
is((wait_for($job))[0], 'succeeded', 'a job whose slice is dropped goes on');
is($node->safe_psql('postgres', "SELECT string_agg(check_name || ' ' || ok, ', ' ORDER BY check_name) FROM avcurate.verify_checkpoint((SELECT checkpoint FROM avcurate.jobs WHERE job = $job))"),
	'pin true, tensors true', 'its pin can still be verified');

# --- who may do what
$node->safe_psql('postgres', q{CREATE ROLE ann LOGIN; CREATE ROLE bob LOGIN;
	GRANT SELECT ON all_frames, frames TO ann, bob});
behave($node);
my $as_ann = "SET ROLE ann; SELECT avcurate.create_model('of_ann', 'small');";
$node->safe_psql('postgres', $as_ann);
$job = $node->safe_psql('postgres', "SET ROLE ann; SELECT avcurate.train('all_frames', 'of_ann', '$options')");
($rc, $out, $err) = $node->psql('postgres', "SET ROLE ann; SELECT avcurate.wait_job($job, '180 s')");
is($out, 'succeeded', 'a user without other rights trains') or diag $err;
is($node->safe_psql('postgres', "SET ROLE ann; SELECT count(*) FROM avcurate.jobs"), '1', 'a role sees its own jobs');
is($node->safe_psql('postgres', "SET ROLE bob; SELECT count(*) FROM avcurate.jobs"), '0', 'and no others');
is($node->safe_psql('postgres', "SET ROLE bob; SELECT count(*) FROM avcurate.checkpoints"), '0', 'nor their checkpoints');
foreach my $call ("wait_job($job)", "cancel_job($job)", "resume_job($job)")
{
	($rc, $out, $err) = $node->psql('postgres', "SET ROLE bob; SELECT avcurate.$call");
	like($err, qr/permission denied for job/, "another role's $call is refused");
}
foreach my $call ("train('all_frames', 'of_ann')", "create_checkpoint('of_ann')",
	"export_checkpoint((SELECT checkpoint FROM avcurate.jobs WHERE job = $job))")
{
	($rc, $out, $err) = $node->psql('postgres', "SET ROLE bob; SELECT avcurate.$call");
	unlike($err, qr/^$/, "another role's $call is refused") if $call !~ /export/;
	like($err, qr/permission denied for model/, 'for the model is not its own') if $call !~ /export/;
}
($rc, $out, $err) = $node->psql('postgres', "SET ROLE bob; SELECT avcurate.export_checkpoint(" .
	$node->safe_psql('postgres', "SELECT checkpoint FROM avcurate.jobs WHERE job = $job") . ')');
like($err, qr/permission denied for model/, 'nor are weights exported');
$node->safe_psql('postgres', 'REVOKE SELECT ON frames FROM ann');
($rc, $out, $err) = $node->psql('postgres', "SET ROLE ann; SELECT avcurate.train('all_frames', 'of_ann')");
like($err, qr/permission denied/, 'images need a right of their own');
$node->safe_psql('postgres', 'GRANT SELECT ON frames TO ann; REVOKE SELECT ON all_frames FROM ann');
($rc, $out, $err) = $node->psql('postgres', "SET ROLE ann; SELECT avcurate.train('all_frames', 'of_ann')");
like($err, qr/permission denied/, 'so does the slice');

# --- no worker slot at all
$node->append_conf('postgresql.conf', "max_worker_processes = 1");
$node->restart;
# the logical replication launcher takes the only slot
($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.train('all_frames', 'm', '$options')");
like($err, qr/NOTICE:  job \d+ stays pending: no worker slot of the server is free/, 'no slot: the job is queued with a notice');
$job = $out;
($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.wait_job($job, '4 s')");
is($out, 'pending', 'wait_job ends with its timeout');
like($err, qr/NOTICE:  job $job waits for a worker slot/, 'and says what it waits for');
$node->append_conf('postgresql.conf', "max_worker_processes = 12");
$node->restart;
is((wait_for($job))[0], 'succeeded', 'with slots, wait_job has it run');

# --- no engine at all
$node->safe_psql('postgres', "ALTER SYSTEM SET avcurate.engine_path = '/nowhere/engine'; SELECT pg_reload_conf()");
$job = train();
($out, $err) = wait_for($job);
like($err, qr{could not start engine "/nowhere/engine": No such file or directory}, 'a missing engine is named');

$node->stop;
done_testing();
