# CLIP through the shared engine: features by workers, batches, a broken image,
# a lost engine, dump and restore.  The network is a small one with random
# weights.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use JobTest;
use ServiceTest;
use ClipTest;

my $node = PostgreSQL::Test::Cluster->new('clip');
$node->init;
$node->append_conf('postgresql.conf', "max_worker_processes = 12\navcurate.threads = 1\nfsync = off");
$node->start;
$node->safe_psql('postgres', q{CREATE EXTENSION avcurate; SELECT avcurate.create_dataset('frames');
	CALL avcurate.ingest_synthetic('frames', 60, 3, 'train', '{"width": 160, "height": 96}')});
my $vocabulary = write_vocabulary($node->basedir . '/vocabulary.txt');
small_clip($node, 'postgres', $vocabulary);
unlink $vocabulary;

sub ask { return $node->safe_psql('postgres', $_[0]) }

# Frames whose stored embedding is not what a call gives alone.
my $differences = q{SELECT count(*) FROM (SELECT clip, avcurate.clip_embedding(image_bytes, 1) AS alone FROM frames WHERE clip IS NOT NULL) f
	WHERE (SELECT sum(a::float8 * b) FROM unnest(clip, alone) u (a, b)) < 1 - 1e-6 OR cardinality(clip) <> cardinality(alone)};

# --- a feature, computed by workers that send images ahead
ask(q{SET avcurate.clip_model = 1; SELECT avcurate.add_feature('frames', 'clip', 'avcurate.clip_embedding(image_bytes)')});
my $job = ask(q{SELECT avcurate.start_backfill('frames', 'clip', 2)});
is(ask("SELECT avcurate.wait_job($job)"), 'succeeded', 'workers compute a feature');
is(ask(q{SELECT total, done, failed FROM avcurate.feature_status WHERE feature = 'clip'}), '60|60|0', 'of every frame');
my $batches = ask(q{SELECT detail FROM avcurate.doctor() WHERE check_name = 'shared engine'});
like($batches, qr/1 network loaded, \d+ requests in \d+ batch/, 'the engine is one');
my ($requests, $sent) = $batches =~ /(\d+) requests in (\d+)/;
cmp_ok($sent, '<', $requests / 2, "images go to it together ($requests in $sent)");
is(ask($differences), '0', 'and come out as alone');
is(ask(q{SELECT count(*), count(DISTINCT clip), min(cardinality(clip)) FROM frames}), '60|60|512', 'one embedding a frame');

# --- what is sent for the next transaction is under way when it begins
sub asked { return (ask(q{SELECT detail FROM avcurate.doctor() WHERE check_name = 'shared engine'}) =~ /(\d+) requests in (\d+)/)[$_[0]] }
$requests = asked(0);
my $want = q{SELECT count(avcurate.clip_embedding(image_bytes, 1)) FROM frames WHERE frame_id BETWEEN 2 AND 9};
my $send = q{BEGIN; SELECT avcurate.clip_embedding(image_bytes, 1) IS NULL FROM frames WHERE frame_id = 1; SELECT avcurate.detect_next();
	SELECT count(avcurate.clip_ahead(image_bytes, 1)::text) FROM frames WHERE frame_id BETWEEN 2 AND 9; COMMIT;};
ask("$send BEGIN; $want; COMMIT");
is(asked(0) - $requests, 9, 'a commit leaves what is sent for the next transaction under way');
$requests = asked(0);
# what nobody has begun is withdrawn, and would not be counted
my $begun = $requests + 9;
my $wait = qq{DO \$\$ BEGIN FOR i IN 1..1800 LOOP
	EXIT WHEN (SELECT (regexp_match(detail, '(\\d+) requests'))[1]::bigint FROM avcurate.doctor() WHERE check_name = 'shared engine') >= $begun;
	PERFORM pg_sleep(.1); END LOOP; END \$\$;};
ask("$send $wait BEGIN; $want; COMMIT");
is(asked(0) - $requests, 17, 'but no longer than the next');
$requests = asked(0);
ask("$send $want; BEGIN; $want; ROLLBACK");
is(asked(0) - $requests, 17, 'and an answer is forgotten with its transaction');

# --- a feature of texts
ask(q{SELECT avcurate.add_feature('frames', 'said', $$avcurate.clip_text_embedding('a frame, ' || image_id || ' ' || coalesce(weather, ''), 1)$$)});
my @before = map { asked($_) } 0, 1;
ask(q{CALL avcurate.backfill('frames', 'said', 20)});
$requests = asked(0) - $before[0];
$sent = asked(1) - $before[1];
is($requests, 60, 'texts of a feature are asked for once');
cmp_ok($sent, '<', $requests / 2, "and together ($requests in $sent)");
is(ask(q{SELECT count(*) FROM (SELECT said, avcurate.clip_text_embedding('a frame, ' || image_id || ' ' || coalesce(weather, ''), 1) AS alone FROM frames) f
	WHERE (SELECT sum(a::float8 * b) FROM unnest(said, alone) u (a, b)) >= 1 - 1e-6 AND cardinality(said) = cardinality(alone)}), '60', 'and come out as alone');
ask(q{SELECT avcurate.drop_feature('frames', 'said')});

