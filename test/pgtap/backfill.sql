-- Backfills: what is read, how often rows are computed when some fail, what
-- is an error of a row and what ends the run.
\set ON_ERROR_STOP 1
SET client_min_messages = error;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE FUNCTION picture(padding int) RETURNS bytea LANGUAGE sql IMMUTABLE
	RETURN '\xffd8ffc000110800ff00ff03012200021101031101'::bytea || decode(repeat('7f', padding), 'hex');
CREATE SEQUENCE evaluations;
CREATE FUNCTION counted(anyelement) RETURNS anyelement LANGUAGE plpgsql
	AS 'BEGIN PERFORM nextval(''public.evaluations''); RETURN $1; END';
CREATE FUNCTION evaluated() RETURNS bigint LANGUAGE sql
	AS $$SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public.evaluations$$;
CREATE FUNCTION raising(code text, is_raised boolean) RETURNS int LANGUAGE plpgsql
	AS 'BEGIN IF is_raised THEN RAISE ''as asked for'' USING ERRCODE = code; END IF; RETURN 1; END';
SELECT avcurate.create_dataset('filled') AS dataset \gset
INSERT INTO filled (image_id, image_bytes, ann_categories, ann_bboxes)
	SELECT 'f' || n, picture(6000), array_fill('car'::text, ARRAY[20]),
		(SELECT array_agg(ARRAY[b, b, b + 1, b + n % 50]::real[]) FROM generate_series(1, 20) b)
	FROM generate_series(1, 2000) n;
SELECT plan(53);

-- ---- what is read ------------------------------------------------------------
SELECT pg_column_size(image_bytes) > 2000 AND pg_relation_size(reltoastrelid) > 2000 * 6000 AS is_toasted
	FROM filled, pg_class WHERE oid = 'filled'::regclass LIMIT 1 \gset
SELECT ok(:'is_toasted', 'images are out of line');
SELECT avcurate.add_feature('filled', 'cars', 'cardinality(ann_categories)') \gset made_
SELECT pg_stat_force_next_flush() \gset flush_
SELECT toast_blks_read + toast_blks_hit AS blocks FROM pg_statio_user_tables WHERE relname = 'filled' \gset before_
CALL avcurate.backfill('filled');
SELECT pg_stat_force_next_flush() \gset flush_
SELECT is(toast_blks_read + toast_blks_hit - :before_blocks, 0::bigint, 'a feature of the labels reads no image and no boxes')
	FROM pg_statio_user_tables WHERE relname = 'filled';
SELECT is((SELECT count(*) FROM filled WHERE cars = 20), 2000::bigint, 'it is computed');
SELECT avcurate.add_feature('filled', 'bytes', 'octet_length(image_bytes)') \gset made_
CALL avcurate.backfill('filled');
SELECT pg_stat_force_next_flush() \gset flush_
SELECT is(toast_blks_read + toast_blks_hit - :before_blocks, 0::bigint, 'neither does the length of the image')
	FROM pg_statio_user_tables WHERE relname = 'filled';
SELECT avcurate.add_feature('filled', 'last_byte', 'get_byte(image_bytes, 6000)') \gset made_
CALL avcurate.backfill('filled');
SELECT pg_stat_force_next_flush() \gset flush_
SELECT cmp_ok(toast_blks_read + toast_blks_hit - :before_blocks, '>=', 2000::bigint, 'one that reads it does')
	FROM pg_statio_user_tables WHERE relname = 'filled';

-- ---- adding a feature ----------------------------------------------------------
SELECT avcurate.create_dataset('many') AS dataset \gset
ALTER TABLE many DISABLE TRIGGER USER;
INSERT INTO many (image_id, image_bytes, image_sha256, width, height) SELECT n, '', '', 1, 1 FROM generate_series(1, 200000) n;
ALTER TABLE many ENABLE TRIGGER USER;
SELECT pg_relation_filenode('many') AS file \gset before_
SELECT pg_stat_force_next_flush() \gset flush_
BEGIN;
SELECT avcurate.add_feature('many', 'f', 'weather') \gset made_
SELECT cmp_ok(seq_tup_read + coalesce(idx_tup_fetch, 0) + n_tup_upd, '<', 100::bigint, 'add_feature reads no rows')
	FROM pg_stat_xact_user_tables WHERE relname = 'many';
