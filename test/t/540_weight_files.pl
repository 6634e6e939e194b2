# Files of weights through SQL: a detector of full size in both formats, as
# bytea and on the server's disk; old names, prefixes, new heads, refusals.
use strict;
use warnings;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX qw(mkfifo);
use Test::More;
use Time::HiRes qw(time);

my $node = PostgreSQL::Test::Cluster->new('weights');
$node->init;
$node->append_conf('postgresql.conf', "shared_buffers = 32MB\nmax_wal_size = 4GB");
$node->start;
my $folder = $node->basedir;
$node->safe_psql('postgres', 'CREATE EXTENSION avcurate');

# One statement in a session of its own: result, messages, seconds and the
# most memory, in bytes, that its process had.
sub run_one
{
	my ($statement) = @_;
	my $start = time;
	my ($rc, $out, $err) = $node->psql('postgres',
		"$statement;\nSELECT substring(pg_read_file('/proc/self/status') from 'VmHWM:\\s+(\\d+)')::bigint * 1024");
	my $seconds = time - $start;
	my ($result, $bytes) = $out =~ /^(?:(.*)\n)?(\d+)$/s;
	return ($result, $err, $seconds, $bytes);
}

sub slurp
{
	my ($path) = @_;
	open my $in, '<:raw', $path or die "$path: $!";
	local $/;
	my $bytes = <$in>;
	return $bytes;
}

sub spew
{
	my ($path, $bytes) = @_;
	open my $out, '>:raw', $path or die "$path: $!";
	print $out $bytes;
	close $out;
}

# A safetensors file with its header changed by the code.
sub change_header
{
	my ($from, $to, $change) = @_;
	my $bytes = slurp("$folder/$from");
	my $length = unpack 'Q<', $bytes;
	my $header = substr $bytes, 8, $length;
	$change->() for $header;
	spew("$folder/$to", pack('Q<', length $header) . $header . substr($bytes, 8 + $length));
}

