-- ---- looking at frames -----------------------------------------------------

CREATE FUNCTION avcurate.contact_sheet(
	dataset		regclass,
	frame_ids	bigint[],
	captions	text[]	DEFAULT NULL,
	boxes		boolean	DEFAULT false,
	title		text	DEFAULT NULL,
	side		integer	DEFAULT 320
) RETURNS bytea
	AS 'MODULE_PATHNAME', 'avc_contact_sheet_frames'
	LANGUAGE C STABLE PARALLEL RESTRICTED COST 100000;
COMMENT ON FUNCTION avcurate.contact_sheet(regclass, bigint[], text[], boolean, text, integer) IS
	'a JPEG of up to 100 frames of a dataset in the order given, each with a caption, and its labelled boxes where asked; read with the rights of the caller; NULL for no frames';

-- Of two bare literals PostgreSQL would take the evaluation's form, whose second
-- argument is a text: so there is one of texts, that knows them apart.  The
-- sublink keeps it from being inlined: the planner computes casts of constants
-- also where CASE would not come to them.
CREATE FUNCTION avcurate.contact_sheet(
	dataset		text,
	frame_ids	text,
	captions	text	DEFAULT NULL,
	boxes		boolean	DEFAULT false,
	title		text	DEFAULT NULL,
	side		integer	DEFAULT 320
) RETURNS bytea
	LANGUAGE sql STABLE PARALLEL RESTRICTED COST 100000
BEGIN ATOMIC
	SELECT CASE WHEN (SELECT dataset ~ '^\s*\d+\s*$' AND frame_ids ~ '^\s*[a-z_]+\s*$')
		THEN avcurate.contact_sheet(dataset::bigint, frame_ids, coalesce(captions::integer, 12))
		ELSE avcurate.contact_sheet(dataset::regclass, frame_ids::bigint[], captions::text[], boxes, title, side) END;
END;
COMMENT ON FUNCTION avcurate.contact_sheet(text, text, text, boolean, text, integer) IS
	'contact_sheet(''drives'', ''{1,2}''): the form for literals, a dataset''s; contact_sheet(''7'', ''missed'') is that of an evaluation';

-- ---- what is in frames -----------------------------------------------------

-- "source" is a dataset, a slice, or any table or view with these columns.
CREATE FUNCTION avcurate.scene_counts(
	source		regclass,
	version		bigint	DEFAULT NULL
) RETURNS TABLE (
	weather		text,
	timeofday	text,
	scene		text,
	frames		bigint,
	labelled	bigint,
	boxes		bigint,
	pct			double precision,
	ignored		bigint
)
	AS 'MODULE_PATHNAME', 'avc_scene_counts'
	LANGUAGE C STABLE PARALLEL RESTRICTED COST 100000 ROWS 100;
COMMENT ON FUNCTION avcurate.scene_counts(regclass, bigint) IS
	'frames by weather, time of day and scene, most first, and their share in percent; NULL = not known; boxes that are ignored (crowds, ignored classes) are counted apart, as in box_sizes and category_pairs; of a version of a slice where one is given';

CREATE FUNCTION avcurate.box_sizes(
	source		regclass,
	version		bigint	DEFAULT NULL
) RETURNS TABLE (
	category	text,
	frames		bigint,
	boxes		bigint,
	small		bigint,
	medium		bigint,
	large		bigint,
	mean_pct	double precision,
	max_pct		double precision,
	ignored		bigint
)
	AS 'MODULE_PATHNAME', 'avc_box_sizes'
	LANGUAGE C STABLE PARALLEL RESTRICTED COST 100000 ROWS 20;
COMMENT ON FUNCTION avcurate.box_sizes(regclass, bigint) IS
	'boxes by category and COCO''s sizes (area below 32 x 32, below 96 x 96, larger), and their share of the frame in percent; those that are ignored are counted apart';

CREATE FUNCTION avcurate.category_pairs(
	source		regclass,
	version		bigint	DEFAULT NULL
) RETURNS TABLE (
	category	text,
	other		text,
	frames		bigint,
	of_category	double precision,
	of_other	double precision,
	lift		double precision
)
	AS 'MODULE_PATHNAME', 'avc_category_pairs'
	LANGUAGE C STABLE PARALLEL RESTRICTED COST 100000 ROWS 100;
COMMENT ON FUNCTION avcurate.category_pairs(regclass, bigint) IS
	'frames that show both categories (boxes that are ignored do not count), their share of the frames with each, and lift: times as many as if the two were independent among labelled frames';

CREATE FUNCTION avcurate.slice_drift(
	slice		regclass,
	from_version bigint,
	to_version	bigint	DEFAULT NULL,
	other		regclass DEFAULT NULL
) RETURNS TABLE (
	variable	text,
	before		bigint,
	after		bigint,
	divergence	double precision,
	most		text
)
	AS 'MODULE_PATHNAME', 'avc_slice_drift'
	LANGUAGE C STABLE PARALLEL RESTRICTED COST 100000 ROWS 5;
COMMENT ON FUNCTION avcurate.slice_drift(regclass, bigint, bigint, regclass) IS
	'Jensen-Shannon divergence (base 2, 0 to 1) of weather, time of day and scene over frames, category and box size over boxes, between two versions of a slice, or of it and another; a NULL version is what the view holds now';

CREATE FUNCTION avcurate.slice_drift_values(
	slice		regclass,
	from_version bigint,
	to_version	bigint	DEFAULT NULL,
	other		regclass DEFAULT NULL
) RETURNS TABLE (
	variable	text,
	value		text,
	before		bigint,
	after		bigint,
	share_before double precision,
	share_after	double precision,
	part		double precision
)
	AS 'MODULE_PATHNAME', 'avc_slice_drift_values'
	LANGUAGE C STABLE PARALLEL RESTRICTED COST 100000 ROWS 50;
COMMENT ON FUNCTION avcurate.slice_drift_values(regclass, bigint, bigint, regclass) IS
	'the values behind slice_drift: how often each occurs before and after, and its part of the divergence';
