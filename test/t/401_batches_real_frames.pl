# Batches of real frames: what the label files say is what a loader gets.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $folder = ($ENV{AVC_SHARED} // '') . '/bdd100k';
plan skip_all => 'no folder of real frames (AVC_SHARED)' unless -r "$folder/bdd100k_labels_images_val.json";

my $node = PostgreSQL::Test::Cluster->new('real_batches');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\nmax_wal_size = 2GB\n");
$node->start;
sub query { return $node->safe_psql('postgres', $_[0]) }

query(qq{
CREATE EXTENSION avcurate;
SELECT avcurate.create_dataset('bdd');
CALL avcurate.ingest_bdd100k('bdd', '$folder/images/val', '$folder/bdd100k_labels_images_val.json', 'val');
SELECT avcurate.create_slice('val', 'bdd', 'true');
});
my $frames = query('SELECT count(*) FROM bdd');
is(query("SELECT count(*) FROM avcurate.batches('val', 8)"), $frames, "all $frames frames come");
is(query("SELECT count(*) FROM avcurate.batches('val', 8) b JOIN bdd f USING (frame_id) WHERE sha256(b.image_bytes) = f.image_sha256"), $frames, 'with the bytes of their files');
foreach my $map ('coco', 'bdd100k')
{
	is(query(qq{SELECT label, count(*) FROM avcurate.batches('val', 8, label_map => '$map') b, unnest(b.labels) label GROUP BY 1 ORDER BY 1}),
		query(qq{SELECT m.label, count(*) FROM bdd_boxes b JOIN avcurate.label_maps m ON m.label_map = '$map' AND m.category = b.category
			WHERE NOT coalesce(b.ignored, false) AND x1 < x2 AND y1 < y2 GROUP BY 1 ORDER BY 1}), "boxes by class of map $map");
}
# Against the file itself, not what ingest made of it.
is(query(q{SELECT sum(cardinality(labels)) FROM avcurate.batches('val', 8, label_map => 'bdd100k')}),
	query(qq{SELECT count(*) FROM jsonb_array_elements(pg_read_file('$folder/bdd100k_labels_images_val.json')::jsonb) f, jsonb_array_elements(f->'labels') l
		WHERE l ? 'box2d' AND f->>'name' IN (SELECT pg_ls_dir('$folder/images/val'))
			AND (l->'box2d'->>'x1')::real < (l->'box2d'->>'x2')::real AND (l->'box2d'->>'y1')::real < (l->'box2d'->>'y2')::real}),
	'as many boxes as the label file has, bike and motor among them');
is(query(q{SELECT count(*) FROM avcurate.batches('val', 8) WHERE cardinality(boxes) <> 4 * cardinality(labels)}), '0', 'four numbers a box');
is(query(q{SELECT count(*) FROM avcurate.batches('val', 8) WHERE width <> avcurate.jpeg_width(image_bytes) OR height <> avcurate.jpeg_height(image_bytes)}), '0', 'sizes are those of the JPEGs');
$node->stop;
done_testing();
