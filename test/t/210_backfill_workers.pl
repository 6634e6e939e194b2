# start_backfill: workers, users' writes meanwhile, cancel, errors, lack of
# slots, a killed worker, restart.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

my $node = PostgreSQL::Test::Cluster->new('backfill_workers');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum = off\nmax_worker_processes = 8\nrestart_after_crash = on\nlog_min_messages = warning");
$node->start;
my $frames = 3000;
$node->safe_psql('postgres', qq{
	CREATE EXTENSION avcurate;
	CREATE FUNCTION picture(width int, height int) RETURNS bytea LANGUAGE sql IMMUTABLE
		RETURN '\\xffd8ffc0001108'::bytea || int2send(height::int2) || int2send(width::int2)
			|| '\\x03012200021101031101'::bytea;
	CREATE FUNCTION slowly(anyelement, float8) RETURNS anyelement LANGUAGE plpgsql
		AS 'BEGIN PERFORM pg_catalog.pg_sleep(\$2); RETURN \$1; END';
	-- as slow as the test wants it at the moment
	CREATE TABLE pace (seconds float8);
	INSERT INTO pace VALUES (0);
	CREATE FUNCTION paced(anyelement) RETURNS anyelement LANGUAGE plpgsql
		AS 'BEGIN PERFORM pg_catalog.pg_sleep(seconds) FROM public.pace; RETURN \$1; END';
	CREATE SEQUENCE computed;
	CREATE FUNCTION counted(anyelement) RETURNS anyelement LANGUAGE plpgsql
		AS 'BEGIN PERFORM nextval(''public.computed''); RETURN \$1; END';
	SELECT avcurate.create_dataset('drive');
	INSERT INTO drive (image_id, image_bytes, weather) SELECT 'f' || n, picture(100, 50), 'clear' FROM generate_series(1, $frames) n;
});

sub query { return $node->safe_psql('postgres', shift); }
sub pace { query("UPDATE pace SET seconds = $_[0]"); }

# the state of a job that has ended, or what wait_job raised
sub ended
{
	my ($stdout, $stderr);
	$node->psql('postgres', "SELECT avcurate.wait_job($_[0], '180 s')", stdout => \$stdout, stderr => \$stderr);
	return $stdout ne '' ? $stdout : $stderr;
}

sub status { return query("SELECT done, pending, failed FROM avcurate.feature_status WHERE feature = '$_[0]'"); }
sub logged { return query("SELECT string_agg(level || ': ' || message, E'\\n' ORDER BY at) FROM avcurate.job_log WHERE job = $_[0]"); }
sub wait_until { $node->poll_query_until("postgres", $_[0]) or die "waited in vain for $_[0]"; }
sub feature { query("SELECT avcurate.add_feature('drive', '$_[0]', \$\$$_[1]\$\$)"); }
sub start { return query("SELECT avcurate.start_backfill($_[0])"); }

# ---- three workers, a chain and an independent feature ----------------------
feature('plain', 'counted(frame_id)');
feature('chain', 'plain * 2');
feature('other', q{weather || '!'});
my $job = start(q{'drive', workers => 3});
is(ended($job), 'succeeded', 'three workers');
is(query('SELECT count(*) FROM drive WHERE plain = frame_id AND chain = 2 * frame_id AND other = \'clear!\''), $frames, 'all features, in dependency order');
my $computed = query('SELECT last_value FROM computed');
# where an UPDATE waits for a page that another worker adds, its rows are computed anew
cmp_ok($computed, '<=', 2 * $frames, 'and hardly a row twice');
like(logged($job), qr/backfilled $frames rows of "drive", 0 errors/, 'the log says how many');
is(query("SELECT state, progress, failed_rows, kind, dataset FROM avcurate.jobs WHERE job = $job"), 'succeeded|1|0|backfill|drive', 'the job');
is(query('SELECT count(*) FROM _avcurate.backfill_ranges'), 0, 'no range is left');
is(ended(start(q{'drive'})), 'succeeded', 'nothing to do');
is(query('SELECT last_value FROM computed'), $computed, 'and nothing done');

