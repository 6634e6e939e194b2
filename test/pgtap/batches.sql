-- batches, batch_count and label maps.
\set ON_ERROR_STOP 1
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT no_plan();

-- The header of a JPEG and a tail of its own: all that a dataset asks for.
CREATE FUNCTION pg_temp.jpeg(n int, bytes int) RETURNS bytea LANGUAGE sql AS $$
	SELECT '\xffd8ffc0001108003c005003012200021101031101ffda000c03010002110311003f00'::bytea
		|| int4send(n) || decode(repeat(md5(n::text), bytes / 16), 'hex') || '\xffd9'::bytea
$$;

CREATE SCHEMA camera;
SELECT avcurate.create_dataset('camera.frames');
INSERT INTO camera.frames (image_id, split, image_bytes, ann_categories, ann_bboxes, ann_occluded, ann_truncated, ann_ignored)
	SELECT 'f' || n, CASE WHEN n % 7 = 0 THEN 'val' ELSE 'train' END, pg_temp.jpeg(n, 4000),
		'{person,bike,unheard of,rider}', '{{1,2,11,22},{5,5,50,50},{1,1,9,9},{7,7,7,30}}', NULL, NULL, NULL
	FROM generate_series(1, 350) n;
UPDATE camera.frames SET ann_categories = NULL, ann_bboxes = NULL WHERE image_id = 'f5';
UPDATE camera.frames SET ann_categories = '{}', ann_bboxes = '{}' WHERE image_id = 'f6';
UPDATE camera.frames SET ann_ignored = '{t,f,f,f}' WHERE image_id = 'f8';
UPDATE camera.frames SET ann_categories = '{Pedestrian,motor,motorcycle,bicycle}' WHERE image_id = 'f9';
SELECT avcurate.create_slice('camera.train', 'camera.frames', $$split = 'train'$$);

CREATE VIEW frame_no AS SELECT frame_id, substr(image_id, 2)::int AS n FROM camera.frames;
CREATE FUNCTION pg_temp.ids(text) RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE result bigint[];
BEGIN
	EXECUTE 'SELECT array_agg(frame_id ORDER BY position) FROM avcurate.batches(' || $1 || ')' INTO result;
	RETURN result;
END $$;

-- ---- what a row holds
SELECT is((SELECT count(*) FROM avcurate.batches('camera.train', 8)), 300::bigint, 'every frame of the version is there');
SELECT is((SELECT count(*) FROM avcurate.batches('camera.train', 8) b JOIN camera.frames f USING (frame_id)
		   WHERE b.image_bytes = f.image_bytes AND (b.width, b.height) = (f.width, f.height)), 300::bigint, 'each with its own image and sizes');
SELECT is((SELECT count(DISTINCT frame_id) FROM avcurate.batches('camera.train', 8)), 300::bigint, 'each once');
SELECT is((SELECT array_agg(DISTINCT position - batch_no * 8 ORDER BY position - batch_no * 8) FROM avcurate.batches('camera.train', 8)),
		  '{0,1,2,3,4,5,6,7}'::bigint[], 'a batch is eight consecutive positions');
SELECT results_eq($$SELECT labels, boxes FROM avcurate.batches('camera.train', 1, shuffle => false, num_batches => 1)$$,
	$$VALUES ('{1,2}'::int[], '{{1,2,11,22},{5,5,50,50}}'::real[])$$, 'spellings are folded, unmapped and degenerate boxes left out');
SELECT results_eq($$SELECT labels, boxes FROM avcurate.batches('camera.train', 300) JOIN frame_no USING (frame_id) WHERE n = 5$$,
	$$VALUES (NULL::int[], NULL::real[])$$, 'a frame that is not labelled has NULL labels and boxes');
SELECT results_eq($$SELECT labels, boxes FROM avcurate.batches('camera.train', 300) JOIN frame_no USING (frame_id) WHERE n = 6$$,
	$$VALUES ('{}'::int[], '{}'::real[])$$, 'a frame without boxes has empty ones');
SELECT results_eq($$SELECT labels, boxes FROM avcurate.batches('camera.train', 300) JOIN frame_no USING (frame_id) WHERE n = 8$$,
	$$VALUES ('{2}'::int[], '{{5,5,50,50}}'::real[])$$, 'ignored boxes are left out');
SELECT results_eq($$SELECT labels FROM avcurate.batches('camera.train', 300, label_map => 'bdd100k') JOIN frame_no USING (frame_id) WHERE n = 9$$,
	$$VALUES ('{1,7,7}'::int[])$$, 'the bdd100k map has its own ids');

-- ---- order
SELECT is(pg_temp.ids($$'camera.train', 8$$), pg_temp.ids($$'camera.train', 64$$), 'the order does not depend on the batch size');
SELECT is(pg_temp.ids($$'camera.train', 8, shuffle => false$$),
		  (SELECT array_agg(frame_id ORDER BY frame_id) FROM camera.train), 'unshuffled is frame_id order');
