-- Five columns of the dataset named by :dataset, filled in.
\set ECHO queries
\o /dev/null
SELECT avcurate.add_feature(:'dataset', 'has_rider', $$avcurate.has_category(ann_categories, 'rider')$$);
SELECT avcurate.add_feature(:'dataset', 'has_person', $$avcurate.has_category(ann_categories, 'person')$$);
SELECT avcurate.add_feature(:'dataset', 'person_area_pct',
	$$avcurate.largest_box_area_pct(ann_categories, ann_bboxes, width, height, 'person')$$);
SELECT avcurate.add_feature(:'dataset', 'brightness', 'avcurate.brightness(image_bytes)');
SELECT avcurate.add_feature(:'dataset', 'dhash', 'avcurate.dhash(image_bytes)');
\o
CALL avcurate.backfill(:'dataset');
\set ECHO none
SELECT feature, total, done, pending, failed FROM avcurate.feature_status ORDER BY feature;
