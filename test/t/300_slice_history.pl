# Random histories of writes and of every kind of refresh, against an oracle:
# a copy of the view kept at each version.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use SliceTest;

my $rounds = $ENV{AVC_LONG} ? 300 : 60;
my $seed = $ENV{AVC_SEED} || 7;
srand($seed);
note "seed $seed";

my $node = PostgreSQL::Test::Cluster->new('history');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum_naptime = 1s\n");
$node->start;
$node->safe_psql('postgres', SliceTest::setup_sql());
$node->safe_psql('postgres', q{
SELECT avcurate.create_dataset('frames');
SELECT add_frames(150);
SELECT avcurate.create_slice('night', 'frames', $$timeofday = 'night' AND weather <> 'foggy'$$);
CREATE MATERIALIZED VIEW crowded AS
	SELECT f.frame_id, f.image_sha256, count(*) AS boxes, max(b.category) AS category
	FROM frames f JOIN frames_boxes b USING (frame_id)
	GROUP BY f.frame_id, f.image_sha256;
CREATE UNIQUE INDEX ON crowded (frame_id);
SELECT avcurate.track_slice('crowded');
SELECT remember('night'), remember('crowded');
CREATE FUNCTION refresh_static() RETURNS void LANGUAGE plpgsql AS
	'BEGIN REFRESH MATERIALIZED VIEW night; END';
CREATE FUNCTION refresh_sql() RETURNS void LANGUAGE sql AS
	'REFRESH MATERIALIZED VIEW night; REFRESH MATERIALIZED VIEW CONCURRENTLY crowded;';
});

sub pick { return $_[ rand @_ ] }

# One statement that writes to the dataset.
sub write_sql
{
	my $some = 'frame_id % ' . (2 + int rand 20) . ' = ' . int rand 2;
	return pick(
		'SELECT add_frames(' . (1 + int rand 6) . ');',
		"UPDATE frames SET timeofday = CASE timeofday WHEN 'night' THEN 'day' ELSE 'night' END WHERE $some;",
		"UPDATE frames SET weather = '" . pick('foggy', 'rainy', 'clear') . "' WHERE $some;",
		"UPDATE frames SET image_bytes = jpeg('again ' || frame_id || clock_timestamp()) WHERE $some;",
		"UPDATE frames SET ann_categories = array['car'], ann_bboxes = array[[1,2,3,4.5]]::real[], ann_occluded = NULL, ann_truncated = NULL WHERE $some;",
		"UPDATE frames SET scene = scene || 'x' WHERE $some;",
		"DELETE FROM frames WHERE $some AND frame_id % 3 = 0;",
		rand() < 0.1 ? 'TRUNCATE frames; SELECT add_frames(120);' : 'SELECT 1;',
		'UPDATE frames SET split = split;');
}

my $remember = "SELECT remember('night'), remember('crowded');\n";
my $fresh = "SELECT check_fresh('night'), check_fresh('crowded');\n";

# One way to refresh, with the oracle's copies taken after each step.
my @ways = (
	sub { "SELECT avcurate.refresh_slice('night'); SELECT avcurate.refresh_slice('crowded', 'a note');\n$remember$fresh" },
	sub { "SELECT count(*) FROM avcurate.refresh_slices('frames');\n$remember$fresh" },
	sub { "REFRESH MATERIALIZED VIEW night; REFRESH MATERIALIZED VIEW public.crowded;\n$remember$fresh" },
	sub { "REFRESH MATERIALIZED VIEW CONCURRENTLY night; REFRESH MATERIALIZED VIEW CONCURRENTLY crowded;\n$remember$fresh" },
	sub { "REFRESH MATERIALIZED VIEW night WITH NO DATA;\n" . write_sql() . "\nREFRESH MATERIALIZED VIEW night;\n$remember" },
	sub { "REFRESH MATERIALIZED VIEW crowded WITH NO DATA;\nSELECT avcurate.refresh_slice('crowded');\n$remember" },
	sub { "SELECT refresh_static(); SELECT refresh_static(), refresh_sql();\n$remember" },
	sub { "DO \$\$BEGIN\n" . write_do() . "REFRESH MATERIALIZED VIEW night;\nPERFORM remember('night');\n"
		  . write_do() . "EXECUTE 'REFRESH MATERIALIZED VIEW night';\nPERFORM remember('night');\nEND\$\$;\n$remember" },
	sub { "BEGIN;\n" . write_sql() . "\nREFRESH MATERIALIZED VIEW night;\n$remember"
		  . write_sql() . "\nSELECT avcurate.refresh_slice('night');\n$remember"
		  . pick('COMMIT', 'ROLLBACK') . ";\n$remember" },
	sub { "BEGIN;\nSAVEPOINT a;\n" . write_sql() . "\nREFRESH MATERIALIZED VIEW night;\n$remember"
		  . pick('ROLLBACK TO a', 'RELEASE a') . ";\nSELECT forget('night');\n" . write_sql()
		  . "\nSAVEPOINT b;\nREFRESH MATERIALIZED VIEW CONCURRENTLY night;\n$remember"
		  . pick('ROLLBACK TO b', 'RELEASE b')
		  . ";\nSELECT forget('night');\nREFRESH MATERIALIZED VIEW night;\n${remember}COMMIT;\n" },
	sub { "DO \$\$BEGIN\nBEGIN\n" . write_do() . "REFRESH MATERIALIZED VIEW night;\nRAISE 'undo';\n"
		  . "EXCEPTION WHEN raise_exception THEN NULL;\nEND;\nPERFORM refresh_static();\nEND\$\$;\n$remember" },
	sub { "BEGIN ISOLATION LEVEL " . pick('REPEATABLE READ', 'SERIALIZABLE') . ";\n" . write_sql()
		  . "\nREFRESH MATERIALIZED VIEW night;\n$remember" . write_sql() . "\nSELECT avcurate.refresh_slice('night');\n${remember}COMMIT;\n" },
	sub { "VACUUM frames; VACUUM night; REFRESH MATERIALIZED VIEW night;\n$remember" },
	sub { "VACUUM (FREEZE) night; CLUSTER night USING night_frame_id_idx; " . write_sql() . " REFRESH MATERIALIZED VIEW night;\n$remember" },
	# the index is another one
	sub { "BEGIN; DROP INDEX night_frame_id_idx; CREATE UNIQUE INDEX night_frame_id_idx ON night (frame_id); "
		  . write_sql() . " REFRESH MATERIALIZED VIEW night; COMMIT;\n$remember" },
);