# The body of a detector's file as torchvision's file of a classification
# network has it, with a classifier of one number.
sub make_backbone
{
	my ($from, $to) = @_;
	my $bytes = slurp("$folder/$from");
	my $length = unpack 'Q<', $bytes;
	my $header = decode_json(substr $bytes, 8, $length);
	my (%body, $data);
	foreach my $name (grep { /^backbone\.body\./ } sort keys %$header)
	{
		my ($begin, $end) = @{ $header->{$name}{data_offsets} };
		my $at = length($data // '');
		$data .= substr $bytes, 8 + $length + $begin, $end - $begin;
		$body{ $name =~ s/^backbone\.body\.//r } = { %{ $header->{$name} }, data_offsets => [$at, length $data] };
	}
	$body{'fc.bias'} = { dtype => 'F32', shape => [1], data_offsets => [length $data, 4 + length $data] };
	my $text = encode_json(\%body);
	spew("$folder/$to", pack('Q<', length $text) . $text . $data . pack('f<', 1));
}

sub import_file
{
	my ($model, $file, $more) = @_;
	my ($rc, $out, $err) = $node->psql('postgres',
		"SELECT avcurate.import_checkpoint('$model', '$folder/$file'" . ($more // '') . ')');
	return ($out, $err);
}

sub hash_of
{
	my ($checkpoint) = @_;
	return $node->safe_psql('postgres',
		"SELECT provenance ->> 'weights_sha256' FROM avcurate.checkpoints WHERE checkpoint = $checkpoint");
}

# --- a detector of full size
$node->safe_psql('postgres', "SELECT avcurate.create_model('v2', 'fasterrcnn_resnet50_fpn_v2')");
my ($v2, $words, $seconds, $most) = run_one("SELECT avcurate.create_checkpoint('v2', 7)");
my $hash = hash_of($v2);
note sprintf 'create_checkpoint: %.2f s, %d MB', $seconds, $most / 1e6;
my %size;
foreach my $format ('safetensors', 'pth')
{
	($size{$format}, $words, $seconds, $most) =
	  run_one("SELECT avcurate.export_checkpoint($v2, '$folder/v2.$format', '$format')");
	ok($size{$format} == -s "$folder/v2.$format" && $size{$format} > 175e6, "$format: $size{$format} bytes on disk");
	cmp_ok($most, '<', ($format eq 'pth' ? 2.6 : 1.6) * $size{$format} + 100e6, 'memory of the export');
	note sprintf 'export to a file: %.2f s, %d MB', $seconds, $most / 1e6;
	my $imported;
	($imported, $words, $seconds, $most) = run_one("SELECT avcurate.import_checkpoint('v2', '$folder/v2.$format')");
	is(hash_of($imported), $hash, "$format from disk: every bit is kept");
	cmp_ok($most, '<', 2.6 * $size{$format} + 100e6, 'memory of the import');
	note sprintf 'import from a file: %.2f s, %d MB', $seconds, $most / 1e6;
	($imported, $words, $seconds, $most) = run_one("SELECT length(avcurate.export_checkpoint($v2, '$format'))");
	is($imported, $size{$format}, "$format as bytea");
	cmp_ok($most, '<', 2.6 * $size{$format} + 100e6, 'memory of the export');
	note sprintf 'export as bytea: %.2f s, %d MB', $seconds, $most / 1e6;
	next if $format eq 'pth';
	($imported, $words, $seconds, $most) =
	  run_one("SELECT avcurate.import_checkpoint('v2', avcurate.export_checkpoint($v2, '$format'))");
	is(hash_of($imported), $hash, "$format through bytea: every bit is kept");
	cmp_ok($most, '<', 4.6 * $size{$format} + 100e6, 'memory of export and import');
	note sprintf 'export and import as bytea: %.2f s, %d MB', $seconds, $most / 1e6;
}
is($node->safe_psql('postgres', "SELECT string_agg(provenance ->> 'file_format', ' ' ORDER BY checkpoint) FROM avcurate.checkpoints WHERE checkpoint > $v2"),
	'safetensors safetensors pth', 'the formats are known');
is($node->safe_psql('postgres', "SELECT DISTINCT provenance -> 'file_metadata' ->> 'avcurate.constructor' FROM avcurate.checkpoints WHERE provenance ->> 'file_format' = 'safetensors'"),
	'torchvision.models.detection.fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=91)',
	'metadata name the constructor');

# --- what a bytea cannot hold
$node->safe_psql('postgres', "UPDATE _avcurate.checkpoints SET bytes = 1100000000 WHERE checkpoint = $v2");
my ($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.export_checkpoint($v2)");
like($err, qr/larger than 1 GB.*HINT:  Write it to a file of the server/s, 'a checkpoint over 1 GB is no bytea');
cmp_ok($node->safe_psql('postgres', "SELECT avcurate.export_checkpoint($v2, '$folder/v2.safetensors', 'safetensors')"), '>', 175e6, 'but a file');

# --- a disk that is full while the file is written
$node->safe_psql('postgres', 'VACUUM; CHECKPOINT');
SKIP:
{
	skip 'no prlimit', 2 if system('prlimit --version >/dev/null 2>&1') != 0;
	($rc, $out, $err) = $node->psql('postgres',
		"COPY (SELECT pg_backend_pid()) TO PROGRAM 'read pid; prlimit --pid \$pid --fsize=50000000';
		SELECT avcurate.export_checkpoint($v2, '$folder/full.pth', 'pth')");
	like($err, qr/could not write file ".*full\.pth": File too large/, 'an export that does not fit');
	is(join(' ', glob("$folder/full*")), '', 'leaves nothing behind');
}
unlink "$folder/v2.pth", "$folder/v2.safetensors";

# --- small networks from here on
my $tiny = '"widths": [8, 8, 8, 8], "fpn_channels": 16, "representation_size": 16';
$node->safe_psql('postgres', "SELECT avcurate.create_model('v1', 'fasterrcnn_resnet18_fpn', '{$tiny, \"norm\": \"frozen\"}');
	SELECT avcurate.create_model('other_v1', 'fasterrcnn_resnet18_fpn', '{$tiny, \"norm\": \"frozen\"}');
	SELECT avcurate.create_model('set_v1', 'fasterrcnn_resnet18_fpn', '{$tiny, \"norm\": \"frozen\", \"norm_eps\": 0.001}');
	SELECT avcurate.create_model('eleven', 'fasterrcnn_resnet18_fpn', '{$tiny, \"norm\": \"frozen\"}', 'bdd100k')");
my $v1 = $node->safe_psql('postgres', "SELECT avcurate.create_checkpoint('v1', 3)");
$hash = hash_of($v1);
$node->safe_psql('postgres', "SELECT avcurate.export_checkpoint($v1, '$folder/plain', 'safetensors')");

# --- names of 2019
change_header('plain', 'old', sub { s/rpn\.head\.conv\.0\.0\./rpn.head.conv./g; s/(_blocks\.\d)\.0/$1/g; s/"__metadata__":\{(?:"(?:[^"\\]|\\.)*"[:,]?)*\},//; });
my ($number, $said) = import_file('v1', 'old');
like($said, qr/NOTICE:  option norm_eps of model "v1" is 0 now\nDETAIL:  .*first Faster R-CNN/, 'old names make norm_eps 0');
is(hash_of($number), $hash, 'and give the weights');
is($node->safe_psql('postgres', "SELECT m.options ->> 'norm_eps', c.provenance -> 'model_options' ->> 'norm_eps' FROM avcurate.models AS m JOIN avcurate.checkpoints AS c USING (model) WHERE checkpoint = $number"),
	'0|0', 'model and provenance say so');
($number, $said) = import_file('v1', 'old');
is($said, '', 'a second import changes nothing');
$node->safe_psql('postgres', "SELECT avcurate.create_model('live_v1', 'fasterrcnn_resnet18_fpn', '{$tiny}')");
($number, $said) = import_file('live_v1', 'old');
like($said, qr/NOTICE:  option norm_eps of model "live_v1" is 0 now\n.*HINT:  Give the model the option "norm": "frozen"/s,
	'live norms take the file too');
($number, $said) = import_file('set_v1', 'old');
like($said, qr/NOTICE:  model "set_v1" keeps its option norm_eps/, 'an eps that the user gave stays');
($number, $said) = import_file('other_v1', 'plain');
is($said, '', 'new names say nothing of eps');
($number, $said) = import_file('other_v1', 'old');
like($said, qr/ERROR:  norm_eps of model "other_v1" cannot become 0.*HINT:  Import the file into a new model/s,
	'other weights of the model are not changed by it');

# --- what a file says of its network
($number, $said) = import_file('set_v1', 'plain');
like($said, qr/NOTICE:  the file was written for another network than model "set_v1"\nDETAIL:  .*"norm_eps": 0.001/,
	'an option that no tensor shows is compared');

# --- prefixes
change_header('plain', 'module', sub { s/"((?:backbone|rpn|roi_heads)\.)/"module.$1/g; });
($number, $said) = import_file('v1', 'module');
is(hash_of($number), $hash, 'names behind module.');

# --- lengths that look like the start of a pickle
foreach my $second (2, 4)
{
	change_header('plain', 'aligned', sub { $_ .= ' ' until length() % 65536 == 0x80 + 256 * $second; });
	($number, $said) = import_file('v1', 'aligned');
	is($node->safe_psql('postgres', "SELECT provenance ->> 'file_format' FROM avcurate.checkpoints WHERE checkpoint = $number"),
		'safetensors', 'a safetensors file whose length starts as a pickle does');
}

# --- what does not fit
change_header('plain', 'unfit', sub { s/"rpn\.head\.cls_logits\.bias"/"rpn.head.extra"/; s/("backbone\.body\.bn1\.bias":\{"dtype":"F32","shape":)\[8\]/$1\[2,4]/; });
($number, $said) = import_file('v1', 'unfit');
like($said, qr/ERROR:  tensors of the weights do not fit the network; 1 missing: rpn\.head\.cls_logits\.bias; 1 unexpected: rpn\.head\.extra; 1 of another shape: backbone\.body\.bn1\.bias is \(2, 4\), not \(8\)$/m,
	'a file that does not fit is told tensor by tensor');

# --- new heads
($number, $said) = import_file('eleven', 'plain');
like($said, qr/ERROR: .*4 of another shape: roi_heads\.box_predictor.*only the box predictor differs/, 'another number of classes');
($number, $said) = import_file('eleven', 'plain', ', true, 5');
like($said, qr/NOTICE:  the box predictor of the checkpoint is fresh\nDETAIL:  .* seed 5/, 'takes a new head');
is($node->safe_psql('postgres', "SELECT provenance ->> 'new_head', provenance ->> 'seed' FROM avcurate.checkpoints WHERE checkpoint = $number"),
	'true|5', 'which the provenance names');
my $of_bytea = $node->safe_psql('postgres', "SELECT avcurate.import_checkpoint('eleven', avcurate.export_checkpoint($v1), new_head => true, seed => 5)");
is(hash_of($of_bytea), hash_of($number), 'equal seeds give equal heads');
is($node->safe_psql('postgres', "SELECT count(*) FILTER (WHERE a.data = b.data), count(*) FROM _avcurate.checkpoint_tensors AS a JOIN _avcurate.checkpoint_tensors AS b USING (name) WHERE a.checkpoint = $v1 AND b.checkpoint = $number AND name NOT LIKE 'roi_heads.box_predictor.%'"),
	$node->safe_psql('postgres', "SELECT count(*), count(*) FROM _avcurate.checkpoint_tensors WHERE checkpoint = $v1 AND name NOT LIKE 'roi_heads.box_predictor.%'"),
	'the rest is the file\'s');

# --- the body of a classification network
make_backbone('plain', 'resnet');
($number, $said) = import_file('eleven', 'resnet');
like($said, qr/ERROR:  the weights are those of a classification network, not of a detector; import_backbone\(\)/,
	'a classification network is no detector');
($number, $out, $said) = $node->psql('postgres', "SELECT avcurate.import_backbone('eleven', '$folder/resnet', 5)");
like($said, qr/NOTICE:  all of the checkpoint but its body is fresh\nDETAIL:  .* seed 5/, 'but its body');
is($node->safe_psql('postgres', "SELECT provenance ->> 'backbone_only', provenance ->> 'seed' FROM avcurate.checkpoints WHERE checkpoint = $out"),
	'true|5', 'which the provenance names');
my $fresh = $node->safe_psql('postgres', "SELECT avcurate.create_checkpoint('eleven', 5)");
is($node->safe_psql('postgres', "SELECT bool_and(a.data = b.data), bool_and(a.data = c.data) FILTER (WHERE a.name NOT LIKE 'backbone.body.%')
	FROM _avcurate.checkpoint_tensors AS a LEFT JOIN _avcurate.checkpoint_tensors AS b ON b.checkpoint = $v1 AND b.name = a.name AND a.name LIKE 'backbone.body.%'
	JOIN _avcurate.checkpoint_tensors AS c ON c.name = a.name WHERE a.checkpoint = $out AND c.checkpoint = $fresh"),
	't|t', 'the body is the file\'s, the rest is drawn from the seed');
is(hash_of($node->safe_psql('postgres', "SELECT avcurate.import_backbone('eleven', pg_read_binary_file('$folder/resnet'), seed => 5)")), hash_of($out),
	'the same of a bytea');
($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.import_backbone('eleven', '$folder/plain')");
like($err, qr/ERROR: .*missing: backbone\.body\./, 'a detector is no classification network');

# --- the server's disk
mkfifo("$folder/pipe", 0600) or die "mkfifo: $!";
mkdir "$folder/taken";
foreach my $case (['pipe', 'is not a regular file'], ['taken', 'is not a regular file'], ['none', 'No such file'])
{
	($number, $said) = import_file('v1', $case->[0]);
	like($said, qr/ERROR: .*$case->[1]/, "import of $case->[0]");
}
$node->safe_psql('postgres', "CREATE ROLE writer LOGIN; GRANT pg_write_server_files TO writer;
	CREATE ROLE reader LOGIN; GRANT pg_read_server_files TO reader;
	SET ROLE writer; SELECT avcurate.create_model('own', 'fasterrcnn_resnet18_fpn', '{$tiny}');
	RESET ROLE; GRANT writer TO reader");
my $own = $node->safe_psql('postgres', "SET ROLE writer; SELECT avcurate.create_checkpoint('own')");
cmp_ok($node->safe_psql('postgres', "SET ROLE writer; SELECT avcurate.export_checkpoint($own, '$folder/own', 'pth')"), '>', 1000, 'pg_write_server_files may write');
is((stat "$folder/own")[2] & 07777, 0644, 'what others may read, as COPY does');
($rc, $out, $err) = $node->psql('postgres', "SET ROLE writer; SELECT avcurate.import_checkpoint('own', '$folder/own')");
like($err, qr/permission denied/, 'but not read');
($rc, $out, $err) = $node->psql('postgres', "SET ROLE writer; SELECT avcurate.import_checkpoint('own', '$folder/own', true)");
like($err, qr/permission denied/, 'in neither form');
($rc, $out, $err) = $node->psql('postgres', "SET ROLE writer; SELECT avcurate.import_backbone('own', '$folder/own')");
like($err, qr/permission denied/, 'nor a backbone');
cmp_ok($node->safe_psql('postgres', "SET ROLE reader; SELECT avcurate.import_checkpoint('own', '$folder/own')"), '>', $own, 'pg_read_server_files may read');
($rc, $out, $err) = $node->psql('postgres', "SET ROLE writer; SELECT avcurate.export_checkpoint($v1, '$folder/own', 'pth')");
like($err, qr/permission denied for model/, "another role's weights stay in");

# --- over 1 GB for real
SKIP:
{
	skip 'set AVC_LONG for a checkpoint of over 1 GB', 3 unless $ENV{AVC_LONG};
	$node->safe_psql('postgres', "INSERT INTO avcurate.label_maps SELECT 'many', 'c' || n, n FROM generate_series(1, 2000) AS n;
		SELECT avcurate.create_model('huge', 'fasterrcnn_resnet50_fpn', '{\"representation_size\": 8192}', 'many')");
	my $huge = $node->safe_psql('postgres', "SELECT avcurate.create_checkpoint('huge')");
	($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.export_checkpoint($huge)");
	like($err, qr/larger than 1 GB/, 'over 1 GB as bytea');
	foreach my $format ('safetensors', 'pth')
	{
		$node->safe_psql('postgres', "SELECT avcurate.export_checkpoint($huge, '$folder/huge', '$format')");
		is(hash_of($node->safe_psql('postgres', "SELECT avcurate.import_checkpoint('huge', '$folder/huge')")), hash_of($huge),
			"over 1 GB as a file, $format");
	}
}

$node->stop;
done_testing();
