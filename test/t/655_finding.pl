# README's "Finding frames", "Near duplicates" and "Looking at data", statement
# for statement, on a small network with random weights: only the paths and the
# network's sizes are put in.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use ClipTest;

my $node = PostgreSQL::Test::Cluster->new('finding');
$node->init;
$node->append_conf('postgresql.conf', "max_worker_processes = 12\navcurate.threads = 1\nfsync = off");
$node->start;
my $folder = $node->basedir;
my $readme = slurp_file("$FindBin::Bin/../../README.md");

sub ask { return $node->safe_psql('postgres', $_[0]) }

# What README has of a subject, and the blocks of SQL in it.
sub part_of
{
	my ($subject) = @_;
	my ($part) = $readme =~ /^(\*\*\Q$subject\E.*?)(?=^\*\*|^#|\z)/ms;
	return $part // '';
}

sub blocks_of { return part_of($_[0]) =~ /^```sql\n(.*?)^```/msg }

ask(q{CREATE EXTENSION avcurate;
	SELECT avcurate.create_dataset('drives');
	CALL avcurate.ingest_synthetic('drives', 60, 3, 'train', '{"width": 160, "height": 96, "night": 0.5, "rider": 0.5}')});
my $vocabulary = write_vocabulary("$folder/vocabulary.txt");
$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');
$node->safe_psql('elsewhere', 'CREATE EXTENSION avcurate');
small_clip($node, 'elsewhere', $vocabulary);
$node->safe_psql('elsewhere', qq{SELECT avcurate.export_checkpoint(1, '$folder/model.safetensors', 'safetensors')});

# --- finding frames
my ($finding, $fusion) = blocks_of('Finding frames');
ok($finding && $fusion, 'README finds frames, and by words as well');
my $sizes = '"image_width": 64, "image_layers": 1, "text_width": 64, "text_layers": 1';
is($finding =~ s|"/data/bpe_simple_vocab_16e6\.txt\.gz"|"$vocabulary", $sizes|, 1, 'it makes a model of a vocabulary');
is($finding =~ s{'/data/model\.safetensors'}{'$folder/model.safetensors'}, 1, 'and of a file of weights');
my @found = grep { /^\d+\|/ } split /\n/, ask($finding);
is(ask(q{SELECT total, done, failed FROM avcurate.feature_status WHERE feature = 'clip'}), '60|60|0', 'every frame has its embedding');
my $train = ask(q{SELECT count(*) FROM drives WHERE split = 'train'});
my $night = ask(q{SELECT least(count(*), 10) FROM drives WHERE timeofday = 'night'});
cmp_ok($night, '>', 0, 'there are nights');
is(scalar(@found), 10 + $night, 'ten frames by a text, ten of the night by a picture');
my ($expression) = ask(q{SELECT expression FROM avcurate.features WHERE feature = 'clip'});
my ($clip) = $expression =~ /(\d+)\)$/;
is(join(' ', map { (split /\|/)[0] } @found[0 .. 9]),
	ask("SELECT string_agg(frame_id::text, ' ' ORDER BY place) FROM (SELECT frame_id, row_number() OVER (ORDER BY avcurate.cosine_similarity(clip, q) DESC, frame_id) AS place
		FROM drives, avcurate.clip_text_embedding('cyclist at night in the rain', $clip) q) r WHERE place <= 10"), 'the text\'s are the nearest');
is(join(' ', map { (split /\|/)[0] } @found[10 .. $#found]),
	ask("SELECT string_agg(f.frame_id::text, ' ' ORDER BY place) FROM (SELECT a.frame_id, row_number() OVER (ORDER BY avcurate.cosine_similarity(a.clip, b.clip) DESC, a.frame_id) AS place
		FROM drives a, drives b WHERE b.frame_id = 7 AND a.timeofday = 'night') f WHERE place <= 10"), 'and so are the picture\'s');
my @fused = map { [ split /\|/ ] } split /\n/, ask($fusion);
is(scalar(@fused), 10, 'ten frames by words and pictures');
cmp_ok($fused[0][1], '>=', $fused[9][1], 'best first');
cmp_ok($fused[0][1], '<=', 2 / 61 + 1e-9, 'a score is the sum of two reciprocal ranks');

# --- near duplicates
my ($duplicates) = blocks_of('Near duplicates');
ok($duplicates, 'README drops copies');
ask(q{INSERT INTO drives (image_id, split, image_bytes, weather, scene, timeofday)
	SELECT image_id || '-copy', split, image_bytes, weather, scene, timeofday FROM drives WHERE frame_id IN (3, 9)});
my @told = split /\n/, ask($duplicates);
is($told[-1], 'distinct_train', 'a slice without them is cut');
my $dropped = ask('SELECT count(*) FROM drives WHERE duplicate_of IS NOT NULL');
cmp_ok($dropped, '>=', 2, 'the copies are marked');
is(ask('SELECT count(*) FROM distinct_train'), 62 - $dropped, 'and are not in it');
is(ask(q{SELECT count(*) FROM drives WHERE image_id LIKE '%-copy' AND duplicate_of IS NOT NULL}), '2', 'both copies are out');

# --- looking at data
ask(q{SELECT avcurate.create_slice('rider_train', 'drives', $$weather IS NOT NULL AND split = 'train'$$)});
ask("UPDATE drives SET weather = CASE weather WHEN 'foggy' THEN 'rainy' ELSE 'foggy' END WHERE frame_id = $_; SELECT avcurate.refresh_slice('rider_train')") foreach 11 .. 16;
my $looking = part_of('Looking at data');
my @calls = $looking =~ /`(SELECT [^`]+|avcurate\.\w+\([^`]*\))`/g;
is(scalar(@calls), 3, 'README looks at data in three ways') or diag($looking);
my ($counts, $drift, $sheet) = @calls;
is(ask("SELECT sum(frames) FROM ($counts) c"), ask('SELECT count(*) FROM drives'), 'every frame is counted once');
foreach my $other ('box_sizes', 'category_pairs')
{
	like($looking, qr/`$other`/, "README names $other");
	cmp_ok(ask("SELECT count(*) FROM avcurate.$other('drives')"), '>', 0, 'which counts something');
}
my @divergences = split /\n/, ask("SELECT * FROM $drift");
cmp_ok(scalar(@divergences), '>=', 5, 'five divergences at least');
like(ask("SELECT encode(substr(s, 1, 3), 'hex') FROM ($sheet) q (s)"), qr/^ffd8ff$/, 'a sheet is a JPEG');

$node->stop;
done_testing();
