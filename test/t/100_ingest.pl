# ingest_bdd100k: layouts, bad files, idempotence, restart, memory, dump.
use strict;
use warnings;
use utf8;
use Encode qw(encode_utf8);
use File::Path qw(make_path);
use File::Temp qw(tempdir);
use POSIX qw(mkfifo);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use FindBin;
use lib $FindBin::Bin;
use IngestTest;

my $long = $ENV{AVC_LONG};
my $node = PostgreSQL::Test::Cluster->new('ingest');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\nautovacuum = off\nclient_min_messages = notice");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION avcurate');
my $top = tempdir(CLEANUP => 1);

sub ingest
{
	my ($arguments, %options) = @_;
	my ($stdout, $stderr);
	my $rc = $node->psql($options{database} // 'postgres', "CALL avcurate.ingest_bdd100k($arguments)",
		stdout => \$stdout, stderr => \$stderr, extra_params => $options{extra} // []);
	$stderr =~ s/psql:<stdin>:1: //g;
	return wantarray ? ($rc, $stderr) : $stderr;
}

sub query { return $node->safe_psql('postgres', shift); }

# ---- layout B: one file for all -------------------------------------------
my $b = "$top/b";
make_path("$b/train");
write_file("$b/train/a$_.jpg", picture(100, 50, $_)) for 1 .. 6;
write_file("$b/labels.json", '['
	  . join(",\n",
		entry('a1.jpg', box('person', 1, 2, 30, 40), box('motor', 5, 5, 9.5, 9), '{"category": "lane", "poly2d": []}'),
		entry('a2.jpg'),
		'{"name": "a3.jpg", "labels": null}',
		'{"name": "a4", "attributes": {"weather": null}, "labels": [' . box('cloud', 0, 0, 1, 1) . ']}',
		entry('a5.jpg', box('car', 9, 9, 9, 20), box('car', 9, 9, 20, 8), box('bus', -30, 10, 90, 200), box('car', 200, 200, 300, 300), box('car', -0.5, 0, 100.9, 50)),
		entry('gone.jpg', box('car', 1, 1, 2, 2)))
	  . ']');
query("SELECT avcurate.create_dataset('b')");
my $said = ingest("'b', '$b/train', '$b/labels.json'");
like($said, qr/ingested 6 of 6 frames: 6 new, 0 updated, 0 unchanged; 1 without labels, 0 errors/, 'B: summary');
like($said, qr/2 boxes without an area and 1 outside the frame were dropped, 1 were clipped; 1 labels have no box, 1 entries no image here/,
	'B: what was dropped and why');
is(query("SELECT image_id, split, weather, scene, timeofday, ann_categories, ann_bboxes, ann_occluded, ann_truncated, ann_ignored FROM b ORDER BY 1"),
	join("\n",
		'a1|train|clear|highway|night|{person,motorcycle}|{{1,2,30,40},{5,5,9.5,9}}|{t,t}|{f,f}|',
		'a2|train|clear|highway|night|{}|{}|||',
		'a3|train||||{}|{}|||',
		'a4|train||||{cloud}|{{0,0,1,1}}|{t}|{f}|',
		'a5|train|clear|highway|night|{bus,car}|{{0,10,90,50},{-0.5,0,100.9,50}}|{t,t}|{f,f}|',
		'a6|train||||||||'),
	'B: rows');

my $before = query('SELECT array_agg((frame_id, xmin, xmax, ctid)::text ORDER BY frame_id) FROM b');
like(ingest("'b', '$b/train', '$b/labels.json'"), qr/0 new, 0 updated, 6 unchanged/, 'second run finds nothing new');
is(query('SELECT array_agg((frame_id, xmin, xmax, ctid)::text ORDER BY frame_id) FROM b'), $before, 'and touches no row');
like(ingest("'b', '$b/train'"), qr/0 new, 0 updated, 6 unchanged; 6 without labels/, 'a run without labels says nothing of them');

write_file("$b/train/a2.jpg", picture(100, 50, 'other'));
like(ingest("'b', '$b/train', '$b/labels.json', 'val', '2020-01-02 UTC'"), qr/0 new, 6 updated, 0 unchanged/, 'split and time are taken');
write_file("$b/train/a3.jpg", picture(100, 60, 'other'));
like(ingest("'b', '$b/train', '$b/labels.json', 'val'"), qr/0 new, 1 updated, 5 unchanged/, 'one image differs');
is(query("SELECT height, image_sha256 = sha256(image_bytes), frame_time FROM b WHERE image_id = 'a3'"), '60|t|2020-01-02 00:00:00+00',
	'it is replaced, with hash and size');

# ---- layouts A and C -------------------------------------------------------
my $a = "$top/a";
make_path("$a/images", "$a/labels");
write_file("$a/images/$_.jpg", picture(100, 50, $_)) for qw(n1 n2 n3);
write_file("$a/images/n4.JPEG", picture(100, 50, 'n4'));
write_file("$a/labels/n1.json", '{"name": "n1", "frames": [{"timestamp": 10000, "objects": ['
	  . box('bike', 1, 1, 5, 5) . ', {"category": "area/drivable", "id": 3, "poly2d": [[1, 2, "L"]]}]}], '
	  . '"attributes": {"weather": "rainy", "scene": "tunnel", "timeofday": "daytime"}}');
write_file("$a/labels/n2.json", '[' . entry('n2.jpg', box('van', 1, 1, 5, 5)) . ']');
write_file("$a/labels/n4.json", '{"name": "n4", "attributes": {}, "frames": []}');
write_file("$a/images/notes.txt", 'x');
query("SELECT avcurate.create_dataset('a')");
like(ingest("'a', '$a/images', '$a/labels'"), qr/4 of 4 frames: 4 new.*1 without labels, 0 errors.*1 other files/s, 'A: summary');
is(query('SELECT image_id, weather, ann_categories, ann_bboxes, split FROM a ORDER BY 1'),
	"n1|rainy|{bicycle}|{{1,1,5,5}}|\nn2|clear|{car}|{{1,1,5,5}}|\nn3||||\nn4||{}|{}|", 'A: rows');

my $c = "$top/c";
make_path("$c/val");
write_file("$c/val/c$_.jpg", picture(100, 50, $_)) for 1 .. 3;
my $crowd = '{"id": "0001", "category": "pedestrian", "attributes": {"Occluded": true, "crowd": true}, "box2d": {"x1": 1, "y1": 1, "x2": 5, "y2": 5}, "score": null, "rle": {"counts": "x", "size": [1, 2]}}';
my $frames = join(', ', '{"name": "c1.jpg", "labels": [' . $crowd . ', ' . box('other vehicle', 2, 2, 8, 8) . ', ' . box('bicycle', 3, 3, 9, 9) . ']}',
	'{"name": "c2.jpg", "videoName": null}');
for my $form ("[$frames]", "{\"config\": {\"frames\": [{\"name\": \"c3.jpg\"}]}, \"frames\": [$frames], \"groups\": null}")
{
	write_file("$c/det.json", $form);
	query("SELECT avcurate.create_dataset('c')");
	like(ingest("'c', '$c/val', '$c/det.json'"), qr/3 of 3 frames: 3 new.*1 without labels, 0 errors/, 'C: summary');
	is(query('SELECT image_id, ann_categories, ann_bboxes, ann_occluded, ann_truncated, ann_ignored FROM c ORDER BY 1'),
		"c1|{person,car,bicycle}|{{1,1,5,5},{2,2,8,8},{3,3,9,9}}|{t,t,t}|{NULL,f,f}|{t,t,f}\nc2|{}|{}|||\nc3|||||", 'C: rows');
	query("SELECT avcurate.drop_dataset('c')");
}

# ---- everything that can be wrong with a file ------------------------------
my $bad = "$top/bad";
make_path("$bad/images/sub.jpg", "$bad/labels");
write_file("$bad/images/good$_.jpg", picture(100, 50, $_)) for 1 .. 9;
write_file("$bad/images/empty.jpg", '');
write_file("$bad/images/text.jpg", 'no picture');
write_file("$bad/images/cut.jpg", substr(picture(100, 50, ''), 0, 9));
write_file("$bad/images/.hidden.jpg", 'x');
write_file("$bad/images/good1.JPEG", picture(100, 50, 'x'));
write_file("$bad/images/latin\xe9.jpg", picture(100, 50, 'x'));
symlink('good1.jpg', "$bad/images/link.jpg");
mkfifo("$bad/images/pipe.jpg", 0600);
open my $sparse, '>', "$bad/images/huge.jpg" or die;
truncate $sparse, 65 * 1024 * 1024;
close $sparse;
my @entries = (
	entry('good1.jpg', box('car', 1, 1, 5, 5)),
	entry('good1.jpg', box('bus', 1, 1, 5, 5)),
	'{"labels": []}',
	'{"name": "good2.jpg", "labels": {"a": 1}}',
	'{"name": "good3.jpg", "labels": [{"category": "car", "box2d": {"x1": 1, "y1": "two", "x2": 3, "y2": 4}}]}',
	'{"name": "good4.jpg", "labels": [{"category": "car", "box2d": {"x1": 1, "y1": 2, "x2": 3}}]}',
	'{"name": "good5.jpg", "attributes": {"weather": 3}}',
	'{"name": "good6.jpg", "attributes": {"weather": "a\u0000b"}}',
	'{"name": "good7.jpg", "labels": [{"category": "car", "box2d": {"x1": 1, "y1": 2, "x2": 1e999, "y2": 4}}]}',
	'{"name": "' . ('n' x 2000) . '.jpg"}',
	'{"name": "../../etc/passwd.jpg"}',
	encode_utf8('{"name": "good8.jpg", "attributes": {"scene": "Straße"}}'));
write_file("$bad/labels.json", '[' . join(",\n", @entries) . ']');
query("SELECT avcurate.create_dataset('bad')");
$said = ingest("'bad', '$bad/images', '$bad/labels.json'");
like($said, qr/ingested 4 of 13 frames: 4 new.*1 without labels/, 'bad: the good ones are taken');
like($said, qr/HINT:  See avcurate.ingest_errors/, 'bad: where to look');
is(query("SELECT image_id, scene, ann_categories FROM bad ORDER BY 1"), "good1|highway|{car}\ngood7||{}\n" . encode_utf8('good8|Straße|{}') . "\ngood9||",
	'bad: rows') or diag(query('TABLE avcurate.ingest_errors'));
is(query("SELECT replace(source, '$bad/', ''), sqlstate, message FROM avcurate.ingest_errors WHERE dataset = 'bad'::regclass AND length(source) < 1000 ORDER BY source COLLATE \"C\""),
	join("\n",
		'images/cut.jpg|22P03|no usable JPEG: JPEG ends before its frame header',
		'images/empty.jpg|58030|is empty',
		'images/good1.jpg|23505|would be the same frame as "good1.JPEG", for frames are called by their files\' names alone',
		'images/huge.jpg|58030|is larger than 64 MB',
		'images/latin?.jpg|22021|name is not valid in the encoding of the database',
		'images/link.jpg|42809|is a symbolic link, which is not followed',
		'images/pipe.jpg|42809|is not a regular file',
		'images/sub.jpg|42809|is a folder',
		'images/text.jpg|22P03|no usable JPEG: image is not a JPEG',
		'labels.json#good1.jpg|23505|file has another entry of this name',
		'labels.json#good2.jpg|22P02|name, attributes or labels of the entry have the wrong type',
		'labels.json#good3.jpg|22P02|a corner of a box2d is not a number',
		'labels.json#good4.jpg|22P02|box2d of label 1 lacks a corner',
		'labels.json#good5.jpg|22P02|an attribute of the entry is not a string',
		'labels.json#good6.jpg|22P02|attribute contains a zero character',
		'labels.json, entry 10|22P02|name is longer than 1024 bytes',
		'labels.json, entry 3|22P02|entry has no name'),
	'bad: one row a file');

# repaired, the errors go away
unlink "$bad/images/$_" for qw(link.jpg pipe.jpg huge.jpg empty.jpg cut.jpg text.jpg good1.JPEG), "latin\xe9.jpg";
rmdir "$bad/images/sub.jpg";
write_file("$bad/labels.json", '[' . entry('good1.jpg', box('car', 1, 1, 5, 5)) . ']');
like(ingest("'bad', '$bad/images', '$bad/labels.json'"), qr/5 new, 1 updated, 3 unchanged; 8 without labels, 0 errors/, 'repaired');
is(query("SELECT count(*) FROM avcurate.ingest_errors WHERE dataset = 'bad'::regclass"), 0, 'no errors are left');

# malformed files: what was read before the fault counts, the rest is left alone
for my $fault (
	['cut off', '[' . entry('good2.jpg', box('car', 1, 1, 5, 5)) . ', {"name": "good3', 'malformed JSON at byte \d+: parse error: premature EOF'],
	['no JSON', '[' . entry('good2.jpg', box('bus', 1, 1, 5, 5)) . ', {name: 3}]', 'malformed JSON at byte \d+: lexical error'],
	['not UTF-8', '[' . entry('good2.jpg', box('car', 1, 1, 5, 5)) . ", {\"name\": \"a\xff\"}]", 'malformed JSON at byte \d+: lexical error: invalid bytes in UTF8 string'],
	['nested', '[' . entry('good2.jpg', box('bus', 1, 1, 5, 5)) . ', ' . ('[' x 100) . (']' x 100) . ']', 'JSON is nested deeper than 64 levels'],
	['long token', '[' . entry('good2.jpg', box('car', 1, 1, 5, 5)) . ', "' . ('x' x 3_000_000) . '"]', 'JSON has a token of more than'],
	['empty list entry', '[' . entry('good2.jpg', box('bus', 1, 1, 5, 5)) . ',]', 'malformed JSON']
  )
{
	my ($name, $text, $message) = @$fault;
	write_file("$bad/labels.json", $text);
	my ($rc, $stderr) = ingest("'bad', '$bad/images', '$bad/labels.json'");
	is($rc, 0, "$name: the procedure goes through");
	like($stderr, qr/1 of 9 frames: 0 new, 1 updated.*WARNING:  label file .* could not be read to its end/s, "$name: the entry before it is taken");
	like(query("SELECT source || ' ' || message FROM avcurate.ingest_errors WHERE dataset = 'bad'::regclass"), qr/^\Q$bad\E\/labels.json $message/,
		"$name: one error row");
}
write_file("$bad/labels.json", ' ' x 10);
like(ingest("'bad', '$bad/images', '$bad/labels.json'"), qr/WARNING/, 'blank file: warned');
symlink("$bad/labels.json", "$bad/link.json");
like(ingest("'bad', '$bad/images', '$bad/link.json'"), qr/ERROR:  label file ".*link.json" is a symbolic link/, 'a linked label file is refused');

# per-image label files: the same, one row each
write_file("$a/labels/n2.json", '{"name": ');
unlink "$a/labels/n1.json";
symlink('n2.json', "$a/labels/n1.json");
write_file("$a/labels/n3.json", '[]');
write_file("$a/labels/n4.json", '[' . entry('n4') . ',' . entry('n5') . ']');
like(ingest("'a', '$a/images', '$a/labels'"), qr/0 of 4 frames: .* 4 errors/, 'A: faults');
is(query("SELECT replace(source, '$a/', ''), regexp_replace(message, ':.*', '') FROM avcurate.ingest_errors WHERE dataset = 'a'::regclass ORDER BY 1"),
	"labels/n1.json|is a symbolic link\nlabels/n2.json|malformed JSON at byte 9\nlabels/n3.json|has no entry\nlabels/n4.json|has more than one entry",
	'A: one row a file');

# a folder of videos and a label file for each: the same
my $v = "$top/v";
make_path("$v/images/v$_", "$v/labels") for 1 .. 6;
write_file("$v/images/v$_/v$_-1.jpg", picture(100, 50, "$_ 1")), write_file("$v/images/v$_/v$_-2.jpg", picture(100, 50, "$_ 2")) for 1 .. 6;
make_path("$v/images/v1/deeper", "$v/labels/v4.json");
symlink('v1', "$v/images/v7");
write_file("$v/labels/v1.json", '[' . join(',', entry('v1/v1-1.jpg', box('car', 1, 1, 5, 5)), entry('v1-2.jpg'), entry('v1-3.jpg')) . ']');
write_file("$v/labels/v2.json", '{"frames": [' . entry('v2-1.jpg', box('bus', 1, 1, 5, 5)) . ', {"name": "v2');
mkfifo("$v/labels/v3.json", 0600);
write_file("$v/labels/v5.json", '');
write_file("$v/labels/v99.json", 'of no image here');
query("SELECT avcurate.create_dataset('v')");
$said = ingest("'v', '$v/images', '$v/labels'");
like($said, qr/ingested 5 of 12 frames: 5 new.*; 2 without labels, 6 errors.*1 entries no image here.*WARNING:  4 label files of videos could not be read to their end/s, 'videos: summary');
is(query('SELECT image_id, ann_categories FROM v ORDER BY 1'), "v1-1|{car}\nv1-2|{}\nv2-1|{bus}\nv6-1|\nv6-2|", 'videos: what is known is taken, the rest is left alone');
is(query("SELECT replace(source, '$v/', ''), regexp_replace(message, ':.*', '') FROM avcurate.ingest_errors WHERE dataset = 'v'::regclass ORDER BY source COLLATE \"C\""),
	join("\n", 'images/v1/deeper|is a folder; only folders one level below are looked into', 'images/v7|is a symbolic link, which is not followed',
		map { "labels/$_" } 'v2.json|malformed JSON at byte ' . -s "$v/labels/v2.json", 'v3.json|is not a regular file', 'v4.json|is a folder', 'v5.json|is empty'), 'videos: one row each');

# a row that the dataset itself refuses
query(q{ALTER TABLE b ADD CONSTRAINT no_a4 CHECK (image_id <> 'a4' OR weather IS NULL);
	DELETE FROM b WHERE image_id IN ('a1', 'a4')});
write_file("$b/labels.json", '[' . join(',', entry('a1.jpg'), entry('a4.jpg')) . ']');
like(ingest("'b', '$b/train', '$b/labels.json', 'val'"), qr/5 of 6 frames: 1 new, 0 updated, 4 unchanged.* 1 errors/, 'a refused row does not hold up its batch');
is(query("SELECT sqlstate FROM avcurate.ingest_errors WHERE source = '$b/train/a4.jpg'"), '23514', 'and is recorded');

# ---- cancelled midway, then run again --------------------------------------
my $many = "$top/many";
my $images = $long ? 20_000 : 1500;
make_path("$many/images");
write_file(sprintf("$many/images/m%06d.jpg", $_), picture(100, 50, $_)) for 1 .. $images;
query(q{SELECT avcurate.create_dataset('many');
	CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_catalog.pg_sleep(0.004); RETURN new; END';
	CREATE TRIGGER slowly BEFORE INSERT ON many FOR EACH ROW EXECUTE FUNCTION slowly()});
my $psql = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $psql->query_safe('SELECT pg_backend_pid()');
$psql->query_until(qr/begun/, "\\echo begun\nCALL avcurate.ingest_bdd100k('many', '$many/images');\n");
$node->poll_query_until('postgres', "SELECT done > 100 AND state = 'running' AND total = $images FROM avcurate.ingest_progress WHERE dataset = 'many'::regclass")
  or die 'no progress';
query("SELECT pg_cancel_backend($pid)");
$node->poll_query_until('postgres', "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $pid") or die 'not cancelled';
my $partial = query('SELECT count(*) FROM many');
ok($partial >= 100 && $partial < $images, "cancelled with $partial of $images frames") or diag($partial);
is($partial % 64, 0, 'whole batches are committed');
is(query("SELECT done FROM avcurate.ingest_progress WHERE dataset = 'many'::regclass"), $partial, 'the view says so');
$psql->quit;
$node->poll_query_until('postgres', "SELECT state = 'interrupted' FROM avcurate.ingest_progress WHERE dataset = 'many'::regclass") or die 'state';
pass('a run whose backend is gone shows as interrupted');
query('DROP TRIGGER slowly ON many');
my $left = $images - $partial;
like(ingest("'many', '$many/images'"), qr/$images of $images frames: $left new, 0 updated, $partial unchanged/, 'the next run takes the rest');
is(query("SELECT state, done, total FROM avcurate.ingest_progress WHERE dataset = 'many'::regclass"), "finished|$images|$images", 'finished');

# ---- memory ----------------------------------------------------------------
# The backend's address space beyond what it had: shared memory is mapped from
# the start, so what grows is its own.
sub peak_growth
{
	my ($file) = @_;
	my $session = $node->background_psql('postgres');
	my $backend = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_safe("SELECT count(*) FROM many WHERE image_id = 'x'");
	my $peak = sub {
		open my $in, '<', "/proc/$backend/status" or die;
		my ($kb) = map { /^VmPeak:\s+(\d+)/ ? $1 : () } <$in>;
		return $kb;
	};
	my $start = $peak->();
	$session->query("CALL avcurate.ingest_bdd100k('many', '$many/images', '$file')");
	my $growth = $peak->() - $start;
	$session->quit;
	return $growth;
}

my $labels = join(', ', map { box('car', $_, 1, $_ + 3, 9) } 1 .. 20);
my @growth;
foreach my $entries (500, $long ? 200_000 : 4000)
{
	open my $out, '>', "$many/labels.json" or die;
	print $out '[', entry('m000001.jpg');
	print $out ",\n", entry(sprintf('m%06d.jpg', $_), $labels) for 2 .. $entries;
	print $out ']';
	close $out;
	push @growth, peak_growth("$many/labels.json");
	note(sprintf('%d entries, %d MB of labels: %d kB', $entries, (-s "$many/labels.json") / 1e6, $growth[-1]));
}
my $expected = $images;
is(query('SELECT count(*) FROM many WHERE cardinality(ann_categories) = 20'), $expected - 1, 'a large label file is taken');
cmp_ok($growth[0], '<', 32 * 1024, 'the backend grows by less than 32 MB');
cmp_ok($growth[1] - $growth[0], '<', 2 * 1024, 'and not with the label file') or diag("@growth");

# ---- an ordinary role, a dump ----------------------------------------------
query(q{CREATE ROLE engineer LOGIN; GRANT pg_read_server_files TO engineer; CREATE SCHEMA lab AUTHORIZATION engineer});
is($node->safe_psql('postgres', "SELECT avcurate.create_dataset('lab.own')", extra_params => [ '-U', 'engineer' ]), 'lab.own', 'an ordinary role makes a dataset');
like(ingest("'lab.own', '$c/val'", extra => [ '-U', 'engineer' ]), qr/3 of 3 frames: 3 new/, 'and ingests');
like(ingest("'a', '$c/val'", extra => [ '-U', 'engineer' ]), qr/permission denied for table a/, 'but not into the table of another');
query('REVOKE pg_read_server_files FROM engineer');
like(ingest("'lab.own', '$c/val'", extra => [ '-U', 'engineer' ]), qr/permission denied for procedure/, 'nor without the right to read files');

query(q{SELECT avcurate.add_feature('a', 'pixels', 'width * height'); CALL avcurate.backfill('a', max_rows => 2)});
my $dump = "$top/dump.sql";
$node->command_ok([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ], 'pg_dump');
query('CREATE DATABASE restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $dump ], 'restore');
for my $sql ('SELECT dataset, frames, labelled_frames, boxes, created_at FROM avcurate.datasets ORDER BY created_at', 'SELECT * FROM avcurate.features',
	'SELECT * FROM avcurate.feature_status', 'SELECT count(*) FROM avcurate.ingest_errors', 'SELECT * FROM lab.own_boxes',
	'SELECT md5(array_agg(a ORDER BY frame_id)::text) FROM a')
{
	is($node->safe_psql('restored', $sql), query($sql), "restored: $sql");
}
like(ingest("'lab.own', '$c/val'", database => 'restored'), qr/0 new, 0 updated, 3 unchanged/, 'ingest goes on after a restore');
$node->safe_psql('restored', q{CALL avcurate.backfill('a'); SELECT avcurate.drop_dataset('a', true)});
$node->safe_psql('restored', q{DROP TABLE lab.own CASCADE});
is($node->safe_psql('restored', 'SELECT dataset FROM avcurate.datasets ORDER BY created_at'), "b\nbad\nv\nmany", 'dropped datasets are forgotten there, too');
$node->safe_psql('restored', 'DROP EXTENSION avcurate CASCADE');

# ---- real frames -----------------------------------------------------------
my $shared = $ENV{AVC_SHARED} ? "$ENV{AVC_SHARED}/bdd100k" : '';
SKIP:
{
	skip 'no real frames: set AVC_SHARED', 8 unless -d "$shared/images/train";
	query("SELECT avcurate.create_dataset('bdd100k')");
	like(ingest("'bdd100k', '$shared/images/train', '$shared/bdd100k_labels_images_train.json'"),
		qr/ingested 216 of 216 frames: 216 new, 0 updated, 0 unchanged; 6 without labels, 0 errors.* 4 labels have no box, 0 entries/s, 'train');
	like(ingest("'bdd100k', '$shared/images/val', '$shared/bdd100k_labels_images_val.json'"),
		qr/ingested 375 of 375 frames: 375 new, 0 updated, 0 unchanged; 0 without labels, 0 errors.* 29 labels have no box/s, 'val');
	is(query("SELECT split, count(*), count(ann_categories), count(weather), count(scene), sum(cardinality(ann_categories)), min(width), max(height), count(DISTINCT image_sha256) FROM bdd100k GROUP BY 1 ORDER BY 1"),
		"train|216|210|210|30|3646|1280|720|216\nval|375|375|375|375|6571|1280|720|375", 'counts');
	is(query("SELECT category, count(*) FROM bdd100k_boxes WHERE image_id IN (SELECT image_id FROM bdd100k WHERE split = 'train') GROUP BY 1 ORDER BY 1"),
		"bicycle|34\nbus|40\ncar|1922\nmotorcycle|10\nperson|255\nrider|13\ntraffic light|600\ntraffic sign|677\ntruck|95", 'classes, folded');
	is(query("SELECT ann_bboxes[1:1], ann_occluded[1], ann_truncated[4] FROM bdd100k WHERE image_id = '0000f77c-6257be58'"),
		'{{1125.9022,133.1845,1156.9786,210.87544}}|f|t', 'one frame as in its file');
	my $versions = query('SELECT md5(array_agg(xmin::text || ctid::text ORDER BY frame_id)::text) FROM bdd100k');
	like(ingest("'bdd100k', '$shared/images/val', '$shared/bdd100k_labels_images_val.json'"), qr/0 new, 0 updated, 375 unchanged/, 'again');
	is(query('SELECT md5(array_agg(xmin::text || ctid::text ORDER BY frame_id)::text) FROM bdd100k'), $versions, 'no row is touched');
	cmp_ok(query("SELECT pg_relation_size('bdd100k') / 591"), '<', 450, 'the scanned heap holds neither images nor boxes');
}
$node->stop;
done_testing();
