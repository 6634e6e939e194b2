-- alter_slice: what stays, what changes, what old versions read, what is
-- refused.
\set ON_ERROR_STOP 1
SET client_min_messages = warning;
SET check_function_bodies = off;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE ROLE alter_owner;
CREATE ROLE alter_member IN ROLE alter_owner;
GRANT CREATE ON SCHEMA public TO alter_owner;
CREATE ROLE alter_reader;
CREATE ROLE alter_other;
CREATE SCHEMA alter_work AUTHORIZATION alter_owner;
GRANT USAGE ON SCHEMA alter_work TO alter_reader, alter_other;
SET search_path = alter_work, public;

CREATE FUNCTION alter_work.jpeg(seed text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
	SELECT '\xffd8fffe'::bytea
		|| decode(lpad(to_hex(octet_length(seed) + 2), 4, '0'), 'hex')
		|| convert_to(seed, 'UTF8')
		|| '\xffc000110801e0028003012200021101031101ffda000c03010002110311003f0000ffd9'::bytea
$$;

-- A saved copy of a version: each row as jsonb, so that columns have names.
CREATE TABLE alter_work.saved (version bigint, frame_id bigint, content jsonb);
CREATE FUNCTION alter_work.save() RETURNS bigint LANGUAGE sql AS $$
	INSERT INTO saved SELECT s.version, x.frame_id, to_jsonb(x) FROM night x, avcurate.slices s
	WHERE s.slice = 'night'::regclass AND NOT EXISTS (SELECT FROM saved c WHERE c.version = s.version);
	SELECT version FROM avcurate.slices WHERE slice = 'night'::regclass
$$;
-- What is wrong with the versions that are left: a column that a version had
-- reads as it was, one that it had not is null.
CREATE FUNCTION alter_work.wrong() RETURNS TABLE (version bigint, what text) LANGUAGE plpgsql AS $$
BEGIN
	FOR version IN SELECT v.version FROM avcurate.slice_versions v WHERE v.slice = 'night'::regclass ORDER BY 1 LOOP
		SELECT detail INTO what FROM avcurate.verify_slice('night', version) WHERE NOT verified;
		IF FOUND THEN RETURN NEXT; END IF;
		FOR what IN EXECUTE format('SELECT concat_ws('' '', r.frame_id, s.frame_id, k.key) '
			'FROM avcurate.slice_at(NULL::night, %1$s) r FULL JOIN (SELECT * FROM saved WHERE version = %1$s) s USING (frame_id) '
			'CROSS JOIN LATERAL jsonb_each(to_jsonb(r)) k '
			'WHERE r.frame_id IS NULL OR s.frame_id IS NULL '
			'OR k.value IS DISTINCT FROM coalesce(s.content -> k.key, ''null'') LIMIT 3', version) LOOP
			RETURN NEXT;
		END LOOP;
		IF (SELECT count(*) FROM saved s WHERE s.version = wrong.version) <>
			(SELECT rows FROM avcurate.slice_versions v WHERE v.slice = 'night'::regclass AND v.version = wrong.version) THEN
			what := 'rows'; RETURN NEXT;
		END IF;
	END LOOP;
END $$;
-- Pairs of versions between which slice_diff and slice_at disagree.
CREATE FUNCTION alter_work.wrong_diffs() RETURNS TABLE (a bigint, b bigint, n bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR a, b IN SELECT x.version, y.version FROM avcurate.slice_versions x JOIN avcurate.slice_versions y USING (slice)
		WHERE x.slice = 'night'::regclass LOOP
		EXECUTE format('SELECT count(*) FROM ('
			'(SELECT frame_id, before, after FROM avcurate.slice_diff(NULL::night, %1$s, %2$s)) d FULL JOIN '
			'(SELECT frame_id, o AS before, c AS after FROM avcurate.slice_at(NULL::night, %1$s) o '
			'FULL JOIN avcurate.slice_at(NULL::night, %2$s) c USING (frame_id) '
			'WHERE o IS NULL OR c IS NULL OR o::text <> c::text) e USING (frame_id)) '
			'WHERE d.before::text IS DISTINCT FROM e.before::text OR d.after::text IS DISTINCT FROM e.after::text', a, b) INTO n;
		IF n > 0 THEN RETURN NEXT; END IF;
	END LOOP;
END $$;
-- Everything that users give a view, as text.
CREATE FUNCTION alter_work.surroundings(view regclass) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT concat_ws(' | ', 'view', relowner::regrole, relacl::text, reloptions, relreplident, reltablespace, relam,
		obj_description(c.oid, 'pg_class'), obj_description(c.reltype, 'pg_type'),
		(SELECT t.reloptions::text FROM pg_class t WHERE t.oid = c.reltoastrelid))
		FROM pg_class c WHERE oid = view
	UNION ALL
	SELECT concat_ws(' | ', 'column', attname, format_type(atttypid, atttypmod), attacl::text, attstattarget, attstorage,
		attcompression, col_description(attrelid, attnum),
		(SELECT string_agg(o, ',') FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver%'))
		FROM pg_attribute WHERE attrelid = view AND attnum > 0 AND NOT attisdropped
	UNION ALL
	SELECT concat_ws(' | ', 'index', pg_get_indexdef(i.indexrelid), c.reltablespace, i.indisclustered, i.indisvalid, i.indisreplident,
		obj_description(i.indexrelid, 'pg_class'),
		(SELECT string_agg(a.attstattarget::text, ',' ORDER BY attnum) FROM pg_attribute a WHERE a.attrelid = i.indexrelid),
		(SELECT count(*) FROM pg_depend d WHERE d.objid = i.indexrelid AND d.deptype = 'x'))
		FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE indrelid = view
	UNION ALL
	SELECT concat_ws(' | ', 'statistics', pg_get_statisticsobjdef(oid), stxowner::regrole, stxstattarget, obj_description(oid, 'pg_statistic_ext'))
		FROM pg_statistic_ext WHERE stxrelid = view
	UNION ALL
	SELECT concat_ws(' | ', 'label', provider, label, (SELECT attname FROM pg_attribute a WHERE attrelid = view AND attnum = objsubid))
		FROM pg_seclabel WHERE objoid = view
	UNION ALL
	SELECT concat_ws(' | ', 'depends', refclassid::regclass, refobjid, refobjsubid, deptype) FROM pg_depend
		WHERE objid = view AND classid = 'pg_class'::regclass AND deptype <> 'i'
	UNION ALL
	SELECT concat_ws(' | ', 'roles', refobjid::regrole, deptype, (SELECT attname FROM pg_attribute a WHERE attrelid = view AND attnum = objsubid))
		FROM pg_shdepend WHERE objid = view AND classid = 'pg_class'::regclass
		AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
$$;
GRANT ALL ON ALL TABLES IN SCHEMA alter_work TO alter_owner;

SELECT no_plan();
SET ROLE alter_owner;
SELECT avcurate.create_dataset('frames') \gset made_
INSERT INTO frames (image_id, split, image_bytes, weather, scene, timeofday, frame_time, ann_categories, ann_bboxes, ann_occluded, ann_truncated)
	SELECT 'f' || i, 'train', jpeg('f' || i), (array['clear', 'rainy', NULL])[1 + i % 3], (array['street', 'tunnel'])[1 + i % 2],
		(array['day', 'night'])[1 + i % 2], timestamptz '2024-03-31 00:30:00+00' + i * interval '1 minute',
		array['car'], array[[1, 2, 30, 40]]::real[], array[true], array[false]
	FROM generate_series(1, 60) i;
SELECT avcurate.create_slice('night', 'frames', $$timeofday = 'night'$$, '{weather,scene,timeofday}') \gset made_
SELECT save() \gset saved_
SELECT avcurate.tag_slice('night', 1, 'first') \gset tagged_

-- ---- a new filter in place ----
SELECT 'night'::regclass::oid AS relid, 'night_frame_id_idx'::regclass::oid AS index \gset old_
CREATE VIEW reader AS SELECT weather, count(*) FROM night GROUP BY weather;
GRANT SELECT ON night TO alter_reader;
CREATE TEMP TABLE before AS SELECT * FROM surroundings('night') s;
SELECT is(avcurate.alter_slice('night', $$timeofday = 'day' -- by light$$), 2::bigint, 'a new filter is a version');
SELECT save() \gset saved_
SELECT is('night'::regclass::oid, :old_relid::oid, 'the view is the same');
SELECT is('night_frame_id_idx'::regclass::oid, :old_index::oid, 'its index too');
SELECT set_eq($$SELECT * FROM before$$, $$SELECT * FROM surroundings('night')$$, 'and all that users gave it');
SELECT set_eq('SELECT frame_id FROM night', $$SELECT frame_id FROM frames WHERE timeofday = 'day'$$, 'it holds what the filter says');
SELECT is(sum(count), 30::numeric, 'views of it go on') FROM reader;
SELECT is(filter, $$timeofday = 'day' -- by light$$, 'the registry has the filter') FROM avcurate.slices WHERE slice = 'night'::regclass;
SELECT results_eq($$SELECT v.version, v.definition LIKE '%''day''%', v.added, v.removed, v.changed FROM avcurate.slice_versions v
	WHERE slice = 'night'::regclass ORDER BY 1$$, $$VALUES (1::bigint, false, 30::bigint, 0::bigint, 0::bigint), (2, true, 30, 30, 0)$$,
	'each version has its own definition');
SELECT is(avcurate.refresh_slice('night'), 2::bigint, 'a refresh after it changes nothing');
REFRESH MATERIALIZED VIEW night;
SELECT is(save(), 2::bigint, 'nor does REFRESH');
SELECT is(avcurate.alter_slice('night', $$timeofday = 'day'$$), 3::bigint, 'a version even if no row changed');
SELECT save() \gset saved_
SELECT results_eq($$SELECT added + removed + changed, rows, digest = (SELECT digest FROM avcurate.slice_versions v WHERE v.slice = 'night'::regclass AND version = 2)
	FROM avcurate.slice_versions WHERE slice = 'night'::regclass AND version = 3$$, $$VALUES (0::bigint, 30::bigint, true)$$, 'with the same rows');
-- the privileges that a refresh asks for are those of the new filter
RESET ROLE;
SELECT set_eq($$SELECT a.attname::text FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
	JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
	WHERE r.ev_class = 'night'::regclass AND d.refobjid = 'frames'::regclass AND a.attname IN ('timeofday', 'split', 'weather')$$,
	$$VALUES ('timeofday'), ('weather')$$, 'the rule depends on what it reads');
SET ROLE alter_owner;
SELECT avcurate.alter_slice('night', $$split = 'train' AND frame_id <= 40$$) AS version, save() \gset altered_
SELECT throws_ok('ALTER TABLE frames DROP COLUMN split', '2BP01', NULL, 'a column of the new filter is depended on');
BEGIN;
SELECT avcurate.alter_slice('night', $$timeofday = 'day'$$) \gset altered_
SELECT lives_ok('ALTER TABLE frames DROP COLUMN split', 'one of the old filter no longer');
ROLLBACK;
SELECT is(save(), 4::bigint, 'an alter that was rolled back leaves nothing');
SELECT is(filter, $$split = 'train' AND frame_id <= 40$$, 'not in the registry either') FROM avcurate.slices WHERE slice = 'night'::regclass;
-- without rows
REFRESH MATERIALIZED VIEW night WITH NO DATA;
SELECT is(avcurate.alter_slice('night', $$frame_id <= 30$$), 5::bigint, 'a view without rows is filled');
SELECT save() \gset saved_
SELECT is(count(*), 30::bigint, 'with what the new filter says') FROM night;
SELECT is_empty('SELECT * FROM wrong()', 'all versions read as they were');

-- ---- other columns ----
DROP VIEW reader;
RESET ROLE;
SET allow_system_table_mods = on;
INSERT INTO pg_seclabel SELECT a.attrelid, 'pg_class'::regclass, 0, 'nobody', 'secret' FROM pg_attribute a WHERE attrelid = 'night'::regclass AND attname = 'weather';
INSERT INTO pg_seclabel SELECT a.attrelid, 'pg_class'::regclass, attnum, 'nobody', 'wet' FROM pg_attribute a WHERE attrelid = 'night'::regclass AND attname = 'weather';
RESET allow_system_table_mods;
SET ROLE alter_owner;
REVOKE ALL ON night FROM alter_reader;
GRANT SELECT, DELETE ON night TO alter_reader WITH GRANT OPTION;
SET ROLE alter_reader;
GRANT SELECT ON night TO alter_other;
SET ROLE alter_owner;
GRANT SELECT (weather, scene), REFERENCES (width) ON night TO alter_other;
ALTER DEFAULT PRIVILEGES IN SCHEMA alter_work GRANT INSERT ON TABLES TO alter_other;
COMMENT ON MATERIALIZED VIEW night IS 'by night';
COMMENT ON TYPE night IS 'a row of it';
COMMENT ON COLUMN night.weather IS 'as labelled';
COMMENT ON COLUMN night.ann_area IS 'pixels';
ALTER MATERIALIZED VIEW night SET (fillfactor = 71, toast.autovacuum_enabled = false, autovacuum_vacuum_scale_factor = 0.3);
ALTER MATERIALIZED VIEW night ALTER weather SET STATISTICS 77, ALTER weather SET (n_distinct = -0.25), ALTER ann_area SET STORAGE EXTERNAL,
	ALTER image_sha256 SET COMPRESSION pglz, REPLICA IDENTITY FULL;
ALTER INDEX night_frame_id_idx RENAME TO "the Key";
CREATE INDEX night_weather ON night (weather DESC NULLS LAST, width) INCLUDE (height) WITH (fillfactor = 60) WHERE weather <> 'x';
CREATE INDEX night_lower ON night (lower(weather) text_pattern_ops, (width + height));
ALTER INDEX night_lower ALTER COLUMN 2 SET STATISTICS 55;
CREATE UNIQUE INDEX night_two ON night USING btree (frame_id, scene);
CREATE INDEX night_hash ON night USING hash (image_sha256);
CREATE INDEX night_whole ON night ((night IS NULL));
COMMENT ON INDEX night_weather IS 'for rain';
COMMENT ON INDEX "the Key" IS 'the key';
CREATE STATISTICS night_weather_width (ndistinct, mcv) ON weather, width FROM night;
ALTER STATISTICS night_weather_width SET STATISTICS 33;
COMMENT ON STATISTICS night_weather_width IS 'both';
CREATE STATISTICS night_scene (dependencies) ON scene, width FROM night;
CLUSTER night USING night_lower;
RESET ROLE;
ALTER STATISTICS night_weather_width OWNER TO alter_member;
ALTER INDEX night_lower DEPENDS ON EXTENSION pgtap;
ALTER MATERIALIZED VIEW night DEPENDS ON EXTENSION pgtap;
SET ROLE alter_owner;
TRUNCATE before;
INSERT INTO before SELECT * FROM surroundings('night');
SELECT is(save(), 5::bigint, 'none of this is a version');
SELECT cmp_ok(count(*), '>', 24::bigint, 'there is much to keep') FROM before;

-- a member of the owning role; column scene and what uses it go
SET ROLE alter_member;
SET client_min_messages = error;
SELECT is(avcurate.alter_slice('night', columns => '{weather,frame_time}'), 6::bigint, 'other columns are a version');
SET client_min_messages = warning;
RESET ROLE;
SELECT save() \gset saved_
SELECT isnt('night'::regclass::oid, :old_relid::oid, 'the view is another');
SELECT bag_eq($$SELECT * FROM surroundings('night') s(s)
	WHERE s NOT LIKE 'column | frame_time | %' $$, $$SELECT * FROM before b(b)
	WHERE b NOT LIKE 'column | scene | %' AND b NOT LIKE 'column | timeofday | %'
	AND b NOT LIKE 'index | %night_two%' AND b NOT LIKE 'statistics | %night_scene%' AND b NOT LIKE 'roles | alter_other | % | scene' $$,
	'grants, comments, labels, indexes, statistics and options are as before');
SELECT ok(has_table_privilege('alter_reader', 'night', 'DELETE WITH GRANT OPTION') AND has_table_privilege('alter_other', 'night', 'SELECT')
	AND NOT has_table_privilege('alter_other', 'night', 'INSERT'), 'rights are those that were granted, not the default ones');
SELECT is(count(*), 5::bigint, 'no index is invalid, none is left over') FROM pg_index WHERE indrelid = 'night'::regclass AND indisvalid AND indisready;
SELECT is_empty($$SELECT relname FROM pg_class WHERE relnamespace = 'alter_work'::regnamespace AND relname LIKE '%\_old%' $$, 'nothing of the old view is left');
SELECT results_eq($$SELECT s.slice_name, s.complete, s.columns, s.slice, s.filter FROM _avcurate.slices s WHERE s.slice = 'night'::regclass$$,
	$$VALUES ('alter_work.night', true, '{frame_id,frame_time,width,height,image_sha256,weather,ann_categories,ann_bboxes,ann_occluded,ann_truncated,ann_ignored,ann_area}'::name[],
	'night'::regclass, 'frame_id <= 30')$$, 'the registry is true');
SELECT is(tags, '{first}', 'a tag stays') FROM avcurate.slice_versions WHERE slice = 'night'::regclass AND version = 1;
SELECT is_empty('SELECT * FROM wrong()', 'all versions read as they were, added columns as null');
SELECT is_empty('SELECT * FROM wrong_diffs()', 'slice_diff agrees');
SELECT is(avcurate.refresh_slice('night'), 6::bigint, 'a refresh changes nothing');

-- both at once, no column but those that are needed
SELECT is(avcurate.alter_slice('night', 'frame_id > 10', '{}'), 7::bigint, 'filter and columns are one version');
SELECT save() \gset saved_
SELECT bag_eq('SELECT frame_id FROM night', 'SELECT frame_id FROM frames WHERE frame_id > 10', 'of the new filter');
SELECT hasnt_column('alter_work', 'night', 'weather', 'and of the new columns');
-- a column comes back: rows that have a null now had a value long ago
UPDATE frames SET weather = NULL WHERE frame_id % 4 = 0;
SELECT is(avcurate.alter_slice('night', columns => '{weather,split}'), 8::bigint, 'a column comes back');
SELECT save() \gset saved_
SELECT is_empty('SELECT * FROM wrong()', 'old values stay in the versions that had them');
SELECT is_empty('SELECT * FROM wrong_diffs()', 'and only there');
-- the same columns again: in place
SELECT 'night'::regclass::oid AS relid \gset old_
CREATE VIEW reader AS SELECT weather FROM night;
SELECT is(avcurate.alter_slice('night', columns => '{split,weather,frame_id}'), 9::bigint, 'the same columns in any order are a version');
SELECT is('night'::regclass::oid, :old_relid::oid, 'and no new view');
SELECT save() \gset saved_
CREATE FUNCTION takes_row(night[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
PREPARE columns_of_read AS SELECT avcurate.alter_slice('night', columns => '{weather}');
SELECT throws_ok('columns_of_read', '2BP01', 'cannot change the columns of slice alter_work.night because other objects depend on it', 'not while others read it');
DROP VIEW reader;
SELECT throws_ok('columns_of_read', '2BP01', NULL, 'nor while a function takes its rows');
DROP FUNCTION takes_row;

-- ---- a column that comes back with another type ----
SELECT is(avcurate.alter_slice('night', columns => '{split,timeofday}'), 10::bigint, 'without weather');
SELECT save() \gset saved_
ALTER TABLE frames ALTER weather TYPE int USING length(weather);
SELECT is(avcurate.alter_slice('night', columns => '{weather}'), 11::bigint, 'with weather as a number');
SELECT save() \gset saved_
UPDATE saved SET content = content - 'weather' WHERE version < 10;
SELECT is_empty('SELECT * FROM wrong()', 'old versions have no such number, and verify');
SELECT is_empty('SELECT * FROM wrong_diffs()', 'slice_diff agrees');
UPDATE frames SET weather = 3 WHERE frame_id < 20;
SELECT avcurate.refresh_slice('night') \gset refreshed_
SELECT is(save(), 12::bigint, 'refreshes go on');
SELECT avcurate.alter_slice('night', columns => '{}') \gset altered_
SELECT save() \gset saved_
ALTER TABLE frames ALTER weather TYPE text;
SELECT is(avcurate.alter_slice('night', columns => '{weather}'), 14::bigint, 'and as text again');
SELECT save() \gset saved_
UPDATE saved SET content = content - 'weather' WHERE version < 13;
SELECT is_empty('SELECT * FROM wrong()', 'three columns of one name are kept apart');

-- ---- renames ----
ALTER VIEW night RENAME COLUMN weather TO scene;
UPDATE saved SET content = content - 'scene' - 'weather' || CASE WHEN content ? 'weather' AND version >= 14 THEN jsonb_build_object('scene', content -> 'weather') ELSE '{}' END;
SELECT is_empty('SELECT * FROM wrong()', 'a column takes the name of one that versions had');
ALTER TABLE frames RENAME COLUMN frame_time TO at;
SELECT avcurate.alter_slice('night', 'at IS NOT NULL', '{at}') \gset altered_
SELECT save() \gset saved_
ALTER TABLE frames RENAME COLUMN at TO taken;
SELECT is(filter, '(taken IS NOT NULL)', 'the filter in the registry follows a renamed column') FROM avcurate.slices WHERE slice = 'night'::regclass;
ALTER TABLE frames RENAME TO drives;
ALTER SCHEMA alter_work RENAME TO alter_moved;
SET search_path = alter_moved, public;
SELECT is(slice_name, 'alter_moved.night', 'the registry follows a renamed schema') FROM _avcurate.slices WHERE slice = 'night'::regclass;
SELECT is(avcurate.alter_slice('night', columns => '{split,taken}'), 16::bigint, 'after all that columns can change');
SELECT save() \gset saved_
ALTER SCHEMA alter_moved RENAME TO alter_work;
SET search_path = alter_work, public;
ALTER TABLE drives RENAME TO frames;
ALTER TABLE frames RENAME COLUMN taken TO at;
SELECT is(filter, 'at IS NOT NULL', 'a filter that is right again is shown as typed') FROM avcurate.slices WHERE slice = 'night'::regclass;
UPDATE saved SET content = content - 'at' WHERE version < 15;
SELECT is_empty('SELECT * FROM wrong()', 'and every version is whole');
ALTER TYPE night RENAME ATTRIBUTE width TO wide;
SELECT throws_like($$SELECT count(*) FROM avcurate.batches('night', 4)$$, '%lacks what a training needs%', 'a slice without a needed column is refused by batches');
SELECT is(avcurate.alter_slice('night', columns => '{split}'), 17::bigint, 'columns name those of the dataset');
UPDATE saved SET content = content - 'width' || jsonb_build_object('wide', content -> 'width');
INSERT INTO saved SELECT 17, frame_id, to_jsonb(x) FROM night x;
UPDATE saved SET content = content - 'wide' WHERE version < 17;
SELECT is_empty('SELECT * FROM wrong()', 'so the needed one is back');
SELECT lives_ok($$SELECT * FROM avcurate.batches('night', 4)$$, 'and batches go on');
SELECT throws_like($$SELECT * FROM avcurate.batches('night', 4, version => 16)$$, '%lacks column "width"%', 'but not of a version without it');

SELECT throws_ok('ALTER TABLE night RENAME image_sha256 TO hash', '55000', NULL, 'the column that images are found by keeps its name');

-- ---- prune ----
SELECT version FROM avcurate.prune_slice('night', 2) WHERE pruned ORDER BY version LIMIT 1 \gset pruned_
SELECT results_eq($$SELECT version FROM avcurate.slice_versions WHERE slice = 'night'::regclass ORDER BY 1$$, $$VALUES (1::bigint), (16), (17)$$, 'pruned to a tag and two');
SELECT is_empty('SELECT * FROM wrong()', 'what is left is whole');

-- ---- what is refused ----
SELECT throws_ok($$SELECT avcurate.alter_slice('night')$$, '22004', 'nothing to alter: filter and columns are NULL', 'nothing to alter');
SELECT is(avcurate.alter_slice(NULL, 'true'), NULL, 'no slice, no version');
SELECT throws_ok($$SELECT avcurate.alter_slice('frames', 'true')$$, '42809', NULL, 'a table');
SELECT throws_ok($$SELECT avcurate.alter_slice('night', 'true); DROP TABLE frames; --')$$, '42601', NULL, 'a filter that breaks out');
SELECT throws_ok($$SELECT avcurate.alter_slice('night', 'true UNION SELECT 1')$$, '42601', NULL, 'a filter that goes on');
SELECT throws_ok($$SELECT avcurate.alter_slice('night', 'count(*) > 1')$$, '42803', NULL, 'an aggregate');
SELECT throws_ok($$SELECT avcurate.alter_slice('night', 'split')$$, '42804', NULL, 'no condition');
SELECT throws_ok($$SELECT avcurate.alter_slice('night', '$1')$$, '42P02', NULL, 'a parameter');
SELECT throws_ok($$SELECT avcurate.alter_slice('night', 'nothing = 1')$$, '42703', NULL, 'no such column');
SELECT throws_ok($$SELECT avcurate.alter_slice('night', '1 / (frame_id - frame_id) = 1')$$, '22012', NULL, 'an error of the filter');
SELECT throws_ok($$SELECT avcurate.alter_slice('night', columns => '{nothing}')$$, '42703', NULL, 'no such column to show');
SELECT throws_ok($$SELECT avcurate.alter_slice('night', columns => '{image_bytes}')$$, '22023', NULL, 'no images');
ALTER TABLE frames ADD COLUMN to_version bigint;
SELECT throws_ok($$SELECT avcurate.alter_slice('night', columns => '{to_version}')$$, '42939', NULL, 'a name that the history needs');
ALTER TABLE frames DROP COLUMN to_version;
SET ROLE alter_owner;
CREATE TEMP TABLE mine (id bigint);
SELECT throws_ok($$SELECT avcurate.alter_slice('night', 'frame_id IN (SELECT id FROM mine)')$$, '0A000', NULL, 'a temporary table');
RESET ROLE;
SELECT throws_ok($$SELECT avcurate.alter_slice('night', 'true') FROM night$$, '55006', NULL, 'under a scan of it');
SET ROLE alter_reader;
SELECT throws_ok($$SELECT avcurate.alter_slice('night', 'true')$$, '42501', 'must be owner of materialized view night', 'somebody else');
RESET ROLE;
CREATE TABLE alter_work.hidden AS SELECT 1::bigint AS id;
SELECT throws_ok($$SELECT avcurate.alter_slice('night', 'frame_id IN (SELECT id FROM alter_work.hidden)')$$, '42501', NULL,
	'a filter reads what the owner may read, whoever alters');
SET default_transaction_read_only = on;
SELECT throws_ok($$SELECT avcurate.alter_slice('night', 'true')$$, '25006', NULL, 'read-only');
SET default_transaction_read_only = off;
CREATE MATERIALIZED VIEW counted AS SELECT frame_id, image_sha256, cardinality(ann_categories) AS boxes FROM frames;
CREATE UNIQUE INDEX ON counted (frame_id);
SELECT avcurate.track_slice('counted') \gset tracked_
SELECT throws_ok($$SELECT avcurate.alter_slice('counted', 'true')$$, '42809', 'slice alter_work.counted cannot be altered', 'a query of another form');
SELECT is(save(), 17::bigint, 'none of these left a version');
SELECT is_empty('SELECT * FROM wrong()', 'nor anything else');

-- a user's view of the form that create_slice makes
CREATE MATERIALIZED VIEW plain AS SELECT f.frame_id, f.scene AS place FROM frames f WHERE f.scene = 'tunnel';
CREATE UNIQUE INDEX ON plain (frame_id);
SELECT avcurate.track_slice('plain') \gset tracked_
SELECT is(filter, NULL, 'has no filter that was given') FROM avcurate.slices WHERE slice = 'plain'::regclass;
SELECT is(avcurate.alter_slice('plain', $$scene = 'street'$$), 2::bigint, 'can have one');
SELECT set_eq('SELECT frame_id, place FROM plain', $$SELECT frame_id, scene FROM frames WHERE scene = 'street'$$, 'its columns stay');
SELECT throws_like($$SELECT * FROM avcurate.batches('plain', 4)$$, '%lacks what a training needs%', 'which are not enough for batches');
SELECT is(avcurate.alter_slice('plain', columns => '{scene}'), 3::bigint, 'other columns make it complete');
SELECT lives_ok($$SELECT * FROM avcurate.batches('plain', 4)$$, 'so that batches read it');

-- a view made again under an old name is another slice
DROP MATERIALIZED VIEW plain;
SELECT avcurate.create_slice('plain', 'frames', 'frame_id < 5') \gset made_
SELECT results_eq($$SELECT version, rows FROM avcurate.slice_versions WHERE slice = 'plain'::regclass$$, 'VALUES (1::bigint, 4::bigint)', 'made again, it starts at version 1');

-- ---- children ----
CREATE TABLE more () INHERITS (frames);
INSERT INTO more SELECT (jsonb_populate_record(f, '{"frame_id": 1000}')).* FROM frames f WHERE frame_id = 1;
SELECT avcurate.alter_slice('plain', 'frame_id < 5 OR frame_id = 1000') \gset altered_
SELECT set_eq('SELECT frame_id FROM plain', 'VALUES (1), (2), (3), (4)', 'a slice holds frames of the dataset itself, not of its children');
SELECT ok(verified, 'and every frame has its image') FROM avcurate.verify_slice('plain');
SELECT avcurate.create_slice('all_frames', 'frames', 'true') \gset made_
SELECT is(count(*), 60::bigint, 'so does a new one') FROM all_frames;
DROP TABLE more;

-- ---- odd names, missing rights ----
RESET ROLE;
CREATE SCHEMA "alter Odd ""s""";
GRANT ALL ON SCHEMA "alter Odd ""s""" TO alter_other;
GRANT USAGE ON SCHEMA avcurate TO alter_other;
SET ROLE alter_other;
SELECT avcurate.create_dataset('"alter Odd ""s""".frames') \gset made_
SET search_path = "alter Odd ""s""", public;
ALTER TABLE frames RENAME TO "%s ""f""";
ALTER TABLE "%s ""f""" ADD "case" int, ADD "a ""b"" %d" text COLLATE "C", ADD "x (1)" int;
INSERT INTO "%s ""f""" (image_id, image_bytes, "case", "a ""b"" %d", "x (1)") SELECT 'i' || i, alter_work.jpeg('i' || i), i, 'b' || i, i FROM generate_series(1, 9) i;
SELECT avcurate.create_slice('"A ""slice"" %s 4567890123456789012345678901234567890123456789012"', '"%s ""f"""', $$"a ""b"" %d" <> 'b3'
	AND EXISTS (SELECT FROM "%s ""f""" WHERE image_id = 'i1')$$) AS slice \gset odd_
PREPARE odd AS SELECT avcurate.alter_slice($1, $2, $3);
EXECUTE odd(:'odd_slice', NULL, '{case,"a \"b\" %d"}') \gset odd_
EXECUTE odd(:'odd_slice', '"case" > 1', '{"x (1)"}') \gset odd_
EXECUTE odd(:'odd_slice', NULL, '{case,"a \"b\" %d","x (1)"}') \gset odd_
SELECT is(array_agg(concat_ws(' ', v.version, c.rows, c.verified) ORDER BY v.version), '{1 8 t,2 8 t,3 8 t,4 8 t}', 'names of all kinds')
FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c WHERE v.slice = :'odd_slice'::regclass;
RESET ROLE;
REVOKE CREATE ON SCHEMA "alter Odd ""s""" FROM alter_other;
SET ROLE alter_other;
SELECT throws_ok(format('SELECT avcurate.alter_slice(%L, columns => ''{split}'')', :'odd_slice'), '42501', NULL, 'a view is made again with the right to make one');
SELECT is(avcurate.alter_slice(:'odd_slice', 'true'), 5::bigint, 'a filter needs none');
RESET ROLE;
SET client_min_messages = error;
DROP SCHEMA "alter Odd ""s""" CASCADE;
SET client_min_messages = warning;
SET search_path = alter_work, public;

-- ---- features ----
SELECT avcurate.add_feature('frames', 'area', 'width * height') \gset added_
CALL avcurate.backfill('frames');
SELECT is(avcurate.refresh_slice('all_frames'), 1::bigint, 'a new feature changes no slice');
SELECT avcurate.alter_slice('all_frames', 'area > 0') \gset altered_
SELECT avcurate.alter_slice('plain', columns => '{area}') \gset altered_
CREATE VIEW reader AS SELECT area FROM frames;
SELECT throws_ok($$SELECT avcurate.drop_feature('frames', 'area')$$, '2BP01',
	'cannot drop feature "area" because slice alter_work.all_frames reads it', 'a feature that slices read is not dropped');
SELECT throws_ok($$SELECT avcurate.alter_feature('frames', 'area', 'width::text')$$, '2BP01',
	'cannot change the type of feature "area" because slice alter_work.all_frames reads it', 'nor does it change its type');
SELECT lives_ok($$SELECT avcurate.alter_feature('frames', 'area', 'height * width * 2')$$, 'another expression is no matter');
DROP VIEW reader;
SELECT avcurate.alter_slice('all_frames', 'true', '{}') \gset altered_
SELECT throws_ok($$SELECT avcurate.drop_feature('frames', 'area')$$, '2BP01',
	'cannot drop feature "area" because slice alter_work.plain reads it', 'one less');
SELECT avcurate.alter_slice('plain', columns => '{}') \gset altered_
SELECT lives_ok($$SELECT avcurate.drop_feature('frames', 'area')$$, 'when no slice reads it, it goes');
SELECT ok(bool_and(c.verified), 'and the versions that had it are whole')
FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c WHERE v.slice IN ('plain'::regclass, 'all_frames');

-- ---- erasing ----
SELECT count(*) FROM avcurate.erase_frame('frames', 13, 'asked to') \gset erased_
SELECT bag_eq($$SELECT c.verified, c.erased FROM avcurate.slice_versions v, avcurate.verify_slice('night', v.version) c WHERE v.slice = 'night'::regclass$$,
	'VALUES (true, 1::bigint), (true, 1), (true, 1)', 'a frame erased from versions of other columns is accounted for');

-- ---- moved, given away ----
SET client_min_messages = error;
ALTER MATERIALIZED VIEW plain SET SCHEMA public;
ALTER TABLE frames SET SCHEMA public;
SELECT results_eq($$SELECT r.slice_name, s.slice::text, s.filter FROM avcurate.slices s JOIN _avcurate.slices r ON r.slice = s.slice
	WHERE s.slice = 'public.plain'::regclass$$, $$VALUES ('public.plain', 'plain', 'frame_id < 5 OR frame_id = 1000')$$, 'a slice in another schema');
SELECT is(avcurate.alter_slice('plain', columns => '{scene}'), 5::bigint, 'can be altered there');
ALTER TABLE public.frames SET SCHEMA alter_work;
REASSIGN OWNED BY alter_owner TO alter_member;
SELECT is(avcurate.alter_slice('night', 'frame_id > 50', '{scene}'), 18::bigint, 'and one of another owner');
SELECT is(relowner::regrole::text, 'alter_member', 'who owns it still') FROM pg_class WHERE oid = 'night'::regclass;
SELECT ok(bool_and(c.verified), 'all versions are whole')
FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c WHERE v.slice IN ('public.plain'::regclass, 'night');
GRANT USAGE, CREATE ON SCHEMA public TO alter_member;
SET client_min_messages = warning;

-- ---- an owner who tries to act as whoever alters ----
CREATE TABLE alter_work.seen (who text, what text);
GRANT ALL ON seen TO alter_member;
GRANT SELECT ON frames TO alter_member;
SET ROLE alter_member;
CREATE FUNCTION note(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO alter_work.seen VALUES (current_user, what);
	BEGIN
		EXECUTE 'ALTER ROLE alter_member SUPERUSER';
	EXCEPTION WHEN insufficient_privilege THEN NULL;
	END;
END $$;
CREATE FUNCTION evil(what text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM alter_work.note($1); RETURN $1; END';
SELECT avcurate.create_slice('trap', 'frames', $$evil(split) = 'train'$$, '{split}') \gset made_
CREATE INDEX ON trap (evil('index' || split)) WHERE evil('where' || split) <> '';
CREATE STATISTICS trap_statistics ON (evil('statistics' || split)), width FROM trap;
RESET ROLE;
TRUNCATE seen;
SELECT is(avcurate.alter_slice('trap', $$alter_work.evil(split || frame_id) <> ''$$), 2::bigint, 'a superuser gives it another filter');
SELECT is(avcurate.alter_slice('trap', columns => '{split,scene}'), 3::bigint, 'and other columns');
SELECT is(avcurate.alter_slice('trap', 'true', '{split}'), 4::bigint, 'and both');
SELECT bag_eq('SELECT DISTINCT who FROM seen', $$VALUES ('alter_member')$$, 'all code of the owner ran as the owner');
SELECT ok(NOT rolsuper, 'who gained nothing') FROM pg_roles WHERE rolname = 'alter_member';

-- ---- dropping ----
SET client_min_messages = error;
DROP OWNED BY alter_owner, alter_member CASCADE;
SET client_min_messages = warning;
SELECT results_eq($$SELECT slice_name, slice::oid, dataset::oid, version FROM _avcurate.slices WHERE slice_name LIKE 'alter\_%' $$,
	$$VALUES ('alter_work.night', NULL::oid, NULL::oid, 18::bigint)$$, 'of dropped slices what is pinned is left');
SELECT * FROM finish();
DELETE FROM _avcurate.slice_tags WHERE tag = 'first';
DELETE FROM _avcurate.erasures WHERE dataset_name LIKE 'alter%';
DROP OWNED BY alter_reader, alter_other;
DROP TABLE IF EXISTS alter_work.seen;
DROP ROLE alter_owner, alter_member, alter_reader, alter_other;
