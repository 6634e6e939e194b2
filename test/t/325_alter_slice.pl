# alter_slice in long random histories against copies of every version, beside
# readers and refreshes, killed, dumped and restored.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FindBin;
use lib $FindBin::Bin;
use SliceTest;

my $rounds = $ENV{AVC_LONG} ? 400 : 80;
my $seed = $ENV{AVC_SEED} || 11;
srand($seed);
note "seed $seed";

my $node = PostgreSQL::Test::Cluster->new('alter');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum_naptime = 1s\nautovacuum = on\nrestart_after_crash = on\n");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE origin');
$node->safe_psql('origin', SliceTest::setup_sql());
$node->safe_psql('origin', <<'SQL');
SET check_function_bodies = off;
-- A copy of each version: rows as jsonb, so that columns have names.
CREATE TABLE copies (version bigint, frame_id bigint, content jsonb);
CREATE INDEX ON copies (version, frame_id);
CREATE FUNCTION save() RETURNS bigint LANGUAGE sql AS $$
	INSERT INTO copies SELECT s.version, x.frame_id, to_jsonb(x) FROM slice x, avcurate.slices s
	WHERE s.slice = 'slice'::regclass AND NOT EXISTS (SELECT FROM copies c WHERE c.version = s.version);
	SELECT version FROM avcurate.slices WHERE slice = 'slice'::regclass
$$;
-- An error if the view is not what its version was copied as.
CREATE FUNCTION check_current() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM (SELECT frame_id, to_jsonb(x) AS content FROM slice x) v FULL JOIN
			(SELECT frame_id, content FROM copies WHERE version = (SELECT version FROM avcurate.slices WHERE slice = 'slice'::regclass)) c
			USING (frame_id) WHERE v.content IS DISTINCT FROM c.content) THEN
		RAISE 'view changed without a new version';
	END IF;
END $$;
-- What is wrong with the versions that are left: a column that a version had
-- reads as it was, one that it had not is null.
CREATE FUNCTION wrong() RETURNS TABLE (version bigint, what text) LANGUAGE plpgsql AS $$
BEGIN
	FOR version IN SELECT v.version FROM avcurate.slice_versions v WHERE v.slice = 'slice'::regclass ORDER BY 1 LOOP
		SELECT detail INTO what FROM avcurate.verify_slice('slice', version) WHERE NOT verified;
		IF FOUND THEN RETURN NEXT; END IF;
		FOR what IN EXECUTE format('SELECT concat_ws('' '', r.frame_id, c.frame_id, k.key, k.value, c.content -> k.key) '
			'FROM avcurate.slice_at(NULL::slice, %1$s) r FULL JOIN (SELECT * FROM copies WHERE version = %1$s) c USING (frame_id) '
			'LEFT JOIN LATERAL jsonb_each(to_jsonb(r)) k ON true '
			'WHERE r.frame_id IS NULL OR c.frame_id IS NULL '
			'OR k.value IS DISTINCT FROM coalesce(c.content -> k.key, ''null'') LIMIT 3', version) LOOP
			RETURN NEXT;
		END LOOP;
	END LOOP;
