# Training with the real engine: the same weights whatever happens on the way.
use strict;
use warnings;
use File::Copy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib $FindBin::Bin;
use JobTest;

my $rounds = $ENV{AVC_LONG} ? 12 : 1;
my $seed = $ENV{AVC_SEED} || 5;
srand($seed);
note "seed $seed";

my $node = PostgreSQL::Test::Cluster->new('training');
$node->init;
$node->append_conf('postgresql.conf', "max_worker_processes = 12\nfsync = on\navcurate.threads = 2\navcurate.retry_delay = 0");
$node->start;
setup_small($node, 24);
$node->safe_psql('postgres', q{
	SELECT avcurate.create_slice('all_frames', 'frames', 'true')});

my $steps = 12;
my $options = qq({"max_steps": $steps, "batch_size": 2, "checkpoint_every": 3, "warmup_steps": 2});

sub train
{
	my ($given) = @_;
	$given //= $options;
	return $node->safe_psql('postgres', "SELECT avcurate.train('all_frames', 'm', '$given')");
}

sub wait_for
{
	my ($job) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.wait_job($job, '180 s')");
	diag $err if $err =~ /ERROR/ && $err !~ /signal 9/;
	return ($out, $err);
}

# The engine of the server's workers, as a folder of /proc.
sub engine_of_job
{
	my ($job) = @_;
	my $pid = $node->safe_psql('postgres', "SELECT worker_pid FROM _avcurate.jobs WHERE job = $job");
	return undef unless $pid;
	my ($child) = children_of($pid);
	return $child;
}

sub reach
{
	my ($job, $step) = @_;
	return poll($node, "SELECT max(step) >= $step FROM avcurate.job_progress WHERE job = $job", 't');
}

