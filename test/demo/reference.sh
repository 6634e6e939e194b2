# LanceDB's published experiment on BDD100K, with its recipe and its measures
# beside COCO's; sourced by run.
#
#   BDD100K=folder  WEIGHTS=file  fasterrcnn_resnet50_fpn_v2's COCO weights
#   (.pth or safetensors), or "random"; EPOCHS (default 10)
# A run that was broken off, or is asked for once more, goes on where it was.
# For a try without days of computing:
#   AVC_FRAMES=n         the first n frames of each split that show a rider at
#                        night or day, a person, ...: files in name order
#   AVC_STEPS=n          steps instead of epochs
#   AVC_MODEL_OPTIONS=json   options of the model, such as a smaller min_size
EPOCHS=${EPOCHS:-10}
OPTIONS=${AVC_MODEL_OPTIONS:-'{}'}
TRAINING="{\"from_checkpoint\": 1, \"epochs\": $EPOCHS${AVC_STEPS:+, \"max_steps\": $AVC_STEPS}${AVC_BATCH:+, \"batch_size\": $AVC_BATCH}}"
VIEWS="nighttime_person rider distant_person"

# A copy of the first frames, where a try wants only these.
footage() {
	local split
	FOLDER=$BDD100K
	[ -n "${AVC_FRAMES:-}" ] || return 0
	scratch reference
	FOLDER=$AVC_SCRATCH/reference
	for split in train val; do
		as_server mkdir -p "$FOLDER/images/$split"
		find "$BDD100K/images/$split" -name '*.jpg' | sort | head -n "$AVC_FRAMES" |
			while read -r file; do as_server cp "$file" "$FOLDER/images/$split/"; done
	done
}

goes_on "BDD100K=$BDD100K WEIGHTS=$WEIGHTS OPTIONS=$OPTIONS TRAINING=$TRAINING FRAMES=${AVC_FRAMES:-all}"
step "ingest: $BDD100K"
footage
sql -v folder="$FOLDER" -v labels="$BDD100K" <<'SQL'
SELECT avcurate.create_dataset('bdd100k') WHERE to_regclass('bdd100k') IS NULL \g /dev/null
CALL avcurate.ingest_bdd100k('bdd100k', :'folder' || '/images/train', :'labels' || '/bdd100k_labels_images_train.json', 'train');
CALL avcurate.ingest_bdd100k('bdd100k', :'folder' || '/images/val', :'labels' || '/bdd100k_labels_images_val.json', 'val');
SELECT dataset, frames, labelled_frames, boxes, pg_size_pretty(image_bytes) AS images FROM avcurate.datasets;
SQL

step "the baseline: fasterrcnn_resnet50_fpn_v2 from ${WEIGHTS##*/}"
sql -v options="$OPTIONS" -v weights="$WEIGHTS" <<'SQL'
BEGIN;
SELECT avcurate.create_model('reference', 'fasterrcnn_resnet50_fpn_v2', :'options')
WHERE NOT EXISTS (SELECT FROM avcurate.models WHERE model = 'reference') \g /dev/null
SELECT :'weights' = 'random' AS random, EXISTS (SELECT FROM avcurate.checkpoints) AS is_there \gset
\if :is_there
\elif :random
SELECT avcurate.create_checkpoint('reference', 1) AS baseline;
\else
SELECT avcurate.import_checkpoint('reference', :'weights'::text) AS baseline;
\endif
COMMIT;
SQL

step "features: labels, and the largest person that the baseline sees"
sql <<'SQL'
\o /dev/null
SELECT avcurate.add_feature('bdd100k', name, expression)
FROM (VALUES ('has_rider', $$avcurate.has_category(ann_categories, 'rider')$$), ('has_person', $$avcurate.has_category(ann_categories, 'person')$$),
	('person_bbox_area_pct', 'avcurate.person_bbox_area_pct(image_bytes, 1)')) AS v (name, expression)
WHERE name NOT IN (SELECT feature FROM avcurate.features);
\o
CALL avcurate.backfill('bdd100k');
SQL

step "six slices"
sql <<'SQL'
\o /dev/null
SELECT avcurate.create_slice(view || '_' || split, 'bdd100k', format('split = %L AND %s', split, condition))
FROM (VALUES ('nighttime_person', $$timeofday = 'night' AND has_person$$), ('rider', 'has_rider'),
	('distant_person', 'has_person AND person_bbox_area_pct < 30')) AS v (view, condition), (VALUES ('train'), ('val')) AS s (split)
WHERE to_regclass(view || '_' || split) IS NULL;
\o
SELECT slice, version, rows FROM avcurate.slices ORDER BY slice;
SET client_min_messages = warning;
CREATE TABLE IF NOT EXISTS results (view text, detector text, evaluation bigint, mode text, PRIMARY KEY (view, detector, mode));
SQL

# measure VIEW DETECTOR CHECKPOINT
measure() {
	local mode job
	for mode in lancedb coco; do
		job=$(job_of "$2 on $1, $mode" "SELECT avcurate.evaluate($3, '${1}_val', '{\"mode\": \"$mode\"}')")
		follow "$job" "$2 on ${1}_val, $mode"
		value "INSERT INTO results VALUES ('$1', '$2', $job, '$mode') ON CONFLICT DO NOTHING"
	done
}

for view in $VIEWS; do
	rows=$(value "SELECT min(rows) FROM avcurate.slices WHERE slice IN ('${view}_train'::regclass, '${view}_val'::regclass)")
	if [ "$rows" = 0 ]; then
		echo "   $view: no frame in train or val, left out"
		continue
	fi
	step "$view: $EPOCHS epochs${AVC_STEPS:+, cut to $AVC_STEPS steps}"
	JOB=$(job_of "$view" "SELECT avcurate.train('${view}_train', 'reference', '$TRAINING')")
	follow "$JOB" "training"
	measure "$view" baseline 1
	measure "$view" fine-tuned "$(checkpoint_of "$JOB")"
done

step "mode lancedb is the published measure, mode coco the same detections by COCO's rules"
sql <<'SQL'
SELECT r.view, r.detector, e.frames, round(l.map_50::numeric, 4) AS "mAP@0.5", round(l.recall_micro::numeric, 4) AS recall,
	p.map_50 AS "published mAP@0.5", p.recall AS "published recall",
	round(e.ap50::numeric, 4) AS "COCO AP50", round(e.recall50::numeric, 4) AS "COCO recall50"
FROM results AS r JOIN results AS s USING (view, detector)
	JOIN avcurate.evaluations AS l ON l.evaluation = r.evaluation AND r.mode = 'lancedb'
	JOIN avcurate.evaluations AS e ON e.evaluation = s.evaluation AND s.mode = 'coco'
	JOIN (VALUES ('nighttime_person', 'baseline', 0.4025, 0.5923), ('nighttime_person', 'fine-tuned', 0.5192, 0.7570),
		('rider', 'baseline', 0.5563, 0.6788), ('rider', 'fine-tuned', 0.6676, 0.7847),
		('distant_person', 'baseline', 0.4746, 0.6794), ('distant_person', 'fine-tuned', 0.5788, 0.8024))
		AS p (view, detector, map_50, recall) ON p.view = r.view AND p.detector = r.detector
ORDER BY r.view, r.detector;
SQL
REPORT=$(value "SELECT string_agg(job::text, ',' ORDER BY job) FROM avcurate.jobs WHERE kind = 'train' OR job IN (SELECT evaluation FROM results WHERE mode = 'coco')")
[ -z "$REPORT" ] || value "SELECT avcurate.report(ARRAY[$REPORT])" >"$OUT/reference.html"
