-- Who sees a slice and its versions, and what a refresh by difference needs
-- of the view's owner: what REFRESH needs, with the same errors.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS avcurate;
SET client_min_messages = notice;
\set VERBOSITY terse
CREATE ROLE regress_provider;
CREATE ROLE regress_curator;
CREATE ROLE regress_viewer;
CREATE SCHEMA depot AUTHORIZATION regress_provider;
GRANT ALL ON SCHEMA depot TO regress_curator;
GRANT USAGE ON SCHEMA depot TO regress_viewer;
SET search_path = depot;
SET avcurate.refresh_full_threshold = 1;
CREATE FUNCTION jpeg(seed text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
	SELECT '\xffd8fffe'::bytea
		|| decode(lpad(to_hex(octet_length(seed) + 2), 4, '0'), 'hex')
		|| convert_to(seed, 'UTF8')
		|| '\xffc000110801e0028003012200021101031101ffda000c03010002110311003f0000ffd9'::bytea
$$;
SET ROLE regress_provider;
SELECT avcurate.create_dataset('frames');
INSERT INTO frames (image_id, weather, image_bytes) SELECT 'f' || i, 'rainy', jpeg('f' || i) FROM generate_series(1, 5) i;
CREATE FUNCTION is_wet(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN $1 = 'rainy'; END$$;
GRANT SELECT, TRIGGER ON frames TO regress_curator;
SET ROLE regress_curator;
SELECT avcurate.create_slice('wet', 'frames', 'depot.is_wet(weather)');
RESET ROLE;
UPDATE frames SET scene = 'bridge' WHERE frame_id = 2;
SELECT avcurate.refresh_slice('wet');
SELECT avcurate.tag_slice('wet', 1, 'first');

-- a role that may not read the view learns nothing of it
CREATE PROCEDURE try(sql text) LANGUAGE plpgsql AS $$
DECLARE
	found bigint;
BEGIN
	EXECUTE sql;
	GET DIAGNOSTICS found = ROW_COUNT;
	RAISE NOTICE '% rows: %', found, sql;
EXCEPTION WHEN OTHERS THEN
	RAISE NOTICE '% %: %', SQLSTATE, SQLERRM, sql;
END $$;
CREATE PROCEDURE read_all() LANGUAGE plpgsql AS $$
BEGIN
	CALL depot.try('SELECT FROM avcurate.slices');
	CALL depot.try('SELECT FROM avcurate.slice_versions');
	CALL depot.try('SELECT FROM avcurate.slice_at(NULL::depot.wet, 1)');
	CALL depot.try('SELECT FROM avcurate.slice_diff(NULL::depot.wet, 1, 2)');
	CALL depot.try($q$SELECT FROM avcurate.verify_slice('depot.wet')$q$);
	CALL depot.try($q$SELECT FROM avcurate.explain_refresh('depot.wet')$q$);
	CALL depot.try($q$SELECT avcurate.batch_count('depot.wet', 2)$q$);
	CALL depot.try($q$SELECT FROM avcurate.batches('depot.wet', 2)$q$);
	CALL depot.try('SELECT FROM depot.wet');
	CALL depot.try($q$SELECT avcurate.refresh_slice('depot.wet')$q$);
	CALL depot.try('SELECT avcurate.refresh_slices()');
	CALL depot.try($q$SELECT avcurate.tag_slice('depot.wet', 1, 'mine')$q$);
	CALL depot.try($q$SELECT avcurate.prune_slice('depot.wet')$q$);
	CALL depot.try($q$SELECT avcurate.alter_slice('depot.wet', filter => 'true')$q$);
END $$;
SET ROLE regress_viewer;
CALL read_all();
CALL try($q$SELECT avcurate.erase_frame('depot.frames', 1, 'none')$q$);
-- nor by tables of the extension
SELECT regexp_replace(relname, '_\d+$', '_N') AS relname, has_table_privilege('regress_viewer', oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') AS any_right,
	has_any_column_privilege('regress_viewer', oid, 'SELECT, INSERT, UPDATE, REFERENCES') AS any_column
	FROM pg_class WHERE relnamespace = '_avcurate'::regnamespace AND relkind = 'r'
	AND relname IN ('slices', 'slice_versions', 'slice_tags', 'slice_watermarks', 'tombstones', 'archive')
	OR relname = (SELECT 'history_' || max(substr(relname, 9)::int) FROM pg_class WHERE relname ~ '^history_\d+$') ORDER BY 1;
-- a column is not enough to see versions, which hold all of them
RESET ROLE;
GRANT SELECT (frame_id) ON wet TO regress_viewer;
SET ROLE regress_viewer;
CALL try('SELECT FROM avcurate.slices');
CALL try('SELECT FROM avcurate.slice_at(NULL::depot.wet, 1)');
CALL try('SELECT frame_id FROM depot.wet');
-- SELECT on the view is, without a right on the dataset; images need one there
RESET ROLE;
GRANT SELECT ON wet TO regress_viewer;
SET ROLE regress_viewer;
CALL read_all();
-- the owner of the dataset may read frames, not other roles' slices of them
SET ROLE regress_provider;
CALL read_all();
RESET ROLE;

-- what the owner needs: by difference, explained, typed; each time with a row
-- that changed
CREATE FUNCTION newest() RETURNS text LANGUAGE sql AS $$
	SELECT format('version %s, %s: %s changed', version, mode, changed) FROM avcurate.slice_versions v
	WHERE slice = 'depot.wet'::regclass ORDER BY version DESC LIMIT 1
$$;
CREATE PROCEDURE refresh() LANGUAGE plpgsql AS $$
BEGIN
	UPDATE depot.frames SET scene = scene || '.' WHERE frame_id = 2;
	CALL depot.try($q$SELECT avcurate.refresh_slice('depot.wet')$q$);
	RAISE NOTICE '%', depot.newest();
	UPDATE depot.frames SET scene = scene || '.' WHERE frame_id = 2;
	BEGIN
		REFRESH MATERIALIZED VIEW depot.wet;
	EXCEPTION WHEN OTHERS THEN
		RAISE NOTICE '% %: REFRESH', SQLSTATE, SQLERRM;
	END;
	BEGIN
		REFRESH MATERIALIZED VIEW CONCURRENTLY depot.wet;
	EXCEPTION WHEN OTHERS THEN
		RAISE NOTICE '% %: REFRESH CONCURRENTLY', SQLSTATE, SQLERRM;
	END;
	RAISE NOTICE '%', depot.newest();
END $$;
CALL refresh();
REVOKE SELECT ON frames FROM regress_curator;
CALL refresh();
SELECT mode, reason FROM avcurate.explain_refresh('wet');
-- some columns, but not all that the definition reads
GRANT SELECT (frame_id, weather) ON frames TO regress_curator;
CALL refresh();
GRANT SELECT (frame_time, width, height, image_sha256, image_id, split, scene, timeofday, ann_categories, ann_bboxes, ann_occluded, ann_truncated, ann_ignored) ON frames TO regress_curator;
CALL refresh();
GRANT SELECT (ann_area) ON frames TO regress_curator;
CALL refresh();
-- the function of the filter
REVOKE EXECUTE ON FUNCTION is_wet(text) FROM PUBLIC;
CALL refresh();
GRANT EXECUTE ON FUNCTION is_wet(text) TO regress_curator;
-- and USAGE on the view's own schema, as REFRESH CONCURRENTLY does
REVOKE ALL ON SCHEMA depot FROM regress_curator;
CALL refresh();
GRANT ALL ON SCHEMA depot TO regress_curator;

-- another owner, who lacks what the first had, then has it
ALTER MATERIALIZED VIEW wet OWNER TO regress_viewer;
CALL refresh();
GRANT EXECUTE ON FUNCTION is_wet(text) TO regress_viewer;
CALL refresh();
GRANT SELECT ON frames TO regress_viewer;
CALL refresh();
SET ROLE regress_curator;
CALL try($q$SELECT avcurate.refresh_slice('depot.wet')$q$);
RESET ROLE;
GRANT regress_viewer TO regress_curator;
SET ROLE regress_curator;
CALL try($q$SELECT avcurate.refresh_slice('depot.wet')$q$);
RESET ROLE;
-- all the viewer has goes to the curator
GRANT CREATE ON SCHEMA depot TO regress_viewer;
REASSIGN OWNED BY regress_viewer TO regress_curator;
CALL refresh();
SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'wet'::regclass;
SELECT bool_and(c.verified) FROM avcurate.slice_versions v, avcurate.verify_slice('wet', v.version) c WHERE v.slice = 'wet'::regclass;
SELECT w.frame_id FROM wet w FULL JOIN (SELECT h::text FROM avcurate.slices s, avcurate.slice_at(NULL::wet, s.version) h
	WHERE s.slice = 'wet'::regclass) h ON h.h = w::text WHERE w.frame_id IS NULL OR h.h IS NULL;

RESET search_path;
SET client_min_messages = warning;
SELECT avcurate.untag_slice('depot.wet', 'first');
DROP SCHEMA depot CASCADE;
DROP OWNED BY regress_provider, regress_curator, regress_viewer;
DROP ROLE regress_provider;
DROP ROLE regress_curator;
DROP ROLE regress_viewer;
