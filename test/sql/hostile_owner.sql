-- What an owner of a dataset cannot gain by making something else of it:
-- nobody ever runs his functions with more rights than he has.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS avcurate;
RESET client_min_messages;
CREATE ROLE regress_mallory;
CREATE SCHEMA lair AUTHORIZATION regress_mallory;
SET ROLE regress_mallory;
SET search_path = lair;
CREATE FUNCTION picture(seed text) RETURNS bytea LANGUAGE sql IMMUTABLE
	RETURN '\xffd8fffe'::bytea || int2send((octet_length(seed) + 2)::int2) || convert_to(seed, 'UTF8')
		|| '\xffc000110800320064'::bytea || '\x03012200021101031101'::bytea;

-- a type whose cast to bytea says whose rights it has
CREATE TYPE bait AS (content bytea);
CREATE FUNCTION spring(bait) RETURNS bytea LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE 'runs as %', current_user;
	RETURN ($1).content;
END $$;
CREATE CAST (bait AS bytea) WITH FUNCTION spring(bait) AS IMPLICIT;

SELECT avcurate.create_dataset('frames');
INSERT INTO frames (image_id, image_bytes, ann_categories, ann_bboxes)
	SELECT 'f' || n, picture(n::text), '{car}', '{{1,1,5,5}}' FROM generate_series(1, 3) n;
SELECT avcurate.add_feature('frames', 'wide', 'width > 10');

-- as the hash of a view's rows
CREATE MATERIALIZED VIEW hashes AS SELECT frame_id, ROW(image_sha256)::bait AS image_sha256 FROM frames;
CREATE UNIQUE INDEX ON hashes (frame_id);
SELECT avcurate.track_slice('hashes');
SELECT verified, detail FROM avcurate.verify_slice('hashes');
UPDATE frames SET image_bytes = picture('new') WHERE frame_id = 1;
SELECT avcurate.refresh_slice('hashes');
SELECT version, pruned FROM avcurate.prune_slice('hashes', 1);
SELECT frame_id, labels FROM avcurate.batches('hashes', 2);
DROP MATERIALIZED VIEW hashes;

-- as the images of the dataset
SELECT avcurate.create_slice('all_frames', 'frames', 'true');
SET client_min_messages = warning;
ALTER TABLE frames DROP COLUMN image_bytes CASCADE;
RESET client_min_messages;
ALTER TABLE frames ADD COLUMN image_bytes bait DEFAULT ROW('\x00');
SELECT verified FROM avcurate.verify_slice('all_frames');
SELECT frame_id, image_bytes FROM avcurate.batches('all_frames', 2);
SELECT version FROM avcurate.prune_slice('all_frames', 1);
RESET ROLE;
SELECT dataset, frames, image_bytes FROM avcurate.datasets WHERE dataset = 'frames'::regclass;
SELECT feature, total FROM avcurate.feature_status WHERE dataset = 'frames'::regclass;
SET ROLE regress_mallory;
-- an image of fixed length would be taken for a pointer
ALTER TABLE frames DROP COLUMN image_bytes;
ALTER TABLE frames ADD COLUMN image_bytes bigint DEFAULT 42;
SELECT frame_id, image_bytes FROM avcurate.batches('all_frames', 2);
SET client_min_messages = warning;
DROP TABLE frames CASCADE;
RESET client_min_messages;

