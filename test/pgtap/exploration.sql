-- Looking at frames and counting what is in them: against plain SQL over the
-- view of boxes, and by hand.
\set ON_ERROR_STOP 1
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT avcurate.create_dataset('explored') AS dataset \gset
CALL avcurate.ingest_synthetic('explored', 60, 5, 'train', '{"width": 160, "height": 96}');
-- what generated frames lack: nothing known, no labels, ignored boxes, areas
UPDATE explored SET weather = NULL, scene = NULL WHERE frame_id % 9 = 0;
UPDATE explored SET ann_categories = NULL, ann_bboxes = NULL, ann_occluded = NULL, ann_truncated = NULL, ann_ignored = NULL WHERE frame_id % 11 = 0;
UPDATE explored SET ann_categories = '{}', ann_bboxes = '{}', ann_occluded = '{}', ann_truncated = '{}', ann_ignored = NULL WHERE frame_id % 13 = 0;
UPDATE explored SET ann_ignored = array_fill(true, ARRAY[cardinality(ann_categories)]) WHERE frame_id % 7 = 0 AND cardinality(ann_categories) > 0;
UPDATE explored SET ann_area = array_fill(5000::real, ARRAY[cardinality(ann_categories)]) WHERE frame_id % 5 = 0 AND cardinality(ann_categories) > 0;
SELECT avcurate.create_slice('explored_all', 'explored', 'frame_id <= 40') \gset ignored_

SELECT no_plan();

-- ---- counts ----
SELECT set_eq($$SELECT weather, timeofday, scene, frames, labelled, boxes, round(pct::numeric, 6) AS pct, ignored FROM avcurate.scene_counts('explored')$$,
	$$SELECT weather, timeofday, scene, count(*) AS n, count(ann_categories) AS l, sum(b)::bigint AS b, round(100.0 * count(*) / 60, 6) AS pct, sum(i)::bigint AS i
	FROM explored e, LATERAL (SELECT count(*) FILTER (WHERE b.ignored IS NOT TRUE) AS b, count(*) FILTER (WHERE b.ignored) AS i FROM explored_boxes b WHERE b.frame_id = e.frame_id) c
	GROUP BY 1, 2, 3$$, 'frames by weather, time of day and scene, those that are not known included');
SELECT results_eq($$SELECT sum(boxes), sum(ignored) FROM avcurate.scene_counts('explored')$$, $$SELECT sum(boxes), sum(ignored) FROM avcurate.box_sizes('explored')$$,
	'both count the same boxes');
SELECT ok(frames >= lead, 'most first') FROM (SELECT frames, lead(frames) OVER () FROM avcurate.scene_counts('explored') LIMIT 1) s;
CREATE VIEW measured_boxes AS
	SELECT b.*, coalesce(d.ann_area[box_no], (x2 - x1) * (y2 - y1)) AS area, b.ignored IS TRUE AS is_ignored FROM explored_boxes b JOIN explored d USING (frame_id);
SELECT set_eq($$SELECT category, frames, boxes, small, medium, large, round(mean_pct::numeric, 3) AS mean, round(max_pct::numeric, 3) AS max, ignored FROM avcurate.box_sizes('explored')$$,
	$$SELECT category, count(DISTINCT frame_id) FILTER (WHERE NOT is_ignored) AS f, count(*) FILTER (WHERE NOT is_ignored) AS b,
		count(*) FILTER (WHERE area < 1024 AND NOT is_ignored) AS s, count(*) FILTER (WHERE area >= 1024 AND area < 9216 AND NOT is_ignored) AS m,
		count(*) FILTER (WHERE area >= 9216 AND NOT is_ignored) AS l,
		round(avg(area_pct) FILTER (WHERE NOT is_ignored)::numeric, 3) AS mean, round((max(area_pct) FILTER (WHERE NOT is_ignored))::numeric, 3) AS max, count(*) FILTER (WHERE is_ignored) AS i
	FROM measured_boxes GROUP BY 1$$, 'boxes by category and size');
SELECT cmp_ok(sum(ignored), '>', 0::numeric, 'some are ignored') FROM avcurate.box_sizes('explored');
SELECT set_eq($$SELECT least(category, other) AS a, greatest(category, other) AS b, frames, round((of_category * of_other)::numeric, 6) AS o FROM avcurate.category_pairs('explored')$$,
	$$WITH c AS (SELECT DISTINCT frame_id, category FROM measured_boxes WHERE NOT is_ignored), n AS (SELECT category, count(*) AS n FROM c GROUP BY 1)
	SELECT a.category AS a, b.category AS b, count(*) AS f, round(count(*)::numeric * count(*) / (min(na.n) * min(nb.n)), 6) AS o
	FROM c a JOIN c b USING (frame_id) JOIN n na ON na.category = a.category JOIN n nb ON nb.category = b.category WHERE a.category < b.category GROUP BY 1, 2$$,
	'categories that occur together');
