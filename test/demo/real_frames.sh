# Did a slice help, on real frames?  A detector trained on the train part, then
# fine-tuned on each of three slices and on random controls of their size, and
# judged on the val part; sourced by run.
#
#   BDD100K=folder
#   STEPS, TUNE    steps of 8 for the base (1500) and for each fine-tuning (60)
#   SEEDS          of the fine-tunings (1,2)
#   RENDERED=n     train on n rendered scenes first, 600 steps (0: from scratch)
#   AVC_MODEL_OPTIONS=json   the network's input, 480 x 270 by default
#   THREADS        of each job (half of the cores; two jobs run at once)
STEPS=${STEPS:-1500} TUNE=${TUNE:-60} SEEDS=${SEEDS:-1,2} RENDERED=${RENDERED:-0}
OPTIONS=${AVC_MODEL_OPTIONS:-'{"min_size": 270, "max_size": 480}'}
CORES=$(nproc)
THREADS=${THREADS:-$((CORES > 1 ? CORES / 2 : 1))}
VIEWS="rider night_person distant_person"

goes_on "BDD100K=$BDD100K STEPS=$STEPS TUNE=$TUNE SEEDS=$SEEDS RENDERED=$RENDERED OPTIONS=$OPTIONS"
step "ingest: $BDD100K"
sql -v folder="$BDD100K" <<'SQL'
SELECT avcurate.create_dataset('bdd100k') WHERE to_regclass('bdd100k') IS NULL \g /dev/null
CALL avcurate.ingest_bdd100k('bdd100k', :'folder' || '/images/train', :'folder' || '/bdd100k_labels_images_train.json', 'train');
CALL avcurate.ingest_bdd100k('bdd100k', :'folder' || '/images/val', :'folder' || '/bdd100k_labels_images_val.json', 'val');
SELECT dataset, frames, labelled_frames, boxes, pg_size_pretty(image_bytes) AS images FROM avcurate.datasets;
SQL

step "features"
[ "$(value 'SELECT count(*) FROM avcurate.features')" -gt 0 ] || sql -v dataset=bdd100k -f test/demo/features.sql

# Where labels do not say it, a frame darker than halfway between the train
# part's days and nights was taken at night.
step "slices"
DARK=$(value "SELECT round((avg(day) + avg(night))::numeric / 2, 1) FROM (
	SELECT avg(brightness) FILTER (WHERE timeofday = 'daytime') AS day, avg(brightness) FILTER (WHERE timeofday = 'night') AS night
	FROM bdd100k WHERE split = 'train') AS t")
sql -v dark="${DARK:-0}" <<'SQL'
\o /dev/null
SELECT avcurate.create_slice(view || '_' || split, 'bdd100k', format('split = %L AND %s', split, condition))
FROM (VALUES ('every', 'ann_bboxes IS NOT NULL'), ('rider', 'has_rider'),
	('night_person', format('has_person AND (timeofday = %L OR timeofday IS NULL AND brightness < %s)', 'night', :'dark')),
	('distant_person', 'has_person AND person_area_pct < 0.5')) AS v (view, condition), (VALUES ('train'), ('val')) AS s (split)
WHERE to_regclass(view || '_' || split) IS NULL;
\o
SELECT slice, rows, filter FROM avcurate.slices ORDER BY slice;
SELECT timeofday, count(*) AS val_frames, count(*) FILTER (WHERE brightness < :dark) AS darker_than_the_rule
FROM bdd100k WHERE split = 'val' GROUP BY timeofday ORDER BY timeofday;
SQL

step "base detector: $STEPS steps of 8 on every_train"
sql -c "LOAD 'avcurate'" -c "ALTER SYSTEM SET avcurate.max_workers = 2" -c "SELECT pg_reload_conf()" >/dev/null
value "SELECT avcurate.create_model('detector', 'small', '$OPTIONS') WHERE NOT EXISTS (SELECT FROM avcurate.models)" >/dev/null
FROM=
if [ "$RENDERED" -gt 0 ]; then
	sql <<SQL
SET client_min_messages = warning;
SELECT avcurate.create_dataset('rendered') WHERE to_regclass('rendered') IS NULL \g /dev/null
CALL avcurate.ingest_synthetic('rendered', $RENDERED, 1, 'train', '{"preset": "pool", "width": 480, "height": 270}');
SELECT avcurate.create_slice('rendered_train', 'rendered', 'true') WHERE to_regclass('rendered_train') IS NULL \g /dev/null
SQL
	JOB=$(job_of rendered "SELECT avcurate.train('rendered_train', 'detector', '{\"max_steps\": 600, \"seed\": 1}')")
	follow "$JOB" "training on $RENDERED rendered scenes"
	FROM=", \"from_checkpoint\": $(checkpoint_of "$JOB")"
fi
JOB=$(job_of base "SELECT avcurate.train('every_train', 'detector', '{\"max_steps\": $STEPS, \"seed\": 1$FROM}')")
follow "$JOB" "training"
BASE=$(checkpoint_of "$JOB")

step "the experiment: $TUNE steps of 8 on each slice and on random controls, seeds $SEEDS"
sql <<SQL
CALL avcurate.run_experiment('real_frames', $BASE, '{rider_train,night_person_train,distant_person_train}',
	'{rider_val,night_person_val,distant_person_val,every_val}', '{"lr": 5e-4, "warmup_steps": 5, "max_steps": $TUNE,
	"seeds": [$SEEDS], "threads": $THREADS}');
SQL

step "AP50 over all classes; tuned - base and tuned - control with 95 % intervals (paired bootstrap over frames)"
sql -f test/demo/real_frames.sql
REPORT=$(value "SELECT string_agg(evaluation::text, ',' ORDER BY evaluation) FROM avcurate.experiment_results WHERE experiment = 'real_frames'")
value "SELECT avcurate.report(ARRAY[$REPORT])" >"$OUT/real_frames.html"
