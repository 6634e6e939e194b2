-- ingest_synthetic: the same frames for the same arguments, nothing written
-- twice, every refusal.
\set ON_ERROR_STOP 1
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT avcurate.create_dataset('drives') AS dataset \gset
SELECT avcurate.create_dataset('drives_again') AS dataset \gset
\set small '{"width": 160, "height": 90, "preset": "pool"}'
CALL avcurate.ingest_synthetic('drives', 10, 7, NULL, :'small');
CREATE TEMP TABLE before AS SELECT ctid AS place, xmin::text AS writer, * FROM drives;

-- again, the same; and further, as after an interruption
CALL avcurate.ingest_synthetic('drives', 10, 7, NULL, :'small');
CREATE TEMP TABLE again AS SELECT ctid AS place, xmin::text AS writer, * FROM drives;
CALL avcurate.ingest_synthetic('drives', 15, 7, NULL, :'small');
CALL avcurate.ingest_synthetic('drives_again', 15, 7, NULL, :'small');

SELECT no_plan();
SELECT is(count(*), 10::bigint, 'ten frames') FROM before;
SELECT set_eq($$SELECT image_id, place::text, writer FROM before$$, $$SELECT image_id, place::text, writer FROM again$$,
	'a second run writes nothing');
SELECT set_eq($$SELECT image_id, image_sha256, ann_bboxes::text, ann_categories, split FROM drives$$,
	$$SELECT image_id, image_sha256, ann_bboxes::text, ann_categories, split FROM drives_again$$,
	'a run that goes on gives what a whole run gives');
SELECT is_empty($$SELECT image_id FROM drives WHERE image_id !~ '^syn-[0-9a-f]{8}-7-(\d|1[0-4])$'$$, 'names of frames');
SELECT results_eq($$SELECT split, count(*) FROM drives GROUP BY 1 ORDER BY 1$$, $$VALUES ('train', 12::bigint), ('val', 3)$$,
	'one frame in five is for validation');
SELECT is_empty($$SELECT image_id FROM drives WHERE (width, height) <> (160, 90)
	OR weather NOT IN ('clear', 'overcast', 'rainy', 'foggy', 'snowy')
	OR scene NOT IN ('city street', 'residential') OR timeofday NOT IN ('daytime', 'dawn/dusk', 'night')
	OR ann_categories IS NULL OR ann_bboxes IS NULL
	OR (ann_categories <> '{}' AND (ann_occluded IS NULL OR ann_truncated IS NULL))$$, 'rows are complete');
SELECT is_empty($$SELECT category FROM drives_boxes WHERE category NOT IN ('person', 'rider', 'car', 'truck', 'bus',
	'bicycle', 'motorcycle', 'traffic light')$$, 'spellings are the folded ones');
SELECT cmp_ok(count(*), '>', 30::bigint, 'there are boxes') FROM drives_boxes;
SELECT is(count(*), 0::bigint, 'no errors') FROM avcurate.ingest_errors WHERE dataset = 'drives'::regclass;

-- what was changed by hand is put right, and only that
CREATE TEMP TABLE kept AS SELECT xmin::text AS writer, image_id FROM drives WHERE image_id NOT LIKE '%-3';
UPDATE drives SET weather = 'odd', ann_bboxes = '{}', ann_categories = '{}', ann_occluded = '{}', ann_truncated = '{}',
	ann_ignored = NULL, ann_area = NULL WHERE image_id LIKE '%-3';
CALL avcurate.ingest_synthetic('drives', 15, 7, NULL, :'small');
SELECT set_eq($$SELECT image_id, weather, ann_bboxes::text FROM drives$$,
	$$SELECT image_id, weather, ann_bboxes::text FROM drives_again$$, 'a changed row is updated');
SELECT set_eq($$SELECT writer, image_id FROM kept$$,
	$$SELECT xmin::text AS writer, image_id FROM drives WHERE image_id NOT LIKE '%-3'$$, 'and no other');

-- seed, split and options each make frames of their own
CALL avcurate.ingest_synthetic('drives_again', 1, 8, NULL, :'small');
CALL avcurate.ingest_synthetic('drives_again', 1, 7, 'test', :'small');
CALL avcurate.ingest_synthetic('drives_again', 1, 7, NULL, '{"width": 160, "height": 90, "preset": "pool", "night": 0.5}');
SELECT is(count(*), 18::bigint, 'seed, split and options are in the name') FROM drives_again;
SELECT is(count(*), 1::bigint, 'the split that was asked for') FROM drives_again WHERE split = 'test';
-- options that say the same are the same
CALL avcurate.ingest_synthetic('drives_again', 1, 7, NULL, '{"height": 90, "width": 1.6e2, "preset": "pool", "night": 0.38}');
SELECT is(count(*), 18::bigint, 'the preset''s own value changes nothing') FROM drives_again;

