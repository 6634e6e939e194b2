# Dump and restore: versions, history, digests and images survive, and the
# restore's own REFRESH makes no version unless the rows are others.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use SliceTest;

my $node = PostgreSQL::Test::Cluster->new('source');
$node->init;
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
SELECT avcurate.create_slice('night', 'frames', $$timeofday = 'night'$$);
SELECT avcurate.create_slice('"Quoted Slice"', 'frames', $$weather = 'rainy'$$);
CREATE MATERIALIZED VIEW counted AS
	SELECT frame_id, count(*) AS boxes FROM frames_boxes GROUP BY frame_id;
CREATE UNIQUE INDEX ON counted (frame_id);
SELECT avcurate.track_slice('counted');
SELECT remember('night'), remember('"Quoted Slice"'), remember('counted');
UPDATE frames SET timeofday = 'night' WHERE frame_id % 7 = 0;
UPDATE frames SET image_bytes = jpeg('other ' || frame_id) WHERE frame_id % 5 = 0;
DELETE FROM frames WHERE frame_id % 11 = 0;
SELECT count(*) FROM avcurate.refresh_slices();
SELECT remember('night'), remember('"Quoted Slice"'), remember('counted');
SELECT avcurate.tag_slice('night', 1, 'first');
SELECT add_frames(5);
REFRESH MATERIALIZED VIEW night;
SELECT remember('night');
-- a slice that was dropped while pinned
SELECT avcurate.create_slice('gone', 'frames', 'true');
SELECT avcurate.tag_slice('gone', 1, 'pinned');
DROP MATERIALIZED VIEW gone;
});

my $state = q{SELECT slice::text, version, rows, added, removed, changed, mode, digest, tags, created_at, created_by
	FROM avcurate.slice_versions ORDER BY 1, 2};
my $before = $node->safe_psql('origin', $state);
my $dump = $node->basedir . '/origin';

sub check_restored
{
	my ($database, $how) = @_;
	is($node->safe_psql($database, $state), $before, "$how: same versions and digests, none added");
	foreach my $slice ('night', '"Quoted Slice"', 'counted')
	{
		is($node->safe_psql($database, "SELECT * FROM compare('$slice')"), '', "$how: rows of every version of $slice");
	}
	is($node->safe_psql($database,
			'SELECT v.slice, v.version, c.detail FROM avcurate.slice_versions v, '
			  . 'avcurate.verify_slice(v.slice, v.version) c WHERE NOT c.verified'),
		'', "$how: every version verifies, images included");
	is($node->safe_psql($database, q{SELECT s.slice_name, count(h.*) FROM _avcurate.slices s, _avcurate.history_4 h WHERE s.slice IS NULL GROUP BY 1}),
		'public.gone|60', "$how: the history that a pin keeps");
	is($node->safe_psql($database, q{SELECT pg_get_userbyid(relowner) FROM pg_class WHERE relname = 'night'}),
		'curator', "$how: owner");
	$node->safe_psql($database, q{SELECT count(*) FROM avcurate.refresh_slices()});
	is($node->safe_psql($database, $state), $before, "$how: a refresh finds nothing to do");

	# life goes on where it was
	$node->safe_psql($database, q{SET ROLE curator; SELECT add_frames(6); UPDATE frames SET image_bytes = jpeg('later') WHERE frame_id = 3;
		SELECT avcurate.refresh_slice('night'); SELECT remember('night');
		SELECT avcurate.create_slice('another', 'frames', 'true');});
	is($node->safe_psql($database, q{SELECT version, added, changed FROM avcurate.slice_versions WHERE slice = 'night'::regclass ORDER BY version DESC LIMIT 1}),
		'4|3|1', "$how: the next version");
	is($node->safe_psql($database, q{SELECT bool_and(c.verified) FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c}),
		't', "$how: and everything verifies still");
	is($node->safe_psql($database, q{SELECT max(slice_id) = count(*) AND count(*) = 5 FROM _avcurate.slices}),
		't', "$how: the numbering of slices goes on");
}

# all is dumped whole while the slices are what their definitions yield now
$node->safe_psql('origin', q{SELECT count(*) FROM avcurate.refresh_slices()});
$node->safe_psql('origin', q{SELECT remember('"Quoted Slice"'), remember('counted')});
$before = $node->safe_psql('origin', $state);
$node->command_ok(['pg_dump', '-Fc', '-f', "$dump.custom", '-d', $node->connstr('origin')], 'pg_dump -Fc');
$node->safe_psql('postgres', 'CREATE DATABASE custom');
$node->command_ok(['pg_restore', '-e', '-d', $node->connstr('custom'), "$dump.custom"], 'pg_restore');
check_restored('custom', 'custom');

$node->safe_psql('postgres', 'CREATE DATABASE parallel');
# pg_restore -j does not keep tables of extensions in the order of their
# foreign keys, so the data goes in by itself
$node->command_ok(['pg_restore', '-e', @$_, '-d', $node->connstr('parallel'), "$dump.custom"], "pg_restore @$_")
  foreach ['--section=pre-data'], ['--section=data'], ['--section=post-data', '-j', '2'];
check_restored('parallel', 'parallel');

$node->command_ok(['pg_dump', '-f', "$dump.sql", '-d', $node->connstr('origin')], 'pg_dump as text');
$node->safe_psql('postgres', 'CREATE DATABASE plain');
$node->command_ok(['psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('plain'), '-f', "$dump.sql"], 'psql of the dump');
check_restored('plain', 'plain');

# a slice behind its dataset at the dump: the restored view is newer, so there
# is one more version, and the older ones are what they were
$node->safe_psql('origin', q{SELECT add_frames(4)});
$node->command_ok(['pg_dump', '-Fc', '-f', "$dump.behind", '-d', $node->connstr('origin')], 'pg_dump of slices that are behind');
$node->safe_psql('postgres', 'CREATE DATABASE behind');
$node->command_ok(['pg_restore', '-e', '-d', $node->connstr('behind'), "$dump.behind"], 'pg_restore');
is($node->safe_psql('behind', q{SELECT version, added FROM avcurate.slice_versions WHERE slice = 'night'::regclass ORDER BY version DESC LIMIT 1}),
	'4|2', 'the restored view is a version of its own');
is($node->safe_psql('behind', q{SELECT count(*) FROM saved WHERE slice = 'night' AND version = 3}) > 0, 1, 'the copies came along');
$node->safe_psql('behind', q{SELECT remember('night'), remember('"Quoted Slice"'), remember('counted')});
is($node->safe_psql('behind', "SELECT * FROM compare('night')"), '', 'its versions are what they were');
is($node->safe_psql('behind', 'SELECT bool_and(c.verified) FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c'),
	't', 'and verify');

# the extension does not leave with histories in it unless told to
my ($rc, $out, $err) = $node->psql('behind', 'DROP EXTENSION avcurate');
isnt($rc, 0, 'DROP EXTENSION is refused while there are histories');
is($node->psql('behind', 'DROP EXTENSION avcurate CASCADE'), 0, 'DROP EXTENSION CASCADE');
is($node->safe_psql('behind', 'SELECT count(*) > 0 FROM night'), 't', 'and the views stay');
is($node->psql('behind', 'REFRESH MATERIALIZED VIEW night; DROP MATERIALIZED VIEW night'), 0, 'as ordinary ones');

$node->stop;
done_testing();
