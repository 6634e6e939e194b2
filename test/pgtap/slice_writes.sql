-- A difference goes into the view's heap, all its indexes and the history.
\set ON_ERROR_STOP 1
SET client_min_messages = error;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS amcheck;
SELECT no_plan();

CREATE FUNCTION pg_temp.jpeg(seed text) RETURNS bytea LANGUAGE sql AS $$
	SELECT '\xffd8ffc0001108003c005003012200021101031101ffda000c03010002110311003f00'::bytea
		|| convert_to(seed, 'UTF8') || '\xffd9'::bytea
$$;
-- text that does not compress
CREATE FUNCTION pg_temp.noise(seed text, parts int) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(md5(seed || n), '') FROM generate_series(1, parts) n $$;

CREATE ROLE keeper;
CREATE SCHEMA w;
GRANT ALL ON SCHEMA w TO keeper;
SELECT avcurate.create_dataset('w.frames') \g /dev/null
ALTER TABLE w.frames ADD COLUMN note text, ADD COLUMN divisor int NOT NULL DEFAULT 1;
INSERT INTO w.frames (image_id, weather, timeofday, scene, note, image_bytes, ann_categories, ann_bboxes)
	SELECT 'F' || n, CASE WHEN n % 5 = 0 THEN 'rainy' ELSE 'clear' END, 't' || n, 's' || n, 'n' || n, pg_temp.jpeg('a' || n),
		ARRAY['car', 'k' || n], ARRAY[[1, 2, 3 + n, 4], [5, 6, 7, 8.5]]::real[]
	FROM generate_series(1, 60) n;
GRANT SELECT ON w.frames TO keeper;

