# Copies of a database in parts and otherwise: versions, history, digests,
# tags and archive come along, and refreshes in the copy are right, whatever
# watermark came with it.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use SliceTest;

my $node = PostgreSQL::Test::Cluster->new('copies');
$node->init;
$node->append_conf('postgresql.conf', "avcurate.refresh_full_threshold = 1\n");
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE curator');
$node->safe_psql('postgres', 'CREATE DATABASE origin');
$node->safe_psql('origin', SliceTest::setup_sql());
$node->safe_psql('origin', q{
GRANT ALL ON SCHEMA public TO curator;
GRANT ALL ON ALL TABLES IN SCHEMA public TO curator;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO curator;
SET ROLE curator;
SELECT avcurate.create_dataset('frames');
SELECT add_frames(60);
SELECT avcurate.create_slice('night', 'frames', $$timeofday = 'night' AND upper(weather) <> 'FOGGY'$$);
SELECT avcurate.create_slice('"Quoted Slice"', 'frames', $$weather = 'rainy'$$);
CREATE INDEX ON night (weather);
SELECT remember('night'), remember('"Quoted Slice"');
UPDATE frames SET timeofday = 'night' WHERE frame_id % 7 = 0;
UPDATE frames SET image_bytes = jpeg('other ' || frame_id) WHERE frame_id % 5 = 0;
DELETE FROM frames WHERE frame_id % 11 = 0;
SELECT count(*) FROM avcurate.refresh_slices();
SELECT remember('night'), remember('"Quoted Slice"');
SELECT avcurate.tag_slice('night', 1, 'first');
SELECT add_frames(5);
DELETE FROM frames WHERE frame_id = 13;
SELECT avcurate.refresh_slice('night', 'a note'), remember('night');
});

my $state = q{SELECT slice::text, version, rows, added, removed, changed, mode, digest, tags, note, created_at, created_by
	FROM avcurate.slice_versions ORDER BY 1, 2};
my $file = $node->basedir . '/copy';

sub create { $node->safe_psql('postgres', "CREATE DATABASE $_[0]") }

sub dump_to { $node->command_ok(['pg_dump', @_, '-d', $node->connstr('origin')], "pg_dump @_[0 .. $#_ - 1]") }

