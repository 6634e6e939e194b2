# Random histories: three writers at once, long transactions among them,
# and refreshes of every kind, held against an oracle (OracleTest.pm).
#
# AVC_SEED repeats the decisions, though not the scheduling.  AVC_LONG makes
# it longer, AVC_SOAK_MINUTES as long as that.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use FindBin;
use lib $FindBin::Bin;
use OracleSession;
use OracleTest;
use OracleWrites;
use SliceTest;

my $soak = 60 * ($ENV{AVC_SOAK_MINUTES} || 0);
my $long = $ENV{AVC_LONG} || $soak;
my $rounds = $long ? 40 : 15;
my $wanted = $long ? 2_000 : 500;
my $seed = $ENV{AVC_SEED} || ($soak ? time % 100_000 : 7);
$seed = int $seed;
srand($seed);
note "AVC_SEED=$seed";

my $gate = $OracleWrites::gate;
my @slices = ('night', 'few', 'hashes', 'words', 'crowded');

# A function of a definition that can be told to take its time.
sub rank_sql
{
	return 'CREATE OR REPLACE FUNCTION rank(words integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS '
		. "'BEGIN IF current_setting(''oracle.slow'', true) = ''on'' THEN PERFORM pg_sleep(0.0002); END IF; RETURN words / $_[0]; END';\n";
}

my $node = PostgreSQL::Test::Cluster->new('oracle');
$node->init;
$node->append_conf('postgresql.conf', qq{
fsync = off
autovacuum_naptime = 1s
deadlock_timeout = 50ms
track_commit_timestamp = on
max_prepared_transactions = 10
shared_buffers = 64MB
});
$node->start;
$node->safe_psql('postgres', SliceTest::setup_sql());
$node->safe_psql('postgres', q{
CREATE EXTENSION amcheck;
SELECT avcurate.create_dataset('frames');
SELECT avcurate.add_feature('frames', 'words', 'length(scene)');
SELECT add_frames(800);
UPDATE frames SET words = frame_id % 9;
});
$node->safe_psql('postgres', OracleTest::setup_sql() . q{
SELECT avcurate.create_slice('night', 'frames', $$timeofday = 'night' AND weather <> 'foggy'$$);
CREATE INDEX ON night (weather, split);
CREATE UNIQUE INDEX ON night (image_id);
CREATE INDEX ON night (upper(weather), (ann_bboxes[1][3] - ann_bboxes[1][1]));
CREATE INDEX ON night (words) WHERE ann_bboxes IS NOT NULL;
SELECT avcurate.create_slice('few', 'frames', 'words < 6', '{weather}');
CREATE INDEX ON few (weather);
CREATE MATERIALIZED VIEW hashes AS SELECT f.frame_id, f.image_sha256 FROM frames f;
CREATE UNIQUE INDEX ON hashes (frame_id);
SELECT avcurate.track_slice('hashes');
} . rank_sql(2) . q{
CREATE MATERIALIZED VIEW words AS SELECT rank(f.words::integer) AS rank, f.scene || '!' AS loud, f.frame_id,
	CASE WHEN f.words > 3 THEN f.ann_bboxes END AS boxes, f.split FROM frames f WHERE f.words BETWEEN 1 AND 6 OR f.weather IS NULL;
CREATE UNIQUE INDEX ON words (frame_id);
CREATE INDEX ON words (rank, split);
CREATE INDEX ON words USING hash (split);
CREATE INDEX ON words USING brin (frame_id) WITH (pages_per_range = 2);
CREATE INDEX ON words USING gin (boxes);
SELECT avcurate.track_slice('words');
CREATE MATERIALIZED VIEW crowded AS
	SELECT f.frame_id, f.image_sha256, count(*) AS boxes, max(c) AS category
	FROM frames f CROSS JOIN LATERAL unnest(f.ann_categories) c
	GROUP BY f.frame_id, f.image_sha256;
CREATE UNIQUE INDEX ON crowded (frame_id);
SELECT avcurate.track_slice('crowded');
CREATE FUNCTION refresh_static() RETURNS void LANGUAGE plpgsql AS
	'BEGIN REFRESH MATERIALIZED VIEW night; END';
CREATE FUNCTION refresh_sql() RETURNS void LANGUAGE sql AS
	'REFRESH MATERIALIZED VIEW night; REFRESH MATERIALIZED VIEW CONCURRENTLY words;';
} . OracleTest::start_sql() . join '', map { "SELECT oracle.remember('$_');" } @slices);

