-- Which definitions can be refreshed by difference, and why others cannot.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS avcurate;
SET client_min_messages = notice;
CREATE SCHEMA defs;
SET search_path = defs, public;
CREATE ROLE regress_definer;
GRANT CREATE, USAGE ON SCHEMA defs TO regress_definer;

CREATE TYPE mood AS ENUM ('calm', 'busy');
CREATE TYPE place AS (city text, lane int);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE FUNCTION watched(int) RETURNS boolean LANGUAGE plpgsql VOLATILE AS 'BEGIN RETURN true; END';
CREATE DOMAIN trap AS int CHECK (defs.watched(VALUE));
CREATE FUNCTION half_i(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 / 2; END';
CREATE FUNCTION half_s(int) RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN $1 / 2; END';
CREATE FUNCTION half_v(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN $1 / 2; END';
CREATE FUNCTION half_sql(int) RETURNS int LANGUAGE sql IMMUTABLE RETURN $1 / 2;
CREATE FUNCTION half_sql_s(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1 / 2';
CREATE FUNCTION ages(text, text DEFAULT 'x', since timestamptz DEFAULT now()) RETURNS boolean
	LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END';
CREATE FUNCTION padded(text, width int DEFAULT 4 * 2) RETURNS text LANGUAGE sql IMMUTABLE RETURN lpad($1, width);
CREATE FUNCTION largest(VARIADIC int[]) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1[1]; END';
CREATE FUNCTION wide_i(int, int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 > $2; END';
CREATE FUNCTION wide_v(int, int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN $1 > $2; END';
CREATE OPERATOR >>> (LEFTARG = int, RIGHTARG = int, FUNCTION = wide_i);
CREATE OPERATOR >>>> (LEFTARG = int, RIGHTARG = int, FUNCTION = wide_v);
CREATE FUNCTION mood_of(int) RETURNS mood LANGUAGE sql STABLE RETURN CASE WHEN $1 > 0 THEN 'busy'::mood ELSE 'calm' END;
CREATE CAST (int AS mood) WITH FUNCTION mood_of(int);

SELECT avcurate.create_dataset('frames');
ALTER TABLE frames ADD mood mood, ADD place place, ADD speed float8, ADD taken timestamp,
	ADD day date, ADD gap interval, ADD info jsonb, ADD lanes positive, ADD codes int[],
	ADD span int4range, ADD spot point, ADD price numeric(8, 2), ADD place_code char(4);
SELECT avcurate.create_dataset('others');
CREATE VIEW frames_view AS SELECT * FROM frames;

-- a definition and what is in its way; the first slice puts the triggers up
SELECT avcurate.create_slice('first', 'frames', 'true');
SELECT avcurate.create_slice('first_of_others', 'others', 'true');
CREATE FUNCTION judge(definition text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE reason text;
BEGIN
	EXECUTE 'CREATE MATERIALIZED VIEW judged AS ' || definition || ' WITH NO DATA';
	SELECT coalesce(_avcurate.slice_obstacle('judged', 'frames'), 'incremental') INTO reason;
	DROP MATERIALIZED VIEW judged;
	RETURN reason;
END $$;
CREATE FUNCTION judge_all(VARIADIC items text[]) RETURNS TABLE (item text, reason text) LANGUAGE sql AS $$
	SELECT item, defs.judge(CASE WHEN item ~ '^(SELECT|WITH|TABLE|VALUES)' THEN item
							WHEN item ~ ' AS \w+$' THEN 'SELECT frame_id, ' || item || ' FROM frames'
							ELSE 'SELECT frame_id FROM frames WHERE ' || item END)
	FROM unnest(items) WITH ORDINALITY u(item, n) ORDER BY n $$;
\pset format unaligned
\pset tuples_only on

-- shape
SELECT * FROM judge_all(
	'SELECT frame_id FROM frames',
	'SELECT frame_id FROM ONLY frames',
	'TABLE frames',
	'SELECT f.* FROM frames f',
	'SELECT f.weather, f.frame_id FROM frames AS f(frame_id) WHERE f.width > 1',
	'SELECT frame_id, frame_id + 1 AS next FROM frames',
	'SELECT frame_id FROM frames ORDER BY width DESC, frame_id',
	'SELECT frame_id FROM frames ORDER BY half_i(width)',
	'SELECT frame_id FROM frames ORDER BY random()',
	'SELECT frame_id FROM frames WHERE false',
	'SELECT frame_id FROM frames LIMIT 3',
	'SELECT frame_id FROM frames OFFSET 0',
	'SELECT frame_id FROM frames ORDER BY frame_id FETCH FIRST 3 ROWS WITH TIES',
	'SELECT DISTINCT frame_id FROM frames',
	'SELECT DISTINCT ON (weather) frame_id FROM frames',
	'SELECT max(frame_id) AS frame_id FROM frames',
	'SELECT frame_id FROM frames GROUP BY frame_id',
	'SELECT frame_id FROM frames GROUP BY GROUPING SETS ((frame_id))',
	'SELECT 1::bigint AS frame_id FROM frames HAVING true',
	'SELECT frame_id, row_number() OVER () AS n FROM frames',
	'SELECT frame_id FROM frames FOR UPDATE',
	'SELECT frame_id FROM frames TABLESAMPLE SYSTEM (50)',
	'SELECT frame_id, unnest(ann_categories) AS category FROM frames',
	'SELECT generate_series(frame_id, frame_id) AS frame_id FROM frames',
	'SELECT frame_id FROM frames UNION SELECT 1',
	'SELECT frame_id FROM frames EXCEPT ALL SELECT 1',
	'WITH f AS (SELECT frame_id FROM frames) SELECT frame_id FROM f',
	'WITH unused AS (SELECT 1) SELECT frame_id FROM frames',
	'SELECT frame_id FROM (SELECT frame_id FROM frames) f',
	'SELECT a.frame_id FROM frames a, frames b WHERE a.frame_id = b.frame_id',
	'SELECT frame_id FROM frames a JOIN others b USING (frame_id)',
	'SELECT a.frame_id FROM frames a LEFT JOIN others b ON false',
	'SELECT frame_id FROM frames CROSS JOIN LATERAL unnest(ann_categories) c',
	'SELECT frame_id FROM frames, generate_series(1, 1)',
	'SELECT 1::bigint AS frame_id',
	'VALUES (1::bigint)',
	'SELECT frame_id FROM generate_series(1::bigint, 3) frame_id',
	'SELECT frame_id FROM frames_view',
	'SELECT frame_id FROM others',
	'SELECT frame_id FROM first',
	'SELECT frame_id + 0 AS frame_id FROM frames',
	'SELECT width::bigint AS frame_id FROM frames',
	'SELECT frame_id AS frame, width::bigint AS frame_id FROM frames',
	'SELECT width FROM frames',
	'SELECT frame_id, tableoid AS t FROM frames',
	'SELECT frame_id, ctid AS t FROM frames',
	'SELECT frame_id FROM frames WHERE xmin::text = ''1''',
	'SELECT frame_id, f FROM frames f',
	'SELECT frame_id FROM frames f WHERE f IS NOT NULL',
	'SELECT frame_id FROM frames f WHERE f.* = f.*');

-- conditions and columns
SELECT * FROM judge_all(
	'weather = ''rainy'' AND NOT width > 100 OR scene IS NULL',
	'weather IN (''rainy'', ''clear'') AND width BETWEEN 1 AND 5',
	'frame_id = ANY (''{1,2,3}''::bigint[])',
	'width IN (SELECT 1)',
	'EXISTS (SELECT FROM others)',
	'width = (SELECT 1)',
	'weather LIKE ''r%'' AND weather ~ ''^r'' AND weather SIMILAR TO ''r%''',
	'lower(weather) = ''rainy'' AND upper(scene COLLATE "C") > ''A''',
	'weather IS DISTINCT FROM scene',
	'(weather, scene) = (''a'', ''b'')',
	'(width, height) < (3, 4)',
	'(width > 1) IS UNKNOWN',
	'coalesce(weather, scene, ''none'') AS kind',
	'CASE weather WHEN ''rainy'' THEN 1 ELSE width / 2 END AS kind',
	'CASE WHEN width > 1 THEN now() END AS kind',
	'nullif(weather, ''x'') AS kind',
	'greatest(width, height, 3) AS kind',
	'ARRAY[width, height] AS kind',
	'ann_categories[1] AS kind',
	'info[''a''] AS kind',
	'ann_bboxes[1:2][1:1] AS kind',
	'array_length(ann_categories, 1) > 2 AND ann_categories @> ''{car}''',
	'''car'' = ANY (ann_categories) AND ann_categories && ARRAY[''bus'', weather]',
	'(place).lane > 1',
	'(place).city AS kind',
	'ROW(weather, width)::place AS kind',
	'place = ROW(''a'', 1)::place',
	'place IS NULL',
	'place IS NOT DISTINCT FROM NULL',
	'mood = ''calm'' AND mood < ''busy''',
	'mood AS kind',
	'mood::text AS kind',
	'weather::mood AS kind',
	'width::mood AS kind',
	'info->>''a'' AS kind',
	'(info->>''a'')::int AS kind',
	'info @> ''{"a": 1}'' AND info @? ''$.a''',
	'lanes AS kind',
	'lanes + 1 AS kind',
	'width::positive AS kind',
	'width::trap AS kind',
	'codes::trap[] AS kind',
	'codes::bigint[] AS kind',
	'codes::text[] AS kind',
	'codes::text AS kind',
	'weather::text[] AS kind',
	'width::text AS kind',
	'weather::int AS kind',
	'price::float8 AS kind',
	'speed::numeric AS kind',
	'speed::text AS kind',
	'weather || speed AS kind',
	'weather || width::text AS kind',
	'spot::text AS kind',
	'image_sha256::text AS kind',
	'encode(image_sha256, ''hex'') AS kind',
	'concat(weather, width) AS kind',
	'format(''%s'', weather) AS kind',
	'place_code::text AS kind',
	'weather::varchar(3) AS kind',
	'width <@ span',
	'price * 2 AS kind',
	'half_i(width) AS kind',
	'xmlelement(NAME a, weather) AS kind',
	'image_bytes AS kind',
	'length(image_bytes) > 10');

-- time
SELECT * FROM judge_all(
	'frame_time > ''2026-01-01''',
	'frame_time > now()',
	'frame_time > current_timestamp',
	'frame_time > clock_timestamp()',
	'day = current_date',
	'taken < localtimestamp(0)',
	'frame_time > weather::timestamptz',
	'frame_time > taken',
	'frame_time::date AS kind',
	'frame_time::text AS kind',
	'taken::date AS kind',
	'taken::text AS kind',
	'gap::text AS kind',
	'to_char(taken, ''YYYY'') AS kind',
	'to_char(frame_time, ''YYYY'') AS kind',
	'to_date(weather, ''YYYY'') AS kind',
	'frame_time + interval ''1 hour'' > ''2026-01-01''',
	'taken + interval ''1 hour'' AS kind',
	'frame_time - frame_time AS kind',
	'day + 1 AS kind',
	'extract(hour FROM taken) AS kind',
	'extract(hour FROM frame_time) AS kind',
	'extract(hour FROM frame_time AT TIME ZONE ''UTC'') AS kind',
	'date_trunc(''day'', frame_time) AS kind',
	'date_trunc(''day'', taken) AS kind',
	'age(taken) > ''1 day''',
	'age(taken, taken) > ''1 day''');

-- who and where
SELECT * FROM judge_all(
	'weather = current_user',
	'weather = session_user',
	'weather = current_schema',
	'weather = current_catalog',
	'weather = current_setting(''a.b'', true)',
	'pg_backend_pid() = 1',
	'random() < 0.5',
	'weather::regclass = ''frames''::regclass');

-- functions and operators of users
SELECT * FROM judge_all(
	'half_i(width) = 1',
	'half_s(width) = 1',
	'half_v(width) = 1',
	'half_sql(width) = 1',
	'half_sql_s(width) = 1',
	'half_i(half_v(1)) = 1',
	'ages(weather)',
	'ages(weather, ''y'')',
	'ages(weather, since => ''2026-01-01'')',
	'ages(weather, since => NULL)',
	'ages(weather, ''y'', ''2026-01-01'')',
	'padded(weather) = ''x''',
	'padded(weather, width => 3) = ''x''',
	'largest(width, height) = 1',
	'width >>> height',
	'width >>>> height',
	'width >>> ANY (codes)',
	'width >>>> ANY (codes)',
	'avcurate.dhash(image_bytes) AS kind',
	'avcurate.largest_box_area_pct(ann_categories, ann_bboxes, width, height, ''car'') AS kind');

-- the same in the view, for a reader of the slice who may not read the dataset
CREATE MATERIALIZED VIEW sampled AS SELECT frame_id FROM frames WHERE random() < 2;
CREATE UNIQUE INDEX ON sampled (frame_id);
SELECT avcurate.track_slice('sampled');
GRANT SELECT ON first, sampled TO regress_definer;
SET ROLE regress_definer;
SELECT slice, incremental, reason FROM avcurate.slices ORDER BY slice::text;
SELECT _avcurate.slice_obstacle('first', 'frames');
RESET ROLE;
DROP MATERIALIZED VIEW sampled;

-- what is no slice (any more)
SELECT _avcurate.slice_obstacle(0, 'frames');
SELECT _avcurate.slice_obstacle(NULL, NULL);
SELECT _avcurate.slice_obstacle('frames', 'frames');
SELECT _avcurate.slice_obstacle('first', NULL);
SELECT _avcurate.slice_obstacle('first', 'frames_view');

-- the dataset
CREATE FUNCTION now_is() RETURNS text LANGUAGE sql AS
	'SELECT coalesce(_avcurate.slice_obstacle(''defs.first'', ''defs.frames''), ''incremental'')';
CREATE TABLE child () INHERITS (frames);
SELECT now_is();
SELECT judge('SELECT frame_id FROM frames');
DROP TABLE child;
SELECT relhassubclass, judge('SELECT frame_id FROM frames') FROM pg_class WHERE oid = 'frames'::regclass;
ALTER TABLE frames SET UNLOGGED;
SELECT now_is();
ALTER TABLE frames SET LOGGED;
SELECT now_is();
ALTER TABLE frames DROP CONSTRAINT frames_pkey;
SELECT now_is();
ALTER TABLE frames ADD PRIMARY KEY (frame_id, image_id);
SELECT now_is();
ALTER TABLE frames DROP CONSTRAINT frames_pkey, ADD PRIMARY KEY (frame_id) DEFERRABLE;
SELECT now_is();
ALTER TABLE frames DROP CONSTRAINT frames_pkey, ADD PRIMARY KEY (frame_id);
SELECT now_is();
ALTER TABLE frames RENAME frame_id TO id;
SELECT now_is();
ALTER TABLE frames RENAME id TO frame_id;
SELECT now_is();

-- triggers that note deleted frames
ALTER TABLE frames DISABLE TRIGGER avcurate_note_delete;
SELECT now_is();
ALTER TABLE frames ENABLE TRIGGER avcurate_note_delete;
SELECT now_is();
ALTER TABLE frames ENABLE ALWAYS TRIGGER avcurate_note_delete;
SELECT now_is();
ALTER TABLE frames DISABLE TRIGGER avcurate_note_update;
SELECT now_is();
ALTER TABLE frames ENABLE ALWAYS TRIGGER avcurate_note_update;
SELECT now_is();
DROP TRIGGER avcurate_note_delete ON frames;
SELECT now_is();
CREATE TRIGGER note AFTER DELETE ON frames FOR EACH ROW WHEN (OLD.width > 1)
	EXECUTE FUNCTION _avcurate.note_deleted();
ALTER TABLE frames ENABLE ALWAYS TRIGGER note;
SELECT now_is();
DROP TRIGGER note ON frames;
CREATE TRIGGER note AFTER DELETE ON frames FOR EACH ROW EXECUTE FUNCTION _avcurate.note_deleted();
SELECT now_is();
ALTER TABLE frames ENABLE ALWAYS TRIGGER note;
SELECT now_is();
-- users cannot put up one that looks right and is not
SET ROLE regress_definer;
SELECT avcurate.create_dataset('mine');
CREATE TRIGGER note AFTER DELETE ON mine FOR EACH ROW EXECUTE FUNCTION _avcurate.note_deleted();
SELECT avcurate.create_slice('of_mine', 'mine', 'true');
SELECT slice, reason FROM avcurate.slices WHERE dataset = 'mine'::regclass;

-- row security: what counts is the view's owner
CREATE POLICY wide ON mine USING (width > 1);
ALTER TABLE mine ENABLE ROW LEVEL SECURITY;
SELECT slice, reason FROM avcurate.slices WHERE dataset = 'mine'::regclass;
ALTER TABLE mine FORCE ROW LEVEL SECURITY;
SELECT slice, reason FROM avcurate.slices WHERE dataset = 'mine'::regclass;
RESET ROLE;
SELECT slice, reason FROM avcurate.slices WHERE dataset = 'mine'::regclass;
ALTER MATERIALIZED VIEW of_mine OWNER TO CURRENT_USER;
SELECT slice, reason FROM avcurate.slices WHERE dataset = 'mine'::regclass;

\pset format aligned
\pset tuples_only off
SET client_min_messages = warning;
DROP SCHEMA defs CASCADE;
DROP OWNED BY regress_definer;
DROP ROLE regress_definer;
