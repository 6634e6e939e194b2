# Which device networks run on: a GPU (emulated), one that cannot be used, none.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use JobTest;

# AVC_TEST_PLUGIN: the backend of a real GPU instead
my $real = $ENV{AVC_TEST_PLUGIN} || undef;
my $plugin = $real // "$ENV{AVC_ROOT}/build/emulated/avcurate_cuda.so";
plan skip_all => "no $plugin: run make engine-tests" unless -r $plugin;

my $options = '"max_steps": 1, "batch_size": 1, "warmup_steps": 1';
my $node = PostgreSQL::Test::Cluster->new('device');
$node->init;
$node->append_conf('postgresql.conf', "max_worker_processes = 12\navcurate.threads = 2\navcurate.retry_delay = 0");

sub ask { return $node->safe_psql('postgres', $_[0]) }

# Start the server where this is the GPU's backend.
sub serve
{
	my ($path) = @_;
	$node->stop if defined $node->{_pid};
	delete $ENV{AVC_CUDA_PLUGIN};
	$ENV{AVC_CUDA_PLUGIN} = $path if defined $path;
	$node->start;
}

# Train: state, the device in the queue and in the environment, precision.
sub train
{
	my ($more) = @_;
	my $job = ask(qq{SELECT avcurate.train('all_frames', 'm', '{$options$more}')});
	$node->psql('postgres', "SELECT avcurate.wait_job($job, '180 s')");
	my $told = ask(qq{SELECT state, device, COALESCE(c.provenance #>> '{environment,device}', '-'), COALESCE(c.provenance #>> '{environment,precision}', '-')
		FROM avcurate.jobs j LEFT JOIN avcurate.checkpoints c USING (checkpoint) WHERE j.job = $job});
	return ($job, $told);
}

sub evaluate
{
	my ($job, $more) = @_;
	my $evaluation = ask(qq{SELECT avcurate.evaluate((SELECT checkpoint FROM avcurate.jobs WHERE job = $job), 'all_frames', '{"max_frames": 1$more}')});
	$node->psql('postgres', "SELECT avcurate.wait_job($evaluation, '180 s')");
	return ($evaluation, ask("SELECT state, device FROM avcurate.jobs WHERE job = $evaluation"));
}

sub cpu_lines
{
	my ($job) = @_;
	return ask("SELECT string_agg(level || ': ' || message, E'\\n') FROM avcurate.job_log WHERE job = $job AND message ~ 'on the CPU'");
}

sub detections
{
	my ($job, $device) = @_;
	return ask("SET avcurate.device = '$device'; SELECT count(*) FROM (SELECT image_bytes FROM frames LIMIT 1) f, avcurate.detect(f.image_bytes, (SELECT checkpoint FROM avcurate.jobs WHERE job = $job), 0)");
}

# --- a GPU, and a second one where they are emulated
$ENV{AVC_EMULATED_DEVICES} = 2;
serve($plugin);
setup_small($node, 2);
ask("SELECT avcurate.create_slice('all_frames', 'frames', 'true')");
my $name = ask("SELECT detail FROM avcurate.doctor() WHERE check_name = 'gpu' AND ok");
like($name, $real ? qr/NVIDIA/ : qr/^a processor that plays a GPU, sm_90$/, 'doctor finds it');
like(ask('SELECT avcurate.version()'), qr/"cuda".*\Q$name\E/, 'version() names it');
my ($job, $told) = train('');
is($told, 'succeeded|cuda:0|cuda|bf16', 'auto trains on it, in bf16');
is(cpu_lines($job), '', 'and says nothing of the CPU');
is(ask("SELECT options ->> 'device' FROM avcurate.jobs WHERE job = $job"), 'auto', 'what was asked for is kept');
is((train(', "device": "cuda:0", "amp": "f32"'))[1], 'succeeded|cuda:0|cuda|f32', 'and by its name, in f32');
is((evaluate($job, ''))[1], 'succeeded|cuda:0', 'evaluation');
my ($half, $told_half) = train(', "amp": "fp16"');
is($told_half, 'succeeded|cuda:0|cuda|f16', 'training in fp16');
is(ask("SELECT provenance #>> '{options,amp}', jsonb_typeof(provenance #> '{metrics,overflow_steps}') FROM avcurate.checkpoints WHERE checkpoint = (SELECT checkpoint FROM avcurate.jobs WHERE job = $half)"),
	'fp16|number', 'is recorded as such, with the steps that overflowed');
is((evaluate($half, ', "amp": "fp16"'))[1], 'succeeded|cuda:0', 'evaluation in fp16');
($half, $told_half) = train(', "amp": "fp16", "device": "cpu"');
like($told_half, qr/^failed\|cpu/, 'not on the CPU');
like(ask("SELECT error FROM avcurate.jobs WHERE job = $half"), qr/precision f16 cannot be used: GPUs alone compute in it/, 'which says so');
cmp_ok(detections($job, 'cuda:0'), '>', 0, 'detect() by its name');
like(ask("SET avcurate.device = 'cuda:0'; SELECT detail FROM avcurate.doctor() WHERE check_name = 'shared engine'"), qr/^running on cuda:0, 1 network/, 'which the shared engine of that device answers');
is((train(', "device": "cpu"'))[1], 'succeeded|cpu|cpu|f32', 'the CPU stays to be asked for');

# --- one without bf16
SKIP:
{
	skip 'the GPU is real', 1 if $real;
	local $ENV{AVC_EMULATED_COMPUTE} = 75;
	serve($plugin);
	is((train(''))[1], 'succeeded|cuda:0|cuda|f16', 'auto trains in fp16 on it');
}

# --- both together
SKIP:
{
	skip 'the GPUs are real', 6 if $real;
	($job, $told) = train(', "device": "cuda:0,1", "batch_size": 2, "amp": "f32"');
	is($told, "succeeded|cuda:0,1|cuda|f32", 'two GPUs train one job');
	like(ask("SELECT c.provenance #>> '{environment,device_name}' FROM avcurate.jobs j JOIN avcurate.checkpoints c USING (checkpoint) WHERE j.job = $job"),
		qr/^cuda:0, cuda:1: /, 'and are named with the checkpoint');
	is((evaluate($job, ', "device": "cuda:all"'))[1], 'succeeded|cuda:all', 'evaluation on all there are');
	cmp_ok(detections($job, 'cuda:0,1'), '>', 0, 'detect() on both');
	($job, $told) = train(', "device": "cuda:1,7"');
	like(ask("SELECT error FROM avcurate.jobs WHERE job = $job"), qr/cuda:7: .*there is no device cuda:7, this machine has 2/, 'one that is not there is named');
	my ($status, undef, $error) = $node->psql('postgres', q{SELECT avcurate.train('all_frames', 'm', '{"device": "cuda:1,1"}')});
	like($error, qr/device "cuda:1,1" is not known/, 'none counts twice');
}

# --- one that cannot be used
serve('/nonexistent/avcurate_cuda.so');
is(ask("SELECT ok, detail ~ 'cannot be used: could not load', hint IS NOT NULL FROM avcurate.doctor() WHERE check_name = 'gpu'"), 'f|t|t', 'doctor tells what is missing');
($job, $told) = train('');
is($told, 'succeeded|cuda:0|cpu|f32', 'auto falls back to the CPU');
like(cpu_lines($job), qr/^warning: trains on the CPU: could not load the GPU backend: .*nonexistent[^\n]*$/, 'and the log says why, once');
my ($evaluation, $state) = evaluate($job, '');
is($state, 'succeeded|cuda:0', 'so does an evaluation');
like(cpu_lines($evaluation), qr/^warning: evaluates on the CPU: could not load/, 'and says so');
cmp_ok(detections($job, 'auto'), '>', 0, 'and detect()');
like(slurp_file($node->logfile), qr/avcurate runs a network on the CPU: could not load/, 'of which the server log tells');
($job, $told) = train(', "device": "cuda:0"');
like($told, qr/^failed\|cuda:0/, 'who names the GPU gets no other');
like(ask("SELECT error FROM avcurate.jobs WHERE job = $job"), qr/could not load the GPU backend/, 'and an error that says why');

# --- none
serve(undef);
SKIP:
{
	skip 'this machine has a GPU', 2 if ask("SELECT detail FROM avcurate.doctor() WHERE check_name = 'gpu'") !~ /^none found/;
	($job, $told) = train('');
	is($told, 'succeeded|cpu|cpu|f32', 'auto is the CPU');
	is(cpu_lines($job), '', 'of which nothing is said');
}

done_testing();
