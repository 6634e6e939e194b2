-- Features: definitions, what is refused, marks, errors, privileges.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS avcurate;
RESET client_min_messages;
CREATE FUNCTION picture(width int, height int) RETURNS bytea LANGUAGE sql IMMUTABLE
	RETURN '\xffd8ffc0001108'::bytea || int2send(height::int2) || int2send(width::int2)
		|| '\x03012200021101031101'::bytea;
SELECT avcurate.create_dataset('drive');
INSERT INTO drive (image_id, image_bytes, ann_categories, ann_bboxes)
	SELECT 'f' || n, picture(100, 50), ARRAY['car', CASE WHEN n % 2 = 0 THEN 'pedestrian' ELSE 'bus' END],
		ARRAY[ARRAY[0, 0, 10, 10], ARRAY[0, 0, n, n]]::real[]
	FROM generate_series(1, 40) n;
INSERT INTO drive (image_id, image_bytes) VALUES ('bare', picture(100, 50));

-- the functions themselves
SELECT avcurate.has_category('{car,pedestrian}', 'person') AS folded,
	avcurate.has_category('{car}', 'rider', 'Car') AS any_of,
	avcurate.has_category('{motor,bike}', 'bicycle', 'bus') AS bike,
	avcurate.has_category('{traffic light}', 'traffic_light') AS light,
	avcurate.has_category('{cart}', 'car') AS cart,
	avcurate.has_category('{cart}', 'cart') AS unknown_name,
	avcurate.has_category('{}', 'car') AS empty,
	avcurate.has_category(NULL, 'car') AS unlabelled,
	avcurate.has_category('{car}', VARIADIC '{}') AS nothing_wanted;
SELECT avcurate.largest_box_area_pct('{car,person,pedestrian}', '{{0,0,50,50},{0,0,10,10},{0,0,20,10}}', 100, 50, 'person') AS person,
	avcurate.largest_box_area_pct('{car}', '{{0,0,50,50}}', 100, 50, 'rider') AS no_rider,
	avcurate.largest_box_area_pct('{}', '{}', 100, 50, 'car') AS no_box,
	avcurate.largest_box_area_pct(NULL, NULL, 100, 50, 'car') AS unlabelled;
SELECT avcurate.largest_box_area_pct('{car}', '{{0,0,50,50}}', 0, 50, 'car');
SELECT avcurate.largest_box_area_pct('{car,bus}', '{{0,0,50,50}}', 100, 50, 'car');
SELECT avcurate.largest_box_area_pct('{car}', '{{0,0,50,NULL}}', 100, 50, 'car');

-- what is no feature
SELECT avcurate.add_feature('drive', 'weather', '1');
SELECT avcurate.add_feature('drive', 'f', 'nothing');
SELECT avcurate.add_feature('drive', 'f', 'count(*)');
SELECT avcurate.add_feature('drive', 'f', 'row_number() OVER ()');
SELECT avcurate.add_feature('drive', 'f', 'unnest(ann_categories)');
SELECT avcurate.add_feature('drive', 'f', '(SELECT max(frame_id) FROM drive)');
SELECT avcurate.add_feature('drive', 'f', 'drive IS NULL');
SELECT avcurate.add_feature('drive', 'f', 'ctid');
SELECT avcurate.add_feature('drive', 'f', 'feature_marks');
SELECT avcurate.add_feature('drive', 'f', '1, 2');
SELECT avcurate.add_feature('drive', 'f', 'drive.*');
SELECT avcurate.add_feature('drive', 'f', '1 FROM drive');
SELECT avcurate.add_feature('drive', 'f', '1; DROP TABLE drive');
SELECT avcurate.add_feature('drive', 'f', '1) FROM drive; DROP TABLE drive; SELECT (1');
SELECT avcurate.add_feature('drive', 'f', '1 AS one');
SELECT avcurate.add_feature('drive', 'f', '');
SELECT avcurate.add_feature('drive', 'f', 'ROW(1, 2)');
SELECT avcurate.add_feature('drive', '', '1');
SELECT avcurate.add_feature('pg_class', 'f', '1');
SELECT avcurate.alter_feature('drive', 'f', '1');
SELECT avcurate.drop_feature('drive', 'weather');
SELECT avcurate.retry_feature('drive', 'f');