COMMIT;
SELECT is(pg_relation_filenode('many'), :before_file::oid, 'and rewrites nothing');
SELECT is(pending, 200000::bigint, 'all rows are pending') FROM avcurate.feature_status WHERE dataset = 'many'::regclass;
SELECT pg_stat_force_next_flush() \gset flush_
BEGIN;
SELECT avcurate.alter_feature('many', 'f', 'scene') \gset made_
SELECT cmp_ok(seq_tup_read + coalesce(idx_tup_fetch, 0) + n_tup_upd, '<', 100::bigint, 'neither does alter_feature')
	FROM pg_stat_xact_user_tables WHERE relname = 'many';
COMMIT;
SELECT is(pg_relation_filenode('many'), :before_file::oid, 'which rewrites nothing either');
SELECT avcurate.drop_dataset('many') \gset dropped_

-- ---- generated columns -----------------------------------------------------------
-- They are computed after the row trigger, which goes by what they are made of.
SELECT avcurate.create_dataset('made_of') AS dataset \gset
ALTER TABLE made_of ADD COLUMN loud text GENERATED ALWAYS AS (upper(weather) || scene) STORED,
	ADD COLUMN pixels int GENERATED ALWAYS AS (width * height) STORED;
INSERT INTO made_of (image_id, image_bytes, weather, scene, timeofday) VALUES ('a', picture(0), 'rainy', '', 'day'), ('b', picture(0), 'clear', '', 'day');
SELECT avcurate.add_feature('made_of', 'cry', $$loud || '!'$$), avcurate.add_feature('made_of', 'cries', 'cry || cry'),
	avcurate.add_feature('made_of', 'area', 'pixels') \gset made_
CALL avcurate.backfill('made_of');
UPDATE made_of SET weather = 'snowy' WHERE image_id = 'a';
UPDATE made_of SET timeofday = 'night';
UPDATE made_of SET image_bytes = set_byte(image_bytes, 8, 10) WHERE image_id = 'b';
SELECT is(string_agg(feature || ' ' || done || ' ' || pending, ', ' ORDER BY feature), 'area 1 1, cries 1 1, cry 1 1', 'what reads a generated column is pending when its sources change')
	FROM avcurate.feature_status WHERE dataset = 'made_of'::regclass;
CALL avcurate.backfill('made_of');
SELECT is(string_agg(concat_ws(' ', image_id, cries, area), ', ' ORDER BY image_id), 'a SNOWY!SNOWY! 65025, b CLEAR!CLEAR! 2550', 'and computed from its new value') FROM made_of;
ALTER TABLE made_of ALTER loud DROP EXPRESSION;
UPDATE made_of SET loud = 'quiet' WHERE image_id = 'a';
SELECT is(pending, 1::bigint, 'so is what reads a column that was one') FROM avcurate.feature_status WHERE feature = 'cry';
SELECT throws_ok('ALTER TABLE made_of RENAME weather TO sky', '55000', 'cannot rename a column to "sky" because features read it', 'columns that features read keep their names');
SELECT lives_ok('ALTER TABLE made_of RENAME timeofday TO hours', 'others need not');
CALL avcurate.backfill('made_of');
SET session_replication_role = replica;
UPDATE made_of SET loud = 'louder' WHERE image_id = 'a';
RESET session_replication_role;
SELECT is(pending, 1::bigint, 'what replication changes is noticed') FROM avcurate.feature_status WHERE feature = 'cry';
SELECT ok(ok, 'doctor finds the triggers enabled') FROM avcurate.doctor() WHERE check_name = 'row triggers';
ALTER TABLE made_of DISABLE TRIGGER avc_reset_features;
SELECT results_eq($$SELECT ok, detail FROM avcurate.doctor() WHERE check_name = 'row triggers'$$,
	$$VALUES (false, 'disabled or not ENABLE ALWAYS on made_of: frames may go in unchecked, features miss changes')$$, 'or names the dataset');