# --- undisturbed, twice
my $job = train();
reach($job, 1);
my $child = engine_of_job($job);
SKIP:
{
	skip 'the job was too quick', 4 unless $child;
	my @links = map { readlink($_) // '' } glob "/proc/$child/fd/*";
	my %status;
	open my $in, '<', "/proc/$child/status" or skip 'the job was too quick', 4;
	while (<$in>) { $status{$1} = $2 if /^(\w+):\s+(.*)/ }
	close $in;
	is(scalar(grep { m{pgdata|PG_VERSION|base/|pg_wal|\(deleted\)} } @links), 0, 'an engine has no file of the server open');
	is(scalar(grep { /^socket:/ } @links), 1, 'and one socket');
	# signals 32 and 33 are the C library's: posix_spawn, make's, ignores them
	is(hex(substr($status{SigIgn}, -8)) & 0x7fffefff, 0, 'no signal but SIGPIPE is ignored in it');
	is(getpgrp($child), $child, 'it leads a process group');
}
is((wait_for($job))[0], 'succeeded', 'an undisturbed run');
my $weights = weights_of($node, $job);
my $loss = $node->safe_psql('postgres', "SELECT string_agg(loss::text, ' ' ORDER BY step) FROM avcurate.job_progress WHERE job = $job");
like($loss, qr/^[\d. ]+$/, 'losses are finite');
is($node->safe_psql('postgres', "SELECT count(*) FROM avcurate.job_progress WHERE job = $job AND loss IS NOT NULL AND grad_norm > 0 AND images_per_s > 0 AND engine_busy BETWEEN 0 AND 1"),
	$steps, 'every step is recorded in full');
my $first = $job;
$job = train();
wait_for($job);
is(weights_of($node, $job), $weights, 'equal options give equal weights');
my $other = train(qq({"max_steps": $steps, "batch_size": 2, "warmup_steps": 2, "seed": 9}));
wait_for($other);
isnt(weights_of($node, $other), $weights, 'another seed gives others');

# --- disturbed at random steps
foreach my $round (1 .. $rounds)
{
	foreach my $how ('engine killed', 'worker terminated', 'server stopped')
	{
		my $step = 2 + int rand($steps - 6);
		my $pid;
		# Stop the engine there, so that the job cannot end before its fate;
		# on a busy machine it may be too quick all the same: once more then.
		foreach my $try (1 .. 5)
		{
			$job = train();
			reach($job, $step);
			$pid = engine_of_job($job);
			last if $pid && kill 'STOP', $pid;
		}
		is(state_of($node, $job), 'running', "$how after step $step");
		if ($how eq 'engine killed')
		{
			kill 'KILL', $pid;
			my ($out, $err) = wait_for($job);
			like($err, qr/engine was ended by signal 9/, 'the job has failed');
			$node->safe_psql('postgres', "SELECT avcurate.resume_job($job)");
		}
		elsif ($how eq 'worker terminated')
		{
			$node->safe_psql('postgres', "SELECT pg_terminate_backend(worker_pid) FROM _avcurate.jobs WHERE job = $job");
		}
		else
		{
			$node->stop('immediate');
			$node->start;
			$node->safe_psql('postgres', 'SELECT avcurate.run_pending()');
		}
		is((wait_for($job))[0], 'succeeded', 'the job goes on');
		is(weights_of($node, $job), $weights, 'and ends with the weights of an undisturbed run, bit for bit');
		is($node->safe_psql('postgres', "SELECT string_agg(loss::text, ' ' ORDER BY step) FROM avcurate.job_progress WHERE job = $job"),
			$loss, 'and its losses');
	}
}

# --- once more
my $checkpoint = $node->safe_psql('postgres', "SELECT checkpoint FROM avcurate.jobs WHERE job = $first");
$job = $node->safe_psql('postgres', "SELECT avcurate.reproduce($checkpoint)");
is((wait_for($job))[0], 'succeeded', 'reproduce');
is($node->safe_psql('postgres', "SELECT result, checkpoint, device FROM avcurate.jobs WHERE job = $job"), "same weights|$checkpoint|cpu", 'gives the same weights');
$node->safe_psql('postgres', "UPDATE _avcurate.checkpoints SET provenance = jsonb_set(provenance, '{weights_sha256}', '\"00\"') WHERE checkpoint = $checkpoint");
$job = $node->safe_psql('postgres', "SELECT avcurate.reproduce($checkpoint)");
wait_for($job);
is($node->safe_psql('postgres', "SELECT result FROM avcurate.jobs WHERE job = $job"), 'different weights', 'or says that it does not');
$node->safe_psql('postgres', "UPDATE _avcurate.checkpoints SET provenance = jsonb_set(provenance, '{environment,threads}', '7') WHERE checkpoint = $checkpoint");
$job = $node->safe_psql('postgres', "SELECT avcurate.reproduce($checkpoint)");
wait_for($job);
like($node->safe_psql('postgres', "SELECT result FROM avcurate.jobs WHERE job = $job"), qr/^not comparable: threads was 7, is \d+$/, 'and what differs');
is($node->safe_psql('postgres', "SELECT string_agg(object_kind || ' ' || object, ',') FROM avcurate.erase_frame('frames', 24, 'not to be trained on') WHERE object = '$checkpoint'"),
	"checkpoint $checkpoint", 'erasing a frame names the checkpoint');
$job = $node->safe_psql('postgres', "SELECT avcurate.reproduce($checkpoint)");
is((wait_for($job))[0], 'succeeded', 'it is trained again with the rest');
is($node->safe_psql('postgres', "SELECT result FROM avcurate.jobs WHERE job = $job"), 'not comparable: 1 frames of the version were erased since', 'and says so');
is($node->safe_psql('postgres', "SELECT (SELECT detail FROM avcurate.verify_checkpoint($checkpoint) WHERE check_name = 'pin' AND ok) ~ ': 24 rows minus 1 erased: rows and images match'"), 't', 'its pin still verifies');

# --- checkpoints out and in
is($node->safe_psql('postgres', "SELECT provenance ->> 'weights_sha256' FROM avcurate.checkpoints WHERE checkpoint = avcurate.import_checkpoint('m', avcurate.export_checkpoint($checkpoint))") ||
	$node->safe_psql('postgres', "SELECT provenance ->> 'weights_sha256' FROM avcurate.checkpoints ORDER BY checkpoint DESC LIMIT 1"),
	$weights, 'export and import keep every bit');
my $file = $node->basedir . '/weights.safetensors';
cmp_ok($node->safe_psql('postgres', "SELECT avcurate.export_checkpoint($checkpoint, '$file', 'safetensors')"), '>', 1000000, 'export to a file');
$node->safe_psql('postgres', "SELECT avcurate.import_checkpoint('m', '$file')");
is($node->safe_psql('postgres', "SELECT provenance ->> 'weights_sha256' FROM avcurate.checkpoints ORDER BY checkpoint DESC LIMIT 1"),
	$weights, 'import from a file');
my ($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.create_model('wide', 'small'); SELECT avcurate.import_checkpoint('wide', avcurate.export_checkpoint($checkpoint))");
like($err, qr/ERROR:.*(shape|tensor)/, "another model's weights are refused") and note $err;
($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.import_checkpoint('m', '\\x00'::bytea)");
like($err, qr/ERROR/, 'nonsense is refused') and note $err;
($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.import_checkpoint('m', 'PK34'::bytea)");
like($err, qr/ERROR/, 'so is a broken .pth file') and note $err;
foreach my $kind ('zip', 'stream')
{
	copy("$ENV{AVC_ROOT}/test/data/state_$kind.pth", $node->basedir . "/$kind.pth") or die "copy: $!";
	my $path = $node->basedir . "/$kind.pth";
	($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.import_checkpoint('m', '$path')");
	like($err, qr/ERROR:.*tensor/, "a .pth file ($kind) is read, its tensors are not the model's") and note $err;
}

# --- fine-tuning starts from a checkpoint
$job = train(qq({"max_steps": 2, "batch_size": 2, "from_checkpoint": $checkpoint, "max_frames": 4}));
is((wait_for($job))[0], 'succeeded', 'fine-tuning');
is($node->safe_psql('postgres', "SELECT parent, rows, provenance ->> 'frames', provenance -> 'options' ->> 'lr' FROM avcurate.checkpoints WHERE job = $job"),
	"$checkpoint|23|4|0.0005", 'knows its parent, frames and rate');
my ($start) = $node->safe_psql('postgres', "SELECT loss < (SELECT loss FROM avcurate.job_progress WHERE job = $first AND step = 1) FROM avcurate.job_progress WHERE job = $job AND step = 1");
is($start, 't', 'and begins with a smaller loss');

# --- bf16
SKIP:
{
	my $given = qq({"max_steps": 6, "batch_size": 2, "amp": "bf16"});
	$job = train($given);
	my ($state, $error) = wait_for($job);
	if ($error =~ /precision bf16 cannot be used: the processor lacks AVX512_BF16/)
	{
		pass('bf16 is refused by what the processor lacks');
		skip 'no bf16 on this processor', 5;
	}
	is($state, 'succeeded', 'training in bf16');
	my $rounded = $node->safe_psql('postgres', "SELECT checkpoint FROM avcurate.jobs WHERE job = $job");
	is($node->safe_psql('postgres', "SELECT provenance #>> '{environment,precision}', provenance #>> '{options,amp}' FROM avcurate.checkpoints WHERE checkpoint = $rounded"),
		'bf16|bf16', 'is recorded as such');
	is($node->safe_psql('postgres', "SELECT provenance #>> '{environment,precision}' FROM avcurate.checkpoints WHERE checkpoint = $checkpoint"),
		'f32', 'and f32 as f32');
	$job = $node->safe_psql('postgres', "SELECT avcurate.reproduce($rounded)");
	wait_for($job);
	is($node->safe_psql('postgres', "SELECT result FROM avcurate.jobs WHERE job = $job"), 'same weights', 'reproduced in bf16 too');
	$node->safe_psql('postgres', "UPDATE _avcurate.checkpoints SET provenance = jsonb_set(provenance, '{options,amp}', '\"f32\"') WHERE checkpoint = $rounded");
	$job = $node->safe_psql('postgres', "SELECT avcurate.reproduce($rounded)");
	wait_for($job);
	like($node->safe_psql('postgres', "SELECT result FROM avcurate.jobs WHERE job = $job"), qr/^not comparable: precision was "bf16", is "f32"$/, 'which is compared');
	$job = $node->safe_psql('postgres', qq{SELECT avcurate.evaluate($rounded, 'all_frames', '{"amp": "bf16", "max_frames": 2}')});
	is((wait_for($job))[0], 'succeeded', 'evaluation in bf16');
}

# --- frames without labels, frames without boxes
$node->safe_psql('postgres', q{
	UPDATE frames SET ann_categories = NULL, ann_bboxes = NULL, ann_occluded = NULL, ann_truncated = NULL,
		ann_ignored = NULL, ann_area = NULL WHERE frame_id <= 4;
	UPDATE frames SET ann_categories = '{}', ann_bboxes = '{}', ann_occluded = '{}', ann_truncated = '{}',
		ann_ignored = NULL, ann_area = NULL WHERE frame_id > 4 AND frame_id <= 10;
	SELECT avcurate.create_slice('few', 'frames', 'frame_id <= 12');
	SELECT avcurate.create_slice('unlabelled', 'frames', 'frame_id <= 4')});
$job = $node->safe_psql('postgres', q{SELECT avcurate.train('few', 'm', '{"max_steps": 8, "batch_size": 2}')});
is((wait_for($job))[0], 'succeeded', 'training where most frames are empty');
like($node->safe_psql('postgres', "SELECT string_agg(message, ';' ORDER BY at) FROM avcurate.job_log WHERE job = $job"),
	qr/4 frames without labels are left out.*was skipped: none of its 2 frames has a box/, 'both are logged');
is($node->safe_psql('postgres', "SELECT count(*), count(loss) < 8 FROM avcurate.job_progress WHERE job = $job"), '8|t', 'a skipped step counts');
($rc, $out, $err) = $node->psql('postgres', q{SELECT avcurate.train('unlabelled', 'm')});
like($err, qr/version 1 of slice public\.unlabelled has no labelled frame/, 'nothing to train on is refused');

# --- rates
is($node->safe_psql('postgres', "SELECT string_agg(round(lr::numeric, 8)::text, ' ' ORDER BY step) FROM avcurate.job_progress WHERE job = $first AND step IN (1, 2, 3, 12)"),
	join(' ', map { sprintf '%.8f', $_ } 0.0005, 0.001, 0.001, 0.0005 * (1 + cos(3.14159265358979 * 9 / 10))), 'warm-up, then cosine');
$job = $node->safe_psql('postgres', q{SELECT avcurate.train('all_frames', 'm', '{"epochs": 4, "batch_size": 12, "lr_schedule": "step", "lr_step_size": 2, "lr": 0.0001, "warmup_steps": 0, "accumulate": 2, "optimizer": "sgd"}')});
is((wait_for($job))[0], 'succeeded', 'micro-batches');
is($node->safe_psql('postgres', "SELECT string_agg(epoch || ':' || round(lr::numeric, 8), ' ' ORDER BY step) FROM avcurate.job_progress WHERE job = $job"),
	join(' ', map { sprintf '%d:%.8f', $_ / 2, $_ < 4 ? 1e-4 : 1e-5 } 0 .. 7), 'step decay counts epochs');

$node->stop;
done_testing();
