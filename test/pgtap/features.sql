-- The four functions of labels and images as features of rendered frames:
-- the column holds what the function gives.
\set ON_ERROR_STOP 1
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pgtap;
SELECT avcurate.create_dataset('featured') AS dataset \gset
CALL avcurate.ingest_synthetic('featured', 24, 5, options => '{"width": 160, "height": 90, "preset": "pool"}');
SELECT avcurate.add_feature('featured', 'has_person', $$avcurate.has_category(ann_categories, 'pedestrian', 'rider')$$),
	avcurate.add_feature('featured', 'car_pct', $$avcurate.largest_box_area_pct(ann_categories, ann_bboxes, width, height, 'car')$$),
	avcurate.add_feature('featured', 'light', 'avcurate.brightness(image_bytes)'),
	avcurate.add_feature('featured', 'hash', 'avcurate.dhash(image_bytes)') \gset made_
CALL avcurate.backfill('featured', batch_size => 10);

SELECT plan(14);
SELECT is(string_agg(concat_ws(' ', feature, done, pending, failed), ', ' ORDER BY feature),
	'car_pct 24 0 0, has_person 24 0 0, hash 24 0 0, light 24 0 0', 'all rows are done')
FROM avcurate.feature_status WHERE dataset = 'featured'::regclass;
SELECT is(string_agg(concat_ws(' ', feature, type), ', ' ORDER BY feature),
	'car_pct real, has_person boolean, hash bit(64), light real', 'types')
FROM avcurate.features WHERE dataset = 'featured'::regclass;
SELECT is_empty($$SELECT frame_id FROM featured WHERE has_person IS DISTINCT FROM
	(EXISTS (SELECT FROM featured_boxes b WHERE b.frame_id = featured.frame_id AND category IN ('person', 'rider')))$$, 'has_category');
SELECT is_empty($$SELECT frame_id FROM featured WHERE abs(coalesce(car_pct, -1) -
	coalesce((SELECT max(area_pct) FROM featured_boxes b WHERE b.frame_id = featured.frame_id AND category = 'car'), -1)) > 1e-4$$,
	'largest_box_area_pct');
SELECT is_empty($$SELECT frame_id FROM featured WHERE light IS DISTINCT FROM avcurate.brightness(image_bytes)$$, 'brightness');
SELECT is_empty($$SELECT frame_id FROM featured WHERE hash IS DISTINCT FROM avcurate.dhash(image_bytes)$$, 'dhash');
SELECT cmp_ok(min(light) FILTER (WHERE timeofday = 'daytime'), '>', max(light) FILTER (WHERE timeofday = 'night'),
	'days are brighter than nights') FROM featured;
SELECT cmp_ok(count(DISTINCT hash), '>', 12::bigint, 'frames differ') FROM featured;
-- one fetch and one decode of an image serve all features of a level
SELECT pg_stat_force_next_flush() \gset flush_
SELECT toast_blks_read + toast_blks_hit AS reads FROM pg_statio_user_tables WHERE relname = 'featured' \gset before_
SELECT avcurate.alter_feature('featured', 'light', 'avcurate.brightness(image_bytes)') \gset made_
CALL avcurate.backfill('featured');
SELECT pg_stat_force_next_flush() \gset flush_
SELECT toast_blks_read + toast_blks_hit AS reads FROM pg_statio_user_tables WHERE relname = 'featured' \gset one_
SELECT avcurate.alter_feature('featured', 'light', 'avcurate.brightness(image_bytes)'), avcurate.alter_feature('featured', 'hash', 'avcurate.dhash_scaled(image_bytes)'),
	avcurate.add_feature('featured', 'sharp', 'avcurate.sharpness(image_bytes)') \gset made_
CALL avcurate.backfill('featured');
SELECT pg_stat_force_next_flush() \gset flush_
SELECT toast_blks_read + toast_blks_hit AS reads FROM pg_statio_user_tables WHERE relname = 'featured' \gset three_
SELECT cmp_ok((:one_reads - :before_reads)::bigint, '>', 0::bigint, 'a feature of the image reads it');
SELECT is((:three_reads - :one_reads)::bigint, (:one_reads - :before_reads)::bigint, 'three of them read it once');

-- a picture that is cut off: its own error, and only where pixels are asked for
UPDATE featured SET image_bytes = substr(image_bytes, 1, length(image_bytes) - 400) WHERE frame_id IN (3, 17);
CALL avcurate.backfill('featured');
SELECT is(string_agg(concat_ws(' ', feature, done, failed), ', ' ORDER BY feature), 'car_pct 24 0, has_person 24 0, hash 22 2, light 22 2, sharp 22 2',
	'cut pictures fail where pixels are read')
FROM avcurate.feature_status WHERE dataset = 'featured'::regclass;
SELECT results_eq($$SELECT DISTINCT frame_id, sqlstate, message ~ '^JPEG is corrupt: ' FROM avcurate.feature_errors WHERE dataset = 'featured'::regclass ORDER BY 1$$,
	$$VALUES (3::bigint, '22000', true), (17, '22000', true)$$, 'an error a row says so');
UPDATE featured f SET image_bytes = (SELECT image_bytes FROM featured WHERE frame_id = 5) WHERE frame_id IN (3, 17);
CALL avcurate.backfill('featured');
SELECT is_empty($$SELECT * FROM avcurate.feature_errors WHERE dataset = 'featured'::regclass$$, 'whole pictures end it');
SELECT is_empty($$SELECT frame_id FROM featured WHERE light IS DISTINCT FROM avcurate.brightness(image_bytes)$$, 'with the values of what is there now');
SELECT * FROM finish();
SELECT avcurate.drop_dataset('featured') \gset dropped_
