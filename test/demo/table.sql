-- What the experiment shows, and the same for the class that each slice was
-- cut for.  :daytime is an evaluation of the base by day.
SELECT round(ap50::numeric, 2) AS "base by day: ap50", round(recall50::numeric, 2) AS recall,
	(SELECT round(ap50::numeric, 2) FROM avcurate.evaluation_classes WHERE evaluation = :daytime AND category = 'car') AS car
FROM avcurate.evaluations WHERE evaluation = :daytime;

\echo ap50 of all classes, 95 % intervals (paired bootstrap over frames):
SELECT train_slice, val_slice, to_char(base, '0.00') AS base, to_char(control, '0.00') AS control, to_char(tuned, '0.00') AS tuned,
	to_char(gain, 'SG0.00') || ' [' || to_char(gain_low, 'SG0.00') || ', ' || to_char(gain_high, 'SG0.00') || ']' AS gain,
	to_char(over_control, 'SG0.00') || ' [' || to_char(over_control_low, 'SG0.00') || ', ' || to_char(over_control_high, 'SG0.00') || ']' AS over_control,
	verdict
FROM avcurate.experiment_summary WHERE experiment = 'three_slices' ORDER BY train_slice::text, val_slice::text;

\echo the class that each slice was cut for, on its own held-out frames:
WITH results AS (
	SELECT r.*, replace(val_slice::text, '_val', '') AS slice,
		CASE val_slice WHEN 'rider_val'::regclass THEN 'rider' ELSE 'person' END AS key,
		CASE WHEN train_slice IS NULL THEN 'base' WHEN control THEN 'control' ELSE 'tuned' END AS name
	FROM avcurate.experiment_results r
	WHERE experiment = 'three_slices' AND coalesce(replace(train_slice::text, 'train', 'val') = val_slice::text, true)
), chosen AS MATERIALIZED (	-- else the planner may compare what is of two slices
	SELECT slice, b.key, b.evaluation AS base, c.evaluation AS control, t.evaluation AS tuned
	FROM results b JOIN results c USING (slice) JOIN results t USING (slice)
	WHERE b.name = 'base' AND c.name = 'control' AND t.name = 'tuned'
)
SELECT r.slice, r.key, to_char(kb.ap50, '0.00') AS base, to_char(kc.ap50, '0.00') AS control, to_char(kt.ap50, '0.00') AS tuned,
	to_char(d.difference, 'SG0.00') || ' [' || to_char(d.low, 'SG0.00') || ', ' || to_char(d.high, 'SG0.00') || ']' AS over_control,
	to_char(kt.recall50, '0.00') AS recall
FROM chosen r
LEFT JOIN avcurate.evaluation_classes kb ON kb.evaluation = r.base AND kb.category = r.key
LEFT JOIN avcurate.evaluation_classes kc ON kc.evaluation = r.control AND kc.category = r.key
LEFT JOIN avcurate.evaluation_classes kt ON kt.evaluation = r.tuned AND kt.category = r.key
LEFT JOIN LATERAL avcurate.compare_evaluations(r.control, r.tuned) d ON d.metric = 'ap50 ' || r.key
ORDER BY r.slice;
