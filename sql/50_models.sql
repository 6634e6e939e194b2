-- ---- models and checkpoints ------------------------------------------------

CREATE TABLE _avcurate.models (
	model		text PRIMARY KEY,
	architecture text NOT NULL,
	options		jsonb NOT NULL DEFAULT '{}',
	label_map	text NOT NULL,
	num_classes	integer NOT NULL CHECK (num_classes >= 2),
	owner		regrole NOT NULL,
	created_at	timestamptz NOT NULL DEFAULT pg_catalog.now()
);

COMMENT ON TABLE _avcurate.models IS
	'named network architectures with their class lists';

CREATE TABLE _avcurate.checkpoints (
	checkpoint	bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	model		text NOT NULL REFERENCES _avcurate.models,
	job			bigint,
	slice_id	bigint,
	version		bigint,
	digest		text,
	rows		bigint,
	parent		bigint,
	step		bigint,
	epoch		integer,
	state		boolean NOT NULL DEFAULT false,
	bytes		bigint NOT NULL,
	created_at	timestamptz NOT NULL DEFAULT pg_catalog.now(),
	provenance	jsonb NOT NULL,
	FOREIGN KEY (slice_id, version) REFERENCES _avcurate.slice_versions
);

COMMENT ON TABLE _avcurate.checkpoints IS
	'the weights of a model at one moment, with the pin of what trained them';
COMMENT ON COLUMN _avcurate.checkpoints.state IS
	'a step checkpoint of a job that has not succeeded, with optimizer tensors';

CREATE INDEX checkpoints_pin ON _avcurate.checkpoints (slice_id, version);
CREATE INDEX checkpoints_job ON _avcurate.checkpoints (job);

CREATE TABLE _avcurate.checkpoint_tensors (
	checkpoint	bigint NOT NULL
				REFERENCES _avcurate.checkpoints ON DELETE CASCADE,
	tensor		integer NOT NULL,
	name		text NOT NULL,
	dtype		text NOT NULL,
	shape		bigint[] NOT NULL,
	data		bytea NOT NULL,
	PRIMARY KEY (checkpoint, tensor)
);
ALTER TABLE _avcurate.checkpoint_tensors
	ALTER COLUMN data SET STORAGE EXTERNAL;

COMMENT ON TABLE _avcurate.checkpoint_tensors IS
	'one row a tensor: its number in the file, and its bytes, little-endian';

SELECT pg_catalog.pg_extension_config_dump('_avcurate.models', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.checkpoints', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.checkpoints_checkpoint_seq', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.checkpoint_tensors', '');
