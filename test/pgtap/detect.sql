-- detect and person_bbox_area_pct: arguments, rights, what features make of them.
SELECT avcurate.create_dataset('public.tap_frames') \g /dev/null
CALL avcurate.ingest_synthetic('public.tap_frames', 3, 1, 'train', '{"width": 96, "height": 64}');
BEGIN;
SET search_path = public, avcurate;
SET client_min_messages = warning;
SELECT plan(42);

SELECT create_model('m', 'small', '{"min_size": 64, "max_size": 96}') \g /dev/null
SELECT create_checkpoint('m', 3) AS checkpoint \gset
INSERT INTO label_maps (label_map, category, label) VALUES ('signs', 'stop sign', 1);
SELECT create_model('signs', 'small', '{"min_size": 64, "max_size": 96}', 'signs') \g /dev/null
SELECT create_checkpoint('signs', 3) AS signs \gset
SELECT image_bytes AS image FROM tap_frames WHERE frame_id = 1 \gset

SELECT is(format('%s %s', provolatile, proparallel), 's s', proname || ' is stable and parallel safe') FROM pg_proc
	WHERE pronamespace = 'avcurate'::regnamespace AND proname IN ('detect', 'person_bbox_area_pct') ORDER BY proname;
SELECT is(pg_get_function_result('detect(bytea, bigint, real)'::regprocedure),
	'TABLE(category text, label integer, score real, x1 real, y1 real, x2 real, y2 real)', 'columns of detect');
SELECT is(pg_get_function_arguments('detect(bytea, bigint, real)'::regprocedure),
	'image bytea, checkpoint bigint DEFAULT NULL::bigint, min_score real DEFAULT 0.05', 'arguments of detect');
SELECT is(pg_get_function_arguments('person_bbox_area_pct(bytea, bigint, real)'::regprocedure),
	'image bytea, checkpoint bigint DEFAULT NULL::bigint, min_score real DEFAULT 0.3', 'arguments of person_bbox_area_pct');

-- the checkpoint
SELECT throws_ok(format('SELECT detect(%L)', :'image'), '55000', 'no checkpoint is given and avcurate.detector is not set', 'detect wants a checkpoint');
SELECT throws_ok(format('SELECT person_bbox_area_pct(%L)', :'image'), '55000', 'no checkpoint is given and avcurate.detector is not set', 'so does person_bbox_area_pct');
SELECT throws_ok('SELECT detector()', '55000', 'no checkpoint is given and avcurate.detector is not set', 'and detector');
SELECT throws_ok(format('SELECT detect(%L, 4711)', :'image'), '42704', 'checkpoint 4711 does not exist', 'an unknown checkpoint');
SELECT throws_ok('SELECT detector(4711)', '42704', 'checkpoint 4711 does not exist', 'detector knows it too');
SELECT throws_ok(format('SELECT person_bbox_area_pct(%L, %s)', :'image', :signs), '55000',
	format('the label map of checkpoint %s has no category "person"', :signs::bigint), 'a map without persons');
SET avcurate.detector = 4711;
SELECT throws_ok(format('SELECT detect(%L)', :'image'), '42704', 'checkpoint 4711 does not exist', 'the setting names an unknown one');
SET avcurate.detector = :checkpoint;
SELECT is(detector(), :checkpoint::bigint, 'the setting names one');
SELECT is(detector(:signs), :signs::bigint, 'an argument goes first');

-- arguments
SELECT throws_ok(format('SELECT detect(%L, min_score => NULL)', :'image'), '22004', 'min_score must not be NULL', 'min_score NULL');
SELECT throws_ok(format('SELECT detect(%L, min_score => 1.5)', :'image'), '22023', 'min_score must be from 0 to 1', 'min_score too large');
SELECT throws_ok(format('SELECT person_bbox_area_pct(%L, min_score => -1)', :'image'), '22023', 'min_score must be from 0 to 1', 'min_score too small');
SELECT throws_ok(format('SELECT person_bbox_area_pct(%L, min_score => ''NaN'')', :'image'), '22023', 'min_score must be from 0 to 1', 'min_score is no number');
SELECT throws_ok($$SELECT detect('')$$, '22000', NULL, 'an empty image');
SELECT throws_ok($$SELECT detect('no picture at all')$$, '22000', 'image is not a JPEG', 'no JPEG');
SELECT throws_ok(format('SELECT detect(substr(%L::bytea, 1, 700))', :'image'), '22000', NULL, 'a cut JPEG');
SELECT is_empty('SELECT * FROM detect(NULL)', 'nothing is found in NULL');
SELECT is(person_bbox_area_pct(NULL), NULL, 'and has no area');

