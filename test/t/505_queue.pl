# Which job comes next: retries, roles, devices, and what the launcher finds.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use JobTest;
use Time::HiRes qw(time usleep);

my $node = PostgreSQL::Test::Cluster->new('queue');
$node->init;
my $double = make_double($node);
$node->append_conf('postgresql.conf', "avcurate.engine_path = '$double'
max_worker_processes = 12
avcurate.max_workers = 3
avcurate.retry_delay = '50ms'");
$node->start;
setup_frames($node, 20);
behave($node);

sub ask { return $node->safe_psql('postgres', $_[0]) }

sub train
{
	my ($set) = @_;
	return ask(($set // '') . q{SELECT avcurate.train('all_frames', 'm', '{"max_steps": 6, "batch_size": 4, "checkpoint_every": 2}')});
}

sub wait_for
{
	my ($job) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.wait_job($job, '180 s')");
	return $out || $err;
}

sub configure
{
	ask(join ";\n", "LOAD 'avcurate'", map { "ALTER SYSTEM SET $_" } @_);
	$node->reload;
}

my $first = train();
is(wait_for($first), 'succeeded', 'an undisturbed job');
my $weights = weights_of($node, $first);

# --- passing failures: three starts that lead to nothing are enough
behave($node, 'kill_at 3');
my $job = train();
like(wait_for($job), qr/engine was ended by signal 9/, 'an engine that is always killed fails the job');
is(ask("SELECT attempts, state FROM avcurate.jobs WHERE job = $job"), '4|failed', 'after the start that stored a step and three in vain');
is(ask("SELECT count(*) FROM avcurate.job_log WHERE job = $job AND level = 'warning' AND message LIKE 'starts again in % s after: engine was ended by signal 9%'"),
	'3', 'the log tells of each');
behave($node, 'nan_at 3');
$job = train();
like(wait_for($job), qr/not finite/, 'a loss that is not finite');
is(ask("SELECT attempts FROM avcurate.jobs WHERE job = $job"), '1', 'is not tried again');

configure("avcurate.retry_delay = '3s'");
behave($node, 'kill_at 3');
$job = train();
ok(defined poll($node, "SELECT state, retry_at > now() - interval '2 s', error LIKE 'engine was ended%' FROM avcurate.jobs WHERE job = $job AND attempts > 0", 'pending|t|t'),
	'a job waits for its next start, and says why');
behave($node);
my $other = train();
is(wait_for($other), 'succeeded', 'meanwhile others run');
is(wait_for($job), 'succeeded', 'then it goes on');
is(weights_of($node, $job), $weights, 'with the weights of an undisturbed run');
is(ask("SELECT retry_at IS NULL, error IS NULL FROM avcurate.jobs WHERE job = $job"), 't|t', 'and nothing is left of the failure');
behave($node, 'kill_at 1');
configure("avcurate.retry_delay = '1h'");
$job = train();
poll($node, "SELECT state, attempts FROM avcurate.jobs WHERE job = $job", 'pending|1');
is(ask("SELECT avcurate.cancel_job($job)"), 't', 'a job that waits can be cancelled');
is(ask("SELECT state, retry_at IS NULL FROM avcurate.jobs WHERE job = $job"), 'cancelled|t', 'at once');
behave($node);
is(ask("SELECT avcurate.resume_job($job)"), 't', 'and resumed');
is(wait_for($job), 'succeeded', 'without a delay');

# --- an engine that hangs
configure("avcurate.retry_delay = '1s'", "avcurate.engine_stall_timeout = '4s'");
behave($node, 'hang_at 3');
$job = train();
ok(defined poll($node, "SELECT state, error FROM avcurate.jobs WHERE job = $job AND attempts > 0", 'pending|engine was ended because it did nothing for 4 seconds'),
	'an engine that hangs is ended');
behave($node);
is(wait_for($job), 'succeeded', 'and the job started again');
is(weights_of($node, $job), $weights, 'with the weights of an undisturbed run');
configure('avcurate.engine_stall_timeout = DEFAULT');

# --- devices
configure('avcurate.max_device_jobs = 1');
behave($node, 'slow 60');
my @jobs = map { train() } 1 .. 3;
my $most = 0;
my $until = time + 180;
while (time < $until)
{
	my ($running, $open) = split /\|/, ask("SELECT count(*) FILTER (WHERE state = 'running'), count(*) FROM avcurate.jobs WHERE state IN ('pending', 'running')");
	$most = $running if $running > $most;
	last if $open == 0;
	usleep(20_000);
}
is($most, 1, 'one job a device');
is(join(' ', map { state_of($node, $_) } @jobs), 'succeeded succeeded succeeded', 'in turn');
configure('avcurate.max_device_jobs = DEFAULT');

# --- roles take turns
configure('avcurate.max_workers = 1');
ask(q{CREATE ROLE greedy; CREATE ROLE modest; GRANT greedy, modest TO CURRENT_USER; GRANT SELECT ON all_frames, frames TO greedy, modest;
	GRANT ALL ON SCHEMA public TO greedy, modest});
ask("SET ROLE $_; SELECT avcurate.create_model('m_of_$_', 'small')") for 'greedy', 'modest';
@jobs = ();
my $queue = q{SELECT avcurate.train('all_frames', 'm_of_%s', '{"max_steps": 2, "batch_size": 4}');};
my @order = split /\n/, ask('BEGIN; SET ROLE greedy;' . sprintf($queue, 'greedy') x 3 . 'SET ROLE modest;' . sprintf($queue, 'modest') x 2 . 'COMMIT');
wait_for($_) for @order;
is(ask('SELECT string_agg(role::text, \' \' ORDER BY started_at) FROM avcurate.jobs WHERE job IN (' . join(',', @order) . ')'),
	'greedy modest greedy modest greedy', 'whoever was served longest ago is next');

# --- what a worker cannot claim yet
behave($node, 'slow 60');
$job = train();
poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'running');
$other = train();
my $open = $node->background_psql('postgres', on_error_stop => 0);
$open->query("BEGIN; SELECT avcurate.cancel_job($other)");
is(wait_for($job), 'succeeded', 'a job beside one whose row is locked');
my $waits = q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'avcurate job worker' AND query = 'waiting for a job' AND datname = '%s'};
ok(defined poll($node, sprintf($waits, 'postgres'), 't'), 'the worker sleeps while it cannot claim that one');
$open->query('ROLLBACK');
$open->quit;
ok(defined poll($node, "SELECT state FROM avcurate.jobs WHERE job = $other", 'succeeded'), 'and runs it when it can');

# --- slots that another database holds; its job fails when it is started
ask('CREATE DATABASE other');
$node->safe_psql('other', q{CREATE EXTENSION avcurate; INSERT INTO _avcurate.jobs (kind, body, role, state) VALUES ('train', 'none', current_user::regrole, 'failed')});
behave($node, 'slow 200');
$job = train();
poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'running');
$node->safe_psql('other', 'SELECT avcurate.resume_job(1)');
ok(defined poll($node, sprintf($waits, 'other'), 't'), 'a worker waits for a slot that another database holds');
is($node->safe_psql('other', 'SELECT state, attempts FROM avcurate.jobs'), 'pending|0', 'without one it runs nothing');
is(wait_for($job), 'succeeded', 'the job of the other database ends');
ok($node->poll_query_until('other', q{SELECT state = 'failed' AND attempts = 1 FROM avcurate.jobs}), 'then its own is started');
behave($node);
configure('avcurate.max_workers = 3');

