-- Functions of one image: known answers on rendered and on real frames, and
-- every kind of broken input.
\set ON_ERROR_STOP 1
\set have_frames `test -r :shared/golden/dhash.tsv && echo true || echo false`
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT avcurate.create_dataset('pixel_frames') AS dataset \gset
CALL avcurate.ingest_synthetic('pixel_frames', 12, 11, 'train',
	'{"width": 160, "height": 96, "daytime": 1, "dawn_dusk": 0, "foggy": 0}');
CALL avcurate.ingest_synthetic('pixel_frames', 12, 12, 'train',
	'{"width": 160, "height": 96, "daytime": 0, "dawn_dusk": 0, "night": 1}');

BEGIN;
SELECT no_plan();

CREATE TEMP TABLE one AS
	SELECT image_bytes AS image FROM pixel_frames ORDER BY frame_id LIMIT 1;

-- ---- properties ----
SELECT is(count(*), 9::bigint, 'immutable, strict, parallel safe')
FROM pg_proc p
WHERE p.pronamespace = 'avcurate'::regnamespace
	AND p.proname IN ('jpeg_width', 'jpeg_height', 'dhash', 'dhash_scaled', 'hamming',
		'brightness', 'sharpness', 'white_balance', 'thumbnail')
	AND p.provolatile = 'i' AND p.proisstrict AND p.proparallel = 's';
SELECT has_function('avcurate', f, a, f || ' exists')
FROM (VALUES ('jpeg_width', '{bytea}'::name[]), ('jpeg_height', '{bytea}'), ('dhash', '{bytea}'),
	('dhash_scaled', '{bytea}'), ('hamming', '{bit,bit}'), ('brightness', '{bytea}'),
	('sharpness', '{bytea}'), ('white_balance', '{bytea}'), ('thumbnail', '{bytea,integer}')) v (f, a);

-- ---- known answers ----
SELECT results_eq($$SELECT DISTINCT avcurate.jpeg_width(image_bytes), avcurate.jpeg_height(image_bytes) FROM pixel_frames$$,
	$$VALUES (160, 96)$$, 'sizes from the header');
SELECT is(avcurate.jpeg_width(substr(image, 1, 200)), 160, 'the header alone is enough') FROM one;
SELECT ok(avcurate.dhash(NULL) IS NULL AND avcurate.brightness(NULL) IS NULL AND avcurate.thumbnail(NULL) IS NULL,
	'NULL in, NULL out');
SELECT is(length(avcurate.dhash(image)), 64, 'dhash has 64 bits') FROM one;
SELECT is(count(DISTINCT avcurate.dhash(image_bytes)), count(*), 'different frames, different hashes') FROM pixel_frames;
SELECT ok(bool_and(avcurate.dhash_scaled(image_bytes) = avcurate.dhash_scaled(image_bytes)), 'dhash_scaled') FROM pixel_frames;
SELECT is(avcurate.hamming(B'10110', B'00111'), 2, 'hamming counts bits that differ');
SELECT is(avcurate.hamming(B'', B''), 0, 'hamming of nothing');
SELECT is(avcurate.hamming(avcurate.dhash(image), ~ avcurate.dhash(image)), 64, 'hamming of a complement') FROM one;
SELECT throws_ok($$SELECT avcurate.hamming(B'1', B'11')$$, '22026', 'cannot compare bit strings of 1 and 2 bits', 'hamming of unequal lengths');
SELECT ok(min(avcurate.brightness(image_bytes)) >= 0 AND max(avcurate.brightness(image_bytes)) <= 255, 'brightness in range') FROM pixel_frames;
SELECT ok(avg(avcurate.brightness(image_bytes)) FILTER (WHERE timeofday = 'night')
	< 0.5 * avg(avcurate.brightness(image_bytes)) FILTER (WHERE timeofday = 'daytime'), 'nights are dark')
FROM pixel_frames;
SELECT ok(min(avcurate.sharpness(image_bytes)) > 0, 'sharpness') FROM pixel_frames;
SELECT ok(bool_and(avcurate.white_balance(image_bytes) BETWEEN 2500 AND 10000), 'white balance in range') FROM pixel_frames;

-- a grey picture of one level made by shrinking to one pixel
CREATE TEMP TABLE tiny AS SELECT avcurate.thumbnail(image, 1) AS image FROM one;
SELECT results_eq($$SELECT avcurate.jpeg_width(image), avcurate.jpeg_height(image), avcurate.sharpness(image) FROM tiny$$,
	$$VALUES (1, 1, 0::real)$$, 'one pixel');
SELECT is(avcurate.dhash(image), repeat('0', 64)::bit(64), 'a flat picture has no differences') FROM tiny;

