#!/usr/bin/perl
# The program's subcommands: results, exit status, and one line on stderr.
use strict;
use warnings;
use File::Temp qw(tempdir);
use FindBin;
use JSON::PP;
use POSIX ();
use Test::More;

my $engine = $ENV{AVC_ENGINE} || "$FindBin::Bin/../../avcurate-engine";
my $dir = tempdir(CLEANUP => 1);

# Run with a limit; returns exit status, stdout, stderr.
sub run_engine
{
	my @arguments = @_;
	my $pid = fork();
	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		open STDIN, '<', '/dev/null';
		open STDOUT, '>', "$dir/stdout";
		open STDERR, '>', "$dir/stderr";
		alarm 120;
		exec $engine, @arguments;
		exit 127;
	}
	waitpid $pid, 0;
	my $status = $? & 127 ? 1000 + ($? & 127) : $? >> 8;
	return ($status, slurp("$dir/stdout"), slurp("$dir/stderr"));
}

sub slurp
{
	my ($path) = @_;
	open my $in, '<:raw', $path or return '';
	local $/;
	my $text = <$in>;
	return defined $text ? $text : '';
}

sub spew
{
	my ($path, $bytes) = @_;
	open my $out, '>:raw', $path or die "$path: $!";
	print $out $bytes;
	close $out;
}

# The status, nothing on stdout, and one line on stderr that matches.
sub refused
{
	my ($name, $status, $pattern, @arguments) = @_;
	my ($got, $out, $err) = run_engine(@arguments);
	ok( $got == $status
		  && $out eq ''
		  && $err =~ /\A[^\n]+\n\z/
		  && $err =~ $pattern,
		$name) or diag("status $got, stdout '$out', stderr '$err'");
}

my @commands =
  qw(serve explain bench init detect embed convert trace version);

# ---- help and wrong arguments ------------------------------------------
my ($status, $out, $err) = run_engine('--help');
ok($status == 0 && $err eq '', '--help');
my (%listed, %options);
foreach my $command (@commands)
{
	like($out, qr/^  $command$/m, "--help names $command");
	my ($s, $o, $e) = run_engine($command, '--help');
	ok($s == 0 && $o =~ /\Ausage: .*\b$command\b/i && $e eq '',
		"$command --help");
	refused("$command with an unknown option", 2, qr/unknown option "--nonsense"/,
		$command, '--nonsense');
	$options{$_} = $listed{$command}{$_} = 1 for $o =~ /^(?:usage:.*?|  )(--[a-z-]+)/mgi;
}
foreach my $command (@commands)
{
	# what a command does not act on it does not take
	my @wrong = grep {
		my ($s, $o, $e) = run_engine($command, $_);
		$s != 2 || ($e =~ /unknown option/ xor !$listed{$command}{$_});
	} sort keys %options;
	is("@wrong", '', "$command takes the options that its --help names");
}
refused('no command', 2, qr/no command/);
refused('unknown command', 2, qr/unknown command/, 'dance');
refused('unknown command with a line break', 2, qr/unknown command/, "a\nb");
refused('serve without --fd', 2, qr/--fd/, 'serve');
refused('serve with a text for --fd', 2, qr/must be an integer/, 'serve', '--fd', 'x');
refused('serve on no socket', 2, qr/not a stream socket/, 'serve', '--fd', '77');
refused('serve with a place', 2, qr/does not take "x"/, 'serve', 'x');
refused('explain without an architecture', 2, qr/needs 1 more argument;/, 'explain');
refused('explain with two', 2, qr/does not take "b"/, 'explain', 'a', 'b');
refused('explain of nothing known', 2, qr/small/, 'explain', 'nonsense');
refused('explain with wrong JSON', 2, qr/./, 'explain', 'small', '--options', '{');
refused('explain with an unknown option of the detector', 2, qr/colour/,
	'explain', 'small', '--options', '{"colour":1}');
refused('a value that is missing', 2, qr/needs a value/, 'explain', 'small', '--frames');
refused('an option twice', 2, qr/given twice/, 'explain', 'small', '--train', '--train');
refused('a flag with a value', 2, qr/takes no value/, 'explain', 'small', '--train=1');
refused('a wrong size', 2, qr/WIDTHxHEIGHT/, 'explain', 'small', '--size', '12');
refused('a wrong device', 2, qr/not known; auto, cpu, ref, cuda/, 'bench', 'small', '--device', 'tpu');
refused('training alone and inference alone', 2, qr/exclude/, 'bench', 'small', '--train', '--infer');
refused('no frames', 2, qr/--frames/, 'bench', 'small', '--frames', '0');
refused('one class', 2, qr/--classes/, 'init', 'small', "$dir/x", '--classes', '1');
refused('version of something', 2, qr/does not take/, 'version', 'small');
refused('detect without a picture', 2, qr/needs 1 more/, 'detect', 'w');
refused('detect with a wrong score', 2, qr/min-score/, 'detect', 'w', 'p', '--min-score', '2');