SELECT results_eq($$SELECT round(lift::numeric, 6) FROM avcurate.category_pairs('explored') ORDER BY frames DESC, category, other LIMIT 1$$,
	$$SELECT round((frames::numeric * (SELECT count(ann_categories) FROM explored) / ((frames / of_category) * (frames / of_other))::numeric), 6)
	FROM avcurate.category_pairs('explored') ORDER BY frames DESC, category, other LIMIT 1$$, 'lift');
SELECT is_empty($$SELECT * FROM avcurate.box_sizes(NULL)$$, 'nothing of nothing');
SELECT throws_ok($$SELECT * FROM avcurate.scene_counts('pg_class')$$, '42703', 'relation "pg_class" has no column "weather"', 'another table');
SELECT throws_ok($$SELECT * FROM avcurate.box_sizes('explored', 1)$$, '42809', NULL, 'datasets have no versions');

-- ---- many values ----
CREATE TABLE varied AS SELECT 'w' || n AS weather, 'day'::text AS timeofday, NULL::text AS scene, ARRAY['c' || n, 'd' || n % 3] AS ann_categories, NULL::boolean[] AS ann_ignored,
	ARRAY[[0, 0, 10, 10], [0, 0, 50, 50]]::real[] AS ann_bboxes, NULL::real[] AS ann_area, 100 AS width, 100 AS height FROM generate_series(1, 2500) n;
SELECT results_eq($$SELECT count(*), sum(boxes), sum(small) FROM avcurate.box_sizes('varied')$$, $$VALUES (2503::bigint, 5000::numeric, 2500::numeric)$$, 'thousands of categories, of any table');
SELECT results_eq($$SELECT divergence, before FROM avcurate.slice_drift('varied', NULL) WHERE variable = 'weather'$$, $$VALUES (0::float8, 2500::bigint)$$, 'and of values');
CREATE VIEW few AS SELECT * FROM varied WHERE substr(weather, 2)::int <= 21;
CREATE VIEW renamed AS SELECT 'another' AS weather, timeofday, scene, ann_categories, ann_ignored, ann_bboxes, ann_area, width, height FROM few;
SELECT is(divergence, 1::float8, 'nothing in common is 1, and rounding makes it no more') FROM avcurate.slice_drift('few', NULL, NULL, 'renamed') WHERE variable = 'weather';
SELECT throws_ok($$SELECT avcurate.category_pairs('varied')$$, '54000', 'there are more than 2048 categories or values of a column', 'too many for all pairs of them');
CREATE VIEW folded AS SELECT weather, ann_categories[2:2] AS ann_categories, ann_ignored FROM varied;
SELECT is_empty($$SELECT * FROM avcurate.category_pairs('folded')$$, 'a view of fewer, as the hint says');
DROP TABLE varied CASCADE;

-- ---- versions and drift ----
UPDATE explored SET timeofday = 'night' WHERE frame_id <= 40;
SELECT avcurate.refresh_slice('explored_all') AS version \gset
SELECT is(:version, 2, 'a second version');
SELECT set_eq($$SELECT * FROM avcurate.scene_counts('explored_all', 2)$$, $$SELECT * FROM avcurate.scene_counts('explored_all')$$, 'the newest version is what the view holds');
SELECT isnt((SELECT count(*) FROM avcurate.scene_counts('explored_all', 1)), (SELECT count(*) FROM avcurate.scene_counts('explored_all', 2)), 'the first is another');
SELECT is_empty($$SELECT * FROM avcurate.slice_drift('explored_all', 2, 2) WHERE divergence <> 0 OR most IS NOT NULL OR before <> after$$, 'no drift between a version and itself');
SELECT results_eq($$SELECT variable, divergence > 0, most FROM avcurate.slice_drift('explored_all', 1, 2)$$,
	$$VALUES ('weather', false, NULL), ('timeofday', true, 'night'), ('scene', false, NULL), ('category', false, NULL), ('box size', false, NULL)$$, 'only time of day has drifted');
SELECT is_empty($$SELECT variable FROM avcurate.slice_drift('explored_all', 1, 2) d
	WHERE abs(divergence - (SELECT sum(part) FROM avcurate.slice_drift_values('explored_all', 1, 2) v WHERE v.variable = d.variable)) > 1e-12$$, 'parts add up');