SELECT isnt(pg_temp.ids($$'camera.train', 8$$), pg_temp.ids($$'camera.train', 8, epoch => 1$$), 'another epoch, another order');
SELECT isnt(pg_temp.ids($$'camera.train', 8$$), pg_temp.ids($$'camera.train', 8, seed => 1$$), 'another seed, another order');
SELECT isnt(pg_temp.ids($$'camera.train', 8, seed => 1$$), pg_temp.ids($$'camera.train', 8, seed => -1$$), 'seeds may be negative');
SELECT is(pg_temp.ids($$'camera.train', 8, seed => 3, epoch => 2$$), pg_temp.ids($$'camera.train', 8, 1, 3, 2$$), 'the same seed and epoch, the same order');
SELECT is(pg_temp.ids($$'camera.train', 8$$),
		  (SELECT array_agg(ids[1 + _avcurate.permute(300, p, 1, 0, 0)] ORDER BY p)
		   FROM (SELECT array_agg(frame_id ORDER BY frame_id) AS ids FROM camera.train) t, generate_series(0, 299) p),
		  'position p holds the frame of rank permute(p)');

-- ---- the permutation
SELECT is((SELECT count(DISTINCT _avcurate.permute(n, p, 1, 7, 0)) FROM generate_series(0, n - 1) p), n, 'a permutation of ' || n)
FROM unnest('{1,2,3,4,5,15,16,17,255,256,257,1000,4097}'::bigint[]) n;
SELECT is((SELECT max(_avcurate.permute(n, p, 1, 7, 0)) FROM generate_series(0, n - 1) p), n - 1, 'and of nothing else, ' || n)
FROM unnest('{1,5,16,257}'::bigint[]) n;
-- An outside program that follows the comment in permutation.c gets these.
SELECT is((SELECT array_agg(_avcurate.permute(10, p, 3, -5, 2) ORDER BY p) FROM generate_series(0, 9) p), '{3,6,9,7,2,4,1,8,5,0}'::bigint[], 'the recorded order');
SELECT is((SELECT _avcurate.permute(1000000007, 123456789, 12, 34, 56)), 730938099::bigint, 'the recorded rank among many');
-- Chi-square of where a position's frame comes from, over seeds: 99.99 % of
-- fair permutations stay below the bound for n - 1 degrees of freedom.
SELECT cmp_ok((SELECT sum((c - 2000.0 / n) ^ 2 / (2000.0 / n)) FROM (
		SELECT count(q) AS c FROM generate_series(0, n - 1) v
		LEFT JOIN (SELECT _avcurate.permute(n, p, 1, s, 0) AS q FROM generate_series(1, 2000) s) x ON x.q = v GROUP BY v) y),
	'<', bound, 'rank at position ' || p || ' of ' || n || ' is uniform over seeds')
FROM (VALUES (3, 0, 18.42), (5, 4, 23.51), (16, 7, 44.26), (50, 25, 97.31), (50, 49, 97.31)) t (n, p, bound);
SELECT cmp_ok((SELECT abs(corr(p, _avcurate.permute(10000, p, 1, 1, e))) FROM generate_series(0, 9999) p)::numeric, '<', 0.04,
	'no trend in epoch ' || e) FROM generate_series(0, 2) e;
SELECT cmp_ok((SELECT abs(corr(_avcurate.permute(10000, p, 1, 1, 0), _avcurate.permute(10000, p, 1, 1, 1))) FROM generate_series(0, 9999) p)::numeric,
	'<', 0.04, 'two epochs are not alike');
SELECT cmp_ok((SELECT count(*) FROM generate_series(0, 9998) p
	WHERE abs(_avcurate.permute(10000, p, 1, 1, 0) - _avcurate.permute(10000, p + 1, 1, 1, 0)) = 1), '<', 10::bigint, 'neighbours do not stay neighbours');

-- ---- ranks and ranges
SELECT is(avcurate.batch_count('camera.train', 8), 38::bigint, 'batch_count counts a short last batch');
SELECT is(avcurate.batch_count('camera.train', 8, drop_last => true), 37::bigint, 'drop_last leaves it out');
SELECT is(avcurate.batch_count('camera.train', 8, world_size => 4), 9::bigint, 'each of four ranks gets nine');
SELECT is((SELECT count(*) FROM avcurate.batches('camera.train', 8, drop_last => true)), 296::bigint, 'without the last batch');
SELECT is((SELECT array_agg(frame_id ORDER BY position) FROM generate_series(0, 3) r, avcurate.batches('camera.train', 8, rank => r, world_size => 4)),
		  (pg_temp.ids($$'camera.train', 8$$))[1:288], 'four ranks together see the same global batches, each frame once');
