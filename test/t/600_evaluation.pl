# Evaluations as jobs: a fake engine says what it is told, so every figure and
# every match is known; then the real one.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;

my $node = PostgreSQL::Test::Cluster->new('evaluation');
my $answers = $node->basedir . '/answers';
$ENV{FAKE_ENGINE_ANSWERS} = $answers;
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\nmax_worker_processes = 16\n"
	  . "avcurate.engine_path = '$FindBin::Bin/fake_engine'\n");
$node->start;

sub answer
{
	open my $file, '>', $answers or die "$answers: $!\n";
	print $file map { "$_\n" } @_;
	close $file;
}

# Queue in one transaction, wait in the next: the worker starts at commit.
sub evaluate
{
	my ($arguments) = @_;
	my $job = $node->safe_psql('postgres', "SELECT avcurate.evaluate($arguments)");
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.wait_job($job, '3 min')");
	return ($job, $out, $err);
}

sub query { return $node->safe_psql('postgres', $_[0]) }

query(q{
CREATE EXTENSION avcurate;
CREATE FUNCTION jpeg(n int) RETURNS bytea LANGUAGE sql AS $$
	SELECT '\xffd8ffc0001108012c019003012200021101031101ffda000c03010002110311003f00'::bytea
		|| decode(repeat(md5(n::text), 20), 'hex') || '\xffd9'::bytea
$$;
SELECT avcurate.create_dataset('frames');
INSERT INTO frames (image_id, image_bytes, ann_categories, ann_bboxes, ann_ignored) VALUES
	('one', jpeg(1), '{car,car,person}', '{{0,0,40,40},{100,100,140,140},{200,50,220,100}}', NULL),
	('two', jpeg(2), '{car,car,bus}', '{{10,10,110,60},{200,200,290,290},{5,5,5,50}}', '{f,t,f}'),
	('three', jpeg(3), '{}', '{}', NULL),
	('not labelled', jpeg(4), NULL, NULL, NULL),
	('five', jpeg(5), '{rider}', '{{300,10,320,60}}', NULL);
SELECT avcurate.create_slice('val', 'frames', 'true');
SELECT avcurate.create_model('small', 'small');
SET avcurate.engine_path = '';
SELECT avcurate.create_checkpoint('small');
});

# ---- known answers
answer('1 {"labels": [3, 3, 1, 9], "scores": [0.9, 0.8, 0.7, 0.04], "boxes": [[0, 0, 40, 40], [100, 100, 140, 130], [0, 200, 20, 250], [1, 1, 9, 9]]}',
	'2 {"labels": [3, 3, 3, 3], "scores": [0.95, 0.6, 0.5, 0.85], "boxes": [[300, 0, 390, 90], [200, 200, 250, 250], [250, 250, 290, 290], [10, 10, 110, 60]]}',
	'3 {"labels": [5], "scores": [0.4], "boxes": [[0, 0, 50, 50]]}');
my ($known, $state, $error) = evaluate(q{1, 'val'});
is($state, 'succeeded', 'an evaluation succeeds') or diag $error;
is(query("SELECT frames, version, mode, label_map, map_50 IS NULL, precision IS NULL, recall_micro IS NULL FROM avcurate.evaluations WHERE evaluation = $known"),
	'4|1|coco|bdd100k|t|t|t', 'on four labelled frames');
like(query("SELECT message FROM avcurate.job_log WHERE job = $known"), qr/left out 1 frames without labels/, 'and says so');
is(query("SELECT frame_id, kind, category, round(score::numeric, 2), round(iou::numeric, 4), box, truth_no FROM avcurate.matches WHERE evaluation = $known ORDER BY 1, 4 DESC NULLS LAST, 7"),
	join("\n",
		'1|true_positive|car|0.90|1.0000|{0,0,40,40}|1',
		'1|true_positive|car|0.80|0.7500|{100,100,140,130}|2',
		'1|false_positive|person|0.70||{0,200,20,250}|',
		'1|missed|person||||3',
		'2|false_positive|car|0.95||{300,0,390,90}|',
		'2|true_positive|car|0.85|1.0000|{10,10,110,60}|1',
		'2|ignored|car|0.60|1.0000|{200,200,250,250}|2',
		'2|ignored|car|0.50|1.0000|{250,250,290,290}|2',
		'3|false_positive|bus|0.40||{0,0,50,50}|',
		'5|missed|rider||||1'),
	'every match is as worked out by hand');
