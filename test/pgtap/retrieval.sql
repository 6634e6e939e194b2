-- Finding frames by what they show: each documented query uses the index
-- that is meant for it, and finds what a scan finds.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
BEGIN;
SELECT no_plan();
CREATE FUNCTION pg_temp.picture(tail text) RETURNS bytea LANGUAGE sql
	AS $$SELECT '\xffd8ffc000110802d00500'::bytea || '\x03012200021101031101'::bytea || convert_to($1, 'UTF8')$$;
SELECT avcurate.create_dataset('find_drive') AS dataset \gset
INSERT INTO find_drive (image_id, image_bytes, weather, scene, timeofday, ann_categories, ann_bboxes)
SELECT 'f' || n, pg_temp.picture(repeat(md5(n::text), 60)), (ARRAY['clear', 'rainy', 'snowy'])[1 + (n % 50 = 1)::int + 2 * (n % 97 = 2)::int],
	(ARRAY['city street', 'highway', 'tunnel'])[1 + n % 2 + (n % 171 = 0)::int], (ARRAY['daytime', 'night'])[1 + (n % 3 = 0)::int],
	categories, array_fill(7::real, ARRAY[array_length(categories, 1), 4])
FROM generate_series(1, 6000) n, LATERAL (SELECT ARRAY['car', 'traffic sign', CASE WHEN n % 300 = 0 THEN 'Motorbike' WHEN n % 400 = 7
	THEN 'motorcycle' WHEN n % 250 = 3 THEN 'pedestrian' WHEN n % 500 = 4 THEN 'train' WHEN n % 700 = 9 THEN 'deer' ELSE 'car' END] AS categories) c;

-- ---- scene_text ----
SELECT results_eq($$SELECT provolatile, proparallel FROM pg_proc WHERE proname = 'scene_text' AND pronamespace = 'avcurate'::regnamespace$$,
	$$VALUES ('i'::"char", 's'::"char")$$, 'scene_text is immutable');
SELECT is(avcurate.scene_text('rainy', 'highway', 'night', '{car,pedestrian,motor,Car,zebra,car}'),
	'night rainy scene on a highway with car, motorcycle, person, zebra', 'a sentence, each class once');
SELECT is(avcurate.scene_text('undefined', 'city street', NULL, '{}'), 'scene on a city street', 'what is not known is left out');
SELECT is(avcurate.scene_text(NULL, NULL, NULL, NULL), 'scene', 'all of it');
SELECT is(avcurate.scene_text('', NULL, 'dawn/dusk', ARRAY[NULL, 'bus']), 'dawn/dusk scene with bus', 'empty texts and NULL elements, too');

-- ---- indexes ----
CREATE INDEX find_text ON find_drive
	USING gin (to_tsvector('english', avcurate.scene_text(weather, scene, timeofday, ann_categories)));