SELECT results_eq($$SELECT avcurate.jpeg_width(t), avcurate.jpeg_height(t) FROM one, avcurate.thumbnail(image, 40) t$$,
	$$VALUES (40, 24)$$, 'a thumbnail keeps the ratio of sides');
SELECT results_eq($$SELECT avcurate.jpeg_width(avcurate.thumbnail(image)) FROM one$$, $$VALUES (160)$$, 'and is never larger');
SELECT ok(avcurate.hamming(avcurate.dhash(image), avcurate.dhash(avcurate.thumbnail(image, 80))) <= 8, 'and looks alike') FROM one;
SELECT throws_ok($$SELECT avcurate.thumbnail(image, 0) FROM one$$, '22023', 'width must be between 1 and 8192', 'a thumbnail of no width');
SELECT throws_ok($$SELECT avcurate.thumbnail(image, 100000) FROM one$$, '22023', 'width must be between 1 and 8192', 'or too large a one');

-- ---- broken input ----
-- what a function says of it
CREATE FUNCTION pg_temp.verdict(f text, image bytea) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT avcurate.%I($1)', f) USING image;
	RETURN 'taken';
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate || ' ' || sqlerrm;
END $$;
CREATE TEMP TABLE readers (f text);
INSERT INTO readers VALUES ('dhash'), ('dhash_scaled'), ('brightness'), ('sharpness'), ('white_balance'), ('thumbnail');

SELECT is(pg_temp.verdict(f, ''), '22000 image is empty', f || ': no bytes') FROM readers;
SELECT is(pg_temp.verdict(f, '\x89504e470d0a1a0a0000000d49484452'), '22000 image is not a JPEG', f || ': a PNG') FROM readers;
SELECT is(pg_temp.verdict(f, sha512('random bytes')), '22000 image is not a JPEG', f || ': random bytes') FROM readers;
SELECT is(pg_temp.verdict(f, '\xffd8ffc00011080010ffdc03011100021100031100'),
	'0A000 JPEG of 65500x16 pixels is too large: at most 8192x8192 are decoded', f || ': huge') FROM readers;
SELECT is(pg_temp.verdict(f, '\xffd8ffc9001108001000100301110002110003110000'),
	'0A000 JPEG with arithmetic coding is not supported', f || ': arithmetic coding') FROM readers;
SELECT is(count(*) FILTER (WHERE pg_temp.verdict(f, substr(image, 1, cut)) NOT LIKE '22000 %'), 0::bigint,
	f || ': cut off at 150 places')
FROM one, readers, LATERAL (SELECT i * length(image) / 150 AS cut FROM generate_series(0, 149) i) c
GROUP BY f;
SELECT is(pg_temp.verdict(f, image || '\x000102'), 'taken', f || ': bytes after the end') FROM one, readers;
SELECT matches(pg_temp.verdict(f, overlay(image PLACING '\xffd0ffd1ffd9' FROM length(image) / 2)), '^22000 JPEG is corrupt: ',
	f || ': damaged in the middle') FROM one, readers;
SELECT is(pg_temp.verdict('jpeg_width', '\xffd8ffc00011080010ffdc03011100021100031100'), 'taken', 'sizes of a huge one are told');
SELECT is(pg_temp.verdict('jpeg_height', '\xffd8ffd9'), '22000 JPEG has no frame header', 'no frame header');
SELECT is(count(*) FILTER (WHERE pg_temp.verdict('jpeg_height', substr(image, 1, cut)) NOT LIKE '22000 %'), 0::bigint,
	'header cut off')
FROM one, generate_series(0, 150) cut;

-- ---- real frames ----
SELECT :'have_frames'::boolean AS have_frames \gset
\if :have_frames
CREATE TEMP TABLE recorded AS
	SELECT c[1] AS frame, c[2]::int AS width, c[3]::int AS height, ('x' || c[4])::bit(64) AS hash,
		pg_read_binary_file(:'shared' || '/bdd100k/' || c[1]) AS image
	FROM regexp_split_to_table(pg_read_file(:'shared' || '/golden/dhash.tsv'), '\n') WITH ORDINALITY AS l (line, n),
		regexp_split_to_array(line, '\t') c
	WHERE n > 1 AND line <> '';
SELECT is(count(*), 40::bigint, 'recorded hashes') FROM recorded;
SELECT is_empty($$SELECT frame FROM recorded WHERE avcurate.dhash(image) <> hash$$, 'dhash equals imagehash on every frame');
SELECT is_empty($$SELECT frame FROM recorded WHERE (avcurate.jpeg_width(image), avcurate.jpeg_height(image)) <> (width, height)$$,
	'sizes of real frames');
\else
SELECT skip('no recorded hashes of real frames in ' || :'shared', 3);
\endif

SELECT * FROM finish();
ROLLBACK;
SELECT avcurate.drop_dataset('pixel_frames') AS dropped \gset
