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
SELECT is(count(*), 11::bigint, 'immutable, strict, parallel safe')
FROM pg_proc p
WHERE p.pronamespace = 'avcurate'::regnamespace
	AND p.proname IN ('jpeg_width', 'jpeg_height', 'dhash', 'dhash_scaled', 'dhash256', 'dhash256_scaled', 'hamming',
		'brightness', 'sharpness', 'white_balance', 'thumbnail')
	AND p.provolatile = 'i' AND p.proisstrict AND p.proparallel = 's';
SELECT has_function('avcurate', f, a, f || ' exists')
FROM (VALUES ('jpeg_width', '{bytea}'::name[]), ('jpeg_height', '{bytea}'), ('dhash', '{bytea}'),
	('dhash_scaled', '{bytea}'), ('dhash256', '{bytea}'), ('dhash256_scaled', '{bytea}'), ('hamming', '{bit,bit}'), ('brightness', '{bytea}'),
	('sharpness', '{bytea}'), ('white_balance', '{bytea}'), ('thumbnail', '{bytea,integer}')) v (f, a);

-- ---- known answers ----
SELECT results_eq($$SELECT DISTINCT avcurate.jpeg_width(image_bytes), avcurate.jpeg_height(image_bytes) FROM pixel_frames$$,
	$$VALUES (160, 96)$$, 'sizes from the header');
SELECT is(avcurate.jpeg_width(substr(image, 1, 200)), 160, 'the header alone is enough') FROM one;
SELECT ok(avcurate.dhash(NULL) IS NULL AND avcurate.brightness(NULL) IS NULL AND avcurate.thumbnail(NULL) IS NULL,
	'NULL in, NULL out');
SELECT is(length(avcurate.dhash(image)), 64, 'dhash has 64 bits') FROM one;
SELECT is(length(avcurate.dhash256(image)), 256, 'dhash256 has 256') FROM one;
SELECT ok(avcurate.hamming(avcurate.dhash256(image), avcurate.dhash256_scaled(image)) < 64, 'and much the same from the scaled picture') FROM one;
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
INSERT INTO readers VALUES ('dhash'), ('dhash_scaled'), ('dhash256'), ('dhash256_scaled'), ('brightness'), ('sharpness'), ('white_balance'), ('thumbnail');

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

-- ---- files made by hand ----
-- A JPEG of flat blocks of 8 x 8 samples, whose pixels are known without any
-- decoder: quantum 8 makes the DC term the level, there are no AC terms.
-- levels[n][c] is block n (row by row) of component c.
CREATE FUNCTION pg_temp.flat_jpeg(columns int, lines int, levels int[], frame text DEFAULT 'c0') RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
	n int := array_length(levels, 2);
	before int[] := array_fill(128, ARRAY[n]);
	bits text := '';
	hex text := '';
	difference int;
	size int;
	byte text;
BEGIN
	FOR i IN 1 .. columns * lines LOOP
		FOR c IN 1 .. n LOOP
			difference := levels[i][c] - before[c];
			before[c] := levels[i][c];
			size := CASE difference WHEN 0 THEN 0 ELSE floor(log(2::numeric, abs(difference)::numeric))::int + 1 END;
			bits := bits || size::bit(4)::text;
			IF size > 0 THEN
				bits := bits || right((CASE WHEN difference > 0 THEN difference ELSE difference + (1 << size) - 1 END)::bit(16)::text, size);
			END IF;
			bits := bits || CASE frame WHEN 'c2' THEN '' ELSE '0' END;	-- end of block
		END LOOP;
	END LOOP;
	bits := bits || repeat('1', (8 - length(bits) % 8) % 8);
	FOR i IN 0 .. length(bits) / 8 - 1 LOOP
		byte := lpad(to_hex(substr(bits, 8 * i + 1, 8)::bit(8)::int), 2, '0');
		hex := hex || byte || CASE byte WHEN 'ff' THEN '00' ELSE '' END;
	END LOOP;
	RETURN decode('ffd8' || 'ffdb004300' || repeat('08', 64)
		|| 'ff' || frame || lpad(to_hex(8 + 3 * n), 4, '0') || '08' || lpad(to_hex(8 * lines), 4, '0') || lpad(to_hex(8 * columns), 4, '0')
		|| lpad(to_hex(n), 2, '0') || (SELECT string_agg(lpad(to_hex(c), 2, '0') || '1100', '' ORDER BY c) FROM generate_series(1, n) c)
		|| 'ffc4001f00' || '0000000c' || repeat('00', 12) || '000102030405060708090a0b'
		|| 'ffc4001410' || '01' || repeat('00', 15) || '00'
		|| 'ffda' || lpad(to_hex(6 + 2 * n), 4, '0') || lpad(to_hex(n), 2, '0')
		|| (SELECT string_agg(lpad(to_hex(c), 2, '0') || '00', '' ORDER BY c) FROM generate_series(1, n) c)
		|| '00' || CASE frame WHEN 'c2' THEN '00' ELSE '3f' END || '00' || hex
		-- the scan of AC terms that a progressive file of one component needs
		|| CASE frame WHEN 'c2' THEN 'ffda0008010100013f00' || repeat('00', columns * lines / 8) || '1f' ELSE '' END || 'ffd9', 'hex');
