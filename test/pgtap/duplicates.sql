-- duplicate_groups and mark_duplicates: held against SQL that compares all
-- pairs, and against real frames.
\set ON_ERROR_STOP 1
\set have_frames `test -d :shared/bdd100k/track && echo true || echo false`
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
-- the header of a picture, of its own for each number
CREATE FUNCTION pg_temp.jpeg(n bigint) RETURNS bytea LANGUAGE sql AS $$
	SELECT '\xffd8ffc0001108012c019003012200021101031101ffda000c03010002110311003f00'::bytea
		|| decode(md5(n::text), 'hex') || '\xffd9'::bytea $$;
SELECT avcurate.create_dataset('hashed') AS dataset \gset
ALTER TABLE hashed ADD h bit(64), ADD f bit(256), ADD score real;
-- 1500 frames: a third is near an earlier one, every 50th has its image,
-- every 70th no hash
SELECT setseed(0.25) \gset ignored_
INSERT INTO hashed (image_id, image_bytes, score)
SELECT n::text, pg_temp.jpeg(CASE WHEN n % 50 = 0 THEN n / 2 ELSE n END), (n * 7919) % 101 FROM generate_series(1, 1500) n;
UPDATE hashed SET h = ('x' || left(encode(sha256(convert_to(frame_id::text, 'UTF8')), 'hex'), 16))::bit(64),
	f = ('x' || encode(sha256(convert_to(frame_id::text, 'UTF8')), 'hex'))::bit(256);
UPDATE hashed t SET h = o.h # (SELECT bit_or(set_bit(repeat('0', 64)::bit(64), ((t.frame_id * 37 + i * i * 11) % 64)::int, 1)) FROM generate_series(0, t.frame_id % 14) i),
	f = o.f # (repeat('1', (t.frame_id % 60)::int) || repeat('0', 256 - (t.frame_id % 60)::int))::bit(256)
FROM hashed o WHERE t.frame_id % 3 = 0 AND o.frame_id = t.frame_id / 3 * 2 - 1;
UPDATE hashed t SET h = o.h, f = o.f FROM hashed o WHERE t.frame_id % 50 = 0 AND o.frame_id = t.frame_id / 2;
UPDATE hashed SET h = NULL WHERE frame_id % 70 = 0;
CREATE TEMP TABLE first_hashes AS SELECT frame_id, h FROM hashed;

SELECT no_plan();

-- The cover as its rule says, one frame after another.
CREATE FUNCTION pg_temp.oracle(max_distance int, fine_distance int, prefers boolean)
RETURNS TABLE (frame_id bigint, group_id bigint, keep boolean, distance int) LANGUAGE plpgsql AS $$
DECLARE
	r record;
	best record;
BEGIN
	CREATE TEMP TABLE kept (frame_id bigint, place bigint, h bit(64), f bit(256)) ON COMMIT DROP;
	CREATE TEMP TABLE result (frame_id bigint, group_id bigint, distance int, sha bytea) ON COMMIT DROP;
	FOR r IN SELECT t.frame_id, t.image_sha256 AS sha, row_number() OVER o AS place,
			first_value(t.h) OVER p AS h, first_value(t.f) OVER p AS f
		FROM hashed t WINDOW o AS (ORDER BY CASE WHEN prefers THEN -score END, t.frame_id),
			p AS (PARTITION BY t.image_sha256 ORDER BY t.h IS NULL, CASE WHEN prefers THEN -score END, t.frame_id)
		ORDER BY 3
	LOOP
		SELECT e.group_id, e.distance INTO best FROM result e WHERE e.sha = r.sha LIMIT 1;
		IF NOT FOUND THEN
			SELECT k.frame_id AS group_id, avcurate.hamming(k.h, r.h) AS distance INTO best FROM kept k
			WHERE avcurate.hamming(k.h, r.h) <= max_distance
				AND (fine_distance IS NULL OR avcurate.hamming(k.f, r.f) <= fine_distance)
			ORDER BY 2, k.place LIMIT 1;
			IF NOT FOUND THEN
				SELECT r.frame_id AS group_id, 0 AS distance INTO best;
				INSERT INTO kept VALUES (r.frame_id, r.place, r.h, r.f);
			END IF;
		END IF;
		INSERT INTO result VALUES (r.frame_id, best.group_id, best.distance, r.sha);
	END LOOP;
	RETURN QUERY SELECT e.frame_id, e.group_id, e.frame_id = e.group_id, e.distance FROM result e
		WHERE (SELECT count(*) FROM result o WHERE o.group_id = e.group_id) > 1;
	DROP TABLE kept, result;
