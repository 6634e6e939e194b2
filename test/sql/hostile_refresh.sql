-- A slice whose definition, indexes and types act when rows are refreshed one
-- by one: they run as the owner of the view, in a security-restricted
-- operation, whoever refreshes, and what they do to the slice is refused.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS avcurate;
SET client_min_messages = notice;
\set VERBOSITY terse
CREATE ROLE regress_mallory;
CREATE SCHEMA den AUTHORIZATION regress_mallory;
SET avcurate.refresh_full_threshold = 1;
CREATE FUNCTION den.jpeg(seed text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
	SELECT '\xffd8fffe'::bytea
		|| decode(lpad(to_hex(octet_length(seed) + 2), 4, '0'), 'hex')
		|| convert_to(seed, 'UTF8')
		|| '\xffc000110801e0028003012200021101031101ffda000c03010002110311003f0000ffd9'::bytea
$$;
SET ROLE regress_mallory;
SET search_path = den;
CREATE TABLE loot (what text);
-- tries to get more rights than it has, and tells whose it runs with
CREATE FUNCTION grab_now(what text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	statement text;
	done text := '';
BEGIN
	FOREACH statement IN ARRAY array['SET ROLE NONE', 'RESET SESSION AUTHORIZATION', 'ALTER ROLE regress_mallory SUPERUSER',
			'CREATE TEMP TABLE left_behind ()', 'SET search_path = den',
			'UPDATE _avcurate.slice_versions SET digest = digest', 'TRUNCATE _avcurate.tombstones'] LOOP
		BEGIN
			EXECUTE statement;
			done := done || ', ' || statement;
			RAISE 'undo';
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
	END LOOP;
	IF current_user <> 'regress_mallory' OR done NOT IN ('', ', SET search_path = den') THEN
		RAISE WARNING '% runs as %, could do: %', what, current_user, done;
	ELSE
		INSERT INTO den.loot VALUES (what);
	END IF;
END $$;
-- a function that claims to write nothing may call one that does
CREATE FUNCTION grab(what text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
	'BEGIN PERFORM den.grab_now(what); RETURN true; END';
CREATE FUNCTION grab_text(x text, what text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
	'BEGIN PERFORM den.grab_now(what); RETURN x; END';
CREATE FUNCTION grab_equal(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
	$$BEGIN PERFORM den.grab_now('operator'); RETURN $1 OPERATOR(pg_catalog.=) $2; END$$;
CREATE OPERATOR === (LEFTARG = text, RIGHTARG = text, FUNCTION = grab_equal);
CREATE TYPE bait AS (content text);
CREATE FUNCTION spring(text) RETURNS bait LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM den.grab_now('cast'); RETURN ROW($1)::den.bait; END$$;
CREATE CAST (text AS bait) WITH FUNCTION spring(text);

SELECT avcurate.create_dataset('frames');
INSERT INTO frames (image_id, weather, split, image_bytes)
	SELECT 'f' || i, 'rainy', 'train', jpeg('f' || i) FROM generate_series(1, 8) i;
CREATE MATERIALIZED VIEW prey AS
	SELECT frame_id, image_sha256, width, height, ann_categories, ann_bboxes, ann_ignored,
		grab_text(image_id, 'column') AS image_id, scene::bait AS scene
	FROM frames WHERE weather === 'rainy' AND grab_text(image_id, 'filter') IS NOT NULL;
CREATE UNIQUE INDEX ON prey (frame_id);
CREATE INDEX ON prey (grab_text(image_id, 'index of the view'));
CREATE INDEX ON prey (frame_id) WHERE grab('predicate of the view');
CREATE INDEX ON frames (grab_text(image_id, 'index of the dataset'));
CREATE INDEX ON frames (frame_id) WHERE grab('predicate of the dataset');
CREATE STATISTICS on_view ON grab_text(image_id, 'statistics'), frame_id FROM prey;
CREATE STATISTICS on_frames ON grab_text(image_id, 'statistics'), weather FROM frames;
SELECT avcurate.track_slice('prey');
RESET ROLE;

-- The superuser's names lead to mallory's functions, wherever a name is not
-- qualified or the path is not pinned.
CREATE FUNCTION den.sha256(bytea) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE WARNING 'den.sha256 is called'; RETURN pg_catalog.sha256($1); END$$;
CREATE FUNCTION den.false_equal(bigint, bigint) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE WARNING 'den.= is called'; RETURN false; END$$;
CREATE OPERATOR den.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = den.false_equal);
CREATE OPERATOR den.<= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = den.false_equal);
CREATE FUNCTION den.now() RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'den.now is called'; RETURN NULL; END$$;
CREATE FUNCTION den.pg_get_viewdef(oid) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'den.pg_get_viewdef is called'; RETURN NULL; END$$;
CREATE FUNCTION den.count(bigint) RETURNS bigint LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'den.count is called'; RETURN NULL; END$$;
CREATE TABLE den.pg_class (oid oid);
SET search_path = den, pg_catalog;

-- inserts, updates that move and that do not, deletes: new rows in all indexes
CREATE PROCEDURE den.change() LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET client_min_messages = error AS $$
BEGIN
	INSERT INTO den.frames (image_id, weather, image_bytes) SELECT 'g' || max(frame_id), 'rainy', den.jpeg('g' || max(frame_id)) FROM den.frames;
	UPDATE den.frames SET scene = scene || 'x' WHERE frame_id % 3 OPERATOR(pg_catalog.=) 0;
	UPDATE den.frames SET image_id = image_id || 'y' WHERE frame_id % 4 OPERATOR(pg_catalog.=) 1;
	DELETE FROM den.frames WHERE frame_id OPERATOR(pg_catalog.=) (SELECT min(frame_id) FROM den.frames);
	TRUNCATE den.loot;
END $$;
ALTER PROCEDURE den.change() OWNER TO regress_mallory;
CREATE PROCEDURE den.robbed() LANGUAGE plpgsql AS $$
DECLARE
	place text;
BEGIN
	FOR place IN SELECT DISTINCT what COLLATE "C" FROM den.loot
			-- constant conditions are evaluated once a session or more often
			WHERE what !~ 'predicate' ORDER BY 1 LOOP
		RAISE NOTICE '% ran', place;
	END LOOP;
	TRUNCATE den.loot;
END $$;
CALL den.change();
SELECT mode, reason, changed_rows FROM avcurate.explain_refresh('den.prey');
CALL den.robbed();
SELECT avcurate.refresh_slice('den.prey');
CALL den.robbed();
CALL den.change();
SELECT mode, reason, changed_rows FROM avcurate.explain_refresh('den.prey');
CALL den.robbed();
SELECT slice, version_before, version, added, removed, changed, mode FROM avcurate.refresh_slices();
CALL den.robbed();
CALL den.change();
REFRESH MATERIALIZED VIEW den.prey;
CALL den.change();
SELECT avcurate.refresh_slice('den.prey');
TRUNCATE den.loot;
-- reading and pruning run nothing of hers
SELECT count(*) FROM avcurate.slice_at(NULL::den.prey, 3);
SELECT frame_id, change FROM avcurate.slice_diff(NULL::den.prey, 4, 5);
SELECT v.version, v.mode, v.added, v.removed, v.changed, c.verified
	FROM avcurate.slice_versions v, avcurate.verify_slice('den.prey', v.version) c ORDER BY 1;
SELECT count(*) FROM avcurate.prune_slice('den.prey', 2) WHERE pruned;
CALL den.robbed();
-- erasing a frame of hers
SELECT count(*) > 0 AS erased FROM avcurate.erase_frame('den.frames', 6, 'asked for');
CALL den.robbed();
SHOW search_path;
SET search_path = pg_catalog;
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_mallory';

-- A filter that acts on what is being refreshed.
SET ROLE regress_mallory;
CREATE TABLE den.orders (statement text);
CREATE FUNCTION den.act_now() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	statement text;
BEGIN
	-- once is enough
	FOR statement IN DELETE FROM den.orders o RETURNING o.statement LOOP
		BEGIN
			EXECUTE statement;
			RAISE NOTICE 'done: %', statement;
		EXCEPTION WHEN OTHERS THEN
			RAISE NOTICE '%: %', SQLERRM, statement;
		END;
	END LOOP;
END $$;
CREATE FUNCTION den.act(bigint) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
	'BEGIN PERFORM den.act_now(); RETURN true; END';
DROP MATERIALIZED VIEW den.prey;
DROP INDEX den.frames_grab_text_idx, den.frames_frame_id_idx;
DROP STATISTICS den.on_frames;
SELECT avcurate.create_slice('den.actor', 'den.frames', 'den.act(frame_id)');
SELECT avcurate.create_slice('den.other', 'den.frames', 'frame_id > 0');
RESET ROLE;
CREATE PROCEDURE den.play(statement text) LANGUAGE plpgsql AS $$
BEGIN
	UPDATE den.frames SET scene = coalesce(scene, '') || '.' WHERE frame_id = 8;
	INSERT INTO den.orders VALUES (statement);
	BEGIN
		PERFORM avcurate.refresh_slice('den.actor');
	EXCEPTION WHEN OTHERS THEN
		RAISE NOTICE '% (refresh)', SQLERRM;
	END;
	DELETE FROM den.orders;
	-- whatever happened, the next two are right
	PERFORM avcurate.refresh_slice('den.actor');
	PERFORM avcurate.refresh_slice('den.other');
	IF EXISTS (SELECT FROM den.actor a FULL JOIN den.frames f USING (frame_id, scene, image_sha256) WHERE a.frame_id IS NULL OR f.frame_id IS NULL)
		OR EXISTS (SELECT FROM den.other o FULL JOIN den.frames f USING (frame_id, scene, image_sha256) WHERE o.frame_id IS NULL OR f.frame_id IS NULL) THEN
		RAISE WARNING 'a view differs from its dataset';
	END IF;
	IF EXISTS (SELECT FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c WHERE NOT c.verified) THEN
		RAISE WARNING 'a version does not verify';
	END IF;
END $$;
UPDATE den.frames SET scene = coalesce(scene, '');
CALL den.play($$SELECT avcurate.refresh_slice('den.actor')$$);
CALL den.play('REFRESH MATERIALIZED VIEW den.actor');
CALL den.play('REFRESH MATERIALIZED VIEW den.actor WITH NO DATA');
CALL den.play('DROP MATERIALIZED VIEW den.actor');
CALL den.play($$SELECT avcurate.untrack_slice('den.actor')$$);
CALL den.play($$SELECT avcurate.alter_slice('den.actor', filter => 'frame_id > 3')$$);
CALL den.play($$SELECT avcurate.prune_slice('den.actor', 1)$$);
CALL den.play($$SELECT avcurate.erase_frame('den.frames', 7, 'now')$$);
CALL den.play('CREATE INDEX ON den.actor (scene)');
CALL den.play('ALTER MATERIALIZED VIEW den.actor RENAME COLUMN split TO part');
CALL den.play('TRUNCATE den.frames');
CALL den.play('ALTER TABLE den.frames DISABLE TRIGGER ALL');
CALL den.play($$SELECT avcurate.refresh_slice('den.other')$$);
-- rows that it writes are in the next version at the latest
CALL den.play($$UPDATE den.frames SET scene = scene || 'written' WHERE frame_id > 5$$);
CALL den.play($$INSERT INTO den.frames (image_id, scene, image_bytes) VALUES ('born', '', den.jpeg('born'))$$);
CALL den.play('DELETE FROM den.frames WHERE frame_id = 10');
CALL den.play('LOCK den.frames IN ACCESS EXCLUSIVE MODE');

-- the conditions of a domain whose column joins a slice, leaves it and comes back
SET ROLE regress_mallory;
SET search_path = den;
CREATE DOMAIN pit AS int NOT NULL CHECK (grab('domain'));
SELECT avcurate.create_dataset('holes');
INSERT INTO holes (image_id, split, image_bytes) SELECT 'h' || i, 'train', jpeg('h' || i) FROM generate_series(1, 3) i;
ALTER TABLE holes ADD depth pit DEFAULT 5;
SELECT avcurate.create_slice('den.pits', 'holes', 'true', '{split}');
RESET ROLE;
RESET search_path;
SELECT avcurate.alter_slice('den.pits', columns => '{split,depth}');
SELECT avcurate.alter_slice('den.pits', columns => '{split}');
SELECT avcurate.alter_slice('den.pits', columns => '{split,depth}');
UPDATE den.holes SET split = 'val' WHERE frame_id = 2;
SELECT avcurate.refresh_slice('den.pits');
REFRESH MATERIALIZED VIEW den.pits WITH NO DATA;
REFRESH MATERIALIZED VIEW den.pits;
SELECT version, mode, verified FROM avcurate.slice_versions v, LATERAL avcurate.verify_slice(v.slice, v.version) c(at, n, gone, hash, verified)
	WHERE slice = 'den.pits'::regclass ORDER BY 1;
SELECT frame_id, depth FROM avcurate.slice_at(NULL::den.pits, 3) ORDER BY 1;
SELECT frame_id, change, (before).depth AS before, pg_typeof((after).depth) AS type, (after).depth AS after
	FROM avcurate.slice_diff(NULL::den.pits, 1, 5) ORDER BY 1;
SELECT frame_id, (before).split AS before, after FROM avcurate.slice_diff(NULL::den.pits, 4, 5);

RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA den CASCADE;
DROP ROLE regress_mallory;
SELECT count(*) FROM _avcurate.slices;
