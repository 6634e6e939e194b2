-- ---- experiments -----------------------------------------------------------

CREATE TABLE _avcurate.experiments (
	experiment_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	experiment	text NOT NULL UNIQUE,
	role		regrole NOT NULL,
	base		bigint NOT NULL REFERENCES _avcurate.checkpoints,
	state		text NOT NULL DEFAULT 'running' CHECK (state IN
				('running', 'succeeded', 'failed', 'cancelled')),
	options		jsonb NOT NULL,
	error		text,
	created_at	timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	finished_at	timestamptz
);
COMMENT ON TABLE _avcurate.experiments IS
	'what run_experiment was called with, and how far it came';

CREATE TABLE _avcurate.experiment_slices (
	experiment_id bigint NOT NULL
				REFERENCES _avcurate.experiments ON DELETE CASCADE,
	kind		text NOT NULL CHECK (kind IN ('train', 'control', 'val')),
	place		integer NOT NULL CHECK (place >= 1),
	slice_id	bigint NOT NULL,
	version		bigint NOT NULL,
	PRIMARY KEY (experiment_id, kind, place),
	FOREIGN KEY (slice_id, version) REFERENCES _avcurate.slice_versions
);
COMMENT ON TABLE _avcurate.experiment_slices IS
	'pinned versions; place is that in the argument, of a control that of its train slice';
CREATE INDEX experiment_slices_pin
	ON _avcurate.experiment_slices (slice_id, version);

CREATE TABLE _avcurate.experiment_runs (
	experiment_id bigint NOT NULL
				REFERENCES _avcurate.experiments ON DELETE CASCADE,
	train		integer NOT NULL CHECK (train >= 0),
	control		boolean NOT NULL,
	seed		bigint NOT NULL,
	job			bigint,
	checkpoint	bigint,
	PRIMARY KEY (experiment_id, train, control, seed)
);
COMMENT ON TABLE _avcurate.experiment_runs IS
	'the weights to be compared: train 0 is the base, else the place of a train slice';
COMMENT ON COLUMN _avcurate.experiment_runs.job IS
	'its training; NULL while not queued, and for the base';
COMMENT ON COLUMN _avcurate.experiment_runs.checkpoint IS
	'NULL until it is trained';

CREATE TABLE _avcurate.experiment_evaluations (
	experiment_id bigint NOT NULL,
	train		integer NOT NULL,
	control		boolean NOT NULL,
	seed		bigint NOT NULL,
	val			integer NOT NULL,
	job			bigint NOT NULL,
	PRIMARY KEY (experiment_id, train, control, seed, val),
	FOREIGN KEY (experiment_id, train, control, seed)
				REFERENCES _avcurate.experiment_runs ON DELETE CASCADE
);
COMMENT ON TABLE _avcurate.experiment_evaluations IS
	'one row a run and val slice, by place; the job is the evaluation';

CREATE TABLE _avcurate.experiment_summaries (
	experiment_id bigint NOT NULL
				REFERENCES _avcurate.experiments ON DELETE CASCADE,
	train		integer NOT NULL,
	val			integer NOT NULL,
	base		double precision,
	control		double precision,
	tuned		double precision,
	gain		double precision,
	gain_low	double precision,
	gain_high	double precision,
	over_control double precision,
	over_control_low double precision,
	over_control_high double precision,
	verdict		text NOT NULL,
	PRIMARY KEY (experiment_id, train, val)
);
COMMENT ON TABLE _avcurate.experiment_summaries IS
	'ap50 of base, control and tuned with intervals, computed once at the end';

SELECT pg_catalog.pg_extension_config_dump('_avcurate.experiments', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.experiments_experiment_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.experiment_slices', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.experiment_runs', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.experiment_evaluations', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.experiment_summaries', '');

CREATE PROCEDURE avcurate.run_experiment(
	experiment	text,
	base		bigint,
	train_slices regclass[],
	val_slices	regclass[],
	options		jsonb DEFAULT '{}'
)
	AS 'MODULE_PATHNAME', 'avc_run_experiment'
	LANGUAGE C;
COMMENT ON PROCEDURE avcurate.run_experiment(text, bigint, regclass[], regclass[], jsonb) IS
	'fine-tune on slices and on random controls of their size, evaluate base, control and tuned; called again it goes on';

