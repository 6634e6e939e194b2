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
		'<', \$sql, '>', \$out, '2>', \$err) or die $err;
	chomp $out;
	return $out;
}

sub Other::stop { system_or_bail("$_[0]{bin}/pg_ctl", '-s', '-w', '-m', 'immediate', '-D', $_[0]{folder}, 'stop'); return }

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

$node->stop;
done_testing();
