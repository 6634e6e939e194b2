-- ---- embeddings of CLIP through the shared engine ------------------------------

CREATE FUNCTION avcurate.set_vocabulary(
	model		text,
	file		bytea
) RETURNS void
	AS 'MODULE_PATHNAME', 'avc_set_vocabulary'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.set_vocabulary(text, bytea) IS
	'give a CLIP model the vocabulary with which it reads texts: bpe_simple_vocab_16e6.txt, gzipped or not, or merges.txt';

CREATE FUNCTION avcurate.set_vocabulary(
	model		text,
	path		text
) RETURNS void
	AS 'MODULE_PATHNAME', 'avc_set_vocabulary_file'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.set_vocabulary(text, text) IS
	'the same from a file of the server';
REVOKE ALL ON FUNCTION avcurate.set_vocabulary(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION avcurate.set_vocabulary(text, text)
	TO pg_read_server_files;

-- Stable: a NULL checkpoint means what avcurate.clip_model says.
CREATE FUNCTION avcurate.clip_embedding(
	image		bytea,
	checkpoint	bigint	DEFAULT NULL
) RETURNS real[]
	AS 'MODULE_PATHNAME', 'avc_clip_embedding'
	LANGUAGE C STABLE PARALLEL SAFE COST 100000;
COMMENT ON FUNCTION avcurate.clip_embedding(bytea, bigint) IS
	'where CLIP puts an image: 512 numbers of L2 norm 1; checkpoint NULL = avcurate.clip_model';

CREATE FUNCTION avcurate.clip_text_embedding(
	query		text,
	checkpoint	bigint	DEFAULT NULL
) RETURNS real[]
	AS 'MODULE_PATHNAME', 'avc_clip_text_embedding'
	LANGUAGE C STABLE PARALLEL SAFE COST 100000;
COMMENT ON FUNCTION avcurate.clip_text_embedding(text, bigint) IS
	'where CLIP puts a text, beside the images that it describes; what is beyond 77 tokens is cut off';

CREATE FUNCTION avcurate.clip_ahead(
	image		bytea,
	checkpoint	bigint
) RETURNS void
	AS 'MODULE_PATHNAME', 'avc_clip_ahead'
	LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION avcurate.clip_ahead(bytea, bigint) IS
	'send an image to the shared engine for a later call of clip_embedding in the same transaction';

CREATE FUNCTION avcurate.clip_text_ahead(
	query		text,
	checkpoint	bigint
) RETURNS void
	AS 'MODULE_PATHNAME', 'avc_clip_text_ahead'
	LANGUAGE C STABLE PARALLEL RESTRICTED COST 1000;
COMMENT ON FUNCTION avcurate.clip_text_ahead(text, bigint) IS
	'send a text to the shared engine for a later call of clip_text_embedding in the same transaction';

CREATE FUNCTION avcurate.clip_model(
	checkpoint	bigint	DEFAULT NULL
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_clip_model_number'
	LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION avcurate.clip_model(bigint) IS
	'the checkpoint that clip_embedding uses when given this one; an error if it does not exist, detects, or may not be used';
