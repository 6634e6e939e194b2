-- Models, options of train, jobs: refusals, defaults, columns.
SELECT avcurate.create_dataset('public.tap_frames') \g /dev/null
CALL avcurate.ingest_synthetic('public.tap_frames', 3, 1, 'train', '{"width": 96, "height": 64}');
BEGIN;
SET search_path = public, avcurate;
SET client_min_messages = warning;
SELECT plan(84);

-- columns are a contract
CREATE FUNCTION columns_of(relation regclass) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute
	WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped $$;
SELECT is(columns_of('avcurate.jobs'), 'job kind state role dataset slice version model checkpoint options device attempts created_at started_at finished_at progress eta images_per_s failed_rows error result retry_at', 'columns of jobs');
SELECT is(columns_of('avcurate.job_progress'), 'job step epoch at lr loss loss_classifier loss_box_reg loss_objectness loss_rpn_box_reg grad_norm images_per_s engine_busy', 'columns of job_progress');
SELECT is(columns_of('avcurate.job_log'), 'job at level message', 'columns of job_log');
SELECT is(columns_of('avcurate.checkpoints'), 'checkpoint model job slice version digest rows parent step epoch created_at bytes provenance', 'columns of checkpoints');

-- models
SELECT lives_ok($$SELECT create_model('small_one', 'small')$$, 'the preset');
SELECT lives_ok($$SELECT create_model('reference', 'fasterrcnn_resnet50_fpn_v2')$$, 'the reference');
SELECT lives_ok($$SELECT create_model('narrow', 'fasterrcnn_resnet18_fpn', '{"min_size": 96, "max_size": 160}', 'bdd100k')$$, 'options and a label map');
SELECT results_eq($$SELECT model, label_map, num_classes FROM models ORDER BY model$$,
	$$VALUES ('narrow', 'bdd100k', 11), ('reference', 'coco', 91), ('small_one', 'bdd100k', 11)$$, 'label maps and classes');
SELECT throws_like($$SELECT create_model('x', 'no_such_net')$$, '%no_such_net%fasterrcnn_resnet50_fpn%', 'an unknown architecture is refused with those known');
SELECT throws_like($$SELECT create_model('x', 'small', '{"min_sice": 3}')$$, '%min_sice%min_size%', 'an unknown option is refused with those known');
SELECT throws_like($$SELECT create_model('x', 'small', '{"min_size": "big"}')$$, '%min_size%', 'an option of the wrong type is refused');
CREATE FUNCTION message_of(command text) RETURNS text LANGUAGE plpgsql AS $$
	BEGIN EXECUTE command; RETURN NULL; EXCEPTION WHEN OTHERS THEN RETURN sqlerrm; END $$;
SELECT alike(convert_from(convert_to(message_of(format('SELECT create_model(''x'', %L)', repeat('é', 3000))), 'UTF8'), 'UTF8'), '%"' || repeat('é', 32) || '"%', 'a name that is cut stays text');
SELECT throws_ok($$SELECT create_model('x', 'small', '[1]')$$, '22023', 'options of a model must be a JSON object', 'options are an object');
SELECT throws_ok($$SELECT create_model('x', 'small', '{}', 'no_map')$$, '42704', 'label map "no_map" does not exist', 'an unknown label map is refused');
SELECT throws_ok($$SELECT create_model('small_one', 'small')$$, '42710', 'model "small_one" already exists', 'names are unique');
SELECT throws_ok($$SELECT create_model('', 'small')$$, '22023', 'name of a model must have 1 to 200 bytes', 'a name is needed');
SELECT throws_ok($$SELECT create_model(NULL, 'small')$$, '22004', 'model must not be NULL', 'even more so');
SELECT throws_ok($$SELECT create_checkpoint('nobody')$$, '42704', 'model "nobody" does not exist', 'checkpoints are of models');
SELECT throws_ok($$SELECT verify_checkpoint(4711)$$, '42704', 'checkpoint 4711 does not exist', 'verify_checkpoint');
SELECT throws_ok($$SELECT export_checkpoint(4711)$$, '42704', 'checkpoint 4711 does not exist', 'export_checkpoint');
SELECT throws_ok($$SELECT reproduce(4711)$$, '42704', 'checkpoint 4711 does not exist', 'reproduce');
SELECT throws_ok($$SELECT import_checkpoint('small_one', '/no/such/file')$$, '58P01', NULL, 'import of a missing file');

