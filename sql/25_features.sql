-- ---- features --------------------------------------------------------------

CREATE TABLE _avcurate.features (
	dataset		regclass	NOT NULL,
	feature		name		NOT NULL,
	feature_no	integer		NOT NULL,
	expression	text		NOT NULL,
	resolved	text		NOT NULL,
	reads		name[]		NOT NULL,
	created_at	timestamptz	NOT NULL DEFAULT pg_catalog.now(),
	altered_at	timestamptz	NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (dataset, feature),
	UNIQUE (dataset, feature_no)
);
COMMENT ON TABLE _avcurate.features IS 'columns computed by an expression';
COMMENT ON COLUMN _avcurate.features.dataset IS 'whose column it is';
COMMENT ON COLUMN _avcurate.features.feature IS 'name of feature and column';
COMMENT ON COLUMN _avcurate.features.feature_no IS
	'its place in feature_marks; a new one with every change of the expression';
COMMENT ON COLUMN _avcurate.features.expression IS 'as it was typed, a checkpoint left NULL written out';
COMMENT ON COLUMN _avcurate.features.resolved IS
	'the expression with all names resolved; the row is called frame';
COMMENT ON COLUMN _avcurate.features.reads IS
	'columns that the expression reads';
COMMENT ON COLUMN _avcurate.features.created_at IS 'when it was added';
COMMENT ON COLUMN _avcurate.features.altered_at IS
	'when its expression was last changed';
SELECT pg_catalog.pg_extension_config_dump('_avcurate.features', '');

CREATE TABLE _avcurate.feature_errors (
	dataset		regclass	NOT NULL,
	feature		name		NOT NULL,
	frame_id	bigint		NOT NULL,
	attempts	integer		NOT NULL DEFAULT 1,
	last_at		timestamptz	NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	sqlstate	text		NOT NULL,
	message		text		NOT NULL,
	PRIMARY KEY (dataset, feature, frame_id)
);
COMMENT ON TABLE _avcurate.feature_errors IS
	'rows whose expression failed; gone once it went through';
COMMENT ON COLUMN _avcurate.feature_errors.dataset IS 'the table';
COMMENT ON COLUMN _avcurate.feature_errors.feature IS 'what was computed';
COMMENT ON COLUMN _avcurate.feature_errors.frame_id IS 'for which frame';
COMMENT ON COLUMN _avcurate.feature_errors.attempts IS 'how often in a row';
COMMENT ON COLUMN _avcurate.feature_errors.last_at IS 'the last time';
COMMENT ON COLUMN _avcurate.feature_errors.sqlstate IS 'kind of the error';
COMMENT ON COLUMN _avcurate.feature_errors.message IS 'what went wrong';
SELECT pg_catalog.pg_extension_config_dump('_avcurate.feature_errors', '');

-- The marks of a row: see src/features/README.  Statements that backfill
-- builds call these with the rights of the dataset's owner.
CREATE FUNCTION avcurate.feature_state(feature_marks bytea, feature_no integer)
	RETURNS integer
	AS 'MODULE_PATHNAME', 'avc_feature_state'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION avcurate.feature_state(bytea, integer) IS
	'state of a feature in a row''s marks: 0 pending, 1 done, 2 failed';

CREATE FUNCTION avcurate.feature_open(
	feature_marks	bytea,
	feature_no		integer,
	done_first		integer[],
	not_failed		integer[]
) RETURNS boolean
	AS 'MODULE_PATHNAME', 'avc_feature_open'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION avcurate.feature_open(bytea, integer, integer[], integer[]) IS
	'is a feature pending, and can it be computed?';

CREATE FUNCTION avcurate.feature_marked(
	feature_marks	bytea,
	feature_no		integer,
	old_state		integer,
	new_state		integer,
	done_first		integer[]
) RETURNS bytea
	AS 'MODULE_PATHNAME', 'avc_feature_marked'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION avcurate.feature_marked(bytea, integer, integer, integer, integer[]) IS
	'the marks of a row with the state of one feature changed';

CREATE FUNCTION avcurate.feature_row(frame_id bigint) RETURNS boolean
	AS 'MODULE_PATHNAME', 'avc_feature_row'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.feature_row(bigint) IS
	'true; tells backfill which row is computed next';

CREATE FUNCTION avcurate.reset_features() RETURNS trigger
	AS 'MODULE_PATHNAME', 'avc_reset_features'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.reset_features() IS
	'row trigger of datasets: features are pending again when what they read changes';

CREATE FUNCTION avcurate.add_feature(
	dataset		regclass,
	feature		name,
	expression	text
) RETURNS void
	AS 'MODULE_PATHNAME', 'avc_add_feature'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.add_feature(regclass, name, text) IS
	'add a column that is computed by an expression over the row; backfill fills it, with search_path = pg_catalog, avcurate, pg_temp';

CREATE FUNCTION avcurate.alter_feature(
	dataset		regclass,
	feature		name,
	expression	text
) RETURNS void
	AS 'MODULE_PATHNAME', 'avc_alter_feature'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.alter_feature(regclass, name, text) IS
	'change the expression of a feature; it and what reads it are pending again and keep their values until they are computed';

CREATE FUNCTION avcurate.drop_feature(dataset regclass, feature name)
	RETURNS void
	AS 'MODULE_PATHNAME', 'avc_drop_feature'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.drop_feature(regclass, name) IS
	'drop a feature and its column; refused while others read it';

CREATE FUNCTION avcurate.retry_feature(dataset regclass, feature name)
	RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_retry_feature'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.retry_feature(regclass, name) IS
	'put the failed rows of a feature back to pending and return how many';

