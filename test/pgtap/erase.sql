-- erase_frame: nothing of the frame is left, and every version accounts for it.
\set ON_ERROR_STOP 1
SET client_min_messages = error;
BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT no_plan();

CREATE FUNCTION pg_temp.jpeg(seed text) RETURNS bytea LANGUAGE sql AS $$
	SELECT '\xffd8ffc0001108003c005003012200021101031101ffda000c03010002110311003f00'::bytea
		|| convert_to(seed, 'UTF8') || decode(repeat(md5(seed), 150), 'hex') || '\xffd9'::bytea
$$;

CREATE SCHEMA road;
SELECT avcurate.create_dataset('road.frames') \g /dev/null
SELECT avcurate.create_dataset('road.others') \g /dev/null
INSERT INTO road.frames (image_id, split, scene, image_bytes, ann_categories, ann_bboxes)
	SELECT 'f' || n, 'train', CASE WHEN n = 3 THEN 'telltale' ELSE 'street' END,
		pg_temp.jpeg(CASE WHEN n = 3 THEN 'telltale first' ELSE 'f' || n END),
		'{person}', '{{1,2,11,22}}' FROM generate_series(1, 12) n;
INSERT INTO road.others (image_id, image_bytes, ann_categories, ann_bboxes)
	SELECT 'f' || n, pg_temp.jpeg('f' || n), '{}', '{}' FROM generate_series(1, 5) n;
SELECT avcurate.create_slice('road.every', 'road.frames', 'true') \g /dev/null
SELECT avcurate.create_slice('road.even', 'road.frames', 'frame_id % 2 = 0') \g /dev/null
SELECT avcurate.create_slice('road.doomed', 'road.frames', 'true') \g /dev/null
SELECT avcurate.create_slice('road.foreign', 'road.others', 'true') \g /dev/null
CREATE MATERIALIZED VIEW road.mine AS
	SELECT frame_id, scene, image_sha256, row_number() OVER (ORDER BY frame_id) AS place FROM road.frames;
CREATE UNIQUE INDEX ON road.mine (frame_id);
CREATE INDEX ON road.mine (scene) WHERE place > 1;
SELECT avcurate.track_slice('road.mine') \g /dev/null
CREATE VIEW road.between AS SELECT * FROM road.frames;
CREATE MATERIALIZED VIEW road.loose AS SELECT frame_id, scene FROM road.between;
CREATE MATERIALIZED VIEW road.unrelated AS SELECT frame_id FROM road.others;
-- names the dataset of another slice and reads this one, too
CREATE MATERIALIZED VIEW road.joined AS
	SELECT o.frame_id, f.scene FROM road.others o JOIN road.frames f USING (frame_id);
CREATE UNIQUE INDEX ON road.joined (frame_id);
SELECT avcurate.track_slice('road.joined') \g /dev/null

-- three contents of frame 3, one of them in a version that stays, one put back
UPDATE road.frames SET image_bytes = pg_temp.jpeg('telltale second') WHERE frame_id = 3;
UPDATE road.frames SET scene = CASE frame_id WHEN 3 THEN 'telltale too' ELSE 'avenue' END WHERE frame_id IN (3, 4);
SELECT count(*) FROM avcurate.refresh_slices('road.frames') \g /dev/null
UPDATE road.frames SET image_bytes = pg_temp.jpeg('telltale first') WHERE frame_id = 3;
SELECT count(*) FROM avcurate.refresh_slices('road.frames') \g /dev/null
UPDATE road.frames SET scene = 'street' WHERE frame_id = 4;
UPDATE road.frames SET image_bytes = pg_temp.jpeg('telltale third') WHERE frame_id = 3;
SELECT count(*) FROM avcurate.refresh_slices('road.frames') \g /dev/null
SELECT is((SELECT version FROM avcurate.slices WHERE slice = 'road.every'::regclass), 4::bigint, 'four versions');
SELECT is((SELECT count(*) FROM _avcurate.archive WHERE frame_id = 3), 2::bigint, 'an image that was put back and replaced again is archived once');

