# A training that evaluates on a slice of its own while it runs.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use JobTest;

my $node = PostgreSQL::Test::Cluster->new('validation');
$node->init;
$node->append_conf('postgresql.conf', "max_worker_processes = 12\navcurate.threads = 2\navcurate.retry_delay = 0");
$node->start;
setup_small($node, 24);
$node->safe_psql('postgres', q{
	SELECT avcurate.create_slice('all_frames', 'frames', 'true');
	SELECT avcurate.create_slice('few', 'frames', 'frame_id <= 8')});

sub train
{
	my ($more) = @_;
	return $node->safe_psql('postgres', qq{SELECT avcurate.train('all_frames', 'm', '{"batch_size": 2, "warmup_steps": 2, $more}')});
}

sub ask { return $node->safe_psql('postgres', $_[0]) }

sub wait_for
{
	my ($job) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.wait_job($job, '180 s')");
	return $out;
}

my $rows = 'SELECT step, epoch, slice, version, frames, ap, ap50, recall50, best FROM avcurate.validations WHERE job = %d ORDER BY step';
my $result = 'SELECT c.step, c.provenance ->> \'weights_sha256\' FROM avcurate.jobs j JOIN avcurate.checkpoints c USING (checkpoint) WHERE j.job = %d';

# --- every epoch and at the end; the best weights are the result
my $job = train(q{"max_steps": 40, "val_slice": "few", "checkpoint_every": 5});
is(wait_for($job), 'succeeded', 'a training that validates');
is(ask("SELECT string_agg(step || ' ' || epoch, ', ' ORDER BY step) FROM avcurate.validations WHERE job = $job"),
	'12 0, 24 1, 36 2, 40 3', 'after each epoch and after the last step');
