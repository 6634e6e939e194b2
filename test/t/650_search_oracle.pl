# Random histories of writers, VACUUMs and crashes: nearest_frames returns what
# the plain statement does under the same snapshot, whether that is new, old,
# or of a transaction that has changes of its own; and reads packed vectors,
# not the dataset, for it.
#
# AVC_SEED repeats the decisions, though not the scheduling.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use FindBin;
use lib $FindBin::Bin;
use OracleSession;
use SearchTest;

my $rounds = $ENV{AVC_LONG} ? 150 : 24;
my $seed = int($ENV{AVC_SEED} || 11);
srand($seed);
note "AVC_SEED=$seed";

my $node = PostgreSQL::Test::Cluster->new('search');
$node->init(extra => ['--data-checksums']);
$node->append_conf('postgresql.conf', "fsync = off\nautovacuum_naptime = 1s\ndeadlock_timeout = 50ms\nrestart_after_crash = on\nremove_temp_files_after_crash = off\n");
$node->start;
$node->safe_psql('postgres', "CREATE EXTENSION avcurate;\n" . SearchTest::setup_sql(500));

my %quiet = (client_min_messages => 'warning');
my %told = (client_min_messages => 'debug1');
my (@writers, $keeper, $reader, $old);
my @faults;
my %unpacked;

sub begin
{
	@writers = map { OracleSession->new($node, "writer $_", %quiet) } 1 .. 3;
	# who waits for the old reader would keep the others waiting
	$keeper = OracleSession->new($node, 'maintenance', %quiet, lock_timeout => '100ms');
	$reader = OracleSession->new($node, 'reader', %told);
	$old = OracleSession->new($node, 'old reader', %told);
	return;
}

sub pick { return $_[ rand @_ ] }
sub some { return sprintf 'frame_id %% %d = %d', 40, rand 40 }

sub write_sql
{
	my $i = int rand 1000;
	return pick(
		"UPDATE frames SET large = vector($i, 640) WHERE " . some() . ';',
		"UPDATE frames SET small = vector($i, 9), large = NULL WHERE " . some() . ';',
		"UPDATE frames SET scene = 'x' || scene WHERE " . some() . ';',
		"UPDATE frames SET weather = 'rainy' WHERE " . some() . ';',
		"UPDATE frames SET small = '{0,0,0,0,0,0,0,0,0}', large = vector($i, 640) WHERE " . some() . ' AND frame_id % 3 = 0;',
		'DELETE FROM frames WHERE ' . some() . ' AND frame_id > 100;',
		'SELECT add_frames(' . int(rand 25) . ');',
		'SELECT frame_id FROM frames WHERE ' . some() . ' FOR UPDATE;');
}

sub transaction
{
	return write_sql() if rand() < 0.3;
	my $body = join "\n", map { write_sql() } 0 .. rand 3;
	$body .= "\nSAVEPOINT a;\n" . write_sql() . "\n" . pick('ROLLBACK TO a', 'RELEASE a') . ";\n" . write_sql() if rand() < 0.4;
	$body .= "\nSELECT pg_sleep(0.05);" if rand() < 0.3;
	return "BEGIN;\n$body\n" . pick('COMMIT', 'COMMIT', 'ROLLBACK') . ';';
}

sub maintenance
{
	return pick('VACUUM frames;', 'VACUUM frames;', 'VACUUM (FREEZE) frames;', 'CHECKPOINT;', 'VACUUM FULL frames;', 'ANALYZE frames;',
		"BEGIN; TRUNCATE frames; SELECT add_frames(300); SELECT * FROM differs(vector(3, 640), 5, NULL, 'large'); " . pick('COMMIT', 'ROLLBACK') . ';');
}

my $expected = qr/deadlock detected|could not serialize|current transaction is aborted|canceling statement due to lock timeout/;

