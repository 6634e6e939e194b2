# Experiments: pins, controls, results, verdicts, and going on after whatever
# interrupts them.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use JobTest;

my $node = PostgreSQL::Test::Cluster->new('experiment');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\nmax_worker_processes = 16\navcurate.max_workers = 2\navcurate.threads = 1\n");
$node->start;

sub ask { return $node->safe_psql('postgres', $_[0]) }

# A CALL and the messages that it gave.
sub call
{
	my ($arguments) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "CALL avcurate.run_experiment($arguments)");
	return $err;
}

ask(q{
	CREATE EXTENSION avcurate;
	SELECT avcurate.create_dataset('frames');
	CALL avcurate.ingest_synthetic('frames', 50, 3, 'train', '{"width": 160, "height": 96, "preset": "pool"}');
	CALL avcurate.ingest_synthetic('frames', 24, 4, 'val', '{"width": 160, "height": 96, "preset": "pool"}');
	UPDATE frames SET ann_categories = NULL, ann_bboxes = NULL, ann_occluded = NULL, ann_truncated = NULL, ann_ignored = NULL, ann_area = NULL
		WHERE frame_id IN (1, 2, 3);
	SELECT avcurate.create_slice('odd', 'frames', $$split = 'train' AND frame_id % 2 = 1 AND frame_id < 40$$);
	SELECT avcurate.create_slice('"Few ones"', 'frames', 'frame_id BETWEEN 30 AND 35');
	SELECT avcurate.create_slice('val_some', 'frames', $$split = 'val' AND frame_id < 63 OR frame_id >= 45 AND frame_id <= 50$$);
	SELECT avcurate.create_slice('val_rest', 'frames', $$split = 'val' AND frame_id >= 63$$);
	SELECT avcurate.create_model('m', 'small', '{"min_size": 96, "max_size": 160, "fpn_channels": 32, "representation_size": 64}');
	SELECT avcurate.create_checkpoint('m')});
my $quick = '"batch_size": 2, "warmup_steps": 1';
my $slices = q{1, ARRAY['odd', '"Few ones"']::regclass[], '{val_some,val_rest}'};

# --- what is refused leaves nothing behind
ask(q{
	CREATE ROLE reader; CREATE ROLE other LOGIN; GRANT reader TO other;
	SELECT avcurate.create_slice('most', 'frames', $$split = 'train' AND frame_id < 49$$);
	SELECT avcurate.create_slice('all_train', 'frames', $$split = 'train'$$);
	SELECT avcurate.create_slice('same', 'frames', 'frame_id < 20');
	SELECT avcurate.create_slice('unlabelled', 'frames', 'frame_id <= 3');
	CREATE MATERIALIZED VIEW narrow AS SELECT frame_id FROM frames WHERE frame_id < 20;
	CREATE UNIQUE INDEX ON narrow (frame_id);
	SELECT avcurate.track_slice('narrow');
	SELECT avcurate.create_dataset('elsewhere');
	INSERT INTO elsewhere (image_id, split, image_bytes, ann_categories, ann_bboxes) SELECT image_id, 'val', image_bytes, '{}', '{}' FROM frames WHERE frame_id IN (5, 7);
	SELECT avcurate.create_slice('copies', 'elsewhere', 'true');
	GRANT SELECT ON odd, val_rest TO reader;
	SELECT avcurate.create_model('of_reader', 'small', '{"min_size": 96, "max_size": 160, "fpn_channels": 32, "representation_size": 64}');
	UPDATE _avcurate.models SET owner = 'reader' WHERE model = 'of_reader';
	SELECT avcurate.create_checkpoint('of_reader')});