-- p = share before, q = after, in SQL
SELECT is_empty($$WITH p AS (SELECT value, sum(n) / 40.0 AS p FROM (SELECT timeofday AS value, 1 AS n FROM avcurate.slice_at(NULL::explored_all, 1) UNION ALL SELECT 'night', 0) t GROUP BY 1),
	j AS (SELECT sum(CASE WHEN p > 0 THEN p * log(2, p / ((p + q) / 2)) / 2 ELSE 0 END + CASE WHEN q > 0 THEN q * log(2, q / ((p + q) / 2)) / 2 ELSE 0 END) AS js
		FROM (SELECT p::numeric, CASE WHEN value = 'night' THEN 1.0 ELSE 0.0 END AS q FROM p) s)
	SELECT js FROM j, avcurate.slice_drift('explored_all', 1, 2) d WHERE variable = 'timeofday' AND abs(divergence - js::float8) > 1e-9$$, 'as the formula says');
SELECT avcurate.create_slice('explored_rest', 'explored', 'frame_id > 40 AND timeofday <> ''night''') \gset ignored_
SELECT is(round(divergence::numeric, 9), 1.000000000, 'nothing in common is 1') FROM avcurate.slice_drift('explored_all', NULL, NULL, 'explored_rest') WHERE variable = 'timeofday';
SELECT set_eq($$SELECT value, before, after FROM avcurate.slice_drift_values('explored_all', 1) WHERE variable = 'weather'$$,
	$$SELECT weather, count(*) AS b, count(*) AS a FROM explored_all GROUP BY 1$$, 'NULL is a value, and no version what the view holds');
SELECT avcurate.create_slice('explored_none', 'explored', 'frame_id < 0') \gset ignored_
SELECT is_empty($$SELECT * FROM avcurate.slice_drift('explored_all', 1, NULL, 'explored_none') WHERE divergence IS NOT NULL$$, 'no drift against nothing');

-- ---- contact sheets ----
SELECT results_eq($$SELECT avcurate.jpeg_width(s), avcurate.jpeg_height(s) FROM (SELECT avcurate.contact_sheet('explored', array_agg(frame_id)) AS s FROM explored WHERE frame_id <= 5) q$$,
	-- 3 x 2 cells of 320 x 192 with a line each, gaps of 4, and the title
	$$VALUES (3 * 324 + 4, 2 * (192 + 3 + 11 + 4) + 18)$$, 'five frames in three columns');
SELECT results_eq($$SELECT avcurate.jpeg_height(avcurate.contact_sheet('explored', ARRAY[1]::bigint[], ARRAY[E'one\ntwo\nthree\nfour'], side => 160))$$, $$VALUES (96 + 3 + 3 * 11 + 4 + 18)$$,
	'a caption has three lines at most');
SELECT ok(avcurate.contact_sheet('explored', ARRAY[1,2]::bigint[]) <> avcurate.contact_sheet('explored', ARRAY[2,1]::bigint[]), 'in the order given');
SELECT ok(avcurate.contact_sheet('explored', ARRAY[f]) <> avcurate.contact_sheet('explored', ARRAY[f], boxes => true), 'boxes are drawn where asked')
FROM (SELECT min(frame_id) AS f FROM explored WHERE cardinality(ann_categories) > 0) q;
SELECT results_eq($$SELECT avcurate.jpeg_height(avcurate.contact_sheet('explored', ARRAY[f], boxes => true)) - avcurate.jpeg_height(avcurate.contact_sheet('explored', ARRAY[f]))
	FROM (SELECT min(frame_id) AS f FROM explored WHERE cardinality(ann_categories) > 0) q$$, 'VALUES (14)', 'and their colours explained in a line');
