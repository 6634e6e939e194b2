# backfill: crash and rerun, concurrent runs, locks, HOT, real frames.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('backfill');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum = off\nmax_worker_processes = 8\nlog_min_messages = warning");
$node->start;
$node->safe_psql('postgres', q{
	CREATE EXTENSION avcurate;
	CREATE FUNCTION picture(width int, height int) RETURNS bytea LANGUAGE sql IMMUTABLE
		RETURN '\xffd8ffc0001108'::bytea || int2send(height::int2) || int2send(width::int2)
			|| '\x03012200021101031101'::bytea;
	CREATE FUNCTION slowly(anyelement, float8) RETURNS anyelement LANGUAGE plpgsql
		AS 'BEGIN PERFORM pg_catalog.pg_sleep($2); RETURN $1; END';
	-- as slow as the test wants it at the moment
	CREATE TABLE pace (seconds float8);
	INSERT INTO pace VALUES (0);
	CREATE FUNCTION paced(anyelement) RETURNS anyelement LANGUAGE plpgsql
		AS 'BEGIN PERFORM pg_catalog.pg_sleep(seconds) FROM public.pace; RETURN $1; END';
	SELECT avcurate.create_dataset('drive');
	INSERT INTO drive (image_id, image_bytes) SELECT 'f' || n, picture(100, 50) FROM generate_series(1, 600) n;
});

sub query { return $node->safe_psql('postgres', shift); }
sub pace { query("UPDATE pace SET seconds = $_[0]"); }

sub backfill
{
	my ($arguments) = @_;
	my ($stdout, $stderr);
	$node->psql('postgres', "CALL avcurate.backfill($arguments)", stdout => \$stdout, stderr => \$stderr);
	return $stderr;
}

sub status { return query("SELECT done, pending, failed FROM avcurate.feature_status WHERE feature = '$_[0]'"); }

# ---- adding a feature rewrites nothing -------------------------------------
my $file = query("SELECT pg_relation_filenode('drive')");
my $rows = query('SELECT md5(array_agg(xmin::text || ctid::text ORDER BY frame_id)::text) FROM drive');
query(q{SELECT avcurate.add_feature('drive', 'slow', 'paced(frame_id)')});
is(query("SELECT pg_relation_filenode('drive')"), $file, 'add_feature does not rewrite the table');
is(query('SELECT md5(array_agg(xmin::text || ctid::text ORDER BY frame_id)::text) FROM drive'), $rows, 'nor touch a row');
is(status('slow'), '0|600|0', 'and all rows are pending');

# ---- crash in the middle ---------------------------------------------------
pace(0.015);
my $psql = $node->background_psql('postgres', on_error_stop => 0);
$psql->query_until(qr/begun/, "\\echo begun\nCALL avcurate.backfill('drive', batch_size => 50);\n");
$node->poll_query_until('postgres', "SELECT done >= 100 FROM avcurate.feature_status") or die 'no progress';
$node->stop('immediate');
eval { $psql->quit };
$node->start;
pace(0);
my ($done) = split /\|/, status('slow');
ok($done >= 100 && $done < 600, "crashed with $done of 600 rows done");
is($done % 50, 0, 'whole batches are committed');
is(query('SELECT count(*) FROM drive WHERE slow = frame_id'), $done, 'what is marked done has its value, and nothing else has');
my $left = 600 - $done;
like(backfill("'drive', batch_size => 50"), qr/backfilled $left rows of "drive", 0 errors/, 'the next run computes only what is left');
is(status('slow'), '600|0|0', 'all done');
is(query('SELECT count(*) FROM drive WHERE slow = frame_id'), 600, 'all values are there');
like(backfill("'drive'"), qr/backfilled 0 rows/, 'and then there is nothing to do');