END $$;

-- ---- against all pairs ----
SELECT set_eq(format($$SELECT * FROM avcurate.duplicate_groups('hashed', %s, 'h')$$, d),
	format($$SELECT * FROM pg_temp.oracle(%s, NULL, false)$$, d), 'distance ' || d)
FROM unnest(ARRAY[0, 3, 10, 20, 64]) d;
SELECT set_eq($$SELECT * FROM avcurate.duplicate_groups('hashed', 10, 'h', 'f', 20)$$,
	$$SELECT * FROM pg_temp.oracle(10, 20, false)$$, 'with fine hashes');
SELECT set_eq($$SELECT * FROM avcurate.duplicate_groups('hashed', 10, 'h', prefer => 'score')$$,
	$$SELECT * FROM pg_temp.oracle(10, NULL, true)$$, 'in an order of preference');
CREATE TEMP TABLE found AS SELECT * FROM avcurate.duplicate_groups('hashed', feature => 'h');
SELECT cmp_ok(count(*), '>', 300::bigint, 'there is something to find') FROM found WHERE NOT keep;
SELECT is_empty($$SELECT group_id FROM found GROUP BY group_id
	HAVING count(*) FILTER (WHERE keep) <> 1 OR count(*) < 2 OR min(frame_id) <> group_id OR bool_or(keep <> (frame_id = group_id))$$,
	'a group is two frames or more, the first of which is kept');
SELECT is_empty($$SELECT d.frame_id FROM found d JOIN hashed a USING (frame_id) JOIN hashed b ON b.frame_id = d.group_id
	WHERE d.distance <> avcurate.hamming(a.h, b.h) OR d.distance > 10$$, 'every frame is within 10 of the one that is kept');
SELECT is_empty($$SELECT a.frame_id FROM hashed a JOIN hashed b ON a.frame_id < b.frame_id AND avcurate.hamming(a.h, b.h) <= 10
	WHERE NOT EXISTS (SELECT FROM found WHERE NOT keep AND frame_id IN (a.frame_id, b.frame_id))$$, 'no two that are kept are');

SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT set_eq($$SELECT * FROM avcurate.duplicate_groups('hashed', feature => 'h')$$, 'SELECT * FROM found', 'a parallel scan changes nothing');
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
CREATE FUNCTION pg_temp.is_cancelled() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM avcurate.duplicate_groups('hashed', feature => 'h') FROM generate_series(1, 100000);
	RETURN false;
EXCEPTION WHEN query_canceled THEN
	RETURN true;
END $$;
SET statement_timeout = 20;
SELECT ok(pg_temp.is_cancelled(), 'it can be cancelled');
RESET statement_timeout;

-- ---- many that are near ----
UPDATE hashed SET h = repeat('0', 64)::bit(64);
SELECT results_eq($$SELECT count(*), count(*) FILTER (WHERE keep), max(distance), max(group_id) FROM avcurate.duplicate_groups('hashed', 0, 'h')$$,
	$$VALUES (1500::bigint, 1::bigint, 0, 1::bigint)$$, 'equal hashes are one group');
SELECT set_eq($$SELECT * FROM avcurate.duplicate_groups('hashed', 10, 'h', 'f', 20)$$,
	$$SELECT * FROM pg_temp.oracle(10, 20, false)$$, 'or as many as the fine ones tell apart');
UPDATE hashed SET h = set_bit(h, (frame_id % 64)::int, 1);
SELECT results_eq($$SELECT count(*), count(*) FILTER (WHERE keep), max(distance) FROM avcurate.duplicate_groups('hashed', 2, 'h')$$,
	$$VALUES (1500::bigint, 1::bigint, 2)$$, 'so is a ball');
