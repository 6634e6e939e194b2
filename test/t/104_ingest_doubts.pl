# Ingest of what is nearly right (labels that name images roughly, documents of
# another kind, predictions), and beside other sessions.
use strict;
use warnings;
use File::Path qw(make_path);
use File::Temp qw(tempdir);
use POSIX qw(mkfifo);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use IngestTest;
use ServerTest;

my $node = PostgreSQL::Test::Cluster->new('ingest_doubts');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\nautovacuum = off");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION avcurate');
my $top = tempdir(CLEANUP => 1);

sub query { return $node->safe_psql('postgres', shift); }

sub ingest
{
	my ($arguments, $procedure) = @_;
	my $stderr;
	$node->psql('postgres', 'CALL avcurate.' . ($procedure // 'ingest_bdd100k') . "($arguments)", stderr => \$stderr);
	$stderr =~ s/psql:<stdin>:1: //g;
	return $stderr;
}

sub errors
{
	my ($dataset) = @_;
	return query("SELECT replace(source, '$top/', '') || ' ' || message FROM avcurate.ingest_errors WHERE dataset = '$dataset'::regclass ORDER BY source COLLATE \"C\"");
}

sub rows { return query("SELECT image_id, coalesce(ann_categories::text, '-') FROM $_[0] ORDER BY image_id COLLATE \"C\""); }

sub make_images
{
	my ($folder, @names) = @_;
	make_path("$top/$folder/images");
	write_file("$top/$folder/images/$_", picture(100, 50, $_)) foreach @names;
	query("SELECT avcurate.create_dataset('$folder')");
	return "'$folder', '$top/$folder/images'";
}

# ---- labels that name an image roughly -------------------------------------
my $rough = make_images('rough', 'a-1.jpg', 'b.jpg', 'c.jpg', 'd-1.jpg', 'd-2.jpg', 'e-1.jpg', 'f.jpg');
my @entries = (entry('a', box('car', 1, 1, 5, 5)), entry('b.png', box('bus', 1, 1, 5, 5)), entry('c', box('rider', 1, 1, 5, 5)), entry('d.jpg', box('car', 1, 1, 5, 5)),
	entry('e', box('car', 1, 1, 5, 5)), entry('e-1.jpeg', box('train', 1, 1, 5, 5)), entry('g-1.jpg'), entry('c.webp', box('car', 1, 1, 5, 5)));
my $taken = "a-1|{car}\nb|{bus}\nc|{rider}\nd-1|-\nd-2|-\ne-1|{train}\nf|-";
write_file("$top/rough/labels.json", '[' . join(",\n", @entries) . ']');
like(ingest("$rough, '$top/rough/labels.json'"), qr/7 of 7 frames: 7 new.*; 3 without labels, 1 errors.* 3 entries no image here/s, 'labels that name images roughly');
is(rows('rough'), $taken, 'exact names go first, then another extension, then one more part');
is(errors('rough'), 'rough/labels.json#d.jpg name fits several images of the folder', 'one of several is not guessed');
like(ingest("$rough, '$top/rough/labels.json'"), qr/: 0 new, 0 updated, 7 unchanged; 3 without/, 'the same again');

write_file("$top/rough/others.json", '[' . entry('f.jpg') . ']');
like(ingest("$rough, '$top/rough/others.json'"), qr/1 updated, 6 unchanged; 6 without labels, 0 errors/, 'other labels of the same images');
is(errors('rough'), 'rough/labels.json#d.jpg name fits several images of the folder', 'do not settle the errors of the first ones');

make_path("$top/rough/folder");
my %own = (a => 'car', e => 'car', 'e-1' => 'train', d => 'car', 'c' => 'rider');
write_file("$top/rough/folder/$_.json", sprintf '{"name": "%s", "attributes": {"weather": "snowy"}, "frames": [{"timestamp": 10000, "objects": [%s]}]}', $_, box($own{$_}, 1, 1, 5, 5)) foreach keys %own;
query('TRUNCATE rough');
like(ingest("$rough, '$top/rough/folder'"), qr/7 of 7 frames: 7 new/, 'a folder of labels');
is(rows('rough'), $taken =~ s/bus/-/r =~ s/\{-\}/-/r, 'in which a file may name its image roughly, too');

my @coco = map { sprintf '{"id": %d, "file_name": "%s"}', @$_ } [ 1, 'a.jpg' ], [ 2, 'x/b.png' ], [ 3, 'c' ], [ 4, 'd' ], [ 5, 'e' ], [ 6, 'e-1' ], [ 7, 'g-1' ];
my %class = (1 => 1, 2 => 2, 3 => 3, 4 => 1, 5 => 1, 6 => 4);
write_file("$top/rough/coco.json", '{"categories": [' . join(', ', map { my @c = qw(car bus rider train); qq({"id": $_, "name": "$c[$_ - 1]"}) } 1 .. 4) . '], "images": [' . join(', ', @coco)
	  . '], "annotations": [' . join(', ', map { qq({"id": $_, "image_id": $_, "category_id": $class{$_}, "bbox": [1, 1, 4, 4]}) } sort keys %class) . ']}');
query('TRUNCATE rough');
like(ingest("$rough, '$top/rough/coco.json'", 'ingest_coco'), qr/7 of 7 frames: 7 new.*; 3 without labels, 1 errors.* 2 entries no image here/s, 'COCO images');
is(rows('rough'), $taken, 'are found the same way');

# ---- the same name in two folders ------------------------------------------
my $twice = make_images('twice', 'x.jpg');
make_path("$top/twice/images/$_"), write_file("$top/twice/images/$_/x.jpg", picture(100, 50, $_)) foreach qw(p y);
like(ingest($twice), qr/1 of 1 frames: 1 new.* 2 errors/, 'three files of one name');
is(errors('twice'), join("\n", map { "twice/images/$_ would be the same frame as \"p/x.jpg\", for frames are called by their files' names alone" } 'x.jpg', 'y/x.jpg'),
	'the first by name is the frame, and the others are told of it');

# ---- documents of another kind, things that are no entries ------------------
my $odd = make_images('odd', 'a.jpg');
foreach my $case (
	[ '17', 'is neither a list nor an object' ], [ '"abc"', 'is neither a list nor an object' ], [ 'null', 'is neither a list nor an object' ],
	[ '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": []}', 'is a COCO document, which ingest_coco() reads' ],
	[ "\xff\xfe[\0]\0", 'is UTF-16, and JSON is UTF-8' ], [ ('[' x 100_000) . (']' x 100_000), 'JSON is nested deeper than 64 levels', 1 ],
	[ "\n\n[{\"name\": \"a.jpg\"}, x]", 'malformed JSON at byte 23: lexical error: invalid char in json text.', 1 ])
{
	my ($text, $message, $is_partly) = @$case;
	write_file("$top/odd/labels.json", $text);
	like(ingest("$odd, '$top/odd/labels.json'"), qr/WARNING:  label file .* could not be read to its end/, substr($text, 0, 20) =~ s/[^ -~]/?/gr . ': told of');
	like(errors('odd'), qr/^odd\/labels.json \Q$message\E$/m, "$message: recorded");
	is(query('SELECT count(*) FROM odd'), 0, 'nothing is taken') unless $is_partly;
	query('TRUNCATE odd');
}
write_file("$top/odd/labels.json", "\xef\xbb\xbf" . '[7, null, [{"name": "a.jpg"}], "x", ' . entry('a', box('trafficLight', 1, 1, 5, 5), box('  Other-Vehicle ', 1, 1, 5, 5), box('', 1, 1, 5, 5)) . ']');
like(ingest("$odd, '$top/odd/labels.json'"), qr/1 of 1 frames: 1 new.* 4 errors/, 'a byte order mark is passed over');
is(errors('odd'), join("\n", map { "odd/labels.json, entry $_ entry is not an object" } 1 .. 4), 'what is no entry is recorded');
is(query('SELECT ann_categories, ann_ignored FROM odd'), '{"traffic light",car,unknown}|{f,t,f}', 'spellings with blanks and without are one class');
mkfifo("$top/odd/pipe.json", 0600);
like(ingest("$odd, '$top/odd/pipe.json'"), qr/ERROR:  label file .* is not a regular file/, 'a pipe is no label file');
make_path("$top/odd/labels");
write_file("$top/odd/labels/det_train.json", '[' . entry('a.jpg') . ']');
like(ingest("$odd, '$top/odd/labels'"), qr/WARNING:  no label file in folder .* belongs to an image.*HINT:  If one file has the labels of all images, name that file/s,
	'a folder of labels that are of no image is told of');

# ---- what a file does not say of a frame is kept ----------------------------
write_file("$top/odd/labels.json", '[{"name": "a", "attributes": {"scene": "tunnel"}, "labels": [' . box('bus', 1, 1, 5, 5) . ']}]');
like(ingest("$odd, '$top/odd/labels.json'"), qr/1 updated/, 'labels without all attributes');
is(query('SELECT weather, scene, timeofday, ann_categories FROM odd'), 'clear|tunnel|night|{bus}', 'leave the others as they are');
write_file("$top/odd/labels.json", '[{"name": "a", "labels": [{"category": "bus", "score": 0.5, "box2d": {"x1": 1, "y1": 1, "x2": 5, "y2": 5}}]}]');
like(ingest("$odd, '$top/odd/labels.json'"), qr/WARNING:  1 labels have a score, as predictions have/, 'predictions are told of');
is(query('SELECT weather, scene, timeofday FROM odd'), 'clear|tunnel|night', 'and no attributes change none');

# ---- a label that changed updates its row, and no other ----------------------
my $many = make_images('many', map { "m$_.jpg" } 1 .. 300);
my $labels = sub { my ($changed) = @_; write_file("$top/many/labels.json", '[' . join(",\n", map { entry("m$_", box($_ == $changed ? 'bus' : 'car', 1, 1, 5, 5)) } reverse 1 .. 300) . ']'); };
$labels->(0);
like(ingest("$many, '$top/many/labels.json'"), qr/300 new, 0 updated, 0 unchanged; 0 without labels, 0 errors/, 'labels in reverse order');
is(query(q{SELECT count(*) FROM (SELECT frame_id > lag(frame_id) OVER (ORDER BY substr(image_id, 2)::int) AS up FROM many WHERE substr(image_id, 2)::int > 172) s WHERE up}), 127,
	'a batch is written in one order, so that two runs do not wait for each other');
my $before = query(q{SELECT md5(array_agg((frame_id, xmin, xmax, ctid)::text ORDER BY frame_id)::text) FROM many WHERE image_id <> 'm77'});
$labels->(77);
like(ingest("$many, '$top/many/labels.json'"), qr/0 new, 1 updated, 299 unchanged/, 'one label differs');
is(query(q{SELECT md5(array_agg((frame_id, xmin, xmax, ctid)::text ORDER BY frame_id)::text) FROM many WHERE image_id <> 'm77'}), $before, 'no other row is touched or locked');
is(query(q{SELECT ann_categories FROM many WHERE image_id = 'm77'}), '{bus}', 'and that one is as the file says');

# ---- beside others -----------------------------------------------------------
my $user = $node->background_psql('postgres');
my $run = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $run->query_safe('SELECT pg_backend_pid()');

# Start a statement that is to wait for a lock of the user's.
sub start_waiting
{
	my ($statement) = @_;
	$run->query_until(qr/begun/, "\\echo begun\n$statement;\n");
	$node->poll_query_until('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid") or die "does not wait: $statement";
}

sub wait_for_end
{
	# what it has said arrives before the echo
	$run->query_until(qr/ended/, "\\echo ended\n");
	$node->poll_query_until('postgres', "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $pid") or die 'does not end';
}

# what a user writes while a batch is at work
my $beside = make_images('beside', 'a.jpg', 'b.jpg', 'c.jpg');
ingest($beside);
query(q{DELETE FROM beside WHERE image_id = 'c'});
$user->query_safe(q{BEGIN; UPDATE beside SET weather = 'clear', ann_categories = '{car}', ann_bboxes = '{{1,1,5,5}}' WHERE image_id = 'b'; DELETE FROM beside WHERE image_id = 'a';
	INSERT INTO beside (image_id, image_bytes, weather) SELECT 'c', image_bytes, 'rainy' FROM beside});
start_waiting("CALL avcurate.ingest_bdd100k($beside, NULL, 'train')");
is(query(q{SELECT state FROM avcurate.ingest_progress WHERE dataset = 'beside'::regclass}), 'running', 'a run that waits');
$user->query_safe('COMMIT');
wait_for_end();
is(query(q{SELECT image_id, split, weather, ann_categories FROM beside ORDER BY 1}), "a|train||\nb|train|clear|{car}\nc|train|rainy|", 'what a user writes meanwhile is kept');
is(query(q{SELECT state, inserted, updated FROM avcurate.ingest_progress WHERE dataset = 'beside'::regclass}), 'finished|1|2', 'what he deletes is new');

# the table's name goes to another one
my $swapped = make_images('swapped', 'a.jpg');
query(q{SELECT avcurate.create_dataset('spare')});
$user->query_safe('BEGIN; ALTER TABLE swapped RENAME TO old; ALTER TABLE spare RENAME TO swapped');
start_waiting(q{SELECT avcurate.drop_dataset('swapped')});
$user->query_safe('COMMIT');
wait_for_end();
is(query(q{SELECT count(*) FILTER (WHERE relname = 'swapped'), count(*) FILTER (WHERE relname = 'old') FROM pg_class WHERE relname IN ('swapped', 'old')}), '1|0',
	'drop_dataset drops the table that it was called for');
query(q{SELECT avcurate.create_dataset('other');
	CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(1); RETURN new; END';
	CREATE TRIGGER wait BEFORE INSERT ON swapped FOR EACH ROW EXECUTE FUNCTION wait()});
$user->query_safe('SELECT pg_advisory_lock(1)');
make_images('swap', map { "s$_.jpg" } 1 .. 200);
start_waiting("CALL avcurate.ingest_bdd100k('swapped', '$top/swap/images')");
my $renames = $node->background_psql('postgres');
$renames->query_until(qr/begun/, "\\echo begun\nBEGIN; ALTER TABLE swapped RENAME TO old; ALTER TABLE other RENAME TO swapped; COMMIT;\n");
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted}) or die 'rename does not wait';
$user->query_safe('SELECT pg_advisory_unlock(1)');
wait_for_end();
like($run->{stderr}, qr/ERROR:  dataset "swapped" was renamed, dropped or given to another owner meanwhile/, 'a dataset that is renamed between two batches ends the ingest');
is(query('SELECT (SELECT count(*) FROM old), (SELECT count(*) FROM swapped)'), '128|0', 'and nothing goes into the table that has the name now');
is(query(q{SELECT state FROM avcurate.ingest_progress WHERE dataset = 'old'::regclass}), 'interrupted', 'a run that ended in an error is interrupted, though its session lives');
$_->quit foreach $run, $user, $renames;

# what row security hides is not told of by errors
query(qq{CREATE ROLE reader; GRANT SELECT ON twice TO reader});
is(query(q{SET ROLE reader; SELECT count(*) FROM avcurate.ingest_errors WHERE dataset = 'twice'::regclass}), 2, 'who may read a dataset reads its errors');
query(q{ALTER TABLE twice ENABLE ROW LEVEL SECURITY});
is(query(q{SET ROLE reader; SELECT count(*) FROM avcurate.ingest_errors}), 0, 'but not where row security applies to him');

# ---- memory: an entry that is refused keeps nothing --------------------------
foreach my $label ('{}', '{"box2d":{}}', '{"category":"' . ('x' x 60) . '","poly2d":[]}')
{
	write_file("$top/odd/labels.json", '[{"name": "a", "labels": [' . join(',', ($label) x 300_000) . ']}]');
	my $growth = resident_growth($node, "CALL avcurate.ingest_bdd100k($odd, '$top/odd/labels.json')");
	cmp_ok($growth, '<', 24 * 1024, "300,000 labels of one image like " . substr($label, 0, 15) . ": less than 24 MB");
}
like(errors('odd'), qr/entry has more than 100000 labels/, 'which are too many');

# ---- files that are cut off ---------------------------------------------------
my $cut = make_images('cut', 'a.jpg', 'b.jpg', 'c.jpg');
write_file("$top/cut/images/b.jpg", substr(picture(100, 50, 'b' x 100), 0, 80));
write_file("$top/cut/images/c.jpg", picture(100, 50, 'c') . "\0" x 100);
my $shared = $ENV{AVC_SHARED} ? "$ENV{AVC_SHARED}/bdd100k/images/val" : '';
my ($real) = $shared ? glob "$shared/*.jpg" : ();
write_file("$top/cut/images/d.jpg", substr(slurp_file($real), 0, 20_000)) if $real;
my $count = $real ? 2 : 1;
like(ingest($cut), qr/ingested 2 of @{[$count + 2]} frames: 2 new.* $count errors/, 'files that are cut off');
is(errors('cut'), join("\n", map { "cut/images/$_.jpg no usable JPEG: JPEG is cut off" } $real ? qw(b d) : 'b'), 'are recorded, what follows a picture is not minded');

$node->stop;
done_testing();
