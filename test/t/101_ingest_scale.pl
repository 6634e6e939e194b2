# ingest_bdd100k over many images: memory, and a backend that is killed.
use strict;
use warnings;
use File::Path qw(make_path);
use File::Temp qw(tempdir);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use ServerTest;

my $images = $ENV{AVC_LONG} ? 40_000 : 4000;
my $node = PostgreSQL::Test::Cluster->new('ingest_scale');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum_naptime = 1\nrestart_after_crash = on\nmax_wal_size = 4GB\nshared_buffers = 16MB");
$node->start;
$node->safe_psql('postgres', q{CREATE EXTENSION avcurate; SELECT avcurate.create_dataset('many')});
my $top = tempdir(CLEANUP => 1);

sub query { return $node->safe_psql('postgres', shift); }

# JPEGs as far as their frame header, of 20 kB, and each with a label file.
sub make_images
{
	my ($folder, $count) = @_;
	make_path("$folder/images", "$folder/labels");
	foreach my $n (1 .. $count)
	{
		my $name = sprintf('m%06d', $n);
		open my $image, '>:raw', "$folder/images/$name.jpg" or die;
		print $image "\xff\xd8\xff\xc0\x00\x11\x08\x00\x32\x00\x64\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01",
			sprintf('%020d', $n) x 1000, "\xff\xd9";
		close $image;
		open my $labels, '>', "$folder/labels/$name.json" or die;
		print $labels qq({"name": "$name", "attributes": {"weather": "clear"}, "frames": [{"timestamp": 1, "objects": )
			. qq([{"category": "car", "id": 1, "box2d": {"x1": 1, "y1": 1, "x2": 9, "y2": 9}}]}]});
		close $labels;
	}
}

# How far the backend's address space grows beyond what it was at the start.
sub peak_growth
{
	my ($folder) = @_;
	my $session = $node->background_psql('postgres');
	my $backend = $session->query_safe('SELECT pg_backend_pid()');
	my $peak = sub {
		open my $in, '<', "/proc/$backend/status" or die;
		my ($kb) = map { /^VmPeak:\s+(\d+)/ ? $1 : () } <$in>;
		return $kb;
	};
	# the list of files is a temporary table, kept in memory up to this
	$session->query('SET temp_buffers = 100');
	my $start = $peak->();
	$session->query("CALL avcurate.ingest_bdd100k('many', '$folder/images', '$folder/labels')");
	my $growth = $peak->() - $start;
	$session->quit;
	query('TRUNCATE many');
	return $growth;
}

make_images("$top/few", 200);
make_images("$top/many", $images);
my $few = peak_growth("$top/few");
my $many = peak_growth("$top/many");
note("$few kB for 200 images, $many kB for $images");
cmp_ok($few, '<', 32 * 1024, 'the backend grows by less than 32 MB');
cmp_ok($many - $few, '<', 2 * 1024, 'and not with the number of images') or diag("$few, $many");

# ---- one label file of more than 100 MB, with entries for 80,000 frames
my $entries = 80_000;
open my $out, '>', "$top/labels.json" or die;
my $label = '{"category": "car", "attributes": {"occluded": true, "truncated": false, "trafficLightColor": "none"}, "id": %d, '
  . '"box2d": {"x1": %d.25, "y1": 1, "x2": %d.75, "y2": 9}}';
my $labels = join ', ', map { sprintf $label, $_, $_, $_ + 3 } 1 .. 8;
print $out '{"frames": [';
printf $out qq(%s{"name": "m%06d.jpg", "attributes": {"weather": "rainy", "scene": "city street", "timeofday": "night"}, "timestamp": 10000, "labels": [%s]}),
  $_ > 1 ? ",\n" : '', $_, $labels foreach 1 .. $entries;
print $out ']}';
close $out;
cmp_ok(-s "$top/labels.json", '>', 100e6, sprintf('%d MB of labels', (-s "$top/labels.json") / 1e6));
my $growth = resident_growth($node, "CALL avcurate.ingest_bdd100k('many', '$top/many/images', '$top/labels.json')");
note("$growth kB");
cmp_ok($growth, '<', 64 * 1024, 'the backend grows by less than 64 MB of resident memory');
is(query(q{SELECT count(*) FROM many WHERE weather = 'rainy' AND cardinality(ann_categories) = 8 AND ann_bboxes[8:8] = '{{8.25,1,11.75,9}}'}), $images,
	'and takes all that has an image');
query('TRUNCATE many');

# ---- killed midway, the server restarts, the next run takes the rest
my $psql = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $psql->query_safe('SELECT pg_backend_pid()');
my $call = "CALL avcurate.ingest_bdd100k('many', '$top/many/images', '$top/many/labels')";
query('DELETE FROM _avcurate.ingest_progress');
$psql->query_until(qr/begun/, "\\echo begun\n$call;\n");
$node->poll_query_until('postgres', 'SELECT done > 100 FROM avcurate.ingest_progress') or die 'no progress';
# batches are committed without waiting for the disk; these are there now
query('CHECKPOINT');
is(kill('KILL', $pid), 1, 'killed in the middle');
$psql->{run}->finish;
wait_for_server($node);
my $partial = query('SELECT count(*) FROM many');
ok($partial > 100 && $partial < $images && $partial % 64 == 0, "whole batches are committed: $partial of $images frames");
is(query('SELECT state, done FROM avcurate.ingest_progress'), "interrupted|$partial", 'the run shows as interrupted');
query($call);
is(query('SELECT state, inserted, unchanged, errors FROM avcurate.ingest_progress'),
	'finished|' . ($images - $partial) . "|$partial|0", 'the next run takes the rest');
is(query(q{SELECT count(*) FROM many WHERE image_sha256 = sha256(image_bytes) AND ann_categories = '{car}'}), $images,
	'and all frames are there');
# A crash leaves the session's temporary table to autovacuum.
ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_class WHERE relname = 'avc_ingest_files'}), 'nothing is left behind');

$node->stop;
done_testing();
