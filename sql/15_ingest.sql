-- ---- ingest ----------------------------------------------------------------

CREATE TABLE _avcurate.ingest_errors (
	dataset		regclass	NOT NULL,
	source		text		NOT NULL,
	run			text		NOT NULL,
	at			timestamptz	NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	sqlstate	text		NOT NULL,
	message		text		NOT NULL,
	PRIMARY KEY (dataset, source)
);
COMMENT ON TABLE _avcurate.ingest_errors IS
	'one row a file that could not be taken; gone once it was taken';
COMMENT ON COLUMN _avcurate.ingest_errors.dataset IS 'where it was to go';
COMMENT ON COLUMN _avcurate.ingest_errors.source IS
	'the file, or the label file and the name of the entry';
COMMENT ON COLUMN _avcurate.ingest_errors.run IS
	'the images or the labels that it was found in, as the run named them';
COMMENT ON COLUMN _avcurate.ingest_errors.at IS 'the last time it was tried';
COMMENT ON COLUMN _avcurate.ingest_errors.sqlstate IS 'kind of the error';
COMMENT ON COLUMN _avcurate.ingest_errors.message IS 'what is wrong with it';
SELECT pg_catalog.pg_extension_config_dump('_avcurate.ingest_errors', '');

CREATE TABLE _avcurate.ingest_progress (
	dataset		regclass	NOT NULL,
	source		text		NOT NULL,
	state		text		NOT NULL DEFAULT 'running'
		CHECK (state IN ('running', 'finished')),
	pid			integer		NOT NULL,
	started_at	timestamptz	NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	updated_at	timestamptz	NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	total		bigint,
	inserted	bigint		NOT NULL DEFAULT 0,
	updated		bigint		NOT NULL DEFAULT 0,
	unchanged	bigint		NOT NULL DEFAULT 0,
	unlabelled	bigint		NOT NULL DEFAULT 0,
	errors		bigint		NOT NULL DEFAULT 0,
	dropped_boxes bigint	NOT NULL DEFAULT 0,
	clipped_boxes bigint	NOT NULL DEFAULT 0,
	PRIMARY KEY (dataset, source)
) WITH (fillfactor = 50);
COMMENT ON TABLE _avcurate.ingest_progress IS
	'the newest run of each source, written with every batch';
COMMENT ON COLUMN _avcurate.ingest_progress.dataset IS 'where the frames go';
COMMENT ON COLUMN _avcurate.ingest_progress.source IS 'where they come from';
COMMENT ON COLUMN _avcurate.ingest_progress.state IS 'running or finished';
COMMENT ON COLUMN _avcurate.ingest_progress.pid IS 'the backend that runs it';
COMMENT ON COLUMN _avcurate.ingest_progress.started_at IS 'when it began';
COMMENT ON COLUMN _avcurate.ingest_progress.updated_at IS 'the last batch';
COMMENT ON COLUMN _avcurate.ingest_progress.total IS
	'frames to come in all; NULL = not known';
COMMENT ON COLUMN _avcurate.ingest_progress.inserted IS 'new frames';
COMMENT ON COLUMN _avcurate.ingest_progress.updated IS 'frames that differed';
COMMENT ON COLUMN _avcurate.ingest_progress.unchanged IS
	'frames that were the same';
COMMENT ON COLUMN _avcurate.ingest_progress.unlabelled IS
	'of these, frames of which the source has no labels';
COMMENT ON COLUMN _avcurate.ingest_progress.errors IS
	'rows written to ingest_errors';
COMMENT ON COLUMN _avcurate.ingest_progress.dropped_boxes IS
	'boxes without an area, or outside the frame';
COMMENT ON COLUMN _avcurate.ingest_progress.clipped_boxes IS
	'boxes cut to the frame';

CREATE VIEW avcurate.ingest_errors WITH (security_barrier) AS
SELECT e.dataset, e.source, e.at, e.sqlstate, e.message
FROM _avcurate.ingest_errors e
WHERE pg_catalog.has_table_privilege(e.dataset, 'SELECT')
	AND NOT pg_catalog.row_security_active(e.dataset);
COMMENT ON VIEW avcurate.ingest_errors IS
	'one row a file that could not be taken into a dataset that the caller may read; none where row security applies to him';
