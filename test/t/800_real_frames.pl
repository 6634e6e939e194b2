# The loop on real frames: a small detector learns sixteen of them by heart.
# That is what minutes of training from scratch show on 720p frames: labels,
# sizes, classes and evaluation agree with each other all the way.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $folder = ($ENV{AVC_SHARED} // '') . '/bdd100k';
plan skip_all => 'no folder of real frames (AVC_SHARED)' unless -r "$folder/bdd100k_labels_images_train.json";

# The short form stops on the way down, the long one at the end.
my ($steps, $loss_share, $ap50) = $ENV{AVC_LONG} ? (400, 0.15, 0.5) : (100, 0.4, 0.05);

my $node = PostgreSQL::Test::Cluster->new('real_frames');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\nmax_wal_size = 2GB\n");
$node->start;
sub query { return $node->safe_psql('postgres', $_[0]) }

query(qq{
CREATE EXTENSION avcurate;
SELECT avcurate.create_dataset('bdd');
CALL avcurate.ingest_bdd100k('bdd', '$folder/images/train', '$folder/bdd100k_labels_images_train.json', 'train');
CALL avcurate.ingest_bdd100k('bdd', '$folder/images/val', '$folder/bdd100k_labels_images_val.json', 'val');
SELECT avcurate.add_feature('bdd', 'has_person', \$\$avcurate.has_category(ann_categories, 'person')\$\$);
SELECT avcurate.add_feature('bdd', 'person_area_pct', \$\$avcurate.largest_box_area_pct(ann_categories, ann_bboxes, width, height, 'person')\$\$);
});
$node->safe_psql('postgres', q{CALL avcurate.backfill('bdd')});
query(q{SELECT avcurate.create_slice('distant_person', 'bdd', 'has_person AND person_area_pct < 0.5');
SELECT avcurate.create_model('detector', 'small')});

my $job = query(qq{SELECT avcurate.train('distant_person', 'detector',
	'{"max_steps": $steps, "max_frames": 16, "seed": 1, "hflip": 0}')});
is(query("SELECT avcurate.wait_job($job)"), 'succeeded', "$steps steps on sixteen frames");
my $share = query(qq{SELECT (SELECT avg(loss) FROM avcurate.job_progress WHERE job = $job AND step > $steps - 10)
	/ (SELECT loss FROM avcurate.job_progress WHERE job = $job AND step = 1)});
cmp_ok($share, '<', $loss_share, "the loss falls to less than $loss_share of the first");
my $checkpoint = query("SELECT max(checkpoint) FROM avcurate.checkpoints WHERE job = $job");
my $evaluation = query(qq{SELECT avcurate.evaluate($checkpoint, 'distant_person', '{"max_frames": 16}')});
is(query("SELECT avcurate.wait_job($evaluation)"), 'succeeded', 'evaluated on the frames it was trained on');
cmp_ok(query("SELECT ap50 FROM avcurate.evaluations WHERE evaluation = $evaluation"), '>', $ap50, "AP50 above $ap50");
is(query(qq{SELECT bool_and(ok) FROM avcurate.verify_checkpoint($checkpoint)}), 't', 'the checkpoint verifies');

# New labels and a new version change nothing for it.
query(q{UPDATE bdd SET weather = 'foggy' WHERE frame_id IN (SELECT frame_id FROM distant_person LIMIT 5);
DELETE FROM bdd WHERE frame_id = (SELECT min(frame_id) FROM distant_person);
REFRESH MATERIALIZED VIEW distant_person});
is(query("SELECT version FROM avcurate.slices WHERE slice = 'distant_person'::regclass"), '2', 'a version later');
is(query(qq{SELECT bool_and(ok) FROM avcurate.verify_checkpoint($checkpoint)}), 't', 'what it was trained on is still there');
$node->stop;
done_testing();
