-- ---- rendered scenes --------------------------------------------------------

CREATE PROCEDURE avcurate.ingest_synthetic(
	dataset		regclass,
	frames		integer,
	seed		bigint	DEFAULT 1,
	split		text	DEFAULT NULL,
	options		jsonb	DEFAULT '{}'
)
	AS 'MODULE_PATHNAME', 'avc_ingest_synthetic'
	LANGUAGE C;
COMMENT ON PROCEDURE avcurate.ingest_synthetic(regclass, integer, bigint,
	text, jsonb) IS
	'render driving scenes with exact labels into a dataset, committing as it goes';