-- results
SELECT isnt_empty(format('SELECT * FROM detect(%L, min_score => 0)', :'image'), 'detections');
SELECT results_eq(format('SELECT score FROM detect(%L, min_score => 0)', :'image'),
	format('SELECT score FROM detect(%L, min_score => 0) ORDER BY score DESC', :'image'), 'highest score first');
SELECT is_empty(format($$SELECT * FROM detect(%L, min_score => 0)
	WHERE NOT (x1 >= 0 AND y1 >= 0 AND x2 <= 96 AND y2 <= 64 AND x1 <= x2 AND y1 <= y2 AND score BETWEEN 0 AND 1)$$, :'image'), 'boxes lie in the frame');
SELECT is_empty(format($$SELECT d.* FROM detect(%L, min_score => 0) d
	LEFT JOIN label_maps m ON m.label_map = 'bdd100k' AND m.category = d.category AND m.label = d.label WHERE m.label IS NULL$$, :'image'), 'categories are the map''s');
SELECT results_eq(format('SELECT count(*) FROM detect(%L, min_score => 0.2)', :'image'),
	format('SELECT count(*) FROM detect(%L, min_score => 0) WHERE score >= 0.2', :'image'), 'min_score is a filter');
SELECT is_empty(format($$SELECT * FROM detect(%L, %s, 0) WHERE category <> 'stop sign'$$, :'image', :signs), 'labels without a name are left out');
SELECT is(person_bbox_area_pct(:'image', min_score => 1), 0::real, 'nobody found is 0');

-- features
SELECT lives_ok($$SELECT add_feature('tap_frames', 'person_pct', 'person_bbox_area_pct(image_bytes)')$$, 'a feature');
SELECT is((SELECT expression FROM features WHERE feature = 'person_pct'),
	format('person_bbox_area_pct(image_bytes, ''%s''::bigint, (0.3)::real)', :checkpoint), 'its checkpoint is written out');
SELECT lives_ok(format('SELECT add_feature(''tap_frames'', ''at_least'', ''person_bbox_area_pct(image_bytes, %s)'')', :checkpoint), 'one with a checkpoint');
SELECT is((SELECT expression FROM features WHERE feature = 'at_least'), format('person_bbox_area_pct(image_bytes, %s)', :checkpoint), 'stays as it was typed');
SELECT throws_ok($$SELECT add_feature('tap_frames', 'x', 'person_bbox_area_pct(image_bytes, frame_id)')$$, '0A000',
	'expression of a feature cannot choose a checkpoint row by row', 'a checkpoint is a constant');
SELECT throws_ok($$SELECT add_feature('tap_frames', 'x', 'person_bbox_area_pct(image_bytes, 4711)')$$, '42704', 'checkpoint 4711 does not exist', 'and exists');
CREATE FUNCTION who() RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE EXCEPTION 'run by %', current_user; END$$;
CREATE ROLE tap_owner;
ALTER TABLE tap_frames OWNER TO tap_owner;
SELECT throws_ok($$SELECT add_feature('tap_frames', 'x', 'person_bbox_area_pct(image_bytes, public.who())')$$, 'P0001', 'run by tap_owner',
	'it is computed with the rights of the dataset''s owner');
ALTER TABLE tap_frames OWNER TO CURRENT_USER;
RESET avcurate.detector;
SELECT throws_ok($$SELECT add_feature('tap_frames', 'x', '(SELECT count(*) FROM detect(image_bytes))')$$, '55000',
	'no checkpoint is given and avcurate.detector is not set', 'NULL must mean one');
SELECT lives_ok(format('SELECT alter_feature(''tap_frames'', ''at_least'', ''person_bbox_area_pct(image_bytes, %s, 0.5)'')', :checkpoint), 'alter_feature');

-- rights
CREATE ROLE tap_watcher;
GRANT SELECT ON tap_frames TO tap_watcher;
SET LOCAL ROLE tap_watcher;
SELECT throws_ok(format('SELECT avcurate.detect(%L, %s)', :'image', :checkpoint), '42501', 'permission denied for model "m"', 'detect needs the right to the model');
SELECT throws_ok(format('SELECT avcurate.person_bbox_area_pct(image_bytes, %s) FROM public.tap_frames', :checkpoint), '42501', 'permission denied for model "m"', 'person_bbox_area_pct too');
SELECT throws_ok(format('SELECT avcurate.detect_ahead(%L, %s)', :'image', :checkpoint), '42501', 'permission denied for model "m"', 'and detect_ahead');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
SELECT avcurate.drop_dataset('public.tap_frames') \g /dev/null