# --- texts of many sessions at once
my @texts = map { "a dog and $_ cars" } 1 .. 12;
my @calls = map { begin($node, "SELECT md5(array_agg(round(e::numeric, 3))::text) FROM unnest(avcurate.clip_text_embedding('$_', 1)) e") } @texts;
my %answers = map { (end_of($_))[0] => 1 } @calls;
is(scalar(grep { /^\w{32}$/ } keys %answers), 12, 'texts of twelve sessions');

# --- a broken image is its own matter
ask(q{UPDATE frames SET image_bytes = substr(image_bytes, 1, length(image_bytes) - 900) WHERE frame_id IN (7, 33)});
ask(q{UPDATE frames SET clip = NULL; SELECT avcurate.alter_feature('frames', 'clip', 'avcurate.clip_embedding(image_bytes, 1)')});
$node->safe_psql('postgres', q{CALL avcurate.backfill('frames', 'clip')});
is(ask(q{SELECT done, failed FROM avcurate.feature_status WHERE feature = 'clip'}), '58|2', 'broken images fail alone');
like(ask(q{SELECT string_agg(frame_id || ' ' || message, ', ' ORDER BY frame_id) FROM avcurate.feature_errors}),
	qr/^7 .*(premature|truncated|corrupt|cut|ends|damaged).*, 33 /i, 'and say why');
is(ask($differences), '0', 'the others are right');

# --- the engine dies under a backfill
ask(q{SELECT avcurate.alter_feature('frames', 'clip', 'avcurate.clip_embedding(image_bytes, 1)')});
my $engine = engine($node);
kill 'STOP', $engine;
my $session = begin($node, q{CALL avcurate.backfill('frames', 'clip')});
runs($node, '%CALL avcurate.backfill%');
kill 'KILL', $engine;
my ($out, $err) = end_of($session);
is($err =~ /ERROR/ ? $err : '', '', 'a backfill survives its engine');
$node->safe_psql('postgres', q{SELECT avcurate.retry_feature('frames', 'clip') WHERE false; CALL avcurate.backfill('frames', 'clip')});
is(ask(q{SELECT done, failed FROM avcurate.feature_status WHERE feature = 'clip'}), '58|2', 'no frame is lost');
isnt(engine($node), $engine, 'a fresh engine did it');

# --- a dump takes vocabulary and weights along
my $text = q{SELECT avcurate.clip_text_embedding('a dog on the road', 1)};
my $before = ask($text);
my $dump = $node->basedir . '/clip.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('postgres') ], 'a database with CLIP is dumped');
$node->safe_psql('postgres', 'CREATE DATABASE copied');
$node->command_ok([ 'pg_restore', '-d', $node->connstr('copied'), '--exit-on-error', $dump ], 'and restored');
is($node->safe_psql('copied', $text), $before, 'it reads texts as before');
is($node->safe_psql('copied', q{SELECT string_agg(check_name || ' ' || ok, ', ') FROM avcurate.verify_checkpoint(1)}), 'tensors true', 'with the same weights');
is($node->safe_psql('copied', $differences), '0', 'and sees images as before');

# --- a database of another encoding
$node->safe_psql('postgres', q{CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'});
$node->safe_psql('latin', 'CREATE EXTENSION avcurate');
small_clip($node, 'latin', write_vocabulary($vocabulary));
is($node->safe_psql('latin', q{SELECT avcurate.clip_text_embedding('a dog on the road', 1)}), $before, 'a database in LATIN1');
my $cafe = q{SELECT avcurate.clip_text_embedding(convert_from('\x636166c3a9', 'UTF8'), 1)};
is($node->safe_psql('latin', $cafe), ask($cafe), 'with its letters');

# --- the whole network: 605 MB in and out
SKIP:
{
	skip 'AVC_LONG is not set', 8 unless $ENV{AVC_LONG};
	my $folder = $node->basedir;
	my $memory = q{SELECT substring(pg_read_file('/proc/self/status') from 'RssAnon:\s+(\d+)')::bigint / 1024};
	ask(qq{SELECT avcurate.create_model('whole', 'clip_vit_b32', '{"vocabulary": "$vocabulary"}')});
	my $whole = ask(q{SELECT avcurate.create_checkpoint('whole', 1)});
	is(ask("SELECT bytes > 605000000 FROM avcurate.checkpoints WHERE checkpoint = $whole"), 't', 'ViT-B/32 has 605 MB');
	is(ask("SELECT avcurate.export_checkpoint($whole, '$folder/whole.$_', '$_') > 605000000"), 't', "they are written as $_")
		foreach 'safetensors', 'pth';
	foreach my $format ('safetensors', 'pth')
	{
		my ($number, $kept) = split /\n/, ask("SELECT avcurate.import_checkpoint('whole', '$folder/whole.$format'); $memory");
		is(ask("SELECT count(DISTINCT provenance ->> 'weights_sha256') FROM avcurate.checkpoints WHERE checkpoint IN ($whole, $number)"), '1', "and read as $format");
		cmp_ok($kept, '<', 100, "nothing of them stays in the session ($kept MB)");
	}
	is(ask("SELECT cardinality(avcurate.clip_embedding(image_bytes, $whole)) FROM frames WHERE frame_id = 1"), '512', 'it embeds images');
}

$node->stop;
done_testing();
