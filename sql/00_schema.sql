\echo Use "CREATE EXTENSION avcurate" to load this file. \quit

-- ---------------------------------------------------------------------
-- Schemas: what users call is in avcurate (made by the control file's
-- "schema"), what only the extension touches is in _avcurate.
-- ---------------------------------------------------------------------
COMMENT ON SCHEMA avcurate IS
	'driving frames, features, versioned slices, batches, detectors';

CREATE SCHEMA _avcurate;
COMMENT ON SCHEMA _avcurate IS 'internals of avcurate; not for use by hand';

GRANT USAGE ON SCHEMA avcurate TO PUBLIC;
REVOKE ALL ON SCHEMA _avcurate FROM PUBLIC;