# ---- cancelled in the middle of a batch ------------------------------------
query(q{SELECT avcurate.alter_feature('drive', 'slow', 'slowly(frame_id + 1, CASE WHEN frame_id > 150 THEN 60 ELSE 0 END)')});
is(status('slow'), '0|600|0', 'altered: all pending again');
my ($rc, $stdout, $stderr) = $node->psql('postgres', "CALL avcurate.backfill('drive', batch_size => 64)",
	connstr => $node->connstr('postgres') . " options='-c statement_timeout=2s'");
like($stderr, qr/canceling statement due to statement timeout/, 'a statement timeout ends it');
is(status('slow'), '128|472|0', 'what was finished stays, in whole batches');
is(query('SELECT count(*) FROM avcurate.feature_errors'), 0, 'a cancel is no error of a row');
query(q{SELECT avcurate.alter_feature('drive', 'slow', 'frame_id')});
backfill("'drive'");

# ---- two at once, and a row that somebody else holds -----------------------
query(q{SELECT avcurate.add_feature('drive', 'shared', 'slowly(frame_id, 0.002)')});
my @runs = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 2;
$_->query_until(qr/begun/, "\\echo begun\nCALL avcurate.backfill('drive', batch_size => 50);\n\\echo ended\n") for @runs;
my $total = 0;
foreach my $run (@runs)
{
	$run->query_until(qr/ended/, "\n");
	my ($count) = $run->{stderr} =~ /backfilled (\d+) rows/ ? $1 : -1;
	$total += $count;
	$run->quit;
}
is($total, 600, 'two runs share the rows: each is computed once');
is(status('shared'), '600|0|0', 'and none is left out');

query(q{SELECT avcurate.add_feature('drive', 'held', 'weather')});
my $holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; UPDATE drive SET weather = 'snowy' WHERE frame_id = 7");
like(backfill("'drive'"), qr/backfilled 599 rows/, 'a row in use is passed over, not waited for');
$holder->query_safe('COMMIT');
$holder->quit;
like(backfill("'drive'"), qr/backfilled 1 rows/, 'and taken next time');
is(query('SELECT held FROM drive WHERE frame_id = 7'), 'snowy', 'with what was committed meanwhile');

# a writer waits for at most a batch; then its row is pending again
query(q{SELECT avcurate.add_feature('drive', 'late', 'paced(weather)')});
pace(0.01);
my $run = $node->background_psql('postgres', on_error_stop => 0);
$run->query_until(qr/begun/, "\\echo begun\nCALL avcurate.backfill('drive', 'late', 50);\n\\echo ended\n");
$node->poll_query_until('postgres', "SELECT done > 0 FROM avcurate.feature_status WHERE feature = 'late'") or die;
query("SET lock_timeout = '20s'; UPDATE drive SET weather = 'foggy'");
pace(0);
is(query("SELECT count(*) FROM drive WHERE late IS DISTINCT FROM weather AND avcurate.feature_state(feature_marks, (SELECT feature_no FROM _avcurate.features WHERE feature = 'late')) = 1"),
	0, 'no row is done with a value of before the update');
$run->query_until(qr/ended/, "\n");
$run->quit;
backfill("'drive'");
is(query('SELECT count(*) FROM drive WHERE late = weather'), 600, 'all are computed from what is there now');

# ---- a session that wants serializable transactions ------------------------
# Row 1 waits until another session has changed row 5, which the batch's
# snapshot does not see.
query(q{CREATE FUNCTION meet(bigint, text) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN
		IF $1 = 1 THEN
			PERFORM pg_catalog.pg_advisory_xact_lock(2);
			WHILE NOT pg_catalog.pg_try_advisory_xact_lock(1) LOOP PERFORM pg_catalog.pg_sleep(0.01); END LOOP;
		END IF;
		RETURN pg_catalog.current_setting('transaction_isolation') || ' ' || $2;
	END $$;
	SELECT avcurate.add_feature('drive', 'met', 'meet(frame_id, weather)')});