# --- the launcher of a preloaded library
is(ask("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'avcurate launcher'"), '0', 'there is none otherwise');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'avcurate'\navcurate.launcher_interval = 1");
$node->restart;
ok(defined poll($node, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'avcurate launcher'", '1'), 'a preloaded library has a launcher');
like(ask("SELECT detail FROM avcurate.doctor() WHERE check_name = 'preload'"), qr/^preloaded/, 'doctor says so');
behave($node, 'slow 100');
$job = train();
poll($node, "SELECT count(*) >= 2 FROM avcurate.job_progress WHERE job = $job", 't');
$node->stop('immediate');
behave($node);
$node->start;
ok(defined poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'succeeded'), 'a job that a crash left goes on by itself');
is(weights_of($node, $job), $weights, 'with the weights of an undisturbed run');
ask('CREATE DATABASE plain');
configure('avcurate.retry_delay = 1000');
behave($node, 'kill_at 1');
$job = train();
poll($node, "SELECT state, attempts FROM avcurate.jobs WHERE job = $job", 'pending|1');
ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'avcurate job worker'");
behave($node);
ok(defined poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'succeeded'), 'so does one whose waiting worker was terminated');

# one slot is left beside the two launchers, for three databases
$node->safe_psql('other', q{UPDATE _avcurate.jobs SET state = 'pending', attempts = 0, fruitless = 0});
$node->append_conf('postgresql.conf', 'max_worker_processes = 3');
$node->restart;
ok($node->poll_query_until('other', q{SELECT state = 'failed' AND attempts = 1 FROM avcurate.jobs}), 'every database has its turn, however few slots there are');
$node->stop('fast');
done_testing();