END $$;
CREATE TEMP TABLE grey_blocks AS
	SELECT n, n / 7 AS line, n % 7 AS col, (37 * n * n + 11 * n) % 256 AS level FROM generate_series(0, 34) n;
CREATE TEMP TABLE grey AS
	SELECT pg_temp.flat_jpeg(7, 5, array_agg(ARRAY[level] ORDER BY n)) AS image,
		pg_temp.flat_jpeg(7, 5, array_agg(ARRAY[level] ORDER BY n), 'c2') AS progressive FROM grey_blocks;
SELECT results_eq($$SELECT avcurate.jpeg_width(image), avcurate.jpeg_height(image) FROM grey$$, $$VALUES (56, 40)$$, 'a grey file');
SELECT is(avcurate.brightness(image), (SELECT avg(level)::real FROM grey_blocks), 'its brightness') FROM grey;
SELECT is(avcurate.sharpness(image), (
	WITH pixel AS MATERIALIZED (
		SELECT x, y, level FROM generate_series(0, 55) x, generate_series(0, 39) y, grey_blocks WHERE line = y / 8 AND col = x / 8)
	SELECT var_pop(a.level + b.level + l.level + r.level - 4 * p.level)::real
	FROM pixel p, pixel a, pixel b, pixel l, pixel r
	WHERE (a.x, a.y) = (p.x, p.y - 1) AND (b.x, b.y) = (p.x, p.y + 1) AND (l.x, l.y) = (p.x - 1, p.y) AND (r.x, r.y) = (p.x + 1, p.y)),
	'its sharpness') FROM grey;
SELECT ok(abs(avcurate.white_balance(image) - 6500) < 0.01, 'grey has the white balance of daylight') FROM grey;
SELECT ok(avcurate.brightness(progressive) = avcurate.brightness(image) AND avcurate.sharpness(progressive) = avcurate.sharpness(image)
	AND avcurate.dhash(progressive) = avcurate.dhash(image) AND avcurate.thumbnail(progressive) = avcurate.thumbnail(image),
	'a progressive file of the same pixels') FROM grey;
-- every scan of a progressive file is a walk over all of its blocks
SELECT is(pg_temp.verdict(f, overlay(progressive PLACING decode(repeat('ffda0008010100013f00001f', 64), 'hex') FROM length(progressive) - 1)),
	'0A000 JPEG with more than 64 scans is not supported', f || ': too many scans') FROM readers, grey;

CREATE TEMP TABLE colour_blocks AS
	SELECT n, 100 + n % 40 AS y, 128 - n AS cb, 128 + n / 2 AS cr FROM generate_series(0, 41) n;
CREATE TEMP TABLE colour AS
	SELECT pg_temp.flat_jpeg(6, 7, array_agg(ARRAY[y, cb, cr] ORDER BY n)) AS image FROM colour_blocks;
