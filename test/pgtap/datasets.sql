-- Datasets and features: what the catalog says, and what an UPDATE costs.
BEGIN;
SELECT plan(16);
CREATE FUNCTION pg_temp.picture(width int, height int, tail text) RETURNS bytea LANGUAGE sql
	AS $$SELECT '\xffd8ffc0001108'::bytea || int2send($2::int2) || int2send($1::int2)
		|| '\x03012200021101031101'::bytea || convert_to($3, 'UTF8')$$;
SELECT avcurate.create_dataset('tap_drive');

SELECT columns_are('public', 'tap_drive', ARRAY['frame_id', 'image_id', 'split', 'image_bytes', 'image_sha256', 'width', 'height',
	'weather', 'scene', 'timeofday', 'frame_time', 'ann_categories', 'ann_bboxes', 'ann_occluded', 'ann_truncated', 'ann_ignored',
	'ann_area', 'feature_marks'], 'a dataset has the documented columns');
SELECT columns_are('public', 'tap_drive_boxes', ARRAY['frame_id', 'image_id', 'box_no', 'category', 'x1', 'y1', 'x2', 'y2', 'area_pct',
	'occluded', 'truncated', 'ignored'], 'and its boxes');
SELECT col_is_pk('tap_drive', 'frame_id', 'frame_id is the key');
SELECT col_is_unique('tap_drive', 'image_id', 'image_id is unique');
SELECT is((SELECT attidentity FROM pg_attribute WHERE attrelid = 'tap_drive'::regclass AND attname = 'frame_id'), 'a'::"char",
	'frame_id is generated always');
SELECT is((SELECT max(attnum) FROM pg_attribute WHERE attrelid = 'tap_drive'::regclass AND attlen > 0 AND attnum > 0)
	< (SELECT min(attnum) FROM pg_attribute WHERE attrelid = 'tap_drive'::regclass AND attlen < 0 AND attnum > 0), true,
	'columns of fixed width come first');
SELECT is_empty($$SELECT attname FROM pg_attribute WHERE attrelid = 'tap_drive'::regclass AND attnum > 0
	AND col_description(attrelid, attnum) IS NULL$$, 'every column has a comment');
SELECT is_empty($$SELECT conname FROM pg_constraint WHERE conrelid = 'tap_drive'::regclass AND contype = 'c'$$,
	'no CHECK is evaluated at every UPDATE');
SELECT is_empty($$SELECT attname FROM pg_attribute WHERE attrelid = 'tap_drive'::regclass AND attgenerated <> ''$$,
	'no generated column is recomputed at every UPDATE');

-- random boxes with images of 3 kB: what is left in the scanned heap
INSERT INTO tap_drive (image_id, image_bytes, ann_categories, ann_bboxes, ann_occluded)
SELECT 'f' || n, pg_temp.picture(1280, 720, (SELECT string_agg(md5(n || ' ' || k), '') FROM generate_series(1, 90) k)),
	(SELECT array_agg(('{car,person,traffic sign}'::text[])[1 + (n + k) % 3]) FROM generate_series(1, 20) k),
	(SELECT array_agg(ARRAY[k, n % 700, k + sqrt(n * k), n % 700 + 9]::real[]) FROM generate_series(1, 20) k),
	(SELECT array_agg(k % 2 = 0) FROM generate_series(1, 20) k)
FROM generate_series(1, 400) n;
SELECT cmp_ok(pg_relation_size('tap_drive') / 400, '<', 400::bigint, 'images and boxes are kept out of the scanned heap');
SELECT is((SELECT count(*) FROM tap_drive_boxes), 8000::bigint, 'boxes unnest');
SELECT results_eq($$SELECT x1, y1, x2, y2 FROM tap_drive_boxes WHERE frame_id % 50 = 0 ORDER BY frame_id, box_no$$,
	$$SELECT ann_bboxes[k][1], ann_bboxes[k][2], ann_bboxes[k][3], ann_bboxes[k][4] FROM tap_drive, generate_series(1, 20) k
		WHERE frame_id % 50 = 0 ORDER BY frame_id, k$$, 'as subscripts say');

-- a feature: stored without firing the row trigger, marks of the row only
SELECT avcurate.add_feature('tap_drive', 'bright', 'frame_id % 2 = 0');
SELECT is((SELECT count(*) FROM pg_trigger WHERE tgrelid = 'tap_drive'::regclass AND NOT tgisinternal
	AND (SELECT attnum FROM pg_attribute WHERE attrelid = 'tap_drive'::regclass AND attname = 'bright') = ANY (tgattr::int2[])), 0::bigint,
	'no trigger fires for the feature');
SELECT is_empty($$SELECT i.indexrelid FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
	WHERE i.indrelid = 'tap_drive'::regclass AND a.attname IN ('bright', 'feature_marks')$$, 'no index hinders HOT');
SELECT is(col_description('tap_drive'::regclass, (SELECT attnum FROM pg_attribute WHERE attrelid = 'tap_drive'::regclass AND attname = 'bright')),
	'feature: frame_id % 2 = 0', 'the column''s comment shows the expression');
SELECT is((SELECT avcurate.feature_state(avcurate.feature_marked(avcurate.feature_marked(NULL, 9, 0, 1, '{}'), 2, 0, 2, '{9}'), n)
	FROM (VALUES (2)) v(n)), 2, 'marks of different features do not touch');

SELECT * FROM finish();
ROLLBACK;
