-- Experiments: columns, refusals; suggest_slices on weaknesses that are known.
BEGIN;
SET search_path = public, avcurate;
SET client_min_messages = warning;
SELECT plan(34);

-- columns are a contract
CREATE FUNCTION columns_of(relation regclass) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute
	WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped $$;
SELECT alike(columns_of('avcurate.experiments'), 'experiment state base options created_at finished_at%', 'columns of experiments');
SELECT alike(columns_of('avcurate.experiment_results'), 'experiment train_slice control val_slice seed checkpoint evaluation ap50 recall50%', 'columns of experiment_results');
SELECT is(columns_of('avcurate.experiment_summary'), 'experiment train_slice val_slice base control tuned gain gain_low gain_high over_control over_control_low over_control_high verdict', 'columns of experiment_summary');
SELECT is((SELECT string_agg(a, ' ') FROM (SELECT unnest(proargnames) a FROM pg_proc WHERE oid = 'avcurate.run_experiment'::regproc) x), 'experiment base train_slices val_slices options', 'arguments of run_experiment');
SELECT is((SELECT prokind FROM pg_proc WHERE oid = 'avcurate.run_experiment'::regproc), 'p'::"char", 'it is a procedure');
SELECT alike((SELECT string_agg(a, ' ') FROM (SELECT unnest(proargnames) a FROM pg_proc WHERE oid = 'avcurate.suggest_slices'::regproc) x), 'evaluation match_score min_frames k filter frames truths recall50 recall50_elsewhere p_value%', 'arguments and columns of suggest_slices');
SELECT throws_ok($$CALL run_experiment('x', 1, '{}', '{}')$$, '25001', 'run_experiment cannot run inside a transaction block', 'it commits as it goes');
SELECT throws_ok($$SELECT drop_experiment('x')$$, '42704', 'experiment "x" does not exist', 'nothing to drop');

-- ---- frames of which it is known what is missed
CREATE FUNCTION jpeg(n int) RETURNS bytea LANGUAGE sql AS $$
	SELECT '\xffd8ffc0001108012c019003012200021101031101ffda000c03010002110311003f00'::bytea
		|| decode(repeat(md5(n::text), 20), 'hex') || '\xffd9'::bytea
$$;
CREATE FUNCTION luck(n bigint, use int) RETURNS float8 LANGUAGE sql IMMUTABLE AS
	'SELECT (pg_catalog.hashint8extended(n, use)::numeric + 9223372036854775808) / 18446744073709551616';
SELECT create_dataset('public.tap_seen') \g /dev/null
ALTER TABLE tap_seen ADD "Is wet" boolean, ADD speed integer, ADD brightness real, ADD note text;
INSERT INTO tap_seen (image_id, split, image_bytes, weather, timeofday, frame_time, ann_categories, ann_bboxes, "Is wet", speed, brightness)
SELECT n::text, 'val', jpeg(n), (ARRAY['clear', 'o''clock', 'rainy'])[1 + n % 3], CASE WHEN luck(n, 1) < 0.4 THEN 'night' ELSE 'daytime' END,
	timestamptz '2024-01-01 00:00+00' + n * interval '37 min',
	-- a pedestrian is a person, a motor a motorcycle
	CASE WHEN luck(n, 2) < 0.25 THEN '{car,car,car,rider,motor,pedestrian}' ELSE '{car,car,car,truck,bus,person}' END::text[],
	(SELECT array_agg(ARRAY[x, 10, x + w, 10 + w]) FROM (SELECT (luck(n * 10 + b, 3) * 200)::real AS x, (10 + 60 * luck(n * 10 + b, 4))::real AS w FROM generate_series(1, 6) b) q),
	luck(n, 5) < 0.3, (100 * luck(n, 6))::int, CASE WHEN luck(n, 1) < 0.4 THEN 40 ELSE 120 END + 20 * luck(n, 7)
FROM generate_series(1, 900) n;
SELECT create_slice('tap_seen_all', 'tap_seen', 'true') \g /dev/null
SELECT create_model('tap_seer', 'small') \g /dev/null
SELECT create_checkpoint('tap_seer') AS checkpoint \gset