-- a fresh checkpoint, and what depends on it
SELECT lives_ok($$SELECT create_checkpoint('narrow', 3)$$, 'create_checkpoint');
SELECT is((SELECT provenance ->> 'weights_sha256' FROM checkpoints WHERE checkpoint = create_checkpoint('narrow', 3)), NULL, 'a query does not see what it makes itself');
SELECT is((SELECT count(DISTINCT provenance ->> 'weights_sha256') FROM checkpoints), 1::bigint, 'equal seeds give equal weights');
SELECT is((SELECT string_agg(check_name || ' ' || ok, ' ') FROM verify_checkpoint((SELECT min(checkpoint) FROM checkpoints))), 'tensors true', 'verify_checkpoint of a fresh one');
UPDATE _avcurate.checkpoint_tensors SET data = overlay(data PLACING '\x55' FROM 2)
	WHERE checkpoint = (SELECT min(checkpoint) FROM checkpoints) AND tensor = 5;
SELECT is((SELECT string_agg(check_name || ' ' || ok, ' ') FROM verify_checkpoint((SELECT min(checkpoint) FROM checkpoints))), 'tensors false', 'a changed byte is noticed');
UPDATE _avcurate.checkpoint_tensors SET data = substr(data, 2)
	WHERE checkpoint = (SELECT min(checkpoint) FROM checkpoints) AND tensor = 5;
SELECT throws_ok($$SELECT * FROM verify_checkpoint((SELECT min(checkpoint) FROM checkpoints))$$, 'XX001', NULL, 'a missing byte too');
SELECT throws_ok($$SELECT export_checkpoint((SELECT max(checkpoint) FROM checkpoints), 'zip')$$, '22023', 'unknown format "zip" of weights', 'formats of export');
SELECT throws_ok($$SELECT export_checkpoint((SELECT max(checkpoint) FROM checkpoints), 'relative/path', 'safetensors')$$, '22023', 'path "relative/path" is not absolute', 'paths are absolute');

SELECT throws_like($$SELECT reproduce((SELECT max(checkpoint) FROM checkpoints))$$, 'checkpoint % was not trained here', 'only trainings are reproduced');

SELECT create_model('tiny', 'small', '{"min_size": 64, "max_size": 112, "fpn_channels": 16, "representation_size": 32, "widths": [8, 8, 8, 8]}') \g /dev/null
CREATE FUNCTION out_and_in(checkpoint bigint, times int) RETURNS int LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1 .. times LOOP checkpoint := import_checkpoint('tiny', export_checkpoint(checkpoint)); END LOOP;
		RETURN (SELECT length(c.provenance::text) FROM checkpoints AS c WHERE c.checkpoint = out_and_in.checkpoint);
	END $$;
SELECT cmp_ok(out_and_in(create_checkpoint('tiny'), 9), '<', 60000, 'files that go out and in do not grow for ever');

-- something to train on
CREATE MATERIALIZED VIEW thin AS SELECT frame_id FROM tap_frames;
CREATE UNIQUE INDEX ON thin (frame_id);
SELECT track_slice('thin') \g /dev/null
SELECT create_slice('empty', 'tap_frames', 'width < 0') \g /dev/null
SELECT create_slice('three', 'tap_frames', 'true') \g /dev/null

SELECT throws_ok($$SELECT train('tap_frames', 'small_one')$$, NULL, NULL, 'a table is no slice');
SELECT throws_like($$SELECT train('thin', 'small_one')$$, 'slice public.thin lacks what a training needs', 'a slice without what training needs is refused');
SELECT throws_ok($$SELECT train('empty', 'nobody')$$, '42704', 'model "nobody" does not exist', 'a model is needed');
SELECT throws_like($$SELECT train('empty', 'small_one')$$, 'version 1 of slice % has no labelled frame', 'frames are needed');
SELECT throws_like($$SELECT train('empty', 'small_one', '{"version": 7}')$$, '%7%', 'the version must exist');

