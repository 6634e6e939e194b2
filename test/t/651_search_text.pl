# search_frames: texts by the CLIP network that computed the feature; full text
# and CLIP in one ranking; what is said where there is no network.  The network
# is a small one with random weights.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use ClipTest;

my $node = PostgreSQL::Test::Cluster->new('texts');
$node->init;
$node->append_conf('postgresql.conf', "max_worker_processes = 12\navcurate.threads = 1\nfsync = off");
$node->start;
$node->safe_psql('postgres', q{CREATE EXTENSION avcurate; SELECT avcurate.create_dataset('drives');
	CALL avcurate.ingest_synthetic('drives', 60, 3, 'train', '{"width": 96, "height": 64}')});

sub ask { return $node->safe_psql('postgres', $_[0]) }

sub refused
{
	my ($sql, $message, $hint, $name) = @_;
	my (undef, undef, $err) = $node->psql('postgres', $sql);
	like($err, qr/ERROR: .*$message.*HINT: .*$hint/s, $name);
	return;
}

refused(q{SELECT * FROM avcurate.search_frames('drives', 'cyclist at night in the rain')}, 'no checkpoint is given and avcurate.clip_model is not set',
	'import', 'without a network it says how to import one');

my $vocabulary = write_vocabulary($node->basedir . '/vocabulary.txt');
small_clip($node, 'postgres', $vocabulary);
unlink $vocabulary;
refused(q{SET avcurate.clip_model = 1; SELECT * FROM avcurate.search_frames('drives', 'a dog')}, 'dataset "drives" has no feature of vectors', 'add_feature',
	'without a feature how to add one');
ask(q{SELECT avcurate.add_feature('drives', 'place', 'ARRAY[frame_id, 1]::real[]'); CALL avcurate.backfill('drives')});
refused(q{SET avcurate.clip_model = 1; SELECT * FROM avcurate.search_frames('drives', 'a dog')}, 'feature "place" is not computed by clip_embedding',
	'nearest_frames', 'other vectors are none of texts');

ask(q{SET avcurate.clip_model = 1; SELECT avcurate.add_feature('drives', 'clip', 'avcurate.clip_embedding(image_bytes)')});
ask(q{CALL avcurate.backfill('drives')});
my $text = 'a dog on the road at night';
my $plain = "SELECT frame_id, avcurate.cosine_similarity(clip, avcurate.clip_text_embedding('$text', 1)) FROM drives";
my $order = 'ORDER BY 2 DESC, 1 LIMIT';
is(ask("SELECT * FROM avcurate.search_frames('drives', '$text')"), ask("$plain $order 10"), 'a text finds what it is nearest to, by the feature that clip_embedding computes');
is(ask("SELECT * FROM avcurate.search_frames('drives', '$text', 4, \$\$timeofday = 'night'\$\$)"), ask("$plain WHERE timeofday = 'night' $order 4"), 'with a filter');
# another network in the setting
ask(q{SELECT avcurate.create_checkpoint('clip', 8)});
is(ask("SET avcurate.clip_model = 2; SELECT * FROM avcurate.search_frames('drives', '$text', 5)"), ask("$plain $order 5"), 'and the checkpoint that the feature was computed with');
isnt(ask("SELECT avcurate.clip_text_embedding('$text', 1) = avcurate.clip_text_embedding('$text', 2)"), 't', 'which is another');
is(ask("SELECT avcurate.alter_feature('drives', 'clip', 'avcurate.clip_embedding(checkpoint => 2, image => image_bytes)');
	CALL avcurate.backfill('drives'); SELECT * FROM avcurate.search_frames('drives', '$text', 5)") =~ s/^\n//r,
	ask($plain =~ s/, 1\)/, 2)/r . " $order 5"), 'until that is altered');
is(ask("SELECT count(*) FROM avcurate.search_frames('drives', '$text', 5, feature => 'clip')"), '5', 'the feature can be named');
my (undef, undef, $err) = $node->psql('postgres', q{SELECT * FROM avcurate.search_frames('drives', NULL)});
like($err, qr/query must not be null/, 'a text there must be');
refused(qq{SELECT * FROM avcurate.search_frames('drives', '$_')}, 'query has no words', 'Say what', 'and words in it') foreach '', " \t\n ";
my $long = "ein Radfahrer im Regen, \x{1F6B2} \x{591C}\x{306E}\x{96E8} " x 500;
utf8::encode($long);
is(ask("SELECT count(*) FROM avcurate.search_frames('drives', '$long', 5)"), '5', 'many words, in any script');
(undef, undef, $err) = $node->psql('postgres', qq{SELECT * FROM avcurate.search_frames('drives', '$text', 5, 'frame_id / (frame_id - 7) > 0')});
like($err, qr/ERROR: +division by zero\nCONTEXT: +filter of a search/, 'an error of the filter while it runs says that it is one');

# README's query that ranks by words and by pictures
my $document = q{to_tsvector('english', avcurate.scene_text(weather, scene, timeofday, ann_categories))};
my $fused = qq{
WITH words AS (
	SELECT frame_id, row_number() OVER (ORDER BY ts_rank($document, wanted) DESC, frame_id) AS place
	FROM drives, websearch_to_tsquery('english', 'city person') wanted
	WHERE $document @@ wanted ORDER BY place LIMIT 100),
pictures AS (
	SELECT frame_id, row_number() OVER () AS place FROM avcurate.search_frames('drives', 'city person', 100))
SELECT frame_id, coalesce(1.0 / (60 + words.place), 0) + coalesce(1.0 / (60 + pictures.place), 0) AS score
FROM words FULL JOIN pictures USING (frame_id) ORDER BY score DESC, frame_id LIMIT 10};
my @words = split /\n/, ask("SELECT frame_id FROM drives, websearch_to_tsquery('english', 'city person') q WHERE $document @@ q ORDER BY ts_rank($document, q) DESC, frame_id");
my @pictures = split /\n/, ask("SELECT frame_id FROM avcurate.search_frames('drives', 'city person', 100)");
cmp_ok(scalar @words, '>', 0, scalar(@words) . ' frames have the words');
cmp_ok(scalar @words, '<', 60, 'not all');
my %score;
$score{ $words[$_] } += 1 / (61 + $_) foreach 0 .. $#words;
$score{ $pictures[$_] } += 1 / (61 + $_) foreach 0 .. $#pictures;
my @best = (sort { sprintf('%.12f', $score{$b}) <=> sprintf('%.12f', $score{$a}) || $a <=> $b } keys %score)[ 0 .. 9 ];
is(join(' ', map { s/\|.*//r } split /\n/, ask($fused)), "@best", 'words and pictures in one ranking');

$node->stop;
done_testing();
