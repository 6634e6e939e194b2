-- ---- jobs ------------------------------------------------------------------

CREATE TABLE _avcurate.jobs (
	job			bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	attempts	integer NOT NULL DEFAULT 0,
	max_attempts integer NOT NULL DEFAULT 3,
	worker_pid	integer,
	created_at	timestamptz NOT NULL DEFAULT pg_catalog.now(),
	started_at	timestamptz,
	finished_at	timestamptz,
	heartbeat_at timestamptz,
	slice_id	bigint,
	version		bigint,
	checkpoint	bigint,
	failed_rows	bigint NOT NULL DEFAULT 0,
	progress	real NOT NULL DEFAULT 0,
	images_per_s real,
	role		regrole NOT NULL,
	dataset		regclass,
	cancel_requested boolean NOT NULL DEFAULT false,
	kind		text NOT NULL,
	body		text NOT NULL,
	state		text NOT NULL DEFAULT 'pending' CHECK (state IN
				('pending', 'running', 'succeeded', 'failed', 'cancelled')),
	model		text,
	device		text,
	options		jsonb NOT NULL DEFAULT '{}',
	error		text
) WITH (fillfactor = 60);

COMMENT ON TABLE _avcurate.jobs IS
	'the queue: one row a job, whatever its state';

CREATE INDEX jobs_open ON _avcurate.jobs (job)
	WHERE state IN ('pending', 'running');

CREATE TABLE _avcurate.job_progress (
	job			bigint NOT NULL REFERENCES _avcurate.jobs ON DELETE CASCADE,
	step		bigint NOT NULL,
	at			timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	epoch		integer,
	lr			real,
	loss		real,
	loss_classifier real,
	loss_box_reg real,
	loss_objectness real,
	loss_rpn_box_reg real,
	grad_norm	real,
	images_per_s real,
	engine_busy	real,
	PRIMARY KEY (job, step)
);

COMMENT ON TABLE _avcurate.job_progress IS
	'one row a training step; a repeated step after a resume replaces the row';

CREATE TABLE _avcurate.job_log (
	job			bigint NOT NULL REFERENCES _avcurate.jobs ON DELETE CASCADE,
	line		bigint GENERATED ALWAYS AS IDENTITY,
	at			timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	level		text NOT NULL,
	message		text NOT NULL,
	PRIMARY KEY (job, line)
);

COMMENT ON TABLE _avcurate.job_log IS 'what jobs had to say';

SELECT pg_catalog.pg_extension_config_dump('_avcurate.jobs', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.jobs_job_seq', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.job_progress', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.job_log', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.job_log_line_seq', '');