sub load_sql
{
	my ($database, $sql) = @_;
	$node->command_ok(['psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr($database), '-f', $sql, '-o', '/dev/null'], "$database: psql");
}

sub restore
{
	my ($database, @options) = @_;
	$node->command_ok(['pg_restore', '-e', '-d', $node->connstr($database), @options], "$database: pg_restore");
}

# What is old is what it was, what is new is right, twice: the first refresh
# has nothing to go by, or only what REFRESH of the restore left.
sub check
{
	my ($database, $old) = @_;
	my $images = q{SELECT count(*), count(DISTINCT image_sha256) FROM _avcurate.archive};
	my $now = $node->safe_psql($database, $state);
	my %is_there = map { $_ => 1 } split /\n/, $now;
	is(join("\n", grep { !$is_there{$_} } split /\n/, $old), '', "$database: every version is there as it was");
	is($node->safe_psql($database, $images), $node->safe_psql('origin', $images), "$database: the archive");
	$node->safe_psql($database, q{SELECT count(*) FROM avcurate.refresh_slices(); SELECT remember('night'), remember('"Quoted Slice"')});
	foreach my $slice ('night', '"Quoted Slice"')
	{
		my ($rc, $out, $err) = $node->psql($database, qq{\\o /dev/null
SELECT avcurate.refresh_slice('$slice');
SELECT remember('$slice'), check_fresh('$slice');
SELECT add_frames(6);
DELETE FROM frames WHERE frame_id IN (SELECT frame_id FROM $slice ORDER BY 1 LIMIT 2);
UPDATE frames SET scene = 'copied', image_bytes = jpeg('copied ' || frame_id) WHERE frame_id % 9 = 1;
SELECT avcurate.refresh_slice('$slice', 'after');
SELECT remember('$slice'), check_fresh('$slice');
\\o
SELECT mode FROM avcurate.slice_versions WHERE slice = '$slice'::regclass AND note = 'after';
SELECT * FROM compare('$slice');
SELECT v.version, c.detail FROM avcurate.slice_versions v, avcurate.verify_slice('$slice', v.version) c
	WHERE v.slice = '$slice'::regclass AND NOT (c.verified AND c.rows = v.rows);}, on_error_stop => 1);
		is("$out$err", 'incremental', "$database, $slice: refreshed, then by difference, and all versions whole");
	}
}

my $before = $node->safe_psql('origin', $state);
my $images = $node->safe_psql('origin', q{SELECT count(*) > 5 FROM _avcurate.archive});
is($images, 't', 'there are images of old versions');

# the view is behind the dataset, so a restore's REFRESH makes a version
$node->safe_psql('origin', q{SET ROLE curator; SELECT add_frames(7); DELETE FROM frames WHERE frame_id IN (1, 4);
	UPDATE frames SET timeofday = 'night', image_bytes = jpeg('late ' || frame_id) WHERE frame_id % 10 = 3;});

dump_to('--schema-only', '-f', "$file.schema");
dump_to('--data-only', '-f', "$file.data");
dump_to('-Fc', '-f', "$file.custom");
dump_to('-Fd', '-j', '2', '-f', "$file.directory");
dump_to('-Fc', '--data-only', '-f', "$file.customdata");

unlike(slurp_file("$file.data"), qr/tombstones|slice_watermarks/, 'no dump has what only this database can use');

create('schema_data');
load_sql('schema_data', "$file.schema");
is($node->safe_psql('schema_data', 'SELECT count(*) FROM avcurate.slices'), 0, 'the schema alone has no slices');
load_sql('schema_data', "$file.data");
check('schema_data', $before);

create('parts');
restore('parts', '--schema-only', "$file.custom");
restore('parts', '--data-only', "$file.customdata");
check('parts', $before);

create('directory');
restore('directory', @$_, "$file.directory")
  foreach ['--section=pre-data', '-j', 2], ['--section=data'], ['--section=post-data', '-j', 2];
check('directory', $before);

# over a database that has all of it already, and went its own way since
create('again');
restore('again', "$file.custom");
$node->safe_psql('again', q{SELECT add_frames(3), avcurate.refresh_slice('night'); SELECT avcurate.tag_slice('night', 2, 'elsewhere')});
restore('again', '--clean', '--if-exists', "$file.custom");
check('again', $before);

# files and watermarks are those of the other database: CREATE DATABASE
# copies both, also of slices that are behind
foreach my $strategy ('wal_log', 'file_copy')
{
	$node->safe_psql('postgres', "CREATE DATABASE by_$strategy TEMPLATE origin STRATEGY $strategy");
	$node->safe_psql('origin', q{SET ROLE curator; SELECT add_frames(2); DELETE FROM frames WHERE frame_id = (SELECT min(frame_id) FROM night)});
	is($node->safe_psql("by_$strategy", $state), $before, "by_$strategy: versions");
	$node->safe_psql("by_$strategy", q{SELECT avcurate.refresh_slice('night', 'first')});
	is($node->safe_psql("by_$strategy", q{SELECT mode FROM avcurate.slice_versions WHERE note = 'first'}), 'full', "by_$strategy: another database's watermark is no use");
}
check('by_wal_log', $before);
# and the origin is none the wiser
is($node->safe_psql('origin', q{SELECT avcurate.refresh_slice('night', 'origin') \g /dev/null
	SELECT check_fresh('night') \g /dev/null
	SELECT mode FROM avcurate.slice_versions WHERE note = 'origin'}), 'incremental', 'origin: by difference, as ever');

$node->stop;
done_testing();