CREATE INDEX find_folded ON find_drive USING gin (ann_categories avcurate.category_ops);
CREATE INDEX find_stored ON find_drive USING gin (ann_categories);
ANALYZE find_drive;
CREATE FUNCTION pg_temp.plan(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	line text;
	lines text := '';
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
		lines := lines || line || E'\n';
	END LOOP;
	RETURN lines;
END $$;
-- does the query use the index, and does it find what a scan finds?
CREATE FUNCTION pg_temp.check_query(condition text, index text, frames bigint) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	query text := 'SELECT frame_id FROM find_drive WHERE ' || condition;
	found bigint[];
	scanned bigint[];
BEGIN
	RETURN NEXT matches(pg_temp.plan(query), 'Bitmap Index Scan on ' || index || '\n', condition || ': ' || index);
	EXECUTE 'SELECT array_agg(frame_id ORDER BY frame_id) FROM (' || query || ') q' INTO found;
	SET LOCAL enable_bitmapscan = off;
	EXECUTE 'SELECT array_agg(frame_id ORDER BY frame_id) FROM (' || query || ') q' INTO scanned;
	RESET enable_bitmapscan;
	RETURN NEXT is(found, scanned, condition || ': same frames as a scan');
	RETURN NEXT is(coalesce(array_length(found, 1), 0)::bigint, frames, condition || ': ' || frames || ' of them');
END $$;
SELECT pg_temp.check_query($$avcurate.has_category(ann_categories, 'motorcycle')$$, 'find_folded', 35);
SELECT pg_temp.check_query($$avcurate.has_category(ann_categories, 'MOTOR')$$, 'find_folded', 35);
SELECT pg_temp.check_query($$avcurate.has_category(ann_categories, 'person', 'train')$$, 'find_folded', 36);
SELECT pg_temp.check_query($$avcurate.has_category(ann_categories, 'deer')$$, 'find_folded', 9);
SELECT pg_temp.check_query($$avcurate.has_category(ann_categories, 'Deer')$$, 'find_folded', 0);
SELECT pg_temp.check_query($$avcurate.has_category(ann_categories, 'train') AND avcurate.has_category(ann_categories, 'car')$$, 'find_folded', 12);
SELECT pg_temp.check_query($$avcurate.has_category(ann_categories, 'train') OR avcurate.has_category(ann_categories, 'person')$$, 'find_folded', 36);
SELECT pg_temp.check_query($$ann_categories OPERATOR(avcurate.~&&) '{person}'$$, 'find_folded', 24);
SELECT pg_temp.check_query($$ann_categories @> '{train,car}'$$, 'find_stored', 12);
SELECT pg_temp.check_query($$ann_categories && '{train,deer}'$$, 'find_stored', 21);
SELECT pg_temp.check_query($$to_tsvector('english', avcurate.scene_text(weather, scene, timeofday, ann_categories)) @@ to_tsquery('english', 'night & snow:* & highway')$$, 'find_text', 10);
SELECT pg_temp.check_query($$to_tsvector('english', avcurate.scene_text(weather, scene, timeofday, ann_categories)) @@ websearch_to_tsquery('english', '"rainy scene" motorcycle')$$, 'find_text', 0);
SELECT doesnt_match(pg_temp.plan($$SELECT 1 FROM find_drive WHERE avcurate.has_category(ann_categories, 'car')$$), 'find_folded',
	'a class that every frame has: a scan');
SELECT doesnt_match(pg_temp.plan($$SELECT 1 FROM find_drive a, find_drive b WHERE avcurate.has_category(a.ann_categories, VARIADIC a.ann_categories)
	AND a.frame_id = b.frame_id$$), 'find_folded', 'a condition of one row on itself: no index');
SELECT is((SELECT count(*) FROM find_drive WHERE avcurate.has_category(ann_categories, VARIADIC '{}')), 0::bigint, 'no class, no frame');
SELECT is((SELECT count(*) FROM find_drive WHERE avcurate.has_category(ann_categories, VARIADIC ARRAY[NULL, 'train'])), 12::bigint, 'a NULL is no class');
-- the index follows the rows
UPDATE find_drive SET ann_categories = '{train}', ann_bboxes = '{{1,1,2,2}}' WHERE image_id = 'f1';
DELETE FROM find_drive WHERE image_id = 'f4';
SELECT pg_temp.check_query($$avcurate.has_category(ann_categories, 'train')$$, 'find_folded', 12);

-- ---- view of the boxes ----
SELECT is((SELECT count(*) FROM find_drive_boxes WHERE category = 'deer'), 9::bigint, 'boxes of a class');
SELECT matches(pg_temp.plan('SELECT * FROM find_drive_boxes WHERE frame_id = 5'), 'Index Scan using find_drive_pkey', 'boxes of a frame: by its key');
SELECT matches(pg_temp.plan($$SELECT * FROM find_drive_boxes WHERE image_id = 'f5'$$), 'Index Scan using find_drive_image_id_key', 'or its name');
SELECT matches(pg_temp.plan($$SELECT * FROM find_drive_boxes b JOIN find_drive f USING (frame_id)
	WHERE avcurate.has_category(f.ann_categories, 'train') AND b.category = 'train' AND area_pct < 2$$),
	'find_folded', 'conditions on the dataset come first');
SELECT matches(pg_temp.plan('SELECT * FROM find_drive_boxes WHERE frame_id BETWEEN 5 AND 9 AND area_pct > 1'),
	'Function Scan on frame_boxes b\n +Filter: \(area_pct.*\n.*find_drive_pkey|find_drive_pkey.*\n.*\n.*Function Scan on frame_boxes b\n +Filter: \(area_pct',
	'those on a box where it is made');

SELECT * FROM finish();
ROLLBACK;
