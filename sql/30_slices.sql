-- ---- slices: registry ------------------------------------------------------

CREATE TABLE _avcurate.slices (
	slice_id	bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	slice		regclass UNIQUE,
	slice_name	text NOT NULL,
	dataset		regclass,
	filter		text,
	condition	text,
	definition	text NOT NULL,
	columns		name[] NOT NULL,
	complete	boolean NOT NULL,
	version		bigint NOT NULL DEFAULT 0,
	must_recompute boolean NOT NULL DEFAULT false,
	erasures	bigint NOT NULL DEFAULT 0,
	created_at	timestamptz NOT NULL DEFAULT pg_catalog.now(),
	dropped_at	timestamptz
);
COMMENT ON TABLE _avcurate.slices IS
	'materialized views whose contents are versioned, keyed by OID';
COMMENT ON COLUMN _avcurate.slices.slice IS
	'NULL once the view was dropped while a version of it was pinned';
COMMENT ON COLUMN _avcurate.slices.slice_name IS
	'schema-qualified name, as last seen';
COMMENT ON COLUMN _avcurate.slices.dataset IS
	'where the frames come from; NULL once dropped';
COMMENT ON COLUMN _avcurate.slices.filter IS
	'what create_slice or alter_slice was given; NULL for a view that a user made';
COMMENT ON COLUMN _avcurate.slices.condition IS
	'condition that the view''s rule was made of the filter with';
COMMENT ON COLUMN _avcurate.slices.columns IS
	'columns of the view in their order, named as in the history table';
COMMENT ON COLUMN _avcurate.slices.complete IS
	'has every column that batches, train and evaluate need';
COMMENT ON COLUMN _avcurate.slices.version IS 'newest version';
COMMENT ON COLUMN _avcurate.slices.must_recompute IS
	'the next refresh must recompute the whole definition';
COMMENT ON COLUMN _avcurate.slices.erasures IS
	'how often a frame was erased from it: a snapshot that sees fewer is stale';

COMMENT ON COLUMN _avcurate.slices.slice_id IS
	'number of the slice and of its history table';
COMMENT ON COLUMN _avcurate.slices.definition IS
	'query of the view at its newest version, names qualified';
COMMENT ON COLUMN _avcurate.slices.created_at IS 'when it was tracked';
COMMENT ON COLUMN _avcurate.slices.dropped_at IS 'when the view was dropped';

CREATE INDEX slices_dataset ON _avcurate.slices (dataset);

CREATE TABLE _avcurate.slice_versions (
	slice_id	bigint NOT NULL REFERENCES _avcurate.slices,
	version		bigint NOT NULL CHECK (version >= 1),
	created_at	timestamptz NOT NULL DEFAULT pg_catalog.now(),
	created_by	name NOT NULL,
	rows		bigint NOT NULL,
	added		bigint NOT NULL,
	removed		bigint NOT NULL,
	changed		bigint NOT NULL,
	mode		text NOT NULL
				CHECK (mode IN ('initial', 'incremental', 'full')),
	definition	text NOT NULL,
	columns		name[] NOT NULL,
	digest_format integer NOT NULL,
	digest		text NOT NULL CHECK (digest ~ '^[0-9a-f]{32}$'),
	erased		bigint NOT NULL DEFAULT 0 CHECK (erased >= 0),
	erased_digest text NOT NULL DEFAULT pg_catalog.repeat('0', 32)
				CHECK (erased_digest ~ '^[0-9a-f]{32}$'),
	note		text,
	PRIMARY KEY (slice_id, version)
);
COMMENT ON TABLE _avcurate.slice_versions IS
	'one row a version of a slice that was not pruned';
COMMENT ON COLUMN _avcurate.slice_versions.created_by IS
	'name of the role that refreshed';
COMMENT ON COLUMN _avcurate.slice_versions.columns IS
	'columns that this version has, in the order that its digest uses';
COMMENT ON COLUMN _avcurate.slice_versions.digest IS
	'order-free digest of the rows (src/slices/digest.c), 32 hex digits';

COMMENT ON COLUMN _avcurate.slice_versions.erased IS
	'rows that erase_frame removed since; rows and digest stay as recorded';
COMMENT ON COLUMN _avcurate.slice_versions.erased_digest IS
	'digest of the rows that erase_frame removed';
COMMENT ON COLUMN _avcurate.slice_versions.slice_id IS 'the slice';
COMMENT ON COLUMN _avcurate.slice_versions.version IS
	'counted from 1 per slice';
