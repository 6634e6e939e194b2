# ingest_coco and export_coco: any order, bad files, memory, round trip, rights.
use strict;
use warnings;
use File::Path qw(make_path);
use File::Temp qw(tempdir);
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use IngestTest;
use ServerTest;

my $node = PostgreSQL::Test::Cluster->new('coco');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\nautovacuum = off\nshared_buffers = 16MB\ntemp_buffers = 1MB");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION avcurate');
my $top = tempdir(CLEANUP => 1);

sub query { return $node->safe_psql('postgres', shift); }

sub ingest
{
	my ($arguments, %options) = @_;
	my $stderr;
	$node->psql($options{database} // 'postgres', "CALL avcurate.ingest_coco($arguments)", stderr => \$stderr, extra_params => $options{extra} // []);
	$stderr =~ s/psql:<stdin>:1: //g;
	return $stderr;
}

# ---- any order of lists, keys and annotations ------------------------------
my $folder = "$top/val2017";
make_path($folder);
write_file("$folder/i$_.jpg", picture(100, 50, $_)) for 1 .. 5;
my %list = (
	images => '"images": [{"id": 42, "file_name": "i1.jpg", "width": 100, "height": 50}, {"file_name": "val2017/i2.jpg", "id": 7}, {"id": 9, "file_name": "i3"}, {"id": -1, "file_name": "gone.jpg"}]',
	annotations => '"annotations": ['
	  . join(",\n",
		'{"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 20, 30.5, 10], "area": 250.25, "iscrowd": 0, "segmentation": [[1, 2, 3, 4, 5, 6], [1.5, 2, [3]]]}',
		'{"segmentation": {"counts": [1, 2, 3], "size": [50, 100]}, "iscrowd": 1, "bbox": [0, 0, 50, 50], "area": 2500, "category_id": 1, "image_id": 42, "id": 2}',
		'{"id": 3, "image_id": 7, "category_id": 90, "bbox": [1, 1, 2, 2], "ignore": 1, "score": 0.5, "extra": {"bbox": [9, 9, 9, 9], "id": 5}}',
		'{"id": 4, "image_id": 7, "category_id": 3, "bbox": [1, 1, 0, 2], "area": 0}',
		'{"id": 5, "image_id": 42, "category_id": 1, "area": 3, "segmentation": "x", "iscrowd": false}',
		'{"id": 6, "image_id": 42, "category_id": 5, "bbox": [-20, 40, 40, 400], "area": 16000}',
		'{"id": 7, "image_id": -1, "category_id": 5, "bbox": [1, 1, 4, 4]}')
	  . ']',
	categories => '"categories": [{"id": 1, "name": "pedestrian", "supercategory": "human"}, {"id": 3, "name": "Motor"}, {"id": 90, "name": "zebra"}, {"id": 5, "name": "trailer"}]',
	info => '"info": {"images": [1], "annotations": {"x": []}, "categories": null}, "licenses": [{"id": 1, "name": "x"}]');
my $expected = join "\n",
  'i1|val|{person,truck}|{{0,0,50,50},{0,40,20,50}}|{t,t}|{NULL,16000}',
  'i2|val|{motorcycle,zebra}|{{10,20,40.5,30},{1,1,3,3}}|{f,t}|{250.25,NULL}',
  'i3|val|{}|{}||', 'i4|val||||', 'i5|val||||';
foreach my $order ([qw(images annotations categories info)], [qw(info annotations categories images)], [qw(categories info images annotations)])
{
	my $what = join ', ', @$order;
	write_file("$top/coco.json", '{' . join(', ', @list{@$order}) . '}');
	query("SELECT avcurate.create_dataset('c')");
	my $said = ingest("'c', '$folder', '$top/coco.json'");
	like($said, qr/ingested 5 of 5 frames: 5 new, 0 updated, 0 unchanged; 2 without labels, 0 errors/, "$what: summary");
	like($said, qr/1 boxes without an area and 0 outside the frame were dropped, 1 were clipped; 1 labels have no box, 1 entries no image here/, "$what: what was dropped and why");
	is(query("SELECT image_id, split, ann_categories, ann_bboxes, ann_ignored, ann_area FROM c ORDER BY 1"), $expected, "$what: rows");
	my $before = query('SELECT array_agg((frame_id, xmin, xmax, ctid)::text ORDER BY frame_id) FROM c');
	query(q{UPDATE c SET weather = 'clear' WHERE image_id = 'i1'}) if $order->[0] eq 'categories';
	like(ingest("'c', '$folder', '$top/coco.json'"), qr/0 new, 0 updated, 5 unchanged/, "$what: the same again changes nothing");
	if ($order->[0] eq 'categories')
	{
		is(query(q{SELECT weather FROM c WHERE image_id = 'i1'}), 'clear', 'what COCO does not know is kept');
		last;
	}
	is(query('SELECT array_agg((frame_id, xmin, xmax, ctid)::text ORDER BY frame_id) FROM c'), $before, "$what: and touches no row");
	query("SELECT avcurate.drop_dataset('c')");
}
write_file("$top/info.json", '{"images": [{"id": 1, "file_name": "i1.jpg"}], "categories": []}');
like(ingest("'c', '$folder', '$top/info.json'"), qr/0 new, 0 updated, 5 unchanged; 5 without labels/, 'a file without annotations says nothing of them');

# ---- what can be wrong -----------------------------------------------------
write_file("$top/bad.json", '{"categories": [{"id": 1, "name": "car"}, {"name": "x"}, {"id": 2}, 7, {"id": 1, "name": "bus"}], "annotations": ['
	  . join(', ',
		'{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3]}', '{"image_id": 2, "category_id": 8, "bbox": [1, 2, 3, 4]}',
		'{"image_id": 3, "bbox": [1, 2, 3, 4]}', '{"image_id": 4, "category_id": 1, "bbox": [1, "2", 3, 4]}', '{"category_id": 1, "bbox": [1, 2, 3, 4]}',
		'{"image_id": 77, "category_id": 1, "bbox": [1, 2, 3, 4]}', '{"image_id": "5", "category_id": 1}', '[]', 'null',
		'{"image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 1e300}')
	  . '], "images": [' . join(', ', map({ qq({"id": $_, "file_name": "i$_.jpg"}) } 1 .. 5),
		'{"id": 9, "file_name": "i5.jpg"}', '{"id": 5, "file_name": "other.jpg"}', '{"id": 1.5, "file_name": "i1.jpg"}', '{"id": 10}', '{"file_name": "a\u0000b", "id": 3}',
		'{"file_name": "' . ('n' x 2000) . '", "id": 3}', '{"file_name": "../../etc/passwd", "id": 33}') . ']}');
query("SELECT avcurate.create_dataset('bad')");
like(ingest("'bad', '$folder', '$top/bad.json'"), qr/ingested 1 of 5 frames: 1 new.*1 entries no image here/s, 'bad: the good one is taken');
is(query('SELECT image_id, ann_categories, ann_bboxes, ann_area FROM bad'), 'i5|{car}|{{1,2,4,6}}|', 'bad: row');
is(query("SELECT replace(source, '$top/', ''), sqlstate, message FROM avcurate.ingest_errors WHERE dataset = 'bad'::regclass ORDER BY source COLLATE \"C\""),
	join("\n",
		'bad.json#i1.jpg|22P02|bbox does not have four numbers',
		'bad.json#i2.jpg|22P02|an annotation has category_id 8, which the file does not name',
		'bad.json#i3.jpg|22P02|an annotation has no category_id',
		'bad.json#i4.jpg|22P02|bbox holds something else than numbers',
		'bad.json#i5.jpg|23505|file has another image of this name',
		'bad.json#other.jpg|23505|file has another image of this id',
		'bad.json, annotation 5|22P02|annotation has no image_id',
		'bad.json, annotation 7|22P02|an id is not an integer of 64 bits',
		'bad.json, annotation 8|22P02|is a list and not an object',
		'bad.json, annotation 9|22P02|is not an object',
		'bad.json, annotations|22P02|1 annotations are of images that the file does not name',
		'bad.json, category 2|22P02|category has no id',
		'bad.json, category 3|22P02|category has no name',
		'bad.json, category 4|22P02|is not an object',
		'bad.json, image 10|22P02|contains a zero character',
		'bad.json, image 11|22P02|is longer than 1024 bytes',
		'bad.json, image 8|22P02|an id is not an integer of 64 bits',
		'bad.json, image 9|22P02|image has no file_name'),
	'bad: one row each');
foreach my $fault (
	[ 'cut off', '{"images": [{"id": 1, "file_name": "i1.jpg"}], "annotations": [', 'malformed JSON at byte \d+: parse error: premature EOF' ],
	[ 'a list', '[{"image_id": 1}]', 'is a list and no COCO instances document' ],
	[ 'a number', '17', 'is no COCO instances document' ],
	[ 'wrong type', '{"images": {"id": 1}}', '"images" is not a list' ],
	[ 'not UTF-8', "{\"images\": [{\"id\": 1, \"file_name\": \"i1\xff.jpg\"}]}", 'malformed JSON at byte \d+: lexical error: invalid bytes in UTF8 string' ],
	[ 'nested', '{"x": ' . ('[' x 100) . (']' x 100) . '}', 'JSON is nested deeper than 64 levels' ],
	[ 'empty', '', 'ERROR:  annotations file ".*" is empty' ])
{
	my ($what, $text, $message) = @$fault;
	write_file("$top/bad.json", $text);
	my $said = ingest("'bad', '$folder', '$top/bad.json'");
	if ($message =~ /^ERROR/) { like($said, qr/$message/, "$what: refused"); next; }
	like($said, qr/WARNING:  annotations file .* could not be read to its end.*ingested 0 of 5 frames/s, "$what: nothing is taken");
	like(query("SELECT source || ' ' || message FROM avcurate.ingest_errors WHERE dataset = 'bad'::regclass"), qr/^\Q$top\E\/bad.json $message/, "$what: one error row");
}
like(ingest("'bad', '$folder', '$top'"), qr/ERROR:  annotations file ".*" is a folder/, 'a folder is refused');
query(q{CREATE ROLE engineer LOGIN; SELECT avcurate.create_dataset('other')});
like(ingest("'other', '$folder', '$top/coco.json'", extra => [ '-U', 'engineer' ]), qr/permission denied for procedure/, 'not for everybody');

# ---- round trip ------------------------------------------------------------
query(q{SELECT avcurate.create_slice('s', 'c', 'true')});
my $document = query(q{SELECT avcurate.export_coco('s')});
write_file("$top/out.json", $document);
query("SELECT avcurate.create_dataset('copy')");
like(ingest("'copy', '$folder', '$top/out.json'"), qr/5 new, 0 updated, 0 unchanged; 2 without labels, 0 errors/, 'an exported version goes in');
is(query("SELECT image_id, split, ann_categories, ann_bboxes, ann_ignored, ann_area FROM copy ORDER BY 1"), $expected, 'with the same boxes, areas and crowds');
like(ingest("'c', '$folder', '$top/out.json'"), qr/0 new, 0 updated, 5 unchanged/, 'and changes nothing where it came from');
my $coco = JSON::PP->new->decode($document);
is_deeply([ sort keys %$coco ], [qw(annotations categories images info)], 'lists of COCO');
is_deeply($coco->{images}[1], { id => 2, file_name => 'i2.jpg', width => 100, height => 50 }, 'an image') or diag(explain($coco->{images}));
is_deeply([ @{ $coco->{annotations} }[ 0, 2 ] ],
	[ { id => 1, image_id => 1, category_id => 1, bbox => [ 0, 0, 50, 50 ], area => 2500, iscrowd => 1, ignore => 1 },
		{ id => 3, image_id => 2, category_id => 7, bbox => [ 10, 20, 30.5, 10 ], area => 250.25, iscrowd => 0 } ], 'annotations') or diag(explain($coco->{annotations}));
is(join(',', map { "$_->{id} $_->{name}" } @{ $coco->{categories} }), '1 person,2 rider,3 car,4 truck,5 bus,6 train,7 motorcycle,8 bicycle,9 traffic light,10 traffic sign,11 zebra', 'categories');
is($coco->{info}{unlabelled_frames}, 2, 'frames without labels are counted and left out');

# an older version, and one that is not there
query(q{UPDATE c SET ann_categories = '{car}', ann_bboxes = '{{1,1,2,2}}', ann_ignored = NULL, ann_area = NULL WHERE image_id = 'i2'; SELECT avcurate.refresh_slice('s')});
is(query(q{SELECT avcurate.export_coco('s', 1) = '} . ($document =~ s/'/''/gr) . q{'::jsonb, jsonb_array_length(avcurate.export_coco('s') -> 'annotations')}), 't|3', 'a version is what it was');
foreach my $wrong ([ "'s', 9", 'has no version 9' ], [ "'s', 0", 'version must be at least 1' ], [ "'c'", 'c is not a (tracked )?slice|is not a slice' ])
{
	my $stderr;
	$node->psql('postgres', "SELECT avcurate.export_coco($wrong->[0])", stderr => \$stderr);
	like($stderr, qr/ERROR:.*$wrong->[1]/, "refused: $wrong->[0]");
}

# more than a jsonb can hold: one error, and what the first frames took is free
query(q{CREATE MATERIALIZED VIEW wide AS SELECT f.frame_id + 1000 * n AS frame_id, repeat('x', 9000000) AS image_id, image_sha256, width, height, ann_categories, ann_bboxes, ann_occluded, ann_truncated, ann_ignored, ann_area
	FROM c f, generate_series(1, 15) n WHERE image_id IN ('i1', 'i2'); CREATE UNIQUE INDEX ON wide (frame_id); SELECT avcurate.track_slice('wide')});
{
	my $stderr;
	$node->psql('postgres', q{SELECT length(avcurate.export_coco('wide')::text)}, stderr => \$stderr);
	like($stderr, qr/ERROR:  version 1 of slice .*wide does not fit into one jsonb value\nDETAIL:  A jsonb value holds 256 MB; the first 29 labelled frames fill it\.\nHINT:  Export slices of fewer frames\./,
		'a version that is too large is refused');
	query(q{DROP MATERIALIZED VIEW wide});
}

# rights as for the slice; the dataset's are not needed
my $stderr;
$node->psql('postgres', "SELECT avcurate.export_coco('s')", stderr => \$stderr, extra_params => [ '-U', 'engineer' ]);
like($stderr, qr/permission denied for materialized view .*s/, 'who may not read the slice may not export it');
query('GRANT SELECT ON s TO engineer');
is($node->safe_psql('postgres', "SELECT jsonb_array_length(avcurate.export_coco('s', 1) -> 'images')", extra_params => [ '-U', 'engineer' ]), 3, 'who may, may');

# ---- evaluation takes what is written --------------------------------------
is(query(q{WITH d AS (SELECT avcurate.export_coco('s', 1) AS j)
	SELECT round(value::numeric, 6) FROM d, avcurate.coco_metrics(j, (SELECT jsonb_agg(a || '{"score": 0.9}') FROM jsonb_array_elements(j -> 'annotations') a WHERE a ->> 'iscrowd' = '0'))
	WHERE metric = 'AP' AND category IS NULL}), '1.000000', 'the truth as results has an average precision of 1');

# ---- real frames: the same arrays, bit for bit -----------------------------
my $shared = $ENV{AVC_SHARED} ? "$ENV{AVC_SHARED}/bdd100k" : '';
SKIP:
{
	skip 'no real frames: set AVC_SHARED', 3 unless -d "$shared/images/val";
	query(q{SELECT avcurate.create_dataset('real'); SELECT avcurate.create_dataset('again')});
	query("CALL avcurate.ingest_bdd100k('real', '$shared/images/val', '$shared/bdd100k_labels_images_val.json')");
	query(q{UPDATE real SET ann_ignored = (SELECT array_agg(i % 7 = 0) FROM generate_series(1, cardinality(ann_categories)) i),
		ann_area = (SELECT array_agg(CASE WHEN i % 3 = 0 THEN i + 0.1 END) FROM generate_series(1, cardinality(ann_categories)) i) WHERE cardinality(ann_categories) > 7});
	write_file("$top/real.json", query(q{SELECT avcurate.create_slice('real_slice', 'real', 'true')}) && query(q{SELECT avcurate.export_coco('real_slice')}));
	like(ingest("'again', '$shared/images/val', '$top/real.json'"), qr/375 new, 0 updated, 0 unchanged; 0 without labels, 0 errors.*0 boxes without an area and 0 outside/s, 'real frames go out and in');
	is(query(q{SELECT count(*), count(*) FILTER (WHERE (a.ann_categories, a.ann_bboxes, a.ann_ignored, a.ann_area) IS NOT DISTINCT FROM (b.ann_categories, b.ann_bboxes, b.ann_ignored, b.ann_area))
		FROM real a JOIN again b USING (image_id)}), '375|375', 'categories, boxes, flags and areas are the same');
	is(query(q{SELECT avcurate.export_coco('real_slice') = avcurate.export_coco('real_slice')::text::jsonb}), 't', 'the document is well-formed jsonb');
}

# ---- memory: neither grows with the file -----------------------------------
my $count = $ENV{AVC_LONG} ? 200_000 : 20_000;
foreach my $order ('images first', 'annotations first')
{
	open my $out, '>', "$top/large.json" or die;
	my $images = sub { print $out '"images": [', join(",\n", map { qq({"id": $_, "file_name": "i$_.jpg"}) } 1 .. $count), ']'; };
	print $out '{"categories": [{"id": 1, "name": "car"}], ';
	$images->(), print $out ', ' if $order eq 'images first';
	print $out '"annotations": [';
	# ten passes over the images, so that none has its boxes together
	foreach my $pass (1 .. 10)
	{
		print $out ",\n" if $pass > 1;
		print $out join ",\n", map { qq({"id": 1, "image_id": $_, "category_id": 1, "iscrowd": 0, "bbox": [$pass, 1, 3.25, 4.5], "area": 7.5, "segmentation": [[1.25, 2.5, 3.75, 4.5, 5.25, 6.5, 7.75]]}) } 1 .. $count;
	}
	print $out ']';
	print $out ', ' and $images->() if $order eq 'annotations first';
	print $out '}';
	close $out;
	query(q{DROP TABLE IF EXISTS large CASCADE; SELECT avcurate.create_dataset('large')});
	my ($growth) = resident_growth($node, "CALL avcurate.ingest_coco('large', '$folder', '$top/large.json')");
	note(sprintf('%s: %d MB of annotations, %d kB', $order, (-s "$top/large.json") / 1e6, $growth));
	is(query(q{SELECT count(*) FROM large WHERE cardinality(ann_categories) = 10 AND ann_area[10] = 7.5 AND ann_bboxes[10:10] = '{{10,1,13.25,5.5}}'}), 5, "$order: the images that are there have their boxes");
	cmp_ok($growth, '<', 48 * 1024, "$order: the backend grows by less than 48 MB");
}

$node->stop;
done_testing();