# Cars by score: false, true, true, true of three truths.  At recall 0 to 1
# the interpolated precision is 3/4.
is(query("SELECT category, truths, detections, round(ap50::numeric, 6), round(recall50::numeric, 6) FROM avcurate.evaluation_classes WHERE evaluation = $known ORDER BY label"),
	join("\n", 'person|1|1|0.000000|0.000000', 'rider|1|0|0.000000|0.000000', 'car|3|6|0.750000|1.000000', 'bus|0|1||'),
	'figures by class as worked out by hand');
is(query("SELECT round(ap50::numeric, 6), round(recall50::numeric, 6) FROM avcurate.evaluations WHERE evaluation = $known"),
	'0.250000|0.333333', 'the whole is the mean over classes with truths');

# ---- the lancedb formulas.  Per image only classes that its truths hold:
# person 0.7 (miss), cars 0.95 miss, 0.9, 0.85, 0.8 hits, 0.6, 0.5 (no crowd
# there) misses; the first detection's rise of recall is left out.
my ($lancedb) = evaluate(q{1, 'val', '{"mode": "lancedb"}'});
is(query("SELECT mode, round(map_50::numeric, 6), round(precision::numeric, 6), round(recall_micro::numeric, 6), min_score FROM avcurate.evaluations WHERE evaluation = $lancedb"),
	sprintf('lancedb|%.6f|%.6f|%.6f|0.3', (1 / 2 + 2 / 3 + 3 / 4) / 3 / 3, 3 / 7, 3 / 5), 'mode lancedb by its own formulas');

# ---- options
my ($few) = evaluate(q{1, 'val', '{"max_frames": 1, "min_score": 0.75}'});
is(query("SELECT frames, (SELECT count(*) FROM avcurate.matches m WHERE m.evaluation = e.evaluation AND score IS NOT NULL) FROM avcurate.evaluations e WHERE evaluation = $few"),
	'1|2', 'max_frames takes the first frames, min_score the better detections');
foreach my $case (
	[ '{"max_frame": 3}', qr/unknown option "max_frame" of evaluate.*Known options: amp, device, max_frames, min_score, mode, threads, version/s ],
	[ '{"max_frames": 0}', qr/option "max_frames" of evaluate must be a whole number from 1/ ],
	[ '{"max_frames": 1.5}', qr/option "max_frames" of evaluate must be a whole number from 1/ ],
	[ '{"mode": "voc"}', qr/option "mode" of evaluate must be "coco" or "lancedb"/ ],
	[ '{"amp": "f16"}', qr/option "amp" of evaluate must be "auto", "f32", "bf16" or "fp16"/ ],
	[ '{"min_score": 1}', qr/option "min_score" of evaluate must be a number from 0 up to 1/ ],
	[ '{"threads": "all"}', qr/option "threads" of evaluate must be a whole number/ ],
	[ '{"version": 7}', qr/version 7/ ],
	[ '[]', qr/options of evaluate must be a JSON object/ ])
{
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.evaluate(1, 'val', '$case->[0]')");
	like($err, $case->[1], "refused: $case->[0]");
}
my ($rc, $out, $err) = $node->psql('postgres', q{SELECT avcurate.evaluate(77, 'val')});
like($err, qr/checkpoint 77 does not exist/, 'an unknown checkpoint is refused');
($rc, $out, $err) = $node->psql('postgres', q{SELECT avcurate.evaluate(1, 'frames')});
isnt($rc, 0, 'a dataset is no slice');

# ---- the version is the one of the call
query(q{
BEGIN;
SELECT avcurate.evaluate(1, 'val');
UPDATE frames SET ann_categories = '{}', ann_bboxes = '{}', ann_ignored = NULL;
SELECT avcurate.refresh_slice('val');
COMMIT;});
my $pinned = query('SELECT max(job) FROM avcurate.jobs');
query("SELECT avcurate.wait_job($pinned)");
is(query("SELECT e.version, s.version, round(e.ap50::numeric, 6) FROM avcurate.evaluations e, avcurate.slices s WHERE evaluation = $pinned AND s.slice = 'val'::regclass"),
	'1|2|0.250000', 'a refresh after the call changes nothing');
