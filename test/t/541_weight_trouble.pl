# Imports and exports that are cut short: cancelled, timed out, their engine
# killed, their session ended, several at once.  Nothing is half done, no
# engine and no file stays.
use strict;
use warnings;
use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use lib $FindBin::Bin;
use JobTest;
use ServiceTest;

my $node = PostgreSQL::Test::Cluster->new('trouble');
$node->init;
$node->append_conf('postgresql.conf', "shared_buffers = 32MB\nmax_wal_size = 4GB");
$node->start;
my $folder = $node->basedir;
my $tiny = '"widths": [8, 8, 8, 8], "fpn_channels": 16, "representation_size": 16';
$node->safe_psql('postgres', "CREATE EXTENSION avcurate;
	SELECT avcurate.create_model('v2', 'fasterrcnn_resnet50_fpn_v2');
	SELECT avcurate.create_model('tiny', 'fasterrcnn_resnet18_fpn', '{$tiny}')");
my $v2 = $node->safe_psql('postgres', "SELECT avcurate.create_checkpoint('v2', 7)");
$node->safe_psql('postgres', "SELECT avcurate.export_checkpoint($v2, '$folder/v2.pth', 'pth')");
my $import = "SELECT avcurate.import_checkpoint('v2', '$folder/v2.pth')";
my $count = "SELECT count(*), (SELECT count(*) FROM _avcurate.checkpoint_tensors) FROM avcurate.checkpoints";
my $before = $node->safe_psql('postgres', $count);

# Process id of the backend that runs an import, once its engine is there; a
# child that has not become the engine yet is waited for by the backend.
sub importing
{
	my ($name) = @_;
	for (1 .. 3000)
	{
		my $pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE application_name = '$name'");
		my ($engine) = $pid ne '' ? children_of($pid) : ();
		return ($pid, $engine) if defined $engine && (readlink("/proc/$engine/exe") // '') =~ /avcurate-engine/;
		select undef, undef, undef, 0.02;
	}
	die "no import under way";
}

# An import whose engine stands still, and what happens then.
sub interrupted
{
	my ($name, $act, $words) = @_;
	my $session = begin($node, "SET application_name = '$name'", $import);
	my ($pid, $engine) = importing($name);
	kill 'STOP', $engine;
	$act->($pid, $engine);
	my ($out, $err) = end_of($session);
	like($err, $words, "an import that is $name");
	ok(is_gone($engine), 'its engine is gone');
	is($node->safe_psql('postgres', $count), $before, 'and nothing is stored');
}

interrupted('cancelled', sub { $node->safe_psql('postgres', "SELECT pg_cancel_backend($_[0])") }, qr/canceling statement due to user request/);
interrupted('terminated', sub { $node->safe_psql('postgres', "SELECT pg_terminate_backend($_[0])") }, qr/terminating connection/);
interrupted('without its engine', sub { kill 'KILL', $_[1] }, qr/ERROR:  engine was ended by signal 9/);

# --- at any moment, the reading of the file and the writing of the rows too
foreach my $limit (30, 150, 400, 900, 1600, 2500)
{
	my ($rc, $out, $err) = $node->psql('postgres', "SET statement_timeout = $limit; BEGIN; $import; SELECT pg_sleep(60)");
	like($err, qr/canceling statement due to statement timeout/, "an import of at most $limit ms");
	is($node->safe_psql('postgres', $count), $before, 'leaves nothing');
	my $export = "SELECT avcurate.export_checkpoint($v2, '$folder/cut.pth', 'pth')";
	($rc, $out, $err) = $node->psql('postgres', "SET statement_timeout = $limit; $export; SELECT pg_sleep(60)");
	like($err, qr/canceling statement due to statement timeout/, "an export of at most $limit ms");
	my $files = join ' ', map { -s $_ } glob("$folder/cut.pth*");
	ok($files eq q{} || $files eq -s "$folder/v2.pth", 'leaves a whole file or none');
	unlink "$folder/cut.pth";
}
my $program = $node->safe_psql('postgres', "SELECT setting || '/avcurate-engine' FROM pg_config WHERE name = 'BINDIR'");
ok(-x $program && engines_of($program) == 0, 'no engine is left');

# --- caught by the caller, who goes on
is($node->safe_psql('postgres', q{CREATE FUNCTION attempt(file bytea) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN RETURN avcurate.import_checkpoint('tiny', file); EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE; END $$;
	SELECT string_agg(attempt(file), ' ' ORDER BY no) FROM unnest(ARRAY['', '\x00', '\x504b0304', '\x80028a0a', '\x8002580100000068' || '\x2e'::bytea,
		'\xffffffffffffffff7b7d', '\x02000000000000007b7d', decode(repeat('00', 300), 'hex'), decode(repeat('ff', 300), 'hex')]) WITH ORDINALITY AS f (file, no)}),
	join(' ', ('22000') x 9), 'broken files of every kind are errors of data');

# --- several at once
my $of_tiny = $node->safe_psql('postgres', "SELECT avcurate.create_checkpoint('tiny', 3)");
$node->safe_psql('postgres', "SELECT avcurate.export_checkpoint($of_tiny, '$folder/tiny.pth', 'pth')");
my @sessions = map { begin($node, "SELECT avcurate.import_checkpoint('tiny', '$folder/tiny.pth') FROM generate_series(1, 2)",
	"SELECT avcurate.export_checkpoint($of_tiny, '$folder/tiny.pth', 'pth') > 0") } 1 .. 4;
is(join(' ', sort map { (end_of($_))[1] } @sessions), '   ', 'four sessions over one file');
is($node->safe_psql('postgres', "SELECT count(*), count(DISTINCT provenance ->> 'weights_sha256') FROM avcurate.checkpoints WHERE model = 'tiny'"),
	'9|1', 'store the same weights');
is(join(' ', map { s/.*\///r } glob("$folder/tiny*")), 'tiny.pth', 'and leave one file');

# --- other encodings: files hold UTF-8
my $name = "mod\xc3\xa8le";
$node->safe_psql('postgres', qq{CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0;
	SELECT avcurate.create_model('$name \xe2\x82\xac', 'fasterrcnn_resnet18_fpn', '{$tiny}')});
my $euro = $node->safe_psql('postgres', "SELECT avcurate.create_checkpoint('$name \xe2\x82\xac', 3)");
$node->safe_psql('postgres', "SELECT avcurate.export_checkpoint($euro, '$folder/euro', 'safetensors')");
$node->safe_psql('latin', qq{SET client_encoding = 'UTF8'; CREATE EXTENSION avcurate;
	SELECT avcurate.create_model('$name', 'fasterrcnn_resnet18_fpn', '{$tiny}');
	SELECT avcurate.create_checkpoint('$name', 3)});
foreach my $format ('safetensors', 'pth')
{
	$node->safe_psql('latin', qq{SET client_encoding = 'UTF8'; SELECT avcurate.export_checkpoint(1, '$folder/$format', '$format')});
	like(slurp_file("$folder/$format"), qr/\Q$name\E/, "$format from a LATIN1 database is UTF-8");
	$node->safe_psql('latin', qq{SET client_encoding = 'UTF8'; SELECT avcurate.import_checkpoint('$name', '$folder/$format')});
}
$node->safe_psql('latin', qq{SET client_encoding = 'UTF8'; SELECT avcurate.import_checkpoint('$name', '$folder/euro')});
is($node->safe_psql('latin', qq{SET client_encoding = 'UTF8'; SELECT string_agg(concat_ws('-', provenance ->> 'file_format',
	provenance -> 'file_metadata' ->> 'avcurate.model', provenance -> 'file_metadata' ->> 'architecture'), ' ' ORDER BY checkpoint) FROM avcurate.checkpoints WHERE checkpoint > 1}),
	"safetensors-$name-fasterrcnn_resnet18_fpn pth safetensors-fasterrcnn_resnet18_fpn", 'and comes back, but for what LATIN1 cannot write');

# --- tensors that are gone
$node->safe_psql('postgres', "DELETE FROM _avcurate.checkpoint_tensors WHERE checkpoint = $of_tiny");
my ($rc, $out, $err) = $node->psql('postgres', "SELECT length(avcurate.export_checkpoint($of_tiny))");
like($err, qr/ERROR:  checkpoint \d+ has no tensors/, 'no file without tensors is written');

# --- what may not be written
($rc, $out, $err) = $node->psql('postgres', "BEGIN READ ONLY; SELECT avcurate.import_backbone('tiny', '\\x00'::bytea)");
like($err, qr/cannot execute import_backbone\(\) in a read-only transaction/, 'no backbone in a read-only transaction');

($rc, $out, $err) = $node->psql('postgres', q{SELECT avcurate.create_model('odd', repeat('x', 100000))});
like($err, qr/unknown architecture "x{64}"; known are fasterrcnn/, 'an endless name leaves room for the known ones');

$node->stop;
done_testing();
