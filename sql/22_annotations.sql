-- ---- functions of the annotation arrays ------------------------------------

CREATE FUNCTION _avcurate.has_category_support(internal) RETURNS internal
	AS 'MODULE_PATHNAME', 'avc_has_category_support'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION _avcurate.has_category_support(internal) IS
	'lets the planner use an index for has_category';

CREATE FUNCTION avcurate.has_category(
	ann_categories	text[],
	VARIADIC wanted	text[]
) RETURNS boolean
	AS 'MODULE_PATHNAME', 'avc_has_category'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20
	SUPPORT _avcurate.has_category_support;
COMMENT ON FUNCTION avcurate.has_category(text[], text[]) IS
	'does the frame have a box of one of the classes, in whatever spelling?';

CREATE FUNCTION avcurate.largest_box_area_pct(
	ann_categories	text[],
	ann_bboxes		real[],
	width			integer,
	height			integer,
	category		text
) RETURNS real
	AS 'MODULE_PATHNAME', 'avc_largest_box_area_pct'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 50;
COMMENT ON FUNCTION avcurate.largest_box_area_pct(text[], real[], integer,
	integer, text) IS
	'area of the largest box of a class in percent of the frame; NULL = none';

CREATE FUNCTION avcurate.scene_text(
	weather			text,
	scene			text,
	timeofday		text,
	ann_categories	text[]
) RETURNS text
	AS 'MODULE_PATHNAME', 'avc_scene_text'
	LANGUAGE C IMMUTABLE PARALLEL SAFE COST 50;
COMMENT ON FUNCTION avcurate.scene_text(text, text, text, text[]) IS
	'what a frame shows in words, for full text search';

-- ---- index of categories ---------------------------------------------------

CREATE FUNCTION _avcurate.category_selectivity(internal, oid, internal, integer)
	RETURNS double precision
	AS 'MODULE_PATHNAME', 'avc_category_selectivity'
	LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION _avcurate.category_selectivity(internal, oid, internal,
	integer) IS 'share of the frames that have one of the categories';

CREATE OPERATOR avcurate.~&& (
	LEFTARG = text[],
	RIGHTARG = text[],
	FUNCTION = avcurate.has_category,
	RESTRICT = _avcurate.category_selectivity
);
COMMENT ON OPERATOR avcurate.~&& (text[], text[]) IS
	'has_category() as an operator';

CREATE FUNCTION _avcurate.category_extract_value(text[], internal)
	RETURNS internal
	AS 'MODULE_PATHNAME', 'avc_category_extract_value'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION _avcurate.category_extract_value(text[], internal) IS
	'keys of a frame in an index of categories';

CREATE FUNCTION _avcurate.category_extract_query(text[], internal, smallint,
	internal, internal, internal, internal) RETURNS internal
	AS 'MODULE_PATHNAME', 'avc_category_extract_query'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION _avcurate.category_extract_query(text[], internal,
	smallint, internal, internal, internal, internal) IS
	'keys to look for in an index of categories';

CREATE FUNCTION _avcurate.category_consistent(internal, smallint, text[],
	integer, internal, internal, internal, internal) RETURNS boolean
	AS 'MODULE_PATHNAME', 'avc_category_consistent'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION _avcurate.category_consistent(internal, smallint, text[],
	integer, internal, internal, internal, internal) IS
	'does a frame have one of the keys?';

CREATE OPERATOR CLASS avcurate.category_ops FOR TYPE text[] USING gin AS
	OPERATOR 1 avcurate.~&& (text[], text[]),
	FUNCTION 1 pg_catalog.bttextcmp(text, text),
	FUNCTION 2 _avcurate.category_extract_value(text[], internal),
	FUNCTION 3 _avcurate.category_extract_query(text[], internal, smallint,
		internal, internal, internal, internal),
	FUNCTION 4 _avcurate.category_consistent(internal, smallint, text[],
		integer, internal, internal, internal, internal),
	STORAGE text;
COMMENT ON OPERATOR CLASS avcurate.category_ops USING gin IS
	'index of ann_categories for has_category(), whatever the spelling';
COMMENT ON OPERATOR FAMILY avcurate.category_ops USING gin IS
	'index of ann_categories for has_category(), whatever the spelling';