COMMENT ON COLUMN _avcurate.slice_versions.created_at IS
	'start of the transaction that refreshed';
COMMENT ON COLUMN _avcurate.slice_versions.rows IS
	'rows of the version when it was made';
COMMENT ON COLUMN _avcurate.slice_versions.added IS
	'frames that the version before lacks';
COMMENT ON COLUMN _avcurate.slice_versions.removed IS
	'frames of the version before that this one lacks';
COMMENT ON COLUMN _avcurate.slice_versions.changed IS
	'frames of both whose rows differ';
COMMENT ON COLUMN _avcurate.slice_versions.mode IS
	'how it was made: initial, incremental, full';
COMMENT ON COLUMN _avcurate.slice_versions.definition IS
	'query of the view, names qualified';
COMMENT ON COLUMN _avcurate.slice_versions.digest_format IS
	'number of the rule by which the digest is computed';
COMMENT ON COLUMN _avcurate.slice_versions.note IS
	'what the caller of refresh_slice wrote';

CREATE TABLE _avcurate.slice_tags (
	slice_id	bigint NOT NULL,
	tag			text NOT NULL CHECK (tag <> ''),
	version		bigint NOT NULL,
	created_at	timestamptz NOT NULL DEFAULT pg_catalog.now(),
	created_by	name NOT NULL,
	PRIMARY KEY (slice_id, tag),
	FOREIGN KEY (slice_id, version) REFERENCES _avcurate.slice_versions
);
COMMENT ON TABLE _avcurate.slice_tags IS
	'names of versions; a tagged version is not pruned';

COMMENT ON COLUMN _avcurate.slice_tags.slice_id IS 'the slice';
COMMENT ON COLUMN _avcurate.slice_tags.tag IS 'name, unique in the slice';
COMMENT ON COLUMN _avcurate.slice_tags.version IS 'what it names';
COMMENT ON COLUMN _avcurate.slice_tags.created_at IS 'when it was given';
COMMENT ON COLUMN _avcurate.slice_tags.created_by IS 'role that gave it';

CREATE INDEX slice_tags_version ON _avcurate.slice_tags (slice_id, version);

-- The rows of all versions are in one table a slice, _avcurate.history_N
-- (N = slice_id): the columns of the slice and
--   from_version bigint NOT NULL, to_version bigint
-- Version v is the rows with
--   from_version <= v AND (to_version IS NULL OR v < to_version).
-- These tables are no members of the extension, so pg_dump takes them.

-- ---- slices: images of old versions ----------------------------------------

CREATE TABLE _avcurate.archive (
	dataset		regclass NOT NULL,
	frame_id	bigint NOT NULL,
	image_sha256 bytea NOT NULL,
	image_bytes bytea NOT NULL,
	PRIMARY KEY (dataset, frame_id, image_sha256)
);
ALTER TABLE _avcurate.archive ALTER COLUMN image_bytes SET STORAGE EXTERNAL;
COMMENT ON TABLE _avcurate.archive IS
	'images that a dataset no longer holds but a version may';

COMMENT ON COLUMN _avcurate.archive.dataset IS 'where the image was';
COMMENT ON COLUMN _avcurate.archive.frame_id IS 'frame that it belonged to';
COMMENT ON COLUMN _avcurate.archive.image_sha256 IS 'hash of the image';
COMMENT ON COLUMN _avcurate.archive.image_bytes IS 'the JPEG';

-- ---- slices: frames that were erased ----------------------------------------

-- Names and numbers only: nothing here tells what was in a frame.
CREATE TABLE _avcurate.erasures (
	dataset		regclass,
	dataset_name text NOT NULL,
	frame_id	bigint NOT NULL,
	erased_at	timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	erased_by	name NOT NULL,
	reason		text NOT NULL CHECK (reason <> ''),
	touched		jsonb NOT NULL
);
COMMENT ON TABLE _avcurate.erasures IS 'one row a call of erase_frame';
COMMENT ON COLUMN _avcurate.erasures.dataset IS
	'where the frame was; NULL once dropped';
COMMENT ON COLUMN _avcurate.erasures.dataset_name IS
	'schema-qualified name of the dataset then';
