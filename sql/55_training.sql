-- ---- training --------------------------------------------------------------

CREATE FUNCTION avcurate.train(
	slice		regclass,
	model		text,
	options		jsonb DEFAULT '{}'
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_train'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.train(regclass, text, jsonb) IS
	'queue the training of a model on the slice''s version of this moment; returns the job';