-- a slow drive: neighbours differ in one bit, the ends in all
UPDATE hashed SET h = (repeat('1', (frame_id % 64)::int) || repeat('0', 64 - (frame_id % 64)::int))::bit(64);
SELECT results_eq($$SELECT count(*) FILTER (WHERE keep), max(distance) FROM avcurate.duplicate_groups('hashed', 10, 'h')$$,
	$$VALUES (6::bigint, 10)$$, 'a drive is cut into pieces, not thrown into one group');

-- ---- images alone, and what is asked for ----
UPDATE hashed SET h = NULL;
SELECT set_eq($$SELECT frame_id, group_id, keep, distance FROM avcurate.duplicate_groups('hashed', 10, 'h')$$,
	$$SELECT frame_id, min(frame_id) OVER p AS g, frame_id = min(frame_id) OVER p AS k, 0 AS d FROM hashed
	WHERE image_sha256 IN (SELECT image_sha256 FROM hashed GROUP BY 1 HAVING count(*) > 1) WINDOW p AS (PARTITION BY image_sha256)$$,
	'without hashes equal images are found');
SELECT throws_ok($$SELECT avcurate.duplicate_groups('hashed')$$, '42704', 'dataset public.hashed has no feature of dhash()', 'no feature');
SELECT throws_ok($$SELECT avcurate.duplicate_groups('hashed', -1, 'h')$$, '22023', 'argument "max_distance" is -1, but must be between 0 and 64', 'negative');
SELECT throws_ok($$SELECT avcurate.duplicate_groups('hashed', 65, 'h')$$, '22023', 'argument "max_distance" is 65, but must be between 0 and 64', 'too far');
SELECT throws_ok($$SELECT avcurate.duplicate_groups('hashed', 10, 'h', 'f', 257)$$, '22023', 'argument "fine_distance" is 257, but must be between 0 and 256', 'too far in the fine');
SELECT throws_ok($$SELECT avcurate.duplicate_groups('hashed', NULL)$$, '22004', 'argument "max_distance" must not be null', 'NULL');
SELECT throws_ok($$SELECT avcurate.duplicate_groups('hashed', 10, 'nothing')$$, '42703', 'dataset public.hashed has no column "nothing"', 'unknown');
SELECT throws_ok($$SELECT avcurate.duplicate_groups('hashed', 10, 'f')$$, '42804',
	'column "f" of dataset public.hashed is of type bit(256), but must be of type bit(64)', 'another type');
SELECT throws_ok($$SELECT avcurate.duplicate_groups('hashed', 10, 'h', 'h')$$, '42804',
	'column "h" of dataset public.hashed is of type bit(64), but must be of type bit(256)', 'not fine');
SELECT throws_ok($$SELECT avcurate.duplicate_groups('hashed', 10, 'h', prefer => 'nothing')$$, '42703', 'dataset public.hashed has no column "nothing"', 'prefer');
SELECT throws_like($$SELECT avcurate.duplicate_groups('pg_class')$$, '%pg_class%is no%dataset%', 'no dataset');

-- ---- features ----
SELECT avcurate.add_feature('hashed', 'a', 'avcurate.dhash(image_bytes)') \gset ignored_
SELECT lives_ok($$SELECT avcurate.duplicate_groups('hashed')$$, 'the feature of dhash() is taken');
SELECT avcurate.add_feature('hashed', 'b', 'avcurate.dhash_scaled(image_bytes)') \gset ignored_
SELECT lives_ok($$SELECT avcurate.duplicate_groups('hashed')$$, 'also beside one of dhash_scaled()');
SELECT avcurate.add_feature('hashed', 'c', 'dhash(image_bytes)') \gset ignored_
SELECT throws_ok($$SELECT avcurate.duplicate_groups('hashed')$$, '42P08', 'dataset public.hashed has several features of dhash()', 'which of two?');
SELECT lives_ok($$SELECT avcurate.duplicate_groups('hashed', feature => 'b')$$, 'that one');

ALTER TABLE hashed ADD loose "bit";
UPDATE hashed SET loose = B'101' WHERE frame_id = 7;
SELECT throws_ok($$SELECT avcurate.duplicate_groups('hashed', feature => 'loose')$$, '22000', 'hash of frame 7 has 3 bits, but must have 64', 'bits of any number');
ALTER TABLE hashed DROP loose;

