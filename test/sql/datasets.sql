-- Datasets: what create_dataset makes, what the row trigger refuses, who may
-- do what.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS avcurate;
RESET client_min_messages;

-- A JPEG as far as its frame header, which is all that the trigger reads.
CREATE FUNCTION picture(width int, height int) RETURNS bytea LANGUAGE sql IMMUTABLE
	RETURN '\xffd8ffc0001108'::bytea || int2send(height::int2) || int2send(width::int2)
		|| '\x03012200021101031101'::bytea;

SELECT avcurate.create_dataset('drive');
SELECT attnum, attname, format_type(atttypid, atttypmod) AS type, attnotnull, attstorage
	FROM pg_attribute WHERE attrelid = 'drive'::regclass AND attnum > 0 ORDER BY attnum;
SELECT reloptions FROM pg_class WHERE oid = 'drive'::regclass;
SELECT avcurate.create_dataset('drive');
SELECT avcurate.create_dataset('pg_temp.drive');
SELECT avcurate.create_dataset('avcurate.drive');
SELECT avcurate.create_dataset('my frames');
SELECT avcurate.create_dataset('');
SELECT avcurate.create_dataset('nowhere.drive');
SELECT avcurate.create_dataset(repeat('d', 58));
SELECT avcurate.create_dataset(NULL) IS NULL AS strict;

-- sizes and hash come from the bytes, whatever the statement says
INSERT INTO drive (image_id, image_bytes, width, height, image_sha256, ann_categories, ann_bboxes)
	VALUES ('a', picture(640, 360), 1, 2, '\x00', '{car,rider}', '{{0,0,10,10},{600,300,640.5,361}}')
	RETURNING frame_id, width, height, image_sha256 = sha256(image_bytes) AS hashed;
INSERT INTO drive (image_id, image_bytes) VALUES ('b', picture(100, 50)) RETURNING frame_id, width, ann_categories;
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes, ann_occluded, ann_ignored)
	VALUES ('c', picture(100, 50), '{}', '{}', '{}', NULL) RETURNING frame_id;
UPDATE drive SET image_bytes = picture(320, 180), ann_categories = NULL, ann_bboxes = NULL WHERE image_id = 'a'
	RETURNING width, height, image_sha256 = sha256(image_bytes) AS hashed;
UPDATE drive SET width = 7, weather = 'clear' WHERE image_id = 'a' RETURNING width, weather;