-- what is drawn, by label and by coarse look; these change when the renderer does
SELECT is(md5(string_agg(concat_ws('|', image_id, weather, timeofday, ann_categories::text, ann_bboxes::text,
	ann_occluded::text, ann_truncated::text), E'\n' ORDER BY frame_id)), '4ba97bde3fb12be850072957bfd5e0e9', 'labels are pinned')
FROM drives;
SELECT is(md5(string_agg(avcurate.dhash(image_bytes)::text, E'\n' ORDER BY frame_id)), '6355ea600f30dd5810e93d1eff6f800b', 'pixels are pinned')
FROM drives;

-- ---- refusals ----
CREATE FUNCTION pg_temp.refusal(frames int, options jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	CALL avcurate.ingest_synthetic('drives', frames, 7, NULL, options);
	RETURN 'taken';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN sqlstate || ' ' || sqlerrm || ' ' || hint;
END $$;
SELECT matches(pg_temp.refusal(1, '{}'), 'ingest_synthetic', 'it does not run where it cannot commit');
\set ON_ERROR_STOP 0
\set VERBOSITY sqlstate
CREATE TEMP TABLE refused (n int, state text, message text);
\set n 0
CALL avcurate.ingest_synthetic('drives', 1, 7, NULL, '{"widht": 320}');
INSERT INTO refused VALUES (1, :'LAST_ERROR_SQLSTATE', :'LAST_ERROR_MESSAGE');
CALL avcurate.ingest_synthetic('drives', 1, 7, NULL, '{"preset": "sunny"}');
INSERT INTO refused VALUES (2, :'LAST_ERROR_SQLSTATE', :'LAST_ERROR_MESSAGE');
CALL avcurate.ingest_synthetic('drives', 1, 7, NULL, '{"width": 1000000}');
INSERT INTO refused VALUES (3, :'LAST_ERROR_SQLSTATE', :'LAST_ERROR_MESSAGE');
CALL avcurate.ingest_synthetic('drives', 1, 7, NULL, '{"rider": "many"}');
INSERT INTO refused VALUES (4, :'LAST_ERROR_SQLSTATE', :'LAST_ERROR_MESSAGE');
CALL avcurate.ingest_synthetic('drives', 1, 7, NULL, '[1]');
INSERT INTO refused VALUES (5, :'LAST_ERROR_SQLSTATE', :'LAST_ERROR_MESSAGE');
CALL avcurate.ingest_synthetic('drives', 0, 7);
INSERT INTO refused VALUES (6, :'LAST_ERROR_SQLSTATE', :'LAST_ERROR_MESSAGE');
CALL avcurate.ingest_synthetic('drives', -1, 7);
INSERT INTO refused VALUES (7, :'LAST_ERROR_SQLSTATE', :'LAST_ERROR_MESSAGE');
CALL avcurate.ingest_synthetic('drives', NULL, 7);
INSERT INTO refused VALUES (8, :'LAST_ERROR_SQLSTATE', :'LAST_ERROR_MESSAGE');
CALL avcurate.ingest_synthetic('pg_class', 1, 7);
INSERT INTO refused VALUES (9, :'LAST_ERROR_SQLSTATE', :'LAST_ERROR_MESSAGE');
CALL avcurate.ingest_synthetic('drives', 1, 7, NULL, '{"rider": {"deep": 1}}');
INSERT INTO refused VALUES (10, :'LAST_ERROR_SQLSTATE', :'LAST_ERROR_MESSAGE');
CALL avcurate.ingest_synthetic('drives', 1, 7, NULL, '{"person_near": 50, "person_far": 20}');
INSERT INTO refused VALUES (11, :'LAST_ERROR_SQLSTATE', :'LAST_ERROR_MESSAGE');
\set VERBOSITY default
\set ON_ERROR_STOP 1
SELECT is(r.state || ' ' || r.message, v.expected, 'refused: ' || v.expected)
FROM (VALUES
	(1, '22023 unknown option "widht"'),
	(2, '22023 unknown preset "sunny"'),
	(3, '22023 option "width" must be between 64 and 2048'),
	(4, '22023 option "rider" must be a number'),
	(5, '22023 options must be a JSON object'),
	(6, '22023 frames must be between 1 and 10000000'),
	(7, '22023 frames must be between 1 and 10000000'),
	(8, '22004 dataset, frames and seed must not be NULL'),
	(10, '22023 option "rider" must be a number'),
	(11, '22023 option "person_near" is larger than option "person_far"')) v (n, expected)
	LEFT JOIN refused r USING (n) ORDER BY v.n;
SELECT isnt(state, '00000', 'a table that is no dataset is refused') FROM refused WHERE n = 9;
SELECT is(count(*), 15::bigint, 'and nothing was written') FROM drives;

SELECT * FROM finish();
SELECT avcurate.drop_dataset('drives'), avcurate.drop_dataset('drives_again') \gset dropped_