COMMENT ON COLUMN _avcurate.erasures.frame_id IS 'the frame';
COMMENT ON COLUMN _avcurate.erasures.erased_at IS 'when';
COMMENT ON COLUMN _avcurate.erasures.erased_by IS 'name of the role that did';
COMMENT ON COLUMN _avcurate.erasures.reason IS 'what the caller gave';
COMMENT ON COLUMN _avcurate.erasures.touched IS
	'what erase_frame returned: an array of objects with kind, object, version';

CREATE INDEX erasures_frame ON _avcurate.erasures (dataset, frame_id);
-- it has no key, and a publication FOR ALL TABLES must not forbid updates
ALTER TABLE _avcurate.erasures REPLICA IDENTITY FULL;

-- ---- slices: what is remembered between refreshes --------------------------

-- Not dumped: transaction ids and WAL positions mean nothing elsewhere, so a
-- restored slice begins with a full refresh.

CREATE TABLE _avcurate.slice_watermarks (
	slice_id	bigint PRIMARY KEY
				REFERENCES _avcurate.slices ON DELETE CASCADE,
	state		bytea NOT NULL
) WITH (fillfactor = 50);
ALTER TABLE _avcurate.slice_watermarks ALTER COLUMN state SET STORAGE EXTERNAL;
COMMENT ON TABLE _avcurate.slice_watermarks IS
	'what slices remember of their datasets since their last refresh';
COMMENT ON COLUMN _avcurate.slice_watermarks.slice_id IS 'the slice';
COMMENT ON COLUMN _avcurate.slice_watermarks.state IS
	'snapshot and more, binary (src/slices/watermark.c)';

CREATE TABLE _avcurate.tombstones (
	dataset		oid NOT NULL,
	frame_id	bigint NOT NULL
);
COMMENT ON TABLE _avcurate.tombstones IS
	'frames deleted from datasets since the oldest watermark of a slice of theirs';
COMMENT ON COLUMN _avcurate.tombstones.dataset IS 'where the frame was';
COMMENT ON COLUMN _avcurate.tombstones.frame_id IS 'the frame';

SELECT pg_catalog.pg_extension_config_dump('_avcurate.slices', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.slices_slice_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.slice_versions', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.slice_tags', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.archive', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.erasures', '');

-- ---- slices: making them ---------------------------------------------------

CREATE FUNCTION avcurate.create_slice(
	slice		text,
	dataset		regclass,
	filter		text,
	columns		name[] DEFAULT NULL
) RETURNS regclass
	AS 'MODULE_PATHNAME', 'avc_create_slice'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.create_slice(text, regclass, text, name[]) IS
	'make a materialized view of the frames of a dataset that pass a filter (NULL: of all), at version 1';

CREATE FUNCTION avcurate.track_slice(slice regclass) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_track_slice'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.track_slice(regclass) IS
	'adopt a materialized view that has frame_id and return its version';

CREATE FUNCTION avcurate.untrack_slice(slice regclass) RETURNS void
	AS 'MODULE_PATHNAME', 'avc_untrack_slice'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.untrack_slice(regclass) IS
	'give up the versions of a slice and keep the view';