foreach my $level ('repeatable read', 'serializable')
{
	$holder = $node->background_psql('postgres');
	$holder->query_safe('SELECT pg_advisory_lock(1)');
	my $run = $node->background_psql('postgres', on_error_stop => 0);
	$run->query_until(qr/begun/, "SET default_transaction_isolation = '$level';\n\\echo begun\nCALL avcurate.backfill('drive', 'met');\n\\echo ended\n");
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objid = 2}) or die;
	$holder->query_safe("UPDATE drive SET weather = '$level' WHERE frame_id = 5");
	$holder->query_safe('SELECT pg_advisory_unlock(1)');
	$holder->quit;
	$run->query_until(qr/ended/, "\n");
	like($run->{stderr}, qr/backfilled 600 rows of "drive", 0 errors/, "a row that is changed under a backfill in a session of $level transactions");
	$run->quit;
	is(query("SELECT met FROM drive WHERE frame_id = 5"), "read committed $level", 'is computed from what it is now');
	query(q{SELECT avcurate.alter_feature('drive', 'met', 'meet(frame_id, weather)')});
}
query(q{UPDATE drive SET weather = 'foggy'; SELECT avcurate.drop_feature('drive', 'met')});

# ---- an expression that waits for a lock of its own ------------------------
query(q{CREATE FUNCTION wait_for(bigint) RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN IF $1 = 1 THEN PERFORM pg_catalog.pg_advisory_xact_lock(3); END IF; RETURN $1; END $$;
	SELECT avcurate.add_feature('drive', 'waited', 'wait_for(frame_id)')});
$holder = $node->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(3)');
$run = $node->background_psql('postgres', on_error_stop => 0);
$run->query_until(qr/begun/, "\\echo begun\nCALL avcurate.backfill('drive', 'waited');\n\\echo ended\n");
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND waitstart < clock_timestamp() - interval '200 ms'}) or die;
$holder->quit;
$run->query_until(qr/ended/, "\n");
like($run->{stderr}, qr/backfilled 600 rows of "drive", 0 errors/, 'has the time that it needs');
$run->quit;
query(q{SELECT avcurate.drop_feature('drive', 'waited')});

# ---- the definition changes during a run -----------------------------------
query(q{SELECT avcurate.alter_feature('drive', 'late', 'paced(weather)')});
pace(0.015);
$run = $node->background_psql('postgres', on_error_stop => 0);
$run->query_until(qr/begun/, "\\echo begun\nCALL avcurate.backfill('drive', 'late', 50);\n\\echo ended\n");
$node->poll_query_until('postgres', "SELECT done > 0 FROM avcurate.feature_status WHERE feature = 'late'") or die;
query(q{SELECT avcurate.alter_feature('drive', 'late', $$weather || '!'$$)});
pace(0);
$run->query_until(qr/ended/, "\n");
like($run->{stderr}, qr/ERROR:  features of dataset "drive" were changed during the backfill/, 'a run of an old definition stops');
$run->quit;
is(status('late'), '0|600|0', 'none of its values counts as done');
backfill("'drive'");
is(query(q{SELECT count(*) FROM drive WHERE late = 'foggy!'}), 600, 'the new definition fills in');