ALTER TABLE made_of ENABLE ALWAYS TRIGGER avc_reset_features;
CREATE FUNCTION pg_temp.mine(int) RETURNS int LANGUAGE sql RETURN $1;
SELECT throws_ok($$SELECT avcurate.add_feature('made_of', 't', 'pg_temp.mine(width)')$$, '0A000',
	'expression of a feature cannot contain temporary function "mine"', 'a function of this session is not for others');

-- ---- long chains -------------------------------------------------------------------
SELECT clock_timestamp() AS time \gset before_
SELECT avcurate.add_feature('made_of', 'f0', 'width'), avcurate.add_feature('made_of', 'f1', 'height') \gset made_
SELECT count(avcurate.add_feature('made_of', ('f' || n)::name, format('(f%s + f%s) %% 1000', n - 1, n - 2))) FROM generate_series(2, 60) n \gset made_
SELECT cmp_ok(clock_timestamp() - :'before_time', '<', interval '60 s', 'features that read the two before them: as long as the chain');
CALL avcurate.backfill('made_of');
UPDATE made_of SET image_bytes = set_byte(image_bytes, 7, 1) WHERE image_id = 'a';
SELECT cmp_ok(tgnargs::int, '<=', 2 * 70, 'and as many arguments of its trigger') FROM pg_trigger WHERE tgrelid = 'made_of'::regclass AND tgname = 'avc_reset_features';
SELECT is(count(*), 60::bigint, 'one change reaches all of them') FROM avcurate.feature_status WHERE dataset = 'made_of'::regclass AND feature ~ 'f\d' AND pending = 1;
CALL avcurate.backfill('made_of', 'f60');
SELECT is(pending, 1::bigint, 'what reads pending features waits') FROM avcurate.feature_status WHERE feature = 'f60';
CALL avcurate.backfill('made_of');
SELECT is_empty($$SELECT feature FROM avcurate.feature_status WHERE dataset = 'made_of'::regclass AND done <> 2$$, 'and is computed after them');
SELECT avcurate.drop_dataset('made_of') \gset dropped_

-- ---- rows that fail ---------------------------------------------------------------
SELECT avcurate.add_feature('filled', 'each', 'counted(1)') \gset made_
CALL avcurate.backfill('filled', 'each');
SELECT is(evaluated(), 2000::bigint, 'each row is computed once');
SELECT setval('evaluations', 1, false) \gset made_
SELECT avcurate.alter_feature('filled', 'each', 'counted(1) / (frame_id % 100)::int') \gset made_
CALL avcurate.backfill('filled', 'each');
SELECT is(failed || ' ' || done, '20 1980', 'one row in a hundred fails') FROM avcurate.feature_status WHERE feature = 'each';
SELECT cmp_ok(evaluated(), '<', 2900::bigint, 'and costs few others a second computation');
SELECT setval('evaluations', 1, false) \gset made_
SELECT avcurate.alter_feature('filled', 'each', 'counted(1) / (frame_id - frame_id)::int') \gset made_
CALL avcurate.backfill('filled', 'each');
SELECT is(failed || ' ' || done, '2000 0', 'all rows fail') FROM avcurate.feature_status WHERE feature = 'each';
SELECT cmp_ok(evaluated(), '<', 2500::bigint, 'and are not computed over and over');
SELECT is(count(*), 2000::bigint, 'an error a row') FROM avcurate.feature_errors WHERE feature = 'each';
SELECT is(avcurate.retry_feature('filled', 'each'), 2000::bigint, 'retried');
CALL avcurate.backfill('filled', 'each');
SELECT is(min(attempts) || ' ' || max(attempts), '2 2', 'attempts are counted') FROM avcurate.feature_errors WHERE feature = 'each';

-- ---- errors stay as long as rows are failed -------------------------------------------
SELECT avcurate.create_dataset('wrong') AS dataset \gset
INSERT INTO wrong (image_id, image_bytes, weather, scene) SELECT n, picture(0), CASE n WHEN 1 THEN 'foggy' ELSE 'rainy' END, n FROM generate_series(1, 6) n;
SELECT avcurate.add_feature('wrong', 'd', '1 / (length(weather) - 5)'), avcurate.add_feature('wrong', 's', 'scene'),
	avcurate.add_feature('wrong', 'n', 'weather::int') \gset made_