CREATE FUNCTION avcurate.drop_experiment(experiment text) RETURNS void
	AS 'MODULE_PATHNAME', 'avc_drop_experiment'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.drop_experiment(text) IS
	'drop an experiment''s rows and its control slices; its checkpoints and evaluations stay';

CREATE VIEW avcurate.experiments WITH (security_barrier) AS
SELECT x.experiment, x.state, x.base, x.options, x.created_at, x.finished_at,
	x.error, x.role,
	ARRAY(SELECT s.slice FROM _avcurate.experiment_slices AS p
		LEFT JOIN _avcurate.slices AS s USING (slice_id)
		WHERE p.experiment_id = x.experiment_id AND p.kind = 'train'
		ORDER BY p.place) AS train_slices,
	ARRAY(SELECT s.slice FROM _avcurate.experiment_slices AS p
		LEFT JOIN _avcurate.slices AS s USING (slice_id)
		WHERE p.experiment_id = x.experiment_id AND p.kind = 'control'
		ORDER BY p.place) AS control_slices,
	ARRAY(SELECT s.slice FROM _avcurate.experiment_slices AS p
		LEFT JOIN _avcurate.slices AS s USING (slice_id)
		WHERE p.experiment_id = x.experiment_id AND p.kind = 'val'
		ORDER BY p.place) AS val_slices
FROM _avcurate.experiments AS x
WHERE _avcurate.role_sees(x.role);
COMMENT ON VIEW avcurate.experiments IS
	'experiments of the roles that the current user is a member of';
COMMENT ON COLUMN avcurate.experiments.experiment IS 'its name';
COMMENT ON COLUMN avcurate.experiments.state IS
	'running (or left by a session that ended: call it again), succeeded, failed or cancelled';
COMMENT ON COLUMN avcurate.experiments.base IS
	'checkpoint that every training begins with';
COMMENT ON COLUMN avcurate.experiments.options IS 'as they were given';
COMMENT ON COLUMN avcurate.experiments.created_at IS 'when it was first called';
COMMENT ON COLUMN avcurate.experiments.finished_at IS
	'when it succeeded, failed or was cancelled';
COMMENT ON COLUMN avcurate.experiments.error IS 'why it failed';
COMMENT ON COLUMN avcurate.experiments.role IS 'whose it is';
COMMENT ON COLUMN avcurate.experiments.train_slices IS
	'what is fine-tuned on; NULL elements were dropped';
COMMENT ON COLUMN avcurate.experiments.control_slices IS
	'the random control of each train slice; empty without controls';
COMMENT ON COLUMN avcurate.experiments.val_slices IS
	'what is evaluated on; NULL elements were dropped';

CREATE VIEW avcurate.experiment_results WITH (security_barrier) AS
SELECT x.experiment, t.slice AS train_slice, e.control, v.slice AS val_slice,
	CASE WHEN e.train > 0 THEN e.seed END AS seed, r.checkpoint,
	e.job AS evaluation, f.ap50, f.recall50, f.frames
FROM _avcurate.experiment_evaluations AS e
	JOIN _avcurate.experiments AS x USING (experiment_id)
	JOIN _avcurate.experiment_runs AS r USING (experiment_id, train, control, seed)
	JOIN _avcurate.experiment_slices AS vp ON vp.experiment_id = e.experiment_id
		AND vp.kind = 'val' AND vp.place = e.val
	JOIN _avcurate.slices AS v ON v.slice_id = vp.slice_id
	LEFT JOIN _avcurate.experiment_slices AS tp ON tp.experiment_id = e.experiment_id
		AND tp.kind = 'train' AND tp.place = e.train
	LEFT JOIN _avcurate.slices AS t ON t.slice_id = tp.slice_id
	LEFT JOIN _avcurate.evaluations AS f ON f.evaluation = e.job
WHERE _avcurate.role_sees(x.role);
COMMENT ON VIEW avcurate.experiment_results IS
	'one row an evaluation of an experiment; those of the base have train_slice NULL and control false';
COMMENT ON COLUMN avcurate.experiment_results.experiment IS 'its name';
COMMENT ON COLUMN avcurate.experiment_results.train_slice IS
	'slice that it was tuned on, or that its control was drawn for; NULL for the base';
COMMENT ON COLUMN avcurate.experiment_results.control IS
	'was it tuned on the random control instead?';
COMMENT ON COLUMN avcurate.experiment_results.val_slice IS
	'slice that it was evaluated on';