# ---- tables that change their names meanwhile --------------------------------
foreach my $name (qw(one two))
{
	query(qq{SELECT avcurate.create_dataset('$name');
		INSERT INTO $name (image_id, image_bytes, weather) SELECT 'f' || n, picture(100, 50), '$name' FROM generate_series(1, 60) n;
		SELECT avcurate.add_feature('$name', 'whose', 'paced(weather || ''$name'')')});
}
pace(0.1);
my $swap = 'ALTER TABLE one RENAME TO old; ALTER TABLE two RENAME TO one';
my ($old, $new) = split /\|/, query(q{SELECT 'one'::regclass::oid, 'two'::regclass::oid});
$run = $node->background_psql('postgres', on_error_stop => 0);
$run->query_until(qr/begun/, "\\echo begun\nCALL avcurate.backfill('one', batch_size => 10);\n\\echo ended\n");
$node->poll_query_until('postgres', "SELECT done > 0 FROM avcurate.feature_status WHERE dataset = $old") or die;
query("BEGIN; $swap; COMMIT");
$run->query_until(qr/ended/, "\n");
pace(0);
like($run->{stderr}, qr/ERROR:  dataset "one" was renamed, dropped or given to another owner meanwhile/, 'a run over a table that was renamed ends');
$run->quit;
is(query('SELECT count(whose) FROM one'), 0, 'and does not go on with another of that name');
query('ALTER TABLE one RENAME TO two; ALTER TABLE old RENAME TO one');
# whoever waits for the lock goes on with the table that he named
foreach my $call ("drop_feature('one', 'whose')", "add_feature('one', 'more', '1')", "alter_feature('one', 'whose', 'weather')", "drop_dataset('one')")
{
	$holder = $node->background_psql('postgres');
	$holder->query_safe("BEGIN; $swap");
	$run = $node->background_psql('postgres', on_error_stop => 0);
	$run->query_until(qr/begun/, "\\echo begun\nSELECT avcurate.$call;\n\\echo ended\n");
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND relation = $old") or die;
	$holder->query_safe('COMMIT');
	$holder->quit;
	$run->query_until(qr/ended/, "\n");
	is($run->{stderr}, '', "$call while the tables are swapped");
	$run->quit;
	is(query("SELECT string_agg(attname, ' ' ORDER BY attname) FROM pg_attribute WHERE attrelid = $new AND attname IN ('whose', 'more')"), 'whose', 'leaves the other alone');
	query('ALTER TABLE one RENAME TO two; ALTER TABLE IF EXISTS old RENAME TO one');
	query("SELECT avcurate.add_feature('one', 'whose', 'weather')") if $call =~ /drop_feature/;
}
is(query("SELECT count(*) FROM pg_class WHERE oid = $old"), 0, 'the last one dropped what it was to drop');

# ---- HOT: marks and features touch no index --------------------------------
query('VACUUM FULL drive');
query(q{SELECT avcurate.add_feature('drive', 'few', 'frame_id % 2')});
query('SELECT pg_stat_reset()');
backfill("'drive', 'few', max_rows => 20");
$node->poll_query_until('postgres', "SELECT n_tup_upd >= 20 FROM pg_stat_user_tables WHERE relname = 'drive'") or die;
cmp_ok(query("SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'drive'"), '>=', 8, 'updates are HOT while pages have room');
query(q{SELECT avcurate.drop_feature('drive', 'few')});

# ---- many bad rows cost no more than a few evaluations each ----------------
query(q{CREATE TABLE calls (n bigint); CREATE SEQUENCE evaluations;
	CREATE FUNCTION picky(bigint) RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN PERFORM nextval('public.evaluations'); IF $1 % 3 = 0 THEN RAISE EXCEPTION 'row % is bad', $1 USING ERRCODE = 'ZZ001'; END IF; RETURN $1; END $$;
	SELECT avcurate.add_feature('drive', 'picky', 'picky(frame_id)')});
