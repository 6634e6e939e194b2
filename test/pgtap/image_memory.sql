-- What reads images one by one holds one at a time: a session of its own, whose
-- peak of memory tells.
\set ON_ERROR_STOP 1
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE FUNCTION pg_temp.mb(what text) RETURNS bigint LANGUAGE sql AS
	$$SELECT (regexp_match(pg_read_file('/proc/self/status'), what || ':\s+(\d+)'))[1]::bigint / 1024$$;
SELECT avcurate.create_dataset('heavy') AS dataset \gset
CALL avcurate.ingest_synthetic('heavy', 1, 5, 'train', '{"width": 128, "height": 72}');
-- 30 pictures of 3 MB, most of it after the end
INSERT INTO heavy (image_id, image_bytes)
SELECT 'heavy ' || n, image_bytes || convert_to(repeat('0', 3000000) || n, 'UTF8') FROM heavy, generate_series(1, 29) n;
SELECT avcurate.add_feature('heavy', 'd', 'avcurate.dhash(image_bytes)') \gset ignored_
UPDATE heavy SET d = avcurate.dhash(image_bytes);

SELECT plan(6);

-- pages of the server's cache that this process has looked at count as its own
SELECT is(count(DISTINCT sha256(image_bytes)), 30::bigint, 'pictures that differ') FROM heavy;
SELECT pg_temp.mb('VmRSS') AS before, pg_temp.mb('VmHWM') - pg_temp.mb('VmRSS') AS slack \gset
SELECT cmp_ok(:slack, '<', 40, 'nothing larger was here before');
SELECT results_eq($$SELECT count(*), count(*) FILTER (WHERE keep) FROM avcurate.duplicate_groups('heavy')$$, $$VALUES (30::bigint, 1::bigint)$$, 'looked at for duplicates');
SELECT cmp_ok(pg_temp.mb('VmHWM') - :before, '<', 60::bigint, 'of all of which one is held');
SELECT cmp_ok(length(avcurate.contact_sheet('heavy', array_agg(frame_id), side => 64)), '>', 1000, 'shown') FROM heavy;
SELECT cmp_ok(pg_temp.mb('VmHWM') - :before, '<', 60::bigint, 'and here');
SELECT avcurate.drop_dataset('heavy') \gset ignored_
SELECT * FROM finish();
