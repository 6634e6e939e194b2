# The loop on rendered scenes; sourced by run.

if [ "${AVC_DEMO:-}" = quick ]; then
	BASE=300 BASE_VAL=60 POOL=600 VAL=240 STEPS=30 TUNE=10 TUNE_FRAMES=40 EVAL=20 NEW=60
else
	BASE=2000 BASE_VAL=300 POOL=2500 VAL=900 STEPS=600 TUNE=100 TUNE_FRAMES=280 EVAL=110 NEW=300
fi
SLICES="rider night_person distant_person"

ingest() {
	step "footage: rendering and ingesting $((BASE + BASE_VAL + POOL + VAL)) frames"
	sql <<SQL
SELECT avcurate.create_dataset('base_drives') AS dataset \gset
SELECT avcurate.create_dataset('new_drives') AS dataset \gset
\set QUIET on
SET client_min_messages = warning;
CALL avcurate.ingest_synthetic('base_drives', $BASE, 1, 'train', '{"preset": "base"}');
CALL avcurate.ingest_synthetic('base_drives', $BASE_VAL, 2, 'val', '{"preset": "base"}');
CALL avcurate.ingest_synthetic('new_drives', $POOL, 3, 'train', '{"preset": "pool"}');
CALL avcurate.ingest_synthetic('new_drives', $VAL, 4, 'val', '{"preset": "pool"}');
SELECT dataset, frames, labelled_frames, boxes, pg_size_pretty(image_bytes) AS images
FROM avcurate.datasets ORDER BY dataset;
SQL
}

features() {
	step "features: five columns, backfilled"
	sql -v dataset=new_drives -f test/demo/features.sql
}

slices() {
	step "slices: materialized views with versions"
	sql <<'SQL'
\set ECHO queries
\o /dev/null
SELECT avcurate.create_slice('base_train', 'base_drives', $$split = 'train'$$);
SELECT avcurate.create_slice('daytime_val', 'base_drives', $$split = 'val'$$);
SELECT avcurate.create_slice('rider_train', 'new_drives', $$split = 'train' AND has_rider$$);
SELECT avcurate.create_slice('rider_val', 'new_drives', $$split = 'val' AND has_rider$$);
SELECT avcurate.create_slice('night_person_train', 'new_drives', $$split = 'train' AND timeofday = 'night' AND has_person$$);
SELECT avcurate.create_slice('night_person_val', 'new_drives', $$split = 'val' AND timeofday = 'night' AND has_person$$);
\o
\set ECHO none
SELECT slice, version, rows FROM avcurate.slices ORDER BY slice;
SQL
}

base_model() {
	step "base detector: $STEPS steps of 8 on base_train"
	sql -tA -c "SELECT avcurate.create_model('detector', 'small')" >/dev/null
	BASE_JOB=$(train base_train "{\"max_steps\": $STEPS, \"seed\": 1}")
	follow "$BASE_JOB" "training"
	BASE_CHECKPOINT=$(checkpoint_of "$BASE_JOB")
}

# Persons that the base detector sees small, or not at all: they are labelled,
# so has_person knows them.
distant() {
	step "a feature computed by the base detector, and the slices cut by it"
	sql -v checkpoint="$BASE_CHECKPOINT" <<'SQL'
SET avcurate.detector = :checkpoint;
\set ECHO queries
\o /dev/null
SELECT avcurate.add_feature('new_drives', 'person_bbox_area_pct', 'avcurate.person_bbox_area_pct(image_bytes)');
\o
CALL avcurate.backfill('new_drives', 'person_bbox_area_pct');
\o /dev/null
SELECT avcurate.create_slice('distant_person_train', 'new_drives', $$split = 'train' AND has_person AND person_bbox_area_pct < 0.5$$);
SELECT avcurate.create_slice('distant_person_val', 'new_drives', $$split = 'val' AND has_person AND person_bbox_area_pct < 0.5$$);
\o
\set ECHO none
SELECT feature, expression, done FROM avcurate.features JOIN avcurate.feature_status USING (dataset, feature)
WHERE feature = 'person_bbox_area_pct';
SELECT slice, version, rows FROM avcurate.slices WHERE slice::text LIKE 'distant%' ORDER BY slice;
SELECT timeofday, count(*) AS frames_with_a_person, count(*) FILTER (WHERE person_bbox_area_pct = 0) AS none_found,
	count(*) FILTER (WHERE person_bbox_area_pct > 0 AND person_bbox_area_pct < 0.5) AS found_small
FROM new_drives WHERE has_person GROUP BY timeofday ORDER BY timeofday;
SQL
}

