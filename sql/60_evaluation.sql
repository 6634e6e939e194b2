-- ---- evaluation ------------------------------------------------------------

CREATE FUNCTION avcurate.coco_metrics(
	truth		jsonb,
	results		jsonb
) RETURNS TABLE (
	metric		text,
	category	text,
	value		double precision
)
	AS 'MODULE_PATHNAME', 'avc_coco_metrics'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 100;
COMMENT ON FUNCTION avcurate.coco_metrics(jsonb, jsonb) IS
	'COCO''s figures of a results document against an instances document; category NULL = overall';

CREATE TABLE _avcurate.evaluations (
	evaluation	bigint PRIMARY KEY,
	checkpoint	bigint NOT NULL REFERENCES _avcurate.checkpoints,
	slice_id	bigint NOT NULL,
	version		bigint NOT NULL,
	frames		bigint NOT NULL,
	finished_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	ap			double precision,
	ap50		double precision,
	ap75		double precision,
	ap_small	double precision,
	ap_medium	double precision,
	ap_large	double precision,
	recall50	double precision,
	recall		double precision,
	"precision"	double precision,
	map_50		double precision,
	recall_micro double precision,
	min_score	real NOT NULL,
	role		regrole NOT NULL,
	mode		text NOT NULL CHECK (mode IN ('coco', 'lancedb')),
	label_map	text NOT NULL,
	FOREIGN KEY (slice_id, version) REFERENCES _avcurate.slice_versions
);
COMMENT ON TABLE _avcurate.evaluations IS
	'finished evaluations, under the number of their job';
COMMENT ON COLUMN _avcurate.evaluations.role IS
	'the role of the job; it alone sees the result';
CREATE INDEX evaluations_pin ON _avcurate.evaluations (slice_id, version);
CREATE INDEX evaluations_checkpoint ON _avcurate.evaluations (checkpoint);

CREATE TABLE _avcurate.evaluation_classes (
	evaluation	bigint NOT NULL
				REFERENCES _avcurate.evaluations ON DELETE CASCADE,
	label		integer NOT NULL,
	category	text NOT NULL,
	ap			double precision,
	ap50		double precision,
	recall50	double precision,
	truths		bigint NOT NULL,
	detections	bigint NOT NULL,
	PRIMARY KEY (evaluation, label)
);
COMMENT ON TABLE _avcurate.evaluation_classes IS
	'figures of one class of an evaluation';

-- Rows are written while the job runs, before the evaluation's own row is
-- there: no foreign key.
CREATE TABLE _avcurate.matches (
	evaluation	bigint NOT NULL,
	frame_id	bigint NOT NULL,
	label		integer NOT NULL,
	score		real,
	iou			real,
	truth_no	integer,
	detection_no integer,
	kind		text NOT NULL CHECK (kind IN
				('true_positive', 'false_positive', 'missed', 'ignored')),
	category	text NOT NULL,
	box			real[],
	truth_box	real[]
);
COMMENT ON TABLE _avcurate.matches IS
	'what became of every detection and truth, at IoU 0.5; a crowd that nothing matched is an ignored row without a box';
COMMENT ON COLUMN _avcurate.matches.detection_no IS
	'place among the frame''s detections of the class, by falling score, from 1';
CREATE INDEX matches_frame ON _avcurate.matches (evaluation, frame_id);
-- it has no key, and a publication FOR ALL TABLES must not forbid deletes
ALTER TABLE _avcurate.matches REPLICA IDENTITY FULL;