SELECT is((SELECT array_agg(DISTINCT batch_no % 3) FROM avcurate.batches('camera.train', 8, rank => 2, world_size => 3)), '{2}'::bigint[], 'rank 2 of 3 has the batches 2, 5, ...');
SELECT is((SELECT count(DISTINCT b) FROM (SELECT count(DISTINCT batch_no) AS b FROM generate_series(0, 6) r,
		   avcurate.batches('camera.train', 8, rank => r, world_size => 7) GROUP BY r) x), 1::bigint, 'all ranks have as many batches');
SELECT is(pg_temp.ids($$'camera.train', 8, num_batches => 5$$) || pg_temp.ids($$'camera.train', 8, start_batch => 5$$),
		  pg_temp.ids($$'camera.train', 8$$), 'resumed by number, it is the same order');
SELECT is((SELECT array_agg(DISTINCT batch_no ORDER BY batch_no) FROM avcurate.batches('camera.train', 8, rank => 1, world_size => 2, start_batch => 10, num_batches => 3)),
		  '{11,13,15}'::bigint[], 'a rank resumes at its own next batch');
SELECT is(pg_temp.ids($$'camera.train', 8, start_batch => 38$$), NULL, 'nothing is left after the last batch');
SELECT is(pg_temp.ids($$'camera.train', 8, num_batches => 0$$), NULL, 'no batches asked for, none returned');