my ($older) = evaluate(q{1, 'val', '{"version": 1}'});
is(query("SELECT version, round(ap50::numeric, 6) FROM avcurate.evaluations WHERE evaluation = $older"), '1|0.250000', 'an older version can be asked for');

# ---- failures leave a failed job, a message, and no result
answer('refuse 2');
my $failed;
($failed, $state, $error) = evaluate(q{1, 'val', '{"version": 1}'});
like($error, qr/frame 2 is no picture/, 'the engine\'s message is the job\'s');
answer('die 2');
($failed, $state, $error) = evaluate(q{1, 'val', '{"version": 1}'});
like($error, qr/fake engine: ended as it was told/, 'an engine that dies fails its job with its last words');
is(query("SELECT state, (SELECT count(*) FROM avcurate.evaluations WHERE evaluation = job), (SELECT count(*) FROM avcurate.matches WHERE evaluation = job) FROM avcurate.jobs WHERE job = $failed"),
	'failed|0|0', 'and nothing else');
answer('garbage');
($failed, $state, $error) = evaluate(q{1, 'val', '{"version": 1}'});
like($error, qr/do not have the form agreed on/, 'an answer for another number of frames is refused');
answer('1 {"labels": [3], "scores": [], "boxes": []}');
($failed, $state, $error) = evaluate(q{1, 'val', '{"version": 1}'});
like($error, qr/do not have the form agreed on/, 'so are lists of different lengths');
answer();
is((evaluate(q{1, 'val', '{"version": 1}'}))[1], 'succeeded', 'the next one succeeds');