# ---- they share the work -----------------------------------------------------
feature('who', 'paced(pg_backend_pid())');
pace(0.01);
$job = start(q{'drive', 'who', 2});
wait_until(q{SELECT count(DISTINCT who) = 2 FROM drive});
wait_until("SELECT progress > 0 AND images_per_s > 0 AND eta > '0' FROM avcurate.jobs WHERE job = $job");
pass('progress, speed and time left');
pace(0);
is(ended($job), 'succeeded', 'two workers');
is(query('SELECT count(DISTINCT who) FROM drive'), 2, 'share the rows');

# ---- users write meanwhile ---------------------------------------------------
feature('sky', q{paced(weather)});
pace(0.003);
$job = start(q{'drive', 'sky', 2});
wait_until("SELECT done > 0 FROM avcurate.feature_status WHERE feature = 'sky'");
my $holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; UPDATE drive SET weather = 'foggy' WHERE frame_id = $frames");
my ($worst, $deleted, $inserted, $begun) = (0, 0, 0, Time::HiRes::time());
my $writer = $node->background_psql('postgres');
while (query("SELECT state FROM avcurate.jobs WHERE job = $job") eq 'running')
{
	my $id = 1 + int(rand($frames - 1));
	my $start = Time::HiRes::time();
	$writer->query_safe("UPDATE drive SET weather = 'w' || clock_timestamp() WHERE frame_id BETWEEN $id AND $id + 20 AND frame_id < $frames");
	$writer->query_safe("DELETE FROM drive WHERE frame_id = $id") and $deleted++ if $deleted < 20;
	$writer->query_safe("INSERT INTO drive (image_id, image_bytes, weather) VALUES ('new $inserted', picture(10, 10), 'new')");
	# ten rounds beside it, then let it come to its end
	pace(0) if ++$inserted == 10;
	my $took = Time::HiRes::time() - $start;
	$worst = $took if $took > $worst;
}
ok($inserted >= 10, "$inserted rounds of writes");
cmp_ok($worst, '<', 0.5 * (Time::HiRes::time() - $begun), sprintf('none waited longer than a batch or two (%.2f s)', $worst));
is(ended($job), 'succeeded', 'the backfill goes on beside them');
like(logged($job), qr/notice: rows in use by others were passed over: [1-9]/, 'and does not wait for who keeps a row');
is(query("SELECT count(*) FROM drive WHERE sky IS DISTINCT FROM weather AND avcurate.feature_state(feature_marks, (SELECT feature_no FROM _avcurate.features WHERE feature = 'sky')) = 1"),
	0, 'no row is done with a value of before a write');
$holder->query_safe('COMMIT');
$_->quit for $holder, $writer;
is(ended(start(q{'drive', 'sky'})), 'succeeded', 'the next one');
is(query('SELECT count(*) FROM drive WHERE sky = weather'), query('SELECT count(*) FROM drive'), 'computes what is left');
$frames = query('SELECT count(*) FROM drive');