-- ---- images in the place of a feature of dhash256() ----
SELECT avcurate.create_dataset('seen') AS dataset \gset
CALL avcurate.ingest_synthetic('seen', 30, 5, 'train', '{"width": 128, "height": 72}');
SELECT avcurate.add_feature('seen', 'd', 'avcurate.dhash(image_bytes)') \gset ignored_
CALL avcurate.backfill('seen');
ALTER TABLE seen ADD by_hand bit(256);
-- hashes as near as can be, which are not those of the images: 64 bits count
UPDATE seen SET d = repeat('0', 64)::bit(64), by_hand = avcurate.dhash256(image_bytes);
SELECT results_eq($$SELECT count(*), count(*) FILTER (WHERE keep) FROM avcurate.duplicate_groups('seen')$$, $$VALUES (30::bigint, 1::bigint)$$,
	'hashes that were set by hand are taken as they are');
-- one that is, beside its neighbour and a frame that cannot be decoded
UPDATE seen SET d = avcurate.dhash(image_bytes);
UPDATE seen SET d = ~ d WHERE frame_id = 2;
INSERT INTO seen (image_id, image_bytes, d) SELECT 'broken', pg_temp.jpeg(1), d FROM seen WHERE frame_id = 2;
INSERT INTO seen (image_id, image_bytes, d) SELECT 'other', i.image_bytes, avcurate.dhash(i.image_bytes) FROM seen i WHERE frame_id = 2;
UPDATE seen SET d = (SELECT d FROM seen WHERE frame_id = 3) WHERE image_id = 'other';
CREATE TEMP TABLE alone AS SELECT * FROM avcurate.duplicate_groups('seen', 0);
SELECT results_eq($$SELECT image_id, group_id FROM alone JOIN seen USING (frame_id) WHERE NOT keep ORDER BY frame_id$$,
	$$VALUES ('broken', 2::bigint), ('other', 2)$$, 'so is that of an image that cannot be decoded, and equal images are one');
UPDATE seen SET d = avcurate.dhash(image_bytes), by_hand = avcurate.dhash256(image_bytes) WHERE image_id <> 'broken';
SELECT set_eq($$SELECT * FROM avcurate.duplicate_groups('seen', 30, fine_distance => 90) WHERE frame_id <> 31 AND group_id <> 31$$,
	$$SELECT * FROM avcurate.duplicate_groups('seen', 30, fine => 'by_hand', fine_distance => 90) WHERE frame_id <> 31 AND group_id <> 31$$,
	'images tell what a column does');
SELECT cmp_ok(count(*), '>', 2::bigint, 'with something to tell') FROM avcurate.duplicate_groups('seen', 30, fine_distance => 90) WHERE NOT keep;
SELECT avcurate.drop_dataset('seen') \gset ignored_

-- ---- rights ----
CREATE ROLE dup_reader;
CREATE ROLE dup_stranger;
UPDATE hashed SET h = repeat('0', 64)::bit(64);
GRANT SELECT (frame_id, image_sha256, h, a) ON hashed TO dup_reader;
SET ROLE dup_stranger;
SELECT throws_ok($$SELECT avcurate.duplicate_groups('hashed', 10, 'h')$$, '42501', 'permission denied for table hashed', 'no right to read');
RESET ROLE;
SET ROLE dup_reader;
SELECT is(count(*), 1500::bigint, 'the columns that are compared are enough') FROM avcurate.duplicate_groups('hashed', 10, 'h');
SELECT throws_ok($$SELECT avcurate.duplicate_groups('hashed', 10, 'a')$$, '42501',
	'permission denied for column "image_bytes" of dataset public.hashed', 'but where images decide');