my %quiet = (client_min_messages => 'warning');
my @writers = map { OracleSession->new($node, "writer $_", %quiet) } 1 .. 3;
my $keeper = OracleSession->new($node, 'maintenance', %quiet);
my $refresher = OracleSession->new($node, 'refresher', %quiet);
my $second = OracleSession->new($node, 'second refresher', %quiet);
my $ticker = OracleSession->new($node, 'ticker', %quiet);
my @sessions = (@writers, $keeper, $refresher, $second, $ticker);
my $writes = OracleWrites->new(very_long => $long ? 0.1 : 0);
my $own = OracleWrites->new(is_own => 1, prefix => 'own', truncates => 0);
my @faults;

# ---- kinds of refresh: scripts, exact if nobody commits meanwhile -----------

sub pick { return $_[ rand @_ ] }
sub before { return "SELECT pg_current_snapshot() AS before \\gset\n" }

sub refreshed
{
	my ($exact, @these) = @_;
	return join '', map { "SELECT oracle.refreshed('$_', :'before', " . ($exact ? 'true' : 'false') . ");\n" } @these;
}

# One refresh of one slice and its check, for the inside of a transaction.
sub step
{
	my ($exact, $slice, $how) = @_;
	$how ||= pick("SELECT avcurate.refresh_slice('$slice');", "SELECT avcurate.refresh_slice('$slice');",
		"REFRESH MATERIALIZED VIEW $slice;", "REFRESH MATERIALIZED VIEW CONCURRENTLY $slice;");
	$how = "SET LOCAL oracle.slow = on;\n$how\nSET LOCAL oracle.slow = off;" if $slice eq 'words' && $how =~ /^REFRESH/ && !$exact;
	return before() . "$how\n" . refreshed($exact, $slice) unless $how =~ /refresh_slice\(/;
	return "SELECT oracle.explain('$slice');\n" . before() . "$how\n"
		. "SELECT oracle.as_explained('$slice', " . ($exact ? 'true' : 'false') . ");\n" . refreshed($exact, $slice);
}

sub alter_filter
{
	my ($slice) = @_;
	my $filter = pick("timeofday = 'night' AND weather <> 'foggy'", "timeofday = 'night'", "timeofday = 'night' OR words = " . int rand 9,
		'words < ' . (2 + int rand 7), "scene <> 'streeta' AND weather <> 'rainy'");
	return "SELECT avcurate.alter_slice('$slice', \$\$$filter\$\$);";
}

sub fill { return pick("SELECT avcurate.refresh_slice('$_[0]');", "REFRESH MATERIALIZED VIEW $_[0];") }

# The ticker gets ids beyond one's own meanwhile.
sub doze { return pick('', "SELECT pg_sleep(0.05);\n") }

sub within { return "BEGIN$_[0];\n$_[1]" . ($_[2] || 'COMMIT') . ";\n" }

my %kind = (
	refresh_slice => [ 4, sub { my $e = shift; within('', join '', map { step($e, $_, "SELECT avcurate.refresh_slice('$_', 'a note');") } @slices) } ],
	refresh_slices => [ 2, sub { within('', before() . "SELECT count(*) FROM avcurate.refresh_slices('frames');\n" . refreshed($_[0], @slices)) } ],
	plain => [ 2, sub { my $e = shift; join '', map { within('', step($e, $_, "REFRESH MATERIALIZED VIEW $_;")) } @slices } ],
	concurrently => [ 2, sub { my $e = shift; join '', map { within('', step($e, $_, "REFRESH MATERIALIZED VIEW CONCURRENTLY $_;")) } @slices } ],
	# the snapshot is of the command itself, as it is for most users
	alone => [ 2, sub { my $s = pick(@slices); before() . pick("SELECT avcurate.refresh_slice('$s');", "REFRESH MATERIALIZED VIEW $s;") . "\n" . refreshed($_[0], $s) } ],
	no_data => [ 1, sub { my $s = pick(@slices); "REFRESH MATERIALIZED VIEW $s WITH NO DATA;\n" . within('', step($_[0], $s, fill($s))) } ],
	no_data_within => [ 1, sub { my $s = pick(@slices);
		within('', $own->statement . "\nREFRESH MATERIALIZED VIEW $s WITH NO DATA;\n" . $own->statement . "\n" . step($_[0], $s, fill($s)), pick('COMMIT', 'ROLLBACK')) } ],
	functions => [ 1, sub { within('', before() . "SELECT refresh_static();\nSELECT oracle.remember('night');\nSELECT refresh_sql();\n" . refreshed($_[0], 'night', 'words')
		. $own->statement . "\n" . before() . "SELECT refresh_static();\n" . refreshed($_[0], 'night')) } ],
	own_writes => [ 4, sub { my ($e) = @_; my $s = pick(@slices);
		within('', $own->statement . "\n" . doze() . step($e, $s) . $own->statement . "\n" . step($e, $s) . $own->statement . "\n", pick('COMMIT', 'COMMIT', 'ROLLBACK')) } ],
	savepoints => [ 4, sub { my ($e) = @_; my $s = pick(@slices);
		within('', "SAVEPOINT a;\n" . $own->statement . "\n" . doze() . step($e, $s) . pick('ROLLBACK TO a', 'RELEASE a') . ";\n" . $own->statement
			. "\nSAVEPOINT b;\n" . step($e, $s) . pick('ROLLBACK TO b', 'RELEASE b') . ";\n" . step($e, $s), pick('COMMIT', 'COMMIT', 'ROLLBACK')) } ],
	do_block => [ 1, sub { "DO \$do\$BEGIN\nBEGIN\nUPDATE frames SET scene = 'undone' WHERE frame_id % 48 = 15;\n"
		. "PERFORM avcurate.refresh_slice('night'), avcurate.refresh_slice('words');\nREFRESH MATERIALIZED VIEW hashes;\nRAISE 'undo';\nEXCEPTION WHEN raise_exception THEN NULL;\nEND;\nEND\$do\$;\n"
		. within('', step($_[0], 'night', "DO \$do\$BEGIN UPDATE frames SET scene = 'done' WHERE frame_id % 48 = 31; EXECUTE 'REFRESH MATERIALIZED VIEW night'; PERFORM oracle.remember('night'); PERFORM refresh_static(); END\$do\$;")) } ],
	frozen_snapshot => [ 2, sub { my $s = pick(@slices);
		within(pick(' ISOLATION LEVEL REPEATABLE READ', ' ISOLATION LEVEL SERIALIZABLE'),
			$own->statement . "\n" . doze() . step(1, $s) . "SELECT pg_sleep(0.05);\n" . $own->statement . "\n" . step(1, $s), pick('COMMIT', 'COMMIT', 'ROLLBACK')) } ],
	cancelled => [ 1, sub { my $s = pick(@slices); within('', "SET LOCAL statement_timeout = '" . (1 + int rand 12) . "ms';\nSELECT avcurate.refresh_slice('$s');\nSET LOCAL statement_timeout = 0;\nSELECT oracle.remember('$s');\n") . within('', step($_[0], $s)) } ],
	other_index => [ 1, sub { my $s = pick(@slices);
		within('', "DROP INDEX ${s}_frame_id_idx;\nCREATE UNIQUE INDEX ${s}_frame_id_idx ON $s (frame_id);\n" . step($_[0], $s)) } ],
	alter_filter => [ 3, sub { my $e = shift; my $s = pick('night', 'few', 'hashes');
		within('', ($e ? $own->statement . "\n" : '') . step($e, $s, alter_filter($s)) . step($e, $s), pick('COMMIT', 'COMMIT', 'ROLLBACK'))
		. (rand() < 0.3 ? "REFRESH MATERIALIZED VIEW $s WITH NO DATA;\n" . within('', step($e, $s, alter_filter($s))) : '') } ],
	alter_columns => [ 2, sub { my $e = shift;
		my @columns = grep { rand() < 0.5 } 'scene', 'words', 'split', 'frame_time', 'image_id', 'timeofday';
		my $filter = rand() < 0.3 ? "'words < " . (4 + int rand 5) . "'" : 'NULL';
		within('', ($e ? $own->statement . "\n" : '') . step($e, 'few', "SELECT avcurate.alter_slice('few', $filter, '{" . join(',', 'weather', @columns) . "}');")
			. step($e, 'few'), pick('COMMIT', 'COMMIT', 'ROLLBACK')) } ],
	function_replaced => [ 1, sub { rank_sql(1 + int rand 4) . within('', step($_[0], 'words')) } ],
	erase => [ 2, sub { my ($e) = @_; my $s = pick(@slices); my $erase = sub { 'SELECT oracle.erase(' . int(rand 40) . ");\n" };
		within('', $erase->() . ($e ? $own->statement . "\n" : '') . step($e, $s) . $erase->() . $own->statement . "\n" . step($e, $s), pick('COMMIT', 'COMMIT', 'ROLLBACK')) } ],
	renamed => [ 1, sub { my $s = pick(@slices);
		within('', before() . "ALTER MATERIALIZED VIEW $s RENAME TO other;\n" . pick("SELECT avcurate.refresh_slice('other');", 'REFRESH MATERIALIZED VIEW other;')
			. "\nALTER MATERIALIZED VIEW other RENAME TO $s;\n" . refreshed($_[0], $s)) } ],
	prune => [ 1, sub { my $s = pick(@slices); "BEGIN; SELECT oracle.pruned('$s', " . (3 + int rand 5) . "); COMMIT;\n" . within('', step($_[0], $s)) } ],
);
my @kinds = map { ($_) x $kind{$_}[0] } sort keys %kind;

# What a refresh may be told, and by which kind.
my $refused = qr/could not serialize|deadlock detected|canceling statement due to statement timeout|current transaction is aborted/;
my $refused_beside = qr/$refused|CONCURRENTLY cannot be used when|could not open relation with OID/;

sub fault
{
	push @faults, @_;
	return;
}

sub look_at
{
	my ($session, $expected, $what) = @_;
	my ($out, $err) = $session->taken;
	foreach my $line (split /\n/, $err)
	{
		next unless $line =~ /ERROR|FATAL|PANIC|WARNING|FAULT/;
		next if $line =~ $expected && $line !~ /FAULT/;
		fault("$session->{name}, $what: $line");
	}
	return;
}

# Until no writer has anything left to do.
sub drain
{
	$_->settle foreach @writers, $keeper, $second, $ticker;
	return;
}

sub check_all
{
	my ($what, $everything) = @_;
	my $sql = join '', map { "SELECT * FROM oracle.faults('$_', " . ($everything ? 'true' : 'false') . ");\nSELECT * FROM oracle.damage('$_');\n" } @slices;
	my ($out, $err) = $refresher->ask($sql);
	fault("$what: $_") foreach grep { /\S/ && $_ !~ /^\s*$/ } split /\n/, $out;
	fault("$what: $_") foreach grep { /ERROR|FATAL|PANIC|FAULT/ } split /\n/, $err;
	return;
}

# Writers are handed as much as the round's share and go on beside.
sub feed_writers
{
	my ($until) = @_;
	while ($writes->{statements} < $until)
	{
		my @free = grep { $_->poll < 2 } @writers;
		if (!@free)
		{
			usleep(5_000);
			next;
		}
		pick(@free)->feed($writes->transaction);
	}
	$keeper->feed(OracleWrites::maintenance()) if rand() < 0.7 && $keeper->poll == 0;
	return;
}

sub random_round
{
	my $name = pick(@kinds);
	my $exact = rand() < 0.5;
	my $script = $kind{$name}[1]->($exact) . $kind{refresh_slice}[1]->($exact);
	# transaction ids pass also while a refresher's own transaction lasts
	$ticker->feed('DO $$BEGIN FOR i IN 1 .. 60 LOOP PERFORM pg_current_xact_id(); COMMIT; PERFORM pg_sleep(0.01); END LOOP; END$$;')
		if $ticker->poll == 0;
	usleep(rand 150_000);
	if (!$exact && $name ne 'alone' && rand() < ($name eq 'frozen_snapshot' ? 1 : 0.3))
	{
		$second->settle;
		my $s = pick(@slices);
		$second->feed(within('', step(0, $s) . "SELECT pg_sleep(0.05);\n")) foreach 1 .. 2;
	}
	$second->settle if $exact;
	$script = 'SET avcurate.refresh_full_threshold = ' . pick(1, 1, 1, 0.25, 0.02) . ";\n$script";
	$script = "SELECT pg_advisory_lock($gate);\n${script}SELECT pg_advisory_unlock($gate);" if $exact;
	$refresher->feed($script);
	$refresher->settle;
	my $what = $name . ($exact ? ' behind the gate' : ' among writers');
	look_at($refresher, $refused, $what);
	return $what;
}

# A file made in the same transaction is truncated as it is.
sub truncations
{
	my $step = sub { my $s = pick(grep { $_ ne 'crowded' } @slices); step(1, $s, "SELECT avcurate.refresh_slice('$s');") };
	my $again = "TRUNCATE frames;\nSELECT add_frames(300);\n" . $own->statement . "\n";
	return within('', $again . join('', map { $_ . $again . $_ } $step->(), $step->()), pick('COMMIT', 'ROLLBACK'));
}

# Rows that leave no trace, but for the triggers that were changed meanwhile.
sub unseen_deletes
{
	my $trigger = "ALTER TABLE frames %s TRIGGER avcurate_note_delete;\n";
	return within('', sprintf($trigger, 'DISABLE') . "DELETE FROM frames WHERE frame_id % 32 = 15;\n" . sprintf($trigger, 'ENABLE ALWAYS'));
}

# With nobody else at work VACUUM can set all bits of the visibility map, so
# that pages are all-visible at two refreshes and yet changed between.
sub quiet_round
{
	drain();
	my $change = sub { join "\n", map { $own->statement } 1 .. 3 };
	my $refresh = join '', map { within('', step(1, $_, "SELECT avcurate.refresh_slice('$_');")) } @slices;
	$refresher->feed(join "\n", 'SELECT oracle.restart();', 'VACUUM frames;', $refresh, $change->(), 'VACUUM frames;', $refresh,
		$change->(), pick(truncations(), unseen_deletes(), ''), pick('VACUUM FULL frames;', 'CLUSTER frames USING frames_pkey;', 'VACUUM (FREEZE) frames;', 'CHECKPOINT;'), $refresh,
		$refresh);
	$refresher->settle;
	look_at($refresher, qr/^$/, 'quiet');
	return 'quiet';
}

my $started = time;
my $round = 0;

sub run_round
{
	$round++;
	my $share = $soak ? 50 : $wanted / $rounds;
	my $until = $soak ? $writes->{statements} + $share : $share * $round;
	feed_writers($until - $share / 2);
	my $what = random_round();
	feed_writers($until);
	$what .= ', ' . ($round % 5 == 0 ? quiet_round() : random_round());
	look_at($_, $OracleWrites::expected, 'beside') foreach @writers, $keeper;
	look_at($second, $refused_beside, 'beside');
	check_all("after $what", 0);
	note sprintf '%.1f s, round %d: %s, %d writes', time - $started, $round, $what, $writes->{statements};
	return;
}

my $is_done = eval {
	run_round() while !@faults && ($soak ? time < $started + $soak : $round < $rounds);
	drain();
	look_at($_, $OracleWrites::expected, 'beside') foreach @writers, $keeper;
	look_at($second, $refused_beside, 'beside');
	quiet_round();
	check_all('at the end', 1);
	1;
};
fault($@, $node->safe_psql('postgres', 'SELECT pid, pg_blocking_pids(pid), wait_event, state, query FROM pg_stat_activity'))
	if !$is_done;
is(scalar @faults, 0, "$round rounds of refreshes among $writes->{statements} writes (seed $seed)")
	or diag join "\n", @faults;

my $counts = $node->safe_psql('postgres', 'SELECT slice, mode, count(*) FROM oracle.versions GROUP BY 1, 2 ORDER BY 1, 2');
note $counts;
note $node->safe_psql('postgres', 'SELECT mode, reason, count(*) FROM oracle.explained GROUP BY 1, 2 ORDER BY 3 DESC');
my %by_difference = $counts =~ /^(\w+)\|incremental\|(\d+)$/mg;
my $all = 0;
$all += $_ foreach values %by_difference;
cmp_ok($all, '>=', $round, "$all versions were made by difference");
is(join(' ', sort keys %by_difference), 'few hashes night words', 'of all slices but the aggregate');

note @faults ? 'FAULTS' : 'no fault', ", seed $seed";
$_->end foreach @sessions;
$node->stop;
done_testing();
