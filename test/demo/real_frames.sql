-- What the experiment on real frames shows: over all classes, and of the
-- class that each slice was cut for, seed by seed.
SELECT train_slice, val_slice, to_char(base, '0.000') AS base, to_char(control, '0.000') AS control, to_char(tuned, '0.000') AS tuned,
	to_char(gain, 'SG0.000') || ' [' || to_char(gain_low, 'SG0.000') || ', ' || to_char(gain_high, 'SG0.000') || ']' AS gain,
	to_char(over_control, 'SG0.000') || ' [' || to_char(over_control_low, 'SG0.000') || ', ' || to_char(over_control_high, 'SG0.000') || ']' AS over_control,
	verdict
FROM avcurate.experiment_summary WHERE experiment = 'real_frames' ORDER BY train_slice::text, val_slice::text;

\echo the class that each slice was cut for, on its own val frames:
WITH results AS (
	SELECT r.*, replace(val_slice::text, '_val', '') AS view,
		CASE val_slice WHEN 'rider_val'::regclass THEN 'rider' ELSE 'person' END AS key
	FROM avcurate.experiment_results AS r
	WHERE experiment = 'real_frames' AND coalesce(replace(train_slice::text, '_train', '_val') = val_slice::text, true)
		AND val_slice <> 'every_val'::regclass
)
SELECT t.view, t.key, t.seed, kb.truths, to_char(kb.ap50, '0.000') AS base, to_char(kc.ap50, '0.000') AS control,
	to_char(kt.ap50, '0.000') AS tuned,
	to_char(d.difference, 'SG0.000') || ' [' || to_char(d.low, 'SG0.000') || ', ' || to_char(d.high, 'SG0.000') || ']' AS over_control,
	to_char(kb.recall50, '0.00') AS base_recall, to_char(kc.recall50, '0.00') AS control_recall, to_char(kt.recall50, '0.00') AS tuned_recall
FROM results AS b JOIN results AS c USING (view) JOIN results AS t ON t.view = b.view AND t.seed = c.seed
LEFT JOIN avcurate.evaluation_classes AS kb ON kb.evaluation = b.evaluation AND kb.category = b.key
LEFT JOIN avcurate.evaluation_classes AS kc ON kc.evaluation = c.evaluation AND kc.category = b.key
LEFT JOIN avcurate.evaluation_classes AS kt ON kt.evaluation = t.evaluation AND kt.category = b.key
LEFT JOIN LATERAL avcurate.compare_evaluations(c.evaluation, t.evaluation) AS d ON d.metric = 'ap50 ' || b.key
WHERE b.train_slice IS NULL AND c.control AND t.train_slice IS NOT NULL AND NOT t.control
ORDER BY t.view, t.seed;

\echo the base, class by class, on all val frames:
SELECT category, truths, to_char(c.ap50, '0.000') AS ap50, to_char(c.recall50, '0.000') AS recall50
FROM avcurate.evaluation_classes AS c JOIN avcurate.experiment_results USING (evaluation)
WHERE experiment = 'real_frames' AND train_slice IS NULL AND val_slice = 'every_val'::regclass ORDER BY truths DESC, category;