SELECT is(avcurate.brightness(image), (SELECT avg(y)::real FROM colour_blocks), 'brightness of a colour file') FROM colour;
SELECT ok(abs(avcurate.white_balance(image) - (SELECT 6500 * avg(round(y + 1.772 * (cb - 128))) / avg(round(y + 1.402 * (cr - 128)))
	FROM colour_blocks)) < 5, 'its white balance') FROM colour;
SELECT ok(abs(avcurate.brightness(avcurate.thumbnail(image, 24)) - avcurate.brightness(image)) < 3, 'a thumbnail is as bright') FROM colour;

-- ---- files of other kinds ----
SELECT is(pg_temp.verdict(f, pg_temp.flat_jpeg(1, 1, '{{9,9,9,9}}')), '0A000 JPEG with four components (CMYK) is not supported', f || ': CMYK')
FROM readers;
SELECT is(pg_temp.verdict(f, overlay(image PLACING decode(lpad(to_hex(bits), 2, '0'), 'hex') FROM position('\xffc0'::bytea IN image) + 4)),
	format('0A000 JPEG with %s bits a sample is not supported', bits), f || ': ' || bits || ' bits') FROM readers, grey, unnest('{12,16}'::int[]) bits;
SELECT is(pg_temp.verdict(f, overlay(image PLACING '\x0000' FROM position('\xffc0'::bytea IN image) + 5)), '22000 JPEG has size 56x0', f || ': no rows')
FROM readers, grey;
SELECT is(pg_temp.verdict(f, overlay(image PLACING '\x20002000' FROM position('\xffc0'::bytea IN image) + 5)),
	format('22000 JPEG is corrupt: %s bytes cannot hold 8192x8192 pixels', length(image)), f || ': many pixels of few bytes') FROM readers, grey;
-- the note that a camera was held upright turns nothing
CREATE TEMP TABLE turned AS
	SELECT '\xffd8ffe10022457869660000'::bytea || '\x4d4d002a00000008000101120003000000010006000000000000'::bytea || substr(image, 3) AS image FROM one;
SELECT ok(avcurate.dhash(t.image) = avcurate.dhash(o.image) AND avcurate.thumbnail(t.image) = avcurate.thumbnail(o.image)
	AND avcurate.jpeg_width(t.image) = 160, 'an orientation beside the pixels turns nothing') FROM turned t, one o;

-- ---- one decode for several functions ----
-- each function alone, and all of them at once with images in turn
CREATE TEMP TABLE alone AS SELECT frame_id, avcurate.dhash(image_bytes) AS dhash FROM pixel_frames;
ALTER TABLE alone ADD scaled bit(64), ADD bright real, ADD sharp real, ADD white real, ADD small bytea;
UPDATE alone a SET scaled = avcurate.dhash_scaled(image_bytes) FROM pixel_frames f WHERE f.frame_id = a.frame_id;
UPDATE alone a SET bright = avcurate.brightness(image_bytes) FROM pixel_frames f WHERE f.frame_id = a.frame_id;
UPDATE alone a SET sharp = avcurate.sharpness(image_bytes) FROM pixel_frames f WHERE f.frame_id = a.frame_id;
UPDATE alone a SET white = avcurate.white_balance(image_bytes) FROM pixel_frames f WHERE f.frame_id = a.frame_id;
UPDATE alone a SET small = avcurate.thumbnail(image_bytes) FROM pixel_frames f WHERE f.frame_id = a.frame_id;
CREATE FUNCTION pg_temp.measures(image bytea) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', avcurate.dhash(image), avcurate.brightness(image), avcurate.sharpness(image), avcurate.dhash_scaled(image),
		avcurate.white_balance(image), avcurate.thumbnail(image)) $$;
SELECT is(count(*) FILTER (WHERE pg_temp.measures(a.image_bytes) = concat_ws(' ', x.dhash, x.bright, x.sharp, x.scaled, x.white, x.small)
	AND avcurate.brightness(b.image_bytes) = y.bright AND avcurate.dhash(a.image_bytes) = x.dhash
	AND avcurate.sharpness(b.image_bytes || '\x00') = y.sharp), 576::bigint, 'functions in turn say what each says alone')
