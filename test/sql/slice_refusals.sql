-- What slices refuse, and who may do what.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS avcurate;
SET client_min_messages = notice;
CREATE FUNCTION jpeg(seed text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
	SELECT '\xffd8fffe'::bytea
		|| decode(lpad(to_hex(octet_length(seed) + 2), 4, '0'), 'hex')
		|| convert_to(seed, 'UTF8')
		|| '\xffc000110801e0028003012200021101031101ffda000c03010002110311003f0000ffd9'::bytea
$$;
CREATE ROLE regress_slice_owner;
CREATE ROLE regress_slice_reader;
CREATE SCHEMA work AUTHORIZATION regress_slice_owner;
GRANT USAGE ON SCHEMA work TO regress_slice_reader;

-- ordinary users: no right on anything of the extension's own is needed
SET ROLE regress_slice_owner;
SET search_path = work, public;
SELECT avcurate.create_dataset('frames');
INSERT INTO frames (image_id, weather, timeofday, image_bytes)
	SELECT 'f' || i, (array['clear', 'rainy'])[1 + i % 2], 'night', jpeg('f' || i)
	FROM generate_series(1, 4) i;
SELECT avcurate.create_slice('rainy', 'frames', $$weather = 'rainy'$$);
SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'rainy'::regclass;

-- a filter is one expression over the dataset and cannot break out
SELECT avcurate.create_slice('s', 'frames', 'true) --');
SELECT avcurate.create_slice('s', 'frames', 'true; DROP TABLE frames');
SELECT avcurate.create_slice('s', 'frames', 'true FROM frames');
SELECT avcurate.create_slice('s', 'frames', 'true, false');
SELECT avcurate.create_slice('s', 'frames', 'true AS x');
SELECT avcurate.create_slice('s', 'frames', 'true ORDER BY 1');
SELECT avcurate.create_slice('s', 'frames', 'true UNION SELECT 1');
SELECT avcurate.create_slice('s', 'frames', '');
SELECT avcurate.create_slice('s', 'frames', 'weather = ''rainy');
SELECT avcurate.create_slice('s', 'frames', 'weather');
SELECT avcurate.create_slice('s', 'frames', 'wheather = ''rainy''');
SELECT avcurate.create_slice('s', 'frames', 'count(*) > 1');
SELECT avcurate.create_slice('s', 'frames', 'generate_series(1, 2) = 1');
SELECT avcurate.create_slice('s', 'frames', 'row_number() OVER () = 1');
SELECT avcurate.create_slice('s', 'frames', '$1');
\set SHOW_CONTEXT never
SELECT avcurate.create_slice('s', 'frames', '1 / (frame_id - frame_id) = 1');
-- a comment at the end is harmless, and so is a subquery
SELECT avcurate.create_slice('commented', 'frames', 'weather = ''rainy'' -- and nothing else');
SELECT count(*) FROM commented;
SELECT avcurate.create_slice('nested', 'frames',
	'EXISTS (SELECT FROM frames WHERE frames.frame_id = 1) AND NOT EXISTS (SELECT FROM frames f WHERE f.weather < frames.weather)');
SELECT count(*) FROM nested;
DROP MATERIALIZED VIEW commented, nested;

-- arguments
SELECT avcurate.create_slice(NULL, 'frames', 'true');
SELECT avcurate.create_slice('s', NULL, 'true');
SELECT avcurate.create_slice('a.b.c.d', 'frames', 'true');
SELECT avcurate.create_slice('nowhere.s', 'frames', 'true');
SELECT avcurate.create_slice('rainy', 'frames', 'true');
SELECT avcurate.create_slice('s', 'pg_class', 'true');
SELECT avcurate.create_slice('s', 'rainy', 'true');
SELECT avcurate.create_slice('s', 'frames', 'true', '{nothing}');
SELECT avcurate.create_slice('s', 'frames', 'true', '{image_bytes}');
SELECT avcurate.create_slice('s', 'frames', 'true', '{feature_marks}');
SELECT avcurate.create_slice('s', 'frames', 'true', '{ctid}');
SELECT to_regclass('s');
-- what is temporary would take the slice along at the end of the session
CREATE FUNCTION pg_temp.is_rainy(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$SELECT $1 = 'rainy'$$;
CREATE TYPE pg_temp.weather AS ENUM ('rainy', 'clear');
CREATE DOMAIN pg_temp.sort AS text;
CREATE TEMP TABLE chosen AS SELECT 1 AS id;
\set VERBOSITY sqlstate
SELECT avcurate.create_slice('s', 'frames', 'pg_temp.is_rainy(weather)');
SELECT avcurate.create_slice('s', 'frames', $$weather::pg_temp.weather = 'rainy'$$);
SELECT avcurate.create_slice('s', 'frames', 'frame_id IN (SELECT id FROM pg_temp.chosen)');
SELECT avcurate.alter_slice('rainy', 'pg_temp.is_rainy(weather)');
\set VERBOSITY default
SELECT version, filter FROM avcurate.slices;
CREATE MATERIALIZED VIEW s AS SELECT frame_id, weather::pg_temp.sort FROM frames;
CREATE UNIQUE INDEX ON s (frame_id);
\set VERBOSITY sqlstate
SELECT avcurate.track_slice('s');
\set VERBOSITY default
DROP MATERIALIZED VIEW s;
DROP FUNCTION pg_temp.is_rainy(text);
DROP TYPE pg_temp.weather;
DROP DOMAIN pg_temp.sort;
DROP TABLE chosen;

-- views that cannot be tracked
CREATE TABLE plain (frame_id bigint);
SELECT avcurate.track_slice('plain');
SELECT avcurate.refresh_slice('plain');
CREATE MATERIALIZED VIEW no_frame AS SELECT image_id FROM frames;
SELECT avcurate.track_slice('no_frame');
SELECT avcurate.refresh_slice('no_frame');
CREATE MATERIALIZED VIEW int_frame AS SELECT frame_id::int FROM frames;
SELECT avcurate.track_slice('int_frame');
CREATE MATERIALIZED VIEW no_key AS SELECT frame_id FROM frames;
SELECT avcurate.track_slice('no_key');
CREATE UNIQUE INDEX ON no_key (frame_id) WHERE frame_id > 0;
SELECT avcurate.track_slice('no_key');
CREATE MATERIALIZED VIEW no_dataset AS SELECT 1::bigint AS frame_id;
CREATE UNIQUE INDEX ON no_dataset (frame_id);
SELECT avcurate.track_slice('no_dataset');
CREATE MATERIALIZED VIEW reserved AS SELECT frame_id, 1 AS from_version FROM frames;
CREATE UNIQUE INDEX ON reserved (frame_id);
SELECT avcurate.track_slice('reserved');
CREATE MATERIALIZED VIEW empty AS SELECT frame_id FROM frames WITH NO DATA;
CREATE UNIQUE INDEX ON empty (frame_id);
SELECT avcurate.track_slice('empty');
SELECT avcurate.track_slice('rainy');
CREATE MATERIALIZED VIEW no_id AS SELECT nullif(frame_id, 2) AS frame_id FROM frames;
CREATE UNIQUE INDEX ON no_id (frame_id);
SELECT avcurate.track_slice('no_id');
SELECT avcurate.create_dataset('other');
CREATE MATERIALIZED VIEW two AS SELECT f.frame_id + o.frame_id AS frame_id FROM frames f, other o;
CREATE UNIQUE INDEX ON two (frame_id);
SELECT avcurate.track_slice('two');
DROP MATERIALIZED VIEW no_frame, int_frame, no_key, no_dataset, reserved, empty, no_id, two;
DROP TABLE plain;
DROP TABLE other CASCADE;

-- versions
SELECT * FROM avcurate.slice_at(NULL::rainy, 2);
SELECT * FROM avcurate.slice_at(NULL::rainy, 0);
SELECT * FROM avcurate.slice_at(NULL::rainy, NULL);
SELECT * FROM avcurate.slice_at(NULL::frames, 1);
SELECT * FROM avcurate.slice_at(1, 1);
SELECT * FROM avcurate.slice_diff(NULL::rainy, 1, 2);
SELECT * FROM avcurate.verify_slice('rainy', 2);
SELECT * FROM avcurate.verify_slice('frames');
SELECT avcurate.tag_slice('rainy', 2, 'x');
SELECT avcurate.tag_slice('rainy', 1, '');
SELECT avcurate.tag_slice('rainy', 1, 'x');
SELECT avcurate.tag_slice('rainy', 1, 'x');
SELECT avcurate.untag_slice('rainy', 'y');
SELECT avcurate.untrack_slice('rainy');
SELECT * FROM avcurate.prune_slice('rainy', 0);
SELECT * FROM avcurate.prune_slice(NULL);
UPDATE frames SET weather = 'rainy';
SELECT avcurate.refresh_slice('rainy');
SELECT avcurate.refresh_slice('rainy', 'nothing new');
SELECT avcurate.untag_slice('rainy', 'x');
SELECT * FROM avcurate.prune_slice('rainy', 1);
SELECT * FROM avcurate.slice_at(NULL::rainy, 1);

-- the key and the row type
ALTER MATERIALIZED VIEW rainy RENAME COLUMN frame_id TO id;
ALTER MATERIALIZED VIEW rainy RENAME COLUMN scene TO to_version;
ALTER TABLE frames ALTER COLUMN weather TYPE varchar(10);
ALTER TABLE frames ADD COLUMN later int;
ALTER TABLE frames DROP COLUMN scene;
UPDATE frames SET weather = 'clear' WHERE frame_id = 1;
BEGIN;
DROP INDEX rainy_frame_id_idx;
SAVEPOINT a;
REFRESH MATERIALIZED VIEW rainy;
ROLLBACK TO a;
SELECT avcurate.refresh_slice('rainy');
ROLLBACK TO a;
SELECT mode, reason FROM avcurate.explain_refresh('rainy');
ROLLBACK;
-- the first slice of a dataset keeps writers out, which needs fresh snapshots
DROP MATERIALIZED VIEW rainy;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT avcurate.create_slice('rainy', 'frames', $$weather = 'rainy'$$);
ROLLBACK;
SELECT avcurate.create_slice('rainy', 'frames', $$weather = 'rainy'$$);

-- who may do what
SET ROLE regress_slice_reader;
SELECT count(*) FROM avcurate.slices;
SELECT count(*) FROM avcurate.slice_versions;
SELECT avcurate.refresh_slice('rainy');
REFRESH MATERIALIZED VIEW rainy;
REFRESH MATERIALIZED VIEW rainy WITH NO DATA;
SELECT count(*) FROM avcurate.refresh_slices();
SELECT avcurate.tag_slice('rainy', 1, 'mine');
SELECT avcurate.untag_slice('rainy', 'mine');
SELECT * FROM avcurate.prune_slice('rainy');
SELECT avcurate.untrack_slice('rainy');
SELECT avcurate.track_slice('rainy');
SELECT * FROM avcurate.slice_at(NULL::rainy, 1);
SELECT * FROM avcurate.slice_diff(NULL::rainy, 1, 1);
SELECT * FROM avcurate.verify_slice('rainy');
SELECT * FROM avcurate.explain_refresh('rainy');
SELECT count(*) FROM _avcurate.archive;
SET ROLE regress_slice_owner;
GRANT SELECT ON rainy TO regress_slice_reader;
SET ROLE regress_slice_reader;
SELECT slice, version, rows FROM avcurate.slices;
SELECT version, rows FROM avcurate.slice_versions;
SELECT image_id FROM avcurate.slice_at(NULL::rainy, 1) ORDER BY 1;
SELECT verified FROM avcurate.verify_slice('rainy');
SELECT avcurate.refresh_slice('rainy');
-- making a slice needs the right to read the dataset; the first one more
SELECT avcurate.create_slice('public.mine', 'frames', 'true');
SET ROLE regress_slice_owner;
GRANT SELECT (frame_id, weather) ON frames TO regress_slice_reader;
SET ROLE regress_slice_reader;
SELECT avcurate.create_slice('public.mine', 'frames', 'true');
RESET ROLE;
GRANT CREATE ON SCHEMA public TO regress_slice_reader;
SET ROLE regress_slice_owner;
DROP MATERIALIZED VIEW rainy;
GRANT SELECT ON frames TO regress_slice_reader;
SELECT avcurate.create_dataset('fresh');
GRANT SELECT ON fresh TO regress_slice_reader;
SET ROLE regress_slice_reader;
SELECT avcurate.create_slice('public.mine', 'fresh', 'true');
SELECT avcurate.create_slice('public.mine', 'frames', 'true');
SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'public.mine'::regclass;
SET ROLE regress_slice_owner;
DELETE FROM frames WHERE frame_id = 1;
-- a superuser's refresh runs the definition as the owner
RESET ROLE;
CREATE FUNCTION public.whoami(x text) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN RETURN current_user || ' ' || current_setting('search_path'); END $$;
CREATE MATERIALIZED VIEW work.spy AS SELECT frame_id, public.whoami(image_id) AS who FROM work.frames;
CREATE UNIQUE INDEX ON work.spy (frame_id);
ALTER MATERIALIZED VIEW work.spy OWNER TO regress_slice_reader;
SELECT avcurate.track_slice('work.spy');
SELECT avcurate.refresh_slice('work.spy');
SELECT DISTINCT who FROM work.spy;
INSERT INTO work.frames (image_id, image_bytes) VALUES ('new', jpeg('new'));
REFRESH MATERIALIZED VIEW spy;
SELECT DISTINCT who FROM work.spy;
SELECT slice, version, rows FROM avcurate.slices ORDER BY 1;
SHOW search_path;
-- functions in indexes and domains of the owner's gain nothing either
CREATE FUNCTION public.must_be_weak(x text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
		RAISE 'runs as superuser %', current_user;
	END IF;
	RETURN true;
END $$;
SET ROLE regress_slice_reader;
CREATE DOMAIN public.trap AS text CHECK (public.must_be_weak(VALUE));
CREATE MATERIALIZED VIEW public.trapped AS SELECT frame_id, image_id::public.trap AS name FROM work.frames;
CREATE UNIQUE INDEX ON public.trapped (frame_id);
CREATE INDEX ON public.trapped (public.must_be_weak(name));
RESET ROLE;
SELECT avcurate.track_slice('public.trapped');
UPDATE work.frames SET image_id = image_id || '!' WHERE frame_id < 4;
DELETE FROM work.frames WHERE frame_id = 4;
SELECT avcurate.refresh_slice('public.trapped');
SELECT frame_id, name FROM avcurate.slice_at(NULL::public.trapped, 1) ORDER BY 1;
SELECT frame_id, change, (before).name AS before, (after).name AS after FROM avcurate.slice_diff(NULL::public.trapped, 1, 2);
SELECT verified FROM avcurate.verify_slice('public.trapped', 1);
UPDATE work.frames SET image_id = image_id || '!' WHERE frame_id < 4;
REFRESH MATERIALIZED VIEW public.trapped;
SELECT version, changed, removed FROM avcurate.slice_versions WHERE slice = 'public.trapped'::regclass ORDER BY 1;
DROP MATERIALIZED VIEW public.trapped;
DROP DOMAIN public.trap;
DROP FUNCTION public.must_be_weak(text);
-- the text of rows stays what it was, in whatever the type is part of
CREATE TYPE public.mood AS ENUM ('calm', 'busy');
ALTER TABLE work.frames ADD moods public.mood[];
SELECT avcurate.create_slice('public.moody', 'work.frames', 'true', '{moods}');
ALTER TYPE public.mood ADD VALUE 'wild';
ALTER TYPE public.mood RENAME VALUE 'calm' TO 'quiet';
ALTER TYPE public.mood RENAME TO temper;
DROP MATERIALIZED VIEW public.moody;
ALTER TYPE public.temper RENAME VALUE 'calm' TO 'quiet';
ALTER TABLE work.frames DROP moods;
DROP TYPE public.temper;
-- without the right to make temporary tables REFRESH stays a plain one
REVOKE TEMP ON DATABASE regression FROM PUBLIC;
INSERT INTO work.frames (image_id, image_bytes) VALUES ('newer', jpeg('newer'));
REFRESH MATERIALIZED VIEW spy;
SELECT avcurate.refresh_slice('work.spy');
SELECT version, rows, added FROM avcurate.slice_versions WHERE slice = 'work.spy'::regclass ORDER BY 1;
GRANT TEMP ON DATABASE regression TO PUBLIC;

RESET search_path;
DROP MATERIALIZED VIEW public.mine;
DROP SCHEMA work CASCADE;
DROP FUNCTION public.whoami(text);
DROP FUNCTION jpeg(text);
REVOKE CREATE ON SCHEMA public FROM regress_slice_reader;
DROP ROLE regress_slice_owner;
DROP ROLE regress_slice_reader;
SELECT count(*) FROM _avcurate.slices;
SELECT count(*) FROM _avcurate.archive;