SELECT lives_ok($$SELECT avcurate.duplicate_groups('hashed', 10, 'a', fine_distance => NULL)$$, '64 bits alone need none');
SELECT throws_ok($$SELECT avcurate.mark_duplicates('hashed', 10, 'h')$$, '42501', 'must be owner of table hashed', 'marks are the owner''s');
RESET ROLE;
ALTER TABLE hashed ENABLE ROW LEVEL SECURITY;
CREATE POLICY late ON hashed FOR SELECT TO dup_reader USING (frame_id > 1400);
SET ROLE dup_reader;
SELECT results_eq($$SELECT count(*), min(group_id) FROM avcurate.duplicate_groups('hashed', 10, 'h')$$,
	$$VALUES (100::bigint, 1401::bigint)$$, 'policies hold: what he does not see is not there');
RESET ROLE;
ALTER TABLE hashed DISABLE ROW LEVEL SECURITY;

DROP OWNED BY dup_reader;
DROP ROLE dup_reader, dup_stranger;

-- ---- marks, and slices over them ----
UPDATE hashed t SET h = o.h FROM first_hashes o WHERE o.frame_id = t.frame_id;
SELECT is(avcurate.mark_duplicates('hashed', 10, 'h'), (SELECT count(*) FROM avcurate.duplicate_groups('hashed', 10, 'h') WHERE NOT keep),
	'every frame that is not kept is marked');
SELECT set_eq($$SELECT frame_id, duplicate_of FROM hashed WHERE duplicate_of IS NOT NULL$$,
	$$SELECT frame_id, group_id FROM avcurate.duplicate_groups('hashed', 10, 'h') WHERE NOT keep$$, 'with the one that is');
SELECT is(avcurate.mark_duplicates('hashed', 10, 'h'), 0::bigint, 'a second time nothing is written');
SELECT avcurate.create_slice('unique_frames', 'hashed', 'duplicate_of IS NULL') \gset ignored_
SELECT ok(incremental, 'a slice of the rest is refreshed by difference') FROM avcurate.slices WHERE slice = 'unique_frames'::regclass;
SELECT is((SELECT count(*) FROM unique_frames), (SELECT count(*) FROM hashed) - (SELECT count(*) FROM avcurate.duplicate_groups('hashed', 10, 'h') WHERE NOT keep),
	'it holds one frame of each group');
SELECT is_empty($$SELECT group_id FROM avcurate.duplicate_groups('hashed', 10, 'h') EXCEPT SELECT frame_id FROM unique_frames$$, 'the one that is kept');
-- a copy of a frame that was alone, and one less
INSERT INTO hashed (image_id, image_bytes, h) SELECT 'copy', image_bytes, h FROM hashed t WHERE frame_id NOT IN (SELECT frame_id FROM avcurate.duplicate_groups('hashed', 10, 'h'))
	ORDER BY frame_id LIMIT 1;
SELECT is(avcurate.mark_duplicates('hashed', 10, 'h'), 1::bigint, 'a new copy is marked alone');
SELECT mode AS refresh_mode, removed AS refresh_removed, added AS refresh_added FROM avcurate.refresh_slices('hashed') \gset
SELECT is(:'refresh_mode' || ' ' || :'refresh_added' || ' ' || :'refresh_removed', 'incremental 0 0', 'and does not enter the slice');

