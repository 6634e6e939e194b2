# What batches costs and what outlives it: memory, temporary space, TOAST
# pointers under concurrent writes, snapshots, read-only servers.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $frames = $ENV{AVC_LONG} ? 200_000 : 20_000;
my $bytes = 2400;    # above the size at which an image leaves its row

my $node = PostgreSQL::Test::Cluster->new('batches');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', "shared_buffers = 256MB\nfsync = off\nmax_wal_size = 4GB\n");
$node->start;
$node->safe_psql('postgres', qq{
CREATE EXTENSION avcurate;
CREATE FUNCTION jpeg(seed text, bytes int DEFAULT $bytes) RETURNS bytea LANGUAGE sql AS \$\$
	SELECT '\\xffd8ffc0001108003c005003012200021101031101ffda000c03010002110311003f00'::bytea
		|| decode(repeat(md5(seed), bytes / 16), 'hex') || '\\xffd9'::bytea
\$\$;
SELECT avcurate.create_dataset('frames');
INSERT INTO frames (image_id, split, image_bytes, ann_categories, ann_bboxes)
	SELECT 'f' || n, CASE WHEN n % 10 = 0 THEN 'val' ELSE 'train' END, jpeg(n::text),
		'{car,person}', '{{1,2,11,22},{5,5,50,50}}' FROM generate_series(1, $frames) n;
VACUUM ANALYZE frames;
SELECT avcurate.create_slice('val', 'frames', \$\$split = 'val'\$\$);
SELECT avcurate.create_slice('all_frames', 'frames', 'true');
});

my $jpeg = $node->safe_psql('postgres', q{SELECT pg_get_functiondef('jpeg'::regproc)});
$node->safe_psql('postgres', 'CREATE DATABASE pin');
$node->safe_psql('pin', $jpeg);
sub query_pin { return $node->safe_psql('pin', $_[0]) }

# ---- memory does not grow with the slice
my $resident = q{(substring(pg_read_file('/proc/self/status') from 'RssAnon:\s+(\d+)')::int)};
my $grown = $node->safe_psql('postgres', qq{
SET work_mem = '1MB';
SELECT count(*) AS x FROM avcurate.batches('val', 64, num_batches => 2) \\gset
SELECT $resident AS start \\gset
SELECT count(*) AS x FROM avcurate.batches('val', 64) \\gset
SELECT $resident AS small \\gset
SELECT count(*) AS n FROM avcurate.batches('all_frames', 64) \\gset
SELECT $resident AS large \\gset
SELECT sum(get_byte(image_bytes, 1000)) AS x FROM avcurate.batches('all_frames', 64) \\gset
SELECT $resident AS fetched \\gset
SELECT :n, :large - :start, :fetched - :start;
});
my ($count, $kb, $fetched_kb) = split /\|/, $grown;
is($count, $frames, "$frames frames were read");
cmp_ok($kb, '<', 6000, "a backend grows by $kb kB over them");
cmp_ok($fetched_kb, '<', 6000, "and by $fetched_kb kB with their images looked at");

# ---- images are not copied on the way
my $plan = $node->safe_psql('postgres', q{
SET work_mem = '64kB';
EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, COSTS OFF) SELECT * FROM avcurate.batches('all_frames', 64)});
my ($written) = $plan =~ /temp read=\d+ written=(\d+)/;
my $copied = $frames * $bytes / 8192;
ok(defined $written, 'the rows went through a tuplestore');
cmp_ok($written, '<', $copied / 5, "$written blocks of it; with the images there would be more than " . int $copied);
is($node->safe_psql('postgres', q{SET work_mem = '64kB';
	SELECT count(*) FROM avcurate.batches('all_frames', 64) b JOIN frames f USING (frame_id) WHERE f.image_bytes = b.image_bytes}),
	$frames, 'a tuplestore on disk gives the same images');

# ---- a small num_batches is cheap once the ids are known
my $few = $node->safe_psql('postgres', q{
SELECT count(*) FROM avcurate.batches('all_frames', 8, num_batches => 1) \gset
EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, COSTS OFF) SELECT * FROM avcurate.batches('all_frames', 8, start_batch => 50, num_batches => 1)});
my ($hit) = $few =~ /shared hit=(\d+)/;
cmp_ok($hit, '<', 400, "one batch of eight touches $hit buffers");

# ---- ids beyond work_mem go to a file
is($node->safe_psql('postgres', q{
SET work_mem = '64kB';
SELECT count(DISTINCT frame_id) = count(*) AND count(*) = (SELECT count(*) FROM frames) FROM avcurate.batches('all_frames', 64)}),
	't', 'a small work_mem changes nothing');

# ---- TOAST pointers under concurrent changes
my $change = q{\! psql -XqAt -d postgres -c "UPDATE frames SET image_bytes = jpeg(image_id || clock_timestamp()) WHERE split = 'val'" -c "VACUUM frames" -c "VACUUM _avcurate.archive"};
my $sum = q{md5(string_agg(md5(image_bytes), '' ORDER BY position))};
my $expected = $node->safe_psql('postgres', "SELECT $sum FROM avcurate.batches('val', 16, 1)");
my $fetched = $node->safe_psql('postgres', qq{
CREATE TABLE seen (position bigint, image_bytes bytea);
BEGIN;
DECLARE c CURSOR FOR SELECT position, image_bytes FROM avcurate.batches('val', 16, 1);
MOVE 3 FROM c;
$change
CREATE FUNCTION drain() RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE c refcursor := 'c'; r record;
BEGIN
	MOVE ABSOLUTE 0 FROM c;
	LOOP FETCH c INTO r; EXIT WHEN NOT FOUND; INSERT INTO seen VALUES (r.position, r.image_bytes); END LOOP;
END \$\$;
SELECT drain() \\gset
COMMIT;
SELECT $sum FROM seen});
is($fetched, $expected, 'an open cursor keeps its images while they are replaced and vacuumed');
is($node->safe_psql('postgres', "SELECT $sum FROM avcurate.batches('val', 16, 1)"), $expected, 'and so does the version');