COMMENT ON COLUMN avcurate.experiment_results.seed IS
	'seed of the training; NULL for the base';
COMMENT ON COLUMN avcurate.experiment_results.checkpoint IS
	'what was evaluated';
COMMENT ON COLUMN avcurate.experiment_results.evaluation IS
	'number of the evaluation and of its job';
COMMENT ON COLUMN avcurate.experiment_results.ap50 IS
	'mean over classes at IoU 0.50; NULL until it is evaluated';
COMMENT ON COLUMN avcurate.experiment_results.recall50 IS
	'mean over classes of the final recall at IoU 0.50; NULL until it is evaluated';
COMMENT ON COLUMN avcurate.experiment_results.frames IS
	'frames evaluated; NULL until it is evaluated';

CREATE VIEW avcurate.experiment_summary WITH (security_barrier) AS
SELECT x.experiment, t.slice AS train_slice, v.slice AS val_slice,
	s.base, s.control, s.tuned, s.gain, s.gain_low, s.gain_high,
	s.over_control, s.over_control_low, s.over_control_high, s.verdict
FROM _avcurate.experiment_summaries AS s
	JOIN _avcurate.experiments AS x USING (experiment_id)
	JOIN _avcurate.experiment_slices AS tp ON tp.experiment_id = s.experiment_id
		AND tp.kind = 'train' AND tp.place = s.train
	JOIN _avcurate.slices AS t ON t.slice_id = tp.slice_id
	JOIN _avcurate.experiment_slices AS vp ON vp.experiment_id = s.experiment_id
		AND vp.kind = 'val' AND vp.place = s.val
	JOIN _avcurate.slices AS v ON v.slice_id = vp.slice_id
WHERE _avcurate.role_sees(x.role);
COMMENT ON VIEW avcurate.experiment_summary IS
	'did a slice help? ap50 of base, control and tuned on each val slice, differences with 95 % intervals by paired bootstrap over frames';
COMMENT ON COLUMN avcurate.experiment_summary.experiment IS 'its name';
COMMENT ON COLUMN avcurate.experiment_summary.train_slice IS
	'slice that was tuned on';
COMMENT ON COLUMN avcurate.experiment_summary.val_slice IS
	'slice that was evaluated on';
COMMENT ON COLUMN avcurate.experiment_summary.base IS
	'ap50 of the base: mean over classes at IoU 0.50';
COMMENT ON COLUMN avcurate.experiment_summary.control IS
	'ap50 after tuning on the random control, mean over seeds; NULL without control';
COMMENT ON COLUMN avcurate.experiment_summary.tuned IS
	'ap50 after tuning on the slice, mean over seeds';
COMMENT ON COLUMN avcurate.experiment_summary.gain IS 'tuned - base';
COMMENT ON COLUMN avcurate.experiment_summary.gain_low IS
	'lower end of the 95 % interval of gain';
COMMENT ON COLUMN avcurate.experiment_summary.gain_high IS
	'upper end of the 95 % interval of gain';
COMMENT ON COLUMN avcurate.experiment_summary.over_control IS
	'tuned - control; NULL without control';
COMMENT ON COLUMN avcurate.experiment_summary.over_control_low IS
	'lower end of the 95 % interval of over_control';
COMMENT ON COLUMN avcurate.experiment_summary.over_control_high IS
	'upper end of the 95 % interval of over_control';
COMMENT ON COLUMN avcurate.experiment_summary.verdict IS
	'better than base and control, better than base, no difference shown, worse than base: what the intervals exclude';

GRANT SELECT ON avcurate.experiments, avcurate.experiment_results,
	avcurate.experiment_summary TO PUBLIC;

-- ---- failure mining --------------------------------------------------------

CREATE FUNCTION avcurate.suggest_slices(
	evaluation	bigint,
	match_score	real DEFAULT 0.5,
	min_frames	integer DEFAULT 20,
	k			integer DEFAULT 10
) RETURNS TABLE (
	filter		text,
	frames		bigint,
	truths		bigint,
	recall50	double precision,
	recall50_elsewhere double precision,
	p_value		double precision,
	category	text
)
	AS 'MODULE_PATHNAME', 'avc_suggest_slices'
	LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 10;
COMMENT ON FUNCTION avcurate.suggest_slices(bigint, real, integer, integer) IS
	'filters for create_slice under which a detector misses significantly more truths (of "category", where it is not NULL), most significant first; p-values are corrected for the number tried';