-- types, reads, levels; a comment at the end of the text does no harm
SELECT avcurate.add_feature('drive', 'has_person', $$has_category(ann_categories, 'person') -- folded$$);
SELECT avcurate.add_feature('drive', 'bus_pct', $$avcurate.largest_box_area_pct(ann_categories, ann_bboxes, width, height, 'bus')$$);
SELECT avcurate.add_feature('drive', 'code', $$substr(image_sha256::text, 3, 8)::bit(64)$$);
SELECT avcurate.add_feature('drive', 'Inverse', '840 / (frame_id - 7)');
SELECT avcurate.add_feature('drive', 'twice', '"Inverse" * 2');
SELECT avcurate.add_feature('drive', 'cars', $$(SELECT count(*) FROM unnest(drive.ann_categories) c WHERE c = 'car')$$);
SELECT feature, type, expression, reads FROM avcurate.features ORDER BY created_at, feature;
SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'drive'::regclass AND NOT tgisinternal ORDER BY 1;
SELECT feature, total, done, pending, failed FROM avcurate.feature_status ORDER BY feature;

-- "code" fails in every row, "Inverse" in one, and what reads it waits
CALL avcurate.backfill('drive', batch_size => 0);
CALL avcurate.backfill('drive', 'nothing');
CALL avcurate.backfill('drive', max_rows => -1);
CALL avcurate.backfill('drive', NULL, 16, 20);
SELECT feature, total, done, pending, failed FROM avcurate.feature_status ORDER BY feature;
CALL avcurate.backfill('drive');
SELECT feature, total, done, pending, failed FROM avcurate.feature_status ORDER BY feature;
SELECT feature, sqlstate, message, count(*), min(frame_id), max(attempts) FROM avcurate.feature_errors GROUP BY 1, 2, 3 ORDER BY 1;
SELECT frame_id, has_person, bus_pct, "Inverse", twice, cars FROM drive WHERE frame_id IN (6, 7, 8, 41) ORDER BY 1;
CALL avcurate.backfill('drive');

-- retry: attempts count on; once it goes through, the error is gone
SELECT avcurate.retry_feature('drive', 'Inverse');
CALL avcurate.backfill('drive', 'Inverse');
SELECT feature, frame_id, attempts FROM avcurate.feature_errors WHERE feature = 'Inverse';
SELECT avcurate.alter_feature('drive', 'code', $$('x' || substr(encode(image_sha256, 'hex'), 1, 16))::bit(64)$$);
SELECT count(*) FROM avcurate.feature_errors WHERE feature = 'code';
CALL avcurate.backfill('drive');
SELECT code = ('x' || substr(encode(image_sha256, 'hex'), 1, 16))::bit(64) AS code FROM drive WHERE frame_id = 1;
SELECT feature, total, done, pending, failed FROM avcurate.feature_status ORDER BY feature;

-- only what reads a changed column is pending again, chains included
UPDATE drive SET weather = 'clear';
UPDATE drive SET ann_categories = ann_categories, image_bytes = image_bytes WHERE frame_id = 1;
SELECT count(*) AS pending FROM avcurate.feature_status WHERE pending > 1;
UPDATE drive SET ann_categories = '{car,rider}' WHERE frame_id = 1;
UPDATE drive SET image_bytes = picture(200, 50) WHERE frame_id = 2;
SELECT frame_id, avcurate.feature_state(feature_marks, 0) AS has_person, avcurate.feature_state(feature_marks, 1) AS bus_pct
	FROM drive WHERE frame_id < 4 ORDER BY 1;