$fetched = $node->safe_psql('postgres', qq{
TRUNCATE seen;
DROP FUNCTION drain;
BEGIN;
DECLARE c CURSOR WITH HOLD FOR SELECT position, image_bytes FROM avcurate.batches('val', 16, 1);
COMMIT;
$change
CREATE FUNCTION drain() RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE c refcursor := 'c'; r record;
BEGIN
	LOOP FETCH c INTO r; EXIT WHEN NOT FOUND; INSERT INTO seen VALUES (r.position, r.image_bytes); END LOOP;
END \$\$;
SELECT drain() \\gset
SELECT $sum FROM seen});
is($fetched, $expected, 'a holdable cursor has copies');

$fetched = $node->safe_psql('postgres', qq{
TRUNCATE seen;
DO \$\$
DECLARE r record;
BEGIN
	FOR r IN SELECT * FROM avcurate.batches('val', 16, 1) LOOP
		COMMIT;
		INSERT INTO seen VALUES (r.position, r.image_bytes);
	END LOOP;
END \$\$;
SELECT $sum FROM seen});
is($fetched, $expected, 'a loop may commit between rows');

$fetched = $node->safe_psql('postgres', qq{
CREATE TABLE kept AS SELECT * FROM avcurate.batches('val', 16, 1);
$change
SELECT $sum FROM kept});
is($fetched, $expected, 'a table made from batches is its own');

# ---- snapshots: the newest version is the newest that the statement sees
is($node->safe_psql('postgres', q{
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) AS before FROM avcurate.batches('val', 16) \gset
\! psql -XqAt -d postgres -c "DELETE FROM frames WHERE image_id IN ('f10', 'f20')" -c "SELECT avcurate.refresh_slice('val')" >/dev/null
SELECT count(*) AS after FROM avcurate.batches('val', 16) \gset
COMMIT;
SELECT :before - :after, :before - (SELECT count(*) FROM avcurate.batches('val', 16))}),
	'0|2', 'a transaction that began before a refresh reads the version that it sees');

# ---- the kept ids are of one version row
is($node->safe_psql('postgres', q{
SELECT count(*) AS two FROM avcurate.batches('val', 16, 2) \gset
BEGIN;
DELETE FROM frames WHERE image_id = 'f30';
SELECT avcurate.refresh_slice('val') AS v \gset
SELECT count(*) AS three FROM avcurate.batches('val', 16, :v) \gset
ROLLBACK;
DELETE FROM frames WHERE image_id IN ('f40', 'f50', 'f60');
SELECT avcurate.refresh_slice('val') AS again \gset
SELECT :v = :again, :two - :three, :two - (SELECT count(*) FROM avcurate.batches('val', 16, :again))}),
	't|1|3', 'a version number that a rollback freed is read anew');

# ---- a dump carries pins, archived images and label maps
query_pin(q{
CREATE EXTENSION avcurate;
SELECT avcurate.create_dataset('frames');
INSERT INTO frames (image_id, image_bytes, ann_categories, ann_bboxes) SELECT 'f' || n, jpeg(n::text), '{car}', '{{1,2,11,22}}' FROM generate_series(1, 50) n;
SELECT avcurate.create_slice('train', 'frames', 'true');
UPDATE frames SET image_bytes = jpeg('new ' || image_id) WHERE frame_id % 3 = 0;
DELETE FROM frames WHERE frame_id % 7 = 0;
SELECT avcurate.refresh_slice('train');
INSERT INTO avcurate.label_maps (label_map, category, label) VALUES ('two', 'car', 2);
});
my $both = "SELECT string_agg(md5(b::text), '' ORDER BY v, position) FROM generate_series(1, 2) v, avcurate.batches('train', 8, v, label_map => 'two') b";
my $kept = query_pin($both);
my $dump = $node->basedir . '/pin.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('pin') ], 'a database with pins is dumped');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '-d', $node->connstr('restored'), $dump ], 'and restored');
is($node->safe_psql('restored', $both), $kept, 'both versions read the same after the restore');

# ---- in a parallel plan the leader calls it
is($node->safe_psql('postgres', q{
SET force_parallel_mode = on; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
SELECT count(*) FROM avcurate.batches('val', 16) b JOIN frames USING (frame_id)}),
	$node->safe_psql('postgres', "SELECT count(*) FROM avcurate.batches('val', 16)"), 'it may stand in a parallel plan');

# ---- readers that may not write
is($node->safe_psql('postgres', q{
BEGIN READ ONLY;
SELECT count(*) > 0 FROM avcurate.batches('val', 16);
COMMIT}), 't', 'a read-only transaction reads batches');
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql('postgres', "SELECT $sum FROM avcurate.batches('val', 16, 1)"), $expected, 'a hot standby serves batches');
is($standby->safe_psql('postgres', "SELECT avcurate.batch_count('val', 16, 1)"),
	$node->safe_psql('postgres', "SELECT avcurate.batch_count('val', 16, 1)"), 'and their number');
$standby->stop;
$node->stop;

done_testing();
