# Versions are read on a hot standby; after its promotion refreshes go on.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use SliceTest;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->start;
$primary->safe_psql('postgres', SliceTest::setup_sql());
$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->start;

$primary->safe_psql('postgres', q{
SELECT avcurate.create_dataset('frames');
SELECT add_frames(40);
SELECT avcurate.create_slice('night', 'frames', $$timeofday = 'night'$$);
SELECT remember('night');
UPDATE frames SET image_bytes = jpeg('new ' || frame_id), weather = 'rainy' WHERE frame_id % 3 = 0;
REFRESH MATERIALIZED VIEW night;
SELECT remember('night');
DELETE FROM frames WHERE frame_id % 5 = 0;
SELECT avcurate.refresh_slice('night'), remember('night');
});
$primary->wait_for_catchup($standby);

my $versions = q{SELECT version, rows, digest FROM avcurate.slice_versions ORDER BY 1};
is($standby->safe_psql('postgres', $versions), $primary->safe_psql('postgres', $versions), 'the standby lists the versions');
is($standby->safe_psql('postgres', q{SELECT * FROM compare('night')}), '', 'and reads them');
is($standby->safe_psql('postgres', q{SELECT bool_and(c.verified) FROM avcurate.slice_versions v, avcurate.verify_slice('night', v.version) c}), 't', 'and verifies them');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM avcurate.slice_diff(NULL::night, 1, 3)}),
	$primary->safe_psql('postgres', q{SELECT count(*) FROM avcurate.slice_diff(NULL::night, 1, 3)}), 'and compares them');
my ($rc, $out, $err) = $standby->psql('postgres', q{SELECT avcurate.refresh_slice('night')});
like($err, qr/cannot execute refresh_slice\(\) in a read-only transaction|cannot execute refresh_slice\(\) during recovery/, 'refresh_slice is refused there');
($rc, $out, $err) = $standby->psql('postgres', 'REFRESH MATERIALIZED VIEW night');
like($err, qr/cannot execute REFRESH MATERIALIZED VIEW (in a read-only transaction|during recovery)/, 'and REFRESH');

$primary->stop;
$standby->promote;
$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
$standby->safe_psql('postgres', q{SELECT add_frames(7); REFRESH MATERIALIZED VIEW night; SELECT remember('night');
	UPDATE frames SET weather = 'foggy' WHERE frame_id = 1; SELECT avcurate.refresh_slice('night'), remember('night'), check_fresh('night');});
is($standby->safe_psql('postgres', 'SELECT max(version) FROM avcurate.slice_versions'), 5, 'after promotion versions go on');
is($standby->safe_psql('postgres', q{SELECT * FROM compare('night')}), '', 'all of them whole');
$standby->stop;
done_testing();
