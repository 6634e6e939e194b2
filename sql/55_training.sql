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

CREATE FUNCTION avcurate.reproduce(
	checkpoint	bigint
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_reproduce'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.reproduce(bigint) IS
	'queue the training of a checkpoint once more and compare the weights; returns the job';
