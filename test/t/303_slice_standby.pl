# Versions are read on a hot standby; after its promotion, after pg_rewind and
# after recovery to an earlier point refreshes go on, whatever watermark the
# files hold.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use SliceTest;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1, extra => ['--data-checksums']);
$primary->enable_archiving;
$primary->append_conf('postgresql.conf', "avcurate.refresh_full_threshold = 1\nwal_keep_size = 256MB\n");
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
my $batches = q{SELECT batch_no, frame_id, sha256(image_bytes), labels, boxes FROM avcurate.batches('night', 4, 1, seed => 3) ORDER BY position};
is($standby->safe_psql('postgres', $batches), $primary->safe_psql('postgres', $batches), 'and makes batches of one that holds archived images');
my $newest = q{SELECT count(*), sum(octet_length(image_bytes)) FROM avcurate.batches('night', 4)};
is($standby->safe_psql('postgres', $newest), $primary->safe_psql('postgres', $newest), 'and of the newest');
is($standby->safe_psql('postgres', q{SELECT slice, version, rows, incremental FROM avcurate.slices}), 'night|3|16|t', 'and lists the slice');

$primary->safe_psql('postgres', q{DELETE FROM frames WHERE frame_id IN (SELECT frame_id FROM night LIMIT 2); SELECT add_frames(4)});
$primary->wait_for_catchup($standby);
my $explain = q{SELECT mode, changed_rows FROM avcurate.explain_refresh('night')};
is($standby->safe_psql('postgres', $explain), $primary->safe_psql('postgres', $explain), 'and explains the next refresh');
like($standby->safe_psql('postgres', $explain), qr/^incremental\|\d+$/, 'which goes by difference');
my ($rc, $out, $err) = $standby->psql('postgres', q{SELECT avcurate.refresh_slice('night')});
like($err, qr/cannot execute refresh_slice\(\) in a read-only transaction|cannot execute refresh_slice\(\) during recovery/, 'refresh_slice is refused there');
($rc, $out, $err) = $standby->psql('postgres', 'REFRESH MATERIALIZED VIEW night');
like($err, qr/cannot execute REFRESH MATERIALIZED VIEW (in a read-only transaction|during recovery)/, 'and REFRESH');

($rc, $out, $err) = $standby->psql('postgres', $_) and like($err, qr/cannot execute \S+ (in a read-only transaction|during recovery)/, "and $_")
  foreach q{SELECT * FROM avcurate.refresh_slices()}, q{SELECT avcurate.prune_slice('night', 1)}, q{SELECT avcurate.tag_slice('night', 1, 'x')}, q{SELECT avcurate.untrack_slice('night')};

# What the next refresh of a server starts from: its own past, whatever it was.
sub refreshed
{
	my ($node, $label, $mode) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', q{
SELECT avcurate.refresh_slice('night', 'first') \g /dev/null
SELECT remember('night') \g /dev/null
SELECT check_fresh('night') \g /dev/null
DELETE FROM frames WHERE frame_id IN (SELECT frame_id FROM night ORDER BY 1 LIMIT 1);
SELECT add_frames(3) \g /dev/null
UPDATE frames SET scene = 'later' WHERE frame_id % 7 = 2;
SELECT avcurate.refresh_slice('night', 'second') \g /dev/null
SELECT remember('night') \g /dev/null
SELECT check_fresh('night') \g /dev/null
SELECT string_agg(mode, ' ') FROM (SELECT mode FROM avcurate.slice_versions ORDER BY version DESC LIMIT 2) v;
SELECT * FROM compare('night');
SELECT v.version, c.detail FROM avcurate.slice_versions v, avcurate.verify_slice('night', v.version) c WHERE NOT c.verified;
}, on_error_stop => 1);
	like("$out$err", qr/\A$mode\z/, "$label: refreshed, and by difference");
}

# a transaction that is open when the primary fails, and writes after the
# last refresh: both are behind the watermark that the standby has
my $open = IPC::Run::start(['psql', '-qXAt', '-d', $primary->connstr('postgres') . ' application_name=open', '-c', 'BEGIN; SELECT add_frames(8); DELETE FROM frames WHERE frame_id IN (2, 4, 7, 14)', '-c', 'SELECT pg_sleep(180)'],
	'>', \my $ignored, '2>', \my $errors);
$primary->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'open' AND wait_event = 'PgSleep'});
$primary->safe_psql('postgres', q{SELECT add_frames(3); SELECT avcurate.refresh_slice('night'); SELECT remember('night'); SELECT pg_create_restore_point('earlier');
	SELECT add_frames(5); UPDATE frames SET weather = 'foggy' WHERE frame_id % 3 = 0; DELETE FROM frames WHERE frame_id % 10 = 8;});
$primary->wait_for_catchup($standby);
$standby->promote;
$standby->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');

# the old primary goes on by itself for a while
$primary->safe_psql('postgres', q{SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name = 'open'});
$open->finish;
refreshed($primary, 'left behind', 'incremental incremental');
$primary->safe_psql('postgres', q{SELECT pg_switch_wal()});
refreshed($standby, 'promoted', 'incremental incremental');

# and becomes a standby of the new one, then a primary again
$primary->stop;
$standby->safe_psql('postgres', 'CHECKPOINT');
command_ok(['pg_rewind', '--source-server', $standby->connstr('postgres'), '--target-pgdata', $primary->data_dir, '--no-sync', '--config-file', $primary->data_dir . '/postgresql.conf'],
	'pg_rewind');
$primary->append_conf('postgresql.conf', sprintf("port = %d\nprimary_conninfo = '%s'\narchive_mode = off\n", $primary->port, $standby->connstr));
$primary->set_standby_mode;
$primary->start;
$standby->safe_psql('postgres', q{SELECT add_frames(4); DELETE FROM frames WHERE frame_id % 10 = 2});
$standby->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn()});
is($primary->safe_psql('postgres', $versions), $standby->safe_psql('postgres', $versions), 'rewound: the versions of the other');
$primary->promote;
$primary->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
refreshed($primary, 'rewound and promoted', 'incremental incremental');

# back to an earlier point: later versions never were
my $earlier = PostgreSQL::Test::Cluster->new('earlier');
$earlier->init_from_backup($primary, 'copy', has_restoring => 1, standby => 0);
$earlier->append_conf('postgresql.conf', "recovery_target_name = 'earlier'\nrecovery_target_timeline = '1'\nrecovery_target_action = 'promote'\n");
$earlier->start;
$earlier->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
is($earlier->safe_psql('postgres', 'SELECT max(version) FROM avcurate.slice_versions'), 4, 'recovered to an earlier point');
$earlier->safe_psql('postgres', q{SELECT add_frames(5); DELETE FROM frames WHERE frame_id % 10 = 7});
refreshed($earlier, 'recovered', 'incremental incremental');

$_->stop foreach $earlier, $primary, $standby;
done_testing();