sub look_at
{
	my ($session, $what) = @_;
	my ($out, $err) = $session->taken;
	push @faults, map { "$session->{name}, $what: $_" } grep { / is not / } split /\n/, $out;
	foreach my $line (split /\n/, $err)
	{
		$unpacked{$1}++ if $line =~ /vectors are read from the dataset: (.*)/;
		push @faults, "$session->{name}, $what: $line" if $line =~ /ERROR|FATAL|PANIC|WARNING/ && $line !~ $expected;
	}
	return;
}

sub look_at_all
{
	look_at($_, 'writing') foreach @writers, $keeper;
	return;
}

sub checks { return join '', map { SearchTest::check_sql(int rand 1000) } 1 .. $_[0] }

sub run_round
{
	my ($n) = @_;
	$_->poll < 3 and $_->feed(transaction()) foreach @writers, @writers, @writers;
	$keeper->feed(maintenance()) if $keeper->poll == 0 && rand() < 0.6;
	$reader->feed(checks(2));
	# one snapshot, looked at again and again while others write
	$old->feed('BEGIN ISOLATION LEVEL REPEATABLE READ;' . checks(1)) if $n % 4 == 0;
	$old->feed(checks(1)) if $n % 4 > 0;
	$old->feed(checks(1) . pick('COMMIT', 'ROLLBACK') . ';') if $n % 4 == 3;
	# with changes of one's own
	$reader->feed("BEGIN;\n" . write_sql() . "\n" . checks(1) . "SAVEPOINT a;\n" . write_sql() . "\n" . checks(1)
			. pick('ROLLBACK TO a', 'RELEASE a') . ";\n" . checks(1) . pick('COMMIT', 'ROLLBACK') . ";\n" . checks(1));
	$reader->settle;
	$old->settle;
	look_at($reader, "round $n");
	look_at($old, "round $n");
	look_at_all();
	return;
}

# One backend is killed, and all others with it, or the server stopped at once.
# The files of packed vectors stay.
sub crash
{
	my ($n) = @_;
	my $checkpointer = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'};
	if ($n % 2)
	{
		my $before = $node->safe_psql('postgres', $checkpointer);
		kill KILL => $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() LIMIT 1");
		usleep(20_000) until (eval { $node->safe_psql('postgres', $checkpointer) } || $before) != $before;
	}
	else
	{
		$node->stop('immediate');
		$node->start;
	}
	$_->end foreach @writers, $keeper, $reader, $old;
	my @files = glob $node->data_dir . '/base/pgsql_tmp/pgsql_tmp.avcurate.*';
	return scalar @files;
}

begin();
my $is_done = eval {
	foreach my $n (0 .. $rounds - 1)
	{
		run_round($n);
		last if @faults;
		next if $n % 8 != 7;
		my $left = crash(int($n / 8));
		push @faults, 'the crash left no packed vectors to be told from true ones' if $left == 0 && int($n / 8) % 2;
		begin();
		# first of all what the files of before the crash say
		$reader->feed(checks(2));
		$reader->settle;
		look_at($reader, "after the crash in round $n");
	}
	$_->settle foreach @writers, $keeper;
	look_at_all();
	1;
};
push @faults, $@ if !$is_done;
is(scalar @faults, 0, "$rounds rounds (seed $seed)") or diag join "\n", @faults[ 0 .. ($#faults > 20 ? 20 : $#faults) ];
note map { "$_: $unpacked{$_}\n" } sort keys %unpacked;

$_->end foreach @writers, $keeper, $reader, $old;
my ($rc, $out, $err) = $node->psql('postgres', "SET client_min_messages = debug1;\n" . SearchTest::check_sql(5) . SearchTest::check_sql(6));
is($out, '', 'in the end nothing differs');
unlike($err, qr/read from the dataset/, 'and the packed vectors serve');
is($node->safe_psql('postgres', "SELECT * FROM is_far(vector(17, 9), 40, 'small') UNION ALL SELECT * FROM is_far(vector(17, 640), 40, 'large')"), '',
	'similarities are what SQL computes');
$node->stop;
done_testing();
