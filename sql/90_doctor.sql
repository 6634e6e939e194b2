-- ---------------------------------------------------------------------
-- What is installed, and whether it works here
-- ---------------------------------------------------------------------
CREATE FUNCTION avcurate.version() RETURNS text
	AS 'MODULE_PATHNAME', 'avc_version'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.version() IS
	'versions of the extension, the engine and its libraries, and the devices found';

CREATE FUNCTION avcurate.doctor(
	OUT check_name	text,
	OUT ok			boolean,
	OUT detail		text,
	OUT hint		text
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'avc_doctor'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.doctor() IS
	'one row a check of this installation: does it work, and what to do if not';
