-- ---- datasets --------------------------------------------------------------

CREATE TABLE _avcurate.datasets (
	dataset		regclass	PRIMARY KEY,
	boxes		regclass,
	features_made integer	NOT NULL DEFAULT 0,
	created_at	timestamptz	NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE _avcurate.datasets IS 'frames tables made by create_dataset';
COMMENT ON COLUMN _avcurate.datasets.dataset IS 'the table';
COMMENT ON COLUMN _avcurate.datasets.boxes IS
	'the view of its boxes; NULL once dropped';
COMMENT ON COLUMN _avcurate.datasets.features_made IS
	'numbers given to features so far; the next feature gets this one';
COMMENT ON COLUMN _avcurate.datasets.created_at IS 'when it was made';
SELECT pg_catalog.pg_extension_config_dump('_avcurate.datasets', '');

CREATE FUNCTION avcurate.check_frame() RETURNS trigger
	AS 'MODULE_PATHNAME', 'avc_check_frame'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.check_frame() IS
	'row trigger of datasets: image hash, sizes and annotation rules';

CREATE FUNCTION avcurate.frame_boxes(
	ann_categories	text[],
	ann_bboxes		real[],
	ann_occluded	boolean[],
	ann_truncated	boolean[],
	ann_ignored		boolean[],
	width			integer,
	height			integer
) RETURNS TABLE (
	box_no			integer,
	category		text,
	x1				real,
	y1				real,
	x2				real,
	y2				real,
	area_pct		real,
	occluded		boolean,
	truncated		boolean,
	ignored			boolean
)
	AS 'MODULE_PATHNAME', 'avc_frame_boxes'
	LANGUAGE C IMMUTABLE PARALLEL SAFE ROWS 20;
COMMENT ON FUNCTION avcurate.frame_boxes(text[], real[], boolean[], boolean[],
	boolean[], integer, integer) IS
	'the annotation arrays of a frame as one row a box';

CREATE FUNCTION avcurate.create_dataset(dataset text) RETURNS regclass
	AS 'MODULE_PATHNAME', 'avc_create_dataset'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.create_dataset(text) IS
	'make a table of frames, with its triggers and the view of its boxes';

CREATE FUNCTION avcurate.drop_dataset(
	dataset		regclass,
	force		boolean	DEFAULT false
) RETURNS void
	AS 'MODULE_PATHNAME', 'avc_drop_dataset'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.drop_dataset(regclass, boolean) IS
	'drop a dataset; refused while slices or checkpoints hold its frames';

-- Called through the view only; it counts as the owner of the dataset.
CREATE FUNCTION _avcurate.dataset_counts(
	dataset				regclass,
	OUT frames			bigint,
	OUT labelled_frames	bigint,
	OUT image_bytes		bigint,
	OUT boxes			bigint
) RETURNS record
	AS 'MODULE_PATHNAME', 'avc_dataset_counts'
	LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION _avcurate.dataset_counts(regclass) IS
	'count frames, labels, bytes and boxes of a dataset';

CREATE VIEW avcurate.datasets WITH (security_barrier) AS
SELECT d.dataset, c.frames, c.labelled_frames, c.image_bytes, c.boxes,
	d.created_at
FROM _avcurate.datasets d,
	LATERAL _avcurate.dataset_counts(d.dataset) c
WHERE pg_catalog.has_table_privilege(d.dataset, 'SELECT');
COMMENT ON VIEW avcurate.datasets IS
	'datasets that the caller may read, with what is in them; NULL where row security applies to him';
COMMENT ON COLUMN avcurate.datasets.dataset IS 'the table';
COMMENT ON COLUMN avcurate.datasets.frames IS 'rows';
COMMENT ON COLUMN avcurate.datasets.labelled_frames IS
	'rows with annotation arrays, empty ones included';
COMMENT ON COLUMN avcurate.datasets.image_bytes IS 'JPEG bytes in all';
COMMENT ON COLUMN avcurate.datasets.boxes IS 'boxes in all';
COMMENT ON COLUMN avcurate.datasets.created_at IS 'when it was made';
GRANT SELECT ON avcurate.datasets TO PUBLIC;

CREATE FUNCTION _avcurate.dataset_dropped() RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'avc_dataset_dropped'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION _avcurate.dataset_dropped() IS
	'forget datasets that are gone';
CREATE EVENT TRIGGER avc_dataset_dropped ON sql_drop
	EXECUTE FUNCTION _avcurate.dataset_dropped();
ALTER EVENT TRIGGER avc_dataset_dropped ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER avc_dataset_dropped IS
	'forget datasets that are gone, whichever command dropped them';
