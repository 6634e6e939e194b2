-- ---- search ----------------------------------------------------------------

CREATE FUNCTION avcurate.cosine_similarity(a real[], b real[]) RETURNS real
	AS 'MODULE_PATHNAME', 'avc_cosine_similarity'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION avcurate.cosine_similarity(real[], real[]) IS
	'cosine of the angle between two vectors, -1 to 1; NULL where a vector is zero or has a NULL, NaN or infinite number';

CREATE FUNCTION avcurate.nearest_frames(
	dataset		regclass,
	query		real[],
	k			integer	DEFAULT 10,
	filter		text	DEFAULT NULL,
	feature		name	DEFAULT NULL
) RETURNS TABLE (frame_id bigint, similarity real)
	AS 'MODULE_PATHNAME', 'avc_nearest_frames'
	LANGUAGE C STABLE PARALLEL RESTRICTED COST 10000 ROWS 10;
COMMENT ON FUNCTION avcurate.nearest_frames(regclass, real[], integer, text, name) IS
	'the k frames among those of a filter whose vectors have the largest cosine with a query, exactly; largest first, then by frame_id';

CREATE FUNCTION avcurate.search_frames(
	dataset		regclass,
	query		text,
	k			integer	DEFAULT 10,
	filter		text	DEFAULT NULL,
	feature		name	DEFAULT NULL
) RETURNS TABLE (frame_id bigint, similarity real)
	AS 'MODULE_PATHNAME', 'avc_search_frames'
	LANGUAGE C STABLE PARALLEL RESTRICTED COST 100000 ROWS 10;
COMMENT ON FUNCTION avcurate.search_frames(regclass, text, integer, text, name) IS
	'the k frames among those of a filter that a text describes best by CLIP: nearest_frames of its embedding';
