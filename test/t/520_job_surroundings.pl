# What goes on around a job while it is queued or running: settings of the
# database, rights that end, slices and extensions that are dropped.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use POSIX ();
use Time::HiRes qw(usleep);

use FindBin;
use lib $FindBin::Bin;
use JobTest;

my $node = PostgreSQL::Test::Cluster->new('surroundings');
$node->init;
my $double = make_double($node);
$node->append_conf('postgresql.conf', "avcurate.engine_path = '$double'
max_worker_processes = 12
avcurate.max_workers = 3");
$node->start;
setup_frames($node, 20);

my $options = '{"max_steps": 6, "batch_size": 4, "checkpoint_every": 2}';

sub query { return $node->safe_psql('postgres', $_[0]) }

sub refused
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $sql);
	return $err;
}

sub train { return query("SELECT avcurate.train('all_frames', 'm', '$options')") }

sub wait_for
{
	my ($job) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.wait_job($job, '180 s')");
	return ($out, $err);
}

my $workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'avcurate job worker'";

# --- settings of the database are its users', not the workers'
behave($node);
my $job = train();
wait_for($job);
my $weights = weights_of($node, $job);
foreach my $setting ("default_transaction_isolation = 'repeatable read'", "lock_timeout = '1ms'",
	"statement_timeout = '20ms'", "default_transaction_read_only = on")
{
	query("ALTER DATABASE postgres SET $setting");
	# this session's own are set back, the worker is on its own
	$job = query("SET default_transaction_read_only = off; SET statement_timeout = 0;
		SELECT avcurate.train('all_frames', 'm', '$options')");
	ok(defined poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'succeeded'), "a job runs with $setting");
	query("SET default_transaction_read_only = off; ALTER DATABASE postgres RESET ALL");
}

# --- a transaction that queues many jobs
behave($node, 'slow 20');
my ($rc, $out, $err) = $node->psql('postgres', "BEGIN;
	SELECT count(avcurate.train('all_frames', 'm', '$options')) FROM generate_series(1, 15);
	SELECT pg_sleep(0.3);
	$workers;
	COMMIT");
is($err, '', 'queueing many jobs at once is no reason for notices');
like($out, qr/\n3$/, 'no more workers wait for the commit than may run');
poll($node, "SELECT count(*) FROM avcurate.jobs WHERE state <> 'succeeded'", '0');
is(query("SELECT count(*) FROM avcurate.jobs WHERE state <> 'succeeded'"), '0', 'and all are run');

# --- no snapshot, transaction or lock while the engine works
behave($node, 'slow 1500');
$job = train();
my ($idle, $seen) = (0, 0);
foreach (1 .. 400)
{
	my $row = query("SELECT a.backend_xmin IS NULL AND a.backend_xid IS NULL AND a.xact_start IS NULL,
		(SELECT count(*) FROM pg_locks AS l WHERE l.pid = a.pid AND l.locktype <> 'advisory')
		FROM _avcurate.jobs AS j JOIN pg_stat_activity AS a ON a.pid = j.worker_pid
		WHERE j.job = $job AND EXISTS (SELECT FROM avcurate.job_progress AS p WHERE p.job = j.job)");
	next if $row eq '';
	$seen++;
	$idle++ if $row eq 't|0';
	last if $seen == 20;
}
continue { usleep(50_000) }
is($seen, 20, 'the worker is looked at while it trains');
# between two steps it stores what came
cmp_ok($idle, '>=', 10, 'it holds no snapshot, transaction or lock across steps');
query("SELECT avcurate.cancel_job($job)");

# --- two run_pending at once
$job = train();
poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'running');
poll($node, "SELECT count(*) > 0 FROM avcurate.job_progress WHERE job = $job", 't');
query("SELECT pg_terminate_backend(worker_pid) FROM _avcurate.jobs WHERE job = $job");
poll($node, $workers, '0');
behave($node);
my @sessions = map { IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'SELECT avcurate.run_pending()' ],
	'>', \my $ignored) } 1 .. 4;
IPC::Run::finish($_) foreach @sessions;
is((wait_for($job))[0], 'succeeded', 'four sessions look for pending jobs');
is(query("SELECT attempts FROM avcurate.jobs WHERE job = $job"), '2', 'and the job is started once');
is(weights_of($node, $job), $weights, 'with the weights of an undisturbed run');

