-- ---- models and checkpoints ------------------------------------------------

CREATE TABLE _avcurate.models (
	model		text PRIMARY KEY,
	architecture text NOT NULL,
	options		jsonb NOT NULL DEFAULT '{}',
	label_map	text,
	num_classes	integer CHECK (num_classes >= 2),
	owner		regrole NOT NULL,
	created_at	timestamptz NOT NULL DEFAULT pg_catalog.now(),
	CHECK ((label_map IS NULL) = (num_classes IS NULL))
);

COMMENT ON TABLE _avcurate.models IS
	'named network architectures with their class lists';

-- Not text: the lines are UTF-8 in databases of any encoding.
CREATE TABLE _avcurate.vocabularies (
	model		text PRIMARY KEY REFERENCES _avcurate.models ON DELETE CASCADE,
	sha256		text NOT NULL,
	lines		bytea NOT NULL
);

COMMENT ON TABLE _avcurate.vocabularies IS
	'the merges with which a CLIP model reads texts, as the lines of the file';

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
	'of a job that has not succeeded: a step checkpoint with optimizer tensors, or the best weights so far';

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
SELECT pg_catalog.pg_extension_config_dump('_avcurate.vocabularies', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.checkpoints', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.checkpoints_checkpoint_seq', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.checkpoint_tensors', '');

-- Functions

CREATE FUNCTION avcurate.create_model(
	model		text,
	architecture text,
	options		jsonb DEFAULT '{}',
	label_map	text DEFAULT NULL
) RETURNS void
	AS 'MODULE_PATHNAME', 'avc_create_model'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.create_model(text, text, jsonb, text) IS
	'name a network architecture with its options and classes';

CREATE FUNCTION avcurate.create_checkpoint(
	model		text,
	seed		bigint DEFAULT 0
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_create_checkpoint'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.create_checkpoint(text, bigint) IS
	'freshly initialised weights of a model';

CREATE FUNCTION avcurate.import_checkpoint(
	model		text,
	file		bytea
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_import_checkpoint'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.import_checkpoint(text, bytea) IS
	'take the weights of a file, safetensors or PyTorch''s, as a checkpoint of a model';

CREATE FUNCTION avcurate.import_checkpoint(
	model		text,
	path		text
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_import_checkpoint_file'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.import_checkpoint(text, text) IS
	'take the weights of a file of the server as a checkpoint of a model';

REVOKE ALL ON FUNCTION avcurate.import_checkpoint(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION avcurate.import_checkpoint(text, text)
	TO pg_read_server_files;

CREATE FUNCTION avcurate.import_checkpoint(
	model		text,
	file		bytea,
	new_head	boolean,
	seed		bigint DEFAULT 0
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_import_checkpoint'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.import_checkpoint(text, bytea, boolean, bigint) IS
	'the same; with new_head the box predictor is drawn from the seed, whatever the file has there';

CREATE FUNCTION avcurate.import_checkpoint(
	model		text,
	path		text,
	new_head	boolean,
	seed		bigint DEFAULT 0
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_import_checkpoint_file'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.import_checkpoint(text, text, boolean, bigint) IS
	'the same; with new_head the box predictor is drawn from the seed, whatever the file has there';

REVOKE ALL ON FUNCTION avcurate.import_checkpoint(text, text, boolean, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION avcurate.import_checkpoint(text, text, boolean, bigint)
	TO pg_read_server_files;

CREATE FUNCTION avcurate.import_backbone(
	model		text,
	file		bytea,
	seed		bigint DEFAULT 0
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_import_backbone'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.import_backbone(text, bytea, bigint) IS
	'a checkpoint whose body is the ResNet of a classification file, all else drawn from the seed';

CREATE FUNCTION avcurate.import_backbone(
	model		text,
	path		text,
	seed		bigint DEFAULT 0
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_import_backbone_file'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.import_backbone(text, text, bigint) IS
	'the same from a file of the server';

REVOKE ALL ON FUNCTION avcurate.import_backbone(text, text, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION avcurate.import_backbone(text, text, bigint)
	TO pg_read_server_files;

CREATE FUNCTION avcurate.export_checkpoint(
	checkpoint	bigint,
	format		text DEFAULT 'safetensors'
) RETURNS bytea
	AS 'MODULE_PATHNAME', 'avc_export_checkpoint'
	LANGUAGE C STABLE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.export_checkpoint(bigint, text) IS
	'the weights as a file that torchvision loads: safetensors or pth';

CREATE FUNCTION avcurate.export_checkpoint(
	checkpoint	bigint,
	path		text,
	format		text
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_export_checkpoint_file'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.export_checkpoint(bigint, text, text) IS
	'write the weights to a file of the server, safetensors or pth; returns its bytes';

REVOKE ALL ON FUNCTION avcurate.export_checkpoint(bigint, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION avcurate.export_checkpoint(bigint, text, text)
	TO pg_write_server_files;

CREATE FUNCTION avcurate.verify_checkpoint(
	checkpoint	bigint,
	OUT check_name text,
	OUT ok		boolean,
	OUT detail	text
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'avc_verify_checkpoint'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.verify_checkpoint(bigint) IS
	'do the tensors match their hash, and does the pin still yield the same data?';

-- Views

CREATE VIEW avcurate.models WITH (security_barrier) AS
SELECT m.model, m.architecture, m.options, m.label_map, m.num_classes,
	m.owner, m.created_at, v.sha256 AS vocabulary
FROM _avcurate.models AS m
	LEFT JOIN _avcurate.vocabularies AS v USING (model)
WHERE _avcurate.role_sees(m.owner);

COMMENT ON VIEW avcurate.models IS
	'models of the roles that the current user is a member of';
COMMENT ON COLUMN avcurate.models.model IS
	'name of the model';
COMMENT ON COLUMN avcurate.models.architecture IS
	'network that it is';
COMMENT ON COLUMN avcurate.models.options IS
	'how it differs from the architecture as it stands';
COMMENT ON COLUMN avcurate.models.label_map IS
	'class ids of its categories; NULL for CLIP';
COMMENT ON COLUMN avcurate.models.num_classes IS
	'classes, background included; NULL for CLIP';
COMMENT ON COLUMN avcurate.models.owner IS
	'role that made it; its members may use it';
COMMENT ON COLUMN avcurate.models.created_at IS
	'when it was made';
COMMENT ON COLUMN avcurate.models.vocabulary IS
	'SHA-256 of the merges with which a CLIP model reads texts';

CREATE VIEW avcurate.checkpoints WITH (security_barrier) AS
SELECT c.checkpoint, c.model, c.job, s.slice, c.version, c.digest, c.rows,
	c.parent, c.step, c.epoch, c.created_at, c.bytes, c.provenance
FROM _avcurate.checkpoints AS c
	JOIN _avcurate.models AS m USING (model)
	LEFT JOIN _avcurate.slices AS s ON s.slice_id = c.slice_id
WHERE NOT c.state AND _avcurate.role_sees(m.owner);

COMMENT ON VIEW avcurate.checkpoints IS
	'weights of models, with the pin of what trained them';
COMMENT ON COLUMN avcurate.checkpoints.checkpoint IS
	'number of the checkpoint';
COMMENT ON COLUMN avcurate.checkpoints.model IS
	'model whose weights these are';
COMMENT ON COLUMN avcurate.checkpoints.job IS
	'training that made it; NULL for fresh and imported ones';
COMMENT ON COLUMN avcurate.checkpoints.slice IS
	'what it was trained on; NULL once dropped';
COMMENT ON COLUMN avcurate.checkpoints.version IS
	'pinned version of the slice';
COMMENT ON COLUMN avcurate.checkpoints.digest IS
	'digest of the version that trained it';
COMMENT ON COLUMN avcurate.checkpoints.rows IS
	'rows of the version';
COMMENT ON COLUMN avcurate.checkpoints.parent IS
	'checkpoint that the training began with';
COMMENT ON COLUMN avcurate.checkpoints.step IS
	'optimizer steps done';
COMMENT ON COLUMN avcurate.checkpoints.epoch IS
	'last epoch, from 0';
COMMENT ON COLUMN avcurate.checkpoints.created_at IS
	'when it was stored';
COMMENT ON COLUMN avcurate.checkpoints.bytes IS
	'size as a safetensors file';
COMMENT ON COLUMN avcurate.checkpoints.provenance IS
	'everything that made these weights, and their SHA-256';

GRANT SELECT ON avcurate.models, avcurate.checkpoints TO PUBLIC;