FROM pixel_frames a, pixel_frames b, alone x, alone y WHERE x.frame_id = a.frame_id AND y.frame_id = b.frame_id;
-- how many pages a query touches
CREATE FUNCTION pg_temp.pages(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE plan json;
BEGIN
	EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT json) ' || query INTO plan;
	RETURN (plan -> 0 -> 'Plan' ->> 'Shared Hit Blocks')::bigint + (plan -> 0 -> 'Plan' ->> 'Shared Read Blocks')::bigint;
END $$;
SELECT avcurate.create_dataset('pixel_large') AS dataset \gset
INSERT INTO pixel_large (image_id, image_bytes)
	SELECT n, image || (SELECT string_agg(sha512((n || ' ' || k)::bytea), '') FROM generate_series(1, 500) k) FROM one, generate_series(1, 5) n;
SELECT pg_temp.pages('SELECT avcurate.dhash(image_bytes) FROM pixel_large') AS warmed \gset
SELECT is(pg_temp.pages($$SELECT avcurate.dhash(image_bytes), avcurate.white_balance(image_bytes), avcurate.brightness(image_bytes),
	avcurate.dhash_scaled(image_bytes), avcurate.sharpness(image_bytes), avcurate.thumbnail(image_bytes) FROM pixel_large$$),
	pg_temp.pages('SELECT avcurate.dhash(image_bytes) FROM pixel_large'), 'six functions fetch the image once');
-- other images of the same length, in any order
CREATE TEMP TABLE twins AS
	SELECT level, pg_temp.flat_jpeg(2, 1, ARRAY[ARRAY[100], ARRAY[level]]) AS image FROM unnest('{99,101}'::int[]) level;
SELECT is(count(DISTINCT length(image)), 1::bigint, 'files of one length') FROM twins;
SELECT is(count(*) FILTER (WHERE avcurate.brightness(a.image) = (100 + a.level) / 2.0 AND avcurate.brightness(b.image) = (100 + b.level) / 2.0
	AND avcurate.brightness(a.image) = (100 + a.level) / 2.0), 4::bigint, 'are told apart by their bytes') FROM twins a, twins b;
SELECT is(pg_temp.verdict('brightness', substr(image, 1, 3000)) LIKE '22000 %', true, 'a file that fails') FROM one;
-- and the same row after an update
SELECT is(pg_temp.measures(o.image), pg_temp.measures(f.image_bytes), 'nothing is left of a file that failed') FROM one o, pixel_frames f
WHERE f.image_bytes = o.image;
UPDATE pixel_large SET image_bytes = (SELECT image_bytes FROM pixel_frames ORDER BY frame_id DESC LIMIT 1) WHERE image_id = '3';
SELECT is(avcurate.dhash(image_bytes), (SELECT dhash FROM alone ORDER BY frame_id DESC LIMIT 1), 'an update is seen at once')
FROM pixel_large WHERE image_id = '3';

-- ---- damaged files ----
SET statement_timeout = '60s';
CREATE FUNCTION pg_temp.damage(image bytea, seed int) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
	hash bytea := sha256(int4send(seed));
	last int := CASE WHEN seed % 3 = 0 THEN length(image) ELSE least(700, length(image)) END;
BEGIN
	FOR i IN 0 .. get_byte(hash, 0) % 6 LOOP
		image := set_byte(image, ((get_byte(hash, 3 * i + 1) << 8) + get_byte(hash, 3 * i + 2)) % last, get_byte(hash, 3 * i + 3));
	END LOOP;
	RETURN CASE WHEN seed % 5 = 0 THEN substr(image, 1, get_byte(hash, 30) * length(image) / 256) ELSE image END;
END $$;
CREATE TEMP TABLE damaged AS
	SELECT seed, (ARRAY['dhash', 'dhash_scaled', 'brightness', 'sharpness', 'white_balance', 'thumbnail'])[1 + seed % 6] AS f,
		pg_temp.damage(CASE WHEN seed % 7 = 0 THEN grey.image WHEN seed % 7 = 1 THEN progressive ELSE one.image END, seed) AS image
	FROM generate_series(1, 2000) seed, one, grey;