-- An evaluation in which a truth is found with the chance that the condition
-- gives it; "bad" is over the frame f and the category c.
CREATE FUNCTION evaluated(number bigint, bad text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO _avcurate.evaluations (evaluation, checkpoint, slice_id, version, frames, min_score, role, mode, label_map)
	SELECT number, (SELECT max(checkpoint) FROM _avcurate.checkpoints), slice_id, 1, 900, 0.05, current_user::regrole, 'coco', 'coco'
	FROM _avcurate.slices WHERE slice = 'tap_seen_all'::regclass;
	EXECUTE format($f$
		INSERT INTO _avcurate.matches (evaluation, frame_id, label, score, iou, truth_no, detection_no, kind, category, box, truth_box)
		SELECT %1$s, frame_id, 1, CASE WHEN found THEN score END, CASE WHEN found THEN 0.8 END, no, CASE WHEN found THEN 1 END,
			CASE WHEN found THEN 'true_positive' ELSE 'missed' END, 'person', CASE WHEN found THEN '{1,2,3,4}'::real[] END, '{1,2,3,4}'::real[]
		FROM (SELECT f.frame_id, no, 0.6 + 0.3 * luck(f.frame_id, 8) AS score,
			luck(f.frame_id * 10 + no, %1$s) < (0.6 + 0.3 * luck(f.frame_id, %1$s + 1000)) * CASE WHEN %2$s THEN 0.3 ELSE 1 END AS found
			FROM tap_seen f, unnest(ann_categories) WITH ORDINALITY a (c, no)) t $f$, number, bad);
END $$;

SELECT evaluated(900001, $$timeofday = 'night' AND c IN ('rider', 'motor')$$) \g /dev/null
CREATE TEMP TABLE found AS SELECT * FROM suggest_slices(900001);
SELECT ok(count(*) BETWEEN 1 AND 3, 'a planted weakness is said once or nearly so') FROM found;
SELECT matches(filter, $$^timeofday = 'night' AND avcurate\.has_category\(ann_categories, '(rider|motorcycle)'\)$$, 'night riders are found first') FROM found LIMIT 1;
SELECT ok(bool_and(p_value < 0.05 AND recall50 < recall50_elsewhere), 'all are significant') FROM found;
SELECT ok(bool_and(filter LIKE '%night%' AND filter ~ 'rider|motorcycle'), 'and none is a mere proxy') FROM found;
SELECT is(category, substring(filter FROM 'categories, ''(\w+)'''), 'the category whose truths count is named') FROM found LIMIT 1;
SELECT is((truths, round(recall50::numeric, 9)), (SELECT (count(*), round(avg((m.kind = 'true_positive')::int), 9)) FROM matches m JOIN tap_seen USING (frame_id)
	WHERE m.evaluation = 900001 AND timeofday = 'night' AND ann_categories[m.truth_no] = CASE found.category WHEN 'rider' THEN 'rider' ELSE 'motor' END), 'truths and recall as counted by hand') FROM found LIMIT 1;
SELECT is(round(recall50_elsewhere::numeric, 9), (SELECT round(avg((m.kind = 'true_positive')::int), 9) FROM matches m JOIN tap_seen USING (frame_id)
	WHERE m.evaluation = 900001 AND timeofday <> 'night' AND ann_categories[m.truth_no] = CASE found.category WHEN 'rider' THEN 'rider' ELSE 'motor' END), 'elsewhere means the same category elsewhere') FROM found LIMIT 1;
SELECT create_slice('tap_night_riders', 'tap_seen', (SELECT filter FROM found LIMIT 1)) \g /dev/null
SELECT is((SELECT rows FROM slices WHERE slice = 'tap_night_riders'::regclass), (SELECT frames FROM found LIMIT 1), 'the filter makes a slice of these frames');
SELECT ok((SELECT incremental FROM slices WHERE slice = 'tap_night_riders'::regclass), 'which is refreshed by difference');

-- three conditions on columns, whose names and values need quotes
SELECT evaluated(900002, $$weather = 'o''clock' AND "Is wet" AND speed >= 50$$) \g /dev/null
DROP TABLE found;
CREATE TEMP TABLE found AS SELECT * FROM suggest_slices(900002);
SELECT matches(filter, $$^weather = 'o''clock' AND "Is wet" AND speed >= (49|5[0-2])$$, 'three conditions are found') FROM found LIMIT 1;
SELECT is(count(*), 1::bigint, 'and nothing besides') FROM found;
SELECT is((category, truths), (NULL::text, frames * 6), 'all truths count') FROM found;
SELECT create_slice('tap_fast', 'tap_seen', (SELECT filter FROM found)) \g /dev/null
SELECT is((SELECT rows FROM slices WHERE slice = 'tap_fast'::regclass), (SELECT frames FROM found), 'again the filter makes the slice');

-- boxes and the time of day
SELECT evaluated(900003, $$c = 'car' AND largest_box_area_pct(ann_categories, ann_bboxes, width, height, 'car') < 2$$) \g /dev/null
SELECT matches(filter, $$^avcurate\.largest_box_area_pct\(ann_categories, ann_bboxes, width, height, 'car'\) < [12][.\d]*$$, 'small boxes are found') FROM suggest_slices(900003) LIMIT 1;
SELECT evaluated(900004, $$date_part('hour', frame_time AT TIME ZONE 'UTC') < 6$$) \g /dev/null
SELECT is(filter, $$date_part('hour', frame_time AT TIME ZONE 'UTC') BETWEEN 0 AND 5$$, 'hours are found') FROM suggest_slices(900004) LIMIT 1;

-- nothing where there is nothing: misses in runs of a frame, but no cause
SELECT evaluated(number, 'false') FROM generate_series(900010, 900019) AS number \g /dev/null
SELECT cmp_ok((SELECT count(DISTINCT number) FROM generate_series(900010, 900019) AS number, LATERAL suggest_slices(number)), '<=', 1::bigint, 'chance alone is seldom significant');
-- the same misses on other frames have no cause
UPDATE _avcurate.matches m SET frame_id = o.frame_id FROM
	(SELECT frame_id, row_number() OVER (ORDER BY frame_id) AS place FROM tap_seen) i
	JOIN (SELECT frame_id, row_number() OVER (ORDER BY luck(frame_id, 77)) AS place FROM tap_seen) o USING (place)
	WHERE m.evaluation = 900002 AND m.frame_id = i.frame_id;
SELECT is_empty($$SELECT * FROM suggest_slices(900002)$$, 'shuffled frames have no weakness');

-- scores, limits, refusals
SELECT is((SELECT round(recall50::numeric, 3) FROM suggest_slices(900001, 1) LIMIT 1), NULL, 'above every score everything is missed everywhere');
SELECT is_empty($$SELECT * FROM suggest_slices(900001, 0.5, 451)$$, 'too few frames to compare');
SELECT is((SELECT count(*) FROM suggest_slices(900001, 0.5, 20, 1)), 1::bigint, 'k limits the rows');
SELECT throws_ok($$SELECT * FROM suggest_slices(900001, 1.5)$$, '22023', 'argument "match_score" is 1.5, but must be between 0 and 1', 'match_score');
SELECT throws_ok($$SELECT * FROM suggest_slices(900001, 0.5, 1)$$, '22023', 'argument "min_frames" is 1, but must be at least 2', 'min_frames');
SELECT throws_ok($$SELECT * FROM suggest_slices(900001, 0.5, 20, 0)$$, '22023', 'argument "k" is 0, but must be between 1 and 1000', 'k');
SELECT throws_ok($$SELECT * FROM suggest_slices(4711)$$, '42704', 'evaluation 4711 does not exist', 'no such evaluation');
-- types of columns are the owner's to change where nothing is in the way
SELECT throws_ok($$DO 'BEGIN
	DROP MATERIALIZED VIEW tap_seen_all, tap_night_riders, tap_fast;
	DROP VIEW tap_seen_boxes;
	DROP TRIGGER avc_check_frame ON tap_seen;
	ALTER TABLE tap_seen ALTER ann_categories TYPE int[] USING ''{1000000,2000000}'';
	PERFORM count(*) FROM suggest_slices(900001);
END'$$, '42883', NULL, 'classes that became numbers are never taken for texts');
CREATE ROLE tap_stranger;
SET ROLE tap_stranger;
SELECT throws_ok($$SELECT * FROM avcurate.suggest_slices(900001)$$, '42704', 'evaluation 900001 does not exist', 'evaluations of others are not seen');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