# ---- bad input ----------------------------------------------------------
spew("$dir/garbage", 'x' x 100);
spew("$dir/zip", "PK\3\4" . 'x' x 100);
refused('detect without weights', 1, qr/could not open/, 'detect', "$dir/none", "$dir/none");
refused('detect with garbage for weights', 1, qr/safetensors/, 'detect', "$dir/garbage",
	"$dir/garbage");
refused('convert of a missing file', 1, qr/could not open/, 'convert', "$dir/none", "$dir/out");
refused('convert of garbage', 1, qr/safetensors/, 'convert', "$dir/garbage", "$dir/out");
refused('convert of a broken archive', 1, qr/zip archive/, 'convert', "$dir/zip", "$dir/out");
refused('convert of a folder', 1, qr/not an ordinary file/, 'convert', $dir, "$dir/out");
refused('init into a folder that is missing', 1, qr/could not create/, 'init', 'small',
	"$dir/none/x");
ok(!-e "$dir/out", 'nothing is written after a failure');

# ---- version ------------------------------------------------------------
($status, $out, $err) = run_engine('version');
my $version = eval { decode_json($out) } || {};
ok($status == 0 && $version->{engine_version} && $version->{libraries}{onednn},
	'version prints JSON');

# ---- weights: made, converted, used -------------------------------------
($status, $out, $err) = run_engine('init', 'small', "$dir/a", '--seed', '3', '--classes', '11');
ok($status == 0 && $out eq '' && -s "$dir/a", 'init writes a file') or diag($err);
run_engine('init', 'small', "$dir/b", '--seed', '3', '--classes', '11');
run_engine('init', 'small', "$dir/c", '--seed', '4', '--classes', '11');
ok(slurp("$dir/a") eq slurp("$dir/b"), 'equal seeds give equal files');
ok(slurp("$dir/a") ne slurp("$dir/c"), 'another seed gives another file');
($status) = run_engine('convert', "$dir/a", "$dir/d");
ok($status == 0 && slurp("$dir/a") eq slurp("$dir/d"), 'convert writes the same file again');
run_engine('convert', "$dir/a", "$dir/a.pth");
($status) = run_engine('convert', "$dir/a.pth", "$dir/d");
ok($status == 0 && slurp("$dir/a.pth") =~ /\APK\x03\x04/ && slurp("$dir/a") eq slurp("$dir/d"),
	'and the same again through the form of PyTorch, metadata too');
($status) = run_engine('init', 'small', "$dir/c.pth", '--seed', '3', '--classes', '11');
ok($status == 0 && slurp("$dir/c.pth") eq slurp("$dir/a.pth"), 'init writes that form too');
my $named = slurp("$dir/a");
$named =~ s/"((?:backbone|rpn|roi_heads)\.)/"net.$1/g;
substr($named, 0, 8) = pack 'Q<', length($named) - length(slurp("$dir/a")) + unpack 'Q<', $named;
spew("$dir/named", $named);
run_engine('convert', "$dir/named", "$dir/named.pth");
foreach my $from ('named', 'named.pth')
{
	($status, $out, $err) = run_engine('convert', "$dir/$from", "$dir/d", '--prefix', 'net.');
	ok($status == 0 && slurp("$dir/a") eq slurp("$dir/d"), "a prefix is taken off the names of $from") or diag($err);
	refused("a prefix that no name of $from has", 2, qr/starts with "module\."/,
		'convert', "$dir/$from", "$dir/e", '--prefix', 'module.');
	ok(!-e "$dir/e", 'and nothing is written');
}
POSIX::mkfifo("$dir/pipe", 0600) or die "mkfifo: $!";
refused('detect with weights of PyTorch', 1, qr/"avcurate-engine convert" first/,
	'detect', "$dir/a.pth", "$dir/none.jpg");
refused('what is no file is not replaced', 1, qr/"\Q$dir\E\/pipe" is not a regular file/, 'convert', "$dir/a", "$dir/pipe");
ok(-p "$dir/pipe", 'and stays what it is');
foreach my $kind (qw(zip stream))
{
	($status, $out, $err) =
	  run_engine('convert', "$FindBin::Bin/../data/state_$kind.pth", "$dir/$kind");
	ok($status == 0 && slurp("$dir/$kind") =~ /"conv.weight"/, "convert reads a PyTorch $kind")
	  or diag($err);
}
ok(slurp("$dir/zip") eq slurp("$dir/stream"), 'both give the same file');
opendir my $handle, $dir or die;
my @left = grep { /\.\w{6}$/ } readdir $handle;
ok(!@left, 'no temporary file is left');