SELECT pg_catalog.pg_extension_config_dump('_avcurate.evaluations', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.evaluation_classes', '');
SELECT pg_catalog.pg_extension_config_dump('_avcurate.matches', '');

CREATE VIEW avcurate.evaluations WITH (security_barrier) AS
	SELECT e.evaluation, e.checkpoint, s.slice, e.version, e.mode, e.ap,
		e.ap50, e.ap75, e.ap_small, e.ap_medium, e.ap_large, e.recall50,
		e.recall, e."precision", e.map_50, e.recall_micro, e.frames,
		e.finished_at, e.min_score, e.label_map
	FROM _avcurate.evaluations e
		JOIN _avcurate.slices s USING (slice_id)
	WHERE _avcurate.role_sees(e.role);
COMMENT ON VIEW avcurate.evaluations IS
	'finished evaluations of roles that the current user is a member of';
COMMENT ON COLUMN avcurate.evaluations.evaluation IS
	'number of the job';
COMMENT ON COLUMN avcurate.evaluations.checkpoint IS
	'what was evaluated';
COMMENT ON COLUMN avcurate.evaluations.slice IS
	'on which slice; NULL once dropped';
COMMENT ON COLUMN avcurate.evaluations.version IS
	'on which version of it';
COMMENT ON COLUMN avcurate.evaluations.mode IS
	'protocol: coco or lancedb';
COMMENT ON COLUMN avcurate.evaluations.ap IS
	'mean over classes and IoU 0.50 to 0.95';
COMMENT ON COLUMN avcurate.evaluations.ap50 IS
	'mean over classes at IoU 0.50';
COMMENT ON COLUMN avcurate.evaluations.ap75 IS
	'mean over classes at IoU 0.75';
COMMENT ON COLUMN avcurate.evaluations.ap_small IS
	'as ap, for truths of up to 32 x 32 pixels';
COMMENT ON COLUMN avcurate.evaluations.ap_medium IS
	'as ap, for truths of 32 x 32 to 96 x 96 pixels';
COMMENT ON COLUMN avcurate.evaluations.ap_large IS
	'as ap, for truths from 96 x 96 pixels';
COMMENT ON COLUMN avcurate.evaluations.recall50 IS
	'mean over classes of the final recall at IoU 0.50, 100 detections';
COMMENT ON COLUMN avcurate.evaluations.recall IS
	'mean over classes and IoU of the final recall, 100 detections';
COMMENT ON COLUMN avcurate.evaluations."precision" IS
	'true positives in all detections by the lancedb formula; NULL in mode coco';
COMMENT ON COLUMN avcurate.evaluations.map_50 IS
	'mean average precision by the lancedb formula; NULL in mode coco';
COMMENT ON COLUMN avcurate.evaluations.recall_micro IS
	'true positives in all truths by the lancedb formula; NULL in mode coco';
COMMENT ON COLUMN avcurate.evaluations.frames IS
	'frames evaluated; those without labels are left out';
COMMENT ON COLUMN avcurate.evaluations.finished_at IS
	'when the figures were stored';
COMMENT ON COLUMN avcurate.evaluations.min_score IS
	'detections below it were dropped';
COMMENT ON COLUMN avcurate.evaluations.label_map IS
	'which classes were told apart';

CREATE VIEW avcurate.evaluation_classes WITH (security_barrier) AS
	SELECT c.evaluation, c.category, c.label, c.ap, c.ap50, c.recall50,
		c.truths, c.detections
	FROM _avcurate.evaluation_classes c
		JOIN _avcurate.evaluations e USING (evaluation)
	WHERE _avcurate.role_sees(e.role);
COMMENT ON VIEW avcurate.evaluation_classes IS
	'figures of each class with a truth or a detection; NULL without a truth';
COMMENT ON COLUMN avcurate.evaluation_classes.evaluation IS
	'number of the job';
COMMENT ON COLUMN avcurate.evaluation_classes.category IS
	'category that names the class';
COMMENT ON COLUMN avcurate.evaluation_classes.label IS
	'class id of the label map';
COMMENT ON COLUMN avcurate.evaluation_classes.ap IS
	'mean over IoU 0.50 to 0.95; NULL without a truth';
COMMENT ON COLUMN avcurate.evaluation_classes.ap50 IS
	'average precision at IoU 0.50';
COMMENT ON COLUMN avcurate.evaluation_classes.recall50 IS
	'final recall at IoU 0.50, 100 detections';
COMMENT ON COLUMN avcurate.evaluation_classes.truths IS
	'boxes that count';
COMMENT ON COLUMN avcurate.evaluation_classes.detections IS
	'detections above min_score, 100 a frame at most';

CREATE VIEW avcurate.matches WITH (security_barrier) AS
	SELECT m.evaluation, m.frame_id, m.kind, m.category, m.score, m.iou,
		m.box, m.truth_box, m.truth_no
	FROM _avcurate.matches m
		JOIN _avcurate.evaluations e USING (evaluation)
	WHERE _avcurate.role_sees(e.role)
		AND (m.kind <> 'ignored' OR m.box IS NOT NULL);
COMMENT ON VIEW avcurate.matches IS
	'COCO matching at IoU 0.5 of every detection above min_score, and the truths that were missed';
COMMENT ON COLUMN avcurate.matches.evaluation IS
	'number of the job';
COMMENT ON COLUMN avcurate.matches.frame_id IS
	'the frame';
COMMENT ON COLUMN avcurate.matches.kind IS
	'true_positive, false_positive, missed, or ignored (matched a crowd or ignored truth)';
COMMENT ON COLUMN avcurate.matches.category IS
	'category that names the class';
COMMENT ON COLUMN avcurate.matches.score IS
	'of the detection; NULL for a missed truth';
COMMENT ON COLUMN avcurate.matches.iou IS
	'overlap of detection and truth, where there are both';
COMMENT ON COLUMN avcurate.matches.box IS
	'the detection: x1 y1 x2 y2 in pixels';
COMMENT ON COLUMN avcurate.matches.truth_box IS
	'the truth: x1 y1 x2 y2 in pixels';
COMMENT ON COLUMN avcurate.matches.truth_no IS
	'place in the frame''s annotation arrays, from 1';

GRANT SELECT ON avcurate.evaluations, avcurate.evaluation_classes,
	avcurate.matches TO PUBLIC;

CREATE FUNCTION avcurate.evaluate(
	checkpoint	bigint,
	slice		regclass,
	options		jsonb DEFAULT '{}'
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_evaluate'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION avcurate.evaluate(bigint, regclass, jsonb) IS
	'queue the evaluation of a checkpoint on a pinned version and return the job';

CREATE TYPE avcurate.evaluation_difference AS (
	metric		text,
	base		double precision,
	tuned		double precision,
	difference	double precision,
	low			double precision,
	high		double precision
);
COMMENT ON TYPE avcurate.evaluation_difference IS
	'a row of compare_evaluations: low and high bound the difference with 95 % confidence';

CREATE FUNCTION avcurate.compare_evaluations(
	base		bigint,
	tuned		bigint,
	resamples	integer DEFAULT 1000,
	seed		bigint DEFAULT 0
) RETURNS SETOF avcurate.evaluation_difference
	AS 'MODULE_PATHNAME', 'avc_compare_evaluations'
	LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 20;
COMMENT ON FUNCTION avcurate.compare_evaluations(bigint, bigint, integer,
	bigint) IS
	'paired bootstrap over frames of two evaluations of the same frames, all classes and each class';

CREATE FUNCTION avcurate.overlay(
	frame_id	bigint,
	evaluations bigint[],
	min_score	real DEFAULT 0.5
) RETURNS bytea
	AS 'MODULE_PATHNAME', 'avc_overlay'
	LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION avcurate.overlay(bigint, bigint[], real) IS
	'a JPEG of the frame: truth green, first evaluation red, second blue';

CREATE FUNCTION avcurate.contact_sheet(
	evaluation	bigint,
	kind		text DEFAULT 'missed',
	frames		integer DEFAULT 12
) RETURNS bytea
	AS 'MODULE_PATHNAME', 'avc_contact_sheet'
	LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION avcurate.contact_sheet(bigint, text, integer) IS
	'a JPEG of the frames with the most matches of a kind, most first';