CREATE FUNCTION avcurate.alter_slice(
	slice		regclass,
	filter		text DEFAULT NULL,
	columns		name[] DEFAULT NULL
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_alter_slice'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.alter_slice(regclass, text, name[]) IS
	'give a slice another filter, other columns or both (NULL: as it is) and return its new version';

CREATE FUNCTION avcurate.tag_slice(
	slice		regclass,
	version		bigint,
	tag			text
) RETURNS void
	AS 'MODULE_PATHNAME', 'avc_tag_slice'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.tag_slice(regclass, bigint, text) IS
	'name a version; it is not pruned while it has a tag';

CREATE FUNCTION avcurate.untag_slice(slice regclass, tag text) RETURNS void
	AS 'MODULE_PATHNAME', 'avc_untag_slice'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.untag_slice(regclass, text) IS
	'remove a tag';

-- ---- slices: refreshing them -----------------------------------------------

CREATE FUNCTION avcurate.refresh_slice(
	slice		regclass,
	note		text DEFAULT NULL
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_refresh_slice'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.refresh_slice(regclass, text) IS
	'bring a slice up to date and return the version it is at now; the note is kept with the version that this makes, if it makes one';

CREATE FUNCTION avcurate.refresh_slices(
	dataset		regclass DEFAULT NULL,
	OUT slice		regclass,
	OUT version_before bigint,
	OUT version		bigint,
	OUT rows_before	bigint,
	OUT rows		bigint,
	OUT added		bigint,
	OUT removed		bigint,
	OUT changed		bigint,
	OUT mode		text,
	OUT elapsed		interval
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'avc_refresh_slices'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.refresh_slices(regclass) IS
	'refresh every slice of a dataset (NULL: of all) that the caller owns';

CREATE FUNCTION avcurate.explain_refresh(
	slice		regclass,
	OUT mode	text,
	OUT reason	text,
	OUT changed_rows bigint
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'avc_explain_refresh'
	LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.explain_refresh(regclass) IS
	'what the next refresh would do and why';

-- Event triggers.  The one at the start comes last among all of its kind,
-- because what it sets must hold for the command alone.
CREATE FUNCTION _avcurate.refresh_starts() RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'avc_refresh_starts' LANGUAGE C;
COMMENT ON FUNCTION _avcurate.refresh_starts() IS
	'notes what a tracked view holds before REFRESH';

CREATE FUNCTION _avcurate.refresh_ends() RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'avc_refresh_ends' LANGUAGE C;
COMMENT ON FUNCTION _avcurate.refresh_ends() IS
	'records what REFRESH changed as a version';

CREATE FUNCTION _avcurate.slice_dropped() RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'avc_slice_dropped' LANGUAGE C;
COMMENT ON FUNCTION _avcurate.slice_dropped() IS
	'keeps the registry true when views and datasets are dropped';

CREATE FUNCTION _avcurate.slice_altered() RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'avc_slice_altered' LANGUAGE C;
COMMENT ON FUNCTION _avcurate.slice_altered() IS
	'keeps the registry true when views are renamed';

CREATE EVENT TRIGGER zz_avcurate_refresh_starts ON ddl_command_start
	WHEN TAG IN ('REFRESH MATERIALIZED VIEW')
	EXECUTE FUNCTION _avcurate.refresh_starts();
ALTER EVENT TRIGGER zz_avcurate_refresh_starts ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER zz_avcurate_refresh_starts IS
	'REFRESH MATERIALIZED VIEW makes a version';

CREATE EVENT TRIGGER avcurate_refresh_ends ON ddl_command_end
	WHEN TAG IN ('REFRESH MATERIALIZED VIEW')
	EXECUTE FUNCTION _avcurate.refresh_ends();
ALTER EVENT TRIGGER avcurate_refresh_ends ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER avcurate_refresh_ends IS
	'REFRESH MATERIALIZED VIEW makes a version';

CREATE EVENT TRIGGER avcurate_slice_dropped ON sql_drop
	EXECUTE FUNCTION _avcurate.slice_dropped();
ALTER EVENT TRIGGER avcurate_slice_dropped ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER avcurate_slice_dropped IS
	'dropped slices and datasets leave the registry';

CREATE EVENT TRIGGER avcurate_slice_altered ON ddl_command_end
	-- the last five rename views, columns or schemas of views, too, and
	-- ALTER TYPE the labels of enums
	WHEN TAG IN ('ALTER MATERIALIZED VIEW', 'ALTER TABLE', 'ALTER VIEW',
				 'ALTER INDEX', 'ALTER FOREIGN TABLE', 'ALTER TYPE',
				 'ALTER SCHEMA')
	EXECUTE FUNCTION _avcurate.slice_altered();
ALTER EVENT TRIGGER avcurate_slice_altered ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER avcurate_slice_altered IS
	'renamed slices and columns are followed';

CREATE FUNCTION _avcurate.archive_row() RETURNS trigger
	AS 'MODULE_PATHNAME', 'avc_archive_row' LANGUAGE C;
COMMENT ON FUNCTION _avcurate.archive_row() IS
	'keeps the image of a frame that is replaced or deleted';

CREATE FUNCTION _avcurate.archive_table() RETURNS trigger
	AS 'MODULE_PATHNAME', 'avc_archive_table' LANGUAGE C;
COMMENT ON FUNCTION _avcurate.archive_table() IS
	'keeps the images of a dataset that is truncated';

CREATE FUNCTION _avcurate.note_deleted() RETURNS trigger
	AS 'MODULE_PATHNAME', 'avc_note_deleted' LANGUAGE C;
COMMENT ON FUNCTION _avcurate.note_deleted() IS
	'notes the frame_id of a frame that is deleted or gets another one';

-- ---- slices: reading versions ----------------------------------------------

CREATE FUNCTION avcurate.slice_at(row_type anyelement, version bigint)
	RETURNS SETOF anyelement
	AS 'MODULE_PATHNAME', 'avc_slice_at'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION avcurate.slice_at(anyelement, bigint) IS
	'the rows of a version: SELECT * FROM avcurate.slice_at(NULL::slice, 7)';

CREATE FUNCTION avcurate.slice_diff(
	row_type	anyelement,
	from_version bigint,
	to_version	bigint
) RETURNS TABLE (frame_id bigint, change text, before anyelement,
				 after anyelement)
	AS 'MODULE_PATHNAME', 'avc_slice_diff'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION avcurate.slice_diff(anyelement, bigint, bigint) IS
	'the frames that differ between two versions: added, removed or changed';

CREATE FUNCTION avcurate.verify_slice(
	slice		regclass,
	version		bigint DEFAULT NULL,
	OUT version	bigint,
	OUT rows	bigint,
	OUT erased	bigint,
	OUT digest	text,
	OUT verified boolean,
	OUT detail	text
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'avc_verify_slice'
	LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.verify_slice(regclass, bigint) IS
	'recompute the digest of a version from its rows and the hashes of its images; NULL = newest';

CREATE FUNCTION avcurate.prune_slice(
	slice		regclass,
	keep		integer DEFAULT 10,
	older_than	interval DEFAULT NULL
) RETURNS TABLE (version bigint, pruned boolean, kept_because text)
	AS 'MODULE_PATHNAME', 'avc_prune_slice'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.prune_slice(regclass, integer, interval) IS
	'drop old versions, except tagged and pinned ones, and the images that only they held';

CREATE FUNCTION avcurate.erase_frame(
	dataset		regclass,
	frame_id	bigint,
	reason		text
) RETURNS TABLE (object_kind text, object text, version bigint)
	AS 'MODULE_PATHNAME', 'avc_erase_frame'
	LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 20;
COMMENT ON FUNCTION avcurate.erase_frame(regclass, bigint, text) IS
	'remove a frame from its dataset, the archive and every version of every slice, and list what held it';

CREATE FUNCTION _avcurate.slice_pins()
	RETURNS TABLE (slice_id bigint, version bigint, kind text, id bigint,
				   tag text)
	AS 'MODULE_PATHNAME', 'avc_slice_pins'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION _avcurate.slice_pins() IS
	'what holds versions: tags, checkpoints, evaluations, experiments, unfinished jobs';

CREATE FUNCTION _avcurate.slice_obstacle(slice regclass, dataset regclass)
	RETURNS text
	AS 'MODULE_PATHNAME', 'avc_slice_obstacle'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION _avcurate.slice_obstacle(regclass, regclass) IS
	'why a slice cannot be refreshed by difference; NULL if it can';

CREATE FUNCTION _avcurate.slice_filter(
	slice		regclass,
	dataset		regclass,
	filter		text,
	condition	text
) RETURNS text
	AS 'MODULE_PATHNAME', 'avc_slice_filter'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION _avcurate.slice_filter(regclass, regclass, text, text) IS
	'the filter as typed while the view''s rule still says the same, else the rule''s condition';

CREATE VIEW avcurate.slices WITH (security_barrier) AS
	SELECT s.slice, s.dataset,
		   _avcurate.slice_filter(s.slice, s.dataset, s.filter, s.condition)
			   AS filter,
		   pg_catalog.pg_get_viewdef(s.slice) AS definition,
		   s.version, v.rows - v.erased AS rows,
		   v.created_at AS refreshed_at,
		   _avcurate.slice_obstacle(s.slice, s.dataset) IS NULL AS incremental,
		   _avcurate.slice_obstacle(s.slice, s.dataset) AS reason
	FROM _avcurate.slices s
	JOIN _avcurate.slice_versions v
		ON v.slice_id = s.slice_id AND v.version = s.version
	WHERE pg_catalog.has_table_privilege(s.slice, 'SELECT');
COMMENT ON VIEW avcurate.slices IS
	'tracked slices that the current role may read';
COMMENT ON COLUMN avcurate.slices.slice IS
	'the materialized view';
COMMENT ON COLUMN avcurate.slices.dataset IS
	'where its frames come from';
COMMENT ON COLUMN avcurate.slices.filter IS
	'what create_slice or alter_slice was given, or the view''s condition if that reads otherwise by now; NULL for a view that a user made';
COMMENT ON COLUMN avcurate.slices.definition IS
	'query of the view';
COMMENT ON COLUMN avcurate.slices.version IS
	'newest version';
COMMENT ON COLUMN avcurate.slices.rows IS
	'rows of the newest version, without those erased since';
COMMENT ON COLUMN avcurate.slices.refreshed_at IS
	'when the newest version was made';
COMMENT ON COLUMN avcurate.slices.incremental IS
	'can be refreshed by difference';
COMMENT ON COLUMN avcurate.slices.reason IS
	'why it cannot';
GRANT SELECT ON avcurate.slices TO PUBLIC;

CREATE VIEW avcurate.slice_versions WITH (security_barrier) AS
	SELECT s.slice, v.version, v.created_at, v.created_by, v.rows,
		   v.added, v.removed, v.changed, v.mode, v.definition, v.digest,
		   ARRAY(SELECT t.tag FROM _avcurate.slice_tags t
				 WHERE t.slice_id = v.slice_id AND t.version = v.version
				 ORDER BY t.tag) AS tags,
		   v.note,
		   coalesce(p.checkpoints, '{}') AS pinned_by, v.erased
	FROM _avcurate.slice_versions v
	JOIN _avcurate.slices s ON s.slice_id = v.slice_id
	LEFT JOIN (SELECT slice_id, version,
					  array_agg(id ORDER BY id) AS checkpoints
			   FROM _avcurate.slice_pins()
			   WHERE kind = 'checkpoint'
			   GROUP BY slice_id, version) p
		ON p.slice_id = v.slice_id AND p.version = v.version
	WHERE pg_catalog.has_table_privilege(s.slice, 'SELECT');
COMMENT ON VIEW avcurate.slice_versions IS
	'versions of the slices that the current role may read';
COMMENT ON COLUMN avcurate.slice_versions.slice IS
	'the materialized view';
COMMENT ON COLUMN avcurate.slice_versions.version IS
	'counted from 1 per slice';
COMMENT ON COLUMN avcurate.slice_versions.created_at IS
	'start of the transaction that refreshed';
COMMENT ON COLUMN avcurate.slice_versions.created_by IS
	'role that refreshed';
COMMENT ON COLUMN avcurate.slice_versions.rows IS
	'rows of the version when it was made';
COMMENT ON COLUMN avcurate.slice_versions.added IS
	'frames that the version before lacks';
COMMENT ON COLUMN avcurate.slice_versions.removed IS
	'frames of the version before that this one lacks';
COMMENT ON COLUMN avcurate.slice_versions.changed IS
	'frames of both whose rows differ';
COMMENT ON COLUMN avcurate.slice_versions.mode IS
	'how it was made: initial, incremental, full';
COMMENT ON COLUMN avcurate.slice_versions.definition IS
	'query of the view, names qualified';
COMMENT ON COLUMN avcurate.slice_versions.digest IS
	'order-free digest of the rows, 32 hex digits';
COMMENT ON COLUMN avcurate.slice_versions.tags IS
	'names given by tag_slice';
COMMENT ON COLUMN avcurate.slice_versions.note IS
	'what the caller of refresh_slice wrote';
COMMENT ON COLUMN avcurate.slice_versions.pinned_by IS
	'checkpoints that were trained on it';
COMMENT ON COLUMN avcurate.slice_versions.erased IS
	'rows that erase_frame removed since';
GRANT SELECT ON avcurate.slice_versions TO PUBLIC;

CREATE VIEW avcurate.erasures WITH (security_barrier) AS
	SELECT e.dataset, e.frame_id, e.erased_at, e.erased_by, e.reason,
		   e.touched
	FROM _avcurate.erasures e
	JOIN pg_catalog.pg_class c ON c.oid = e.dataset
	WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE');
COMMENT ON VIEW avcurate.erasures IS
	'frames erased from datasets whose owner the current role is or is a member of';
COMMENT ON COLUMN avcurate.erasures.dataset IS
	'where the frame was';
COMMENT ON COLUMN avcurate.erasures.frame_id IS
	'the frame';
COMMENT ON COLUMN avcurate.erasures.erased_at IS
	'when';
COMMENT ON COLUMN avcurate.erasures.erased_by IS
	'role that did';
COMMENT ON COLUMN avcurate.erasures.reason IS
	'what the caller gave';
COMMENT ON COLUMN avcurate.erasures.touched IS
	'what erase_frame returned: an array of objects with kind, object, version';
GRANT SELECT ON avcurate.erasures TO PUBLIC;