foreach my $case (
	[ q{NULL, 1, '{odd}', '{val_rest}'}, qr/experiment must not be NULL/ ],
	[ q{'', 1, '{odd}', '{val_rest}'}, qr/name of an experiment must have 1 to 200 bytes/ ],
	[ q{'r', 77, '{odd}', '{val_rest}'}, qr/checkpoint 77 does not exist/ ],
	[ q{'r', 1, '{}', '{val_rest}'}, qr/train_slices must name 1 to 100 slices, not 0/ ],
	[ q{'r', 1, '{odd,NULL}', '{val_rest}'}, qr/train_slices must not contain NULL/ ],
	[ q{'r', 1, '{odd}', '{val_rest,val_rest}'}, qr/val_slices names slice public.val_rest twice/ ],
	[ q{'r', 1, '{frames}', '{val_rest}'}, qr/"frames" is not a (tracked )?slice/ ],
	[ q{'r', 1, '{narrow}', '{val_rest}'}, qr/slice public.narrow lacks what a training needs/ ],
	[ q{'r', 1, '{odd}', '{odd}'}, qr/20 frames of train slice public.odd are in val slice public.odd, too.*Exclude them/s ],
	[ q{'r', 1, '{odd}', '{val_rest,same}'}, qr/10 frames of train slice public.odd are in val slice public.same, too/ ],
	[ q{'r', 1, '{odd}', '{copies}'}, qr/2 frames of train slice public.odd are in val slice public.copies, too/ ],
	[ q{'r', 1, '{most}', '{val_some}'}, qr/4 frames of train slice public.most are in val slice public.val_some/ ],
	[ q{'r', 1, '{all_train}', '{val_rest}'}, qr/the control of slice public.all_train needs more than 47 frames to be drawn from, but there are 47/ ],
	[ q{'r', 1, '{unlabelled}', '{val_rest}'}, qr/version 1 of slice public.unlabelled has no labelled frame/ ],
	[ q{'r', 1, '{odd}', '{val_rest}', '[]'}, qr/options of run_experiment must be a JSON object/ ],
	[ q{'r', 1, '{odd}', '{val_rest}', '{"seeds": []}'}, qr/option "seeds" of run_experiment must be a list of 1 to 100 numbers/ ],
	[ q{'r', 1, '{odd}', '{val_rest}', '{"seeds": 3}'}, qr/option "seeds" of run_experiment must be a list/ ],
	[ q{'r', 1, '{odd}', '{val_rest}', '{"seeds": [1, 1]}'}, qr/option "seeds" of run_experiment holds 1 twice/ ],
	[ q{'r', 1, '{odd}', '{val_rest}', '{"seeds": [0.5]}'}, qr/option "seeds" of run_experiment must hold whole numbers from 0/ ],
	[ q{'r', 1, '{odd}', '{val_rest}', '{"control": "no"}'}, qr/option "control" of run_experiment must be true or false/ ],
	[ q{'r', 1, '{odd}', '{val_rest}', '{"seed": 4}'}, qr/run_experiment sets option "seed" of train itself.*"seeds"/s ],
	[ q{'r', 1, '{odd}', '{val_rest}', '{"from_checkpoint": 1}'}, qr/run_experiment sets option "from_checkpoint"/ ],
	[ q{'r', 1, '{odd}', '{val_rest}', '{"eval_max_frames": 0}'}, qr/option "eval_max_frames" of run_experiment must hold whole numbers from 1/ ],
	[ q{'r', 1, '{odd}', '{val_rest}', '{"val_slice": "val_rest"}'}, qr/option "val_slice" names slice public.val_rest, which the experiment is judged on/ ],
	[ q{'r', 1, '{odd}', '{val_rest}', '{"val_slice": "same"}'}, qr/10 frames of train slice public.odd are in option "val_slice" public.same, too/ ],
	[ q{'r', 1, '{odd}', '{val_rest}', '{"val_slice": "frames"}'}, qr/"frames" is not a (tracked )?slice/ ],
	[ q{'r', 1, '{odd}', '{val_rest}', '{"val_slice": "nowhere"}'}, qr/relation "nowhere" does not exist/ ],
	[ q{'r', 1, '{odd}', '{val_rest}', '{"seeds": [null]}'}, qr/option "seeds" of run_experiment must hold whole numbers from 0/ ],
	[ q{'r', 1, '{odd}', '{val_rest}', '{"epoch": 3}'}, qr/run_experiment has no option "epoch".*batch_size.*seeds/s ])
{
	like(call($case->[0]), $case->[1], "refused: $case->[0]");
}
is(ask(q{SELECT (SELECT count(*) FROM avcurate.experiments), (SELECT count(*) FROM avcurate.jobs), (SELECT count(*) FROM avcurate.slices WHERE slice::text LIKE '%control%'),
	(SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')}), '0|0|0|0', 'and leaves nothing behind');
my ($rc, $out, $err) = $node->psql('postgres', q{BEGIN; CALL avcurate.run_experiment('r', 1, '{odd}', '{val_rest}')});
like($err, qr/run_experiment cannot run inside a transaction block/, 'it commits as it goes');
foreach my $case (
	[ q{1, '{odd}', '{val_rest}'}, qr/permission denied for model/ ],
	[ q{2, '{same}', '{val_rest}'}, qr/permission denied for materialized view (public\.)?same/ ],
	[ q{2, '{odd}', '{val_rest}'}, qr/permission denied for (table|schema|column)/ ])
{
	($rc, $out, $err) = $node->psql('postgres', "CALL avcurate.run_experiment('r', $case->[0])", connstr => $node->connstr('postgres') . ' user=other');
	like($err, $case->[1], "another role is refused: $case->[0]");
}
($rc, $out, $err) = $node->psql('postgres', q{SELECT avcurate.drop_experiment('r')});
like($err, qr/experiment "r" does not exist/, 'nothing to drop');

# --- a whole experiment
my $told = call(qq{'x', $slices, '{$quick, "max_steps": 2, "seeds": [0, 7]}'});
like($told, qr/experiment "x": \d+ of 26 jobs done/, 'tells how far it is');
like($told, qr/experiment "x" succeeded|pairs of train and val slice are worse/, 'and how it ended');
is(ask(q{SELECT state, base, error IS NULL, finished_at >= created_at, train_slices, control_slices, val_slices, options ->> 'max_steps' FROM avcurate.experiments}),
	'succeeded|1|t|t|{odd,"\"Few ones\""}|{x_odd_control,"\"x_Few ones_control\""}|{val_some,val_rest}|2', 'the experiment is recorded');
is(ask(q{SELECT count(*), count(DISTINCT evaluation), count(DISTINCT checkpoint), count(*) FILTER (WHERE train_slice IS NULL), count(*) FILTER (WHERE control),
	bool_and(recall50 IS NOT NULL), count(DISTINCT frames) FROM avcurate.experiment_results WHERE experiment = 'x'}),
	'18|18|9|2|8|t|2', 'base, controls and tuned on every val slice');
is(ask(q{SELECT bool_and(train_slice IS NULL = (seed IS NULL) AND NOT (train_slice IS NULL AND control)) FROM avcurate.experiment_results}), 't', 'rows of the base have no slice, control or seed');
is(ask(q{SELECT bool_and((p.options ->> 'from_checkpoint')::int = 1 AND (p.options ->> 'seed')::bigint = r.seed AND p.state = 'succeeded'
	AND p.slice = CASE WHEN NOT r.control THEN r.train_slice WHEN r.train_slice = 'odd'::regclass THEN 'x_odd_control'::regclass ELSE '"x_Few ones_control"'::regclass END)
	FROM avcurate.experiment_results r JOIN avcurate.checkpoints c USING (checkpoint) JOIN avcurate.jobs p ON p.job = c.job WHERE r.train_slice IS NOT NULL}),
	't', 'each checkpoint is the training of its slice or control and its seed');
is(ask(q{SELECT count(*), count(DISTINCT frame_id), bool_and(split = 'train' AND ann_categories IS NOT NULL),
	count(*) FILTER (WHERE frame_id IN (SELECT frame_id FROM val_some)) FROM x_odd_control}),
	ask('SELECT count(*), count(*) FROM odd WHERE ann_categories IS NOT NULL') . '|t|0', 'a control has as many labelled frames of the split, none of a val slice');
is(ask('SELECT count(*) FROM "x_Few ones_control"'), '6', 'so has the other');
is(ask(q{SELECT bool_and(incremental) FROM avcurate.slices WHERE slice::text LIKE '%control%'}), 't', 'its filter is refreshed by difference');
is(ask(q{SELECT count(*), bool_and(verdict ~ 'better|worse|no'), bool_and(gain = tuned - base AND over_control = tuned - control) FROM avcurate.experiment_summary}), '4|t|t', 'the summary has a row a pair');

# --- numbers and verdicts, from matches that are known
ask(q{
	CREATE TABLE plan AS SELECT e.job, e.train, e.control, e.val,
		CASE WHEN e.train = 0 THEN 40 WHEN e.train = 2 THEN CASE WHEN e.val = 1 THEN 10 ELSE 40 END
			WHEN NOT e.control OR e.val = 2 THEN 90 ELSE 40 END + (e.train > 0)::int * e.seed % 5 AS percent
	FROM _avcurate.experiment_evaluations e;
	DELETE FROM _avcurate.matches;
	DELETE FROM _avcurate.evaluation_classes;
	INSERT INTO _avcurate.evaluation_classes (evaluation, label, category, truths, detections) SELECT job, 3, 'car', 20, 20 FROM plan;
	INSERT INTO _avcurate.matches (evaluation, frame_id, label, score, iou, truth_no, detection_no, kind, category, box, truth_box)
	SELECT job, frame, 3, CASE WHEN found THEN 0.9 END, CASE WHEN found THEN 1 END, box, CASE WHEN found THEN box END,
		CASE WHEN found THEN 'true_positive' ELSE 'missed' END, 'car', CASE WHEN found THEN truth END, truth
	FROM (SELECT job, frame, box, ARRAY[20 * box, 0, 20 * box + 10, 10]::real[] AS truth, (frame * 37 + box * 61) % 100 < percent AS found
		FROM plan, generate_series(1, 60) frame, generate_series(1, 3) box) p;
	UPDATE _avcurate.evaluations SET frames = 60;
	DELETE FROM _avcurate.experiment_summaries;
	UPDATE _avcurate.experiments SET state = 'running'});
$told = call(qq{'x', $slices, '{"seeds": [0, 7], $quick, "max_steps": 2}'});
like($told, qr/WARNING: +experiment "x": 1 of 4 pairs of train and val slice are worse than the base/, 'a regression is told');
is(ask(q{SELECT train_slice, val_slice, verdict FROM avcurate.experiment_summary ORDER BY 1, 2}),
	join("\n", 'odd|val_some|better than base and control', 'odd|val_rest|better than base',
		'"Few ones"|val_some|worse than base', '"Few ones"|val_rest|no difference shown'), 'verdicts follow the intervals');
is(ask(q{SELECT count(*) FROM avcurate.experiment_summary WHERE NOT (gain_low <= gain AND gain <= gain_high AND over_control_low <= over_control AND over_control <= over_control_high)}), '0', 'differences lie in their intervals');
is(ask(q{WITH by_hand AS (SELECT r.train_slice, r.val_slice, r.control, avg(c.base) AS base, avg(c.tuned) AS tuned
		FROM avcurate.experiment_results r JOIN avcurate.experiment_results b ON b.experiment = r.experiment AND b.train_slice IS NULL AND b.val_slice = r.val_slice,
		LATERAL avcurate.compare_evaluations(b.evaluation, r.evaluation, 10) c WHERE r.train_slice IS NOT NULL AND c.metric = 'ap50' GROUP BY 1, 2, 3)
	SELECT count(*), bool_and(abs(s.base - h.base) + abs(CASE WHEN h.control THEN s.control ELSE s.tuned END - h.tuned) < 1e-12)
	FROM avcurate.experiment_summary s JOIN by_hand h USING (train_slice, val_slice)}), '8|t', 'means over seeds of what compare_evaluations says');
is(call(qq{'x', $slices, '{"seeds": [0, 7], $quick, "max_steps": 2}'}) =~ s/^psql.*?: NOTICE/NOTICE/r,
	qq{NOTICE:  experiment "x" has succeeded already\nHINT:  See avcurate.experiment_summary.}, 'called once more it does nothing');

# --- others see and touch nothing of it
is($node->safe_psql('postgres', 'SET ROLE other; SELECT (SELECT count(*) FROM avcurate.experiments), (SELECT count(*) FROM avcurate.experiment_results), (SELECT count(*) FROM avcurate.experiment_summary)'), '0|0|0', 'nothing is seen by others');
($rc, $out, $err) = $node->psql('postgres', q{SET ROLE other; SELECT avcurate.drop_experiment('x')});
like($err, qr/permission denied for experiment "x"/, 'nor dropped');
($rc, $out, $err) = $node->psql('postgres', q{CALL avcurate.run_experiment('x', 2, '{odd}', '{val_rest}')}, connstr => $node->connstr('postgres') . ' user=other');
like($err, qr/permission denied for experiment "x"/, 'nor gone on with');
foreach my $case (
	[ q{2, ARRAY['odd', '"Few ones"']::regclass[], '{val_some,val_rest}', '{}'}, 'base' ],
	[ q{1, '{odd}', '{val_some,val_rest}'}, 'options' ],
	[ qq{1, '{odd}', '{val_some,val_rest}', '{$quick, "max_steps": 2, "seeds": [0, 7]}'}, 'train_slices' ],
	[ qq{1, ARRAY['odd', '"Few ones"']::regclass[], '{val_rest,val_some}', '{$quick, "max_steps": 2, "seeds": [0, 7]}'}, 'val_slices' ])
{
	like(call("'x', $case->[0]"), qr/experiment "x" exists with other $case->[1].*avcurate.drop_experiment/s, "other $case->[1] are refused");
}

# --- one seed, no control: the interval is that of compare_evaluations
my $single = q{1, '{odd}', '{val_rest}'};
call(qq{'single', $single, '{$quick, "max_steps": 2, "control": false, "max_frames": 4, "eval_max_frames": 9}'});
is(ask(q{SELECT x.control_slices, x.state, (SELECT count(*) FROM avcurate.experiment_results r WHERE r.experiment = x.experiment AND frames = 9),
	control IS NULL AND over_control IS NULL AND over_control_low IS NULL FROM avcurate.experiments x JOIN avcurate.experiment_summary USING (experiment) WHERE experiment = 'single'}),
	'{}|succeeded|2|t', 'an experiment without control');
is(ask(q{SELECT gain = c.difference AND gain_low = c.low AND gain_high = c.high FROM avcurate.experiment_summary s,
	LATERAL avcurate.compare_evaluations((SELECT evaluation FROM avcurate.experiment_results r WHERE r.experiment = 'single' AND train_slice IS NULL),
		(SELECT evaluation FROM avcurate.experiment_results r WHERE r.experiment = 'single' AND train_slice IS NOT NULL)) c
	WHERE s.experiment = 'single' AND c.metric = 'ap50'}), 't', 'interval as compare_evaluations has it');

# --- interruptions: a cancel, a killed session, a job that fails
my $long = qq{'y', $single, '{$quick, "max_steps": 40, "checkpoint_every": 4, "control": false}'};
my $job_of_y = q{(SELECT max(job) FROM avcurate.jobs WHERE kind = 'train' AND (options ->> 'max_steps')::int = 40)};

# CALL in a session of its own; returns the session and its backend.
sub call_aside
{
	my ($steps) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $backend = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_until(qr/calling/, "\\echo calling\nCALL avcurate.run_experiment($long);\n");
	ok(defined poll($node, "SELECT count(*) >= $steps FROM avcurate.job_progress WHERE job = $job_of_y", 't'), "a training came to step $steps");
	return ($session, $backend);
}
my ($session, $backend) = call_aside(5);
like(call($long), qr/experiment "y" is being run by another session/, 'one session at a time');
ask("SELECT pg_cancel_backend($backend)");
ok(defined poll($node, "SELECT state FROM avcurate.experiments WHERE experiment = 'y'", 'cancelled'), 'a cancel ends it');
ok(defined poll($node, "SELECT state FROM avcurate.jobs WHERE job = $job_of_y", 'cancelled'), 'and its job');
$session->quit;
my $before = ask("SELECT max(step) FROM avcurate.job_progress WHERE job = $job_of_y");
($session, $backend) = call_aside($before + 2);
ask("SELECT pg_terminate_backend($backend)");
ok(defined poll($node, "SELECT count(*) FROM pg_stat_activity WHERE pid = $backend", '0'), 'the session is killed');
isnt(ask("SELECT state FROM avcurate.experiments WHERE experiment = 'y'"), 'failed', 'which is no failure');
eval { $session->quit };
is(ask(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 44037}), '0', 'and holds nothing');
like(call($long), qr/experiment "y" succeeded|worse than the base/, 'called again it goes on');
is(ask("SELECT count(*), max(step) FROM avcurate.job_progress WHERE job = $job_of_y"), '40|40', 'to the end');
cmp_ok(ask("SELECT count(*) FROM avcurate.job_log WHERE job = $job_of_y AND message LIKE 'resumed after step%'"), '>=', 1, 'from a step checkpoint');
is(ask(q{SELECT count(*) FROM avcurate.experiment_results WHERE experiment = 'y' AND ap50 IS NOT NULL}), '2', 'nothing was done twice');

$node->append_conf('postgresql.conf', "avcurate.engine_path = '/nowhere/engine'\n");
$node->reload;
my $failing = qq{'z', $single, '{$quick, "max_steps": 2, "control": false}'};
like(call($failing), qr/ERROR: +job \d+ failed: .*engine/, 'a job that fails fails the experiment');
like(ask(q{SELECT state, error FROM avcurate.experiments WHERE experiment = 'z'}), qr/^failed\|job \d+ failed: .*engine/, 'with its message');
is(ask(q{SELECT count(*) FROM avcurate.jobs WHERE state IN ('pending', 'running')}), '0', 'and leaves no open job');
$node->append_conf('postgresql.conf', "avcurate.engine_path = ''\n");
$node->reload;
call($failing);
is(ask(q{SELECT state, error FROM avcurate.experiments WHERE experiment = 'z'}), 'succeeded|', 'called again it tries again');

# --- a val slice without truths, and one that only tells which weights to keep
ask(q{UPDATE frames SET ann_categories = '{}', ann_bboxes = '{}', ann_occluded = NULL, ann_truncated = NULL, ann_ignored = NULL, ann_area = NULL WHERE frame_id > 70;
	UPDATE frames SET ann_categories = NULL, ann_bboxes = NULL, ann_occluded = NULL, ann_truncated = NULL, ann_ignored = NULL, ann_area = NULL WHERE frame_id IN (69, 70);
	SELECT avcurate.create_slice('val_unlabelled', 'frames', 'frame_id IN (69, 70)');
	SELECT avcurate.create_slice('val_empty', 'frames', 'frame_id > 70');
	SELECT avcurate.create_slice('choosing', 'frames', 'frame_id IN (40, 42, 44)')});
$told = call(qq{'empty', 1, '{odd}', '{val_empty,val_unlabelled}', '{$quick, "max_steps": 2, "val_slice": "choosing", "seeds": null}'});
is(ask(q{SELECT state, error FROM avcurate.experiments WHERE experiment = 'empty'}), 'succeeded|', 'val slices without truths or labels') or diag $told;
is(ask(q{SELECT val_slice, verdict, base IS NULL AND tuned IS NULL AND gain IS NULL AND gain_low IS NULL AND over_control IS NULL AND over_control_high IS NULL
	FROM avcurate.experiment_summary WHERE experiment = 'empty' ORDER BY val_slice::text}),
	"val_empty|no truths to compare on|t\nval_unlabelled|no truths to compare on|t", 'show nothing');
is(ask('SELECT count(*) FROM empty_odd_control WHERE frame_id IN (40, 42, 44)'), '0', 'nor is a control trained on what chooses its weights');
is(ask(q{SELECT count(DISTINCT job) FROM avcurate.validations JOIN avcurate.jobs USING (job) WHERE options ->> 'val_slice' LIKE '%choosing%'}), '2', 'which it does');

# --- a val slice that is dropped meanwhile
ask(q{SELECT avcurate.create_slice('val_brief', 'frames', 'frame_id BETWEEN 60 AND 64')});
my $brief = qq{'brief', 1, '{odd}', '{val_brief}', '{$quick, "max_steps": 60, "control": false}'};
$session = $node->background_psql('postgres', on_error_stop => 0);
$session->query_until(qr/calling/, "\\echo calling\nCALL avcurate.run_experiment($brief);\n");
poll($node, q{SELECT count(*) > 2 FROM avcurate.job_progress JOIN avcurate.jobs USING (job) WHERE (options ->> 'max_steps')::int = 60}, 't');
ask('DROP MATERIALIZED VIEW val_brief');
ok(defined poll($node, q{SELECT state, error FROM avcurate.experiments WHERE experiment = 'brief'}, 'failed|slice public.val_brief was dropped while an experiment needs it'),
	'an experiment whose val slice is dropped fails and says why');
$session->quit;
is(ask(q{SELECT count(*) FROM avcurate.jobs WHERE state IN ('pending', 'running')}), '0', 'and leaves no open job');
is(ask(q{SELECT val_slice IS NULL, evaluation IS NOT NULL FROM avcurate.experiment_results WHERE experiment = 'brief'}), 't|t', 'what it had found is still there');
ask(q{SELECT avcurate.drop_experiment('brief'), avcurate.drop_experiment('empty')});
is(ask(q{SELECT count(*) FROM avcurate.experiments WHERE experiment IN ('brief', 'empty')}), '0', 'until it is dropped');

# --- what an experiment holds, and dropping it
ask(q{UPDATE frames SET weather = 'foggy' WHERE frame_id = 31; SELECT avcurate.refresh_slice('"Few ones"')});
like(ask(q{SELECT kept_because FROM avcurate.prune_slice('"Few ones"', 1) WHERE version = 1}), qr/experiment \d+/, 'its versions are kept');
ask(q{SELECT avcurate.tag_slice('x_odd_control', 1, 'mine')});
($rc, $out, $err) = $node->psql('postgres', q{SELECT avcurate.drop_experiment('x')});
like($err, qr/control slices of experiment "x" are pinned by others.*Pinned is public.x_odd_control version 1 by tag mine/s, 'what others pin stays');
is(ask(q{SELECT count(*) FROM avcurate.experiment_results WHERE experiment = 'x'}), '18', 'and all the rest');
ask(q{SELECT avcurate.untag_slice('x_odd_control', 'mine');
	SELECT avcurate.drop_experiment('x')});
is(ask(q{SELECT (SELECT count(*) FROM avcurate.experiments WHERE experiment = 'x'), to_regclass('x_odd_control') IS NULL,
	(SELECT count(*) FROM avcurate.slices WHERE slice::text LIKE '%control%'), (SELECT count(*) >= 9 FROM avcurate.checkpoints)}), '0|t|0|t', 'then it goes with its controls, its checkpoints stay');
done_testing();
