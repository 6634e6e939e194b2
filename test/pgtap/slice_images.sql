-- Images of old versions: found wherever they went, until pruning frees them.
\set ON_ERROR_STOP 1
SET client_min_messages = error;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT no_plan();

CREATE FUNCTION pg_temp.jpeg(seed text) RETURNS bytea LANGUAGE sql AS $$
	SELECT '\xffd8ffc0001108003c005003012200021101031101ffda000c03010002110311003f00'::bytea
		|| convert_to(seed, 'UTF8') || '\xffd9'::bytea
$$;
-- seeds of the images that batches of a version read, in frame_id order
CREATE FUNCTION pg_temp.seeds(slice text, version bigint) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(convert_from(substr(image_bytes, 36, octet_length(image_bytes) - 37), 'UTF8'), ' ' ORDER BY frame_id)
	FROM avcurate.batches(slice::regclass, 100, version) $$;
CREATE FUNCTION pg_temp.archived() RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(frame_id || ':' || convert_from(substr(image_bytes, 36, octet_length(image_bytes) - 37), 'UTF8'), ' '
		ORDER BY frame_id, image_bytes) FROM _avcurate.archive WHERE dataset::text = 'lane.frames' $$;

CREATE SCHEMA lane;
SELECT avcurate.create_dataset('lane.frames') \g /dev/null
INSERT INTO lane.frames (image_id, image_bytes, ann_categories, ann_bboxes)
	SELECT 'f' || n, pg_temp.jpeg('a' || n), '{}', '{}' FROM generate_series(1, 6) n;
UPDATE lane.frames SET image_bytes = pg_temp.jpeg('b1') WHERE frame_id = 1;
SELECT is(pg_temp.archived(), NULL, 'nothing is archived before there is a slice');
SELECT avcurate.create_slice('lane.every', 'lane.frames', 'true') \g /dev/null
SELECT avcurate.create_slice('lane.some', 'lane.frames', 'frame_id <= 3') \g /dev/null

-- ---- updated, put back, deleted, inserted again
UPDATE lane.frames SET scene = 'bridge' WHERE frame_id = 6;
SELECT is(pg_temp.archived(), NULL, 'nor when the image stays');
UPDATE lane.frames SET image_bytes = pg_temp.jpeg('c1') WHERE frame_id = 1;
UPDATE lane.frames SET image_bytes = pg_temp.jpeg('b2') WHERE frame_id = 2;
UPDATE lane.frames SET image_bytes = pg_temp.jpeg('b3') WHERE frame_id = 3;
SELECT is(avcurate.refresh_slice('lane.every'), 2::bigint, 'version 2');
UPDATE lane.frames SET image_bytes = pg_temp.jpeg('b1') WHERE frame_id = 1;
-- never in a version, archived all the same
UPDATE lane.frames SET image_bytes = pg_temp.jpeg('c2') WHERE frame_id = 2;
UPDATE lane.frames SET image_bytes = pg_temp.jpeg('d2') WHERE frame_id = 2;
DELETE FROM lane.frames WHERE frame_id IN (3, 4);
INSERT INTO lane.frames (frame_id, image_id, image_bytes, ann_categories, ann_bboxes) OVERRIDING SYSTEM VALUE
	VALUES (3, 'again', pg_temp.jpeg('z3'), '{}', '{}');
SELECT is(avcurate.refresh_slice('lane.every'), 3::bigint, 'version 3');
SELECT is(pg_temp.seeds('lane.every', 1), 'b1 a2 a3 a4 a5 a6', 'images of version 1');
SELECT is(pg_temp.seeds('lane.every', 2), 'c1 b2 b3 a4 a5 a6', 'of version 2');
SELECT is(pg_temp.seeds('lane.every', 3), 'b1 d2 z3 a5 a6', 'of version 3, with an image put back and a frame of an old number');
SELECT is(pg_temp.seeds('lane.some', 1), 'b1 a2 a3', 'of another slice that was not refreshed');
SELECT is(pg_temp.archived(), '1:b1 1:c1 2:a2 2:b2 2:c2 3:a3 3:b3 4:a4', 'once each');

-- the same image under two frames is two images
INSERT INTO lane.frames (image_id, image_bytes, ann_categories, ann_bboxes)
	SELECT 'twin' || n, pg_temp.jpeg('twin'), '{}', '{}' FROM generate_series(7, 8) n;
SELECT is(avcurate.refresh_slice('lane.every'), 4::bigint, 'version 4');
DELETE FROM lane.frames WHERE image_id = 'twin7';
SELECT is(pg_temp.seeds('lane.every', 4), 'b1 d2 z3 a5 a6 twin twin', 'one of two twins is in the archive');
UPDATE lane.frames SET image_bytes = pg_temp.jpeg('other') WHERE image_id = 'twin8';
SELECT is(pg_temp.seeds('lane.every', 4), 'b1 d2 z3 a5 a6 twin twin', 'then both');


