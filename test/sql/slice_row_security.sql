-- Row security of a dataset: a slice holds what the policies of the dataset
-- let its owner see at the time of the refresh, whoever refreshes.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS avcurate;
SET client_min_messages = notice;
\set VERBOSITY terse
CREATE ROLE regress_keeper;
CREATE ROLE regress_guest;
CREATE ROLE regress_trusted BYPASSRLS;
CREATE SCHEMA garage AUTHORIZATION regress_keeper;
GRANT ALL ON SCHEMA garage TO regress_guest, regress_trusted;
SET search_path = garage;
SET avcurate.refresh_full_threshold = 1;
CREATE FUNCTION jpeg(seed text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
	SELECT '\xffd8fffe'::bytea
		|| decode(lpad(to_hex(octet_length(seed) + 2), 4, '0'), 'hex')
		|| convert_to(seed, 'UTF8')
		|| '\xffc000110801e0028003012200021101031101ffda000c03010002110311003f0000ffd9'::bytea
$$;
SET ROLE regress_keeper;
SELECT avcurate.create_dataset('frames');
INSERT INTO frames (image_id, weather, split, image_bytes)
	SELECT 'f' || i, 'rainy', (array['train', 'secret'])[1 + i % 2], jpeg('f' || i) FROM generate_series(1, 6) i;
GRANT SELECT, TRIGGER ON frames TO regress_guest, regress_trusted;

-- three slices of the same filter, of three owners
SELECT avcurate.create_slice('kept', 'frames', $$weather = 'rainy'$$);
SET ROLE regress_guest;
SELECT avcurate.create_slice('guests', 'frames', $$weather = 'rainy'$$);
SET ROLE regress_trusted;
SELECT avcurate.create_slice('trusteds', 'frames', $$weather = 'rainy'$$);
RESET ROLE;

-- what the next refresh would do, then the refresh, by a superuser
CREATE PROCEDURE refresh() LANGUAGE plpgsql AS $$
DECLARE
	s regclass;
	plan text;
BEGIN
	FOREACH s IN ARRAY array['garage.kept', 'garage.guests', 'garage.trusteds']::regclass[] LOOP
		SELECT format('%s: %s', mode, reason) INTO plan FROM avcurate.explain_refresh(s);
		RAISE NOTICE '% %', s, plan;
		PERFORM avcurate.refresh_slice(s);
	END LOOP;
END $$;
CREATE VIEW state AS
	SELECT v.slice, v.version, v.mode, v.added, v.removed, v.changed, v.rows, c.verified
	FROM avcurate.slices s JOIN avcurate.slice_versions v ON v.slice = s.slice AND v.version = s.version,
		avcurate.verify_slice(s.slice) c WHERE s.dataset = 'garage.frames'::regclass ORDER BY s.slice::text;
CALL refresh();
INSERT INTO frames (image_id, weather, split, image_bytes) VALUES ('f7', 'rainy', 'secret', jpeg('f7')), ('f8', 'rainy', 'train', jpeg('f8'));
CALL refresh();
TABLE state;

-- a policy comes: it applies to the guest alone, and to rows that were there
CREATE POLICY open ON frames USING (split <> 'secret');
ALTER TABLE frames ENABLE ROW LEVEL SECURITY;
CALL refresh();
TABLE state;
INSERT INTO frames (image_id, weather, split, image_bytes) VALUES ('f9', 'rainy', 'secret', jpeg('f9')), ('f10', 'rainy', 'train', jpeg('f10'));
CALL refresh();
TABLE state;
-- typed REFRESH gives the same
INSERT INTO frames (image_id, weather, split, image_bytes) VALUES ('f11', 'rainy', 'secret', jpeg('f11')), ('f12', 'rainy', 'train', jpeg('f12'));
REFRESH MATERIALIZED VIEW kept;
REFRESH MATERIALIZED VIEW guests;
REFRESH MATERIALIZED VIEW CONCURRENTLY trusteds;
TABLE state;
CALL refresh();

-- the owner refreshes and reads himself
SET ROLE regress_guest;
SELECT slice, incremental, reason FROM avcurate.slices ORDER BY 1;
SELECT avcurate.refresh_slice('guests');
SELECT count(*), count(*) FILTER (WHERE split = 'secret') AS secret FROM guests;
-- versions of before the policy still hold what it hides now
SELECT count(*), count(*) FILTER (WHERE split = 'secret') AS secret FROM avcurate.slice_at(NULL::guests, 2);
SELECT frame_id, change FROM avcurate.slice_diff(NULL::guests, 2, 3);
SET row_security = off;
SELECT avcurate.refresh_slice('guests');
REFRESH MATERIALIZED VIEW guests;
RESET row_security;
RESET ROLE;

-- policies change, without a change of any row
ALTER POLICY open ON frames USING (split = 'secret');
CALL refresh();
TABLE state;
CREATE POLICY two ON frames TO regress_guest USING (frame_id < 3);
CALL refresh();
TABLE state;
DROP POLICY open ON frames;
DROP POLICY two ON frames;
CALL refresh();
TABLE state;
CREATE POLICY hers ON frames USING (current_user = 'regress_guest');
CALL refresh();
TABLE state;

-- forced on the owner of the dataset as well
CREATE POLICY forced ON frames TO regress_keeper USING (frame_id % 2 = 0);
ALTER TABLE frames FORCE ROW LEVEL SECURITY;
CALL refresh();
TABLE state;
ALTER TABLE frames NO FORCE ROW LEVEL SECURITY;
CALL refresh();
TABLE state;

-- who may bypass policies and who not changes
ALTER ROLE regress_trusted NOBYPASSRLS;
ALTER ROLE regress_guest BYPASSRLS;
DROP POLICY hers ON frames;
CALL refresh();
TABLE state;
ALTER ROLE regress_trusted BYPASSRLS;
ALTER ROLE regress_guest NOBYPASSRLS;
CALL refresh();
TABLE state;
ALTER TABLE frames DISABLE ROW LEVEL SECURITY;
CALL refresh();
UPDATE frames SET scene = 'street' WHERE frame_id = 1;
CALL refresh();
TABLE state;

-- a slice given to somebody who sees other rows
ALTER TABLE frames ENABLE ROW LEVEL SECURITY;
ALTER MATERIALIZED VIEW kept OWNER TO regress_guest;
CALL refresh();
TABLE state;

RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA garage CASCADE;
DROP ROLE regress_keeper;
DROP ROLE regress_guest;
DROP ROLE regress_trusted;
SELECT count(*) FROM _avcurate.slices;