SELECT lives_ok($$SELECT avcurate.contact_sheet('explored', ARRAY[1::bigint], ARRAY[repeat(E'é漢\n', 500)], title => repeat('ü', 50000))$$, 'long texts of any letters');
SELECT ok(avcurate.contact_sheet('explored', ARRAY[11::bigint]) = avcurate.contact_sheet('explored', ARRAY[11::bigint], boxes => true), 'a frame without labels has none');
SELECT ok(avcurate.contact_sheet('explored', '{1,2}') = avcurate.contact_sheet('explored', ARRAY[1,2]::bigint[]), 'two literals are a dataset and its frames');
SELECT ok(avcurate.contact_sheet('explored', '{1,2}', '{a,b}', boxes => true, side => 160) = avcurate.contact_sheet('explored', ARRAY[1,2]::bigint[], ARRAY['a', 'b'], true, side => 160), 'with all that there is');
PREPARE captioned(text, text) AS SELECT avcurate.contact_sheet($1, $2, '{a,b}') IS NOT NULL;
SET plan_cache_mode = force_generic_plan;
SELECT results_eq($$EXECUTE captioned('explored', '{1,2}')$$, 'VALUES (true)', 'a literal beside what the planner does not know');
RESET plan_cache_mode;
SELECT ok(avcurate.contact_sheet('explored', NULL) IS NULL, 'NULL is no frames');
SELECT throws_ok($$SELECT avcurate.contact_sheet('7', 'missed')$$, '42704', 'evaluation 7 does not exist', 'or an evaluation and a kind');
SELECT throws_ok($$SELECT avcurate.contact_sheet('nowhere', '{1}')$$, '42P01', 'relation "nowhere" does not exist', 'or neither');
SELECT ok(avcurate.contact_sheet('explored', NULL::bigint[]) IS NULL AND avcurate.contact_sheet('explored', ARRAY[]::bigint[]) IS NULL, 'no frames, no sheet');
SELECT throws_ok($$SELECT avcurate.contact_sheet('explored', ARRAY[1,99999]::bigint[])$$, 'P0002', 'frame 99999 is not in dataset public.explored', 'a frame that is not there');
SELECT throws_ok($$SELECT avcurate.contact_sheet('explored', ARRAY[1,NULL]::bigint[])$$, '22004', 'frame_ids must not contain nulls', 'NULL');
SELECT throws_ok($$SELECT avcurate.contact_sheet('explored', array_fill(1::bigint, ARRAY[101]))$$, '22023', 'a contact sheet has 100 frames at most, not 101', 'too many');
SELECT throws_ok($$SELECT avcurate.contact_sheet('explored', ARRAY[1]::bigint[], ARRAY['a', 'b'])$$, '22023', 'there are 2 captions for 1 frames', 'captions of others');
SELECT throws_ok($$SELECT avcurate.contact_sheet('explored', ARRAY[1]::bigint[], side => 5)$$, '22023', 'argument "side" is 5, but must be between 32 and 640', 'too small');
SELECT throws_like($$SELECT avcurate.contact_sheet('pg_class', ARRAY[1])$$, '%not a dataset%', 'no dataset');
UPDATE explored SET image_bytes = substr(image_bytes, 1, 1500) || '\xffd9' WHERE frame_id = 3;
SELECT throws_like($$SELECT avcurate.contact_sheet('explored', ARRAY[2,3]::bigint[])$$, 'could not decode the frame: %', 'a picture that is broken');
SELECT avcurate.create_dataset('unguarded') \gset ignored_
INSERT INTO unguarded (image_id, image_bytes) SELECT image_id, image_bytes FROM explored WHERE frame_id = 1;
ALTER TABLE unguarded ALTER image_bytes DROP NOT NULL, DISABLE TRIGGER ALL;
UPDATE unguarded SET image_bytes = NULL;
SELECT throws_ok($$SELECT avcurate.contact_sheet('unguarded', array_agg(frame_id)) FROM unguarded$$, '22004', 'column "image_bytes" of dataset public.unguarded must not be null', 'a picture that its owner has taken away');
SELECT avcurate.drop_dataset('unguarded') \gset ignored_
SELECT results_eq($$SELECT avcurate.jpeg_width(avcurate.contact_sheet('explored', array_fill(1::bigint, ARRAY[100]), side => 640))$$, $$VALUES (10 * 644 + 4)$$, 'the largest');

-- ---- rights ----
CREATE ROLE explorer;
SELECT throws_ok(format('SET LOCAL ROLE explorer; SELECT * FROM avcurate.%s', f), '42501', NULL, f || ' needs the right to read')
FROM unnest(ARRAY['scene_counts(''explored'')', 'box_sizes(''explored'')', 'category_pairs(''explored'')', 'slice_drift(''explored_all'', 1)', 'slice_drift(''explored_all'', NULL)']) f;
SELECT throws_ok($$SET LOCAL ROLE explorer; SELECT avcurate.contact_sheet('explored', ARRAY[1]::bigint[])$$, '42501', NULL, 'and so does a sheet');
GRANT SELECT ON explored TO explorer;
ALTER TABLE explored ENABLE ROW LEVEL SECURITY;
CREATE POLICY few ON explored FOR SELECT TO explorer USING (frame_id <= 10);
SET ROLE explorer;
SELECT is(sum(frames), 10::numeric, 'policies hold') FROM avcurate.scene_counts('explored');
SELECT throws_ok($$SELECT avcurate.contact_sheet('explored', ARRAY[11]::bigint[])$$, 'P0002', 'frame 11 is not in dataset public.explored', 'in sheets, too');
RESET ROLE;
DROP OWNED BY explorer;
DROP ROLE explorer;

DROP VIEW measured_boxes;
DROP MATERIALIZED VIEW explored_all, explored_rest, explored_none;
SELECT avcurate.drop_dataset('explored') \gset ignored_
SELECT * FROM finish();
