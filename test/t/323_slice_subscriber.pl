# A dataset that logical replication feeds, with slices of its own: inserts,
# updates, deletes and TRUNCATE that the apply worker makes are followed by
# difference, and images that it replaces stay readable.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use SliceTest;

my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init(allows_streaming => 'logical');
$publisher->append_conf('postgresql.conf', "logical_decoding_work_mem = 64kB\n");
$publisher->start;
my $subscriber = PostgreSQL::Test::Cluster->new('subscriber');
$subscriber->init;
$subscriber->append_conf('postgresql.conf', "avcurate.refresh_full_threshold = 1\n");
$subscriber->start;
$_->safe_psql('postgres', SliceTest::setup_sql()) foreach $publisher, $subscriber;

$publisher->safe_psql('postgres', q{
SELECT avcurate.create_dataset('frames');
SELECT add_frames(60);
CREATE PUBLICATION frames FOR TABLE frames;
-- nobody subscribes to it: it only asks for a replica identity of every table
CREATE PUBLICATION everything FOR ALL TABLES;
SELECT avcurate.create_slice('day', 'frames', $$timeofday = 'day'$$);
});
$subscriber->safe_psql('postgres', q{
SELECT avcurate.create_dataset('frames');
SELECT avcurate.create_slice('night', 'frames', $$timeofday = 'night' AND weather <> 'foggy'$$);
SELECT avcurate.create_slice('everything', 'frames', 'true');
SELECT remember('night'), remember('everything');
});
$subscriber->safe_psql('postgres', sprintf(
	"CREATE SUBSCRIPTION frames CONNECTION '%s' PUBLICATION frames WITH (streaming = on)", $publisher->connstr . ' dbname=postgres'));

# Wait until the subscriber has all, refresh there and compare.
sub follow
{
	my ($label, $mode, $sql) = @_;
	$publisher->safe_psql('postgres', $sql);
	$publisher->wait_for_catchup('frames');
	my ($rc, $out, $err) = $subscriber->psql('postgres', qq{
SELECT avcurate.refresh_slice('night') \\g /dev/null
SELECT avcurate.refresh_slice('everything') \\g /dev/null
SELECT remember('night'), remember('everything') \\g /dev/null
SELECT check_fresh('night'), check_fresh('everything') \\g /dev/null
SELECT mode FROM avcurate.slice_versions WHERE slice = 'everything'::regclass ORDER BY version DESC LIMIT 1;}, on_error_stop => 1);
	is("$out$err", $mode, "$label: refreshed right");
	my $rows = 'SELECT frame_id, md5(f::text) FROM frames f ORDER BY 1';
	is($subscriber->safe_psql('postgres', $rows), $publisher->safe_psql('postgres', $rows), "$label: replicated");
}

$subscriber->wait_for_subscription_sync($publisher, 'frames');
follow('initial copy', 'incremental', 'SELECT 1');
follow('inserts', 'incremental', 'SELECT add_frames(7)');
follow('updates', 'incremental', q{UPDATE frames SET timeofday = 'night' WHERE frame_id % 5 = 1; UPDATE frames SET weather = 'foggy' WHERE frame_id % 7 = 2});
follow('images', 'incremental', q{UPDATE frames SET image_bytes = jpeg('other ' || frame_id) WHERE frame_id % 6 = 0});
follow('deletes', 'incremental', q{DELETE FROM frames WHERE frame_id % 8 = 3});
follow('delete and insert again', 'incremental', q{
	BEGIN;
	CREATE TEMP TABLE again AS SELECT * FROM frames WHERE frame_id % 10 = 4;
	DELETE FROM frames WHERE frame_id % 10 = 4;
	UPDATE again SET scene = 'back' WHERE frame_id % 20 = 4;
	INSERT INTO frames OVERRIDING SYSTEM VALUE SELECT * FROM again;
	COMMIT;});
follow('the key', 'incremental', q{
	BEGIN;
	SET LOCAL session_replication_role = replica;
	UPDATE frames SET frame_id = DEFAULT WHERE frame_id IN (1, 5, 9);
	COMMIT;});
