# Pruning: what holds a version and what holds an image, whom it waits for.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use FindBin;
use lib $FindBin::Bin;
use OracleSession;
use SliceTest;

my $node = PostgreSQL::Test::Cluster->new('pruner');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum = off\nfsync = off\n");
$node->start;
sub query { return $node->safe_psql('postgres', $_[0]) }
query(SliceTest::setup_sql());
query(q{
SELECT avcurate.create_dataset('frames');
SELECT add_frames(20);
SELECT avcurate.create_slice('night', 'frames', $$timeofday = 'night'$$);
SELECT avcurate.create_slice('every', 'frames', 'true');
});

# Another image of every frame, and a version that holds it.
my $round = 0;
sub next_version
{
	$round++;
	query(qq{UPDATE frames SET image_bytes = jpeg('round $round of ' || frame_id)});
	return query(q{SELECT avcurate.refresh_slice('every')});
}

sub prune
{
	my ($arguments) = @_;
	my ($rc, $out, $err) = $node->psql('postgres',
		"SELECT string_agg(version || CASE WHEN pruned THEN ' pruned' ELSE ' ' || kept_because END, '; ' ORDER BY version) FROM avcurate.prune_slice($arguments)");
	return ($out, $err);
}
sub archived { return query('SELECT count(*) FROM _avcurate.archive') }

# ---- reasons
next_version() foreach 1 .. 7;
query(q{
SELECT avcurate.create_model('m', 'small');
INSERT INTO _avcurate.checkpoints (model, slice_id, version, bytes, provenance) VALUES ('m', 2, 1, 0, '{}'), ('m', 2, 2, 0, '{}');
INSERT INTO _avcurate.evaluations (evaluation, checkpoint, slice_id, version, frames, min_score, role, mode, label_map)
	VALUES (77, 1, 2, 2, 0, 0, current_user::regrole, 'coco', 'coco');
INSERT INTO _avcurate.jobs (role, kind, body, state, slice_id, version)
	VALUES (current_user::regrole, 'train', 'none', 'pending', 2, 3), (current_user::regrole, 'train', 'none', 'failed', 2, 4);
SELECT avcurate.tag_slice('every', 2, 'b'), avcurate.tag_slice('every', 2, 'a'), avcurate.tag_slice('every', 8, 'last');
UPDATE _avcurate.slice_versions SET created_at = now() - (9 - version) * interval '1 day' WHERE slice_id = 2;
});
is((prune(q{'every', 2, '3 days 12:00'}))[0],
	'1 checkpoint 1; 2 tag a, tag b, evaluation 77, checkpoint 2; 3 job 1; 4 pruned; 5 pruned; '
	  . '6 younger than 3 days 12:00:00; 7 among the newest 2, younger than 3 days 12:00:00; '
	  . '8 newest version, younger than 3 days 12:00:00, tag last', 'every version with its reasons');
is((prune(q{'every'}))[0], '1 among the newest 10, checkpoint 1; 2 among the newest 10, tag a, tag b, evaluation 77, checkpoint 2; 3 among the newest 10, job 1; '
	  . '6 among the newest 10; 7 among the newest 10; 8 newest version, tag last', 'ten are kept where nothing is said');
is(query(q{SELECT string_agg(v.version::text, ',' ORDER BY v.version) FROM avcurate.slice_versions v, avcurate.verify_slice('every', v.version) c WHERE v.slice = 'every'::regclass AND c.verified}),
	'1,2,3,6,7,8', 'those kept verify');
is(archived(), 20 + 4 * 20, 'and what they hold is archived');
query(q{DELETE FROM _avcurate.evaluations; DELETE FROM _avcurate.checkpoints; UPDATE _avcurate.jobs SET state = 'cancelled';
	SELECT avcurate.untag_slice('every', 'a'), avcurate.untag_slice('every', 'b')});
my ($out, $err) = prune(q{'every', 1});
is($out, '1 pruned; 2 pruned; 3 pruned; 6 pruned; 7 pruned; 8 newest version, tag last', 'nothing holds them any more');
is($err, '', 'and there is nothing to say');
is(archived(), query('SELECT count(*) FROM night'), 'what the other slice holds stays in the archive');
is(query('SELECT count(*) FROM _avcurate.history_2'), 20, 'no row of the history is left over');
is(query(q{SELECT string_agg(detail, ',') FROM avcurate.verify_slice('night')}), 'rows and images match', 'the other slice is whole');

# ---- what keeps images
my ($a, $b) = map { OracleSession->new($node, $_) } 'a', 'b';
query(q{SELECT avcurate.untag_slice('every', 'last'), avcurate.refresh_slice('night')});
is((prune(q{'night', 1}))[1], '', 'images are freed');
is(archived(), 0, 'all of them');
$a->ask(q{BEGIN; SELECT avcurate.refresh_slice('night');});
is((prune(q{'every', 1}))[1], '', 'a refresh that is open is no reason to say anything when no image waits');
next_version();
like((prune(q{'every', 1}))[1], qr/NOTICE:  some archived images were not freed\nDETAIL:  A slice of the dataset is being made or refreshed\./, 'it is when some do');
$a->ask('COMMIT;');
query(q{SELECT avcurate.refresh_slice('night')});
prune(q{'night', 1});
is(archived(), 0, 'they are freed afterwards');
$a->ask(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM frames;});
next_version();
query(q{SELECT avcurate.refresh_slice('night')});
prune(q{'night', 1});
like((prune(q{'every', 1}))[1], qr/DETAIL:  A transaction that began before 20 of them were replaced is still open\./, 'images that a snapshot may still see stay');
is(($a->ask(q{SELECT count(*) FILTER (WHERE image_sha256 = sha256(image_bytes)) FROM frames;}))[0], "20\n", 'which it does');
$a->ask('COMMIT;');
is((prune(q{'every', 1}))[1], '', 'nothing is said once it ended');
is(archived(), 0, 'and they are freed');