sub write_do
{
	my $sql = write_sql();
	$sql =~ s/SELECT /PERFORM /g;
	return "$sql\n";
}

my $script = "\\set ON_ERROR_STOP 1\nSET client_min_messages = warning;\n";
for my $round (1 .. $rounds)
{
	$script .= "-- round $round\n";
	$script .= write_sql() . "\n" for 1 .. 1 + rand 8;
	$script .= pick(@ways)->();
}
$script .= "SELECT avcurate.refresh_slice('night'), avcurate.refresh_slice('crowded');\n$remember";
$script .= "SELECT check_fresh('night'), check_fresh('crowded');\n";

my ($rc, $out, $err) = $node->psql('postgres', $script);
is($rc, 0, "$rounds rounds of writes and refreshes") or diag $err;
is($err, '', 'no warning on the way');

foreach my $slice ('night', 'crowded')
{
	my $versions = $node->safe_psql('postgres',
		"SELECT count(*) FROM avcurate.slice_versions WHERE slice = '$slice'::regclass");
	cmp_ok($versions, '>', $slice eq 'night' ? $rounds / 2 : 5, "$slice has many versions ($versions)");
	is($node->safe_psql('postgres', "SELECT * FROM compare('$slice')"),
		'', "$slice: every version equals the copy kept of it");
	is($node->safe_psql('postgres',
			"SELECT v.version, c.detail FROM avcurate.slice_versions v, "
			  . "avcurate.verify_slice('$slice', v.version) c "
			  . "WHERE v.slice = '$slice'::regclass AND NOT (c.verified AND c.rows = v.rows AND c.digest = v.digest)"),
		'', "$slice: every digest and image verifies");
	is($node->safe_psql('postgres', "SELECT * FROM compare_diffs('$slice')"),
		'', "$slice: slice_diff equals the difference of the copies");
}

# versions whose rows changed hold the counts that the copies show
is($node->safe_psql('postgres', q{
	SELECT v.version FROM avcurate.slice_versions v
	LEFT JOIN LATERAL (SELECT count(*) FILTER (WHERE d.change = 'added') AS added,
		count(*) FILTER (WHERE d.change = 'removed') AS removed,
		count(*) FILTER (WHERE d.change = 'changed') AS changed
		FROM avcurate.slice_diff(NULL::night, v.version - 1, v.version) d) d ON true
	WHERE v.slice = 'night'::regclass AND v.version > 1
	AND (d.added, d.removed, d.changed) IS DISTINCT FROM (v.added, v.removed, v.changed)}),
	'', 'counts of added, removed and changed rows');

# prune some, and the rest must still be whole
$node->safe_psql('postgres', q{
	SELECT avcurate.tag_slice('night', 3, 'kept'), avcurate.tag_slice('night', 8, 'kept too');
	DELETE FROM saved s USING (SELECT version FROM avcurate.prune_slice('night', 4) WHERE pruned) p
		WHERE s.slice = 'night' AND s.version = p.version;});
is($node->safe_psql('postgres', 'SELECT count(*) FROM avcurate.slice_versions WHERE slice = $$night$$::regclass'),
	6, 'pruned down to four versions and two tags');
is($node->safe_psql('postgres', "SELECT * FROM compare('night')"), '', 'what is left after pruning is whole');
is($node->safe_psql('postgres',
		"SELECT c.* FROM avcurate.slice_versions v, avcurate.verify_slice('night', v.version) c "
		  . "WHERE v.slice = 'night'::regclass AND NOT c.verified"),
	'', 'and verifies, images included');

# nothing is left of histories that were rolled back or pruned
is($node->safe_psql('postgres', q{SELECT count(*) FROM _avcurate.history_1 h
	WHERE NOT EXISTS (SELECT FROM avcurate.slice_versions v WHERE v.slice = 'night'::regclass
		AND v.version >= h.from_version AND (h.to_version IS NULL OR v.version < h.to_version))}),
	0, 'no row of the history without a version');

$node->stop;
done_testing();
