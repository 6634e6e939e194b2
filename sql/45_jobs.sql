-- ---- jobs ------------------------------------------------------------------

CREATE TABLE _avcurate.jobs (
	job			bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	attempts	integer NOT NULL DEFAULT 0,
	max_attempts integer NOT NULL DEFAULT 3,
	fruitless	integer NOT NULL DEFAULT 0,
	worker_pid	integer,
	created_at	timestamptz NOT NULL DEFAULT pg_catalog.now(),
	started_at	timestamptz,
	finished_at	timestamptz,
	heartbeat_at timestamptz,
	not_before	timestamptz,
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
	error		text,
	result		text
) WITH (fillfactor = 60);

COMMENT ON TABLE _avcurate.jobs IS
	'the queue: one row a job, whatever its state';
COMMENT ON COLUMN _avcurate.jobs.fruitless IS
	'starts since it last stored something to go on from; max_attempts of them are enough';
COMMENT ON COLUMN _avcurate.jobs.not_before IS
	'a pending job that failed for a passing reason is not started before';

CREATE INDEX jobs_open ON _avcurate.jobs (job)
	WHERE state IN ('pending', 'running');
CREATE INDEX jobs_last_start ON _avcurate.jobs (role, started_at);

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

-- Empty between transactions, so not dumped.
CREATE TABLE _avcurate.cancel_requests (
	job			bigint NOT NULL
);

COMMENT ON TABLE _avcurate.cancel_requests IS
	'running jobs that a transaction cancels when it commits';

CREATE FUNCTION _avcurate.cancel_at_commit() RETURNS trigger
	AS 'MODULE_PATHNAME', 'avc_cancel_at_commit' LANGUAGE C;

COMMENT ON FUNCTION _avcurate.cancel_at_commit() IS
	'cancels the job of a row of cancel_requests';

CREATE CONSTRAINT TRIGGER cancel_at_commit
	AFTER INSERT ON _avcurate.cancel_requests
	DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION _avcurate.cancel_at_commit();
ALTER TABLE _avcurate.cancel_requests ENABLE ALWAYS TRIGGER cancel_at_commit;

-- Not dumped: a job that starts without ranges makes them.
CREATE TABLE _avcurate.backfill_ranges (
	job			bigint NOT NULL REFERENCES _avcurate.jobs ON DELETE CASCADE,
	first_id	bigint NOT NULL,
	next_id		bigint NOT NULL,
	last_id		bigint NOT NULL,
	rows		bigint NOT NULL DEFAULT 0,
	failed		bigint NOT NULL DEFAULT 0,
	busy		bigint NOT NULL DEFAULT 0,
	is_open		boolean NOT NULL DEFAULT true,
	PRIMARY KEY (job, first_id)
) WITH (fillfactor = 50);

COMMENT ON TABLE _avcurate.backfill_ranges IS
	'what the workers of a backfill share: ranges of frame_id';
COMMENT ON COLUMN _avcurate.backfill_ranges.job IS 'number of the job';
COMMENT ON COLUMN _avcurate.backfill_ranges.first_id IS 'where it starts';
COMMENT ON COLUMN _avcurate.backfill_ranges.next_id IS
	'from here on it was not looked at';
COMMENT ON COLUMN _avcurate.backfill_ranges.last_id IS 'where it ends';
COMMENT ON COLUMN _avcurate.backfill_ranges.rows IS 'computed in it';
COMMENT ON COLUMN _avcurate.backfill_ranges.failed IS 'errors in it';
COMMENT ON COLUMN _avcurate.backfill_ranges.busy IS
	'passed over in it, being in use';
COMMENT ON COLUMN _avcurate.backfill_ranges.is_open IS
	'is there something left to look at?';

CREATE INDEX backfill_ranges_open ON _avcurate.backfill_ranges (job, first_id)
	WHERE is_open;

SELECT pg_catalog.pg_extension_config_dump('_avcurate.jobs', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.jobs_job_seq', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.job_progress', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.job_log', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.job_log_line_seq', '');

-- Functions

CREATE FUNCTION avcurate.run_pending(
	max_jobs	integer DEFAULT NULL
) RETURNS integer
	AS 'MODULE_PATHNAME', 'avc_run_pending'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.run_pending(integer) IS
	'start workers for jobs that are pending or whose worker is gone';

