-- Names, arguments, defaults and columns that other programs are written
-- against: models, checkpoints, jobs, evaluation.
BEGIN;
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS avcurate;
SET search_path = public, pg_catalog;
SELECT plan(31);

CREATE FUNCTION signature(function text, arguments text, result text) RETURNS text LANGUAGE sql AS $$
	SELECT ok(EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = 'avcurate'::regnamespace AND p.proname = $1
		AND pg_get_function_arguments(p.oid) = $2 AND pg_get_function_result(p.oid) = $3), format('%s(%s) returns %s', $1, $2, $3)) $$;
SELECT signature('create_model', $$model text, architecture text, options jsonb DEFAULT '{}'::jsonb, label_map text DEFAULT NULL::text$$, 'void');
SELECT signature('create_checkpoint', 'model text, seed bigint DEFAULT 0', 'bigint');
SELECT signature('import_checkpoint', 'model text, file bytea', 'bigint');
SELECT signature('import_checkpoint', 'model text, path text', 'bigint');
SELECT signature('import_checkpoint', 'model text, file bytea, new_head boolean, seed bigint DEFAULT 0', 'bigint');
SELECT signature('import_checkpoint', 'model text, path text, new_head boolean, seed bigint DEFAULT 0', 'bigint');
SELECT signature('import_backbone', 'model text, file bytea, seed bigint DEFAULT 0', 'bigint');
SELECT signature('import_backbone', 'model text, path text, seed bigint DEFAULT 0', 'bigint');
SELECT signature('export_checkpoint', $$checkpoint bigint, format text DEFAULT 'safetensors'::text$$, 'bytea');
SELECT signature('export_checkpoint', 'checkpoint bigint, path text, format text', 'bigint');
SELECT signature('train', $$slice regclass, model text, options jsonb DEFAULT '{}'::jsonb$$, 'bigint');
SELECT signature('evaluate', $$checkpoint bigint, slice regclass, options jsonb DEFAULT '{}'::jsonb$$, 'bigint');
SELECT signature('reproduce', 'checkpoint bigint', 'bigint');
SELECT signature('wait_job', 'job bigint, timeout interval DEFAULT NULL::interval', 'text');
SELECT signature('cancel_job', 'job bigint', 'boolean');
SELECT signature('resume_job', 'job bigint', 'boolean');
SELECT signature('run_pending', 'max_jobs integer DEFAULT NULL::integer', 'integer');
SELECT signature('verify_checkpoint', 'checkpoint bigint, OUT check_name text, OUT ok boolean, OUT detail text', 'SETOF record');
SELECT signature('coco_metrics', 'truth jsonb, results jsonb', 'TABLE(metric text, category text, value double precision)');
SELECT signature('compare_evaluations', 'base bigint, tuned bigint, resamples integer DEFAULT 1000, seed bigint DEFAULT 0', 'SETOF avcurate.evaluation_difference');
SELECT signature('export_coco', 'slice regclass, version bigint DEFAULT NULL::bigint', 'jsonb');
SELECT signature('overlay', 'frame_id bigint, evaluations bigint[], min_score real DEFAULT 0.5', 'bytea');
SELECT signature('contact_sheet', $$evaluation bigint, kind text DEFAULT 'missed'::text, frames integer DEFAULT 12$$, 'bytea');

-- a view may have more columns than the contract names, behind those
CREATE FUNCTION begins_with(relation regclass, columns text) RETURNS text LANGUAGE sql AS $$
	SELECT alike((SELECT string_agg(a.attname, ' ' ORDER BY a.attnum) || ' ' FROM pg_attribute AS a
		WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped), replace($2, '_', '\_') || ' %', $1::text) $$;
SELECT begins_with('avcurate.jobs', 'job kind state role dataset slice version model checkpoint options device attempts created_at started_at finished_at progress eta images_per_s failed_rows error');
SELECT begins_with('avcurate.job_progress', 'job step epoch at lr loss loss_classifier loss_box_reg loss_objectness loss_rpn_box_reg grad_norm images_per_s engine_busy');
SELECT begins_with('avcurate.job_log', 'job at level message');
SELECT begins_with('avcurate.checkpoints', 'checkpoint model job slice version digest rows parent step epoch created_at bytes provenance');
SELECT begins_with('avcurate.evaluations', 'evaluation checkpoint slice version mode ap ap50 ap75 ap_small ap_medium ap_large recall50 recall precision map_50 recall_micro frames finished_at');
SELECT begins_with('avcurate.evaluation_classes', 'evaluation category label ap ap50 recall50 truths detections');
SELECT begins_with('avcurate.matches', 'evaluation frame_id kind category score iou box truth_box truth_no');
SELECT begins_with('avcurate.evaluation_difference', 'metric base tuned difference low high');

SELECT * FROM finish();
ROLLBACK;