like(backfill("'drive', 'picky'"), qr/backfilled 600 rows of "drive", 200 errors/, 'every third row fails');
is(status('picky'), '400|0|200', 'the others are done');
cmp_ok(query("SELECT last_value FROM evaluations"), '<=', 3 * 600, 'no row is evaluated more than three times');
is(query("SELECT sqlstate, message FROM avcurate.feature_errors WHERE frame_id = 3"), 'ZZ001|row 3 is bad', 'with SQLSTATE and message');
query(q{CREATE OR REPLACE FUNCTION picky(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT $1'});
like(backfill("'drive', 'picky'"), qr/backfilled 0 rows/, 'failed rows are left alone');
is(query(q{SELECT avcurate.retry_feature('drive', 'picky')}), 200, 'until they are put back');
like(backfill("'drive', 'picky'"), qr/backfilled 200 rows of "drive", 0 errors/, 'and computed');
is(query('SELECT count(*) FROM avcurate.feature_errors'), 0, 'their errors are gone');

# ---- three sessions and rows that fail -------------------------------------
query(q{SELECT avcurate.add_feature('drive', 'third', 'slowly(1, 0.0003) / (frame_id % 3)')});
@runs = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 3;
$_->query_until(qr/begun/, "\\echo begun\nCALL avcurate.backfill('drive', 'third', batch_size => 50);\n\\echo ended\n") for @runs;
foreach my $run (@runs)
{
	$run->query_until(qr/ended/, "\n");
	unlike($run->{stderr}, qr/ERROR/, 'sessions do not hinder each other');
	$run->quit;
}
is(status('third'), '400|0|200', 'three sessions over rows of which some fail');
is(query(q{SELECT count(*) FROM avcurate.feature_errors WHERE feature = 'third'}), 200, 'lose no error');
query(q{SELECT avcurate.retry_feature('drive', 'third'); SELECT avcurate.add_feature('drive', 'reads_it', 'third + 1')});
like(backfill("'drive', 'reads_it'"), qr/backfilled 400 rows of "drive", 0 errors\n.*Rows that wait for features that this one reads: 200\./, 'rows that wait are told of');

# ---- real frames -----------------------------------------------------------
my $shared = $ENV{AVC_SHARED} ? "$ENV{AVC_SHARED}/bdd100k" : '';
SKIP:
{
	skip 'no real frames: set AVC_SHARED', 7 unless -d "$shared/images/train";
	query(qq{SELECT avcurate.create_dataset('bdd100k')});
	query(qq{CALL avcurate.ingest_bdd100k('bdd100k', '$shared/images/train', '$shared/bdd100k_labels_images_train.json')});
	query(q{
		SELECT avcurate.add_feature('bdd100k', 'has_person', $$avcurate.has_category(ann_categories, 'person')$$);
		SELECT avcurate.add_feature('bdd100k', 'person_pct', $$avcurate.largest_box_area_pct(ann_categories, ann_bboxes, width, height, 'person')$$);
		SELECT avcurate.add_feature('bdd100k', 'brightness', 'avcurate.brightness(image_bytes)');
		SELECT avcurate.add_feature('bdd100k', 'hash', 'dhash(image_bytes)')});
	like(backfill("'bdd100k'"), qr/backfilled 216 rows of "bdd100k", 0 errors/, 'the four features of real frames');
	is(query('SELECT feature, done, pending, failed FROM avcurate.feature_status WHERE dataset = \'bdd100k\'::regclass ORDER BY 1'),
		"brightness|216|0|0\nhas_person|216|0|0\nhash|216|0|0\nperson_pct|216|0|0", 'all done');
	is(query(q{SELECT count(*) FROM bdd100k WHERE brightness = avcurate.brightness(image_bytes) AND hash = avcurate.dhash(image_bytes)
		AND has_person IS NOT DISTINCT FROM avcurate.has_category(ann_categories, 'person')}), 216, 'as computed directly');
	is(query(q{SELECT count(*) FROM bdd100k WHERE has_person IS DISTINCT FROM (CASE WHEN ann_categories IS NOT NULL THEN
		EXISTS (SELECT 1 FROM bdd100k_boxes b WHERE b.frame_id = bdd100k.frame_id AND b.category = 'person') END)}), 0, 'has_person as the boxes say');
	is(query(q{SELECT count(*) FROM bdd100k d WHERE person_pct IS DISTINCT FROM
		(SELECT max(area_pct) FROM bdd100k_boxes b WHERE b.frame_id = d.frame_id AND b.category = 'person')}), 0, 'person_pct as the boxes say');
	is(query(q{SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'bdd100k'::regclass AND attname = 'hash'}), 'bit(64)',
		'the typmod is kept');
	query(qq{CALL avcurate.ingest_bdd100k('bdd100k', '$shared/images/val', '$shared/bdd100k_labels_images_val.json')});
	like(backfill("'bdd100k'"), qr/backfilled 375 rows of "bdd100k", 0 errors/, 'new footage: only new rows are computed');
}
$node->stop;
done_testing();