CREATE FUNCTION avcurate.wait_job(
	job			bigint,
	timeout		interval DEFAULT NULL
) RETURNS text
	AS 'MODULE_PATHNAME', 'avc_wait_job'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.wait_job(bigint, interval) IS
	'wait until a job has ended and return its state; raises the error of a failed one';

CREATE PROCEDURE avcurate.await_job(
	job			bigint,
	timeout		interval DEFAULT NULL
)
	AS 'MODULE_PATHNAME', 'avc_await_job'
	LANGUAGE C;

COMMENT ON PROCEDURE avcurate.await_job(bigint, interval) IS
	'wait until a job has succeeded, else an error; holds no snapshot, so VACUUM goes on meanwhile';

CREATE FUNCTION avcurate.cancel_job(
	job			bigint
) RETURNS boolean
	AS 'MODULE_PATHNAME', 'avc_cancel_job'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.cancel_job(bigint) IS
	'cancel a job, a running one when the transaction commits; false if it had ended';

CREATE FUNCTION avcurate.resume_job(
	job			bigint
) RETURNS boolean
	AS 'MODULE_PATHNAME', 'avc_resume_job'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.resume_job(bigint) IS
	'put a failed or cancelled job back into the queue, from its last step checkpoint';

CREATE FUNCTION avcurate.start_backfill(
	dataset		regclass,
	feature		name DEFAULT NULL,
	workers		integer DEFAULT NULL
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_start_backfill'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION avcurate.start_backfill(regclass, name, integer) IS
	'compute what is pending in background workers; returns the job';

-- Views: a role sees the jobs of the roles it is a member of, the owner of
-- the database sees all.

CREATE FUNCTION _avcurate.role_sees(role oid) RETURNS boolean
	LANGUAGE sql STABLE PARALLEL SAFE
	BEGIN ATOMIC
		SELECT pg_catalog.pg_has_role(role, 'USAGE')
			OR pg_catalog.pg_has_role((SELECT d.datdba FROM pg_catalog.pg_database AS d
				WHERE d.datname = pg_catalog.current_database()), 'USAGE');
	END;

COMMENT ON FUNCTION _avcurate.role_sees(oid) IS
	'has the current user the rights of this role, or of the database owner?';

CREATE VIEW avcurate.jobs WITH (security_barrier) AS
SELECT j.job, j.kind, j.state, j.role, j.dataset, s.slice, j.version, j.model,
	j.checkpoint, j.options, j.device, j.attempts, j.created_at, j.started_at,
	j.finished_at, j.progress,
	CASE WHEN j.state = 'running' AND j.progress > 0 THEN
		(pg_catalog.clock_timestamp() - j.started_at)
			* ((1 - j.progress) / j.progress) END AS eta,
	j.images_per_s, j.failed_rows, j.error, j.result,
	CASE WHEN j.state = 'pending' THEN j.not_before END AS retry_at
FROM _avcurate.jobs AS j
	LEFT JOIN _avcurate.slices AS s ON s.slice_id = j.slice_id
WHERE _avcurate.role_sees(j.role);

COMMENT ON VIEW avcurate.jobs IS 'jobs of the roles that the current user is a member of';
COMMENT ON COLUMN avcurate.jobs.job IS
	'number of the job';
COMMENT ON COLUMN avcurate.jobs.kind IS
	'what kind of work: train, reproduce, evaluate, backfill';
COMMENT ON COLUMN avcurate.jobs.state IS
	'pending, running, succeeded, failed or cancelled';
COMMENT ON COLUMN avcurate.jobs.role IS
	'whose job it is and whose rights it uses';
COMMENT ON COLUMN avcurate.jobs.dataset IS
	'where its frames come from';
COMMENT ON COLUMN avcurate.jobs.slice IS
	'what it reads; NULL once dropped';
COMMENT ON COLUMN avcurate.jobs.version IS
	'version of the slice that it is pinned to';
COMMENT ON COLUMN avcurate.jobs.model IS
	'model that it works on';
COMMENT ON COLUMN avcurate.jobs.checkpoint IS
	'what a training made, or what is evaluated';
COMMENT ON COLUMN avcurate.jobs.options IS
	'all options, defaults spelled out';
COMMENT ON COLUMN avcurate.jobs.device IS
	'device that the network runs on';
COMMENT ON COLUMN avcurate.jobs.attempts IS
	'how often a worker has started it';
COMMENT ON COLUMN avcurate.jobs.created_at IS
	'when it was queued';
COMMENT ON COLUMN avcurate.jobs.started_at IS
	'when a worker first started it';
COMMENT ON COLUMN avcurate.jobs.finished_at IS
	'when it ended';
COMMENT ON COLUMN avcurate.jobs.progress IS
	'part done, 0 to 1';
COMMENT ON COLUMN avcurate.jobs.eta IS
	'time that is left at the pace so far';
COMMENT ON COLUMN avcurate.jobs.images_per_s IS
	'frames a second, smoothed';
COMMENT ON COLUMN avcurate.jobs.failed_rows IS
	'rows that could not be computed although the job succeeded';
COMMENT ON COLUMN avcurate.jobs.error IS
	'why it failed, or why the last attempt did';
COMMENT ON COLUMN avcurate.jobs.result IS
	'what reproduce found: same weights, different weights or not comparable';
COMMENT ON COLUMN avcurate.jobs.retry_at IS
	'a pending job that failed for a passing reason is started again then; error says why';

CREATE VIEW avcurate.job_progress WITH (security_barrier) AS
SELECT p.job, p.step, p.epoch, p.at, p.lr, p.loss, p.loss_classifier,
	p.loss_box_reg, p.loss_objectness, p.loss_rpn_box_reg, p.grad_norm,
	p.images_per_s, p.engine_busy
FROM _avcurate.job_progress AS p
	JOIN _avcurate.jobs AS j USING (job)
WHERE _avcurate.role_sees(j.role);

COMMENT ON VIEW avcurate.job_progress IS 'one row a training step';
COMMENT ON COLUMN avcurate.job_progress.job IS
	'number of the job';
COMMENT ON COLUMN avcurate.job_progress.step IS
	'optimizer step, from 1';
COMMENT ON COLUMN avcurate.job_progress.epoch IS
	'pass over the frames, from 0';
COMMENT ON COLUMN avcurate.job_progress.at IS
	'when its answer came';
COMMENT ON COLUMN avcurate.job_progress.lr IS
	'learning rate of the step';
COMMENT ON COLUMN avcurate.job_progress.loss IS
	'sum of the four losses; NULL if the step was skipped';
COMMENT ON COLUMN avcurate.job_progress.loss_classifier IS
	'cross-entropy of the classes of the regions';
COMMENT ON COLUMN avcurate.job_progress.loss_box_reg IS
	'smooth L1 of the boxes of the regions';
COMMENT ON COLUMN avcurate.job_progress.loss_objectness IS
	'cross-entropy of the proposals';
COMMENT ON COLUMN avcurate.job_progress.loss_rpn_box_reg IS
	'smooth L1 of the boxes of the proposals';
COMMENT ON COLUMN avcurate.job_progress.grad_norm IS
	'length of the gradient before clipping';
COMMENT ON COLUMN avcurate.job_progress.images_per_s IS
	'frames a second of this step';
COMMENT ON COLUMN avcurate.job_progress.engine_busy IS
	'1 - time that the step loop waited for a decoded batch / wall time';

CREATE VIEW avcurate.job_log WITH (security_barrier) AS
SELECT l.job, l.at, l.level, l.message
FROM _avcurate.job_log AS l
	JOIN _avcurate.jobs AS j USING (job)
WHERE _avcurate.role_sees(j.role);

COMMENT ON VIEW avcurate.job_log IS 'what jobs had to say, in order of "at"';
COMMENT ON COLUMN avcurate.job_log.job IS
	'number of the job';
COMMENT ON COLUMN avcurate.job_log.at IS
	'when it said so';
COMMENT ON COLUMN avcurate.job_log.level IS
	'info, notice or warning';
COMMENT ON COLUMN avcurate.job_log.message IS
	'one line';

GRANT SELECT ON avcurate.jobs, avcurate.job_progress, avcurate.job_log TO PUBLIC;