-- options: each refusal names the option
CREATE FUNCTION refused(options jsonb, pattern text) RETURNS text LANGUAGE sql AS $$
	SELECT throws_like(format('SELECT train(''empty'', ''small_one'', %L)', options), pattern, options::text) $$;
SELECT refused('{"lerning_rate": 1}', 'train has no option "lerning_rate"');
SELECT refused('[]', 'options of train must be a JSON object');
SELECT refused('{"epochs": 0}', 'option "epochs" of train must be a whole number from 1 to 1e+06');
SELECT refused('{"epochs": 1.5}', 'option "epochs" of train must be a whole number%');
SELECT refused('{"epochs": "3"}', 'option "epochs" of train must be a whole number%');
SELECT refused('{"max_steps": -1}', 'option "max_steps" of train must be a whole number of at least 1');
SELECT refused('{"max_frames": 0}', 'option "max_frames" of train must be a whole number of at least 1');
SELECT refused('{"batch_size": 5000}', 'option "batch_size" of train must be a whole number from 1 to 1024');
SELECT refused('{"batch_size": 4, "accumulate": 5}', 'option "accumulate" of train must be at most batch_size');
SELECT refused('{"optimizer": "adam"}', 'option "optimizer" of train must be one of sgd|adamw');
SELECT refused('{"optimizer": 1}', 'option "optimizer" of train must be one of sgd|adamw');
SELECT refused('{"lr": -0.1}', 'option "lr" of train must be a number from 0 to 1000');
SELECT refused('{"lr": 1e400}', 'option "lr" of train must be a number from 0 to 1000');
SELECT refused('{"momentum": 2}', 'option "momentum" of train must be a number from 0 to 1');
SELECT refused('{"weight_decay": null, "lr_schedule": "linear"}', 'option "lr_schedule" of train must be one of step|cosine');
SELECT refused('{"hflip": 1.01}', 'option "hflip" of train must be a number from 0 to 1');
SELECT refused('{"trainable_layers": 6}', 'option "trainable_layers" of train must be a whole number from 0 to 5');
SELECT refused('{"freeze_norm": 1}', 'option "freeze_norm" of train must be true or false');
SELECT refused('{"amp": "fp8"}', 'option "amp" of train must be one of auto|f32|bf16|fp16');
SELECT refused('{"device": "tpu"}', 'device "tpu" is not known');
SELECT refused('{"from_checkpoint": 4711}', 'checkpoint 4711 does not exist');
SELECT refused('{"val_slice": "nowhere"}', 'relation "nowhere" does not exist');
SELECT refused('{"early_stop": 2}', 'option "early_stop" of train needs option "val_slice"');

-- defaults: the preset's and the reference recipe's
CREATE FUNCTION options_of(job bigint) RETURNS jsonb LANGUAGE sql AS $$SELECT options FROM avcurate.jobs WHERE job = $1$$;
SELECT train('three', 'small_one') AS small_job \gset
SELECT train('three', 'small_one', jsonb_build_object('from_checkpoint', (SELECT max(checkpoint) FROM checkpoints), 'lr_gamma', 0.5)) AS tuned_job \gset
SELECT train('three', 'reference', '{"threads": 2}') AS reference_job \gset
SELECT is(options_of(:small_job) - '{device,threads,from_checkpoint,val_slice,val_version,max_steps,max_frames,early_stop}'::text[],
	'{"version": 1, "epochs": 10, "batch_size": 8, "accumulate": 1, "optimizer": "adamw", "lr": 0.001, "momentum": 0.9, "weight_decay": 0.01, "lr_schedule": "cosine", "lr_step_size": 3, "lr_gamma": 0.1, "warmup_steps": 50, "clip_norm": 10, "amp": "auto", "trainable_layers": 5, "freeze_norm": false, "hflip": 0.5, "seed": 0, "checkpoint_every": 200, "keep_last": 2, "keep_best": true, "eval_every": 1}', 'defaults of the preset');