follow('savepoints', 'incremental', q{
	BEGIN;
	SELECT add_frames(3);
	SAVEPOINT a;
	DELETE FROM frames WHERE frame_id % 3 = 0;
	SELECT add_frames(3);
	ROLLBACK TO a;
	DELETE FROM frames WHERE frame_id % 20 = 0;
	COMMIT;});
# more than the publisher keeps in memory: sent while it is open, in part undone
follow('large transaction', 'incremental', q{
	BEGIN;
	SELECT add_frames(200);
	SAVEPOINT a;
	SELECT add_frames(200);
	DELETE FROM frames WHERE frame_id < 40;
	ROLLBACK TO a;
	UPDATE frames SET scene = repeat('streamed ', 20);
	COMMIT;});
follow('TRUNCATE', 'full', 'TRUNCATE frames; SELECT add_frames(50)');
follow('after it', 'incremental', q{DELETE FROM frames WHERE timeofday = 'night' AND weather = 'clear'; SELECT add_frames(5)});

# refreshes while transactions are being applied
my $bench = $publisher->basedir . '/writes.sql';
append_to_file($bench, q{\set n random(0, 30)
BEGIN;
SELECT add_frames(3);
UPDATE frames SET timeofday = CASE timeofday WHEN 'night' THEN 'day' ELSE 'night' END WHERE frame_id % 31 = :n;
DELETE FROM frames WHERE frame_id % 37 = :n;
COMMIT;
});
my $writers = IPC::Run::start(['pgbench', '-n', '-t', 60, '-f', $bench, $publisher->connstr('postgres')], '>', \my $out, '2>', \my $err);
my $refreshes = 0;
while ($writers->pumpable)
{
	$subscriber->safe_psql('postgres', q{SELECT avcurate.refresh_slice('night'), avcurate.refresh_slice('everything')});
	$refreshes++;
	$writers->pump_nb;
}
$writers->finish;
cmp_ok($refreshes, '>', 0, "refreshes meanwhile ($refreshes)");
follow('writers', 'incremental', 'SELECT add_frames(1)');

# written here as well
$subscriber->safe_psql('postgres', q{UPDATE frames SET scene = 'local' WHERE timeofday = 'night'; DELETE FROM frames WHERE frame_id = (SELECT min(frame_id) FROM night);
	SELECT avcurate.refresh_slice('night'); SELECT remember('night'), check_fresh('night')});

is($subscriber->safe_psql('postgres', q{SELECT v.slice, v.version, c.detail FROM avcurate.slice_versions v,
		avcurate.verify_slice(v.slice, v.version) c WHERE NOT (c.verified AND c.rows = v.rows)}), '', 'every version verifies, images included');
foreach my $slice ('night', 'everything')
{
	is($subscriber->safe_psql('postgres', qq{SELECT * FROM compare('$slice') c
		WHERE EXISTS (SELECT FROM saved s WHERE s.slice = '$slice' AND s.version = c.version)}), '', "$slice: versions equal the copies kept of them");
}
is($publisher->safe_psql('postgres', q{SELECT avcurate.refresh_slice('day'); SELECT check_fresh('day')}), "2\n", 'the publisher has slices of its own');
my (undef, undef, $errors) = $publisher->psql('postgres', q{
UPDATE frames SET image_bytes = jpeg('own ' || frame_id) WHERE frame_id % 2 = 0;
REFRESH MATERIALIZED VIEW day;
DELETE FROM frames WHERE frame_id % 7 = 0;
REFRESH MATERIALIZED VIEW CONCURRENTLY day;
SELECT avcurate.tag_slice('day', 2, 'kept'), avcurate.untag_slice('day', 'kept');
SELECT count(*) FROM avcurate.prune_slice('day', 1);
SET client_min_messages = warning;
SELECT min(frame_id) AS frame FROM day \gset
SELECT count(*) FROM avcurate.erase_frame('frames', :frame, 'published');
SELECT avcurate.alter_slice('day', filter => 'frame_id > 0'), avcurate.alter_slice('day', columns => '{frame_id, scene}');
SELECT check_fresh('day');
SELECT avcurate.untrack_slice('day');
DROP TABLE frames CASCADE;}, on_error_stop => 1);
is($errors, '', 'and nothing that it does with them needs a key that a table of ours lacks');

$subscriber->stop;
$publisher->stop;
done_testing();
