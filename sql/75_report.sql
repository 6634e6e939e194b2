-- ---- report ----------------------------------------------------------------

CREATE FUNCTION avcurate.report(
	jobs		bigint[]
) RETURNS text
	AS 'MODULE_PATHNAME', 'avc_report'
	LANGUAGE C STABLE STRICT PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION avcurate.report(bigint[]) IS
	'one HTML page about jobs that stands by itself: pins, curves, tables, comparisons, pictures';