SELECT is(options_of(:tuned_job) -> 'lr', '0.0005', 'fine-tuning: a smaller rate');
SELECT is(options_of(:tuned_job) -> 'warmup_steps', '5', 'a shorter warm-up');
SELECT is(options_of(:tuned_job) -> 'lr_gamma', '0.5', 'what was given stays');
SELECT is(options_of(:reference_job) - '{device,from_checkpoint,val_slice,val_version,max_steps,max_frames,early_stop}'::text[],
	'{"version": 1, "epochs": 10, "batch_size": 8, "accumulate": 1, "optimizer": "sgd", "lr": 0.005, "momentum": 0.9, "weight_decay": 0.0001, "lr_schedule": "step", "lr_step_size": 3, "lr_gamma": 0.1, "warmup_steps": 0, "clip_norm": 10, "amp": "auto", "trainable_layers": 5, "freeze_norm": false, "hflip": 0, "seed": 0, "threads": 2, "checkpoint_every": 200, "keep_last": 2, "keep_best": true, "eval_every": 1}', 'the reference recipe');
SELECT is(options_of(:reference_job) -> 'device', '"cpu"', 'the device is resolved');
SELECT results_eq(format('SELECT state, kind, version, attempts, slice::text, model FROM avcurate.jobs WHERE job = %s', :small_job),
	$$VALUES ('pending', 'train', 1::bigint, 0, 'three', 'small_one')$$, 'the row of a queued job');

-- jobs
SELECT throws_ok($$SELECT wait_job(-1)$$, '42704', 'job -1 does not exist', 'wait_job');
SELECT throws_ok($$SELECT cancel_job(-1)$$, '42704', 'job -1 does not exist', 'cancel_job');
SELECT throws_ok($$SELECT resume_job(-1)$$, '42704', 'job -1 does not exist', 'resume_job');
SELECT is(wait_job(NULL), NULL, 'wait_job(NULL)');
SELECT throws_like(format('SELECT wait_job(%s)', :small_job), 'job % was queued or changed by this transaction and cannot go on before it commits', 'a job of this transaction is not waited for');
SELECT is(cancel_job(:small_job), true, 'a pending job is cancelled');
SELECT is(cancel_job(:small_job), false, 'once');
SELECT is(resume_job(:small_job), true, 'and resumed');
SELECT throws_ok($$SELECT run_pending(-1)$$, '22023', 'max_jobs must not be negative', 'run_pending');

-- read-only transactions
CREATE FUNCTION refused_to_readers(command text, name text) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE message text;
	BEGIN
		BEGIN
			SET LOCAL transaction_read_only = on;
			EXECUTE 'SELECT ' || command;
		EXCEPTION WHEN read_only_sql_transaction THEN message := sqlerrm;
		END;
		RETURN is(message, format('cannot execute %s in a read-only transaction', name), command);
	END $$;
SELECT refused_to_readers('cancel_job(1)', 'cancel_job()');
SELECT refused_to_readers('resume_job(1)', 'resume_job()');
SELECT refused_to_readers('run_pending()', 'run_pending()');
SELECT refused_to_readers($$create_model('y', 'small')$$, 'create_model()');
SELECT refused_to_readers($$evaluate(1, 'three')$$, 'evaluate()');

-- rights
CREATE ROLE tap_user;
GRANT USAGE ON SCHEMA public TO tap_user;
SET LOCAL ROLE tap_user;
SELECT throws_ok($$SELECT avcurate.import_checkpoint('small_one', '/etc/passwd')$$, '42501', NULL, 'files of the server are not for everyone');
SELECT throws_ok($$SELECT avcurate.export_checkpoint(1, '/tmp/x', 'safetensors')$$, '42501', NULL, 'neither way');
SELECT throws_ok($$SELECT avcurate.create_checkpoint('small_one')$$, '42501', NULL, 'nor are models of others');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
SELECT avcurate.drop_dataset('public.tap_frames') \g /dev/null