-- ---- real frames ----
\if :have_frames
SELECT avcurate.create_dataset('tracked') AS dataset, avcurate.create_dataset('keyed') AS other \gset
CREATE FUNCTION pg_temp.take(dataset regclass, folder text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('INSERT INTO %s (image_id, image_bytes) SELECT name, pg_read_binary_file($1 || name) FROM pg_ls_dir($1) name WHERE name LIKE ''%%.jpg'' ORDER BY name', dataset) USING folder || '/';
END $$;
SELECT pg_temp.take('tracked', :'shared' || '/bdd100k/track/bdd100k_test/track/images/' || d) FROM unnest(ARRAY['00091078-875c1f73', 'b1c66a42-6f7d68ca']) d;
INSERT INTO tracked (image_id, image_bytes) SELECT d, pg_read_binary_file(:'shared' || '/bdd100k/track/bdd100k_test/' || d || '.jpg')
	FROM unnest(ARRAY['detect/images/913b47b8-3cf1b886', 'segment/images/913b47b8-3cf1b886', 'segment/images/91051a8d-dc9c6637']) d;
SELECT pg_temp.take('keyed', :'shared' || '/bdd100k/images/' || d) FROM unnest(ARRAY['train', 'val']) d;
SELECT avcurate.add_feature(d, 'dhash', 'avcurate.dhash(image_bytes)') FROM unnest(ARRAY['tracked', 'keyed']::regclass[]) d;
CALL avcurate.backfill('tracked');
-- the recorded distances of imagehash
\set recorded `cat test/data/golden/dhash_track.tsv`
CREATE TEMP TABLE pairs AS SELECT a.frame_id AS a, b.frame_id AS b, c[3]::int AS distance
	FROM regexp_split_to_table(:'recorded', '\n') WITH ORDINALITY AS l (line, n),
		regexp_split_to_array(line, '\t') c,
		LATERAL (SELECT frame_id FROM tracked WHERE c[1] LIKE '%/' || image_id || '%') a,
		LATERAL (SELECT frame_id FROM tracked WHERE c[2] LIKE '%/' || image_id || '%') b
	WHERE n > 1 AND line <> '';
SELECT is(count(*), 105::bigint, 'recorded distances of 15 frames') FROM pairs;
CREATE TEMP TABLE near AS SELECT * FROM avcurate.duplicate_groups('tracked', fine_distance => NULL);
SELECT results_eq($$SELECT image_id FROM tracked WHERE frame_id NOT IN (SELECT frame_id FROM near WHERE NOT keep) ORDER BY frame_id$$,
	ARRAY['00091078-875c1f73-0000166.jpg', 'b1c66a42-6f7d68ca-0000001.jpg', 'detect/images/913b47b8-3cf1b886', 'segment/images/91051a8d-dc9c6637'],
	'one frame is kept of each clip, one of an image that is there twice, and one that is alone');
SELECT is_empty($$SELECT n.frame_id FROM near n JOIN pairs p ON (least(n.frame_id, n.group_id), greatest(n.frame_id, n.group_id)) = (least(a, b), greatest(a, b))
	WHERE n.distance <> p.distance$$, 'at the recorded distances');
SELECT is_empty($$SELECT a, b FROM pairs WHERE distance <= 10 AND a NOT IN (SELECT frame_id FROM near WHERE NOT keep) AND b NOT IN (SELECT frame_id FROM near WHERE NOT keep)$$,
	'no two near ones are kept');
CALL avcurate.backfill('keyed');
SELECT is_empty($$SELECT * FROM avcurate.duplicate_groups('keyed')$$, 'no key frame is dropped by dhash alone, as images are looked at');
CREATE TEMP TABLE looked AS SELECT * FROM avcurate.duplicate_groups('tracked');
SELECT cmp_ok(count(*), '>', 8::bigint, 'tracking frames are') FROM looked WHERE NOT keep;
SELECT avcurate.add_feature(d, 'dhash_fine', 'avcurate.dhash256(image_bytes)') FROM unnest(ARRAY['tracked', 'keyed']::regclass[]) d;
CALL avcurate.backfill('tracked');
CALL avcurate.backfill('keyed');
SELECT set_eq($$SELECT * FROM looked$$, $$SELECT * FROM avcurate.duplicate_groups('tracked')$$, 'images tell what the feature does');
SELECT cmp_ok(count(*) FILTER (WHERE NOT keep), '>', 0::bigint, '64 bits alone confuse key frames') FROM avcurate.duplicate_groups('keyed', fine_distance => NULL);
SELECT is_empty($$SELECT * FROM avcurate.duplicate_groups('keyed')$$, 'no key frame is dropped where the fine hashes must agree');
SELECT results_eq($$SELECT count(*), count(*) FILTER (WHERE keep) FROM avcurate.duplicate_groups('tracked')$$, $$VALUES (14::bigint, 5::bigint)$$,
	'and tracking frames still are: 9 of 14');
SELECT avcurate.drop_dataset('tracked'), avcurate.drop_dataset('keyed') \gset
\else
SELECT skip('no real frames in ' || :'shared', 10);
\endif
SELECT avcurate.untrack_slice('unique_frames') \gset ignored_
DROP MATERIALIZED VIEW unique_frames;
SELECT avcurate.drop_dataset('hashed') \gset ignored_
SELECT * FROM finish();