my $shared = $ENV{AVC_SHARED} || "$FindBin::Bin/../../../shared";
my @pictures = sort glob("$shared/bdd100k/*/*.jpg $shared/bdd100k/*/*/*.jpg $shared/bdd100k/*/*/*/*.jpg");
SKIP:
{
	skip 'no real frames here', 4 unless @pictures >= 2;
	($status, $out, $err) = run_engine('detect', "$dir/a", @pictures[ 0, 1 ]);
	my @lines = map { eval { decode_json($_) } } split /\n/, $out;
	ok($status == 0 && @lines == 2, 'detect prints a line a picture') or diag($err);
	my $fine = 1;
	foreach my $line (@lines)
	{
		my $count = @{ $line->{boxes} };
		$fine = 0
		  unless $line->{file}
		  && $line->{width} > 0
		  && @{ $line->{scores} } == $count
		  && @{ $line->{labels} } == $count;
	}
	ok($fine, 'each with boxes, scores and labels');
	refused('detect without an architecture', 2, qr/--architecture/, 'detect',
		"$shared/golden/detector/ops.safetensors", $pictures[0]);
	refused('detect with weights of something else', 1, qr/./, 'detect',
		"$shared/golden/detector/ops.safetensors", $pictures[0],
		'--architecture', 'small');
}
refused('detect of garbage', 1, qr/garbage/, 'detect', "$dir/a", "$dir/garbage");

# ---- plans --------------------------------------------------------------
($status, $out, $err) = run_engine('explain', 'small', '--train', '--frames', '2');
ok($status == 0 && $out =~ /^conv\b/m && $out =~ /GFLOP/ && $out =~ /^memory, MB/m,
	'explain prints the plan') or diag("$status $out $err");
like($out, qr/2 x 192 x 320 x 3/, 'explain knows the input of the preset');
like($out, qr/^norm\b.*again in backward$/m, 'and what is made again');
like($out, qr/^activations alive at once, MB: [\d.]+/m, 'and the least memory');
refused('a plan over the limit', 1, qr/bytes.*the limit is 60000000.*activations \d+.*pictures 5529600\)/,
	'explain', 'small', '--train', '--frames', '8', '--limit', '60000000');
refused('parameters over the limit', 1, qr/detector needs \d+ bytes, the limit is 1000 \(parameters \d+/,
	'explain', 'small', '--limit', '1000');
($status, $out, $err) = run_engine('explain', 'clip_vit_b32', '--frames', '40');
ok( $status == 0
	  && $out =~ /^clip_vit_b32, inference, cpu, f32, \d+ threads, 32 pictures$/m
	  && $out =~ /^attention .* 32x50x1x768 /m
	  && $out =~ /^all .* 265\.\d+ /m
	  && $out =~ /^memory, MB: parameters 605\.1,/m,
	'explain prints the plan of a group of pictures') or diag("$status $out $err");
($status, $out, $err) = run_engine('explain', '--texts', '2', '--tokens', '9', 'clip_vit_b32');
ok($status == 0 && $out =~ /^attention .* 2x16x1x512 /m, 'and of texts, whose length is rounded up')
  or diag("$status $out $err");
refused('CLIP over the limit', 1, qr/needs \d+ bytes, the limit is 700000000 \(parameters 605109312/,
	'explain', 'clip_vit_b32', '--limit', '700000000');
refused('CLIP with an option of detectors', 2, qr/train/, 'explain', 'clip_vit_b32', '--train');
refused('a detector with an option of CLIP', 2, qr/clip_vit_b32/, 'explain', 'small', '--texts', '2');
refused('CLIP with an option of none', 2, qr/colour/,
	'explain', 'clip_vit_b32', '--options', '{"colour":1}');
refused('embed without pictures', 2, qr/needs 1 more argument;/, 'embed', "$dir/garbage");
refused('embed with garbage for weights', 1, qr/safetensors/, 'embed', "$dir/garbage", "$dir/a");
($status, $out, $err) =
  run_engine('bench', 'small', '--frames', '2', '--steps', '2', '--threads', '1',
	'--save', "$dir/bench.safetensors");
ok( $status == 0
	  && $out =~ /^training: [\d.]+ images\/s/m
	  && $out =~ /^inference: [\d.]+ images\/s/m
	  && $out =~ /^  conv 3x3 /m
	  && $out =~ /^peak: [\d.]+ GFLOP\/s/
	  && $out =~ /^  convolutions and linear layers +[\d.]+ /m,
	'bench prints times by operation') or diag("$status $out $err");
like(slurp("$dir/bench.safetensors"), qr/"bench\.frames":\{"dtype":"U8","shape":\[2,180,320,3\]/,
	'bench keeps what it worked on');
($status, $out, $err) =
  run_engine('bench', 'small', '--feed', '--threads', '1', '--size', '64x48');
ok( $status == 0
	  && $out =~ /^feed: pictures of 64x48, \d+ KB as JPEG$/m
	  && $out =~ /^feed: [\d.]+ images\/s decoded by 1 thread$/m
	  && $out =~ /^feed: [\d.]+ images\/s by 1 thread where the device has them$/m,
	'bench prints what the processor can feed') or diag("$status $out $err");

done_testing();
