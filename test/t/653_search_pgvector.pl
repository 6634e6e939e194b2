# README's way to millions of rows: the feature cast to pgvector's type, under
# an HNSW index.  Runs in the server itself where it has pgvector, else in the
# PostgreSQL that AVC_PGVECTOR names (its folder of programs), without
# avcurate; is skipped where there is neither.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node;
my $is_here = 0;
my $probe = PostgreSQL::Test::Cluster->new('here');
$probe->init;
$probe->start;
$is_here = $probe->safe_psql('postgres', q{SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'});
if ($is_here)
{
	$node = $probe;
	$node->safe_psql('postgres', 'CREATE EXTENSION avcurate');
}
elsif (my $bin = $ENV{AVC_PGVECTOR})
{
	$probe->stop;
	my $folder = $probe->basedir . '/other';
	my $socket = PostgreSQL::Test::Utils::tempdir_short();
	system_or_bail("$bin/initdb", '-D', $folder, '-U', 'postgres', '-A', 'trust', '--no-locale', '-E', 'UTF8');
	system_or_bail("$bin/pg_ctl", '-s', '-w', '-D', $folder, '-l', "$folder.log", '-o', "-k $socket -c listen_addresses= -p 5497", 'start');
	$node = bless { bin => $bin, folder => $folder, socket => $socket }, 'Other';
}
plan skip_all => 'no pgvector: neither has the server the extension "vector" nor is AVC_PGVECTOR given' unless $node;

sub Other::safe_psql
{
	my ($self, undef, $sql) = @_;
	my ($out, $err);
	IPC::Run::run([ "$self->{bin}/psql", '-XqtA', '-v', 'ON_ERROR_STOP=1', '-h', $self->{socket}, '-p', '5497', '-U', 'postgres', 'postgres', '-f', '-' ],
		'<', \$sql, '>', \$out, '2>', \$err) or die "psql: $err";
	chomp $out;
	return $out;
}

sub failure
{
	my ($sql) = @_;
	return $@ unless eval { $node->safe_psql('postgres', $sql); 1 };
	return 'none';
}

sub Other::stop { $_[0]{is_over}++ or system("$_[0]{bin}/pg_ctl", '-s', '-w', '-m', 'immediate', '-D', $_[0]{folder}, 'stop'); return }
END { local $?; $node->stop if ref $node eq 'Other' }

$node->safe_psql('postgres', q{
CREATE EXTENSION vector;
CREATE TABLE drives (frame_id bigint PRIMARY KEY, clip real[]);
INSERT INTO drives SELECT n, (SELECT array_agg(sin(n * 0.01 * g)::real ORDER BY g) FROM generate_series(1, 512) g) FROM generate_series(1, 1500) n;
CREATE INDEX ON drives USING hnsw ((clip::vector(512)) vector_cosine_ops);
ANALYZE drives;
});
my $wanted = '(SELECT clip::vector(512) FROM drives WHERE frame_id = 777)';
my $query = "SELECT frame_id FROM drives ORDER BY clip::vector(512) <=> $wanted LIMIT 10";
like($node->safe_psql('postgres', "EXPLAIN (COSTS OFF) $query"), qr/Index Scan using drives_clip_idx/, 'the query is answered from the index');
my @near = split /\n/, $node->safe_psql('postgres', $query);
is($near[0], 777, 'and finds what is asked for');
my @exact = split /\n/, $node->safe_psql('postgres', "SET enable_indexscan = off; $query");
my %exact = map { $_ => 1 } @exact;
cmp_ok(scalar(grep { $exact{$_} } @near), '>=', 8, 'and most of what an exact scan finds');

# --- vectors without a pattern: how many of the nearest it finds
$node->safe_psql('postgres', q{
SELECT setseed(0.25);
CREATE TABLE points (frame_id bigint PRIMARY KEY, clip real[], is_rare boolean);
INSERT INTO points SELECT n, (SELECT array_agg((random() - 0.5 + 0 * (g + n))::real) FROM generate_series(1, 32) g), n % 100 = 0 FROM generate_series(1, 4000) n;
CREATE INDEX ON points USING hnsw ((clip::vector(32)) vector_cosine_ops);
ANALYZE points;
});
my $nearest = 'SELECT frame_id FROM points %s ORDER BY clip::vector(32) <=> (SELECT clip::vector(32) FROM points WHERE frame_id = %d) LIMIT 10';
my $found = 0;
foreach my $wanted (map { 131 * $_ } 1 .. 20)
{
	my ($near, $all) = map { { map { $_ => 1 } split /\n/ } } map { $node->safe_psql('postgres', $_ . sprintf $nearest, '', $wanted) }
		'', 'SET enable_indexscan = off; ';
	$found += grep { $near->{$_} } keys %$all;
}
cmp_ok($found, '>=', 160, "of the 200 nearest of 20 frames it finds $found");

# --- a filter counts after the index, which gives hnsw.ef_search rows; unless
# it is told to go on
my $rare = sprintf $nearest, 'WHERE is_rare', 17;
my @few = split /\n/, $node->safe_psql('postgres', "SET enable_seqscan = off; SET enable_sort = off; $rare");
cmp_ok(scalar @few, '<', 10, 'with a filter of one in a hundred it gives fewer than asked for: ' . @few);
my @iterated = split /\n/, $node->safe_psql('postgres', "SET enable_seqscan = off; SET enable_sort = off; SET hnsw.iterative_scan = strict_order; $rare");
is(scalar @iterated, 10, 'with hnsw.iterative_scan as many');

# --- what changes is in the index at once, and other lengths are refused
$node->safe_psql('postgres', 'UPDATE points SET clip = (SELECT clip FROM points WHERE frame_id = 17) WHERE frame_id = 3999; DELETE FROM points WHERE frame_id = 17');
is((split /\n/, $node->safe_psql('postgres', sprintf $nearest, '', 3999))[0], 3999, 'a changed vector is found');
unlike($node->safe_psql('postgres', sprintf $nearest, '', 3999), qr/^17$/m, 'a deleted one is not');
$node->safe_psql('postgres', 'INSERT INTO points VALUES (5000, NULL)');
like(failure(q{INSERT INTO points VALUES (5001, '{1,2,3}')}), qr/expected 32 dimensions, not 3/, 'a vector of another length is refused by the index');
like(failure(q{SELECT frame_id FROM points ORDER BY clip::vector(32) <=> '[1,2]'::vector LIMIT 1}), qr/different vector dimensions \d+ and \d+/, 'and by a query');

$node->stop;
done_testing();