-- a slice dropped while a version of it is pinned
SELECT avcurate.tag_slice('road.doomed', 2, 'kept') \g /dev/null
DROP MATERIALIZED VIEW road.doomed;

-- what was made of it
SELECT avcurate.create_model('eraser', 'small', '{"min_size": 64, "max_size": 112, "fpn_channels": 16, "representation_size": 32, "widths": [8, 8, 8, 8]}') \g /dev/null
SELECT avcurate.create_checkpoint('eraser') AS trained \gset
UPDATE _avcurate.checkpoints c SET slice_id = s.slice_id, version = 2, digest = v.digest, rows = v.rows
	FROM _avcurate.slices s JOIN _avcurate.slice_versions v ON v.slice_id = s.slice_id AND v.version = 2
	WHERE s.slice = 'road.every'::regclass AND c.checkpoint = :trained;
SELECT is((SELECT bool_and(ok) FROM avcurate.verify_checkpoint(:trained)), true, 'the checkpoint verifies before');
INSERT INTO _avcurate.evaluations (evaluation, checkpoint, slice_id, version, frames, min_score, role, mode, label_map)
	SELECT n, :trained, slice_id, 3, 12, 0, current_user::regrole, 'coco', 'coco'
	FROM _avcurate.slices, generate_series(901, 902) n WHERE slice = 'road.every'::regclass;
INSERT INTO _avcurate.jobs (role, kind, body, state, dataset, slice_id, version) OVERRIDING SYSTEM VALUE
	SELECT current_user::regrole, 'evaluate', 'none', 'failed', dataset, slice_id, 1
	FROM _avcurate.slices WHERE slice = 'road.every'::regclass RETURNING job \gset
INSERT INTO _avcurate.matches (evaluation, frame_id, label, kind, category, truth_box)
	SELECT e, f, 1, 'missed', 'person', '{1,2,11,22}' FROM unnest(array[901, :job]) e, generate_series(2, 4) f;
INSERT INTO _avcurate.feature_errors (dataset, feature, frame_id, sqlstate, message)
	SELECT d, 'hash', f, '22000', 'cannot read telltale' FROM unnest('{road.frames,road.others}'::regclass[]) d, generate_series(3, 3) f;
UPDATE _avcurate.feature_errors SET message = 'another' WHERE dataset = 'road.others'::regclass;
INSERT INTO _avcurate.ingest_errors (dataset, source, run, sqlstate, message)
	SELECT 'road.frames', s, '/data', '22000', CASE WHEN s LIKE '%f3%' AND s NOT LIKE '%f30%' THEN 'telltale' ELSE 'bad' END
	FROM unnest('{/data/f3.jpg,/labels.json#f3.JPEG,/labels/f3.json,f3,/data/f30.jpg,"/labels.json, entry 3"}'::text[]) s;
INSERT INTO _avcurate.ingest_errors (dataset, source, run, sqlstate, message) VALUES ('road.others', '/data/f3.jpg', '/data', '22000', 'bad');

