-- ---- slices: registry ------------------------------------------------------

CREATE TABLE _avcurate.slices (
	slice_id	bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	slice		regclass UNIQUE,
	slice_name	text NOT NULL,
	dataset		regclass,
	filter		text,
	definition	text NOT NULL,
	columns		name[] NOT NULL,
	complete	boolean NOT NULL,
	version		bigint NOT NULL DEFAULT 0,
	must_recompute boolean NOT NULL DEFAULT false,
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
	'what create_slice was given; NULL for a view that a user made';
COMMENT ON COLUMN _avcurate.slices.columns IS
	'columns of the view in their order, named as in the history table';
COMMENT ON COLUMN _avcurate.slices.complete IS
	'has every column that batches, train and evaluate need';
COMMENT ON COLUMN _avcurate.slices.version IS 'newest version';
COMMENT ON COLUMN _avcurate.slices.must_recompute IS
	'the next refresh must recompute the whole definition';

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

SELECT pg_catalog.pg_extension_config_dump('_avcurate.slices', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.slices_slice_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.slice_versions', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.slice_tags', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.archive', '');