-- an index expression must be evaluated as the view's owner
CREATE FUNCTION w.owned(t text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
	IF current_user <> 'keeper' THEN
		RAISE EXCEPTION 'evaluated as %', current_user;
	END IF;
	RETURN upper(t);
END $$;
CREATE MATERIALIZED VIEW w.v WITH (fillfactor = 40) AS
	SELECT frame_id, image_id, weather, timeofday, scene, note, divisor, image_sha256, ann_categories, ann_bboxes
	FROM w.frames WHERE weather <> 'hidden';
ALTER MATERIALIZED VIEW w.v OWNER TO keeper;
SET LOCAL ROLE keeper;
CREATE UNIQUE INDEX v_key ON w.v (frame_id);
CREATE UNIQUE INDEX v_scene ON w.v (scene);
CREATE UNIQUE INDEX v_lower ON w.v (lower(image_id)) INCLUDE (weather);
CREATE UNIQUE INDEX v_rainy ON w.v (timeofday) WHERE weather = 'rainy';
CREATE INDEX v_plain ON w.v (weather, timeofday DESC NULLS FIRST);
CREATE INDEX v_owned ON w.v (w.owned(weather)) WHERE w.owned(scene) IS NOT NULL;
CREATE INDEX v_ratio ON w.v ((100 / divisor));
CREATE INDEX v_gin ON w.v USING gin (ann_categories);
CREATE INDEX v_brin ON w.v USING brin (frame_id);
CREATE INDEX v_hash ON w.v USING hash (weather);
CREATE INDEX v_gist ON w.v USING gist (to_tsvector('simple', scene));
CREATE INDEX v_spgist ON w.v USING spgist (image_id);
RESET ROLE;
SELECT avcurate.track_slice('w.v') \g /dev/null
SELECT '_avcurate.history_' || slice_id AS history FROM _avcurate.slices WHERE slice = 'w.v'::regclass \gset

-- What is wrong after a refresh, in a line; empty = nothing.
CREATE FUNCTION pg_temp.faults(history text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	found text := '';
	columns text := 'frame_id, image_id, weather, timeofday, scene, note, divisor, image_sha256, ann_categories, ann_bboxes';
	definition text := format('SELECT %s FROM w.frames WHERE weather <> ''hidden''', columns);
	n bigint;
	condition text;
BEGIN
	EXECUTE format('SELECT count(*) FROM ((TABLE w.v EXCEPT ALL %1$s) UNION ALL (%1$s EXCEPT ALL TABLE w.v)) d', definition) INTO n;
	IF n > 0 THEN found := found || n || ' rows differ; '; END IF;
	SELECT found || coalesce(string_agg(version || ': ' || detail, '; '), '') INTO found
		FROM (SELECT v.version, (avcurate.verify_slice('w.v', v.version)).* FROM avcurate.slice_versions v
			WHERE v.slice = 'w.v'::regclass) c(v, version) WHERE NOT verified;
	PERFORM bt_index_check(indexrelid, true) FROM pg_index JOIN pg_class c ON c.oid = indexrelid
		WHERE relam = (SELECT oid FROM pg_am WHERE amname = 'btree') AND indrelid IN ('w.v'::regclass, history::regclass);
	SELECT found || coalesce(string_agg(msg, '; '), '') INTO found FROM (SELECT msg FROM verify_heapam('w.v')
		UNION ALL SELECT msg FROM verify_heapam(history::regclass)) h;
	-- what each kind of index finds against what a sequential scan does
	FOREACH condition IN ARRAY ARRAY['ann_categories @> ''{k7}''', 'weather = ''rainy''', 'image_id = ''F12''', 'frame_id BETWEEN 5 AND 9',
		'to_tsvector(''simple'', scene) @@ ''s20''::tsquery', 'lower(image_id) = ''f3''', 'weather = ''rainy'' AND timeofday < ''t5''']
	LOOP
		PERFORM set_config('enable_seqscan', 'off', true);
		EXECUTE 'SELECT count(*) FROM w.v WHERE ' || condition INTO n;
		PERFORM set_config('enable_seqscan', 'on', true);
		EXECUTE format('SELECT %s - count(*) FROM w.frames WHERE weather <> ''hidden'' AND %s', n, condition) INTO n;
		IF n <> 0 THEN found := found || condition || ': ' || n || ' too many; '; END IF;
	END LOOP;
	RETURN found;
END $$;
CREATE FUNCTION pg_temp.refresh() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	made bigint := avcurate.refresh_slice('w.v');
BEGIN
	RETURN (SELECT added || ' ' || removed || ' ' || changed FROM avcurate.slice_versions
		WHERE slice = 'w.v'::regclass AND version = made);
END $$;
-- updates and HOT updates of a relation in this transaction since the last look
CREATE TEMP TABLE seen (relid oid PRIMARY KEY, updates bigint, hot bigint);
CREATE FUNCTION pg_temp.updates(relation text) RETURNS text LANGUAGE sql AS $$
	WITH now AS (SELECT relid, n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_all_tables WHERE relid = relation::regclass),
	before AS (SELECT coalesce(sum(updates), 0) AS updates, coalesce(sum(hot), 0) AS hot FROM seen WHERE relid = relation::regclass),
	save AS (INSERT INTO seen SELECT * FROM now ON CONFLICT (relid) DO UPDATE SET updates = excluded.updates, hot = excluded.hot)
	SELECT n_tup_upd - updates || ' ' || n_tup_hot_upd - hot FROM now, before $$;
SELECT pg_temp.updates('w.v'), pg_temp.updates(:'history') \g /dev/null
SELECT is(pg_temp.faults(:'history'), '', 'sound at the start');

-- ---- in place
UPDATE w.frames SET note = 'other' WHERE frame_id IN (3, 30, 60);
SELECT is(pg_temp.refresh(), '0 0 3', 'three rows change outside all indexes');
SELECT is(pg_temp.updates('w.v'), '3 3', 'in place, without index entries');
SELECT is(pg_temp.updates(:'history'), '3 3', 'and so the history is closed');
SELECT is(pg_temp.faults(:'history'), '', 'all sound');
UPDATE w.frames SET divisor = 7, ann_categories = '{bus,k7}' WHERE frame_id IN (3, 31, 60);
SELECT is(pg_temp.refresh(), '0 0 3', 'three change in indexes that are not unique');
SELECT is(pg_temp.updates('w.v'), '3 0', 'updated with entries in all indexes');
SELECT is(pg_temp.faults(:'history'), '', 'all sound');

-- ---- unique values move between rows
UPDATE w.frames a SET scene = b.scene FROM w.frames b WHERE (a.frame_id, b.frame_id) IN ((1, 2), (2, 1), (3, 4), (4, 5), (5, 3));
SELECT is(pg_temp.refresh(), '0 0 5', 'two rows swap a unique value, three hand it round');
SELECT is(pg_temp.updates('w.v'), '0 0', 'as deleted and inserted rows');
SELECT is(pg_temp.faults(:'history'), '', 'all sound');
UPDATE w.frames SET image_id = 'between' WHERE frame_id = 11;
UPDATE w.frames SET image_id = 'F11' WHERE frame_id = 12;
UPDATE w.frames SET image_id = 'F12' WHERE frame_id = 11;
SELECT is(pg_temp.refresh(), '0 0 2', 'a swap of what a unique expression reads');
SELECT is(pg_temp.faults(:'history'), '', 'all sound');
UPDATE w.frames SET timeofday = 'same' WHERE frame_id IN (10, 13);
SELECT is(pg_temp.refresh(), '0 0 2', 'the same value inside and outside of a partial unique index');
UPDATE w.frames SET weather = CASE weather WHEN 'rainy' THEN 'clear' ELSE 'rainy' END WHERE frame_id IN (10, 13);
SELECT is(pg_temp.refresh(), '0 0 2', 'one goes in as the other goes out');
SELECT is(pg_temp.faults(:'history'), '', 'all sound');
DELETE FROM w.frames WHERE frame_id = 20;
INSERT INTO w.frames (image_id, weather, timeofday, scene, image_bytes, ann_categories, ann_bboxes)
	VALUES ('f20', 'clear', 't', 's20', pg_temp.jpeg('x'), NULL, NULL);
UPDATE w.frames SET weather = 'hidden' WHERE frame_id = 21;
UPDATE w.frames SET scene = 's21' WHERE frame_id = 22;
SELECT is(pg_temp.refresh(), '1 2 1', 'values of rows that left are taken by rows that came and changed');
SELECT is(pg_temp.faults(:'history'), '', 'all sound');

-- ---- what must fail, and leave nothing behind
SELECT pg_temp.updates('w.v'), pg_temp.updates(:'history') \g /dev/null
SAVEPOINT clash;
UPDATE w.frames SET scene = 's40' WHERE frame_id = 41;
UPDATE w.frames SET note = 'changes with it' WHERE frame_id IN (42, 43);
SELECT throws_ok($$SELECT avcurate.refresh_slice('w.v')$$, '23505', 'duplicate key value violates unique constraint "v_scene"',
	'a changed row clashes with one that stays');
ROLLBACK TO clash;
UPDATE w.frames SET divisor = 9 WHERE frame_id = 44;
INSERT INTO w.frames (image_id, weather, scene, image_bytes) VALUES ('new', 'clear', 's44', pg_temp.jpeg('new'));
SELECT throws_ok($$SELECT avcurate.refresh_slice('w.v')$$, '23505', 'duplicate key value violates unique constraint "v_scene"',
	'a new row clashes with one that was updated in place');
ROLLBACK TO clash;
INSERT INTO w.frames (image_id, weather, scene, image_bytes)
	SELECT 'new' || n, 'clear', 'clash', pg_temp.jpeg('new') FROM generate_series(1, 2) n;
SELECT throws_ok($$SELECT avcurate.refresh_slice('w.v')$$, '23505', 'duplicate key value violates unique constraint "v_scene"',
	'two new rows clash');
ROLLBACK TO clash;
UPDATE w.frames SET divisor = 0 WHERE frame_id = 45;
INSERT INTO w.frames (image_id, weather, image_bytes) VALUES ('new', 'clear', pg_temp.jpeg('new'));
SELECT throws_ok($$SELECT avcurate.refresh_slice('w.v')$$, '22012', 'division by zero', 'an index expression fails');
SELECT is((SELECT version FROM avcurate.slices WHERE slice = 'w.v'::regclass), (SELECT max(version) FROM avcurate.slice_versions
	WHERE slice = 'w.v'::regclass), 'the registry is where it was');
SELECT is((SELECT count(*) FROM w.v WHERE frame_id = 45 AND divisor = 1), 1::bigint, 'the view, too');
SELECT is((SELECT count(*) FROM avcurate.verify_slice('w.v') WHERE verified), 1::bigint, 'and the history');
UPDATE w.frames SET divisor = 2 WHERE divisor = 0;
SELECT is(pg_temp.refresh(), '1 0 1', 'once mended it is refreshed');
SELECT is(pg_temp.faults(:'history'), '', 'all sound');
DECLARE c CURSOR FOR TABLE w.v;
FETCH 1 FROM c \g /dev/null
UPDATE w.frames SET note = 'while read' WHERE frame_id = 1;
SELECT throws_ok($$SELECT avcurate.refresh_slice('w.v')$$, '55006', NULL, 'not under an open cursor of the session');
CLOSE c;
SELECT throws_ok('ALTER TABLE w.v ADD UNIQUE (scene) DEFERRABLE', '42809', NULL, 'a view can have no constraint to be deferred');
SELECT throws_ok('ALTER TABLE w.v ADD EXCLUDE USING gist (scene WITH =)', '42809', NULL, 'nor one that excludes');
SAVEPOINT bent;
DELETE FROM :history WHERE frame_id = 1 AND to_version IS NULL;
SELECT throws_ok($$SELECT avcurate.refresh_slice('w.v')$$, 'XX001', 'history of slice w.v does not fit what the view held of frame 1',
	'a row to close is missing');
ROLLBACK TO bent;
INSERT INTO :history (frame_id, from_version) VALUES (1000000, 1);
INSERT INTO w.frames (frame_id, image_id, weather, image_bytes) OVERRIDING SYSTEM VALUE VALUES (1000000, 'x', 'clear', pg_temp.jpeg('x'));
SELECT throws_ok($$SELECT avcurate.refresh_slice('w.v')$$, 'XX001', 'history of slice w.v does not fit what the view held of frame 1000000',
	'a row to open is there');
ROLLBACK TO bent;

-- ---- TOAST
SELECT reltoastrelid::regclass AS toast FROM pg_class WHERE oid = 'w.v'::regclass \gset
SELECT reltoastrelid::regclass AS history_toast FROM pg_class WHERE oid = :'history'::regclass \gset
UPDATE w.frames SET note = pg_temp.noise('a' || frame_id, 300) WHERE frame_id IN (1, 2, 3);
SELECT is(pg_temp.refresh(), '0 0 3', 'three long values come');
SELECT is((SELECT count(DISTINCT chunk_id) FROM :toast), 3::bigint, 'stored with the view');
SELECT is((SELECT count(DISTINCT chunk_id) FROM :history_toast), 3::bigint, 'and with the history');
SELECT is(pg_temp.faults(:'history'), '', 'all sound');
SELECT md5(string_agg(chunk_id || ' ' || ctid, ',' ORDER BY chunk_id, chunk_seq)) AS chunks FROM :toast \gset
UPDATE w.frames SET divisor = 3 WHERE frame_id IN (1, 2);
SELECT is(pg_temp.refresh(), '0 0 2', 'another column of such rows changes');
SELECT is((SELECT md5(string_agg(chunk_id || ' ' || ctid, ',' ORDER BY chunk_id, chunk_seq)) FROM :toast), :'chunks', 'the long ones stay where they are');
UPDATE w.frames SET scene = 'moved', note = note || 'b' WHERE frame_id = 1;
UPDATE w.frames SET note = 'short' WHERE frame_id = 2;
DELETE FROM w.frames WHERE frame_id = 3;
SELECT is(pg_temp.refresh(), '0 1 2', 'moved, shortened, deleted');
SELECT is((SELECT count(DISTINCT chunk_id) FROM :toast), 1::bigint, 'old chunks are deleted');
SELECT is((SELECT count(DISTINCT chunk_id) FROM :history_toast), 6::bigint, 'those of older versions stay');
SELECT is((SELECT count(*) FROM avcurate.slice_at(NULL::w.v, (SELECT max(version) - 1 FROM avcurate.slice_versions WHERE slice = 'w.v'::regclass))
	WHERE note = pg_temp.noise('a' || frame_id, 300)), 3::bigint, 'and are read');
SELECT is(pg_temp.faults(:'history'), '', 'all sound');

-- ---- more rows than are written at once
INSERT INTO w.frames (image_id, weather, timeofday, scene, image_bytes, ann_categories, ann_bboxes)
	SELECT 'B' || n, 'bulk', 't' || n % 7, md5('b' || n), pg_temp.jpeg('b'), '{k7}', '{{1,2,3,4}}' FROM generate_series(1, 9000) n;
UPDATE w.frames SET divisor = 5 WHERE frame_id <= 60;
SELECT is((SELECT split_part(pg_temp.refresh(), ' ', 1)), '9000', 'many rows enter');
SELECT is(pg_temp.faults(:'history'), '', 'all sound');
UPDATE w.frames SET divisor = 6, scene = CASE WHEN frame_id % 3 = 0 THEN md5('c' || frame_id) ELSE scene END WHERE weather = 'bulk';
SELECT is(pg_temp.refresh(), '0 0 9000', 'many change, a third of them move');
SELECT is(pg_temp.faults(:'history'), '', 'all sound');

-- ---- digests are over what PostgreSQL writes of a row
CREATE TABLE pg_temp.odd (i2 int2, i4 int, i8 bigint, f4 real, f8 float8, b bool, t text, v varchar(10), c char(5), y bytea,
	ta text[], fa real[], da float8[], ba bool[], ia int[], la bigint[], sa int2[], ca char(4)[], va varchar[],
	ts timestamptz, nu numeric, na numeric[], d date, r int4range, n name, j jsonb, iv interval, co w.v);
INSERT INTO odd VALUES
	(1, -2, 3, 1.5, 'NaN', true, 'a', 'b', 'c', '\x00ff', '{a,"b c",NULL,"NULL","","a\"b","x\\y","{",null}', '{1,2.5,NaN,Infinity,-0}',
	 '[2:3][0:1]={{1,2},{3,1e300}}', '{t,f,null}', '{{1,2},{3,4}}', '{}', '{7}', '{ab,"c d"}', '{Null,nulls}', '2020-01-01', 1.50, '{1.0,2}',
	 '2020-02-02', '[1,5)', 'nm', '{"a": [1, 2]}', '1 mon 2 days', NULL),
	(-32768, -2147483648, -9223372036854775808, '-Infinity', -0.0, false, '', '(,)"\', 'a b', '', E'{"a\tb","Ünï","a,b"}', '{null}',
	 '{{{1},{2}},{{3},{4}}}', '{}', '[0:0]={5}', '[-1:0]={1,2}', '{1,null}', NULL, '{}', 'epoch', 'NaN', NULL, 'infinity', 'empty', '', NULL, '-1 s',
	 (SELECT v FROM w.v WHERE frame_id = 5)),
	(0, 0, 0, 1e-45, 1e308, true, E'tab\there\v', 'x\y', '()', '\x5c5c', ARRAY[repeat('z', 3000), 'q'],
	 (SELECT array_agg(i::real / 3) FROM generate_series(1, 5000) i), NULL, ARRAY[[true, false], [NULL, true]], NULL, NULL, NULL, NULL, ARRAY['"'],
	 '2021-06-01 12:00+02', 1e100, '{}', NULL, NULL, 'a b', '""', '1 year', NULL);
INSERT INTO odd DEFAULT VALUES;
CREATE FUNCTION pg_temp.digest(rows text) RETURNS text LANGUAGE plpgsql
	SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET IntervalStyle = postgres SET extra_float_digits = 1 SET bytea_output = hex AS $$
DECLARE
	hash bytea;
	one numeric;
	total numeric := 0;
	digits text := '';
BEGIN
	FOR hash IN EXECUTE format('SELECT sha256(convert_to(x::text, ''UTF8'')) FROM (%s) q(x)', rows) LOOP
		one := 0;
		FOR i IN 0..15 LOOP one := one * 256 + get_byte(hash, i); END LOOP;
		total := mod(total + one, 340282366920938463463374607431768211456);
	END LOOP;
	FOR i IN 1..4 LOOP
		digits := lpad(to_hex(mod(total, 4294967296)::bigint), 8, '0') || digits;
		total := div(total, 4294967296);
	END LOOP;
	RETURN digits;
END $$;
CREATE TABLE w.odd AS SELECT row_number() OVER () AS frame_id, o.* FROM odd o;
CREATE MATERIALIZED VIEW w.oddities AS SELECT o.*, f.weather FROM w.odd o LEFT JOIN w.frames f ON f.frame_id = o.frame_id + 50;
CREATE UNIQUE INDEX ON w.oddities (frame_id);
SET LOCAL DateStyle = 'German';
SET LOCAL extra_float_digits = -3;
SET LOCAL bytea_output = escape;
SELECT avcurate.track_slice('w.oddities') \g /dev/null
SELECT is((SELECT digest FROM avcurate.slice_versions WHERE slice = 'w.oddities'::regclass),
	pg_temp.digest('SELECT ROW(o.*) FROM w.oddities o'), 'of every kind of value');
UPDATE w.odd SET fa = '{3,null,1e10}', t = 'now "quoted"', f4 = 0.1 WHERE frame_id > 1;
SELECT avcurate.refresh_slice('w.oddities') \g /dev/null
SELECT is((SELECT digest FROM avcurate.slice_versions WHERE slice = 'w.oddities'::regclass AND version = 2),
	pg_temp.digest('SELECT ROW(o.*) FROM w.oddities o'), 'kept up to date');
SELECT is((SELECT digest FROM avcurate.slice_versions WHERE slice = 'w.v'::regclass ORDER BY version DESC LIMIT 1),
	pg_temp.digest('SELECT ROW(v.*) FROM w.v'), 'of the slice above, after all of its refreshes');

-- ---- one of many fails
CREATE FUNCTION pg_temp.context_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	context text;
BEGIN
	EXECUTE query;
EXCEPTION WHEN division_by_zero THEN
	GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
	RETURN context;
END $$;
SELECT avcurate.create_slice('w.fails', 'w.frames', '1 / (frame_id - 100000) < 1') \g /dev/null
INSERT INTO w.frames (frame_id, image_id, image_bytes) OVERRIDING SYSTEM VALUE SELECT 100000, 'zero', image_bytes FROM w.frames LIMIT 1;
SELECT matches(pg_temp.context_of('SELECT avcurate.refresh_slices()'), '(^|\n)refresh of slice w.fails($|\n)', 'refresh_slices names it');

SELECT * FROM finish();
ROLLBACK;