# --- what the checkpoint says
my $provenance = "FROM avcurate.checkpoints WHERE job = $job";
is(query("SELECT string_agg(k, ' ' ORDER BY k) FROM unnest('{model,job,slice,version,digest,definition,rows,label_map,labels,features,options,seed,step,epoch,environment,device,metrics,weights_sha256}'::text[]) AS k
	WHERE NOT (SELECT provenance ? k $provenance)"), '', 'the provenance is complete');
is(query("SELECT string_agg(k, ' ' ORDER BY k) FROM unnest('{engine_version,extension_version,libraries,isa,device,threads,precision}'::text[]) AS k
	WHERE NOT (SELECT provenance -> 'environment' ? k $provenance)"), '', 'with the environment');
is(query("SELECT c.digest = v.digest AND provenance ->> 'digest' = v.digest AND provenance ->> 'definition' = v.definition
	FROM avcurate.checkpoints AS c JOIN avcurate.slice_versions AS v USING (slice, version) WHERE job = $job"), 't', 'and the pin of its version');

# --- features that are others than when the version was made
query(q{SELECT avcurate.add_feature('frames', 'bright', 'avcurate.brightness(image_bytes)');
	CALL avcurate.backfill('frames');
	SELECT avcurate.create_slice('bright_ones', 'frames', 'bright > 0')});
$job = query("SELECT avcurate.train('bright_ones', 'm', '$options')");
wait_for($job);
is(query("SELECT provenance -> 'features', provenance -> 'features_altered' FROM avcurate.checkpoints WHERE job = $job"),
	'{"bright": "avcurate.brightness(image_bytes)"}|[]', 'the features of a version are in the provenance');
query(q{SELECT avcurate.alter_feature('frames', 'bright', '(2 * avcurate.brightness(image_bytes))::real'); SELECT avcurate.add_feature('frames', 'wide', 'width > 1000')});
$job = query("SELECT avcurate.train('bright_ones', 'm', '$options')");
wait_for($job);
is(query("SELECT provenance -> 'features_altered' FROM avcurate.checkpoints WHERE job = $job"),
	'["bright", "wide"]', 'with those that were altered or added since');
query(q{DROP MATERIALIZED VIEW bright_ones; SELECT avcurate.drop_feature('frames', 'bright'), avcurate.drop_feature('frames', 'wide')});

# --- a label map that changes
query("INSERT INTO avcurate.label_maps (label_map, category, label) VALUES ('two', 'person', 1), ('two', 'car', 2);
	SELECT avcurate.create_model('of_two', 'small', '{}', 'two')");
behave($node, 'slow 200');
$job = query("SELECT avcurate.train('all_frames', 'of_two', '$options')");
poll($node, "SELECT count(*) > 0 FROM avcurate.job_progress WHERE job = $job", 't');
query("INSERT INTO avcurate.label_maps (label_map, category, label) VALUES ('two', 'truck', 7)");
is((wait_for($job))[0], 'succeeded', 'a job goes on when its label map changes');
is(query("SELECT provenance ->> 'labels' FROM avcurate.checkpoints WHERE job = $job"), '{"car": 2, "person": 1}', 'and says what it used');
my $of_two = query("SELECT checkpoint FROM avcurate.checkpoints WHERE job = $job");
foreach my $call ("train('all_frames', 'of_two')", "evaluate($of_two, 'all_frames')")
{
	like(refused("SELECT avcurate.$call"), qr/label map "two" goes up to label 7, but model "of_two" was made for labels up to 2/,
		"$call is refused when the map has outgrown the model");
}

# --- settings of the caller
behave($node, 'slow_load 20000');
my $fresh = query("SET avcurate.engine_path = ''; SELECT avcurate.create_checkpoint('m')");
like(refused("SELECT avcurate.evaluate($fresh, 'all_frames', '{\"device\": \"cuda:7\"}')"), qr/device "cuda:7" is not available/,
	'a device that is not there is refused at once');
$job = query("SET avcurate.threads = 3; SELECT avcurate.evaluate($fresh, 'all_frames')");
is(query("SELECT options ->> 'threads', options ->> 'device', device FROM avcurate.jobs WHERE job = $job"), '3|cpu|cpu',
	"an evaluation takes its caller's settings along");
query("SELECT avcurate.cancel_job($job)");
behave($node);

# --- rights that end while a job is queued
query("CREATE ROLE ann; GRANT SELECT ON all_frames, frames TO ann; SET ROLE ann; SELECT avcurate.create_model('of_ann', 'small')");
my $queue = "SET ROLE ann; BEGIN; SELECT avcurate.train('all_frames', 'of_ann', '$options'); RESET ROLE;";
$job = query("$queue REVOKE SELECT ON frames FROM ann; COMMIT");
like((wait_for($job))[1], qr/permission denied for column "image_bytes"/, 'images are read with the rights of the moment');
query('GRANT SELECT ON frames TO ann');
$job = query("$queue DROP OWNED BY ann; DROP ROLE ann; COMMIT");
like((wait_for($job))[1], qr/failed: /, 'a job of a role that is gone fails');
is(query("SELECT state FROM avcurate.jobs WHERE job = $job"), 'failed', 'and says so');

# --- a slice that is dropped while it is trained on
behave($node, 'slow 200');
query("SELECT avcurate.create_slice('brief', 'frames', 'frame_id <= 12')");
$job = query("SELECT avcurate.train('brief', 'm', '$options')");
poll($node, "SELECT count(*) > 0 FROM avcurate.job_progress WHERE job = $job", 't');
query('DROP MATERIALIZED VIEW brief');
is((wait_for($job))[0], 'succeeded', 'a job reads the history of a slice that is gone');
is(query("SELECT slice IS NULL, version, rows FROM avcurate.checkpoints WHERE job = $job"), 't|1|12', 'its checkpoint keeps the pin');

# --- a file that cannot be written leaves nothing
my $folder = $node->basedir . '/exports';
mkdir $folder;
mkdir "$folder/taken";
POSIX::mkfifo("$folder/pipe", 0600) or die "mkfifo: $!";
foreach my $name ('taken', 'pipe')
{
	like(refused("SELECT avcurate.export_checkpoint($fresh, '$folder/$name', 'safetensors')"),
		qr/"\Q$folder\E\/$name" is not a regular file/, "$name is not replaced");
}
ok(-d "$folder/taken" && -p "$folder/pipe", 'folders and pipes stay what they are');
cmp_ok(query("SELECT avcurate.export_checkpoint($fresh, '$folder/weights', 'safetensors')"), '>', 0, 'a file is written') for 1 .. 2;
opendir my $dir, $folder or die "opendir: $!";
is(join(' ', sort grep { !/^\./ } readdir $dir), 'pipe taken weights', 'and no temporary one is left');

# --- a picture that cannot be decoded, by name; a stopped engine
query("ALTER SYSTEM SET avcurate.engine_path = ''; SELECT pg_reload_conf();
	UPDATE frames SET image_bytes = substr(image_bytes, 1, length(image_bytes) / 2) WHERE frame_id = 5;
	SELECT avcurate.refresh_slice('all_frames');
	SELECT avcurate.create_model('tiny', 'small', '{\"min_size\": 64, \"max_size\": 112, \"fpn_channels\": 16, \"representation_size\": 32}')");
$job = query(q{SELECT avcurate.train('all_frames', 'tiny', '{"epochs": 1, "batch_size": 2, "threads": 1}')});
like((wait_for($job))[1], qr/failed: .*JPEG.* \(Frame 5\.\)/, 'the frame that stops a training is named');
$job = query(q{SELECT avcurate.train('all_frames', 'tiny', '{"epochs": 1000, "batch_size": 2, "threads": 1, "version": 1}')});
poll($node, "SELECT count(*) > 0 FROM avcurate.job_progress WHERE job = $job", 't');
my $worker = query("SELECT worker_pid FROM _avcurate.jobs WHERE job = $job");
my ($engine) = children_of($worker);
kill 'STOP', $engine;
query("SELECT avcurate.cancel_job($job)");
ok(defined poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'cancelled'), 'a job with a stopped engine is cancelled');
ok(!-e "/proc/$engine", 'and its engine ended');

# --- the extension dropped under a running job
$job = query(q{SELECT avcurate.train('all_frames', 'tiny', '{"epochs": 1000, "batch_size": 2, "threads": 1, "version": 1}')});
poll($node, "SELECT count(*) > 0 FROM avcurate.job_progress WHERE job = $job", 't');
$worker = query("SELECT worker_pid FROM _avcurate.jobs WHERE job = $job");
($engine) = children_of($worker);
my $start = query('SELECT pg_postmaster_start_time()');
query('DROP EXTENSION avcurate CASCADE');
ok(defined poll($node, $workers, '0'), 'its worker leaves');
ok(!-e "/proc/$engine", 'and takes the engine along');
is(query('SELECT pg_postmaster_start_time()'), $start, 'the server goes on');

$node->stop;
done_testing();