-- ---- refused arguments
SELECT throws_ok($$SELECT avcurate.batches('camera.train', 0)$$, '22023', 'argument "batch_size" is 0, but must be at least 1', 'batch_size 0');
SELECT throws_ok($$SELECT avcurate.batches('camera.train', 8, epoch => -1)$$, '22023', 'argument "epoch" is -1, but must be at least 0', 'epoch -1');
SELECT throws_ok($$SELECT avcurate.batches('camera.train', 8, rank => 2, world_size => 2)$$, '22023', 'argument "rank" is 2, but must be between 0 and 1', 'rank too high');
SELECT throws_ok($$SELECT avcurate.batches('camera.train', 8, rank => -1)$$, '22023', 'argument "rank" is -1, but must be between 0 and 0', 'rank -1');
SELECT throws_ok($$SELECT avcurate.batches('camera.train', 8, world_size => 0)$$, '22023', 'argument "world_size" is 0, but must be at least 1', 'world_size 0');
SELECT throws_ok($$SELECT avcurate.batches('camera.train', 8, start_batch => -1)$$, '22023', 'argument "start_batch" is -1, but must be at least 0', 'start_batch -1');
SELECT throws_ok($$SELECT avcurate.batches('camera.train', 8, num_batches => -1)$$, '22023', 'argument "num_batches" is -1, but must be at least 0', 'num_batches -1');
SELECT throws_ok($$SELECT avcurate.batches('camera.train', 8, version => 0)$$, '22023', 'argument "version" is 0, but must be at least 1', 'version 0');
SELECT throws_ok($$SELECT avcurate.batches('camera.train', 8, seed => NULL)$$, '22004', 'argument "seed" must not be null', 'seed NULL');
SELECT throws_like($$SELECT avcurate.batches('camera.train', 8, version => 99)$$, '%version 99%', 'a version that does not exist');
SELECT throws_ok($$SELECT avcurate.batches('camera.train', 8, label_map => 'no such')$$, '42704', 'label map "no such" does not exist', 'an unknown label map');
SELECT throws_like($$SELECT avcurate.batches('camera.frames', 8)$$, '%frames%', 'a dataset is no slice');
SELECT throws_ok($$SELECT avcurate.batch_count('camera.train', -4)$$, '22023', 'argument "batch_size" is -4, but must be at least 1', 'batch_count checks too');
CREATE MATERIALIZED VIEW camera.narrow AS SELECT frame_id, image_sha256, width, height FROM camera.frames;
CREATE UNIQUE INDEX ON camera.narrow (frame_id);
SELECT avcurate.track_slice('camera.narrow');
CREATE FUNCTION pg_temp.detail(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE found text;
BEGIN
	EXECUTE query;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS found = PG_EXCEPTION_DETAIL;
	RETURN found;
END $$;
SELECT matches(pg_temp.detail($$SELECT avcurate.batches('camera.narrow', 8)$$), 'ann_categories.*ann_bboxes', 'a slice without annotations is refused, naming them');

-- ---- the pin binds
CREATE TEMP TABLE before AS SELECT * FROM avcurate.batches('camera.train', 8, version => 1, seed => 5);
UPDATE camera.frames SET image_bytes = pg_temp.jpeg(100000 + frame_id::int, 4000) WHERE frame_id % 5 = 0;
UPDATE camera.frames SET ann_categories = '{}', ann_bboxes = '{}', ann_ignored = NULL WHERE frame_id % 11 = 0;
DELETE FROM camera.frames WHERE frame_id % 13 = 0;
UPDATE camera.frames SET split = 'val' WHERE frame_id % 17 = 0;
SELECT is_empty($$(TABLE before EXCEPT SELECT * FROM avcurate.batches('camera.train', 8, version => 1, seed => 5))
	UNION ALL (SELECT * FROM avcurate.batches('camera.train', 8, version => 1, seed => 5) EXCEPT TABLE before)$$,
	'version 1 is the same after updates and deletes of the dataset');
SELECT is(avcurate.refresh_slice('camera.train'), 2::bigint, 'the slice moves on');
SELECT is_empty($$(TABLE before EXCEPT SELECT * FROM avcurate.batches('camera.train', 8, version => 1, seed => 5))
	UNION ALL (SELECT * FROM avcurate.batches('camera.train', 8, version => 1, seed => 5) EXCEPT TABLE before)$$,
	'version 1 is the same after a refresh');
SELECT is((SELECT count(*) FROM avcurate.batches('camera.train', 8)), (SELECT count(*) FROM camera.frames WHERE split = 'train'), 'the current version is the new one');
SELECT is((SELECT count(*) FROM avcurate.batches('camera.train', 8) b JOIN camera.frames f USING (frame_id) WHERE b.image_bytes = f.image_bytes),
		  (SELECT count(*) FROM camera.frames WHERE split = 'train'), 'with the new images');
DROP MATERIALIZED VIEW camera.narrow;
TRUNCATE camera.frames;
SELECT is_empty($$(TABLE before EXCEPT SELECT * FROM avcurate.batches('camera.train', 8, version => 1, seed => 5))
	UNION ALL (SELECT * FROM avcurate.batches('camera.train', 8, version => 1, seed => 5) EXCEPT TABLE before)$$,
	'version 1 is the same after TRUNCATE');
-- What the archive lost is an error that names frame and version.
DELETE FROM _avcurate.archive WHERE dataset = 'camera.frames'::regclass AND frame_id = (SELECT frame_id FROM before WHERE position = 17);
SELECT throws_like($$SELECT count(*) FROM avcurate.batches('camera.train', 8, version => 1, seed => 5)$$,
	'image of frame ' || (SELECT frame_id FROM before WHERE position = 17) || ' in version 1 of slice %', 'a lost image is named');

-- ---- label maps
SELECT is((SELECT count(*) FROM avcurate.label_maps WHERE label_map = 'bdd100k'), 10::bigint, 'bdd100k has ten classes');
SELECT is((SELECT array_agg(DISTINCT label) FROM avcurate.label_maps WHERE label_map = 'coco' AND category IN ('person', 'rider')), '{1}', 'a rider is a person in coco');
CREATE ROLE avc_ann;
CREATE ROLE avc_bob;
SET LOCAL ROLE avc_ann;
INSERT INTO avcurate.label_maps (label_map, category, label) VALUES ('two wheels', 'bike', 1), ('two wheels', 'motor', 2);
RESET ROLE;
SELECT results_eq($$SELECT category, label FROM avcurate.label_maps WHERE label_map = 'two wheels' ORDER BY 2$$,
	$$VALUES ('bicycle', 1), ('motorcycle', 2)$$, 'own maps are stored under the folded spelling');
SET LOCAL ROLE avc_bob;
SELECT throws_ok($$INSERT INTO avcurate.label_maps VALUES ('two wheels', 'car', 3)$$, '42501', 'must be owner of label map "two wheels"', 'another role''s map');
SELECT throws_ok($$DELETE FROM avcurate.label_maps WHERE label_map = 'two wheels'$$, '42501', 'must be owner of label map "two wheels"', 'is nobody else''s to delete');
RESET ROLE;
SELECT throws_ok($$INSERT INTO avcurate.label_maps VALUES ('coco', 'tree', 91)$$, '55000', 'label map "coco" is built in and read-only', 'no new rows in coco');
SELECT throws_ok($$UPDATE avcurate.label_maps SET label = 2 WHERE label_map = 'coco'$$, '55000', 'label map "coco" is built in and read-only', 'no changes in coco');
SELECT throws_ok($$DELETE FROM avcurate.label_maps WHERE label_map = 'bdd100k'$$, '55000', 'label map "bdd100k" is built in and read-only', 'no deletes in bdd100k');
SELECT throws_ok($$INSERT INTO avcurate.label_maps VALUES ('mine', 'tree', 1, true)$$, '22023', 'label map "mine" cannot be made built in', 'nobody makes a built-in map');
SELECT throws_ok($$INSERT INTO avcurate.label_maps VALUES ('mine', 'tree', 0)$$, '23514', NULL, 'labels count from 1');

SELECT * FROM finish();
ROLLBACK;