-- every refusal of the row trigger
INSERT INTO drive (image_id, image_bytes) VALUES ('x', '\x');
INSERT INTO drive (image_id, image_bytes) VALUES ('x', 'GIF89a');
INSERT INTO drive (image_id, image_bytes) VALUES ('x', substr(picture(10, 10), 1, 9));
INSERT INTO drive (image_id, image_bytes) VALUES ('x', NULL);
INSERT INTO drive (image_id, image_bytes) VALUES ('b', picture(10, 10));
INSERT INTO drive (frame_id, image_id, image_bytes) VALUES (9, 'x', picture(10, 10));
UPDATE drive SET frame_id = DEFAULT WHERE image_id = 'b';
INSERT INTO drive (image_id, image_bytes, ann_categories) VALUES ('x', picture(10, 10), '{car}');
INSERT INTO drive (image_id, image_bytes, ann_bboxes) VALUES ('x', picture(10, 10), '{{1,1,2,2}}');
INSERT INTO drive (image_id, image_bytes, ann_area) VALUES ('x', picture(10, 10), '{1}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes) VALUES ('x', picture(10, 10), '{car,bus}', '{{1,1,2,2}}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes) VALUES ('x', picture(10, 10), '{car}', '{1,1,2,2}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes) VALUES ('x', picture(10, 10), '{car}', '{{1,1,2}}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes) VALUES ('x', picture(10, 10), '{car}', '[0:0][1:4]={{1,1,2,2}}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes) VALUES ('x', picture(10, 10), '{car}', '{{1,1,2,NULL}}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes) VALUES ('x', picture(10, 10), '{NULL}', '{{1,1,2,2}}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes) VALUES ('x', picture(10, 10), '{car}', '{{1,1,NaN,2}}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes) VALUES ('x', picture(10, 10), '{car}', '{{1,1,Infinity,2}}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes) VALUES ('x', picture(10, 10), '{car,car}', '{{1,1,2,2},{3,1,2,2}}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes) VALUES ('x', picture(10, 10), '{car}', '{{1,3,2,2}}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes) VALUES ('x', picture(10, 10), '{car}', '{{-1.5,1,2,2}}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes) VALUES ('x', picture(10, 10), '{car}', '{{1,1,2,11.5}}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes, ann_occluded) VALUES ('x', picture(10, 10), '{car}', '{{1,1,2,2}}', '{t,f}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes, ann_truncated) VALUES ('x', picture(10, 10), '{car}', '{{1,1,2,2}}', '{}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes, ann_ignored) VALUES ('x', picture(10, 10), '{car}', '{{1,1,2,2}}', '{{t}}');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes, ann_area) VALUES ('x', picture(10, 10), '{car}', '{{1,1,2,2}}', '{-1}');
UPDATE drive SET ann_categories = '{car}', ann_bboxes = '{{0,0,200,10}}' WHERE image_id = 'b';
UPDATE drive SET image_bytes = picture(5, 5), ann_categories = '{car}', ann_bboxes = '{{0,0,50,10}}' WHERE image_id = 'b';
COPY drive (image_id, image_bytes) FROM stdin;
y	\\xffd8
\.

-- boxes as rows
UPDATE drive SET ann_categories = '{car,person}', ann_bboxes = '{{0,0,10,10},{20,10,40,20}}',
	ann_occluded = '{t,NULL}', ann_ignored = '{f,t}' WHERE image_id = 'b';
SELECT * FROM drive_boxes ORDER BY frame_id, box_no;
SELECT dataset, frames, labelled_frames, image_bytes, boxes FROM avcurate.datasets;

-- names that need quotes; the columns' types are what C relies on
CREATE SCHEMA "Odd one";
SELECT avcurate.create_dataset('"Odd one"."Da""ta"');
INSERT INTO "Odd one"."Da""ta" (image_id, image_bytes) VALUES ('a', picture(10, 10));
SELECT dataset, frames FROM avcurate.datasets ORDER BY 1;
ALTER TABLE "Odd one"."Da""ta" ALTER ann_bboxes TYPE double precision[];
ALTER TABLE "Odd one"."Da""ta" RENAME ann_area TO area;
DROP TRIGGER avc_check_frame ON "Odd one"."Da""ta";
CREATE TRIGGER avc_check_frame AFTER INSERT ON "Odd one"."Da""ta" FOR EACH ROW EXECUTE FUNCTION avcurate.check_frame();
INSERT INTO "Odd one"."Da""ta" (image_id, image_bytes, width, height, image_sha256) VALUES ('b', picture(10, 10), 1, 1, '');
DROP TRIGGER avc_check_frame ON "Odd one"."Da""ta";
CREATE TRIGGER avc_check_frame BEFORE INSERT ON "Odd one"."Da""ta" FOR EACH ROW EXECUTE FUNCTION avcurate.check_frame();
INSERT INTO "Odd one"."Da""ta" (image_id, image_bytes) VALUES ('b', picture(10, 10));

-- dropped by whatever command, it leaves the registry
SELECT avcurate.drop_dataset('"Odd one"."Da""ta"');
SELECT avcurate.create_dataset('"Odd one".second');
SELECT avcurate.create_dataset('third');
DROP VIEW third_boxes;
ALTER TABLE third DROP COLUMN image_bytes CASCADE;
SELECT dataset, frames, image_bytes FROM avcurate.datasets WHERE dataset = 'third'::regclass;
SELECT avcurate.drop_dataset('third');
SET client_min_messages = warning;
DROP SCHEMA "Odd one" CASCADE;
RESET client_min_messages;
SELECT dataset FROM avcurate.datasets ORDER BY 1;
CREATE MATERIALIZED VIEW held AS SELECT frame_id FROM drive;
SELECT avcurate.drop_dataset('drive');
DROP MATERIALIZED VIEW held;
SELECT avcurate.drop_dataset('pg_class');
SELECT avcurate.drop_dataset('drive_boxes');

-- an ordinary role: CREATE on the schema is all it needs
CREATE ROLE avc_engineer;
CREATE ROLE avc_reader;
GRANT avc_engineer, avc_reader TO CURRENT_USER;
SET ROLE avc_engineer;
SELECT avcurate.create_dataset('public.mine');
RESET ROLE;
CREATE SCHEMA lab AUTHORIZATION avc_engineer;
SET ROLE avc_engineer;
SELECT avcurate.create_dataset('lab.mine');
INSERT INTO lab.mine (image_id, image_bytes) VALUES ('a', public.picture(10, 10));
SELECT dataset, frames FROM avcurate.datasets ORDER BY 1;
SELECT avcurate.drop_dataset('drive');
SELECT * FROM _avcurate.datasets;
CALL avcurate.ingest_bdd100k('lab.mine', '/tmp');
SET ROLE avc_reader;
SELECT count(*) AS datasets_seen FROM avcurate.datasets;
SELECT avcurate.drop_dataset('lab.mine');
RESET ROLE;
SELECT avcurate.drop_dataset('lab.mine');
DROP SCHEMA lab;
DROP ROLE avc_engineer, avc_reader;

-- ingest: arguments
CALL avcurate.ingest_bdd100k('drive', NULL);
CALL avcurate.ingest_bdd100k('drive', 'images');
CALL avcurate.ingest_bdd100k('drive', '/nowhere/images');
CALL avcurate.ingest_bdd100k('pg_class', '/tmp');
CALL avcurate.ingest_bdd100k('drive', '/tmp', '/nowhere/labels.json');
BEGIN;
CALL avcurate.ingest_bdd100k('drive', '/tmp');
ROLLBACK;
DO $$ BEGIN CALL avcurate.ingest_bdd100k('drive', '/nowhere/images'); END $$;
CREATE FUNCTION calls() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL avcurate.ingest_bdd100k('drive', '/tmp'); END $$;
SELECT calls();
DROP FUNCTION calls();

-- the event trigger's function is nothing to call
SELECT avcurate.check_frame();
SELECT avcurate.drop_dataset('drive');
DROP FUNCTION picture;
