#!/usr/bin/perl
# Every convolution of every architecture has a deterministic, precompiled plan
# of cuDNN's on every generation of GPUs, found from the GPU's properties; CLIP
# is planned without one.
use strict;
use warnings;
use Test::More;

my $engine = $ENV{AVC_ENGINE} || './avcurate-engine';
plan skip_all => 'the GPU backend is not built: no CUDA here'
  unless -e 'avcurate_cuda.so';

my @architectures = qw(small fasterrcnn_resnet18_fpn fasterrcnn_resnet18_fpn_v2
  fasterrcnn_resnet34_fpn fasterrcnn_resnet34_fpn_v2
  fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2);

# The plan's lines of convolutions: what chose each of their directions.
sub kernels
{
	my ($device, @arguments) = @_;
	my $out = `$engine explain @arguments --device-properties test/gpu/sm_$device.json 2>&1`;
	return (undef, $out) if $?;
	return ([ $out =~ /^conv .* (engine \d+.*|cuBLASLt.*)$/mg ], $out);
}

# What narrow types multiply is on tensor cores, but for a few odd shapes; what
# must be float exactly is not.  Inference in bf16 has its start in TF32: of a
# ResNet-50 the stem, the three 3x3 of its first stage and some of the seven 1x1,
# where memory is the limit and cuDNN may propose plain floats.
sub check
{
	my ($device, $name, $directions, $cores, @arguments) = @_;
	my ($rows, $out) = kernels($device, @arguments);
	return fail("sm_$device: $name: $out") if !$rows;
	my @convolutions = grep { /engine/ } @$rows;
	my $rounded = grep { /TF32/ } @convolutions;
	my $start = $directions == 1 && "@arguments" =~ /precision bf16/;
	my @whole = grep { /with (sum, )?bias, ReLU/ } @$rows;
	my $plans = 0;
	my $with = 0;
	foreach my $row (@convolutions)
	{
		$plans += () = $row =~ /engine \d+/g;
		$with += () = $row =~ /tensor cores/g;
	}
	ok(@convolutions > 10 && $plans >= $directions * @convolutions / 2
		  && ($start ? $rounded >= 4 && $rounded <= 11 : $rounded == 0)
		  && ($cores ? $with >= 0.8 * $plans : $with == 0)
		  && ($directions > 1 || @whole >= 0.7 * @convolutions),
		"sm_$device: $name: " . @convolutions
		  . " convolutions, $plans plans, $with on tensor cores, $rounded in TF32"
		  . ($directions > 1 ? '' : ', ' . @whole . ' end with their ReLU'));
}

foreach my $device (qw(75 80 86 89 90 100 120))
{
	my $narrow = $device == 75 ? 'f16' : 'bf16';
	foreach my $architecture (@architectures)
	{
		check($device, "$architecture trains in $narrow", 3, 1, $architecture,
			'--train', '--frames', 2, '--precision', $narrow);
	}
	check($device, 'fasterrcnn_resnet50_fpn_v2 looks in f32, strictly', 1, 0,
		'fasterrcnn_resnet50_fpn_v2', '--frames', 8);
	check($device, "fasterrcnn_resnet50_fpn_v2 looks in $narrow", 1, 1,
		'fasterrcnn_resnet50_fpn_v2', '--frames', 1, '--precision', $narrow);
}

# CLIP's products are all linear layers; a GPU's weights are packed once for
# every group in what is multiplied, beside the floats that they come from.
foreach my $device (qw(75 90))
{
	my $narrow = $device == 75 ? 'f16' : 'bf16';
	foreach my $side ([ '--frames', 50, 41, 175 ], [ '--texts', 49, 40, 76 ])
	{
		my ($what, $linear, $rest, $megabytes) = @$side;
		my $out = `$engine explain clip_vit_b32 $what 32 --precision $narrow --device-properties test/gpu/sm_$device.json 2>&1`;
		my $products = () = $out =~ /^linear .* cuBLASLt/mg;
		my $others = () = $out =~ /^(layer norm|attention|pick token|join tokens|embed tokens) /mg;
		my ($kernels) = $out =~ /kernels (\d+)/;
		ok($products == $linear && $others == $rest
			  && $kernels == $megabytes,
			"sm_$device: clip_vit_b32 $what in $narrow: $products products, $others others, $kernels MB of weights")
		  or diag($out);
	}
}
check(90, 'fasterrcnn_resnet50_fpn_v2 trains in f32, strictly', 3, 0,
	'fasterrcnn_resnet50_fpn_v2', '--train');
foreach my $bad ([ 'test/gpu/none.json', 'could not open' ],
	[ 'Makefile', 'cuDNN takes no' ])
{
	my ($file, $text) = @$bad;
	my $out = `$engine explain small --device-properties $file 2>&1`;
	ok($? != 0 && $out =~ /$text/, "$file is no device");
}
my $out = `$engine explain small --train --precision bf16 --device-properties test/gpu/sm_75.json 2>&1`;
ok($? != 0 && $out =~ /compute capability 8\.0/, 'sm_75 has no bf16');
done_testing();
