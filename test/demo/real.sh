# The same steps on real frames, as far as minutes of training go; sourced by
# run.  Nothing is learnt from scratch in that time: the fine-tuning shows that
# the machinery takes real frames, and its figures are printed as they are.

step "ingest: $BDD100K"
sql -v folder="$BDD100K" <<'SQL'
SELECT avcurate.create_dataset('bdd100k');
CALL avcurate.ingest_bdd100k('bdd100k', :'folder' || '/images/train', :'folder' || '/bdd100k_labels_images_train.json', 'train');
CALL avcurate.ingest_bdd100k('bdd100k', :'folder' || '/images/val', :'folder' || '/bdd100k_labels_images_val.json', 'val');
SELECT dataset, frames, labelled_frames, boxes, pg_size_pretty(image_bytes) AS images FROM avcurate.datasets;
SELECT count(*) AS ingest_errors FROM avcurate.ingest_errors;
SQL

step "features"
sql -v dataset=bdd100k -f test/demo/features.sql

step "slices and batches"
sql <<'SQL'
\set ECHO queries
\o /dev/null
SELECT avcurate.create_slice('rider', 'bdd100k', 'has_rider');
SELECT avcurate.create_slice('night_person', 'bdd100k', $$timeofday = 'night' AND has_person$$);
SELECT avcurate.create_slice('distant_person', 'bdd100k', 'has_person AND person_area_pct < 0.5');
\o
\set ECHO none
SELECT slice, version, rows FROM avcurate.slices ORDER BY slice;
SELECT batch_no, count(*) AS frames, sum(cardinality(labels)) AS boxes, pg_size_pretty(sum(octet_length(image_bytes))) AS images
FROM avcurate.batches('distant_person', 8, seed => 1, num_batches => 4) GROUP BY batch_no ORDER BY batch_no;
SQL

step "a short fine-tuning on real frames"
sql -tA -c "SELECT avcurate.create_model('detector', 'small')" >/dev/null
JOB=$(train distant_person '{"max_steps": 60, "max_frames": 16, "seed": 1, "hflip": 0}')
follow "$JOB" "training"
CHECKPOINT=$(checkpoint_of "$JOB")
sql <<SQL
SELECT step, to_char(loss, '0.000') AS loss, to_char(grad_norm, '990.00') AS grad_norm
FROM avcurate.job_progress WHERE job = $JOB AND (step % 10 = 0 OR step = 1) ORDER BY step;
SELECT * FROM avcurate.verify_slice('distant_person', 1);
SQL
EVALUATION=$(value "SELECT avcurate.evaluate($CHECKPOINT, 'distant_person', '{\"max_frames\": 16}')")
follow "$EVALUATION" "evaluation on the frames trained on"
FRAME=$(value "SELECT min(frame_id) FROM avcurate.matches WHERE evaluation = $EVALUATION")
value "SELECT encode(avcurate.overlay($FRAME, ARRAY[$EVALUATION]::bigint[]), 'base64')" | base64 -d >"$OUT/real.jpg"
