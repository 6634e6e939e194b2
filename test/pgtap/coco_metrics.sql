-- coco_metrics against recorded figures of pycocotools (test/data/coco) and
-- against figures worked out by hand.
\set ON_ERROR_STOP 1
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;

CREATE TEMP TABLE recorded (name text, truth jsonb, results jsonb, expected jsonb);
\set gt `cat test/data/coco/plain.gt.json`
\set dt `cat test/data/coco/plain.dt.json`
\set ex `cat test/data/coco/plain.expected.json`
INSERT INTO recorded VALUES ('plain', :'gt', :'dt', :'ex');
\set ex `cat test/data/coco/slice.expected.json`
INSERT INTO recorded VALUES ('slice', :'gt', :'dt', :'ex');
\set gt `cat test/data/coco/all_crowd.gt.json`
\set dt `cat test/data/coco/all_crowd.dt.json`
\set ex `cat test/data/coco/all_crowd.expected.json`
INSERT INTO recorded VALUES ('all_crowd', :'gt', :'dt', :'ex');
\set gt `cat test/data/coco/by_hand.gt.json`
\set dt `cat test/data/coco/by_hand.dt.json`
\set ex `cat test/data/coco/by_hand.expected.json`
INSERT INTO recorded VALUES ('by_hand', :'gt', :'dt', :'ex');
\set gt `cat test/data/coco/no_detections.gt.json`
\set dt `cat test/data/coco/no_detections.dt.json`
\set ex `cat test/data/coco/no_detections.expected.json`
INSERT INTO recorded VALUES ('no_detections', :'gt', :'dt', :'ex');
\set gt `cat test/data/coco/over_100.gt.json`
\set dt `cat test/data/coco/over_100.dt.json`
\set ex `cat test/data/coco/over_100.expected.json`
INSERT INTO recorded VALUES ('over_100', :'gt', :'dt', :'ex');
\set gt `cat test/data/coco/ties_crowd.gt.json`
\set dt `cat test/data/coco/ties_crowd.dt.json`
\set ex `cat test/data/coco/ties_crowd.expected.json`
INSERT INTO recorded VALUES ('ties_crowd', :'gt', :'dt', :'ex');

-- A case may judge some of the images only: drop the others, and what is on
-- them.  Categories are named by their ids, as in the recorded figures.
CREATE FUNCTION pg_temp.chosen(document jsonb, key text, ids jsonb) RETURNS jsonb
LANGUAGE sql AS $$
	SELECT coalesce(jsonb_agg(e ORDER BY n), '[]') FROM jsonb_array_elements(document)
		WITH ORDINALITY AS l (e, n)
	WHERE jsonb_typeof(ids) <> 'array' OR ids @> (e->key)
$$;
UPDATE recorded SET
	truth = truth || jsonb_build_object(
		'images', pg_temp.chosen(truth->'images', 'id', expected->'image_ids'),
		'annotations', pg_temp.chosen(truth->'annotations', 'image_id', expected->'image_ids'),
		'categories', (SELECT jsonb_agg(c || jsonb_build_object('name', c->>'id'))
					   FROM jsonb_array_elements(truth->'categories') c)),
	results = pg_temp.chosen(results, 'image_id', expected->'image_ids');

CREATE TEMP TABLE figure AS
	SELECT name, m.metric, m.category, m.value
	FROM recorded, avcurate.coco_metrics(truth, results) m;

SELECT plan(7 + 7 + 7 + 6 + 1);

SELECT is((SELECT max(abs(coalesce(f.value, -1) - (s.value)::float8))::numeric < 1e-9
		   FROM jsonb_each_text(r.expected->'summary') s
		   JOIN figure f ON f.name = r.name AND f.metric = s.key AND f.category IS NULL),
		  true, 'summary of ' || name || ' equals the recorded one to 1e-9')
FROM recorded r ORDER BY name;

SELECT is((SELECT count(*) FROM jsonb_each_text(r.expected->'summary') s
		   JOIN figure f ON f.name = r.name AND f.metric = s.key AND f.category IS NULL),
		  12::bigint, name || ' has twelve figures')
FROM recorded r ORDER BY name;

SELECT is((SELECT coalesce(max(abs(coalesce(f.value, -1) - (v.value)::float8)), 0)::numeric < 1e-9
		   FROM jsonb_each(r.expected->'categories') c CROSS JOIN LATERAL jsonb_each_text(c.value) v
		   JOIN figure f ON f.name = r.name AND f.metric = v.key AND f.category = c.key),
		  true, 'categories of ' || name || ' equal the recorded ones to 1e-9')
FROM recorded r ORDER BY name;