-- ---- truncated, swapped in a savepoint that is undone
SAVEPOINT s;
TRUNCATE lane.frames;
SELECT is(pg_temp.seeds('lane.every', 4), 'b1 d2 z3 a5 a6 twin twin', 'TRUNCATE');
ROLLBACK TO s;
TRUNCATE lane.frames;
SELECT is(pg_temp.seeds('lane.every', 1) || ', ' || pg_temp.seeds('lane.every', 2) || ', ' || pg_temp.seeds('lane.every', 3) || ', ' || pg_temp.seeds('lane.every', 4),
	'b1 a2 a3 a4 a5 a6, c1 b2 b3 a4 a5 a6, b1 d2 z3 a5 a6, b1 d2 z3 a5 a6 twin twin', 'TRUNCATE, every version');
SELECT is((SELECT string_agg(v.version || c.detail, ', ' ORDER BY v.version) FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c
	WHERE v.slice = 'lane.every'::regclass AND c.verified), '1rows and images match, 2rows and images match, 3rows and images match, 4rows and images match', 'all verify');

-- ---- what verify_slice finds
SAVEPOINT s;
DELETE FROM _avcurate.archive WHERE frame_id = 3 AND image_bytes = pg_temp.jpeg('b3');
UPDATE _avcurate.archive SET image_bytes = pg_temp.jpeg('forged') WHERE frame_id = 4;
SELECT is((SELECT detail FROM avcurate.verify_slice('lane.every', 2)),
	'images missing: 1, first of frame 3; images that do not match their hash: 1, first of frame 4', 'lost and forged images');
SELECT is((SELECT verified FROM avcurate.verify_slice('lane.every', 3)), true, 'of versions that hold them only');
ROLLBACK TO s;

-- ---- row security of the dataset does not make images seem lost
CREATE ROLE avc_camera;
GRANT ALL ON SCHEMA lane TO avc_camera;
INSERT INTO lane.frames (image_id, image_bytes, ann_categories, ann_bboxes) VALUES ('x', pg_temp.jpeg('x'), '{}', '{}'), ('y', pg_temp.jpeg('y'), '{}', '{}');
SELECT is(avcurate.refresh_slice('lane.every'), 5::bigint, 'version 5');
ALTER TABLE lane.frames OWNER TO avc_camera;
ALTER MATERIALIZED VIEW lane.every OWNER TO avc_camera;
ALTER TABLE lane.frames ENABLE ROW LEVEL SECURITY;
ALTER TABLE lane.frames FORCE ROW LEVEL SECURITY;
SET LOCAL ROLE avc_camera;
SELECT is((SELECT count(*) FROM lane.frames), 0::bigint, 'the owner himself sees no row');
SELECT is((SELECT detail FROM avcurate.verify_slice('lane.every', 5)), 'rows and images match', 'verify_slice sees the images');
RESET ROLE;
DELETE FROM lane.frames WHERE image_id = 'y';
SELECT is((SELECT detail FROM avcurate.verify_slice('lane.every', 5)), 'rows and images match', 'and what was archived under it');
ALTER TABLE lane.frames DISABLE TRIGGER USER;
SAVEPOINT s;
SET LOCAL session_replication_role = replica;
DELETE FROM lane.frames WHERE image_id = 'x';
SELECT is((SELECT detail FROM avcurate.verify_slice('lane.every', 5)), 'images missing: 1, first of frame ' || (SELECT max(frame_id) - 1 FROM lane.every), 'an image that really is gone is missing');
ROLLBACK TO s;
SELECT is((SELECT verified FROM avcurate.verify_slice('lane.every', 5)), true, 'until the deletion is undone');

-- ---- triggers that were disabled stay weaker when they are enabled again
CREATE FUNCTION pg_temp.triggers() RETURNS text LANGUAGE sql AS $$
	SELECT ok || ' ' || detail FROM avcurate.doctor() WHERE check_name = 'dataset triggers' $$;
SELECT is(pg_temp.triggers(), 'false missing or not ENABLE ALWAYS on lane.frames: images of old versions may get lost, slices are recomputed',
	'doctor tells of disabled triggers');
ALTER TABLE lane.frames ENABLE TRIGGER USER;
SELECT is(left(pg_temp.triggers(), 49), 'false missing or not ENABLE ALWAYS on lane.frames', 'and of those enabled as others are');
DROP TRIGGER avcurate_archive_delete ON lane.frames;
SELECT avcurate.create_slice('lane.late', 'lane.frames', 'true') \g /dev/null
SELECT is(pg_temp.triggers(), 'true all enabled: deleted frames and old images are noted', 'the next slice puts them back');
SET LOCAL session_replication_role = replica;
DELETE FROM lane.frames WHERE frame_id = (SELECT max(frame_id) FROM lane.late);
RESET session_replication_role;
SELECT is((SELECT verified FROM avcurate.verify_slice('lane.late', 1)), true, 'and they do their work');
SELECT is((SELECT incremental FROM avcurate.slices WHERE slice = 'lane.late'::regclass), true, 'so that slices can be refreshed by difference');

SELECT * FROM finish();
ROLLBACK;