# ---- many frames: the stored figures are COCO's of the stored boxes
query(q{
SELECT avcurate.create_dataset('many');
SELECT setseed(0.25) \gset
INSERT INTO many (image_id, image_bytes, ann_categories, ann_bboxes, ann_ignored, ann_area)
	SELECT 'f' || n, jpeg(1000 + n), c, b, i, a FROM (
		SELECT n, array_agg((array['car','person','bus','rider'])[1 + floor(random() * 4)]) AS c, array_agg(array[x, y, x + w, y + h]::real[]) AS b,
			array_agg(random() < 0.1) AS i, array_agg(CASE WHEN random() < 0.5 THEN w * h * 0.8 END::real) AS a
		FROM generate_series(1, 300) n, LATERAL (SELECT random() * 200 AS x, random() * 150 AS y, 8 + random() * 120 AS w, 8 + random() * 100 AS h
			FROM generate_series(1, 1 + n % 9)) s GROUP BY n) q;
SELECT avcurate.create_slice('many_val', 'many', 'true');
});
# Detections: jittered truths and noise, coarse scores so that many tie.
sub noisy
{
	my ($seed, $jitter) = @_;
	query("SELECT setseed($seed)");
	my $lines = query(qq{
SELECT setseed($seed) \\gset
SELECT frame_id || ' {"labels": ' || json_agg(label) || ', "scores": ' || json_agg(score) || ', "boxes": ' || json_agg(box) || '}' FROM (
	SELECT frame_id, CASE WHEN random() < 0.1 THEN 5 ELSE m.label END AS label, round((0.06 + random() * 0.9)::numeric, 2) AS score,
		json_build_array(x1 + d1, y1 + d2, x2 + d3, y2 + d4) AS box
	FROM (SELECT *, ($jitter * (random() - 0.5))::real AS d1, ($jitter * (random() - 0.5))::real AS d2,
		($jitter * (random() - 0.5))::real AS d3, ($jitter * (random() - 0.5))::real AS d4 FROM many_boxes, generate_series(1, 3) WHERE random() < 0.8) b
	JOIN avcurate.label_maps m ON m.label_map = 'bdd100k' AND m.category = b.category
	WHERE x2 + d3 > x1 + d1 AND y2 + d4 > y1 + d2) q GROUP BY frame_id});
	answer(split /\n/, $lines);
}
noisy(0.5, 30);
my ($coarse, $coarse_state, $coarse_error) = evaluate(q{1, 'many_val'});
is($coarse_state, 'succeeded', '300 frames are evaluated') or diag $coarse_error;
noisy(0.75, 8);
my ($fine) = evaluate(q{1, 'many_val'});
sub documents
{
	my ($evaluation) = @_;
	return qq{
	(SELECT jsonb_build_object(
		'images', (SELECT jsonb_agg(jsonb_build_object('id', frame_id)) FROM many),
		'categories', (SELECT jsonb_agg(jsonb_build_object('id', label, 'name', category)) FROM avcurate.label_maps WHERE label_map = 'bdd100k'),
		'annotations', (SELECT jsonb_agg(jsonb_build_object('id', 1, 'image_id', frame_id, 'category_id', m.label, 'bbox',
			json_build_array(b.box[1]::float8, b.box[2]::float8, b.box[3]::float8 - b.box[1]::float8, b.box[4]::float8 - b.box[2]::float8),
			'area', coalesce(b.area::float8, (b.box[3]::float8 - b.box[1]::float8) * (b.box[4]::float8 - b.box[2]::float8)), 'iscrowd', b.ignored::int) ORDER BY frame_id, n)
			FROM (SELECT frame_id, n, c, array[ann_bboxes[n][1], ann_bboxes[n][2], ann_bboxes[n][3], ann_bboxes[n][4]] AS box, ann_ignored[n] AS ignored, ann_area[n] AS area
				FROM many, unnest(ann_categories) WITH ORDINALITY u (c, n)) b
			JOIN avcurate.label_maps m ON m.label_map = 'bdd100k' AND m.category = b.c))),
	(SELECT jsonb_agg(jsonb_build_object('image_id', frame_id, 'category_id', m.label, 'score', score::float8, 'bbox',
			json_build_array(box[1]::float8, box[2]::float8, box[3]::float8 - box[1]::float8, box[4]::float8 - box[2]::float8)) ORDER BY frame_id, detection_no)
		FROM _avcurate.matches m WHERE evaluation = $evaluation AND box IS NOT NULL)};
}
foreach my $evaluation ($coarse, $fine)
{
	is(query("SELECT count(*), max(abs(m.value - e.value)) < 1e-9 FROM avcurate.coco_metrics(" . documents($evaluation) . ") m
		JOIN (SELECT k, v FROM avcurate.evaluations, LATERAL (VALUES ('AP', ap), ('AP50', ap50), ('AP75', ap75), ('APs', ap_small), ('APm', ap_medium),
			('APl', ap_large), ('AR100', recall)) x (k, v) WHERE evaluation = $evaluation) e (metric, value) USING (metric) WHERE m.category IS NULL"),
		'7|t', 'stored figures are those of the boxes as COCO documents');
	is(query("SELECT count(*) > 3, max(abs(m.value - c.ap50)) < 1e-9 FROM avcurate.coco_metrics(" . documents($evaluation) . ") m
		JOIN avcurate.evaluation_classes c ON c.category = m.category AND c.evaluation = $evaluation WHERE m.metric = 'AP50'"),
		't|t', 'and so are those of each class');
}
is(query("SELECT count(*) FROM (SELECT category, count(*) FILTER (WHERE kind IN ('true_positive', 'missed')) AS truths, count(*) FILTER (WHERE kind = 'true_positive') AS found
		FROM avcurate.matches WHERE evaluation = $fine GROUP BY 1) m JOIN avcurate.evaluation_classes c USING (category)
	WHERE c.evaluation = $fine AND (c.truths <> m.truths OR abs(c.recall50 - m.found::float8 / nullif(m.truths, 0)) > 1e-12)"), '0', 'matches count up to truths and recall');
is(query("SELECT count(*) FROM avcurate.matches WHERE evaluation = $fine AND kind = 'true_positive' AND (iou < 0.5 OR truth_box IS NULL OR truth_no IS NULL)"), '0', 'true positives have their truth');

# ---- comparison
is(query("SELECT count(*), bool_and(abs(c.base - c.tuned) = 0 AND difference = 0 AND low = 0 AND high = 0) FROM avcurate.compare_evaluations($fine, $fine, 50) c"),
	'15|t', 'an evaluation does not differ from itself');
is(query("SELECT abs(c.base - b.ap) < 1e-9 AND abs(c.tuned - t.ap) < 1e-9 FROM avcurate.compare_evaluations($coarse, $fine, 0) c, avcurate.evaluations b, avcurate.evaluations t
	WHERE c.metric = 'ap' AND b.evaluation = $coarse AND t.evaluation = $fine"), 't', 'its figures are those stored');
is(query("SELECT count(*), bool_and(abs(c.base - b.ap50) < 1e-9 AND abs(c.tuned - t.ap50) < 1e-9) FROM avcurate.compare_evaluations($coarse, $fine, 0) c
	JOIN avcurate.evaluation_classes b ON b.evaluation = $coarse AND c.metric = 'ap50 ' || b.category
	JOIN avcurate.evaluation_classes t ON t.evaluation = $fine AND t.category = b.category"), '4|t', 'by class, too');
is(query("SELECT low > 0, difference BETWEEN low AND high, high < 1 FROM avcurate.compare_evaluations($coarse, $fine, 400) WHERE metric = 'ap'"), 't|t|t', 'a clear gain is beyond luck');
is(query("SELECT low IS NULL AND high IS NULL FROM avcurate.compare_evaluations($coarse, $fine, 0) WHERE metric = 'ap50'"), 't', 'no resamples, no interval');
is(query("SELECT (SELECT array_agg(low) FROM avcurate.compare_evaluations($coarse, $fine, 40, 3)) = (SELECT array_agg(low) FROM avcurate.compare_evaluations($coarse, $fine, 40, 3)),
	(SELECT array_agg(low) FROM avcurate.compare_evaluations($coarse, $fine, 40, 3)) = (SELECT array_agg(low) FROM avcurate.compare_evaluations($coarse, $fine, 40, 4))"), 't|f', 'the seed decides the draws');
($rc, $out, $err) = $node->psql('postgres', "SELECT * FROM avcurate.compare_evaluations($known, $fine)");
like($err, qr/are not of the same frames/, 'evaluations of different slices are not compared');
($rc, $out, $err) = $node->psql('postgres', "SELECT * FROM avcurate.compare_evaluations($known, 9999)");
like($err, qr/evaluation 9999 does not exist/, 'nor with one that does not exist');
($rc, $out, $err) = $node->psql('postgres', "SELECT * FROM avcurate.compare_evaluations($fine, $fine, -1)");
like($err, qr/"resamples" is -1/, 'nor resampled a negative number of times');

# ---- cancel
answer('slow');
my $slow = query(q{SELECT avcurate.evaluate(1, 'many_val')});
$node->poll_query_until('postgres', "SELECT progress > 0 FROM avcurate.jobs WHERE job = $slow");
query("SELECT avcurate.cancel_job($slow)");
ok($node->poll_query_until('postgres', "SELECT state = 'cancelled' FROM avcurate.jobs WHERE job = $slow"), 'a running evaluation can be cancelled');
is(query("SELECT count(*) FROM avcurate.matches WHERE evaluation = $slow"), '0', 'what it had written is not seen');

answer();
evaluate(q{1, 'many_val', '{"max_frames": 1}'});
is(query("SELECT count(*) FROM _avcurate.matches WHERE evaluation = $slow"), '0', 'and the next evaluation removes it');

# ---- nothing to evaluate, and a view that goes
query(q{
SELECT avcurate.create_slice('unlabelled', 'frames', 'ann_categories IS NULL');
UPDATE frames SET ann_categories = NULL, ann_bboxes = NULL WHERE image_id = 'not labelled';
SELECT avcurate.refresh_slice('unlabelled')});
my ($none, $none_state) = evaluate(q{1, 'unlabelled'});
is(query("SELECT frames, ap IS NULL, (SELECT count(*) FROM avcurate.matches WHERE evaluation = $none) FROM avcurate.evaluations WHERE evaluation = $none"), '0|t|0', 'frames without labels give no figures');
query(q{
BEGIN;
SELECT avcurate.evaluate(1, 'many_val', '{"max_frames": 20}');
DROP MATERIALIZED VIEW many_val;
COMMIT});
my $dropped = query('SELECT max(job) FROM avcurate.jobs');
is(query("SELECT avcurate.wait_job($dropped)"), 'succeeded', 'a view dropped after the call does not matter');
is(query("SELECT slice IS NULL, frames FROM avcurate.evaluations WHERE evaluation = $dropped"), 't|20', 'its version is read to the end');
ok(query("SELECT difference > 0 FROM avcurate.compare_evaluations($coarse, $fine, 10) WHERE metric = 'ap50'"), 'and older evaluations stay');

# ---- who sees what
query(q{CREATE ROLE ann; CREATE ROLE bob; GRANT SELECT ON val, frames TO ann});
($rc, $out, $err) = $node->psql('postgres', "SET ROLE ann; SELECT avcurate.evaluate(1, 'val')");
isnt($rc, 0, 'another role\'s model is not to be used');
is(query("SET ROLE bob; SELECT count(*) FROM avcurate.evaluations; SELECT count(*) FROM avcurate.matches; SELECT count(*) FROM avcurate.evaluation_classes"), "0\n0\n0", 'another role sees no results');
($rc, $out, $err) = $node->psql('postgres', "SET ROLE bob; SELECT * FROM avcurate.compare_evaluations($coarse, $fine)");
like($err, qr/evaluation $coarse does not exist/, 'nor compares them');
($rc, $out, $err) = $node->psql('postgres', "SET ROLE bob; SELECT avcurate.overlay(1, array[$known])");
like($err, qr/evaluation $known does not exist/, 'nor looks at them');

# ---- the real engine, and pictures
$node->append_conf('postgresql.conf', "avcurate.engine_path = ''\n");
$node->reload;
query(q{
SELECT avcurate.create_dataset('scenes');
CALL avcurate.ingest_synthetic('scenes', 12, 5);
SELECT avcurate.create_slice('scenes_val', 'scenes', 'true');
});
my ($real, $real_state, $real_error) = evaluate(q{1, 'scenes_val', '{"max_frames": 10, "threads": 1}'});
is($real_state, 'succeeded', 'the real engine evaluates a fresh model') or diag $real_error;
is(query("SELECT frames FROM avcurate.evaluations WHERE evaluation = $real"), '10', 'on ten frames');
is(query("SELECT count(*) FROM scenes_boxes b JOIN (SELECT frame_id FROM scenes ORDER BY 1 LIMIT 10) f USING (frame_id)
	WHERE NOT EXISTS (SELECT FROM avcurate.matches m WHERE m.evaluation = $real AND m.frame_id = b.frame_id AND m.truth_no = b.box_no)"), '0', 'every truth is matched or missed');
my $frame = query("SELECT min(frame_id) FROM avcurate.matches WHERE evaluation = $real");
is(query("SELECT avcurate.jpeg_width(o), avcurate.jpeg_height(o) > 540 FROM (SELECT avcurate.overlay($frame, array[$real], 0.05) AS o) x"),
	'960|t', 'an overlay is a JPEG of the frame, enlarged, with a legend below');
is(query("SELECT avcurate.overlay($frame, array[$real], 0.05) <> avcurate.overlay($frame, array[$real], 0.99),
	avcurate.overlay($frame, array[$real, $real], 0.05) <> avcurate.overlay($frame, array[$real], 0.05)"), 't|t', 'detections show above min_score, evaluations one by one');
is(query("SELECT avcurate.jpeg_width(avcurate.contact_sheet($real, 'missed', 5)), avcurate.jpeg_width(avcurate.contact_sheet($real, 'false_positive', 2))"), '976|652', 'contact sheets are laid out');
foreach my $case (
	[ "overlay(999999, array[$real])", qr/frame 999999 is not in the version/ ],
	[ "overlay($frame, array[]::bigint[])", qr/takes 1 to 4 evaluations, not 0/ ],
	[ "overlay($frame, array[$real, NULL])", qr/must not contain nulls/ ],
	[ "contact_sheet($real, 'wrong')", qr/unknown kind of match "wrong"/ ],
	[ "contact_sheet($real, 'missed', 0)", qr/"frames" is 0/ ],
	[ "contact_sheet($real, 'ignored')", qr/has no matches of kind "ignored"/ ])
{
	($rc, $out, $err) = $node->psql('postgres', "SELECT avcurate.$case->[0]");
	like($err, $case->[1], "refused: $case->[0]");
}
$node->stop;
done_testing();
