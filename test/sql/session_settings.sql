-- What one session types means the same in another with other settings.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS avcurate;
CREATE FUNCTION picture(seed text) RETURNS bytea LANGUAGE sql IMMUTABLE
	RETURN '\xffd8fffe'::bytea || int2send((octet_length(seed) + 2)::int2) || convert_to(seed, 'UTF8')
		|| '\xffc000110800320064'::bytea || '\x03012200021101031101'::bytea;
SELECT avcurate.create_dataset('moments');
INSERT INTO moments (image_id, image_bytes, frame_time)
	SELECT 'f' || n, picture(n::text), timestamptz '2024-01-03 12:00:00+00' + (n || ' days')::interval
	FROM generate_series(0, 40) n;
ALTER TABLE moments ADD COLUMN share float8;
UPDATE moments SET share = 0.123456789012345 + frame_id * 1e-15;

-- typed where the day comes first and floats are cut short
SET datestyle = 'SQL, DMY';
SET intervalstyle = 'sql_standard';
SET extra_float_digits = -10;
SET timezone = 'Asia/Kolkata';
SELECT avcurate.add_feature('moments', 'late', $$frame_time >= '02/02/2024 00:00 UTC' AND frame_time - interval '-1 day +2 hours' < '01/03/2024 UTC'$$);
SELECT avcurate.add_feature('moments', 'large', $$share > '0.123456789012355'::float8$$);
SELECT avcurate.create_slice('late_slice', 'moments', $$frame_time >= '02/02/2024 00:00 UTC'$$);
SELECT avcurate.create_slice('large_slice', 'moments', $$share > '0.123456789012355'::float8$$);
SELECT avcurate.refresh_slice('large_slice');
SELECT avcurate.refresh_slice('late_slice');
SELECT slice, version, rows FROM avcurate.slice_versions WHERE slice IN ('late_slice'::regclass, 'large_slice'::regclass) ORDER BY 1;
RESET datestyle;
RESET intervalstyle;
RESET extra_float_digits;
RESET timezone;

-- computed where the month comes first
SET datestyle = 'ISO, MDY';
CALL avcurate.backfill('moments');
SELECT count(*) FILTER (WHERE late) AS late, count(*) FILTER (WHERE large) AS large,
	count(*) FILTER (WHERE late IS DISTINCT FROM (frame_time >= '2024-02-02 00:00+00' AND frame_time + interval '22 hours' < '2024-03-01 00:00+00')) AS wrong_late,
	count(*) FILTER (WHERE large IS DISTINCT FROM (share > '0.123456789012355'::float8)) AS wrong_large
	FROM moments;
SELECT avcurate.refresh_slice('large_slice');
SELECT count(*) FROM large_slice;
SELECT count(*) FROM late_slice;
REFRESH MATERIALIZED VIEW large_slice;
REFRESH MATERIALIZED VIEW late_slice;
SELECT slice, version, rows FROM avcurate.slice_versions WHERE slice IN ('late_slice'::regclass, 'large_slice'::regclass) ORDER BY 1;
DROP TABLE moments CASCADE;
DROP FUNCTION picture(text);

-- what is dropped by a session that fires ordinary triggers only is forgotten, too
SELECT avcurate.create_dataset('replica');
SELECT avcurate.add_feature('replica', 'wide', 'width > 10');
SET session_replication_role = replica;
ALTER TABLE replica DROP COLUMN wide CASCADE;
SELECT count(*) FROM _avcurate.features;
DROP TABLE replica CASCADE;
RESET session_replication_role;
SELECT count(*) FROM _avcurate.datasets WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = dataset);