-- Rows of any table or view that hold the text, as text or as bytes.
CREATE FUNCTION pg_temp.traces(marker text) RETURNS TABLE (relation text, rows bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR relation IN SELECT c.oid::regclass FROM pg_class c
		WHERE c.relkind IN ('r', 'm') AND c.relnamespace::regnamespace::text !~ '^pg_|^information'
		AND c.oid <> 'road.loose'::regclass AND c.oid <> 'road.joined'::regclass
		AND c.oid <> (SELECT to_regclass('_avcurate.history_' || slice_id) FROM _avcurate.slices WHERE slice = 'road.joined'::regclass)
		AND c.relname <> '__tcache__' ORDER BY 1
	LOOP
		EXECUTE format('SELECT count(*) FROM %s t WHERE strpos(t::text, %L) > 0 OR strpos(t::text, %L) > 0',
			relation, marker, encode(convert_to(marker, 'UTF8'), 'hex')) INTO rows;
		IF rows > 0 THEN RETURN NEXT; END IF;
	END LOOP;
END $$;

SELECT slice_id AS every FROM _avcurate.slices WHERE slice = 'road.every'::regclass \gset
CREATE FUNCTION pg_temp.contents() RETURNS TABLE (version bigint, whole text) LANGUAGE sql AS $$
	SELECT v.version, f::text FROM avcurate.slice_versions v, avcurate.slice_at(NULL::road.every, v.version) f
	WHERE v.slice = 'road.every'::regclass AND f.frame_id <> 3 $$;
CREATE TEMP TABLE before AS SELECT * FROM pg_temp.contents();
CREATE TEMP TABLE recorded AS SELECT slice_id, version, rows, digest FROM _avcurate.slice_versions;

-- ---- refusals
SELECT throws_ok($$SELECT * FROM avcurate.erase_frame('road.frames', 3, '')$$, '22023', 'reason must not be empty', 'no reason');
SELECT throws_ok($$SELECT * FROM avcurate.erase_frame('road.frames', 3, E' \n')$$, '22023', 'reason must not be empty', 'an empty one');
SELECT throws_ok($$SELECT * FROM avcurate.erase_frame('road.frames', 3, NULL)$$, '22023', 'reason must not be empty', 'none at all');
SELECT throws_ok($$SELECT * FROM avcurate.erase_frame(NULL, 3, 'x')$$, '22004', 'dataset and frame_id must not be NULL', 'no dataset');
SELECT throws_ok($$SELECT * FROM avcurate.erase_frame('road.every', 3, 'x')$$, NULL, NULL, 'a slice is no dataset');
SELECT throws_ok($$SELECT * FROM avcurate.erase_frame('road.frames', 4711, 'x')$$, '42704',
	'neither dataset road.frames nor any version of its slices has frame 4711', 'a frame that nobody has');
CREATE ROLE avc_stranger;
GRANT USAGE ON SCHEMA road TO avc_stranger;
GRANT ALL ON ALL TABLES IN SCHEMA road TO avc_stranger;
SET LOCAL ROLE avc_stranger;
SELECT throws_ok($$SELECT * FROM avcurate.erase_frame('road.frames', 3, 'x')$$, '42501', NULL, 'only the owner of the dataset erases');
SELECT is_empty($$SELECT * FROM avcurate.erasures$$, 'and only he sees the log');
RESET ROLE;

-- ---- what stands in the way of the deletion
SAVEPOINT s;
CREATE TABLE road.remarks (frame_id bigint REFERENCES road.frames DEFERRABLE INITIALLY DEFERRED);
SELECT throws_ok($$SELECT * FROM avcurate.erase_frame('road.frames', 3, 'x')$$, '42501',
	'cannot fire deferred trigger within security-restricted operation', 'a deferred key');
CREATE FUNCTION pg_temp.hint_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	EXECUTE statement;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN hint;
END $$;
SELECT matches(pg_temp.hint_of($$SELECT * FROM avcurate.erase_frame('road.frames', 3, 'x')$$),
	'SET CONSTRAINTS ALL IMMEDIATE', 'the hint says what to do');
SET CONSTRAINTS ALL IMMEDIATE;
SELECT lives_ok($$SELECT * FROM avcurate.erase_frame('road.frames', 3, 'x')$$, 'and that helps');
ROLLBACK TO s;
-- a view dropped while nobody looked
ALTER EVENT TRIGGER avcurate_slice_dropped DISABLE;
DROP MATERIALIZED VIEW road.even;
ALTER EVENT TRIGGER avcurate_slice_dropped ENABLE ALWAYS;
SELECT lives_ok($$SELECT * FROM avcurate.erase_frame('road.frames', 4, 'x')$$, 'a slice whose view is gone is erased from');
SELECT is((SELECT count(*) FROM pg_temp.traces('avenue')), 0::bigint, 'wholly');
ROLLBACK TO s;

-- ---- a savepoint undoes it
SAVEPOINT s;
SELECT count(*) FROM avcurate.erase_frame('road.frames', 3, 'a mistake') \g /dev/null
SELECT is((SELECT count(*) FROM pg_temp.traces('telltale')), 0::bigint, 'erased in a savepoint');
SELECT is((SELECT array_agg(frame_id ORDER BY frame_id) FROM avcurate.batches('road.every', 4, 2)), '{1,2,4,5,6,7,8,9,10,11,12}', 'batches there');
ROLLBACK TO s;
SELECT is((SELECT array_agg(frame_id ORDER BY frame_id) FROM avcurate.batches('road.every', 4, 2)), '{1,2,3,4,5,6,7,8,9,10,11,12}', 'undone');
SELECT is((SELECT bool_and(c.verified AND c.erased = 0) FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c WHERE v.slice IS NOT NULL), true, 'in the accounts, too');
SELECT is_empty($$SELECT * FROM avcurate.erasures$$, 'and in the log');
SELECT cmp_ok((SELECT count(*) FROM pg_temp.traces('telltale')), '>', 8::bigint, 'the search for traces finds them');

-- ---- slices of other owners
CREATE ROLE avc_other;
GRANT ALL ON SCHEMA road TO avc_other;
GRANT SELECT ON road.frames TO avc_other;
ALTER MATERIALIZED VIEW road.even OWNER TO avc_other;
CREATE ROLE avc_keeper;
GRANT ALL ON SCHEMA road TO avc_keeper;
ALTER TABLE road.frames OWNER TO avc_keeper;
ALTER VIEW road.frames_boxes OWNER TO avc_keeper;

SET LOCAL ROLE avc_keeper;
SELECT results_eq($$SELECT * FROM avcurate.erase_frame('road.frames', 3, 'asked to')$$,
	format($$VALUES ('dataset', 'road.frames', NULL::bigint),
		('slice', 'road.every', NULL), ('version', 'road.every', 1), ('version', 'road.every', 2), ('version', 'road.every', 3), ('version', 'road.every', 4),
		('checkpoint', '%1$s', 2), ('evaluation', '901', 3), ('evaluation', '902', 3),
		('slice', 'road.doomed', NULL), ('version', 'road.doomed', 1), ('version', 'road.doomed', 2), ('version', 'road.doomed', 3), ('version', 'road.doomed', 4),
		('slice', 'road.mine', NULL), ('version', 'road.mine', 1), ('version', 'road.mine', 2), ('version', 'road.mine', 3), ('version', 'road.mine', 4),
		('archive', 'road.frames', NULL), ('matches', '%2$s', NULL), ('matches', '901', NULL),
		('feature_errors', 'hash', NULL), ('ingest_errors', 'road.frames', NULL),
		('slice of another dataset', 'road.joined', NULL), ('untracked view', 'road.loose', NULL)$$, :trained, :job),
	'one row for everything that held it, and nothing else');
SELECT results_eq($$SELECT dataset, frame_id, erased_by, reason, jsonb_array_length(touched), touched -> 2 FROM avcurate.erasures$$,
	$$VALUES ('road.frames'::regclass, 3::bigint, 'avc_keeper'::name, 'asked to', 26, '{"kind": "version", "object": "road.every", "version": 1}'::jsonb)$$, 'the log says the same');
RESET ROLE;

SELECT is_empty($$SELECT * FROM pg_temp.traces('telltale')$$, 'no table holds anything of it');
SELECT results_eq($$SELECT source FROM _avcurate.ingest_errors WHERE dataset = 'road.frames'::regclass ORDER BY 1$$,
	$$VALUES ('/data/f30.jpg'), ('/labels.json, entry 3')$$, 'other errors of the ingest stay');
SELECT is((SELECT count(*) FROM _avcurate.ingest_errors WHERE dataset = 'road.others'::regclass), 1::bigint, 'of other datasets, too');
SELECT results_eq($$SELECT frame_id, count(*) FROM _avcurate.matches GROUP BY 1 ORDER BY 1$$,
	$$VALUES (2::bigint, 2::bigint), (4, 2)$$, 'matches of other frames stay');
SELECT results_eq($$SELECT dataset FROM _avcurate.feature_errors$$, $$VALUES ('road.others'::regclass)$$, 'errors of features of other datasets stay');
SELECT is((SELECT count(*) FROM road.others), 5::bigint, 'the same number in another dataset is another frame');
SELECT is((SELECT count(*) FROM avcurate.slice_at(NULL::road.foreign, 1)), 5::bigint, 'and so it is in its slices');
SELECT results_eq($$SELECT frame_id FROM _avcurate.tombstones WHERE dataset = 'road.frames'::regclass$$, $$VALUES (3::bigint)$$, 'refreshes learn of the deletion');
SELECT is((SELECT count(*) FROM _avcurate.archive WHERE frame_id <> 3), 0::bigint, 'nothing was archived on the way');

-- ---- the accounts
SELECT results_eq($$SELECT slice_id, version, rows, digest FROM _avcurate.slice_versions ORDER BY 1, 2$$,
	$$SELECT * FROM recorded ORDER BY 1, 2$$, 'rows and digests stay as recorded');
SELECT results_eq($$SELECT v.version, c.rows, c.erased, c.digest = v.digest, c.verified, c.detail
	FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c WHERE v.slice = 'road.every'::regclass ORDER BY 1$$,
	$$SELECT v, 11::bigint, 1::bigint, true, true, '12 rows minus 1 erased: rows and images match' FROM generate_series(1, 4::bigint) v$$, 'every version verifies');
SELECT is((SELECT bool_and(c.verified) FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c WHERE v.slice IS NOT NULL), true, 'of every slice');
SELECT results_eq($$SELECT DISTINCT erased FROM avcurate.slice_versions WHERE slice = 'road.even'::regclass$$, $$VALUES (0::bigint)$$, 'a slice that never had it has nothing to account for');
SELECT set_eq($$SELECT * FROM pg_temp.contents()$$, $$SELECT * FROM before$$, 'all other rows of all versions are as they were');
SELECT is((SELECT rows FROM avcurate.slices WHERE slice = 'road.every'::regclass), 11::bigint, 'rows of the newest version');
SELECT results_eq($$SELECT check_name, ok, detail LIKE '%: 12 rows minus 1 erased: rows and images match' FROM avcurate.verify_checkpoint($$ || :trained || ') OFFSET 1',
	$$VALUES ('pin', true, true)$$, 'the checkpoint still verifies, and says so');
SELECT is((SELECT array_agg(change || frame_id ORDER BY frame_id) FROM avcurate.slice_diff(NULL::road.every, 1, 2)), '{changed4}', 'slice_diff');

-- what is wrong besides is still found
SAVEPOINT s;
DELETE FROM _avcurate.history_:every WHERE frame_id = 5;
SELECT results_eq($$SELECT verified, detail FROM avcurate.verify_slice('road.every', 1)$$,
	format($$VALUES (false, 'rows recorded: 12 minus 1 erased; digest recorded: %s')$$, (SELECT digest FROM recorded WHERE slice_id = :every AND version = 1)), 'a row lost on top of it');
SELECT is((SELECT bool_or(ok) FROM avcurate.verify_checkpoint(:trained) WHERE check_name = 'pin'), false, 'breaks the pin');
ROLLBACK TO s;

-- ---- going on
SELECT is((SELECT array_agg(frame_id ORDER BY frame_id) FROM avcurate.batches('road.every', 4, 2)), '{1,2,4,5,6,7,8,9,10,11,12}', 'batches go on with the rest');
SELECT is((SELECT count(*) FROM avcurate.batches('road.every', 4, 2, epoch => 3, rank => 1, world_size => 2)), 4::bigint, 'for every rank');
SELECT is(avcurate.batch_count('road.every', 4, 2), 3::bigint, 'counted without it');
SELECT is(avcurate.refresh_slice('road.every'), 4::bigint, 'a refresh has nothing to do');
SELECT lives_ok($$SELECT * FROM avcurate.erase_frame('road.frames', 4, 'next')$$, 'a second one in the same transaction');
SELECT is((SELECT array_agg(frame_id ORDER BY frame_id) FROM avcurate.batches('road.every', 4, 2)), '{1,2,5,6,7,8,9,10,11,12}', 'a session that kept the list of frames notices');
SELECT is(avcurate.refresh_slice('road.every'), 4::bigint, 'still nothing to do');
UPDATE road.frames SET scene = 'bridge' WHERE frame_id = 5;
SELECT is(avcurate.refresh_slice('road.every'), 5::bigint, 'the next version');
REFRESH MATERIALIZED VIEW road.mine;
INSERT INTO road.frames (image_id, image_bytes, ann_categories, ann_bboxes) VALUES ('late', pg_temp.jpeg('late'), '{}', '{}');
REFRESH MATERIALIZED VIEW CONCURRENTLY road.mine;
REFRESH MATERIALIZED VIEW road.every WITH NO DATA;
SELECT lives_ok($$SELECT * FROM avcurate.erase_frame('road.frames', 6, 'the view is empty')$$, 'from a slice without data');
SELECT is(avcurate.refresh_slice('road.every'), 6::bigint, 'filled again');
SELECT results_eq($$SELECT v.slice::text, c.version, c.rows, c.erased, c.detail
	FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c
	WHERE v.slice IN ('road.every'::regclass, 'road.mine'::regclass) AND v.version > 3 AND c.verified ORDER BY 1, 2$$,
	$$VALUES ('road.every', 4::bigint, 9::bigint, 3::bigint, '12 rows minus 3 erased: rows and images match'),
		('road.every', 5, 9, 1, '10 rows minus 1 erased: rows and images match'), ('road.every', 6, 10, 0, 'rows and images match'),
		('road.mine', 4, 9, 3, '12 rows minus 3 erased: rows and images match'), ('road.mine', 5, 9, 1, '10 rows minus 1 erased: rows and images match'),
		('road.mine', 6, 10, 1, '11 rows minus 1 erased: rows and images match')$$, 'sums of one version do not carry to the next');

-- ---- frames that only versions hold
DELETE FROM road.frames WHERE frame_id = 7;
SELECT count(*) FROM avcurate.refresh_slices('road.frames') \g /dev/null
SELECT results_eq($$SELECT object_kind, count(*) FROM avcurate.erase_frame('road.frames', 7, 'gone already') GROUP BY 1 ORDER BY 1$$,
	$$VALUES ('archive', 1::bigint), ('checkpoint', 1), ('evaluation', 2), ('slice', 3), ('slice of another dataset', 1), ('untracked view', 1), ('version', 16)$$, 'deleted before');
SELECT throws_ok($$SELECT * FROM avcurate.erase_frame('road.frames', 7, 'again')$$, '42704', NULL, 'not twice');
INSERT INTO road.frames (frame_id, image_id, image_bytes, ann_categories, ann_bboxes) OVERRIDING SYSTEM VALUE VALUES (7, 'new 7', pg_temp.jpeg('new 7'), '{}', '{}');
SELECT lives_ok($$SELECT * FROM avcurate.erase_frame('road.frames', 7, 'the other one')$$, 'unless the number was given to another frame');

-- ---- versions with different columns, and a renamed one
SELECT avcurate.create_slice('road.wide', 'road.frames', 'true', '{scene,weather}') \g /dev/null
UPDATE road.frames SET weather = 'fog' WHERE frame_id IN (9, 10);
SELECT is(avcurate.refresh_slice('road.wide'), 2::bigint, 'a slice of few columns');
SELECT is(avcurate.alter_slice('road.wide', columns => '{weather,timeofday}'), 3::bigint, 'gets others');
UPDATE road.frames SET timeofday = 'dusk' WHERE frame_id = 9;
SELECT is(avcurate.refresh_slice('road.wide'), 4::bigint, 'goes on');
ALTER MATERIALIZED VIEW road.wide RENAME COLUMN weather TO sky;
SELECT is(avcurate.alter_slice('road.wide', columns => '{scene,weather}'), 5::bigint, 'and gets the first ones back');
SELECT results_eq($$SELECT object_kind, version FROM avcurate.erase_frame('road.frames', 9, 'of many shapes') WHERE object = 'road.wide' ORDER BY 1, 2$$,
	$$VALUES ('slice', NULL::bigint), ('version', 1), ('version', 2), ('version', 3), ('version', 4), ('version', 5)$$, 'erased from all of them');
SELECT results_eq($$SELECT v.version, c.verified, c.erased, c.digest = v.digest FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c
	WHERE v.slice = 'road.wide'::regclass ORDER BY 1$$, $$SELECT v, true, 1::bigint, true FROM generate_series(1, 5::bigint) v$$, 'each accounts for the columns that it has');

-- ---- a dataset without slices
SELECT avcurate.create_dataset('road.bare') \g /dev/null
INSERT INTO road.bare (image_id, image_bytes) VALUES ('b', pg_temp.jpeg('b'));
SELECT results_eq($$SELECT * FROM avcurate.erase_frame('road.bare', 1, 'x')$$, $$VALUES ('dataset', 'road.bare', NULL::bigint)$$, 'a dataset without slices');
SELECT throws_ok($$SELECT * FROM avcurate.erase_frame('road.bare', 1, 'x')$$, '42704', NULL, 'where it is gone, too');

-- ---- a view that still holds one cannot be tracked
CREATE UNIQUE INDEX ON road.loose (frame_id);
SELECT throws_ok($$SELECT avcurate.track_slice('road.loose')$$, '55000', 'materialized view "loose" holds frame 3, which was erased', 'a stale view is refused');
REFRESH MATERIALIZED VIEW road.loose;
SELECT lives_ok($$SELECT avcurate.track_slice('road.loose')$$, 'until it is refreshed');

-- ---- what hides a row does not keep it
ALTER TABLE road.frames FORCE ROW LEVEL SECURITY;
ALTER TABLE road.frames ENABLE ROW LEVEL SECURITY;
SELECT throws_like($$SELECT * FROM avcurate.erase_frame('road.frames', 8, 'x')$$, 'frame 8 of dataset road.frames cannot be deleted', 'row security forced on the owner');
ALTER TABLE road.frames NO FORCE ROW LEVEL SECURITY;
CREATE FUNCTION road.keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER keep BEFORE DELETE ON road.frames FOR EACH ROW EXECUTE FUNCTION road.keep();
SELECT throws_like($$SELECT * FROM avcurate.erase_frame('road.frames', 8, 'x')$$, 'frame 8 of dataset road.frames cannot be deleted', 'a trigger that returns NULL');
DROP TRIGGER keep ON road.frames;

-- The owner's own triggers run with his rights, whoever erases.
CREATE TABLE road.seen (who name, may boolean);
GRANT ALL ON road.seen TO avc_keeper;
CREATE FUNCTION road.see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO road.seen VALUES (current_user, has_schema_privilege('_avcurate', 'USAGE'));
	RETURN OLD;
END $$;
CREATE TRIGGER see BEFORE DELETE ON road.frames FOR EACH ROW EXECUTE FUNCTION road.see();
SELECT lives_ok($$SELECT * FROM avcurate.erase_frame('road.frames', 8, 'by a superuser')$$, 'erased with a trigger of the owner');
SELECT results_eq($$SELECT * FROM road.seen$$, $$VALUES ('avc_keeper'::name, false)$$, 'which runs as he and may no more than he');

SELECT is((SELECT bool_and(c.verified) FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c
	WHERE v.slice IS NOT NULL AND v.slice <> 'road.joined'::regclass), true, 'every version of every slice verifies in the end');
SELECT is((SELECT count(*) FROM avcurate.erasures), 8::bigint, 'the log has every erasure');
DROP TABLE road.frames CASCADE;
SELECT results_eq($$SELECT DISTINCT dataset IS NULL, dataset_name FROM _avcurate.erasures ORDER BY 2$$, $$VALUES (false, 'road.bare'), (true, 'road.frames')$$, 'and keeps it when the dataset is dropped');

SELECT * FROM finish();
ROLLBACK;