UPDATE drive SET "Inverse" = 1 WHERE frame_id = 3;
CALL avcurate.backfill('drive');
SELECT frame_id, twice FROM drive WHERE frame_id = 3;
INSERT INTO drive (image_id, image_bytes, feature_marks) VALUES ('new', picture(10, 10), '\x5555');
SELECT feature, total, done, pending, failed FROM avcurate.feature_status ORDER BY feature;
CALL avcurate.backfill('drive', batch_size => 1);

-- alter and drop
SELECT avcurate.alter_feature('drive', 'Inverse', '840.0 / frame_id');
SELECT avcurate.alter_feature('drive', 'Inverse', 'twice / 2');
SELECT avcurate.drop_feature('drive', 'Inverse');
SELECT avcurate.alter_feature('drive', 'Inverse', '840 / (frame_id + 1)');
SELECT feature, done, pending, failed FROM avcurate.feature_status ORDER BY feature;
CALL avcurate.backfill('drive', 'twice');
CALL avcurate.backfill('drive');
SELECT "Inverse", twice FROM drive WHERE frame_id IN (6, 7) ORDER BY frame_id;
SELECT avcurate.drop_feature('drive', 'twice');
SELECT avcurate.alter_feature('drive', 'Inverse', '840.0 / frame_id');
SELECT type FROM avcurate.features WHERE feature = 'Inverse';
CALL avcurate.backfill('drive');
SELECT "Inverse" = 140 AS exact FROM drive WHERE frame_id = 6;
SELECT avcurate.drop_feature('drive', 'cars');
ALTER TABLE drive DROP COLUMN code;
SELECT feature FROM avcurate.features ORDER BY 1;
-- a column that a feature reads: the trigger comes back for the others
SELECT avcurate.add_feature('drive', 'sky', $$weather || '!'$$);
SELECT avcurate.add_feature('drive', 'sky2', $$sky || '!'$$);
ALTER TABLE drive DROP COLUMN weather;
SET client_min_messages = warning;
ALTER TABLE drive DROP COLUMN weather CASCADE;
RESET client_min_messages;
CALL avcurate.backfill('drive');
SELECT regexp_replace(pg_get_triggerdef(oid), '.* OF (.*) ON .*\((.*)\)', '\1: \2') FROM pg_trigger WHERE tgname = 'avc_reset_features';
SELECT avcurate.drop_feature('drive', 'sky2');
SELECT avcurate.drop_feature('drive', 'sky');
-- errors of deleted frames go away with them
SELECT avcurate.add_feature('drive', 'odd', '1 / (frame_id - 5)');
CALL avcurate.backfill('drive');
DELETE FROM drive WHERE frame_id = 5;
CALL avcurate.backfill('drive');
SELECT count(*) FROM avcurate.feature_errors;
SELECT avcurate.drop_feature('drive', 'odd');

-- what the expression calls is gone: it fails in every row
CREATE FUNCTION mine(bigint) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 1 / ($1 % 2 - 1); END $$;
SELECT avcurate.add_feature('drive', 'mine', 'mine(frame_id)');
SELECT expression FROM avcurate.features WHERE feature = 'mine';
CALL avcurate.backfill('drive', 'mine', 10);
SELECT done, pending, failed FROM avcurate.feature_status WHERE feature = 'mine';
SELECT avcurate.retry_feature('drive', 'mine');
REVOKE EXECUTE ON FUNCTION mine FROM PUBLIC;
DROP FUNCTION mine;
CALL avcurate.backfill('drive', 'mine');
SELECT done, pending, failed FROM avcurate.feature_status WHERE feature = 'mine';
SELECT DISTINCT sqlstate, message, attempts FROM avcurate.feature_errors WHERE feature = 'mine' ORDER BY 1, 3;
CALL avcurate.backfill('drive');
SELECT avcurate.drop_feature('drive', 'mine');