# ---- errors -------------------------------------------------------------------
feature('odd', '100 / (frame_id % 5)');
$job = start(q{'drive', 'odd', 2});
is(ended($job), 'succeeded', 'rows that fail do not end it');
my ($failed) = query('SELECT count(*) FROM drive WHERE frame_id % 5 = 0');
is(query("SELECT failed_rows FROM avcurate.jobs WHERE job = $job"), $failed, 'and are counted');
is(query("SELECT count(*), min(attempts), max(message) FROM avcurate.feature_errors WHERE feature = 'odd'"), "$failed|1|division by zero", 'and recorded');
query(q{CREATE FUNCTION gone(bigint) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN public.lost($1); END'});
feature('broken', 'gone(frame_id)');
feature('fine', 'frame_id + 1');
$job = start(q{'drive', workers => 2});
is(ended($job), 'succeeded', 'a feature that fails everywhere');
is(status('broken'), "0|0|$frames", 'has failed in every row');
is(status('fine'), "$frames|0|0", 'and keeps no other feature from being computed');
is(query("SELECT failed_rows FROM avcurate.jobs WHERE job = $job"), $frames, 'the job counts them');
is(query("SELECT DISTINCT sqlstate, message FROM avcurate.feature_errors WHERE feature = 'broken'"), '42883|function public.lost(bigint) does not exist', 'the errors say why');
query(q{DROP FUNCTION gone; SELECT avcurate.retry_feature('drive', 'broken'); SELECT avcurate.alter_feature('drive', 'fine', 'paced(pg_backend_pid())')});
pace(0.01);
$job = start(q{'drive', workers => 2});
wait_until('SELECT count(DISTINCT fine) = 2 FROM drive');
pace(0);
is(ended($job), 'succeeded', 'one whose function is gone');
is(status('broken'), "0|0|$frames", 'has failed, too');
is(query('SELECT count(DISTINCT fine) FROM drive'), 2, 'and keeps no worker from the others');
is(query("SELECT DISTINCT attempts, message FROM avcurate.feature_errors WHERE feature = 'broken'"), '2|function public.gone(bigint) does not exist', 'attempts are counted');

# ---- it goes while they work ----------------------------------------------------
query(q{CREATE FUNCTION leaving(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT public.paced($1)';
	SELECT avcurate.alter_feature('drive', 'broken', 'leaving(frame_id)'), avcurate.alter_feature('drive', 'fine', 'frame_id + 2')});
pace(0.01);
$job = start(q{'drive', workers => 2});
wait_until("SELECT done > 0 FROM avcurate.feature_status WHERE feature = 'broken'");
query('DROP FUNCTION leaving');
pace(0);
is(ended($job), 'succeeded', 'a function that goes while it is used');
is(status('fine'), "$frames|0|0", 'ends no worker');
is(query("SELECT done > 0 AND failed > 0 AND pending = 0 FROM avcurate.feature_status WHERE feature = 'broken'"), 't', 'rows computed before it went stay, the others have failed');
is(query("SELECT DISTINCT message FROM avcurate.feature_errors WHERE feature = 'broken'"), 'function public.leaving(bigint) does not exist', 'with the reason');
query(q{SELECT avcurate.drop_feature('drive', 'broken')});

# ---- who may -------------------------------------------------------------------
query('CREATE ROLE ann LOGIN; GRANT SELECT, UPDATE ON drive TO ann');
my ($rc, $out, $err) = $node->psql('postgres', q{SET ROLE ann; SELECT avcurate.start_backfill('drive')});
like($err, qr/must be owner of table drive/, 'only the owner');
foreach my $case ([ q{'drive', 'nothing'}, qr/has no feature "nothing"/ ], [ q{'drive', workers => 0}, qr/0 workers is not between 1 and 256/ ],
	[ q{'pg_class'}, qr/not a dataset/ ], [ q{NULL}, qr/dataset must not be NULL/ ])
{
	($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.start_backfill($case->[0])");
	like($err, $case->[1], "refused: $case->[0]");
}
query(q{CREATE FUNCTION whoami(int) RETURNS text LANGUAGE sql STABLE AS 'SELECT current_user::text'; ALTER TABLE drive OWNER TO ann});
feature('runs_as', 'whoami(width)');
$job = query(q{SET ROLE ann; SELECT avcurate.start_backfill('drive', 'runs_as', 2)});
is(ended($job), 'succeeded', 'an owner without other rights');
is(query('SELECT DISTINCT runs_as FROM drive'), 'ann', 'runs the expression with these');
query('ALTER TABLE drive OWNER TO postgres');

# ---- cancel ---------------------------------------------------------------------
feature('long', 'paced(frame_id)');
pace(0.01);
$job = start(q{'drive', 'long', 3});
wait_until("SELECT done > 100 FROM avcurate.feature_status WHERE feature = 'long'");
is(query("SELECT avcurate.cancel_job($job)"), 't', 'cancel');
wait_until("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'avcurate job %'");
pass('ends all workers');
is(ended($job), 'cancelled', 'and the job');
my ($done, $pending) = split /\|/, status('long');
ok($done > 100 && $pending > 0, "before all is done, and finished batches stay ($done)");
is(query('SELECT count(*) FROM drive WHERE long = frame_id'), $done, 'as they are marked');
query("SELECT avcurate.resume_job($job)");

# ---- a worker is terminated, another is killed ------------------------------------
wait_until("SELECT done > $done + 50 FROM avcurate.feature_status WHERE feature = 'long'");
wait_until(q{SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'avcurate job helper'});
query(q{SELECT pg_terminate_backend((SELECT pid FROM pg_stat_activity WHERE backend_type = 'avcurate job helper' LIMIT 1))});
wait_until(q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'avcurate job helper'});
is(query("SELECT state FROM avcurate.jobs WHERE job = $job"), 'running', 'a job goes on without one of its helpers');
my $victim = query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'avcurate job helper'});
my $before = query('SELECT pg_postmaster_start_time()');
($done) = split /\|/, status('long');
kill 'KILL', $victim;
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'avcurate job %'") for 1 .. 2;
is(query('SELECT pg_postmaster_start_time()'), $before, 'the server recovers by itself');
my ($kept) = split /\|/, status('long');
cmp_ok($kept, '>=', $done, "what was committed is there ($done, now $kept)");
is(query('SELECT count(*) FROM drive WHERE long = frame_id'), $kept, 'nothing else is');
is(query("SELECT state FROM avcurate.jobs WHERE job = $job"), 'running', 'the job has no worker');
is(query('SELECT avcurate.run_pending()'), '1', 'run_pending finds it');

# ---- restart ------------------------------------------------------------------------
wait_until("SELECT done > $kept FROM avcurate.feature_status WHERE feature = 'long'");
$node->restart;
($kept) = split /\|/, status('long');
ok($kept < $frames, "restarted with $kept of $frames rows");
pace(0);
is(query('SELECT avcurate.run_pending()'), '1', 'resumed');
is(ended($job), 'succeeded', 'to the end');
is(query('SELECT count(*) FROM drive WHERE long = frame_id'), $frames, 'all rows are there');
is(query("SELECT attempts FROM avcurate.jobs WHERE job = $job"), '3', 'at the third attempt');

# ---- changed under its feet -----------------------------------------------------------
query(q{SELECT avcurate.alter_feature('drive', 'long', 'paced(frame_id + 1)')});
pace(0.01);
$job = start(q{'drive', 'long', 2});
wait_until("SELECT done > 0 FROM avcurate.feature_status WHERE feature = 'long'");
query(q{SELECT avcurate.alter_feature('drive', 'long', 'frame_id + 2')});
pace(0);
like(ended($job), qr/failed: features of dataset "drive" were changed during the backfill/, 'a job of an old definition fails');
is(status('long'), "0|$frames|0", 'none of its values counts as done');

# ---- fewer workers than asked for ---------------------------------------------------------
$node->append_conf('postgresql.conf', 'avcurate.max_workers = 2');
$node->restart;
$job = start(q{'drive', 'long', 5});
is(ended($job), 'succeeded', 'more workers than avcurate.max_workers');
like(logged($job), qr/notice: 2 of 5 workers: avcurate.max_workers allows no more now/, 'are said to be fewer');
$node->append_conf('postgresql.conf', "avcurate.max_workers = 200\nmax_worker_processes = 3");
$node->restart;
query(q{SELECT avcurate.alter_feature('drive', 'long', 'frame_id + 3')});
$job = start(q{'drive', 'long', 5});
is(ended($job), 'succeeded', 'more workers than the server has slots');
like(logged($job), qr/notice: \d of 5 workers: the server has no more worker slots/, 'go on with those there are');
is(query('SELECT count(*) FROM drive WHERE long = frame_id + 3'), $frames, 'all the same');

# ---- a dataset without frames; ids far apart ------------------------------------------------
query(q{SELECT avcurate.create_dataset('empty'); SELECT avcurate.add_feature('empty', 'f', 'width')});
is(ended(start(q{'empty'})), 'succeeded', 'an empty dataset');
query(q{INSERT INTO empty (frame_id, image_id, image_bytes) OVERRIDING SYSTEM VALUE
	SELECT id, id, picture(10, 10) FROM unnest('{-9223372036854775808,-5,0,9223372036854775807}'::int8[]) id});
is(ended(start(q{'empty'})), 'succeeded', 'the whole range of ids');
is(query('SELECT count(*) FROM empty WHERE f = 10'), 4, 'is walked');
query(q{DROP VIEW empty_boxes; SELECT avcurate.drop_dataset('empty')});
is(query('SELECT count(*) FROM avcurate.jobs WHERE dataset IS NOT NULL AND NOT EXISTS (SELECT FROM pg_class WHERE oid = dataset)'), 0, 'no job names a dataset that is gone');
is(query('SELECT count(*) FROM avcurate.jobs WHERE dataset IS NULL'), 2, 'those that did are still there');
$node->stop;
done_testing();
