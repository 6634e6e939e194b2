-- Who may read batches: rows are read by direct scans, so every right is
-- checked by batches itself.
\set ON_ERROR_STOP 1
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT plan(16);

CREATE FUNCTION pg_temp.jpeg(n int) RETURNS bytea LANGUAGE sql AS $$
	SELECT '\xffd8ffc0001108003c005003012200021101031101ffda000c03010002110311003f00'::bytea
		|| int4send(n) || decode(repeat(md5(n::text), 200), 'hex') || '\xffd9'::bytea
$$;
CREATE SCHEMA camera;
SELECT avcurate.create_dataset('camera.frames');
INSERT INTO camera.frames (image_id, image_bytes, ann_categories, ann_bboxes)
	SELECT 'f' || n, pg_temp.jpeg(n), '{car}', '{{1,2,11,22}}' FROM generate_series(1, 20) n;
SELECT avcurate.create_slice('camera.all_frames', 'camera.frames', 'true');
CREATE ROLE avc_reader;
CREATE ROLE avc_trusted BYPASSRLS;
GRANT USAGE ON SCHEMA camera TO avc_reader, avc_trusted;

SET LOCAL ROLE avc_reader;
SELECT throws_ok($$SELECT count(*) FROM avcurate.batches('camera.all_frames', 4)$$, '42501',
	'permission denied for materialized view all_frames', 'neither slice nor dataset');
SELECT throws_ok($$SELECT avcurate.batch_count('camera.all_frames', 4)$$, '42501',
	'permission denied for materialized view all_frames', 'nor the number of batches');
RESET ROLE;
GRANT SELECT ON camera.all_frames TO avc_reader, avc_trusted;
SET LOCAL ROLE avc_reader;
SELECT is(avcurate.batch_count('camera.all_frames', 4), 5::bigint, 'the slice alone is enough to count');
SELECT throws_ok($$SELECT count(*) FROM avcurate.batches('camera.all_frames', 4)$$, '42501',
	'permission denied for column "image_bytes" of dataset "frames"', 'but not for the images');
RESET ROLE;
GRANT SELECT (frame_id, width) ON camera.frames TO avc_reader;
SET LOCAL ROLE avc_reader;
SELECT throws_ok($$SELECT count(*) FROM avcurate.batches('camera.all_frames', 4)$$, '42501',
	'permission denied for column "image_bytes" of dataset "frames"', 'other columns do not count');
RESET ROLE;
GRANT SELECT (image_bytes) ON camera.frames TO avc_reader;
SET LOCAL ROLE avc_reader;
SELECT is((SELECT count(*) FROM avcurate.batches('camera.all_frames', 4)), 20::bigint, 'the column image_bytes does');
RESET ROLE;
REVOKE ALL ON camera.frames FROM avc_reader;
GRANT SELECT ON camera.frames TO avc_reader, avc_trusted;
SET LOCAL ROLE avc_reader;
SELECT is((SELECT count(*) FROM avcurate.batches('camera.all_frames', 4)), 20::bigint, 'so does the table');
SELECT is((SELECT count(image_bytes) FROM avcurate.batches('camera.all_frames', 4)), 20::bigint, 'with the images');

-- Row security of the dataset: the slice shows its rows, images it must not.
RESET ROLE;
ALTER TABLE camera.frames ENABLE ROW LEVEL SECURITY;
CREATE POLICY first_frames ON camera.frames USING (frame_id < 10);
SET LOCAL ROLE avc_reader;
SELECT is((SELECT count(*) FROM camera.frames), 9::bigint, 'a policy hides frames');
SELECT throws_ok($$SELECT count(*) FROM avcurate.batches('camera.all_frames', 4)$$, '42501',
	'cannot read batches: row security of dataset "frames" applies to role "avc_reader"', 'so batches are refused');
SET LOCAL row_security = off;
SELECT throws_ok($$SELECT count(*) FROM avcurate.batches('camera.all_frames', 4)$$, '42501',
	'cannot read batches: row security of dataset "frames" applies to role "avc_reader"', 'whatever row_security says');
RESET row_security;
RESET ROLE;
SET LOCAL ROLE avc_trusted;
SELECT is((SELECT count(*) FROM avcurate.batches('camera.all_frames', 4)), 20::bigint, 'a role that bypasses it reads all');
RESET ROLE;
SELECT is((SELECT count(*) FROM avcurate.batches('camera.all_frames', 4)), 20::bigint, 'and so does a superuser');

-- An owner is subject to policies only if they are forced on him.
CREATE ROLE avc_owner;
GRANT ALL ON SCHEMA camera TO avc_owner;
GRANT SELECT ON camera.all_frames TO avc_owner;
ALTER TABLE camera.frames OWNER TO avc_owner;
SET LOCAL ROLE avc_owner;
SELECT is((SELECT count(*) FROM avcurate.batches('camera.all_frames', 4)), 20::bigint, 'the owner reads all');
ALTER TABLE camera.frames FORCE ROW LEVEL SECURITY;
SELECT throws_like($$SELECT count(*) FROM avcurate.batches('camera.all_frames', 4)$$,
	'%applies to role "avc_owner"', 'unless policies are forced');

-- The history and the archive stay closed by themselves.
SELECT throws_like($$SELECT * FROM _avcurate.archive$$, 'permission denied%', 'nobody reads the archive directly');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