is(ask("SELECT DISTINCT slice, version, frames FROM avcurate.validations WHERE job = $job"), 'few|1|8', 'on the pinned version');
is(ask("SELECT count(*) FILTER (WHERE best), bool_and(best = (step = (SELECT step FROM avcurate.validations w WHERE w.job = v.job ORDER BY ap50 DESC, step LIMIT 1)))
	FROM avcurate.validations v WHERE job = $job"), '1|t', 'the best is the first of the highest ap50');
my ($best, $sha256) = split /\|/, ask(sprintf $result, $job);
is($best, ask("SELECT step FROM avcurate.validations WHERE job = $job AND best"), 'whose weights are the result');
is(ask("SELECT count(*) FROM _avcurate.checkpoints WHERE job = $job"), '1', 'and nothing else is kept');
my $evaluation = ask("SELECT avcurate.evaluate((SELECT checkpoint FROM avcurate.jobs WHERE job = $job), 'few')");
is(wait_for($evaluation), 'succeeded', 'evaluate the result');
is(ask("SELECT abs(e.ap50 - v.ap50) < 1e-12 AND abs(e.ap - v.ap) < 1e-12 AND abs(e.recall50 - v.recall50) < 1e-12
	FROM avcurate.evaluations e, avcurate.validations v WHERE e.evaluation = $evaluation AND v.job = $job AND v.best"), 't', 'evaluate finds the same figures');
my $again = ask("SELECT avcurate.reproduce((SELECT checkpoint FROM avcurate.jobs WHERE job = $job))");
is(wait_for($again), 'succeeded', 'reproduce the result');
is(ask("SELECT result FROM avcurate.jobs WHERE job = $again"), 'same weights', 'the weights of a step before the last can be reproduced');

# --- an engine that dies on the way changes nothing
my $disturbed = train(q{"max_steps": 40, "val_slice": "few", "checkpoint_every": 5});
for my $step (13, 29)
{
	poll($node, "SELECT max(step) >= $step FROM avcurate.job_progress WHERE job = $disturbed", 't');
	my $worker = ask("SELECT worker_pid FROM _avcurate.jobs WHERE job = $disturbed AND state = 'running'");
	kill 'KILL', children_of($worker) if $worker;
	poll($node, "SELECT state IN ('failed', 'succeeded') FROM avcurate.jobs WHERE job = $disturbed", 't');
	ask("SELECT avcurate.resume_job($disturbed)");
}
is(wait_for($disturbed), 'succeeded', 'a disturbed training goes on');
cmp_ok(ask("SELECT count(*) FROM avcurate.job_log WHERE job = $disturbed AND message LIKE 'resumed after step%'"), '>=', 1, 'from a step checkpoint');
is(ask(sprintf $rows, $disturbed), ask(sprintf $rows, $job), 'with the same figures');
is((split /\|/, ask(sprintf $result, $disturbed))[1], $sha256, 'and the same weights');

# --- the last weights, where asked for
$job = train(q{"max_steps": 14, "val_slice": "few", "keep_best": false});
is(wait_for($job), 'succeeded', 'keep_best can be false');
is((split /\|/, ask(sprintf $result, $job))[0], '14', 'the result is the last step');
is(ask("SELECT count(*) FROM avcurate.validations WHERE job = $job"), '2', 'evaluated all the same');

# --- early_stop: a rate of 0 learns nothing
$job = train(q{"epochs": 9, "val_slice": "public.few", "lr": 0, "early_stop": 2, "freeze_norm": true, "eval_every": 2});
is(wait_for($job), 'succeeded', 'a training without gain');
is(ask("SELECT string_agg(step::text, ' ' ORDER BY step) FROM avcurate.validations WHERE job = $job"), '24 48 72', 'ends after two evaluations without gain');
is((split /\|/, ask(sprintf $result, $job))[0], '24', 'the result is the first of equals');
is(ask("SELECT progress, count(l.message) FROM avcurate.jobs j LEFT JOIN avcurate.job_log l ON l.job = j.job AND l.message LIKE 'stopped after step 72 of 108%'
	WHERE j.job = $job GROUP BY progress"), '1|1', 'the log says so');

# --- an end between the row of a best evaluation and its weights
$job = train(q{"epochs": 9, "val_slice": "few", "lr": 0, "early_stop": 2, "freeze_norm": true, "checkpoint_every": 12, "keep_last": 99});
poll($node, "SELECT count(*) > 0 FROM avcurate.job_progress WHERE job = $job AND step > 12", 't', 60);
ask("SELECT avcurate.cancel_job($job)");
poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'cancelled');
ask("UPDATE _avcurate.validations SET checkpoint = NULL WHERE job = $job;
	DELETE FROM _avcurate.checkpoints WHERE job = $job AND (slice_id IS NOT NULL OR step > 12)");
ask("SELECT avcurate.resume_job($job)");
is(wait_for($job), 'succeeded', 'a training whose best weights were not stored');
is((split /\|/, ask(sprintf $result, $job))[0], '12', 'makes them again');
is(ask("SELECT count(*) FROM avcurate.job_log WHERE job = $job AND message LIKE '%were lost%'"), '0', 'so nothing is lost');

# --- the pin holds while the job may need it
ask(q{SELECT avcurate.create_slice('pinned', 'frames', 'frame_id <= 4')});
$job = train(q{"max_steps": 400, "val_slice": "pinned"});
poll($node, "SELECT count(*) > 0 FROM avcurate.job_progress WHERE job = $job", 't');
ask(q{UPDATE frames SET weather = 'foggy' WHERE frame_id = 3; SELECT avcurate.refresh_slice('pinned')});
is(ask(q{SELECT pruned, kept_because FROM avcurate.prune_slice('pinned', 1) WHERE version = 1}), "f|job $job", 'the version is kept for the job');
ask("SELECT avcurate.cancel_job($job)");
poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'cancelled');
is(ask(q{SELECT pruned FROM avcurate.prune_slice('pinned', 1) WHERE version = 1}), 't', 'and no longer');

# --- weights to go on from are no pin, and are freed with their version
ask(q{SELECT avcurate.create_slice('short', 'frames', 'frame_id <= 6')});
$job = ask(q{SELECT avcurate.train('short', 'm', '{"batch_size": 2, "max_steps": 4000, "val_slice": "few", "checkpoint_every": 1}')});
poll($node, "SELECT count(*) > 0 FROM avcurate.validations WHERE job = $job", 't', 60);
poll($node, "SELECT count(*) > 3 FROM avcurate.job_progress WHERE job = $job AND step > 3", 't', 60);
ask("SELECT avcurate.cancel_job($job)");
poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job", 'cancelled');
is(ask("SELECT count(*) FILTER (WHERE slice_id IS NOT NULL), count(*) > 1 FROM _avcurate.checkpoints WHERE job = $job"), '1|t', 'a cancelled training keeps its best weights and states');
ask(q{UPDATE frames SET weather = 'snowy' WHERE frame_id = 3; SELECT avcurate.refresh_slice('short')});
is(ask(q{SELECT pruned FROM avcurate.prune_slice('short', 1) WHERE version = 1}), 't', 'they do not hold its version');
is(ask("SELECT count(*) FROM _avcurate.checkpoints WHERE job = $job"), '0', 'and go with it');

# --- bad options
sub refused
{
	my ($more, $like, $name) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', qq{SELECT avcurate.train('all_frames', 'm', '{$more}')});
	like($err, $like, $name);
}
refused('"val_slice": "nowhere"', qr/relation "nowhere" does not exist/, 'no such slice');
refused('"val_slice": "frames"', qr/"frames" is not a (tracked )?slice/, 'not a slice');
refused('"val_slice": "pinned", "val_version": 1', qr/version 1 of slice .*pinned.* pruned/, 'a pruned version');
refused('"early_stop": 3', qr/option "early_stop" of train needs option "val_slice"/, 'early_stop alone');
refused('"val_version": 3', qr/option "val_version" of train needs option "val_slice"/, 'val_version alone');
ask('CREATE ROLE other; GRANT SELECT ON all_frames, frames TO other');
my ($rc, $out, $err) = $node->psql('postgres', q{SET ROLE other; SELECT avcurate.create_model('own', 'small');
	SELECT avcurate.train('all_frames', 'own', '{"val_slice": "few"}')});
like($err, qr/permission denied for materialized view (public\.)?few/, 'a slice that one may not read');
done_testing();
