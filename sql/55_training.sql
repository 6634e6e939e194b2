-- ---- training --------------------------------------------------------------

CREATE FUNCTION avcurate.train(
	slice		regclass,
	model		text,
	options		jsonb DEFAULT '{}'
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_train'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.train(regclass, text, jsonb) IS
	'queue the training of a model on the slice''s version of this moment; returns the job';

CREATE FUNCTION avcurate.reproduce(
	checkpoint	bigint
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_reproduce'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.reproduce(bigint) IS
	'queue the training of a checkpoint once more and compare the weights; returns the job';

-- ---- evaluations while a training runs -------------------------------------

CREATE TABLE _avcurate.validation_pins (
	job			bigint PRIMARY KEY
				REFERENCES _avcurate.jobs ON DELETE CASCADE,
	slice_id	bigint NOT NULL,
	version		bigint NOT NULL
);

COMMENT ON TABLE _avcurate.validation_pins IS
	'the version that a training''s val_slice is pinned to';

CREATE TABLE _avcurate.validations (
	job			bigint NOT NULL REFERENCES _avcurate.jobs ON DELETE CASCADE,
	step		bigint NOT NULL,
	at			timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	frames		bigint NOT NULL,
	ap			double precision,
	ap50		double precision,
	ap75		double precision,
	recall50	double precision,
	recall		double precision,
	checkpoint	bigint,
	epoch		integer NOT NULL,
	PRIMARY KEY (job, step)
);

COMMENT ON TABLE _avcurate.validations IS
	'evaluations of a training on its val_slice; the best one''s weights are kept';
COMMENT ON COLUMN _avcurate.validations.checkpoint IS
	'the weights, kept for the best; hidden until the job succeeds';

SELECT pg_catalog.pg_extension_config_dump('_avcurate.validation_pins', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.validations', '');

CREATE VIEW avcurate.validations WITH (security_barrier) AS
SELECT v.job, v.step, v.epoch, v.at, s.slice, p.version, v.frames, v.ap,
	v.ap50, v.ap75, v.recall50, v.recall,
	pg_catalog.row_number() OVER (PARTITION BY v.job
		ORDER BY COALESCE(v.ap50, 0) DESC, v.step) = 1 AS best
FROM _avcurate.validations AS v
	JOIN _avcurate.jobs AS j USING (job)
	LEFT JOIN _avcurate.validation_pins AS p USING (job)
	LEFT JOIN _avcurate.slices AS s ON s.slice_id = p.slice_id
WHERE _avcurate.role_sees(j.role);

COMMENT ON VIEW avcurate.validations IS
	'evaluations on val_slice that trainings made while they ran';
COMMENT ON COLUMN avcurate.validations.job IS
	'number of the training';
COMMENT ON COLUMN avcurate.validations.step IS
	'optimizer steps done';
COMMENT ON COLUMN avcurate.validations.epoch IS
	'last epoch, from 0';
COMMENT ON COLUMN avcurate.validations.at IS
	'when the figures were stored';
COMMENT ON COLUMN avcurate.validations.slice IS
	'on which slice; NULL once dropped';
COMMENT ON COLUMN avcurate.validations.version IS
	'on which version of it';
COMMENT ON COLUMN avcurate.validations.frames IS
	'frames evaluated; those without labels are left out';
COMMENT ON COLUMN avcurate.validations.ap IS
	'mean over classes and IoU 0.50 to 0.95';
COMMENT ON COLUMN avcurate.validations.ap50 IS
	'mean over classes at IoU 0.50';
COMMENT ON COLUMN avcurate.validations.ap75 IS
	'mean over classes at IoU 0.75';
COMMENT ON COLUMN avcurate.validations.recall50 IS
	'mean over classes of the final recall at IoU 0.50, 100 detections';
COMMENT ON COLUMN avcurate.validations.recall IS
	'mean over classes and IoU of the final recall, 100 detections';
COMMENT ON COLUMN avcurate.validations.best IS
	'the highest ap50 of the training, the earliest of equals';

GRANT SELECT ON avcurate.validations TO PUBLIC;
