-- nearest_frames: exact, by the rights of whoever asks, and clear about what
-- it cannot do.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT no_plan();
CREATE FUNCTION public.search_picture(tail text) RETURNS bytea LANGUAGE sql IMMUTABLE
	AS $$SELECT '\xffd8ffc000110802d00500'::bytea || '\x03012200021101031101'::bytea || convert_to($1, 'UTF8')$$;
SELECT avcurate.create_dataset('searched') AS dataset \gset

-- ---- cosine_similarity ----
SELECT is(avcurate.cosine_similarity('{1,0}', '{3,4}'), 0.6::real, 'a cosine, of vectors of any length');
SELECT is(avcurate.cosine_similarity('{2,2,2}', '{-7,-7,-7}'), -1::real, 'opposite');
SELECT is(avcurate.cosine_similarity(array_fill(1e30::real, ARRAY[600]), array_fill(1e-30::real, ARRAY[600])), 1::real, 'neither large nor small numbers matter');
SELECT is(avcurate.cosine_similarity(a, b), NULL::real, 'none: ' || a::text)
FROM (VALUES ('{0,0}'::real[], '{1,1}'::real[]), ('{NaN,1}', '{1,1}'), ('{1,Infinity}', '{1,1}'), ('{1,NULL}', '{1,1}'), ('{}', '{}')) v (a, b);
SELECT throws_ok($$SELECT avcurate.cosine_similarity('{1,2}', '{1,2,3}')$$, '22000', 'vectors of 2 and 3 numbers cannot be compared');
SELECT throws_ok($$SELECT avcurate.cosine_similarity('{{1,2}}', '{{1,2}}')$$, '2202E', 'vector has 2 dimensions, not one');

-- ---- which feature ----
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{1}')$$, '42703', 'dataset "searched" has no feature of vectors');
SELECT avcurate.add_feature('searched', 'v', $$CASE WHEN split IS NULL THEN NULL ELSE ARRAY[length(weather), length(scene), 1]::real[] END$$) \gset made_
INSERT INTO searched (image_id, image_bytes, weather, scene, timeofday, split)
SELECT 'f' || n, search_picture(n::text), repeat('w', n % 17), repeat('s', n % 5), (ARRAY['day', 'night'])[1 + n % 2], CASE WHEN n % 10 > 0 THEN 'train' END
FROM generate_series(1, 400) n;
CALL avcurate.backfill('searched');
SELECT results_eq($$SELECT * FROM avcurate.nearest_frames('searched', '{3,4,1}', 6)$$,
	$$SELECT frame_id, avcurate.cosine_similarity(v, '{3,4,1}') FROM searched WHERE v IS NOT NULL ORDER BY 2 DESC, 1 LIMIT 6$$,
	'the only feature of vectors, ties by frame_id');
SELECT results_eq($$SELECT * FROM avcurate.nearest_frames('searched', '{3,4,1}', 1000)$$,
	$$SELECT frame_id, avcurate.cosine_similarity(v, '{3,4,1}') FROM searched WHERE v IS NOT NULL ORDER BY 2 DESC, 1$$,
	'all of them where k is larger, NULL vectors left out');
SELECT avcurate.add_feature('searched', 'w', $$ARRAY[width, height]::real[]$$) \gset made_
CALL avcurate.backfill('searched');
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{1,2,3}')$$, '42702', 'dataset "searched" has more than one feature of vectors: "v", "w"');
SELECT is(count(*), 10::bigint, 'one of two, by name, and k is 10') FROM avcurate.nearest_frames('searched', '{1,2}', feature => 'w');
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{1}', feature => 'nothing')$$, '42703', 'dataset "searched" has no feature "nothing"');
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{1}', feature => 'weather')$$, '42804', 'feature "weather" has type text, not real[]');
SELECT avcurate.drop_feature('searched', 'w') \gset made_

-- ---- what a query can be ----
SELECT throws_ok(format('SELECT * FROM avcurate.nearest_frames(%L, %L)', 'searched', query), '22023', 'query has no direction', 'query ' || query)
FROM unnest(ARRAY['{}', '{0,0,0}', '{1,NaN,1}', '{1,Infinity,1}', '{1,NULL,1}']) query;
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{1,2}')$$, '22023', 'query has 2 numbers, but vectors of feature "v" have 3');
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', NULL)$$, '22004', 'query must not be null');
SELECT throws_ok(format('SELECT * FROM avcurate.nearest_frames(%L, %L, %s)', 'searched', '{1,2,3}', k), '22023', format('k is %s, but must be at least 1', k))
FROM unnest(ARRAY[0, -3]) k;
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('pg_class', '{1,2}')$$, '42809', '"pg_class" is not a dataset');

