-- ---- functions of one image -------------------------------------------------

CREATE FUNCTION avcurate.jpeg_width(image bytea) RETURNS integer
	AS 'MODULE_PATHNAME', 'avc_jpeg_width'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION avcurate.jpeg_width(bytea) IS
	'width in pixels, from the header alone';

CREATE FUNCTION avcurate.jpeg_height(image bytea) RETURNS integer
	AS 'MODULE_PATHNAME', 'avc_jpeg_height'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION avcurate.jpeg_height(bytea) IS
	'height in pixels, from the header alone';

CREATE FUNCTION avcurate.dhash(image bytea) RETURNS bit(64)
	AS 'MODULE_PATHNAME', 'avc_dhash'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5000;
COMMENT ON FUNCTION avcurate.dhash(bytea) IS
	'difference hash, equal to imagehash.dhash of the decoded image (of portrait ones with Pillow up to 10)';

CREATE FUNCTION avcurate.dhash_scaled(image bytea) RETURNS bit(64)
	AS 'MODULE_PATHNAME', 'avc_dhash_scaled'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 1500;
COMMENT ON FUNCTION avcurate.dhash_scaled(bytea) IS
	'difference hash of the image decoded at 1/8: faster, comparable only with itself';

CREATE FUNCTION avcurate.dhash256(image bytea) RETURNS bit(256)
	AS 'MODULE_PATHNAME', 'avc_dhash256'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 5000;
COMMENT ON FUNCTION avcurate.dhash256(bytea) IS
	'the finer difference hash, equal to imagehash.dhash of the decoded image with hash_size 16';

CREATE FUNCTION avcurate.dhash256_scaled(image bytea) RETURNS bit(256)
	AS 'MODULE_PATHNAME', 'avc_dhash256_scaled'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 1500;
COMMENT ON FUNCTION avcurate.dhash256_scaled(bytea) IS
	'the finer difference hash of the image decoded at 1/8: faster, comparable only with itself';

CREATE FUNCTION avcurate.hamming(a bit, b bit) RETURNS integer
	AS 'MODULE_PATHNAME', 'avc_hamming'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION avcurate.hamming(bit, bit) IS
	'number of bits that differ';

CREATE FUNCTION avcurate.brightness(image bytea) RETURNS real
	AS 'MODULE_PATHNAME', 'avc_brightness'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 1500;
COMMENT ON FUNCTION avcurate.brightness(bytea) IS
	'mean grey level of the image, 0 to 255';

CREATE FUNCTION avcurate.sharpness(image bytea) RETURNS real
	AS 'MODULE_PATHNAME', 'avc_sharpness'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 3000;
COMMENT ON FUNCTION avcurate.sharpness(bytea) IS
	'variance of the Laplacian over the inner pixels of the image''s luma: low is blurred';

CREATE FUNCTION avcurate.white_balance(image bytea) RETURNS real
	AS 'MODULE_PATHNAME', 'avc_white_balance'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 3000;
COMMENT ON FUNCTION avcurate.white_balance(bytea) IS
	'rough colour temperature in kelvin, 2500 to 10000';

CREATE FUNCTION avcurate.thumbnail(image bytea, width integer DEFAULT 320)
	RETURNS bytea
	AS 'MODULE_PATHNAME', 'avc_thumbnail'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 3000;
COMMENT ON FUNCTION avcurate.thumbnail(bytea, integer) IS
	'the image as a JPEG of that width, never larger than it was';