CALL avcurate.backfill('wrong');
UPDATE wrong SET scene = 'other' WHERE image_id = '2';
CALL avcurate.backfill('wrong');
SELECT avcurate.add_feature('wrong', 'later', 'timeofday'), avcurate.add_feature('wrong', 'reader', 's || later') \gset made_
CALL avcurate.backfill('wrong');
SELECT is(string_agg(feature || ' ' || failed, ', ' ORDER BY feature), 'd 6, later 0, n 6, reader 0, s 0', 'rows that have failed')
	FROM avcurate.feature_status WHERE dataset = 'wrong'::regclass;
SELECT is(string_agg(feature || ' ' || errors, ', ' ORDER BY feature), 'd 6, n 6', 'have errors, whatever else was computed in them')
	FROM (SELECT feature, count(*) AS errors FROM avcurate.feature_errors WHERE dataset = 'wrong'::regclass GROUP BY 1) e;
UPDATE wrong SET weather = '12' WHERE image_id = '3';
SELECT is(count(*), 12::bigint, 'until they are computed') FROM avcurate.feature_errors WHERE dataset = 'wrong'::regclass;
CALL avcurate.backfill('wrong');
SELECT is(string_agg(feature || ' ' || errors, ', ' ORDER BY feature), 'd 5, n 5', 'again')
	FROM (SELECT feature, count(*) AS errors FROM avcurate.feature_errors WHERE dataset = 'wrong'::regclass GROUP BY 1) e;
-- ---- and are not for everybody ----------------------------------------------------------
CREATE ROLE tap_reader;
GRANT SELECT ON wrong TO tap_reader;
SET ROLE tap_reader;
SELECT is(count(*), 10::bigint, 'who may read a dataset sees its errors') FROM avcurate.feature_errors WHERE dataset = 'wrong'::regclass;
RESET ROLE;
ALTER TABLE wrong ENABLE ROW LEVEL SECURITY;
CREATE POLICY one ON wrong USING (image_id = '1');
SET ROLE tap_reader;
SELECT is((SELECT count(*) FROM wrong) || ' ' || count(*), '1 0', 'but not of one whose rows are hidden') FROM avcurate.feature_errors WHERE dataset = 'wrong'::regclass;
RESET ROLE;
-- ---- what reads a failed feature ---------------------------------------------------------
ALTER TABLE wrong DISABLE ROW LEVEL SECURITY;
SELECT avcurate.alter_feature('wrong', 'd', '1'), avcurate.add_feature('wrong', 'd2', 'd * 2'), avcurate.add_feature('wrong', 'd3', 'd2 + 1') \gset made_
CALL avcurate.backfill('wrong');
SELECT avcurate.alter_feature('wrong', 'd', '1 / (length(weather) - 5)') \gset made_
CALL avcurate.backfill('wrong', 'd');
SELECT is(string_agg(concat_ws(' ', image_id, d, d2, d3), ', ' ORDER BY image_id), '1, 2, 3 0 2 3, 4, 5, 6', 'is NULL, as the failed one is: nothing is left of before')
	FROM wrong;
DELETE FROM wrong WHERE image_id = '6';
CALL avcurate.backfill('wrong');
SELECT is(count(*), 8::bigint, 'errors of deleted frames go') FROM avcurate.feature_errors WHERE dataset = 'wrong'::regclass;
SELECT avcurate.drop_dataset('wrong') \gset dropped_
DROP ROLE tap_reader;

