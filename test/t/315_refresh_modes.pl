# Which way a refresh goes and why: by difference, by recomputing, not at all;
# explain_refresh tells it before, the registry afterwards, and the contents
# equal the plain SELECT either way.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use SliceTest;

my $node = PostgreSQL::Test::Cluster->new('modes');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', "autovacuum = off\n");
$node->start;
$node->safe_psql('postgres', SliceTest::setup_sql());
$node->safe_psql('postgres', q{
SELECT avcurate.create_dataset('frames');
SELECT add_frames(600);
SELECT avcurate.create_slice('night', 'frames', $$timeofday = 'night' AND weather <> 'foggy'$$);
SELECT remember('night');

-- after a refresh: mode, and whether all is what it should be
CREATE FUNCTION outcome(slice text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	v record;
BEGIN
	PERFORM check_fresh(slice), remember(slice);
	SELECT * INTO v FROM avcurate.slice_versions x
		WHERE x.slice = outcome.slice::regclass ORDER BY version DESC LIMIT 1;
	IF NOT (SELECT verified AND c.digest = v.digest AND c.rows = v.rows
			FROM avcurate.verify_slice(slice, v.version) c) THEN
		RAISE 'version % does not verify', v.version;
	END IF;
	RETURN format('%s +%s -%s ~%s', v.mode, v.added, v.removed, v.changed);
END
$$;
CREATE FUNCTION explained(slice text) RETURNS text LANGUAGE sql AS
	'SELECT concat_ws($$ $$, mode, changed_rows) FROM avcurate.explain_refresh(slice::regclass)';
});

# Run SQL in one session of its own; the last line that it prints.
sub last_line
{
	my ($sql) = @_;
	my $out = $node->safe_psql('postgres', "SET client_min_messages = warning;\n$sql");
	return (split /\n/, $out)[-1];
}
my $refresh = "SELECT avcurate.refresh_slice('night');\n";
my $outcome = "SELECT outcome('night');\n";

# What explain_refresh says after the writes, and what refresh_slice does then.
sub one_change
{
	my ($name, $write, $explained, $expected) = @_;
	is(last_line("$write SELECT explained('night');"), $explained, "explained: $name");
	is(last_line($refresh . $outcome), $expected, $name);
	is(last_line("SELECT explained('night');"), 'none 0', "nothing is left to do: $name");
	return;
}

# ---- one change at a time ----

is(last_line("SELECT explained('night');"), 'none 0', 'a new slice has nothing to do');
is(last_line("$refresh SELECT max(version), min(mode) FROM avcurate.slice_versions;"),
	'1|initial', 'and makes no version');
one_change('rows that enter', 'SELECT add_frames(12);', 'incremental 4', 'incremental +4 -0 ~0');
one_change('rows that change', "UPDATE frames SET scene = 'dusk' WHERE frame_id <= 30;",
	'incremental 10', 'incremental +0 -0 ~10');
one_change('rows that leave', "UPDATE frames SET timeofday = 'day' WHERE frame_id <= 12 AND timeofday = 'night';",
	'incremental 4', 'incremental +0 -4 ~0');
one_change('rows that come back', "UPDATE frames SET timeofday = 'night' WHERE frame_id <= 12 AND frame_id % 2 = 1;",
	'incremental 4', 'incremental +4 -0 ~0');
one_change('rows that are deleted', 'DELETE FROM frames WHERE frame_id BETWEEN 31 AND 60;',
	'incremental 10', 'incremental +0 -10 ~0');
one_change('all at once', q{
	DELETE FROM frames WHERE frame_id BETWEEN 61 AND 66;
	SELECT add_frames(6);
	UPDATE frames SET weather = 'foggy' WHERE frame_id BETWEEN 67 AND 72;
	UPDATE frames SET scene = 'dawn' WHERE frame_id BETWEEN 73 AND 78;},
	'incremental 8', 'incremental +2 -4 ~2');
one_change('wide values',
	q{UPDATE frames SET scene = (SELECT string_agg(md5(g::text || frame_id), '') FROM generate_series(1, 300) g)
		WHERE frame_id BETWEEN 79 AND 84;}, 'incremental 2', 'incremental +0 -0 ~2');
one_change('a wide row that leaves', 'DELETE FROM frames WHERE frame_id = 79;',
	'incremental 1', 'incremental +0 -1 ~0');
one_change('a bit of NULL', 'UPDATE frames SET frame_time = NULL, ann_categories = NULL, ann_bboxes = NULL,
	ann_occluded = NULL, ann_truncated = NULL WHERE frame_id BETWEEN 85 AND 96;',
	'incremental 4', 'incremental +0 -0 ~4');

# rows that are written as they were, or come and go in between
my $versions = 'SELECT count(*) FROM avcurate.slice_versions;';
my $count = last_line($versions);
foreach my $write (
	'UPDATE frames SET split = split WHERE frame_id < 200 AND frame_id % 3 = 0;',
	'SELECT add_frames(10); DELETE FROM frames WHERE frame_id > (SELECT max(frame_id) - 10 FROM frames);',
	"UPDATE frames SET scene = 'other' WHERE frame_id = 101; UPDATE frames SET scene = 'street' WHERE frame_id = 101;",
	"BEGIN; DELETE FROM frames WHERE frame_id < 150; ROLLBACK;",
	"UPDATE frames SET scene = 'other' WHERE timeofday = 'day' AND frame_id BETWEEN 100 AND 120;")
{
	is(last_line("$write SELECT explained('night');"), 'none 0', "no row of the slice changes: $write");
	is(last_line("$refresh $versions"), $count, 'and no version is made');
}
is(last_line('SELECT mode, added, removed, changed FROM avcurate.refresh_slices();'),
	'incremental|0|0|0', 'refresh_slices says that it looked by difference');
is(last_line('BEGIN; SELECT txid_current_if_assigned() IS NULL; SELECT avcurate.refresh_slice($$night$$);
	SELECT txid_current_if_assigned() IS NULL;'), 't', 'a refresh that changes nothing takes no transaction number');
is(last_line(q{SELECT pg_current_wal_insert_lsn() AS lsn \gset
	SELECT avcurate.refresh_slice('night');
	SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), :'lsn');}), '0', 'and writes no WAL');

# refresh_slices counts
is(last_line(q{SELECT add_frames(12); DELETE FROM frames WHERE frame_id IN (SELECT frame_id FROM night ORDER BY 1 LIMIT 3);
	SELECT rows_before - (SELECT rows FROM avcurate.slices) AS d, version - version_before, rows - rows_before, added, removed, changed, mode
	FROM avcurate.refresh_slices('frames');}), '0|1|1|4|3|0|incremental', 'what refresh_slices returns');
is(last_line($outcome), 'incremental +4 -3 ~0', 'and what it did');

# ---- the threshold ----

my $many = "UPDATE frames SET scene = 'many ' || clock_timestamp() WHERE frame_id % 3 = 0;";
is(last_line("SET avcurate.refresh_full_threshold = 0; SELECT explained('night');"), 'none 0', 'no row is not more than none');
is(last_line("$many SET avcurate.refresh_full_threshold = 0.01; SELECT explained('night');"), 'full', 'many rows are recomputed');
like(last_line("SET avcurate.refresh_full_threshold = 0.01; SELECT reason FROM avcurate.explain_refresh('night');"),
	qr/^more than \d+ rows of the dataset changed \(avcurate.refresh_full_threshold is 0.01\)$/, 'and the reason says so');
like(last_line("SET avcurate.refresh_full_threshold = 0.01; $refresh $outcome"), qr/^full \+0 -0 ~\d\d+$/, 'many rows, recomputed');
is(last_line("SELECT explained('night');"), 'none 0', 'recomputing leaves a watermark');
like(last_line("$many SET avcurate.refresh_full_threshold = 1; $refresh $outcome"), qr/^incremental \+0 -0 ~\d\d+$/, 'many rows, by difference');
like(last_line("UPDATE frames SET scene = 'x' WHERE frame_id = (SELECT min(frame_id) FROM night); SET avcurate.refresh_full_threshold = 0; $refresh $outcome"),
	qr/^full \+0 -0 ~1$/, 'one row, recomputed');

# a sort that does not fit in memory
like(last_line("SELECT add_frames(3000); SET work_mem = '64kB'; SET avcurate.refresh_full_threshold = 1;
	UPDATE frames SET scene = repeat('wide ', 60) WHERE frame_id % 2 = 1; $refresh $outcome"),
	qr/^incremental \+1000 -0 ~\d\d+$/, 'a sort that spills');
like(last_line("SET work_mem = '64kB'; UPDATE frames SET scene = repeat('wider ', 60); SET avcurate.refresh_full_threshold = 0; $refresh $outcome"),
	qr/^full \+0 -0 ~\d{4}$/, 'a full comparison that spills');

# ---- typed REFRESH leaves a watermark, and so on ----

foreach my $typed ('REFRESH MATERIALIZED VIEW night;', 'REFRESH MATERIALIZED VIEW CONCURRENTLY night;')
{
	is(last_line("UPDATE frames SET scene = 'typed ' || clock_timestamp() WHERE frame_id BETWEEN 100 AND 105; $typed $outcome"),
		'full +0 -0 ~2', $typed);
	is(last_line("SELECT explained('night');"), 'none 0', 'it leaves a watermark');
	one_change('by difference after it', 'SELECT add_frames(6);', 'incremental 2', 'incremental +2 -0 ~0');
}
is(last_line("SELECT add_frames(6); REFRESH MATERIALIZED VIEW night WITH NO DATA; SELECT explained('night');"),
	'full', 'WITH NO DATA');
is(last_line("SELECT count(*) FROM _avcurate.slice_watermarks;"), '0', 'WITH NO DATA leaves no watermark');
is(last_line($refresh . $outcome), 'full +2 -0 ~0', 'filled again');
is(last_line("SELECT explained('night');"), 'none 0', 'with a watermark');
is(last_line("BEGIN; REFRESH MATERIALIZED VIEW night WITH NO DATA; ROLLBACK; SELECT explained('night');"),
	'none 0', 'a rolled back WITH NO DATA leaves the watermark');
is(last_line("REFRESH MATERIALIZED VIEW night WITH NO DATA; SELECT add_frames(6); REFRESH MATERIALIZED VIEW night; $outcome"),
	'full +2 -0 ~0', 'filled again by REFRESH');
is(last_line("SELECT explained('night');"), 'none 0', 'with a watermark, too');

# ---- one session: transactions, savepoints, prepared statements, functions ----

is(last_line("
	BEGIN;
	SELECT add_frames(6); $refresh $outcome
	UPDATE frames SET scene = 'in' WHERE frame_id BETWEEN 200 AND 205; $refresh $outcome
	DELETE FROM frames WHERE frame_id BETWEEN 206 AND 211; $refresh $outcome
	SAVEPOINT a;
	UPDATE frames SET scene = 'undone' WHERE frame_id BETWEEN 212 AND 217; DELETE FROM frames WHERE frame_id BETWEEN 218 AND 223; $refresh $outcome
	ROLLBACK TO a; SELECT forget('night');
	$refresh $outcome
	SAVEPOINT b;
	UPDATE frames SET scene = 'kept' WHERE frame_id BETWEEN 218 AND 223;
	RELEASE b;
	$refresh $outcome
	COMMIT;"), 'incremental +0 -0 ~2', 'refreshes, writes and savepoints in one transaction');
is(last_line($refresh . $outcome), 'incremental +0 -0 ~2', 'nothing is left of it');
is(last_line("SELECT explained('night');"), 'none 0', 'nothing is left to do');

is(last_line("BEGIN; UPDATE frames SET scene = 'not' WHERE frame_id BETWEEN 224 AND 260; $refresh ROLLBACK; $outcome"),
	'incremental +0 -0 ~2', 'a refresh that is rolled back');
is(last_line("UPDATE frames SET scene = 'really' WHERE frame_id BETWEEN 224 AND 229; $refresh $outcome"),
	'incremental +0 -0 ~2', 'and the next one');
is(last_line("BEGIN; SELECT add_frames(6); SAVEPOINT a; $refresh ROLLBACK TO a; SELECT forget('night'); COMMIT; $refresh $outcome"),
	'incremental +2 -0 ~0', 'a savepoint that loses the refresh and not the rows');

is(last_line("
	PREPARE r AS SELECT avcurate.refresh_slice('night');
	PREPARE e AS SELECT explained('night');
	SELECT add_frames(6); EXECUTE e; EXECUTE r; $outcome
	UPDATE frames SET scene = 'prepared' WHERE frame_id BETWEEN 230 AND 235; EXECUTE e; EXECUTE r; $outcome
	DELETE FROM frames WHERE frame_id BETWEEN 230 AND 235; EXECUTE e; EXECUTE r; $outcome"),
	'incremental +0 -2 ~0', 'prepared statements');

is(last_line(q{
	CREATE TABLE seen (n int GENERATED ALWAYS AS IDENTITY, what text);
	CREATE FUNCTION steps() RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. 3 LOOP
			PERFORM add_frames(6);
			PERFORM avcurate.refresh_slice('night');
			INSERT INTO seen (what) VALUES (outcome('night'));
			DELETE FROM frames WHERE frame_id = (SELECT max(frame_id) FROM night);
			REFRESH MATERIALIZED VIEW night;
			INSERT INTO seen (what) VALUES (outcome('night'));
			BEGIN
				DELETE FROM frames WHERE frame_id = (SELECT max(frame_id) FROM night);
				PERFORM avcurate.refresh_slice('night');
				PERFORM outcome('night');
				RAISE 'undo';
			EXCEPTION WHEN raise_exception THEN
				PERFORM forget('night');
			END;
			UPDATE frames SET scene = 'step ' || i WHERE frame_id = (SELECT max(frame_id) FROM night);
			PERFORM avcurate.refresh_slice('night');
			INSERT INTO seen (what) VALUES (outcome('night'));
		END LOOP;
	END
	$$;
	SELECT steps();
	SELECT string_agg(what, ', ' ORDER BY n) FROM seen WHERE n <= 3;}),
	'incremental +2 -0 ~0, full +0 -1 ~0, incremental +0 -0 ~1', 'plpgsql, trapped errors, cached plans');
is(last_line('SELECT count(DISTINCT what) FROM seen;'), '3', 'the same at each turn');

# ---- isolation levels ----

is(last_line("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT add_frames(6); $refresh $outcome
	UPDATE frames SET scene = 'repeatable' WHERE frame_id BETWEEN 240 AND 245; $refresh $outcome COMMIT; $outcome"),
	'incremental +0 -0 ~2', 'REPEATABLE READ');
is(last_line("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT add_frames(6); SELECT explained('night'); $refresh COMMIT; $outcome"),
	'full +2 -0 ~0', 'SERIALIZABLE recomputes');
is(last_line("SELECT explained('night');"), 'none 0', 'and leaves a watermark');

# ---- what the dataset went through ----

one_change('after VACUUM', "VACUUM frames; VACUUM night; UPDATE frames SET scene = 'v' WHERE frame_id BETWEEN 246 AND 251;",
	'incremental 2', 'incremental +0 -0 ~2');
one_change('after VACUUM FREEZE', "UPDATE frames SET scene = 'f' WHERE frame_id BETWEEN 246 AND 251; VACUUM (FREEZE) frames;",
	'incremental 2', 'incremental +0 -0 ~2');
one_change('VACUUM FULL of the slice', "UPDATE frames SET scene = 'g' WHERE frame_id BETWEEN 246 AND 251; VACUUM FULL night;",
	'incremental 2', 'incremental +0 -0 ~2');
like(last_line("VACUUM FULL frames; UPDATE frames SET scene = 'h' WHERE frame_id BETWEEN 246 AND 251; SELECT explained('night');"),
	qr/^(full|incremental 2)$/, 'VACUUM FULL of the dataset');
like(last_line($refresh . $outcome), qr/^(full|incremental) \+0 -0 ~2$/, 'a refresh after it');
one_change('by difference again', 'SELECT add_frames(6);', 'incremental 2', 'incremental +2 -0 ~0');
like(last_line("CLUSTER frames USING frames_pkey; SELECT add_frames(6); $refresh $outcome"),
	qr/^(full|incremental) \+2 -0 ~0$/, 'CLUSTER');
is(last_line("TRUNCATE frames; SELECT add_frames(12); SELECT explained('night');"), 'full', 'TRUNCATE');
like(last_line($refresh . $outcome), qr/^full \+4 -\d+ ~0$/, 'a refresh after it');
one_change('by difference after TRUNCATE', 'SELECT add_frames(6);', 'incremental 2', 'incremental +2 -0 ~0');
one_change('down to no rows', 'SET avcurate.refresh_full_threshold = 1; DELETE FROM frames;', 'incremental 6', 'incremental +0 -6 ~0');
one_change('up from no rows', 'SELECT add_frames(6);', 'incremental 2', 'incremental +2 -0 ~0');

# ---- what can only be recomputed ----

$node->safe_psql('postgres', q{
CREATE MATERIALIZED VIEW crowded AS
	SELECT f.frame_id, count(*) AS boxes FROM frames f JOIN frames_boxes b USING (frame_id) GROUP BY f.frame_id;
CREATE UNIQUE INDEX ON crowded (frame_id);
SELECT avcurate.track_slice('crowded');
SELECT add_frames(6);
});
is(last_line("SELECT explained('crowded');"), 'full', 'a join is recomputed');
is(last_line("SELECT avcurate.refresh_slice('crowded'); SELECT count(*) FROM _avcurate.slice_watermarks w
	JOIN _avcurate.slices USING (slice_id) WHERE slice = 'crowded'::regclass;"), '0', 'and leaves no watermark');
is(last_line("SELECT outcome('crowded');"), 'full +5 -0 ~0', 'it is fresh');
$node->safe_psql('postgres', q{
CREATE MATERIALIZED VIEW adopted AS SELECT frame_id, weather || '!' AS weather FROM frames WHERE timeofday = 'night';
CREATE UNIQUE INDEX ON adopted (frame_id DESC) INCLUDE (weather);
SELECT avcurate.track_slice('adopted');
});
is(last_line("SELECT add_frames(6); SELECT explained('adopted');"), 'full', 'an adopted view is recomputed once');
is(last_line("SELECT avcurate.refresh_slice('adopted'); SELECT outcome('adopted');"), 'full +3 -0 ~0', 'recomputed');
is(last_line("UPDATE frames SET weather = 'windy' WHERE frame_id IN (SELECT frame_id FROM adopted ORDER BY 1 LIMIT 2);
	SELECT add_frames(6); SELECT avcurate.refresh_slice('adopted'); SELECT outcome('adopted');"),
	'incremental +3 -0 ~2', 'then refreshed by difference, with an index that runs the other way');

# a definition that yields a frame twice, one of them as it was
$node->safe_psql('postgres', q{
CREATE TABLE notes (frame_id bigint, note text);
INSERT INTO notes SELECT frame_id, 'first' FROM frames WHERE timeofday = 'night';
CREATE MATERIALIZED VIEW noted AS SELECT f.frame_id, n.note FROM frames f JOIN notes n USING (frame_id);
CREATE UNIQUE INDEX ON noted (frame_id);
SELECT avcurate.track_slice('noted');
INSERT INTO notes SELECT min(frame_id), 'second' FROM notes;
});
foreach my $statement ("SELECT avcurate.refresh_slice('noted')", 'REFRESH MATERIALIZED VIEW noted')
{
	my ($rc, $out, $err) = $node->psql('postgres', $statement);
	like($err, qr/^psql:<stdin>:1: ERROR: /, "a frame twice: $statement");
}
is(last_line("SELECT count(*) FROM noted WHERE note = 'second';"), '0', 'is refused');
is(last_line("DELETE FROM notes WHERE note = 'second'; UPDATE notes SET note = 'third' WHERE frame_id = (SELECT min(frame_id) FROM notes);
	SELECT avcurate.refresh_slice('noted'); SELECT outcome('noted');"), 'full +0 -0 ~1', 'and once is not');

# a function that the definition calls is made anew
$node->safe_psql('postgres', q{
CREATE FUNCTION dark(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 = $$night$$; END';
SELECT avcurate.create_slice('dark', 'frames', 'dark(timeofday)');
});
is(last_line("SELECT add_frames(6); SELECT avcurate.refresh_slice('dark'); SELECT outcome('dark');"),
	'incremental +3 -0 ~0', "a user's function");
is(last_line(q{CREATE OR REPLACE FUNCTION dark(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 = $$day$$; END';
	SELECT explained('dark');}), 'full', 'that is made anew');
like(last_line("SELECT avcurate.refresh_slice('dark'); SELECT outcome('dark');"), qr/^full \+\d+ -\d+ ~0$/, 'is a reason to recompute');

# ---- altered slices go on by difference ----

$node->safe_psql('postgres', q{SELECT avcurate.create_slice('altered', 'frames', $$timeofday = 'night'$$); SELECT remember('altered');});
is(last_line(q{SELECT avcurate.alter_slice('altered', $$timeofday = 'day'$$); SELECT remember('altered'), explained('altered');}),
	'2|none 0', 'another filter leaves a watermark');
is(last_line("SELECT add_frames(6); SELECT explained('altered'); SELECT avcurate.refresh_slice('altered'); SELECT outcome('altered');"),
	'incremental +3 -0 ~0', 'by difference with the new filter');
is(last_line(q{SELECT avcurate.alter_slice('altered', NULL, array['weather']); SELECT explained('altered');}),
	'none 0', 'so do other columns');
is(last_line("SELECT add_frames(6); SELECT avcurate.refresh_slice('altered'); SELECT check_fresh('altered');
	SELECT mode, added, removed, changed FROM avcurate.slice_versions WHERE slice = 'altered'::regclass ORDER BY version DESC LIMIT 1;"),
	'incremental|3|0|0', 'by difference with the new columns');

# ---- kept tags and copies ----

is(last_line("SELECT avcurate.tag_slice('night', 3, 'third'); SELECT add_frames(6); $refresh
	SELECT count(*) FROM avcurate.slice_at(NULL::night, 3);"),
	last_line('SELECT rows FROM avcurate.slice_versions WHERE slice = $$night$$::regclass AND version = 3;'),
	'a tagged version is still there');
is(last_line(q{SELECT remember('night'); SELECT count(*) FROM compare('night');}), '0',
	'every version equals the copy kept of it');
is(last_line(q{SELECT count(*) FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c
	WHERE NOT (c.verified AND c.digest = v.digest AND c.rows = v.rows);}), '0', 'every version verifies');

# ---- read only, and on a standby ----

is(last_line("UPDATE frames SET scene = 'shown' WHERE frame_id IN (SELECT frame_id FROM night ORDER BY 1 LIMIT 2);
	SET default_transaction_read_only = on; SELECT explained('night');"), 'incremental 2', 'explain_refresh reads only');
my ($rc, $out, $err) = $node->psql('postgres', 'SET default_transaction_read_only = on; ' . $refresh);
like($err, qr/cannot execute refresh_slice\(\) in a read-only transaction/, 'refresh_slice does not');
$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay');
is($standby->safe_psql('postgres', "SELECT explained('night')"), 'incremental 2', 'on a standby');
$node->safe_psql('postgres', $refresh);
$node->wait_for_catchup($standby, 'replay');
is($standby->safe_psql('postgres', "SELECT explained('night')"), 'none 0', 'and after a refresh');
$standby->stop;

# ---- nothing leaks ----

is(last_line(q{SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation'
	AND relation IN ('frames'::regclass, 'night'::regclass);}), '0', 'no lock outlives the transaction');
$node->stop;
my $log = slurp_file($node->logfile);
unlike($log, qr/leak|not closed|still active|snapshot reference/, 'no relation, snapshot or file is left open');
done_testing();
