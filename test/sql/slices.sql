-- Slices: making, refreshing, reading, naming and dropping them.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS avcurate;
SET client_min_messages = notice;
CREATE FUNCTION jpeg(seed text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
	SELECT '\xffd8fffe'::bytea
		|| decode(lpad(to_hex(octet_length(seed) + 2), 4, '0'), 'hex')
		|| convert_to(seed, 'UTF8')
		|| '\xffc000110801e0028003012200021101031101ffda000c03010002110311003f0000ffd9'::bytea
$$;
SELECT avcurate.create_dataset('frames');
INSERT INTO frames (image_id, split, weather, timeofday, frame_time, image_bytes,
		ann_categories, ann_bboxes, ann_occluded, ann_truncated)
	SELECT 'f' || i, 'train', (array['clear', 'rainy'])[1 + i % 2], 'night',
		timestamptz '2024-03-31 00:30:00+00' + i * interval '1 hour',
		jpeg('f' || i), array['car', 'person'],
		array[[0.1, 2, 30, 40], [5, 6, 70.7, 80]]::real[], array[true, NULL],
		array[false, false]
	FROM generate_series(1, 8) i;

-- a slice is a real materialized view of the caller's, at version 1
SELECT avcurate.create_slice('rainy', 'frames', $$weather = 'rainy'$$);
SELECT relkind, pg_get_userbyid(relowner) = current_user AS is_mine
	FROM pg_class WHERE oid = 'rainy'::regclass;
SELECT indexdef FROM pg_indexes WHERE tablename = 'rainy';
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
	WHERE attrelid = 'rainy'::regclass AND attnum > 0 ORDER BY attnum;
SELECT slice, dataset, filter, definition, version, rows, incremental, reason
	FROM avcurate.slices;

-- chosen columns: what a training needs is always there, nothing twice
SELECT avcurate.create_slice('few', 'frames', NULL, '{split, width, frame_id}');
SELECT attname FROM pg_attribute
	WHERE attrelid = 'few'::regclass AND attnum > 0 ORDER BY attnum;

-- every way to refresh makes a version, a refresh without a change makes none
SELECT avcurate.refresh_slice('rainy');
UPDATE frames SET weather = 'rainy' WHERE frame_id = 2;
REFRESH MATERIALIZED VIEW rainy;
DELETE FROM frames WHERE frame_id = 3;
REFRESH MATERIALIZED VIEW CONCURRENTLY rainy;
UPDATE frames SET timeofday = 'day' WHERE frame_id = 5;
SELECT avcurate.refresh_slice('rainy', 'daylight');
UPDATE frames SET image_bytes = jpeg('another') WHERE frame_id = 7;
SELECT slice, version_before, version, rows_before, rows, added, removed, changed, mode,
	elapsed >= '0' AS took FROM avcurate.refresh_slices('frames');
REFRESH MATERIALIZED VIEW rainy;
REFRESH MATERIALIZED VIEW CONCURRENTLY rainy;
SELECT slice, version, created_by = current_user AS by_me, rows, added, removed, changed, mode, tags, note, pinned_by
	FROM avcurate.slice_versions ORDER BY slice::text, version;

-- reading versions
SELECT frame_id, weather, timeofday, image_sha256 = sha256(jpeg('f7')) AS old_image
	FROM avcurate.slice_at(NULL::rainy, 1) ORDER BY 1;
SELECT (avcurate.slice_at(NULL::rainy, 5)).frame_id ORDER BY 1;
SELECT count(*) FROM (SELECT r FROM rainy r EXCEPT ALL SELECT r FROM avcurate.slice_at(NULL::rainy, 5) r) d;
SELECT frame_id, change, (before).timeofday AS before, (after).timeofday AS after
	FROM avcurate.slice_diff(NULL::rainy, 1, 5);
SELECT frame_id, change FROM avcurate.slice_diff(NULL::rainy, 5, 1);
SELECT frame_id, change FROM avcurate.slice_diff(NULL::rainy, 3, 3);
SELECT v.version, c.rows, c.erased, c.verified, c.detail, c.digest = v.digest AS same
	FROM avcurate.slice_versions v, avcurate.verify_slice('rainy', v.version) c
	WHERE v.slice = 'rainy'::regclass ORDER BY 1;
SELECT version, verified FROM avcurate.verify_slice('rainy');

-- the view may lose its contents, the versions stay
REFRESH MATERIALIZED VIEW rainy WITH NO DATA;
SELECT count(*) FROM avcurate.slice_at(NULL::rainy, 5);
SELECT version, rows FROM avcurate.slices WHERE slice = 'rainy'::regclass;
SELECT verified, detail FROM avcurate.verify_slice('rainy');
SELECT mode, reason, changed_rows FROM avcurate.explain_refresh('rainy');
SELECT avcurate.refresh_slice('rainy');
REFRESH MATERIALIZED VIEW rainy WITH NO DATA;
INSERT INTO frames (image_id, weather, image_bytes) VALUES ('late', 'rainy', jpeg('late'));
REFRESH MATERIALIZED VIEW rainy;
SELECT version, added, removed, changed FROM avcurate.slice_versions
	WHERE slice = 'rainy'::regclass AND version > 5;
SELECT mode, reason, changed_rows FROM avcurate.explain_refresh('rainy');

-- the digest: format 1 never changes, whatever a session has set, and anybody
-- can compute it with SQL alone
SELECT digest FROM avcurate.slice_versions WHERE slice = 'rainy'::regclass AND version = 1;
SET timezone = 'Asia/Kolkata';
SET datestyle = 'German';
SET extra_float_digits = -3;
SET bytea_output = 'escape';
SELECT verified FROM avcurate.verify_slice('rainy', 1);
SELECT avcurate.refresh_slice('rainy');
UPDATE frames SET scene = 'tunnel' WHERE frame_id = 1;
SELECT avcurate.refresh_slice('rainy');
RESET timezone;
RESET datestyle;
RESET extra_float_digits;
RESET bytea_output;
SELECT verified FROM avcurate.verify_slice('rainy');
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE FUNCTION number(hex text) RETURNS numeric LANGUAGE sql AS $$
	SELECT sum(('x0' || substr(hex, i, 1))::bit(8)::int * 16::numeric ^ (length(hex) - i))
	FROM generate_series(1, length(hex)) i
$$;
SELECT v.version, trim_scale(number(v.digest)) = trim_scale(mod((SELECT sum(number(encode(substr(sha256(convert_to(r::text, 'UTF8')), 1, 16), 'hex')))
		FROM avcurate.slice_at(NULL::rainy, v.version) r), 2::numeric ^ 128)) AS same
	FROM avcurate.slice_versions v WHERE slice = 'rainy'::regclass ORDER BY 1;
DROP FUNCTION number(text);

-- what the definition yields may depend on the session, as with REFRESH
SET timezone = 'Asia/Kolkata';
SELECT avcurate.create_slice('early', 'frames', 'extract(hour FROM frame_time) < 10');
SELECT frame_id FROM early ORDER BY 1;
SELECT avcurate.refresh_slice('early');
REFRESH MATERIALIZED VIEW early;
SET timezone = 'UTC';
SELECT avcurate.refresh_slice('early');
SELECT frame_id, change FROM avcurate.slice_diff(NULL::early, 1, 2);
DROP MATERIALIZED VIEW early;

-- rows that swap the values of a unique column, and a cursor in the way
CREATE UNIQUE INDEX ON few (image_sha256);
BEGIN;
UPDATE frames SET image_bytes = jpeg('aside') WHERE frame_id = 1;
UPDATE frames SET image_bytes = jpeg('f1') WHERE frame_id = 2;
UPDATE frames SET image_bytes = jpeg('f2') WHERE frame_id = 1;
DECLARE c CURSOR FOR SELECT * FROM few;
FETCH 1 FROM c \g /dev/null
SAVEPOINT a;
SELECT avcurate.refresh_slice('few');
ROLLBACK TO a;
CLOSE c;
SELECT avcurate.refresh_slice('few');
SELECT frame_id, change, (after).image_sha256 = sha256(jpeg('f1')) AS f1, (after).image_sha256 = sha256(jpeg('f2')) AS f2
	FROM avcurate.slice_diff(NULL::few, 2, 3);
ROLLBACK;

-- tampering shows
SELECT slice_id AS rainy, '_avcurate.history_' || slice_id AS history
	FROM _avcurate.slices WHERE slice = 'rainy'::regclass \gset
BEGIN;
UPDATE :history SET timeofday = 'dawn' WHERE frame_id = 1 AND to_version IS NULL;
SELECT verified, rows, regexp_replace(detail, '[0-9a-f]{32}', 'DIGEST') AS detail FROM avcurate.verify_slice('rainy');
SELECT verified FROM avcurate.verify_slice('rainy', 1);
ROLLBACK;
BEGIN;
DELETE FROM :history WHERE frame_id = 1 AND to_version IS NOT NULL;
SELECT verified, rows, regexp_replace(detail, '[0-9a-f]{32}', 'DIGEST') AS detail FROM avcurate.verify_slice('rainy', 1);
SELECT count(*) FROM avcurate.slice_at(NULL::rainy, 1);
ROLLBACK;
BEGIN;
UPDATE _avcurate.archive SET image_bytes = jpeg('forged') WHERE frame_id = 7;
SELECT verified, detail FROM avcurate.verify_slice('rainy', 1);
DELETE FROM _avcurate.archive WHERE frame_id = 7;
SELECT verified, detail FROM avcurate.verify_slice('rainy', 1);
ROLLBACK;
BEGIN;
SET LOCAL session_replication_role = replica;
ALTER TABLE frames DISABLE TRIGGER ALL;
UPDATE frames SET image_bytes = jpeg('forged') WHERE frame_id = 1;
SELECT verified, detail FROM avcurate.verify_slice('rainy');
ROLLBACK;
-- a refresh that the triggers did not see
BEGIN;
ALTER EVENT TRIGGER zz_avcurate_refresh_starts DISABLE;
UPDATE frames SET timeofday = 'dawn' WHERE frame_id = 1;
REFRESH MATERIALIZED VIEW rainy;
SELECT verified, detail FROM avcurate.verify_slice('rainy');
UPDATE frames SET timeofday = 'dusk' WHERE frame_id IN (1, 2);
ALTER EVENT TRIGGER zz_avcurate_refresh_starts ENABLE ALWAYS;
DELETE FROM frames WHERE frame_id = 5;
REFRESH MATERIALIZED VIEW CONCURRENTLY rainy;
SELECT verified, detail FROM avcurate.verify_slice('rainy');
ROLLBACK;
-- one that nothing after it touches is in the next version all the same
BEGIN;
ALTER EVENT TRIGGER zz_avcurate_refresh_starts DISABLE;
UPDATE frames SET timeofday = 'dawn' WHERE frame_id = 1;
REFRESH MATERIALIZED VIEW CONCURRENTLY rainy;
ALTER EVENT TRIGGER zz_avcurate_refresh_starts ENABLE ALWAYS;
SELECT mode, reason FROM avcurate.explain_refresh('rainy');
SAVEPOINT a;
SELECT frame_id, change, (after).timeofday FROM avcurate.slice_diff(NULL::rainy, 7, avcurate.refresh_slice('rainy'));
SELECT verified, detail FROM avcurate.verify_slice('rainy');
ROLLBACK TO a;
UPDATE frames SET timeofday = 'dusk' WHERE frame_id = 2;
REFRESH MATERIALIZED VIEW rainy;
SELECT frame_id, change, (after).timeofday FROM avcurate.slice_diff(NULL::rainy, 7, 8);
SELECT mode, reason FROM avcurate.explain_refresh('rainy');
ROLLBACK;
-- and one whose rows the history does not have
BEGIN;
DELETE FROM :history WHERE frame_id = 1;
UPDATE frames SET timeofday = 'dusk' WHERE frame_id = 1;
REFRESH MATERIALIZED VIEW rainy;
SELECT count(*) FROM (SELECT r FROM rainy r EXCEPT ALL SELECT r FROM avcurate.slice_at(NULL::rainy, 8) r) d;
ROLLBACK;

-- tags and pruning
SELECT avcurate.tag_slice('rainy', 2, 'paper');
SELECT avcurate.tag_slice('rainy', 2, 'baseline');
SELECT tags FROM avcurate.slice_versions WHERE slice = 'rainy'::regclass AND version = 2;
SELECT * FROM avcurate.prune_slice('rainy', 3);
SELECT * FROM avcurate.prune_slice('rainy', 1, '1 day');
SELECT count(*) FROM avcurate.slice_at(NULL::rainy, 2);
SELECT avcurate.untag_slice('rainy', 'paper'), avcurate.untag_slice('rainy', 'baseline');
SELECT * FROM avcurate.prune_slice('rainy', 1);
SELECT count(*), min(from_version), max(to_version) FROM :history;
SELECT verified, detail FROM avcurate.verify_slice('rainy');

-- so do checkpoints, evaluations and jobs that are not finished
INSERT INTO frames (image_id, weather, image_bytes) VALUES ('later', 'rainy', jpeg('later'));
SELECT avcurate.refresh_slice('rainy');
DELETE FROM frames WHERE image_id = 'later';
SELECT avcurate.refresh_slice('rainy');
BEGIN;
INSERT INTO _avcurate.models (model, architecture, label_map, num_classes, owner)
	VALUES ('m', 'small', 'coco', 2, current_user::regrole);
INSERT INTO _avcurate.checkpoints (model, slice_id, version, bytes, provenance)
	VALUES ('m', :rainy, 7, 0, '{}') RETURNING checkpoint \gset
INSERT INTO _avcurate.jobs (slice_id, version, role, kind, body, state)
	VALUES (:rainy, 8, current_user::regrole, 'train', 'none', 'pending') RETURNING job \gset
SELECT version, pinned_by = ARRAY[:checkpoint]::bigint[] AS pinned FROM avcurate.slice_versions WHERE slice = 'rainy'::regclass ORDER BY 1;
SELECT version, pruned, regexp_replace(kept_because, '\d+', 'N') AS kept_because FROM avcurate.prune_slice('rainy', 1);
UPDATE _avcurate.jobs SET state = 'failed' WHERE job = :job;
SELECT version, pruned, regexp_replace(kept_because, '\d+', 'N') AS kept_because FROM avcurate.prune_slice('rainy', 1);
SAVEPOINT a;
\set VERBOSITY terse
SELECT avcurate.untrack_slice('rainy');
ROLLBACK TO a;
DROP MATERIALIZED VIEW rainy;
\set VERBOSITY default
SELECT count(*) FROM _avcurate.slices WHERE slice_id = :rainy;
-- gone with its pin, once somebody prunes
DELETE FROM _avcurate.checkpoints WHERE checkpoint = :checkpoint;
SELECT count(*) FROM avcurate.prune_slice('few');
SELECT count(*) FROM _avcurate.slices WHERE slice_id = :rainy;
SELECT to_regclass(:'history');
ROLLBACK;
SELECT count(*) FROM avcurate.prune_slice('rainy', 1) WHERE pruned;

-- a view that a user made: any query with frame_id
CREATE MATERIALIZED VIEW boxes_by_frame AS
	SELECT frame_id, count(*) AS boxes, max(area_pct) > 1 AS large
	FROM frames_boxes GROUP BY frame_id;
CREATE UNIQUE INDEX ON boxes_by_frame (frame_id);
SELECT avcurate.track_slice('boxes_by_frame');
SELECT slice, dataset, filter FROM avcurate.slices ORDER BY 1;
UPDATE frames SET ann_categories = '{}', ann_bboxes = '{}', ann_occluded = '{}', ann_truncated = '{}' WHERE frame_id = 1;
REFRESH MATERIALIZED VIEW boxes_by_frame;
SELECT frame_id, change, (before).boxes FROM avcurate.slice_diff(NULL::boxes_by_frame, 1, 2);
SELECT verified, detail FROM avcurate.verify_slice('boxes_by_frame');
SELECT avcurate.untrack_slice('boxes_by_frame');
REFRESH MATERIALIZED VIEW boxes_by_frame;
SELECT count(*) FROM boxes_by_frame;
SELECT count(*) FROM avcurate.slices WHERE slice = 'boxes_by_frame'::regclass;

-- renamed, moved, columns renamed: the same slice
CREATE SCHEMA "My Sets";
ALTER MATERIALIZED VIEW rainy RENAME TO "wet; ""roads""";
ALTER MATERIALIZED VIEW "wet; ""roads""" SET SCHEMA "My Sets";
ALTER MATERIALIZED VIEW "My Sets"."wet; ""roads""" RENAME COLUMN weather TO "The Weather";
UPDATE frames SET weather = 'rainy' WHERE frame_id IN (4, 6);
REFRESH MATERIALIZED VIEW "My Sets"."wet; ""roads""";
SELECT version, added FROM avcurate.slice_versions WHERE slice = '"My Sets"."wet; ""roads"""'::regclass ORDER BY 1;
SELECT frame_id, "The Weather" FROM avcurate.slice_at(NULL::"My Sets"."wet; ""roads""", 9) WHERE frame_id < 3;
SELECT verified FROM avcurate.verify_slice('"My Sets"."wet; ""roads"""', 9);
SELECT slice_name FROM _avcurate.slices WHERE slice_id = :rainy;

-- dropped and made again: another slice, from version 1
DROP MATERIALIZED VIEW "My Sets"."wet; ""roads""";
SELECT to_regclass(:'history');
SELECT avcurate.create_slice('"My Sets"."wet; ""roads"""', 'frames', $$weather = 'rainy'$$);
SELECT version, rows FROM avcurate.slice_versions WHERE slice = '"My Sets"."wet; ""roads"""'::regclass;
-- dropped while a version is pinned: the history stays, the name is free
SELECT avcurate.tag_slice('"My Sets"."wet; ""roads"""', 1, 'pinned');
DROP SCHEMA "My Sets" CASCADE;
SELECT slice, slice_name, dataset, version, dropped_at IS NOT NULL AS dropped
	FROM _avcurate.slices WHERE slice_name LIKE '%roads%';
SELECT count(*) FROM avcurate.slices;
DROP MATERIALIZED VIEW few, boxes_by_frame;
SELECT count(*) > 0 AS kept FROM _avcurate.slice_versions;

-- every name needs quotes
CREATE SCHEMA "Se't";
SELECT avcurate.create_dataset('"Se''t"."Fra""mes"');
INSERT INTO "Se't"."Fra""mes" (image_id, image_bytes) VALUES ('a', jpeg('a'));
ALTER TABLE "Se't"."Fra""mes" ADD COLUMN "Is Ok" boolean DEFAULT true;
SELECT avcurate.create_slice('"Se''t"."Sl%ice"', '"Se''t"."Fra""mes"', $$"Is Ok" AND "Fra""mes".split IS NULL$$);
UPDATE "Se't"."Fra""mes" SET image_bytes = jpeg('b');
SELECT avcurate.refresh_slice('"Se''t"."Sl%ice"');
SELECT frame_id, change, (after)."Is Ok" FROM avcurate.slice_diff(NULL::"Se't"."Sl%ice", 1, 2);
SELECT version, verified, detail FROM avcurate.verify_slice('"Se''t"."Sl%ice"', 1);
TRUNCATE "Se't"."Fra""mes";
REFRESH MATERIALIZED VIEW "Se't"."Sl%ice";
SELECT verified, rows, detail FROM avcurate.verify_slice('"Se''t"."Sl%ice"', 2);
DROP SCHEMA "Se't" CASCADE;

DROP TABLE frames CASCADE;
SELECT count(*) FROM _avcurate.archive;
SELECT slice_name, dataset FROM _avcurate.slices;
-- what a pin keeps goes when the pin is gone and somebody prunes, or by hand
SELECT '_avcurate.history_' || slice_id AS history FROM _avcurate.slices \gset
DELETE FROM _avcurate.slice_tags;
DELETE FROM _avcurate.slice_versions;
DELETE FROM _avcurate.slices;
DROP TABLE :history;
DROP FUNCTION jpeg(text);