-- ---- whose error it is ---------------------------------------------------------------
SELECT avcurate.alter_feature('filled', 'each', 'raising(''42883'', frame_id % 500 = 7)') \gset made_
CALL avcurate.backfill('filled', 'each');
SELECT is(failed || ' ' || done, '4 1996', 'a function that is missing for some rows is their error') FROM avcurate.feature_status WHERE feature = 'each';
SELECT avcurate.alter_feature('filled', 'each', 'raising(''53200'', frame_id % 500 = 7)') \gset made_
CALL avcurate.backfill('filled', 'each');
SELECT is(failed || ' ' || done, '4 1996', 'so is a lack of memory') FROM avcurate.feature_status WHERE feature = 'each';
SELECT avcurate.alter_feature('filled', 'each', 'raising(''42501'', counted(true))') \gset made_
SELECT is((SELECT count(*) FROM avcurate.feature_errors), 0::bigint, 'alter_feature forgets the errors');
SELECT avcurate.add_feature('filled', 'also', 'frame_id + 1'), avcurate.add_feature('filled', 'after', 'each + also') \gset made_
SELECT setval('evaluations', 1, false) \gset made_
CALL avcurate.backfill('filled');
SELECT is(string_agg(concat_ws(' ', feature, done, pending, failed), ', ' ORDER BY feature), 'after 0 2000 0, also 2000 0 0, each 0 0 2000',
	'what hits every row is an error of each, and holds up nothing but what reads it') FROM avcurate.feature_status WHERE feature IN ('each', 'also', 'after');
SELECT cmp_ok(evaluated(), '<', 2500::bigint, 'without computing rows over and over');
SELECT is(min(sqlstate) || ' ' || count(*), '42501 2000', 'a right that is missing, for example') FROM avcurate.feature_errors WHERE feature = 'each';
-- what cannot even be planned
SELECT avcurate.alter_feature('filled', 'each', '(1 / 0) + 0 * frame_id::int'), avcurate.alter_feature('filled', 'also', 'frame_id + 2') \gset made_
CALL avcurate.backfill('filled');
SELECT is(string_agg(concat_ws(' ', feature, done, pending, failed), ', ' ORDER BY feature), 'after 0 2000 0, also 2000 0 0, each 0 0 2000',
	'a constant that cannot be computed fails in each row as well') FROM avcurate.feature_status WHERE feature IN ('each', 'also', 'after');
SELECT is(min(sqlstate) || ' ' || max(message) || ' ' || count(*), '22012 division by zero 2000', 'with its error') FROM avcurate.feature_errors WHERE feature = 'each';
SELECT avcurate.alter_feature('filled', 'each', 'frame_id::int') \gset made_
CALL avcurate.backfill('filled');
SELECT is_empty($$SELECT feature FROM avcurate.feature_status WHERE feature IN ('each', 'also', 'after') AND done <> 2000$$, 'once mended, all is computed');
SELECT avcurate.drop_feature('filled', 'after') \gset made_
-- failed rows have NULL; who forbids that is told
ALTER TABLE filled ALTER each SET NOT NULL;
SELECT avcurate.alter_feature('filled', 'each', '1 / (frame_id - 7)::int') \gset made_
\set ON_ERROR_STOP 0
CALL avcurate.backfill('filled', 'each');
\set ON_ERROR_STOP 1
SELECT is(:'LAST_ERROR_MESSAGE'::text, 'null value in column "each" of relation "filled" violates not-null constraint', 'a column that must not be NULL cannot have failed rows');
ALTER TABLE filled ALTER each DROP NOT NULL;
CALL avcurate.backfill('filled', 'each');
SELECT is(failed || ' ' || done, '1 1999', 'any other can') FROM avcurate.feature_status WHERE feature = 'each';
SELECT avcurate.alter_feature('filled', 'each', 'raising(''58030'', frame_id % 500 = 300)') \gset made_
\set ON_ERROR_STOP 0
CALL avcurate.backfill('filled', 'each', 100);
\set ON_ERROR_STOP 1
SELECT is(:'LAST_ERROR_MESSAGE'::text, 'could not go on with the backfill: as asked for', 'a failure of the machine ends the run');
SELECT ok(done > 0 AND done % 100 = 0 AND failed = 0, 'after whole batches') FROM avcurate.feature_status WHERE feature = 'each';
SELECT * FROM finish();
SELECT avcurate.drop_dataset('filled') \gset dropped_
DROP FUNCTION picture, counted, evaluated, raising;
DROP SEQUENCE evaluations;
