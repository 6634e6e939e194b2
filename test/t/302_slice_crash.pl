# Writers and refreshers at once, and backends killed in the middle of a
# refresh, an alter_slice, an erase_frame: every version is whole afterwards,
# and the next refresh goes on by difference.  What recovery replays is
# compared with what was written (wal_consistency_checking).
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use FindBin;
use lib $FindBin::Bin;
use OracleSession;
use ServerTest;
use SliceTest;

my $long = $ENV{AVC_LONG} ? 1 : 0;
my $node = PostgreSQL::Test::Cluster->new('crash');
$node->init;
# Setting a bit of the visibility map is the one record that touches a page
# without an image of it, unless hint bits are logged: replayed for a page that
# was cut off later, the comparison would find zeros there and end recovery.
$node->append_conf('postgresql.conf', qq{
restart_after_crash = on
wal_consistency_checking = all
wal_log_hints = on
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
	alter => q{\set n random(0, 1)
BEGIN; SELECT avcurate.alter_slice('night', CASE WHEN :n = 0 THEN $$timeofday = 'night' AND weather <> 'foggy'$$ ELSE $$timeofday = 'night'$$ END);
SELECT remember('night'); COMMIT;},
	prune => q{BEGIN; SELECT count(*) FROM avcurate.prune_slice('night', 25); COMMIT;},
);
my %weight = (insert => 3, update => 6, image => 3, delete => 3, swap => 3, refresh => 2, plain => 2, concurrently => 2, read => 3, prune => 1, alter => 1);
append_to_file("$dir/$_.sql", "$script{$_}\n") foreach sort keys %script;

my @writers = grep { !/^(refresh|plain|concurrently|read|prune|alter)$/ } sort keys %script;

sub bench
{
	my ($seconds, $clients, @names) = @_;
	my @scripts = map { ('-f', "$dir/$_.sql\@$weight{$_}") } @names;
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
			  . "WHERE v.slice = 'night'::regclass AND NOT (c.verified AND c.rows = v.rows - c.erased)"),
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

my $run = bench($long ? 60 : 6, 5, sort keys %script);
$run->finish;
my $versions = $node->safe_psql('postgres', 'SELECT max(version) FROM avcurate.slice_versions');
cmp_ok($versions, '>', 20, "writers and refreshers made versions ($versions)");
check('under load');

# ---- killed at a random moment ----------------------------------------------

srand($ENV{AVC_SEED} || 3);
$node->safe_psql('postgres', q{SELECT add_frames(1000); SELECT count(*) FROM avcurate.prune_slice('night', 5);});
my %victim = (
	refresh_slice => sub { "SELECT avcurate.refresh_slice('night');" },
	plain => sub { 'REFRESH MATERIALIZED VIEW night;' },
	concurrently => sub { 'REFRESH MATERIALIZED VIEW CONCURRENTLY night;' },
	alter_slice => sub { q{SELECT avcurate.alter_slice('night', CASE WHEN filter ~ 'foggy' THEN $$timeofday = 'night'$$
		ELSE $$timeofday = 'night' AND weather <> 'foggy'$$ END) FROM avcurate.slices;} },
	erase_frame => sub { "SELECT count(*) FROM avcurate.erase_frame('frames', $_[0], 'asked for');" },
);
my @kinds = $long
	? (('refresh_slice') x 20, ('plain') x 10, ('concurrently') x 10, ('alter_slice') x 10, ('erase_frame') x 10)
	: (('refresh_slice') x 3, 'plain', 'alter_slice', 'erase_frame');

# How long it takes, so that it can be killed at any moment of that.
sub measure
{
	my ($session, $sql) = @_;
	$session->ask("UPDATE frames SET timeofday = CASE timeofday WHEN 'night' THEN 'day' ELSE 'night' END WHERE frame_id % 5 = 1;"
		. "UPDATE frames SET image_bytes = jpeg('once more ' || frame_id || clock_timestamp()) WHERE frame_id % 11 = 1;");
	my $start = time;
	my (undef, $err) = $session->ask("BEGIN;\n$sql\nROLLBACK;");
	die $err if $err =~ /ERROR/;
	return time - $start;
}

# Kill a backend at it, and look at what is left.  Was it in time?  Sooner with
# each try: what was measured may have been slower than what follows.
sub strike
{
	my ($kind, $tries) = @_;
	# one that several versions hold
	my $frame = $node->safe_psql('postgres', 'SELECT frame_id FROM _avcurate.history_1 WHERE to_version IS NULL ORDER BY from_version LIMIT 1');
	my $sql = $victim{$kind}->($frame);
	my $session = OracleSession->new($node, $kind, client_min_messages => 'error', 'avcurate.refresh_full_threshold' => 1);
	my ($pid) = $session->ask('SELECT pg_backend_pid();');
	my $bench = bench(10, 2, @writers);
	my $duration = measure($session, $sql);
	$session->feed($sql);
	usleep(800_000 / $tries * rand $duration);
	my $was_at_it = $session->poll > 0;
	kill 'KILL', $pid;
	eval { $bench->finish };
	wait_for_server($node);
	$session->end;
	note sprintf '%s of %.0f ms, killed %s', $kind, $duration * 1000, $was_at_it ? 'within' : 'after';

	my $is_erased = $node->safe_psql('postgres', "SELECT NOT EXISTS (SELECT FROM frames WHERE frame_id = $frame)");
	if ($kind eq 'erase_frame' && $is_erased eq 't')
	{
		$node->safe_psql('postgres', "DELETE FROM saved WHERE row_text LIKE '($frame,%'");
		is($node->safe_psql('postgres', "SELECT count(*) FROM _avcurate.history_1 WHERE frame_id = $frame"), 0, 'erased is erased');
	}
	$node->safe_psql('postgres', q{SELECT remember('night')});
	like($node->safe_psql('postgres', q{SET avcurate.refresh_full_threshold = 1; SELECT mode, reason FROM avcurate.explain_refresh('night')}),
		qr/^(incremental|none)\|/, "$kind: goes on by difference after a crash");
	check("$kind crashed");
	return $was_at_it;
}

foreach my $kind (@kinds)
{
	my $tries = 1;
	$tries++ until strike($kind, $tries) || $tries == 12;
	cmp_ok($tries, '<', 12, "killed in the middle of $kind");
}

$node->stop('immediate');
$node->start;
check('after an immediate stop');

$node->stop;
done_testing();