END $$;
-- Pairs of versions between which slice_diff and slice_at disagree.
CREATE FUNCTION wrong_diffs() RETURNS TABLE (a bigint, b bigint, n bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR a, b IN SELECT x.version, y.version FROM avcurate.slice_versions x JOIN avcurate.slice_versions y USING (slice)
		WHERE x.slice = 'slice'::regclass AND (y.version = x.version + 1 OR (x.version * 7 + y.version * 3) % 11 = 0) LIMIT 80 LOOP
		EXECUTE format('SELECT count(*) FROM ('
			'(SELECT frame_id, before, after FROM avcurate.slice_diff(NULL::slice, %1$s, %2$s)) d FULL JOIN '
			'(SELECT frame_id, o AS before, c AS after FROM avcurate.slice_at(NULL::slice, %1$s) o '
			'FULL JOIN avcurate.slice_at(NULL::slice, %2$s) c USING (frame_id) '
			'WHERE o IS NULL OR c IS NULL OR o::text <> c::text) e USING (frame_id)) '
			'WHERE d.before::text IS DISTINCT FROM e.before::text OR d.after::text IS DISTINCT FROM e.after::text', a, b) INTO n;
		IF n > 0 THEN RETURN NEXT; END IF;
	END LOOP;
END $$;
-- An error unless pg_depend, the indexes and the registry fit the view.
CREATE FUNCTION check_catalogs() RETURNS void LANGUAGE plpgsql AS $$
DECLARE bad text;
BEGIN
	SELECT string_agg(x, ', ') INTO bad FROM (
		SELECT 'index ' || indexrelid::regclass FROM pg_index WHERE indrelid = 'slice'::regclass AND NOT (indisvalid AND indisready AND indislive)
		UNION ALL SELECT 'left over ' || relname FROM pg_class WHERE relname LIKE '%\_old%' AND relnamespace = 'public'::regnamespace
		UNION ALL SELECT 'dangling dependency' FROM pg_depend WHERE refclassid = 'pg_class'::regclass
			AND NOT EXISTS (SELECT FROM pg_class WHERE oid = refobjid)
		UNION ALL SELECT 'columns' FROM _avcurate.slices s WHERE s.slice = 'slice'::regclass AND columns <> (SELECT array_agg(attname ORDER BY attnum)
			FROM pg_attribute WHERE attrelid = s.slice AND attnum > 0)
		UNION ALL SELECT 'definition' FROM _avcurate.slices s, _avcurate.slice_versions v WHERE s.slice = 'slice'::regclass
			AND v.slice_id = s.slice_id AND v.version = s.version
			AND (v.columns <> s.columns OR s.definition <> v.definition)
		UNION ALL SELECT 'comment' WHERE obj_description('slice'::regclass, 'pg_class') IS DISTINCT FROM 'the one'
		UNION ALL SELECT 'right' WHERE NOT has_table_privilege('reader', 'slice', 'SELECT')) bad(x);
	IF bad IS NOT NULL THEN RAISE 'catalogs: %', bad; END IF;
END $$;
CREATE ROLE reader;
SELECT avcurate.create_dataset('frames');
ALTER TABLE frames ADD COLUMN extra int, ADD COLUMN other text;
SELECT add_frames(120);
UPDATE frames SET extra = frame_id % 5, other = 'o' || frame_id % 3;
SELECT avcurate.create_slice('slice', 'frames', $$timeofday = 'night'$$, '{weather,timeofday,extra}');
COMMENT ON MATERIALIZED VIEW slice IS 'the one';
GRANT SELECT ON slice TO reader;
CREATE INDEX ON slice (width, image_sha256);
SELECT save();
SQL

sub pick { return $_[ rand @_ ] }

sub write_sql
{
	my $some = 'frame_id % ' . (2 + int rand 20) . ' = ' . int rand 2;
	return pick(
		'SELECT add_frames(' . (1 + int rand 6) . ');',
		"UPDATE frames SET timeofday = CASE timeofday WHEN 'night' THEN 'day' ELSE 'night' END WHERE $some;",
		"UPDATE frames SET weather = " . pick("'foggy'", "'rainy'", 'NULL') . " WHERE $some;",
		"UPDATE frames SET image_bytes = jpeg('again ' || frame_id || clock_timestamp()) WHERE $some;",
		"UPDATE frames SET other = " . pick('NULL', "weather || frame_id", "'same'") . " WHERE $some;",
		"UPDATE frames SET extra = " . pick('NULL', "'7'", "'8'") . " WHERE $some;",
		"DELETE FROM frames WHERE $some AND frame_id % 3 = 0;",
		'UPDATE frames SET split = split;',
		'VACUUM frames;');
}

sub filter
{
	return "'" . pick('true', "timeofday = \$\$night\$\$", "frame_id % 3 > 0", "other IS NOT NULL AND weather <> \$\$foggy\$\$",
		'extra IS NOT NULL', "(SELECT true) AND frame_id > 20", 'cardinality(ann_categories) > 1') . "'";
}

sub columns
{
	my @chosen = grep { rand() < 0.5 } qw(weather timeofday extra other scene frame_time split);
	return "'{" . join(',', @chosen) . "}'";
}

my $keep = "SELECT save(), check_current(), check_catalogs();\n";
my $types = 0;
my @ways = (
	sub { 'SELECT avcurate.alter_slice($$slice$$, ' . filter() . ");\n" },
	sub { 'SELECT avcurate.alter_slice($$slice$$, columns => ' . columns() . ");\n" },
	sub { 'SELECT avcurate.alter_slice($$slice$$, ' . filter() . ', ' . columns() . ");\n" },
	sub { "SELECT avcurate.refresh_slice('slice');\n" },
	sub { 'REFRESH MATERIALIZED VIEW ' . pick('', 'CONCURRENTLY') . " slice;\n" },
	sub { "REFRESH MATERIALIZED VIEW slice WITH NO DATA;\n" . write_sql() . "\nSELECT avcurate.alter_slice('slice', " . pick(filter(), 'NULL, ' . columns()) . ");\n" },
	sub { "BEGIN;\nSELECT avcurate.alter_slice('slice', columns => " . columns() . ");\n" . $keep . write_in() . "SAVEPOINT a;\n"
		  . "SELECT avcurate.alter_slice('slice', " . filter() . ', ' . columns() . ");\n" . $keep
		  . pick('ROLLBACK TO a', 'RELEASE a') . ";\nREFRESH MATERIALIZED VIEW slice;\n" . $keep . pick('COMMIT', 'ROLLBACK') . ";\n" },
	sub { "BEGIN ISOLATION LEVEL " . pick('REPEATABLE READ', 'SERIALIZABLE') . ";\n" . write_in() . "SELECT avcurate.alter_slice('slice', "
		  . filter() . pick('', ', ' . columns()) . ");\n" . $keep . "COMMIT;\n" },
	sub { "SELECT version FROM avcurate.prune_slice('slice', " . (2 + int rand 8) . ") WHERE pruned;\n"
		  . "DELETE FROM copies c WHERE NOT EXISTS (SELECT FROM avcurate.slice_versions v WHERE v.slice = 'slice'::regclass AND v.version = c.version);\n" },
	# column extra leaves, changes its type and comes back
	sub {
		my $type = ('text', 'bigint', 'numeric')[ $types++ % 3 ];
		return "SELECT avcurate.alter_slice('slice', 'true', '{other}');\n$keep"
		  . "ALTER TABLE frames ALTER extra TYPE $type USING extra::$type;\n"
		  . "SELECT avcurate.alter_slice('slice', columns => '{extra,weather}');\n"
		  . "UPDATE copies SET content = content - 'extra' WHERE version < (SELECT version FROM avcurate.slices WHERE slice = 'slice'::regclass);\n";
	},
	sub { 'DO $$BEGIN PERFORM avcurate.alter_slice(\'slice\', \'true\', \'{}\'); RAISE \'undo\'; EXCEPTION WHEN raise_exception THEN NULL; END$$;' . "\n" });

sub write_in
{
	my $sql = write_sql();
	return $sql =~ /VACUUM/ ? '' : "$sql\n";
}

my $check = "SELECT 'wrong', * FROM wrong(); SELECT 'diff', * FROM wrong_diffs();\n";
my $script = "\\set ON_ERROR_STOP 1\n\\o /dev/null\nSET client_min_messages = warning;\n";
for my $round (1 .. $rounds)
{
	$script .= "-- round $round\n";
	$script .= write_sql() . "\n" for 1 .. 1 + rand 4;
	$script .= pick(@ways)->() . $keep;
	$script .= "\\o\n$check\\o /dev/null\n" if $round % 20 == 0;
}
my ($rc, $out, $err) = $node->psql('origin', $script);
is($rc, 0, "$rounds rounds of writes, refreshes, prunes and alters") or diag $err;
is($err, '', 'no warning on the way');
is($out, '', 'every version that was kept equals its copy, by slice_at, slice_diff and digest');
cmp_ok($node->safe_psql('origin', 'SELECT save()'), '>', $rounds / 2, 'many versions');
is($node->safe_psql('origin', q{SELECT count(*) FROM _avcurate.history_1 h
	WHERE NOT EXISTS (SELECT FROM avcurate.slice_versions v WHERE v.slice = 'slice'::regclass
		AND v.version >= h.from_version AND (h.to_version IS NULL OR v.version < h.to_version))}),
	0, 'no row of the history without a version');

# ---- beside readers and refreshes ----
# filters with gate() wait until the advisory lock is free
$node->safe_psql('origin', q{CREATE FUNCTION gate(bigint) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
	'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN true; END';
	SELECT avcurate.alter_slice('slice', 'true', '{weather,extra}'); SELECT save()});

sub started { my $psql = $node->background_psql('origin', on_error_stop => 0); $psql->query_safe($_) for @_; return $psql; }

# Send a statement without waiting for it; it prints DONE or an error.
sub begin_query
{
	my ($psql, $sql) = @_;
	$psql->{stdout} = '';
	$psql->{stderr} = '';
	$psql->{stdin} .= "$sql\n\\echo DONE\n";
	$psql->{run}->pump_nb;
}

sub finish_query
{
	my ($psql) = @_;
	my $until = time + 60;
	until ($psql->{stdout} =~ /DONE/ || time > $until) { $psql->{run}->pump_nb; sleep 0.02; }
	my $answer = "$psql->{stdout}$psql->{stderr}";
	$answer =~ s/\s*DONE\s*//;
	$psql->{stdout} = $psql->{stderr} = '';
	return $answer;
}

# Wait until as many sessions wait for a lock.
sub waiting
{
	my ($count) = @_;
	return $node->poll_query_until('origin', "SELECT count(*) = $count FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = 'origin'");
}

my $gate = started('SELECT pg_advisory_lock(1)');
my ($one, $two, $three) = (started(), started(), started());
my $version = $node->safe_psql('origin', 'SELECT save()');
begin_query($one, q{SELECT avcurate.alter_slice('slice', 'gate(frame_id) AND frame_id % 2 = 0');});
ok(waiting(1), 'an alter_slice at work');
my $rows = $node->safe_psql('origin', "SELECT count(*) FROM copies WHERE version = $version");
is($node->safe_psql('origin', "SET lock_timeout = '2s'; SELECT count(*) FROM slice"), $rows, 'readers of the view go on while the filter is computed');
is($node->safe_psql('origin', "SET lock_timeout = '2s'; SELECT version, count(*) FROM avcurate.slices GROUP BY 1"), "$version|1", 'so do readers of the registry');
begin_query($two, q{SELECT avcurate.refresh_slice('slice');});
ok(waiting(2), 'a refresh waits for it');
begin_query($three, q{SELECT avcurate.alter_slice('slice', columns => '{other}');});
ok(waiting(3), 'and so does another alter');
$gate->query_safe('SELECT pg_advisory_unlock(1)');
is(finish_query($one), $version + 1, 'the first is done');
is(finish_query($two), $version + 1, 'the refresh found nothing to do after it');
is(finish_query($three), $version + 2, 'the other made a version of its own');
is($node->safe_psql('origin', 'SELECT count(*) FROM slice WHERE frame_id % 2 = 1'), 0, 'of the new filter');

# a refresh that waits for a view that is made again goes on with the new one
$one->query_safe('BEGIN');
$one->query_safe(q{SELECT avcurate.alter_slice('slice', 'true', '{weather}')});
begin_query($two, q{SELECT avcurate.refresh_slice('slice');});
begin_query($three, q{REFRESH MATERIALIZED VIEW slice;});
ok(waiting(2), 'two refreshes wait for other columns');
$one->query_safe('COMMIT');
is(finish_query($two), $version + 3, 'refresh_slice follows the view');
is(finish_query($three), '', 'so does REFRESH');
$node->safe_psql('origin', 'INSERT INTO copies SELECT ' . ($version + 3) . ', frame_id, to_jsonb(x) FROM slice x');

# with one snapshot for the transaction it can be repeated
$two->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$two->query_safe('SELECT count(*) FROM frames');
$one->query_safe(q{SELECT avcurate.alter_slice('slice', 'frame_id > 3', '{split}')});
begin_query($two, q{SELECT avcurate.alter_slice('slice', 'frame_id > 4');});
like(finish_query($two), qr/could not serialize access/, 'an alter with an older snapshot fails');
$two->query_safe('ROLLBACK');
begin_query($two, q{SELECT avcurate.alter_slice('slice', 'frame_id > 4');});
is(finish_query($two), $version + 5, 'and is right when repeated');
$node->safe_psql('origin', "DELETE FROM copies WHERE version > $version; SELECT save();");

# cancelled half-way
$gate->query_safe('SELECT pg_advisory_lock(1)');
my $state = q{SELECT slice::oid, filter, version, definition FROM avcurate.slices; };
my $before = $node->safe_psql('origin', $state . 'SELECT save();');
foreach my $sql (q{'gate(frame_id)'}, q{'gate(frame_id)', '{weather,extra}'})
{
	begin_query($one, "SELECT avcurate.alter_slice('slice', $sql);");
	ok(waiting(1), "alter_slice($sql) at work");
	$node->safe_psql('origin', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'});
	like(finish_query($one), qr/canceling statement/, 'cancelled');
	is($node->safe_psql('origin', $state . 'SELECT save(); SELECT check_current(), check_catalogs()'), "$before\n|", 'nothing is left of it');
}

# killed half-way
begin_query($one, q{SELECT avcurate.alter_slice('slice', 'gate(frame_id)', '{weather,extra}');});
ok(waiting(1), 'alter_slice at work again');
my $pid = $node->safe_psql('origin', q{SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'});
kill 'KILL', $pid;
$_->{run}->kill_kill foreach $gate, $one, $two, $three;
for (1 .. 300)
{
	last if eval { ($node->psql('origin', 'SELECT true'))[0] == 0 };
	sleep 0.1;
}
is($node->safe_psql('origin', $state . 'SELECT save(); SELECT check_current(), check_catalogs()'), "$before\n|", 'after a crash nothing is left of it');
$node->safe_psql('origin', "DELETE FROM copies c WHERE version > $version AND version < (SELECT version FROM avcurate.slices)");

# ---- dump and restore ----
$node->safe_psql('origin', q{SELECT avcurate.alter_slice('slice', 'other IS NOT NULL', '{other,weather}'); SELECT save();
	ALTER TABLE frames RENAME COLUMN other TO others});
my $versions = q{SELECT slice, version, rows, added, removed, changed, mode, digest, definition FROM avcurate.slice_versions ORDER BY 2;
	SELECT slice, filter, definition FROM avcurate.slices; SELECT columns, complete FROM _avcurate.slices};
$before = $node->safe_psql('origin', $versions);
my $dump = $node->basedir . '/dump';
$node->command_ok(['pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('origin')], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok(['pg_restore', '-e', '-d', $node->connstr('copy'), $dump], 'pg_restore');
is($node->safe_psql('copy', $versions), $before, 'versions, filter, columns and the definition come along');
is($node->safe_psql('copy', q{SELECT check_catalogs()}), '', 'grants and comments too');
my $wrong = q{SELECT * FROM wrong() WHERE version <= } . $version . ' OR version >= (SELECT max(version) FROM copies)';
is($node->safe_psql('copy', $wrong), '', 'every version is whole');
is($node->safe_psql('copy', q{SELECT avcurate.refresh_slice('slice') = max(version) FROM copies}), 't', 'a refresh finds nothing to do');
$node->safe_psql('copy', q{SELECT add_frames(9), avcurate.alter_slice('slice', 'frame_id % 5 > 0', '{extra}'), save()});
is($node->safe_psql('copy', $wrong), '', 'and the slice can be altered');

$node->stop;
done_testing();