# ---- readers and pruning do not wait for each other
my $version = next_version();
next_version();
$a->ask(qq{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM every; DECLARE c CURSOR FOR SELECT * FROM avcurate.slice_at(NULL::every, $version); FETCH 1 FROM c;});
my ($pruned) = $b->ask(q{BEGIN; SET LOCAL lock_timeout = '10s'; SELECT count(*) FROM avcurate.prune_slice('every', 1) WHERE pruned;});
is($pruned, "2\n", 'pruning does not wait for a reader');
my ($read) = $a->ask(qq{SET LOCAL lock_timeout = '10s'; SELECT count(*) FROM avcurate.batches('every', 8, $version); SELECT count(*) FROM every; SELECT verified FROM avcurate.verify_slice('every', $version);});
is($read, "20\n20\nt\n", 'nor a reader for pruning, whose version he reads');
$b->ask('COMMIT;');
($read) = $a->ask(qq{SELECT count(*) FROM avcurate.batches('every', 8, $version); COMMIT;});
is($read, "20\n", 'with his snapshot to its end');
like(($a->ask("SELECT count(*) FROM avcurate.batches('every', 8, $version);"))[1], qr/ERROR:  version $version of slice \S+ was pruned/, 'and then it is gone');

# a pin that comes while versions are looked at
$version = next_version();
next_version();
$a->ask(qq{BEGIN; SELECT avcurate.tag_slice('every', $version, 'in time');});
$b->feed(qq{SELECT version FROM avcurate.prune_slice('every', 1) WHERE NOT pruned ORDER BY 1;});
$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'}) or die 'nobody waits';
$a->ask('COMMIT;');
$b->settle;
my $last = query(q{SELECT version FROM avcurate.slices WHERE slice = 'every'::regclass});
like(($b->taken)[0], qr/^$version\n$last\n$/m, 'pruning waits for a tag being given, and keeps the version');
# ---- images that go while a version is being made or read
query(q{SELECT avcurate.untag_slice('every', 'in time'), avcurate.refresh_slice('night')});
foreach my $change (q{UPDATE frames SET image_bytes = jpeg('after ' || frame_id)}, 'DELETE FROM frames WHERE frame_id > 15')
{
	query(q{UPDATE frames SET scene = 'tunnel' || clock_timestamp()});
	$a->ask(q{BEGIN; SELECT avcurate.refresh_slice('every');});
	query($change);
	prune(q{'night', 1});
	$a->ask('COMMIT;');
	is(query(q{SELECT detail FROM avcurate.verify_slice('every')}), 'rows and images match', "a version is whole whose images went before it was committed: $change");
}
foreach my $read (q{SELECT detail FROM avcurate.verify_slice('every');}, q{SELECT count(*) = (SELECT count(*) FROM every) FROM avcurate.batches('every', 8);})
{
	query(q{SELECT add_frames(3); SELECT avcurate.refresh_slice('every')});
	$a->ask('BEGIN; TRUNCATE frames;');
	$b->feed($read);
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'}) or die 'nobody waits';
	$a->ask('COMMIT;');
	$b->settle;
	my ($answer, $error) = $b->taken;
	like($answer, qr/^(rows and images match|t)$/, "a reader that waited for TRUNCATE finds all images: $read") or diag $error;
}
query(q{SELECT add_frames(20); SELECT avcurate.refresh_slice('every'), avcurate.refresh_slice('night');
	UPDATE frames SET image_bytes = jpeg('again ' || frame_id); SELECT avcurate.refresh_slice('every'); SELECT avcurate.prune_slice('night', 1);
	SELECT avcurate.tag_slice('every', (SELECT max(version) - 1 FROM avcurate.slice_versions WHERE slice = 'every'::regclass), 'in time')});
$_->end foreach $a, $b;

# ---- slices that are dropped
query(q{DROP MATERIALIZED VIEW night});
prune(q{'every', 1});
cmp_ok(archived(), '>', 0, 'images of a tagged version');
query('DROP MATERIALIZED VIEW every');
is(query(q{SELECT slice_name FROM _avcurate.slices}), 'public.every', 'a slice with a tag leaves its history behind');
cmp_ok(archived(), '>', 0, 'and its images');
query(q{SELECT avcurate.create_slice('third', 'frames', 'true'); UPDATE frames SET image_bytes = jpeg('last ' || frame_id)});
query('DELETE FROM _avcurate.slice_tags');
is((prune(q{'third', 1}))[0], '1 newest version', 'pruning any slice removes it when the last tag is gone');
is(query(q{SELECT slice_name FROM _avcurate.slices}), 'public.third', 'from the registry');
is(query(q{SELECT to_regclass('_avcurate.history_2') IS NULL}), 't', 'and its history');
is(archived(), 20, 'and its images');
query('DROP MATERIALIZED VIEW third');
is(archived(), 0, 'the images of a dropped slice go at once when nothing pins it');

# ---- tombstones
query(q{SELECT avcurate.create_slice('fourth', 'frames', 'true'); DELETE FROM frames WHERE frame_id IN (SELECT frame_id FROM frames ORDER BY 1 LIMIT 3)});
is(query('SELECT count(*) FROM _avcurate.tombstones'), 3, 'deleted frames are remembered');
prune(q{'fourth', 1});
is(query('SELECT count(*) FROM _avcurate.tombstones'), 3, 'until the slice knows');
query(q{SELECT avcurate.refresh_slice('fourth')});
prune(q{'fourth', 1});
is(query('SELECT count(*) FROM _avcurate.tombstones'), 0, 'and no longer');
$node->stop;
done_testing();
