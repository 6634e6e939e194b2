-- ---- duplicates ------------------------------------------------------------

CREATE FUNCTION avcurate.duplicate_groups(
	dataset			regclass,
	max_distance	integer	DEFAULT 10,
	feature			name	DEFAULT NULL,
	fine			name	DEFAULT NULL,
	fine_distance	integer	DEFAULT 32,
	prefer			name	DEFAULT NULL
) RETURNS TABLE (
	frame_id		bigint,
	group_id		bigint,
	keep			boolean,
	distance		integer
)
	AS 'MODULE_PATHNAME', 'avc_duplicate_groups'
	LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000000;
COMMENT ON FUNCTION avcurate.duplicate_groups(regclass, integer, name, name, integer, name) IS
	'frames that show the same as another: equal image_sha256, or dhash within max_distance of 64 bits and dhash256 within fine_distance of 256, which is read from the feature "fine" or the only one of dhash256(), or where there is none computed from the images of frames whose dhash is near (fine_distance NULL: 64 bits alone; a hash that is not that of the image: likewise); group_id is the frame that is kept, the first by "prefer" (most first) and frame_id';

CREATE FUNCTION avcurate.mark_duplicates(
	dataset			regclass,
	max_distance	integer	DEFAULT 10,
	feature			name	DEFAULT NULL,
	fine			name	DEFAULT NULL,
	fine_distance	integer	DEFAULT 32,
	prefer			name	DEFAULT NULL
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_mark_duplicates'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.mark_duplicates(regclass, integer, name, name, integer, name) IS
	'set column duplicate_of of a dataset: the frame that is kept for this one, NULL for frames that are kept; makes the column the first time, writes only rows that change and returns how many';
