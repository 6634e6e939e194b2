-- ---- evaluation ------------------------------------------------------------

CREATE FUNCTION avcurate.coco_metrics(
	truth		jsonb,
	results		jsonb
) RETURNS TABLE (
	metric		text,
	category	text,
	value		double precision
)
	AS 'MODULE_PATHNAME', 'avc_coco_metrics'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 100;
COMMENT ON FUNCTION avcurate.coco_metrics(jsonb, jsonb) IS
	'COCO''s figures of a results document against an instances document; category NULL = overall';