COMMENT ON COLUMN avcurate.ingest_errors.dataset IS 'where it was to go';
COMMENT ON COLUMN avcurate.ingest_errors.source IS
	'the file, or the label file and the name of the entry';
COMMENT ON COLUMN avcurate.ingest_errors.at IS 'the last time it was tried';
COMMENT ON COLUMN avcurate.ingest_errors.sqlstate IS 'kind of the error';
COMMENT ON COLUMN avcurate.ingest_errors.message IS 'what is wrong with it';
GRANT SELECT ON avcurate.ingest_errors TO PUBLIC;

CREATE VIEW avcurate.ingest_progress WITH (security_barrier) AS
SELECT p.dataset, p.source,
	CASE WHEN p.state = 'running' AND NOT EXISTS (
			SELECT 1 FROM pg_catalog.pg_stat_activity a
			WHERE a.pid = p.pid
				AND coalesce(a.backend_start <= p.started_at, true)
				AND coalesce(a.query_start <= p.started_at, true)
				AND coalesce(a.state = 'active', true))
		THEN 'interrupted' ELSE p.state END AS state,
	p.pid, p.started_at, p.updated_at, p.total,
	p.inserted + p.updated + p.unchanged AS done,
	p.inserted, p.updated, p.unchanged, p.unlabelled, p.errors,
	p.dropped_boxes, p.clipped_boxes
FROM _avcurate.ingest_progress p
WHERE pg_catalog.has_table_privilege(p.dataset, 'SELECT');
COMMENT ON VIEW avcurate.ingest_progress IS
	'how far the newest ingest of each source is';
COMMENT ON COLUMN avcurate.ingest_progress.dataset IS 'where the frames go';
COMMENT ON COLUMN avcurate.ingest_progress.source IS 'where they come from';
COMMENT ON COLUMN avcurate.ingest_progress.state IS
	'running, finished, or interrupted when its statement has ended otherwise';
COMMENT ON COLUMN avcurate.ingest_progress.pid IS 'the backend that runs it';
COMMENT ON COLUMN avcurate.ingest_progress.started_at IS 'when it began';
COMMENT ON COLUMN avcurate.ingest_progress.updated_at IS 'the last batch';
COMMENT ON COLUMN avcurate.ingest_progress.total IS
	'frames to come in all; NULL = not known';
COMMENT ON COLUMN avcurate.ingest_progress.done IS 'frames taken so far';
COMMENT ON COLUMN avcurate.ingest_progress.inserted IS 'new frames';
COMMENT ON COLUMN avcurate.ingest_progress.updated IS 'frames that differed';
COMMENT ON COLUMN avcurate.ingest_progress.unchanged IS
	'frames that were the same';
COMMENT ON COLUMN avcurate.ingest_progress.unlabelled IS
	'of these, frames of which the source has no labels';
COMMENT ON COLUMN avcurate.ingest_progress.errors IS
	'rows written to ingest_errors';
COMMENT ON COLUMN avcurate.ingest_progress.dropped_boxes IS
	'boxes without an area, or outside the frame';
COMMENT ON COLUMN avcurate.ingest_progress.clipped_boxes IS
	'boxes cut to the frame';
GRANT SELECT ON avcurate.ingest_progress TO PUBLIC;

CREATE PROCEDURE avcurate.ingest_bdd100k(
	dataset		regclass,
	images		text,
	labels		text		DEFAULT NULL,
	split		text		DEFAULT NULL,
	frame_time	timestamptz	DEFAULT NULL
)
	AS 'MODULE_PATHNAME', 'avc_ingest_bdd100k'
	LANGUAGE C;
COMMENT ON PROCEDURE avcurate.ingest_bdd100k(regclass, text, text, text,
	timestamptz) IS
	'take a folder of BDD100K frames and its labels, committing as it goes';
REVOKE ALL ON PROCEDURE avcurate.ingest_bdd100k(regclass, text, text, text,
	timestamptz) FROM PUBLIC;
GRANT EXECUTE ON PROCEDURE avcurate.ingest_bdd100k(regclass, text, text, text,
	timestamptz) TO pg_read_server_files;