# Base, control and tuned on every slice, in one call; jobs of few threads side
# by side take less time than one of many.
experiment() {
	local cores threads
	cores=$(nproc)
	threads=$((cores > 1 ? cores / 2 : 1))
	step "the experiment: $TUNE steps of 8 on $TUNE_FRAMES frames of each slice and of a random control of its size"
	sql -c "LOAD 'avcurate'" -c "ALTER SYSTEM SET avcurate.max_workers = 2" -c "SELECT pg_reload_conf()" >/dev/null
	sql <<SQL
\set ECHO queries
CALL avcurate.run_experiment('three_slices', $BASE_CHECKPOINT, '{rider_train,night_person_train,distant_person_train}',
	'{rider_val,night_person_val,distant_person_val}', '{"lr": 5e-4, "warmup_steps": 5, "max_steps": $TUNE,
	"max_frames": $TUNE_FRAMES, "eval_max_frames": $EVAL, "seeds": [1], "threads": $threads}');
\set ECHO none
SELECT slice, rows, filter FROM avcurate.slices WHERE slice::text LIKE '%control%' ORDER BY slice;
SQL
	step "the base by day"
	DAYTIME=$(value "SELECT avcurate.evaluate($BASE_CHECKPOINT, 'daytime_val', '{\"max_frames\": $EVAL}')")
	follow "$DAYTIME" "checkpoint $BASE_CHECKPOINT on daytime_val"
	step "base, random control and tuned (COCO protocol, first $EVAL frames of each slice)"
	sql -v daytime="$DAYTIME" -f test/demo/table.sql
}

# What a search of all conjunctions says of the base: it has seen no night.
weakness() {
	step "where the base misses significantly more: filters for create_slice"
	sql -c "SELECT avcurate.create_slice('held_out', 'new_drives', \$\$split = 'val'\$\$)" >/dev/null
	EVERYWHERE=$(value "SELECT avcurate.evaluate($BASE_CHECKPOINT, 'held_out', '{\"max_frames\": $((3 * EVAL))}')")
	follow "$EVERYWHERE" "checkpoint $BASE_CHECKPOINT on held_out"
	sql <<SQL
SELECT filter, frames, truths, round(recall50::numeric, 2) AS recall50, round(recall50_elsewhere::numeric, 2) AS elsewhere,
	to_char(p_value, '9.9EEEE') AS p_value, category
FROM avcurate.suggest_slices($EVERYWHERE, k => 5);
SQL
}

new_footage() {
	step "new footage arrives: $NEW frames"
	sql <<SQL
SET client_min_messages = warning;
CALL avcurate.ingest_synthetic('new_drives', $NEW, 5, 'train', '{"preset": "pool"}');
SELECT feature, total, pending FROM avcurate.feature_status ORDER BY feature;
\echo backfill computes only what is new:
CALL avcurate.backfill('new_drives');
SELECT feature, total, done, pending FROM avcurate.feature_status ORDER BY feature;
SELECT slice, version_before, version, added, removed, changed, mode, round(extract(epoch FROM elapsed) * 1000) AS ms
FROM avcurate.refresh_slices('new_drives') ORDER BY slice;
\echo what entered the rider slice:
SELECT change, count(*) FROM avcurate.slice_diff(NULL::rider_train, 1, 2) GROUP BY change ORDER BY change;
SQL
}

proof() {
	local checkpoint
	checkpoint=$(value "SELECT DISTINCT checkpoint FROM avcurate.experiment_results
		WHERE train_slice = 'rider_train'::regclass AND NOT control")
	step "what checkpoint $checkpoint was trained on, read back and verified"
	sql <<SQL
SELECT c.checkpoint, c.slice, c.version, c.rows, left(c.digest, 16) AS digest
FROM avcurate.checkpoints c WHERE c.checkpoint = $checkpoint;
SELECT (SELECT count(*) FROM avcurate.slice_at(NULL::rider_train, 1)) AS rows_of_version_1,
	(SELECT count(*) FROM rider_train) AS rows_now;
SELECT version, rows, left(digest, 16) AS digest, verified, detail FROM avcurate.verify_slice('rider_train', 1);
SELECT check_name, ok, detail FROM avcurate.verify_checkpoint($checkpoint) ORDER BY check_name;
SQL
}

# A picture of the frame of each slice where tuning gained the most truths.
pictures() {
	local slice base tuned frame
	step "pictures: truth green, base red, tuned blue"
	for slice in $SLICES; do
		base=$(value "SELECT evaluation FROM avcurate.experiment_results
			WHERE val_slice = '${slice}_val'::regclass AND train_slice IS NULL")
		tuned=$(value "SELECT evaluation FROM avcurate.experiment_results
			WHERE val_slice = '${slice}_val'::regclass AND train_slice = '${slice}_train'::regclass AND NOT control")
		frame=$(value "SELECT frame_id FROM avcurate.matches WHERE evaluation IN ($base, $tuned)
			AND kind = 'true_positive' AND score >= 0.5 GROUP BY frame_id
			ORDER BY count(*) FILTER (WHERE evaluation = $tuned) - count(*) FILTER (WHERE evaluation = $base) DESC, frame_id LIMIT 1")
		[ -n "$frame" ] || frame=$(value "SELECT min(frame_id) FROM ${slice}_val")
		value "SELECT encode(avcurate.overlay($frame, ARRAY[$base, $tuned]::bigint[]), 'base64')" |
			base64 -d >"$OUT/$slice.jpg"
		echo "   $slice: frame $frame"
	done
}

ingest
features
slices
base_model
distant
experiment
weakness
new_footage
proof
pictures