-- nor in an index, whose constant parts are evaluated by whoever plans for the table
CREATE FUNCTION folded(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF current_user <> 'regress_mallory' THEN RAISE EXCEPTION '% runs as %', $1, current_user; END IF;
	RETURN true;
END $$;
SELECT avcurate.create_dataset('indexed');
INSERT INTO indexed (image_id, image_bytes, ann_categories, ann_bboxes)
	SELECT 'f' || n, picture(n::text), '{car}', '{{1,1,5,5}}' FROM generate_series(1, 3) n;
SELECT avcurate.create_slice('index_slice', 'indexed', 'true');
CREATE MATERIALIZED VIEW index_view AS SELECT frame_id, image_sha256 FROM indexed;
CREATE UNIQUE INDEX ON index_view (frame_id);
CREATE INDEX ON indexed (width) WHERE lair.folded('dataset');
CREATE INDEX ON index_slice (width) WHERE lair.folded('slice');
CREATE INDEX ON index_view (frame_id) WHERE lair.folded('view');
\c -
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT count(*) FROM avcurate.batches('lair.index_slice', 2);
SELECT frames FROM avcurate.datasets WHERE dataset = 'lair.indexed'::regclass;
SET ROLE regress_mallory;
SET search_path = lair;
SELECT avcurate.track_slice('index_view');
SELECT verified, detail FROM avcurate.verify_slice('index_view');
SELECT verified, detail FROM avcurate.verify_slice('index_slice');
REFRESH MATERIALIZED VIEW index_slice WITH NO DATA;
UPDATE indexed SET split = 'val';
REFRESH MATERIALIZED VIEW index_slice;
REFRESH MATERIALIZED VIEW index_view;
SELECT avcurate.refresh_slice('index_slice');
SELECT count(*) FROM avcurate.prune_slice('index_slice', 1);
CALL avcurate.backfill('indexed');

-- row security that others run into when they list datasets
SELECT avcurate.create_dataset('guarded');
INSERT INTO guarded (image_id, image_bytes) SELECT 'f' || n, picture(n::text) FROM generate_series(1, 3) n;
SELECT avcurate.add_feature('guarded', 'wide', 'width > 10');
CREATE FUNCTION guard() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN RAISE NOTICE 'runs as %', current_user; RETURN true; END $$;
CREATE POLICY trap ON guarded USING (lair.guard());
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
GRANT USAGE ON SCHEMA lair TO PUBLIC;
GRANT SELECT ON guarded TO PUBLIC;
RESET ROLE;
CREATE ROLE regress_passer_by;
SET ROLE regress_passer_by;
SELECT dataset, frames, boxes FROM avcurate.datasets WHERE dataset = 'guarded'::regclass;
SELECT feature, total, pending FROM avcurate.feature_status WHERE dataset = 'guarded'::regclass;
RESET ROLE;
SELECT dataset, frames, boxes FROM avcurate.datasets WHERE dataset = 'guarded'::regclass;
SELECT feature, total, pending FROM avcurate.feature_status WHERE dataset = 'guarded'::regclass;

-- rows that a view hides are not shown to a function in the query either
SET client_min_messages = warning;
SELECT avcurate.create_slice('public.regress_hidden', 'guarded', $$weather = 'hidden'$$);
SELECT avcurate.add_feature('guarded', 'hidden', $$'hidden'$$);
REVOKE SELECT ON guarded FROM PUBLIC;
RESET client_min_messages;
SET ROLE regress_mallory;
CREATE FUNCTION peep(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$
BEGIN RAISE NOTICE 'sees %', $1; RETURN true; END $$;
SET ROLE regress_passer_by;
SELECT count(*) FROM avcurate.slices WHERE lair.peep(filter);
SELECT count(*) FROM avcurate.slice_versions WHERE lair.peep(definition);
SELECT count(*) FROM avcurate.features WHERE lair.peep(expression);
RESET ROLE;
SELECT relname FROM pg_class WHERE relnamespace = 'avcurate'::regnamespace AND relkind = 'v'
	AND pg_get_viewdef(oid) ~ 'has_[a-z]+_privilege|has_privs|pg_has_role'
	AND NOT coalesce(reloptions, '{}') @> '{security_barrier=true}' ORDER BY 1;
DROP MATERIALIZED VIEW public.regress_hidden;

-- names that look like a part of our own statements
SET ROLE regress_mallory;
SELECT avcurate.create_dataset('"a $boxes and ""a $table"');
SELECT avcurate.drop_dataset('"a $boxes and ""a $table"');

RESET ROLE;
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA lair CASCADE;
DROP ROLE regress_mallory;
DROP ROLE regress_passer_by;
