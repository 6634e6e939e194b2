-- Base, control and tuned on each held-out slice: all classes, and the class
-- that the slice was cut for.
WITH scores AS (
	SELECT d.slice, d.name, e.ap50, e.recall50, k.ap50 AS key_ap50, k.recall50 AS key_recall50
	FROM demo_evaluations d
	JOIN avcurate.evaluations e ON e.evaluation = d.evaluation
	LEFT JOIN avcurate.evaluation_classes k ON k.evaluation = d.evaluation
		AND k.category = CASE d.slice WHEN 'rider' THEN 'rider' WHEN 'daytime' THEN 'car' ELSE 'person' END
)
SELECT slice || CASE slice WHEN 'rider' THEN ' (rider)' WHEN 'daytime' THEN ' (car)' ELSE ' (person)' END AS "slice (key class)",
	name AS detector,
	to_char(ap50, '0.00') AS ap50, to_char(recall50, '0.00') AS recall,
	to_char(key_ap50, '0.00') AS key_ap50, to_char(key_recall50, '0.00') AS key_recall
FROM scores
ORDER BY slice, array_position(ARRAY['base', 'control', 'tuned'], name);

\echo tuned - control, 95 % interval (paired bootstrap over frames):
SELECT t.slice, c.metric, to_char(c.difference, 'SG0.00') AS difference,
	to_char(c.low, 'SG0.00') AS low, to_char(c.high, 'SG0.00') AS high
FROM demo_evaluations t
JOIN demo_evaluations r ON r.slice = t.slice AND r.name = 'control'
CROSS JOIN LATERAL avcurate.compare_evaluations(r.evaluation, t.evaluation) c
WHERE t.name = 'tuned'
	AND c.metric IN ('ap50', 'recall50', 'ap50 ' || CASE t.slice WHEN 'rider' THEN 'rider' ELSE 'person' END)
ORDER BY t.slice, c.metric;