-- By hand: two truths, one found, one false alarm above it.  Precision at
-- recall up to 0.5 is 1/2, beyond it 0: 51 of 101 points.
\set truth '{"images":[{"id":1}],"categories":[{"id":4,"name":"car"},{"id":5,"name":"bus"}],"annotations":[{"id":1,"image_id":1,"category_id":4,"bbox":[0,0,10,10],"area":100,"iscrowd":0},{"id":2,"image_id":1,"category_id":4,"bbox":[50,50,10,10],"area":100,"iscrowd":0}]}'
\set found '[{"image_id":1,"category_id":4,"bbox":[80,80,10,10],"score":0.9},{"image_id":1,"category_id":4,"bbox":[0,0,10,10],"score":0.8}]'
SELECT is((SELECT round(value::numeric, 12) FROM avcurate.coco_metrics(:'truth', :'found')
		   WHERE metric = 'AP50' AND category IS NULL),
		  round(51 * 0.5 / 101, 12), 'average precision worked out by hand');
SELECT is((SELECT value FROM avcurate.coco_metrics(:'truth', :'found')
		   WHERE metric = 'AR1' AND category = 'car'),
		  0::float8, 'the first detection of the image alone finds nothing');
SELECT is((SELECT count(value) FROM avcurate.coco_metrics(:'truth', :'found')
		   WHERE category = 'bus'), 0::bigint, 'a class without truths has no figures');
SELECT throws_ok(format('SELECT * FROM avcurate.coco_metrics(%L, %L)', '{"images":[]}', '[]'),
	'22023', 'COCO document: no array in "categories"', 'a truth without categories is refused');
SELECT throws_ok(format('SELECT * FROM avcurate.coco_metrics(%L, %L)', :'truth',
	'[{"image_id":1,"category_id":4,"bbox":[1,2,3],"score":1}]'),
	'22023', 'COCO document: a "bbox" that is not four numbers in "results"',
	'a box of three numbers is refused');
SELECT throws_ok(format('SELECT * FROM avcurate.coco_metrics(%L, %L)', :'truth', '{}'),
	'22023', 'COCO document: something else than an array in "results"',
	'results that are no array are refused');

-- BDD100K's own sample pair, converted by its rules (boxes end inclusively).
\set have `test -r "$AVC_SHARED/bdd100k/label_samples/eval_bbox_predictions.json" && echo 1 || echo 0`
SELECT :'have' = '1' AS have \gset
\if :have
\set gt `cat "$AVC_SHARED/bdd100k/label_samples/eval_track_sample_anns.json"`
\set dt `cat "$AVC_SHARED/bdd100k/label_samples/eval_bbox_predictions.json"`
\set ex `cat test/data/coco/scalabel.expected.json`
CREATE TEMP TABLE class (id int, name text);
INSERT INTO class SELECT n, c FROM unnest('{pedestrian,rider,car,truck,bus,train,motorcycle,bicycle,traffic light,traffic sign}'::text[])
	WITH ORDINALITY u (c, n);
CREATE TEMP TABLE frame AS
	SELECT n AS id, f->>'name' AS name, f FROM jsonb_array_elements(:'gt'::jsonb) WITH ORDINALITY AS l (f, n);
CREATE FUNCTION pg_temp.box(b jsonb) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_array((b->>'x1')::float8, (b->>'y1')::float8,
		(b->>'x2')::float8 - (b->>'x1')::float8 + 1, (b->>'y2')::float8 - (b->>'y1')::float8 + 1)
$$;
SELECT ok((SELECT max(abs(m.value - (s.value)::float8)) < 1e-9 FROM
	avcurate.coco_metrics(
		jsonb_build_object(
			'images', (SELECT jsonb_agg(jsonb_build_object('id', id)) FROM frame),
			'categories', (SELECT jsonb_agg(jsonb_build_object('id', id, 'name', name)) FROM class),
			'annotations', (
				SELECT jsonb_agg(jsonb_build_object('id', 1, 'image_id', frame.id, 'category_id', class.id,
					'bbox', pg_temp.box(l->'box2d'),
					'iscrowd', (coalesce((l->'attributes'->>'crowd')::boolean, false) OR
								coalesce((l->'attributes'->>'ignored')::boolean, false))::int)
					ORDER BY frame.id, n)
				FROM frame, jsonb_array_elements(f->'labels') WITH ORDINALITY x (l, n)
				JOIN class ON class.name = l->>'category' WHERE l ? 'box2d')),
		(SELECT jsonb_agg(jsonb_build_object('image_id', frame.id, 'category_id', class.id,
			'bbox', pg_temp.box(l->'box2d'), 'score', (l->>'score')::float8) ORDER BY k, n)
		 FROM jsonb_array_elements(CASE WHEN jsonb_typeof(:'dt'::jsonb) = 'array' THEN :'dt'::jsonb
									ELSE :'dt'::jsonb->'frames' END) WITH ORDINALITY p (f, k)
		 JOIN frame ON frame.name = p.f->>'name',
		 jsonb_array_elements(p.f->'labels') WITH ORDINALITY x (l, n)
		 JOIN class ON class.name = l->>'category')) m
	JOIN jsonb_each_text(:'ex'::jsonb->'summary') s ON s.key = m.metric
	WHERE m.category IS NULL), 'BDD100K''s sample pair gives its known answer');
\else
SELECT skip('no folder of real frames', 1);
\endif

SELECT * FROM finish();
ROLLBACK;