-- ---- filters ----
SELECT results_eq($$SELECT * FROM avcurate.nearest_frames('searched', '{3,4,1}', 7, 'timeofday = ''night'' AND frame_id > 50')$$,
	$$SELECT frame_id, avcurate.cosine_similarity(v, '{3,4,1}') FROM searched WHERE v IS NOT NULL AND timeofday = 'night' AND frame_id > 50 ORDER BY 2 DESC, 1 LIMIT 7$$,
	'a filter counts before the ranking');
SELECT is_empty($$SELECT * FROM avcurate.nearest_frames('searched', '{3,4,1}', 7, 'NULL')$$, 'a filter that is not true of any');
SELECT results_eq($$SELECT frame_id FROM avcurate.nearest_frames('searched', '{3,4,1}', 400, 'frame_id = ANY (SELECT n.frame_id FROM avcurate.nearest_frames(''searched'', ''{1,0,0}'', 5) n)')$$,
	$$SELECT s.frame_id FROM avcurate.nearest_frames('searched', '{1,0,0}', 5) n JOIN searched s USING (frame_id) ORDER BY avcurate.cosine_similarity(v, '{3,4,1}') DESC, 1$$,
	'a filter may search itself');
SELECT avcurate.create_dataset('growing') \gset made_
SELECT avcurate.add_feature('growing', 'v', 'ARRAY[length(scene)]::real[]') \gset made_
INSERT INTO growing (image_id, image_bytes) VALUES ('one', search_picture('1'));
CREATE FUNCTION public.give_vector() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	UPDATE growing SET v = array_fill(1::real, ARRAY[700]);
	RETURN EXISTS (SELECT FROM avcurate.nearest_frames('growing', array_fill(1::real, ARRAY[700])));