CREATE PROCEDURE avcurate.backfill(
	dataset		regclass,
	feature		name	DEFAULT NULL,
	batch_size	integer	DEFAULT 256,
	max_rows	bigint	DEFAULT NULL
)
	AS 'MODULE_PATHNAME', 'avc_backfill'
	LANGUAGE C;
COMMENT ON PROCEDURE avcurate.backfill(regclass, name, integer, bigint) IS
	'compute what is pending, committing per batch';

-- Called through the view only; it counts as the owner of the dataset.
CREATE FUNCTION _avcurate.feature_counts(dataset regclass)
	RETURNS TABLE (
		feature		name,
		total		bigint,
		done		bigint,
		pending		bigint,
		failed		bigint
	)
	AS 'MODULE_PATHNAME', 'avc_feature_counts'
	LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 10;
COMMENT ON FUNCTION _avcurate.feature_counts(regclass) IS
	'count the states of a dataset''s features in one scan';

CREATE VIEW avcurate.features WITH (security_barrier) AS
SELECT f.dataset, f.feature,
	pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
	f.expression, f.reads, f.created_at, f.altered_at
FROM _avcurate.features f
JOIN pg_catalog.pg_attribute a
	ON a.attrelid = f.dataset AND a.attname = f.feature
WHERE pg_catalog.has_table_privilege(f.dataset, 'SELECT');
COMMENT ON VIEW avcurate.features IS
	'features of the datasets that the caller may read';
COMMENT ON COLUMN avcurate.features.dataset IS 'whose column it is';
COMMENT ON COLUMN avcurate.features.feature IS 'name of feature and column';
COMMENT ON COLUMN avcurate.features.type IS 'type of the column';
COMMENT ON COLUMN avcurate.features.expression IS 'as it was typed, a checkpoint left NULL written out';
COMMENT ON COLUMN avcurate.features.reads IS
	'columns that the expression reads';
COMMENT ON COLUMN avcurate.features.created_at IS 'when it was added';
COMMENT ON COLUMN avcurate.features.altered_at IS
	'when its expression was last changed';
GRANT SELECT ON avcurate.features TO PUBLIC;

CREATE VIEW avcurate.feature_status WITH (security_barrier) AS
SELECT d.dataset, c.feature, c.total, c.done, c.pending, c.failed
FROM _avcurate.datasets d, LATERAL _avcurate.feature_counts(d.dataset) c
WHERE pg_catalog.has_table_privilege(d.dataset, 'SELECT');
COMMENT ON VIEW avcurate.feature_status IS
	'how many rows of each feature are done, pending and failed; not where row security applies to the caller';
COMMENT ON COLUMN avcurate.feature_status.dataset IS 'whose column it is';
COMMENT ON COLUMN avcurate.feature_status.feature IS
	'name of feature and column';
COMMENT ON COLUMN avcurate.feature_status.total IS 'rows of the dataset';
COMMENT ON COLUMN avcurate.feature_status.done IS 'rows that have the value';
COMMENT ON COLUMN avcurate.feature_status.pending IS
	'rows still to be computed, once what the feature reads is done in them';
COMMENT ON COLUMN avcurate.feature_status.failed IS
	'rows whose expression failed; see feature_errors';
GRANT SELECT ON avcurate.feature_status TO PUBLIC;

CREATE VIEW avcurate.feature_errors WITH (security_barrier) AS
SELECT e.dataset, e.feature, e.frame_id, e.attempts, e.last_at, e.sqlstate,
	e.message
FROM _avcurate.feature_errors e
WHERE pg_catalog.has_table_privilege(e.dataset, 'SELECT')
	AND NOT pg_catalog.row_security_active(e.dataset);
COMMENT ON VIEW avcurate.feature_errors IS
	'rows whose expression failed, in datasets that the caller may read; not where row security applies to the caller';
COMMENT ON COLUMN avcurate.feature_errors.dataset IS 'the table';
COMMENT ON COLUMN avcurate.feature_errors.feature IS 'what was computed';
COMMENT ON COLUMN avcurate.feature_errors.frame_id IS 'for which frame';
COMMENT ON COLUMN avcurate.feature_errors.attempts IS 'how often in a row';
COMMENT ON COLUMN avcurate.feature_errors.last_at IS 'the last time';
COMMENT ON COLUMN avcurate.feature_errors.sqlstate IS 'kind of the error';
COMMENT ON COLUMN avcurate.feature_errors.message IS 'what went wrong';
GRANT SELECT ON avcurate.feature_errors TO PUBLIC;

CREATE FUNCTION _avcurate.feature_dropped() RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'avc_feature_dropped'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION _avcurate.feature_dropped() IS
	'forget features of datasets and columns that are gone';
CREATE EVENT TRIGGER avc_feature_dropped ON sql_drop
	EXECUTE FUNCTION _avcurate.feature_dropped();
ALTER EVENT TRIGGER avc_feature_dropped ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER avc_feature_dropped IS
	'forget features of datasets and columns that are gone';

CREATE FUNCTION _avcurate.feature_renamed() RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'avc_feature_renamed'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION _avcurate.feature_renamed() IS
	'refuse to rename the column of a feature';
CREATE EVENT TRIGGER avc_feature_renamed ON ddl_command_end
	-- the others rename columns of tables, too
	WHEN TAG IN ('ALTER TABLE', 'ALTER VIEW', 'ALTER FOREIGN TABLE',
				 'ALTER MATERIALIZED VIEW', 'ALTER TYPE')
	EXECUTE FUNCTION _avcurate.feature_renamed();
ALTER EVENT TRIGGER avc_feature_renamed ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER avc_feature_renamed IS
	'refuse to rename the column of a feature';
