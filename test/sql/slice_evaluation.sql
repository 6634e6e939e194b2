-- Definitions applied to single rows: they give what SQL gives, and run as
-- the view's owner.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS avcurate;
SET client_min_messages = notice;
\set VERBOSITY terse
CREATE SCHEMA rows;
SET search_path = rows, public;
CREATE FUNCTION jpeg(seed text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
	SELECT '\xffd8fffe'::bytea
		|| decode(lpad(to_hex(octet_length(seed) + 2), 4, '0'), 'hex')
		|| convert_to(seed, 'UTF8')
		|| '\xffc000110801e0028003012200021101031101ffda000c03010002110311003f0000ffd9'::bytea
$$;
CREATE TYPE mood AS ENUM ('calm', 'busy');
CREATE TYPE place AS (city text, lane int);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE FUNCTION half(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 / 2; END';
CREATE FUNCTION third(int) RETURNS int LANGUAGE sql IMMUTABLE RETURN $1 / 3;
CREATE FUNCTION padded(text, width int DEFAULT 4 * 2) RETURNS text LANGUAGE sql IMMUTABLE RETURN lpad($1, width);
CREATE FUNCTION largest(VARIADIC int[]) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT max(x) FROM unnest($1) x';
CREATE FUNCTION is_wide(int, int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 > $2; END';
CREATE OPERATOR >>> (LEFTARG = int, RIGHTARG = int, FUNCTION = is_wide);

SELECT avcurate.create_dataset('frames');
ALTER TABLE frames ADD gone int DEFAULT 7;
-- a value for each n, NULLs and wide values among them
CREATE FUNCTION fill(low int, high int) RETURNS void LANGUAGE sql AS $$
	INSERT INTO rows.frames (image_id, image_bytes, frame_time, split, weather, scene, ann_categories, ann_bboxes)
	SELECT 'f' || n, rows.jpeg('f' || n), timestamptz '2026-01-01 00:00 UTC' + n * interval '1 hour',
		(array['train', 'val'])[1 + n % 2], (array['clear', 'rainy', NULL])[1 + n % 3],
		repeat((array['street', 'motorway'])[1 + n % 2], n % 300),
		array_fill('car'::text, array[n % 4]),
		CASE n % 4 WHEN 0 THEN '{}' ELSE (SELECT array_agg(array[i, i, i + n, i + 3]) FROM generate_series(1, n % 4) i) END::real[]
	FROM generate_series(low, high) n
$$;
SELECT fill(1, 40);
-- columns that the rows above do not hold: their values come from the catalog
ALTER TABLE frames DROP gone,
	ADD mood mood DEFAULT 'busy', ADD place place DEFAULT ROW('Oslo', 2), ADD speed float8 DEFAULT 2.5,
	ADD taken timestamp DEFAULT '2026-02-03 04:05', ADD day date, ADD gap interval DEFAULT '90 min',
	ADD info jsonb DEFAULT '{"a": 1}', ADD lanes positive DEFAULT 3, ADD codes int[] DEFAULT '{4,5}',
	ADD span int4range DEFAULT '[1,9)', ADD spot point DEFAULT '(1,2)', ADD price numeric(8, 2) DEFAULT 9.95,
	ADD place_code char(4) DEFAULT 'ab', ADD note varchar(20) DEFAULT 'note', ADD bits bit(3) DEFAULT B'101',
	ADD host inet, ADD key uuid, ADD words tsvector DEFAULT 'red car', ADD "Odd ""Name" int DEFAULT 5,
	ADD flag boolean, ADD small smallint DEFAULT 1, ADD letter "char" DEFAULT 'x', ADD raw json DEFAULT '[1]';
SELECT fill(41, 80);
UPDATE frames SET mood = (array['calm', 'busy'])[1 + frame_id % 2]::mood, place = ROW(split, frame_id % 5),
	speed = frame_id / 7.0, day = date '2026-01-01' + frame_id::int, info = jsonb_build_object('a', frame_id, 'b', split),
	lanes = 1 + frame_id % 4, codes = array[frame_id, frame_id % 3, NULL], span = int4range(1, frame_id::int + 1),
	spot = point(frame_id, 1), price = frame_id * 1.25, note = split, host = '10.0.0.1'::inet + frame_id,
	key = md5(image_id)::uuid, flag = nullif(frame_id % 3, 2) = 1, small = frame_id % 100
	WHERE frame_id > 50;

/*
 * Make a slice of the definition, change rows of the dataset in every way and
 * refresh: how was that done, and do its rows equal those of plain SQL?
 */
CREATE FUNCTION change_rows() RETURNS void LANGUAGE sql AS $$
	UPDATE rows.frames SET small = small + 1, weather = (array['rainy', NULL, 'clear'])[1 + frame_id % 3],
		scene = reverse(scene) WHERE frame_id % 3 = 0;
	UPDATE rows.frames SET speed = speed + 1, info = info || '{"c": 2}', mood = 'calm', place = ROW('Rome', 1),
		codes = codes || 9, taken = taken + interval '1 day', flag = NOT flag WHERE frame_id % 5 = 0;
	UPDATE rows.frames SET split = split WHERE frame_id % 7 = 0;
	DELETE FROM rows.frames WHERE frame_id % 11 = 0;
	SELECT rows.fill(101, 110);
$$;
CREATE FUNCTION check_definition(definition text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
	differ bigint;
BEGIN
	EXECUTE 'CREATE MATERIALIZED VIEW checked AS ' || definition;
	CREATE UNIQUE INDEX ON checked (frame_id);
	PERFORM avcurate.track_slice('checked');
	-- the first refresh remembers where the next one starts
	PERFORM avcurate.refresh_slice('checked');
	PERFORM rows.change_rows();
	PERFORM avcurate.refresh_slice('checked');
	SELECT mode INTO result FROM avcurate.slice_versions
		WHERE slice = 'checked'::regclass ORDER BY version DESC LIMIT 1;
	-- as text: point and json have no equality
	EXECUTE format('WITH a AS (SELECT one_row::text FROM checked one_row),
					b AS (SELECT one_row::text FROM (%s) one_row)
					SELECT (SELECT count(*) FROM (TABLE a EXCEPT ALL TABLE b) d)
						+ (SELECT count(*) FROM (TABLE b EXCEPT ALL TABLE a) d)', definition) INTO differ;
	RETURN result || CASE WHEN differ = 0 THEN '' ELSE ', ' || differ || ' rows differ' END ||
		(SELECT CASE WHEN verified THEN '' ELSE ', ' || detail END FROM avcurate.verify_slice('checked'));
END $$;
-- undone after each definition, so that all start from the same rows
CREATE FUNCTION check_undone(definition text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'RB000', MESSAGE = rows.check_definition(definition);
EXCEPTION WHEN SQLSTATE 'RB000' THEN
	RETURN sqlerrm;
END $$;
-- by difference, however many rows changed
SET avcurate.refresh_full_threshold = 1;
-- the first slice puts the triggers up
SELECT avcurate.create_slice('first', 'frames', 'false');
\pset format unaligned
\pset tuples_only on
SELECT check_undone(definition), definition FROM (VALUES
	('TABLE frames'),
	('SELECT * FROM frames WHERE speed > 5'),
	('SELECT f.* FROM frames AS f(frame_id, shot) WHERE small > 30'),
	('SELECT "Odd ""Name" AS "x y", frame_id FROM ONLY frames'),
	('SELECT frame_id, greatest(small, lanes, codes[1]) AS a, least(speed, price) AS b,
	coalesce(weather, scene, split) AS c, nullif(weather, ''rainy'') AS d,
	CASE weather WHEN ''rainy'' THEN scene WHEN ''clear'' THEN split ELSE ''-'' END AS e,
	CASE WHEN lanes > 2 THEN price END AS f FROM frames'),
	('SELECT frame_id, ARRAY[width, lanes, small] AS a, ARRAY[ARRAY[1, width], codes[1:2]] AS b,
	ann_bboxes[1:1] AS c, ann_bboxes[1][2] AS d, codes[1] AS e, info[''a''] AS f, (place).city AS g,
	ROW(weather, lanes)::place AS h, codes::text[] AS i, codes::bigint[] AS j FROM frames'),
	('SELECT frame_id FROM frames WHERE (weather, scene) > (''c'', ''m'')
	OR place = ROW(''Oslo'', 2)::place OR weather IS DISTINCT FROM scene AND flag IS NOT TRUE'),
	('SELECT frame_id, half(small) AS a, third(small) AS b, padded(weather) AS c,
	padded(weather, width => 3) AS d, largest(small, lanes) AS e, small >>> codes[1] AS f,
	lanes >>> ANY (codes) AS g FROM frames WHERE NOT (half(lanes) = 1 AND third(small) = 0)'),
	('SELECT frame_id, lower(scene) AS a, scene COLLATE "C" AS b, scene || split || small::text AS c,
	left(scene, 3)::varchar(2) AS d, place_code::text AS e, note::char(3) AS f, length(image_bytes) AS g,
	encode(image_sha256, ''hex'') AS h, image_bytes FROM frames WHERE scene ~ ''^s'' OR note LIKE ''t%'''),
	('SELECT frame_id, frame_time AT TIME ZONE ''UTC'' AS a, extract(hour FROM taken) AS b, taken + gap AS c,
	day + 1 AS d, age(taken, ''2020-01-01'') AS e, date_trunc(''day'', taken) AS f, taken::date AS g
	FROM frames WHERE frame_time > ''2026-01-02 00:00 UTC'''),
	('SELECT frame_id, info->>''a'' AS a, (info->>''a'')::int AS b, info - ''a'' AS c, raw->0 AS d,
	lanes::int <@ span AS e, spot <-> ''(0,0)'' AS f, price * 2 AS g, speed::numeric AS h, price::float8 AS i,
	bits & B''100'' AS j, host + 1 AS k, words @@ ''car''::tsquery AS l, letter::text AS m,
	key = md5(image_id)::uuid AS n FROM frames
	WHERE info @> ''{"a": 1}'' OR frame_id = ANY (''{1,2,3,4,5,6,7,8,9,10,50,60,70,71}'')'),
	('SELECT frame_id, tableoid AS a, mood, mood = ''busy'' AS b, mood > ''calm'' AS c
	FROM frames ORDER BY small DESC, lower(scene)'),
	('SELECT frame_id FROM frames WHERE frame_id NOT IN (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)'),
	('SELECT frame_id, 1 AS a, ''x'' AS b, NULL::int AS c FROM frames WHERE true AND 1 = 1')) d(definition);

-- a cheap condition guards a dear one, wherever it stands
CREATE FUNCTION fussy(int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN IF $1 > 75 THEN RAISE EXCEPTION 'too much'; END IF; RETURN true; END $$;
SELECT check_undone('SELECT frame_id FROM frames WHERE fussy(frame_id::int) AND frame_id < 70');

-- an error is REFRESH's, and leaves the slice as it was
SELECT avcurate.create_slice('divided', 'frames', '100 / (small - 777) < 5');
UPDATE frames SET small = 777 WHERE frame_id = 3;
SELECT avcurate.refresh_slice('divided');
REFRESH MATERIALIZED VIEW divided;
SELECT version, verified FROM avcurate.verify_slice('divided');
UPDATE frames SET small = 778 WHERE frame_id = 3;
SELECT avcurate.refresh_slice('divided');
DROP MATERIALIZED VIEW divided;

-- a function replaced: what it gave before is no ground to build on
CREATE MATERIALIZED VIEW replaced AS SELECT frame_id, half(small) AS x FROM frames WHERE small >>> -1;
CREATE UNIQUE INDEX ON replaced (frame_id);
SELECT avcurate.track_slice('replaced');
SELECT avcurate.refresh_slice('replaced');
SELECT mode FROM avcurate.explain_refresh('replaced');
CREATE OR REPLACE FUNCTION half(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 / 2 + 1; END';
SELECT mode, reason FROM avcurate.explain_refresh('replaced');
SELECT avcurate.refresh_slice('replaced');
SELECT count(*) FROM replaced JOIN frames USING (frame_id) WHERE x IS DISTINCT FROM small / 2 + 1;
SELECT mode FROM avcurate.explain_refresh('replaced');
-- one behind an operator, and one put back: rows may have been made in between
CREATE OR REPLACE FUNCTION is_wide(int, int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN false; END';
CREATE OR REPLACE FUNCTION is_wide(int, int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN $1 > $2; END';
SELECT mode, reason FROM avcurate.explain_refresh('replaced');
SELECT avcurate.refresh_slice('replaced');
SELECT mode FROM avcurate.explain_refresh('replaced');
-- frames deleted while nobody took note
ALTER TABLE frames DISABLE TRIGGER avcurate_note_delete;
DELETE FROM frames WHERE frame_id = 1;
ALTER TABLE frames ENABLE ALWAYS TRIGGER avcurate_note_delete;
SELECT mode, reason FROM avcurate.explain_refresh('replaced');
SELECT avcurate.refresh_slice('replaced');
SELECT count(*) FROM replaced WHERE frame_id = 1;
-- a frame hidden for a while
CREATE ROLE regress_evaluated;
GRANT USAGE, CREATE ON SCHEMA rows TO regress_evaluated;
GRANT SELECT ON frames TO regress_evaluated;
ALTER MATERIALIZED VIEW replaced OWNER TO regress_evaluated;
SELECT avcurate.refresh_slice('replaced');
CREATE POLICY part ON frames USING (frame_id <> 2);
ALTER TABLE frames ENABLE ROW LEVEL SECURITY;
SELECT avcurate.refresh_slice('replaced');
SELECT count(*) FROM replaced WHERE frame_id = 2;
ALTER TABLE frames DISABLE ROW LEVEL SECURITY;
SELECT avcurate.refresh_slice('replaced');
SELECT count(*) FROM replaced WHERE frame_id = 2;
SELECT mode FROM avcurate.explain_refresh('replaced');
DROP MATERIALIZED VIEW replaced;

-- rights of the view's owner, whoever refreshes
SET ROLE regress_evaluated;
CREATE MATERIALIZED VIEW narrow AS SELECT frame_id, weather FROM frames WHERE width > 0;
CREATE UNIQUE INDEX ON narrow (frame_id);
SELECT avcurate.track_slice('narrow');
SELECT avcurate.refresh_slice('narrow');
RESET ROLE;
REVOKE SELECT ON frames FROM regress_evaluated;
UPDATE frames SET weather = 'foggy' WHERE frame_id = 4;
SELECT avcurate.refresh_slice('narrow');
GRANT SELECT (frame_id, weather) ON frames TO regress_evaluated;
SELECT avcurate.refresh_slice('narrow');
GRANT SELECT (width) ON frames TO regress_evaluated;
SELECT avcurate.refresh_slice('narrow');
SELECT weather FROM narrow WHERE frame_id = 4;
DROP MATERIALIZED VIEW narrow;

-- an immutable function of a hostile owner in a superuser's refresh: in the
-- condition, in a column, folded, as a default argument
GRANT SELECT ON frames TO regress_evaluated;
CREATE TABLE secret (x int);
SET ROLE regress_evaluated;
CREATE FUNCTION act() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM rows.secret;
	RAISE WARNING 'rights gained';
EXCEPTION WHEN insufficient_privilege THEN NULL;
END $$;
CREATE FUNCTION climb() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('role', 'none', true);
	RAISE WARNING 'role left';
EXCEPTION WHEN insufficient_privilege THEN NULL;
END $$;
CREATE FUNCTION hostile(value text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF current_user <> 'regress_evaluated' THEN RAISE WARNING '% runs as %', value, current_user; END IF;
	PERFORM rows.act();
	IF session_user <> 'regress_evaluated' THEN PERFORM rows.climb(); END IF;
	RETURN value;
END $$;
CREATE FUNCTION lazy(value text, other text DEFAULT rows.hostile('a default')) RETURNS text
	LANGUAGE sql IMMUTABLE AS 'SELECT value || other';
CREATE MATERIALIZED VIEW hostile_view AS
	SELECT frame_id, hostile(weather) AS a, hostile('a constant') AS b, lazy('x') AS c
	FROM frames WHERE hostile(weather) IS DISTINCT FROM 'snowy' AND hostile('another') IS NOT NULL;
CREATE UNIQUE INDEX ON hostile_view (frame_id);
SELECT avcurate.track_slice('hostile_view');
SELECT avcurate.refresh_slice('hostile_view');
RESET ROLE;
UPDATE frames SET weather = 'snowy' WHERE frame_id = 4;
UPDATE frames SET weather = 'sunny' WHERE frame_id = 5;
SELECT mode FROM avcurate.explain_refresh('hostile_view');
SELECT avcurate.refresh_slice('hostile_view');
SELECT * FROM hostile_view WHERE frame_id IN (4, 5);
-- the owner may no longer call it
REVOKE EXECUTE ON FUNCTION hostile(text) FROM PUBLIC, regress_evaluated;
UPDATE frames SET weather = 'foggy' WHERE frame_id = 6;
SELECT avcurate.refresh_slice('hostile_view');

-- a column that the dataset generates, later a plain one
ALTER TABLE frames ADD COLUMN loud text GENERATED ALWAYS AS (upper(weather) || small) STORED;
SELECT avcurate.create_slice('loud', 'frames', $$loud > 'CLEAR5' AND half(small) < 30$$);
CREATE TABLE first_loud AS SELECT frame_id, loud FROM loud;
SELECT change_rows();
SELECT mode, changed_rows > 0 FROM avcurate.explain_refresh('loud');
SELECT avcurate.refresh_slice('loud');
ALTER TABLE frames ALTER COLUMN loud DROP EXPRESSION;
UPDATE frames SET loud = 'A' WHERE frame_id % 5 = 0;
SELECT avcurate.refresh_slice('loud');
SELECT version, mode, added > 0, removed > 0 FROM avcurate.slice_versions WHERE slice = 'loud'::regclass ORDER BY 1;
SELECT count(*) FROM (SELECT frame_id, loud FROM loud) l FULL JOIN
	(SELECT frame_id, loud FROM frames WHERE loud > 'CLEAR5' AND half(small) < 30) f ON l = f WHERE l IS NULL OR f IS NULL;
SELECT count(*) FROM avcurate.slice_at(NULL::loud, 1) l FULL JOIN first_loud f USING (frame_id) WHERE l.loud IS DISTINCT FROM f.loud;
SELECT avcurate.alter_slice('loud', $$loud = 'A'$$);
SELECT version, verified FROM generate_series(1, 4::bigint) v, avcurate.verify_slice('loud', v) ORDER BY 1;

-- index entries made of large values do not pile up in memory
CREATE FUNCTION thrifty(value text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
	used bigint := (SELECT sum(used_bytes) FROM pg_backend_memory_contexts);
BEGIN
	IF used > 32 * 1024 * 1024 THEN RAISE 'backend uses % bytes', used; END IF;
	RETURN left(value, 8);
END $$;
SELECT avcurate.create_slice('large', 'frames', 'true', '{scene}');
CREATE INDEX ON large (thrifty(upper(scene)), thrifty(lower(scene))) WHERE thrifty(reverse(scene)) <> 'x';
CREATE INDEX ON large USING gin (to_tsvector('simple', thrifty(scene)));
UPDATE frames SET scene = repeat('motorway ', 60000);
SELECT avcurate.refresh_slice('large');
SELECT mode, changed > 60 FROM avcurate.slice_versions WHERE slice = 'large'::regclass AND version = 2;
SET force_parallel_mode = on;
SELECT verified FROM avcurate.verify_slice('large');
RESET force_parallel_mode;

\pset format aligned
\pset tuples_only off
SET client_min_messages = warning;
DROP SCHEMA rows CASCADE;
DROP OWNED BY regress_evaluated;
DROP ROLE regress_evaluated;