-- transactions and privileges
BEGIN;
CALL avcurate.backfill('drive');
ROLLBACK;
CREATE ROLE avc_engineer;
GRANT SELECT, UPDATE ON drive TO avc_engineer;
SET ROLE avc_engineer;
SELECT avcurate.add_feature('drive', 'f', '1');
SELECT avcurate.alter_feature('drive', 'bus_pct', '1');
SELECT avcurate.drop_feature('drive', 'bus_pct');
SELECT avcurate.retry_feature('drive', 'bus_pct');
CALL avcurate.backfill('drive');
SELECT feature FROM avcurate.features ORDER BY 1;
RESET ROLE;
-- an expression runs as the owner of the dataset, whoever calls
CREATE FUNCTION whoami(int) RETURNS text LANGUAGE sql STABLE AS 'SELECT current_user::text';
ALTER TABLE drive OWNER TO avc_engineer;
SELECT avcurate.add_feature('drive', 'who', 'whoami(width)');
CALL avcurate.backfill('drive', 'who');
SELECT who, count(*) FROM drive GROUP BY 1;
-- and cannot do more than compute
CREATE FUNCTION sneak(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RESET ROLE; RETURN 1; END $$;
SELECT avcurate.add_feature('drive', 'sneak', 'sneak(width)');
CALL avcurate.backfill('drive', 'sneak');
SELECT message, count(*) FROM avcurate.feature_errors WHERE feature = 'sneak' GROUP BY 1;
-- a table that its owner made into a view is no dataset any more
CREATE SCHEMA lab AUTHORIZATION avc_engineer;
SET ROLE avc_engineer;
SELECT avcurate.create_dataset('lab.trap');
SELECT avcurate.add_feature('lab.trap', 'f', '1');
SET client_min_messages = warning;
DROP VIEW lab.trap_boxes;
DROP TRIGGER avc_check_frame ON lab.trap;
ALTER TABLE lab.trap DROP CONSTRAINT trap_pkey, DROP CONSTRAINT trap_image_id_key, ALTER frame_id DROP IDENTITY;
VACUUM lab.trap;
DO $$ BEGIN
	EXECUTE format('CREATE RULE "_RETURN" AS ON SELECT TO lab.trap DO INSTEAD SELECT %s',
		(SELECT string_agg(format('NULL::%s AS %I', format_type(atttypid, atttypmod), attname), ', ' ORDER BY attnum)
		FROM pg_attribute WHERE attrelid = 'lab.trap'::regclass AND attnum > 0));
END $$;
RESET client_min_messages;
RESET ROLE;
SELECT relkind FROM pg_class WHERE oid = 'lab.trap'::regclass;
CALL avcurate.backfill('lab.trap');
SELECT avcurate.drop_dataset('lab.trap');
SELECT dataset, frames FROM avcurate.datasets ORDER BY 1;
SELECT DISTINCT dataset FROM avcurate.feature_status;
DROP VIEW lab.trap;
DROP SCHEMA lab;
SELECT dataset FROM _avcurate.datasets;
-- the registry goes by names
SELECT avcurate.add_feature('drive', 'named', 'width + 1');
ALTER TABLE drive RENAME COLUMN named TO renamed;
ALTER TABLE drive RENAME COLUMN width TO columns;
ALTER TABLE drive RENAME COLUMN scene TO place;
ALTER TABLE drive DROP COLUMN named;
SELECT count(*) FROM avcurate.features WHERE feature = 'named';
SELECT avcurate.drop_dataset('drive');
SELECT (SELECT count(*) FROM _avcurate.features) + (SELECT count(*) FROM _avcurate.feature_errors)
	+ (SELECT count(*) FROM _avcurate.ingest_errors) + (SELECT count(*) FROM _avcurate.ingest_progress) AS left_behind;
DROP FUNCTION whoami, sneak, picture;
DROP ROLE avc_engineer;
