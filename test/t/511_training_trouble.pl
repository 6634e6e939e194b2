# Training with the real engine where it cannot go on: losses that are not
# finite, too little memory, a cancel inside a long step, a frame too thin.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use FindBin;
use lib $FindBin::Bin;
use JobTest;

my $node = PostgreSQL::Test::Cluster->new('trouble');
$node->init;
$node->append_conf('postgresql.conf', "max_worker_processes = 12\navcurate.threads = 2");
$node->start;
setup_small($node, 12);
$node->safe_psql('postgres', q{
	SELECT avcurate.create_slice('all_frames', 'frames', 'true');
	SELECT avcurate.create_model('large', 'fasterrcnn_resnet18_fpn', '{"min_size": 360, "max_size": 640}')});

sub train
{
	my ($model, $options) = @_;
	return $node->safe_psql('postgres', "SELECT avcurate.train('all_frames', '$model', '$options')");
}

sub error_of
{
	my ($job) = @_;
	$node->psql('postgres', "SELECT avcurate.wait_job($job, '180 s')");
	return $node->safe_psql('postgres', "SELECT error FROM avcurate.jobs WHERE job = $job");
}

# --- a rate that grows until nothing is finite any more
my $job = train('m', '{"max_steps": 300, "batch_size": 2, "checkpoint_every": 1, "optimizer": "sgd", "lr": 30, "warmup_steps": 300, "clip_norm": 0}');
my $error = error_of($job);
like($error, qr/(loss|gradient) is not finite at step \d+, frames \d+, \d+/, 'a loss that is not finite names step and frames');
my ($failed) = $error =~ /at step (\d+)/;
my $states = "SELECT max(step) FROM _avcurate.checkpoints WHERE job = $job AND state";
my $kept = $node->safe_psql('postgres', $states);
cmp_ok($kept, '>', 0, "the state after $kept steps is kept");
is($kept, $failed, 'which is the one before the step that failed');
$node->safe_psql('postgres', "SELECT avcurate.resume_job($job)");
is(error_of($job), $error, 'resumed from there it fails in the same way');
is($node->safe_psql('postgres', $states), $kept, 'and loses nothing');

# --- memory
$node->append_conf('postgresql.conf', "avcurate.engine_memory_limit = '64MB'");
$node->reload;
$job = train('m', '{"max_steps": 2, "batch_size": 8}');
like(error_of($job), qr/batch of 8 at 160x96 needs \d+ bytes, the limit is 67108864 \(parameters \d+, gradients \d+, optimizer \d+, activations \d+, workspace \d+, kernels \d+, boxes \d+, pictures \d+\)/,
	'a plan over the limit is refused with the bytes of every part');
$job = train('large', '{"max_steps": 2, "batch_size": 1}');
like(error_of($job), qr/detector needs \d+ bytes, the limit is 67108864 \(parameters \d+, /, 'so are weights');
$node->append_conf('postgresql.conf', 'avcurate.engine_memory_limit = 0');
$node->reload;

# --- a cancel inside a step
$job = train('large', '{"max_steps": 2, "batch_size": 8, "device": "ref"}');
my $engine = busy_engine($job, 3);
ok($engine, 'the engine is at work on its first step');
my $start = time;
is($node->safe_psql('postgres', "SELECT avcurate.cancel_job($job)"), 't', 'cancel');
my $took = poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'cancelled');
cmp_ok($took // 99, '<', 30, 'ends the job');
note sprintf('%.2f s', $took // 99);
ok(!-d "/proc/$engine", 'its engine is gone');
is($node->safe_psql('postgres', "SELECT count(*) FROM avcurate.job_progress WHERE job = $job"), '0', 'no step was done');

# --- frames that cannot be used
$node->safe_psql('postgres', q{SELECT avcurate.create_model('thin', 'small', '{"min_size": 96, "max_size": 1}')});
$job = train('thin', '{"max_steps": 2, "batch_size": 2}');
like(error_of($job), qr/frame \d+ of 160x96 pixels would be resized to 1x0/, 'a frame that vanishes is refused by name');

# The process id of a job's engine once it has used so many seconds.
sub busy_engine
{
	my ($job, $seconds) = @_;
	my $until = time + 60;
	while (time < $until)
	{
		my $pid = $node->safe_psql('postgres', "SELECT worker_pid FROM _avcurate.jobs WHERE job = $job");
		my ($child) = $pid ? children_of($pid) : ();
		if ($child && open my $in, '<', "/proc/$child/stat")
		{
			my @field = split / /, <$in> // '';
			return $child if @field > 14 && ($field[13] + $field[14]) / 100 > $seconds;
		}
		usleep(50_000);
	}
	return undef;
}

$node->stop;
done_testing();