END
$$;
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('growing', '{1,2,3}', 7, 'give_vector()')$$, '22023', 'query has 3 numbers, but vectors of feature "v" have 700', 'vectors of another length, the first of all, come while the filter runs');
DROP FUNCTION give_vector;
SELECT avcurate.drop_dataset('growing') \gset made_
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{3,4,1}', 7, 'true) OR (true')$$, '42601', NULL, 'a filter is one expression');
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{3,4,1}', 7, 'true; DELETE FROM searched')$$, '42601', NULL, 'and no more than that');
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{3,4,1}', 7, 'true UNION SELECT 1')$$, '42601', NULL, 'nor a union');
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{3,4,1}', 7, 'nothing = 1')$$, '42703', 'column "nothing" does not exist');
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{3,4,1}', 7, 'true ORDER BY 1')$$, '42601', 'filter is not a single expression: true ORDER BY 1');
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{3,4,1}', 7, 'count(*) > 1')$$, '42803', NULL, 'no aggregates');
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{3,4,1}', 7, 'weather')$$, '42804', NULL, 'a condition');

-- ---- changes of this transaction, and undone ones ----
BEGIN;
UPDATE searched SET v = '{-3,-4,-1}' WHERE frame_id % 3 = 0;
SELECT is((SELECT count(*) FROM avcurate.nearest_frames('searched', '{-3,-4,-1}', 400) WHERE similarity = 1),
	(SELECT count(*) FROM searched WHERE frame_id % 3 = 0), 'own changes are seen');
SAVEPOINT a;
DELETE FROM searched WHERE frame_id % 3 = 0;
SELECT is_empty($$SELECT * FROM avcurate.nearest_frames('searched', '{-3,-4,-1}', 400) WHERE similarity = 1$$, 'and deletions');
ROLLBACK TO a;
SELECT isnt_empty($$SELECT * FROM avcurate.nearest_frames('searched', '{-3,-4,-1}', 400) WHERE similarity = 1$$, 'not those taken back');
ROLLBACK;
SELECT is_empty($$SELECT * FROM avcurate.nearest_frames('searched', '{-3,-4,-1}', 400) WHERE similarity = 1$$, 'nor those rolled back');
BEGIN;
TRUNCATE searched;
SELECT is_empty($$SELECT * FROM avcurate.nearest_frames('searched', '{3,4,1}')$$, 'an emptied dataset');
ROLLBACK;
SELECT is(count(*), 10::bigint, 'that was not emptied') FROM avcurate.nearest_frames('searched', '{3,4,1}');
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT results_eq($$SELECT * FROM avcurate.nearest_frames('searched', '{3,4,1}', 6)$$,
	$$SELECT frame_id, avcurate.cosine_similarity(v, '{3,4,1}') FROM searched WHERE v IS NOT NULL ORDER BY 2 DESC, 1 LIMIT 6$$, 'SERIALIZABLE');
ROLLBACK;

-- ---- vectors of several lengths, vectors without a direction ----
UPDATE searched SET v = '{0,0,0}' WHERE frame_id = 1;
UPDATE searched SET v = '{1,NULL,1}' WHERE frame_id = 2;
SELECT is((SELECT count(*) FROM avcurate.nearest_frames('searched', '{3,4,1}', 400) WHERE frame_id < 3), 0::bigint, 'vectors without a direction are left out');
UPDATE searched SET v = '{1,2}' WHERE frame_id = 3;
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{3,4,1}')$$, '22000', 'vectors of 2 and 3 numbers cannot be compared');
SELECT is(count(*), 10::bigint, 'unless a filter leaves them out') FROM avcurate.nearest_frames('searched', '{3,4,1}', 10, 'frame_id > 3');
UPDATE searched SET v = '{}' WHERE frame_id = 3;
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{3,4,1}')$$, '22000', 'vectors of 0 and 3 numbers cannot be compared');
UPDATE searched SET v = '{1,2,3}' WHERE frame_id <= 3;
SELECT results_eq($$SELECT frame_id FROM avcurate.nearest_frames('searched', '{1,2,3}', 3)$$, '{1,2,3}'::bigint[], 'and they come back');
SELECT avcurate.alter_feature('searched', 'v', 'ARRAY[frame_id, 1, 2, 3]::real[]') \gset made_
CALL avcurate.backfill('searched');
SELECT results_eq($$SELECT * FROM avcurate.nearest_frames('searched', '{5,1,2,3}', 4)$$,
	$$SELECT frame_id, avcurate.cosine_similarity(v, '{5,1,2,3}') FROM searched ORDER BY 2 DESC, 1 LIMIT 4$$, 'a feature of another length from now on');
VACUUM searched;
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{1,2,3}')$$, '22023', 'query has 3 numbers, but vectors of feature "v" have 4');

-- ---- rights ----
CREATE ROLE search_reader;
CREATE ROLE search_columns;
GRANT SELECT ON searched TO search_reader;
GRANT SELECT (frame_id, v) ON searched TO search_columns;
SET ROLE search_columns;
SELECT is(count(*), 10::bigint, 'rights on the columns suffice') FROM avcurate.nearest_frames('searched', '{5,1,2,3}');
SELECT is(count(*), 4::bigint, 'also with a filter on them') FROM avcurate.nearest_frames('searched', '{5,1,2,3}', 10, 'frame_id < 5');
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{5,1,2,3}', 10, 'timeofday = ''day''')$$, '42501', NULL, 'a filter reads what its caller may read');
RESET ROLE;
REVOKE SELECT (v) ON searched FROM search_columns;
SET ROLE search_columns;
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{5,1,2,3}')$$, '42501', 'permission denied for table searched', 'and a search likewise');
RESET ROLE;
ALTER TABLE searched ENABLE ROW LEVEL SECURITY;
SET ROLE search_reader;
SELECT is_empty($$SELECT * FROM avcurate.nearest_frames('searched', '{5,1,2,3}')$$, 'row security hides frames');
RESET ROLE;
CREATE POLICY even ON searched TO search_reader USING (frame_id % 2 = 0);
SET ROLE search_reader;
SELECT results_eq($$SELECT frame_id FROM avcurate.nearest_frames('searched', '{5,1,2,3}', 5, 'frame_id < 100')$$,
	$$SELECT frame_id FROM searched WHERE frame_id < 100 ORDER BY avcurate.cosine_similarity(v, '{5,1,2,3}') DESC, 1 LIMIT 5$$, 'and shows the others');
SET row_security = off;
SELECT throws_ok($$SELECT * FROM avcurate.nearest_frames('searched', '{5,1,2,3}')$$, '42501', NULL, 'row_security = off is heeded');
RESET row_security;
RESET ROLE;
SELECT is(count(*), 400::bigint, 'the owner sees all') FROM avcurate.nearest_frames('searched', '{5,1,2,3}', 1000);

-- ---- two datasets, frame ids far apart, tables that are not logged ----
SELECT avcurate.create_dataset('searched_too') AS dataset \gset
SELECT avcurate.add_feature('searched_too', 'v', 'ARRAY[frame_id % 1000, 1, 2, 3]::real[]') \gset made_
INSERT INTO searched_too (frame_id, image_id, image_bytes) OVERRIDING SYSTEM VALUE
SELECT n * 12345678901, 'g' || n, search_picture(n::text) FROM generate_series(-200, 200) n;
CALL avcurate.backfill('searched_too');
SELECT results_eq($$SELECT * FROM avcurate.nearest_frames('searched_too', '{501,1,2,3}', 20, 'frame_id % 3 = 0')$$,
	$$SELECT frame_id, avcurate.cosine_similarity(v, '{501,1,2,3}') FROM searched_too WHERE frame_id % 3 = 0 ORDER BY 2 DESC, 1 LIMIT 20$$, 'ids far apart');
SELECT results_eq($$SELECT frame_id FROM avcurate.nearest_frames('searched', '{5,1,2,3}', 3)$$,
	$$SELECT frame_id FROM searched ORDER BY avcurate.cosine_similarity(v, '{5,1,2,3}') DESC, 1 LIMIT 3$$, 'beside another dataset');
ALTER TABLE searched_too SET UNLOGGED;
SELECT results_eq($$SELECT * FROM avcurate.nearest_frames('searched_too', '{501,1,2,3}', 20)$$,
	$$SELECT frame_id, avcurate.cosine_similarity(v, '{501,1,2,3}') FROM searched_too ORDER BY 2 DESC, 1 LIMIT 20$$, 'an unlogged dataset');

-- ---- vectors that codes of a byte a number cannot tell apart ----
SELECT avcurate.create_dataset('searched_alike') AS dataset \gset
SELECT avcurate.add_feature('searched_alike', 'v', 'NULL::real[]') \gset made_
INSERT INTO searched_alike (image_id, image_bytes, v)
SELECT 'h' || n, search_picture(n::text), (SELECT array_agg((sin(g) + 0.04 * sin(n * 7.3 * g))::real ORDER BY g) FROM generate_series(1, 64) g) FROM generate_series(1, 4000) n;
SELECT results_eq(format($$SELECT * FROM avcurate.nearest_frames('searched_alike', (SELECT v FROM searched_alike WHERE frame_id = %s), 5)$$, n),
	format($$SELECT frame_id, avcurate.cosine_similarity(v, (SELECT v FROM searched_alike WHERE frame_id = %s)) FROM searched_alike ORDER BY 2 DESC, 1 LIMIT 5$$, n),
	'frames that look alike, from ' || n) FROM generate_series(10, 4000, 79) n;
SELECT avcurate.drop_dataset('searched_alike') \gset made_

-- ---- the files of packed vectors ----
CREATE FUNCTION pg_temp.files() RETURNS bigint LANGUAGE sql AS
	$$SELECT count(*) FROM pg_ls_dir('base/pgsql_tmp') f WHERE f LIKE 'pgsql_tmp.avcurate.' || (SELECT oid FROM pg_database WHERE datname = current_database()) || '.%'$$;
SELECT cmp_ok(pg_temp.files(), '>=', 2::bigint, 'a file a feature');
SELECT avcurate.drop_dataset('searched_too') \gset made_
SELECT avcurate.drop_feature('searched', 'v'), avcurate.add_feature('searched', 'v', 'ARRAY[frame_id, 1, 1]::real[]') \gset made_
CALL avcurate.backfill('searched');
SELECT is(frame_id, 7::bigint, 'a feature of the same name is another one') FROM avcurate.nearest_frames('searched', '{7,1,1}', 1);
SELECT is(pg_temp.files(), 1::bigint, 'and files of what is gone go with the next that is made');

SELECT avcurate.drop_dataset('searched') \gset made_
DROP FUNCTION search_picture;
DROP ROLE search_reader, search_columns;
-- ---- a dataset in a schema that one may not look into ----
CREATE ROLE outside;
CREATE SCHEMA walled;
SELECT avcurate.create_dataset('walled.frames') \gset ignored_
ALTER TABLE walled.frames ADD v real[];
GRANT SELECT ON walled.frames TO outside;
SELECT throws_ok(format($$SET LOCAL ROLE outside; SELECT avcurate.nearest_frames(%s, '{1,2}', 3, NULL, 'v')$$, 'walled.frames'::regclass::oid), '42501',
	'permission denied for schema walled', 'its number is no way round');
SELECT avcurate.drop_dataset('walled.frames') \gset ignored_
DROP SCHEMA walled;
DROP ROLE outside;

SELECT * FROM finish();
