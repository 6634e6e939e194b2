# Writers and refreshers at once, and backends killed in the middle of it:
# every version is whole afterwards.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use FindBin;
use lib $FindBin::Bin;
use ServerTest;
use SliceTest;

my $long = $ENV{AVC_LONG} ? 1 : 0;
my $node = PostgreSQL::Test::Cluster->new('crash');
$node->init;
$node->append_conf('postgresql.conf', qq{
restart_after_crash = on
wal_consistency_checking = 'heap,heap2,btree'
autovacuum_naptime = 1s
fsync = off
});
$node->start;
$node->safe_psql('postgres', SliceTest::setup_sql());
$node->safe_psql('postgres', q{
CREATE EXTENSION amcheck;
SELECT avcurate.create_dataset('frames');
SELECT add_frames(400);
SELECT avcurate.create_slice('night', 'frames', $$timeofday = 'night' AND weather <> 'foggy'$$);
CREATE INDEX ON night (weather, scene);
CREATE UNIQUE INDEX ON night (image_id);
CREATE INDEX ON night (upper(weather), (ann_bboxes[1][3] - ann_bboxes[1][1]));
CREATE INDEX ON night (scene) WHERE ann_bboxes IS NOT NULL;
SELECT remember('night');
});

my $dir = $node->basedir;
my %script = (
	insert => 'SELECT add_frames(3);',
	update => q{\set n random(0, 30)
BEGIN; UPDATE frames SET timeofday = CASE timeofday WHEN 'night' THEN 'day' ELSE 'night' END WHERE frame_id % 31 = :n;
SAVEPOINT a; UPDATE frames SET scene = 'x' WHERE frame_id % 31 = :n; ROLLBACK TO a; COMMIT;},
	image => q{\set n random(0, 40)
UPDATE frames SET image_bytes = jpeg('again ' || frame_id || clock_timestamp()) WHERE frame_id % 41 = :n;},
	swap => q{\set n random(1, 90)
BEGIN; SELECT frame_id, image_id FROM frames WHERE frame_id IN (:n, :n + 1) ORDER BY frame_id FOR UPDATE;
CREATE TEMP TABLE swapped ON COMMIT DROP AS SELECT frame_id, image_id FROM frames WHERE frame_id IN (:n, :n + 1);
UPDATE frames SET image_id = 'swapping ' || frame_id WHERE frame_id IN (:n, :n + 1);
UPDATE frames f SET image_id = s.image_id FROM swapped s WHERE f.frame_id = :n * 2 + 1 - s.frame_id AND f.frame_id IN (:n, :n + 1);
COMMIT;},
	delete => q{\set n random(0, 50)
DELETE FROM frames WHERE frame_id % 53 = :n AND frame_id > 100;},
	refresh => q{BEGIN; SELECT avcurate.refresh_slice('night'); SELECT remember('night'); COMMIT;},
	plain => q{BEGIN; REFRESH MATERIALIZED VIEW night; SELECT remember('night'); COMMIT;},
	concurrently => q{BEGIN; REFRESH MATERIALIZED VIEW CONCURRENTLY night; SELECT remember('night'); COMMIT;},
	read => q{SELECT count(*) FROM night;},
	prune => q{BEGIN; SELECT count(*) FROM avcurate.prune_slice('night', 25); COMMIT;},
);
my %weight = (insert => 3, update => 6, image => 3, delete => 3, swap => 3, refresh => 2, plain => 2, concurrently => 2, read => 3, prune => 1);
my @scripts;
foreach my $name (sort keys %script)
{
	append_to_file("$dir/$name.sql", $script{$name} . "\n");
	push @scripts, '-f', "$dir/$name.sql\@$weight{$name}";
}

sub bench
{
	my ($seconds, $clients) = @_;
	return IPC::Run::start(
		['pgbench', '-n', '-c', $clients, '-j', 2, '-T', $seconds, '--max-tries=20', @scripts, $node->connstr('postgres')],
		'>', \my $out, '2>', \my $err);
}

sub check
{
	my ($when) = @_;
	is($node->safe_psql('postgres', "SELECT * FROM compare('night')"), '', "$when: every version equals its copy");
	is($node->safe_psql('postgres',
			"SELECT v.version, c.detail FROM avcurate.slice_versions v, avcurate.verify_slice('night', v.version) c "
			  . "WHERE v.slice = 'night'::regclass AND NOT c.verified"),
		'', "$when: every version verifies");
	is($node->safe_psql('postgres', "SELECT avcurate.refresh_slice('night'); SELECT remember('night') > 0, check_fresh('night')"),
		$node->safe_psql('postgres', 'SELECT max(version) FROM avcurate.slice_versions') . "\nt|",
		"$when: a refresh yields what the definition says");
	is($node->safe_psql('postgres', q{
		SELECT count(*) FROM (SELECT bt_index_check(indexrelid, true) FROM pg_index
			WHERE indrelid IN ('night'::regclass, '_avcurate.history_1'::regclass, '_avcurate.archive'::regclass)) i;
		SELECT * FROM verify_heapam('night') UNION ALL SELECT * FROM verify_heapam('_avcurate.history_1')
			UNION ALL SELECT * FROM verify_heapam('_avcurate.archive');}),
		"7", "$when: heaps and indexes are sound");
}

my $run = bench($long ? 60 : 6, 5);
$run->finish;
my $versions = $node->safe_psql('postgres', 'SELECT max(version) FROM avcurate.slice_versions');
cmp_ok($versions, '>', 20, "writers and refreshers made versions ($versions)");
check('under load');

srand($ENV{AVC_SEED} || 3);
my $kills = $long ? 20 : 3;
foreach my $round (1 .. $kills)
{
	my $bench = bench(10, 4);
	usleep(300_000 + int rand 700_000);
	# a backend that is in a refresh, if there is one
	my $pid = '';
	foreach (1 .. 200)
	{
		$pid = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity
			WHERE pid <> pg_backend_pid() AND state = 'active' AND query ~ 'refresh_slice|REFRESH' LIMIT 1});
		last if $pid;
	}
	ok($pid && kill('KILL', $pid), "round $round: killed a backend in a refresh");
	eval { $bench->finish };
	wait_for_server($node);
}
check('after crashes');
$node->stop('immediate');
$node->start;
check('after an immediate stop');

$node->stop;
done_testing();
