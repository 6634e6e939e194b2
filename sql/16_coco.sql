-- ---- COCO ------------------------------------------------------------------

CREATE PROCEDURE avcurate.ingest_coco(
	dataset		regclass,
	images		text,
	annotations	text,
	split		text		DEFAULT NULL
)
	AS 'MODULE_PATHNAME', 'avc_ingest_coco'
	LANGUAGE C;
COMMENT ON PROCEDURE avcurate.ingest_coco(regclass, text, text, text) IS
	'take a folder of frames and a COCO instances file, committing as it goes';
REVOKE ALL ON PROCEDURE avcurate.ingest_coco(regclass, text, text, text)
	FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE avcurate.ingest_coco(regclass, text, text, text)
	TO pg_read_server_files;

CREATE FUNCTION avcurate.export_coco(
	slice		regclass,
	version		bigint	DEFAULT NULL
) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'avc_export_coco'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION avcurate.export_coco(regclass, bigint) IS
	'a version of a slice as a COCO instances document; NULL = newest';
