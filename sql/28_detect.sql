-- ---- detections through the shared engine -------------------------------------

-- Stable: a NULL checkpoint means what avcurate.detector says.
CREATE FUNCTION avcurate.detect(
	image		bytea,
	checkpoint	bigint	DEFAULT NULL,
	min_score	real	DEFAULT 0.05
) RETURNS TABLE (
	category	text,
	label		integer,
	score		real,
	x1			real,
	y1			real,
	x2			real,
	y2			real
)
	AS 'MODULE_PATHNAME', 'avc_detect'
	LANGUAGE C STABLE PARALLEL SAFE COST 100000 ROWS 10;
COMMENT ON FUNCTION avcurate.detect(bytea, bigint, real) IS
	'what a detector finds in an image, highest score first; checkpoint NULL = avcurate.detector';

CREATE FUNCTION avcurate.person_bbox_area_pct(
	image		bytea,
	checkpoint	bigint	DEFAULT NULL,
	min_score	real	DEFAULT 0.3
) RETURNS real
	AS 'MODULE_PATHNAME', 'avc_person_bbox_area_pct'
	LANGUAGE C STABLE PARALLEL SAFE COST 100000;
COMMENT ON FUNCTION avcurate.person_bbox_area_pct(bytea, bigint, real) IS
	'share of the image that the largest detected person takes, in percent; 0 when none is found';

CREATE FUNCTION avcurate.detect_ahead(
	image		bytea,
	checkpoint	bigint
) RETURNS void
	AS 'MODULE_PATHNAME', 'avc_detect_ahead'
	LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION avcurate.detect_ahead(bytea, bigint) IS
	'send an image to the shared engine for a later call of detect in the same transaction';

CREATE FUNCTION avcurate.detect_settle() RETURNS void
	AS 'MODULE_PATHNAME', 'avc_detect_settle'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION avcurate.detect_settle() IS
	'wait for what detect_ahead, clip_ahead and clip_text_ahead have sent for this transaction';

CREATE FUNCTION avcurate.detect_next() RETURNS void
	AS 'MODULE_PATHNAME', 'avc_detect_next'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION avcurate.detect_next() IS
	'what is sent ahead from now on is for the next transaction: the engine works on it while this one commits';

CREATE FUNCTION avcurate.detector(
	checkpoint	bigint	DEFAULT NULL
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_detector_number'
	LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION avcurate.detector(bigint) IS
	'the checkpoint that detect uses when given this one; an error if it does not exist or may not be used';