CREATE TEMP TABLE verdicts AS SELECT seed, pg_temp.verdict(f, image) AS verdict FROM damaged;
SELECT is_empty($$SELECT * FROM verdicts WHERE verdict <> 'taken' AND verdict NOT LIKE '22000 %' AND verdict NOT LIKE '0A000 %'$$,
	'2000 damaged files are taken or refused');
SELECT ok(count(*) FILTER (WHERE verdict = 'taken') BETWEEN 50 AND 1500, 'some of either') FROM verdicts;
SELECT is_empty($$SELECT seed FROM damaged JOIN verdicts USING (seed) WHERE pg_temp.verdict(f, image) <> verdict$$, 'always the same');
SELECT is(avcurate.dhash(o.image), a.dhash, 'and leave nothing behind') FROM one o, alone a ORDER BY a.frame_id LIMIT 1;
RESET statement_timeout;

-- ---- real frames ----
SELECT :'have_frames'::boolean AS have_frames \gset
\if :have_frames
CREATE TEMP TABLE recorded AS
	SELECT c[1] AS frame, c[2]::int AS width, c[3]::int AS height, ('x' || c[4])::bit(64) AS hash, ('x' || c[5])::bit(256) AS fine,
		pg_read_binary_file(:'shared' || '/bdd100k/' || c[1]) AS image
	FROM regexp_split_to_table(pg_read_file(:'shared' || '/golden/dhash.tsv'), '\n') WITH ORDINALITY AS l (line, n),
		regexp_split_to_array(line, '\t') c
	WHERE n > 1 AND line <> '';
-- measured by Pillow and NumPy from its own decoder's pixels
CREATE TEMP TABLE measured (frame text, brightness real, sharpness real, white_balance real);
INSERT INTO measured VALUES
	('images/train/0000f77c-6257be58.jpg', 107.7009, 329.3706, 5732.915),
	('images/train/1fdb1053-69929cb9.jpg', 31.9569, 124.5257, 4659.257),
	('images/train/43d4a202-42f1d039.jpg', 92.0636, 101.4172, 7887.602),
	('images/train/6a335ecd-b9c8ee33.jpg', 102.3710, 498.3453, 7591.286),
	('images/val/b1c66a42-6f7d68ca.jpg', 91.8078, 49.0368, 5692.866),
	('images/val/b1f6c103-b00e8aad.jpg', 43.7795, 140.0783, 3031.517),
	('images/val/b2a9d547-f7f6fa92.jpg', 27.2148, 90.6264, 4373.353),
	('images/val/b6227ecd-ecc44823.jpg', 48.0012, 106.2607, 5664.134),
	('images/val/ba65317f-d4aba330.jpg', 3.5115, 33.9293, 2500.000),
	('images/val/be40bcad-48aead92.jpg', 95.7973, 396.6280, 7639.697);
SELECT is_empty($$SELECT frame, avcurate.brightness(image), avcurate.sharpness(image), avcurate.white_balance(image) FROM recorded JOIN measured m USING (frame)
	WHERE abs(avcurate.brightness(image) - m.brightness) > 0.001 OR abs(avcurate.sharpness(image) - m.sharpness) > 0.001
		OR abs(avcurate.white_balance(image) - m.white_balance) > 0.01$$, 'measures of ten real frames');
SELECT is(count(*), 40::bigint, 'recorded hashes') FROM recorded;
SELECT is_empty($$SELECT frame FROM recorded WHERE avcurate.dhash(image) <> hash$$, 'dhash equals imagehash on every frame');
SELECT is_empty($$SELECT frame FROM recorded WHERE avcurate.dhash256(image) <> fine$$, 'dhash256, too');
SELECT is_empty($$SELECT frame FROM recorded WHERE (avcurate.jpeg_width(image), avcurate.jpeg_height(image)) <> (width, height)$$,
	'sizes of real frames');
\else
SELECT skip('no recorded hashes of real frames in ' || :'shared', 5);
\endif

SELECT * FROM finish();
ROLLBACK;
SELECT avcurate.drop_dataset('pixel_frames') AS dropped \gset
