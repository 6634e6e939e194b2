# Erasing beside refreshes, slices being made, evaluations and other erasures;
# dump, standby, and what is left in the files.
use strict;
use warnings;
use File::Find;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use FindBin;
use lib $FindBin::Bin;
use OracleSession;
use SliceTest;

my $node = PostgreSQL::Test::Cluster->new('eraser');
$ENV{FAKE_ENGINE_ANSWERS} = $node->basedir . '/answers';
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', "autovacuum = off\nfull_page_writes = off\nwal_compression = off\n"
	  . "max_worker_processes = 16\n");
$node->start;
sub query { return $node->safe_psql('postgres', $_[0]) }
query(SliceTest::setup_sql());

# Scripts of single lines, ended for them.
{
	package Session;
	our @ISA = ('OracleSession');
	sub feed { return $_[0]->SUPER::feed("$_[1];") }
}

# Until somebody waits for a lock.
sub wait_for_waiter
{
	my (@sessions) = @_;
	foreach (1 .. 600)
	{
		$_->poll foreach @sessions;
		return if query(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'}) > 0;
		usleep(50_000);
	}
	die join "\n", 'nobody waits', map { $_->taken } @sessions;
}

# Rows of tables and views that hold the text.
query(q{
SET check_function_bodies = off;
CREATE FUNCTION traces(marker text) RETURNS TABLE (relation text, rows bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR relation IN SELECT c.oid::regclass FROM pg_class c
		WHERE c.relkind IN ('r', 'm') AND c.relnamespace::regnamespace::text IN ('public', '_avcurate') ORDER BY 1 LOOP
		EXECUTE format('SELECT count(*) FROM %s t WHERE strpos(t::text, %L) > 0 OR strpos(t::text, %L) > 0',
			relation, marker, encode(convert_to(marker, 'UTF8'), 'hex')) INTO rows;
		IF rows > 0 THEN RETURN NEXT; END IF;
	END LOOP;
END $$;
-- one more frame of the night, known by the text
CREATE FUNCTION add_known(known text) RETURNS bigint LANGUAGE sql AS $$
	INSERT INTO frames (image_id, split, timeofday, scene, image_bytes, ann_categories, ann_bboxes)
	VALUES (known, 'train', 'night', known || ' scene', jpeg(known || ' image'), '{}', '{}') RETURNING frame_id
$$;
SELECT avcurate.create_dataset('frames');
SELECT add_frames(40);
SELECT avcurate.create_slice('night', 'frames', $$timeofday = 'night'$$);
SELECT avcurate.create_slice('every', 'frames', 'true');
});

sub check_all
{
	my ($what) = @_;
	is(query(q{SELECT v.slice, v.version, c.detail FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c WHERE NOT c.verified}),
		'', "$what: every version verifies");
	return;
}

# ---- two at a time
my ($a, $b, $c) = map { Session->new($node, $_) } 'a', 'b', 'c';
my $frame = query(q{SELECT add_known('first')});
query('SELECT count(*) FROM avcurate.refresh_slices()');
$a->ask("BEGIN; SELECT count(*) FROM avcurate.erase_frame('frames', $frame, 'a')");
$b->feed("SELECT count(*) FROM avcurate.erase_frame('frames', $frame, 'b')");
wait_for_waiter($a, $b);
$a->ask('COMMIT');
$b->settle;
like(join('', $b->taken), qr/ERROR:  neither dataset public.frames nor any version of its slices has frame $frame/, 'the second of two erasures finds nothing');
is(query(q{SELECT string_agg(reason, ',') FROM avcurate.erasures}), 'a', 'and logs nothing');
$frame = query(q{SELECT add_known('second')});
query('SELECT count(*) FROM avcurate.refresh_slices()');
$a->ask("BEGIN; SELECT count(*) FROM avcurate.erase_frame('frames', $frame, 'a')");
$b->feed("SELECT count(*) FROM avcurate.erase_frame('frames', $frame, 'b')");
wait_for_waiter($a, $b);
$a->ask('ROLLBACK');
$b->settle;
unlike(join('', $b->taken), qr/ERROR/, 'unless the first is rolled back');
is(query(q{SELECT * FROM traces('second')}), '', 'erased by the second');

# ---- a refresh is open
$frame = query(q{SELECT add_known('third')});
$a->ask(q{BEGIN; SELECT avcurate.refresh_slice('night')});
$b->feed("SELECT count(*) FROM avcurate.erase_frame('frames', $frame, 'b')");
wait_for_waiter($a, $b);
$a->ask('COMMIT');
$b->settle;
unlike(join('', $b->taken), qr/ERROR/, 'an erasure waits for a refresh');
is(query(q{SELECT * FROM traces('third')}), '', 'and takes out what it put in');
check_all('after a refresh');

# ---- a refresh waits, with a snapshot that sees the frame
foreach my $way ('REFRESH MATERIALIZED VIEW night', 'REFRESH MATERIALIZED VIEW CONCURRENTLY night',
	q{SELECT avcurate.refresh_slice('night')}, q{SELECT count(*) FROM avcurate.refresh_slices()})
{
	$frame = query(q{SELECT add_known('fourth')});
	# the view lacks it, or has an older content of it
	query('SELECT count(*) FROM avcurate.refresh_slices()') if $way =~ /CONCURRENTLY|slices/;
	query("UPDATE frames SET weather = 'storm' WHERE frame_id = $frame; SELECT add_frames(2)");
	$a->ask("BEGIN; SELECT count(*) FROM avcurate.erase_frame('frames', $frame, 'a')");
	$b->feed($way);
	wait_for_waiter($a, $b);
	$a->ask('COMMIT');
	$b->settle;
	unlike(join('', $b->taken), qr/ERROR/, "$way waits for an erasure");
	is(query(q{SELECT * FROM traces('fourth')}), '', 'and does not bring the frame back');
	query(q{SELECT check_fresh('night')});
}
check_all('after waiting refreshes');

# in a transaction with one snapshot
$frame = query(q{SELECT add_known('fifth')});
$b->ask(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM night});
query("SELECT count(*) FROM avcurate.erase_frame('frames', $frame, 'a')");
like(join('', $b->ask(q{REFRESH MATERIALIZED VIEW night})), qr/ERROR:  could not serialize access/, 'a snapshot from before an erasure cannot refresh');
$b->ask('ROLLBACK');
like(join('', $b->ask(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM avcurate.erase_frame('frames', 1, 'x')})),
	qr/ERROR:  erase_frame\(\) must run in a READ COMMITTED transaction/, 'nor can it erase');
$b->ask('ROLLBACK');

# ---- slices being made
$frame = query(q{SELECT add_known('sixth')});
$a->ask(q{BEGIN; SELECT avcurate.create_slice('newer', 'frames', 'true')});
$b->feed("SELECT object_kind, object FROM avcurate.erase_frame('frames', $frame, 'b')");
wait_for_waiter($a, $b);
$a->ask('COMMIT');
$b->settle;
like(join('', $b->taken), qr/^slice\|public\.newer$/m, 'an erasure waits for a slice being made');
is(query(q{SELECT * FROM traces('sixth')}), '', 'and takes the frame out of it');
$frame = query(q{SELECT add_known('seventh')});
$a->ask("BEGIN; SELECT count(*) FROM avcurate.erase_frame('frames', $frame, 'a')");
$b->feed(q{SELECT avcurate.create_slice('newest', 'frames', 'true')});
wait_for_waiter($a, $b);
$a->ask('COMMIT');
$b->settle;
unlike(join('', $b->taken), qr/ERROR/, 'a slice being made waits for an erasure');
is(query(q{SELECT * FROM traces('seventh')}), '', 'and comes without the frame');
query('CREATE MATERIALIZED VIEW adopted AS SELECT * FROM frames; CREATE UNIQUE INDEX ON adopted (frame_id)');
$frame = query('SELECT max(frame_id) FROM frames');
$a->ask("BEGIN; SELECT count(*) FROM avcurate.erase_frame('frames', $frame, 'a')");
$b->feed(q{SELECT avcurate.track_slice('adopted')});
wait_for_waiter($a, $b);
$a->ask('COMMIT');
$b->settle;
like(join('', $b->taken), qr/ERROR:  materialized view "adopted" holds frame $frame, which was erased/, 'a view that was there before is not adopted');
query('DROP MATERIALIZED VIEW adopted, newer, newest');
check_all('after slices were made');

# ---- writers of the frame
$frame = query(q{SELECT add_known('eighth')});
query('SELECT count(*) FROM avcurate.refresh_slices()');
$a->ask("BEGIN; UPDATE frames SET image_bytes = jpeg('eighth again') WHERE frame_id = $frame");
$b->feed("SELECT count(*) FROM avcurate.erase_frame('frames', $frame, 'b')");
wait_for_waiter($a, $b);
$a->ask('COMMIT');
$b->settle;
is(query(q{SELECT * FROM traces('eighth')}), '', 'an image that was being replaced leaves no copy in the archive');
$frame = query(q{SELECT add_known('ninth')});
query('SELECT count(*) FROM avcurate.refresh_slices()');
$a->ask("BEGIN; DELETE FROM frames WHERE frame_id = $frame");
$b->feed("SELECT count(*) FROM avcurate.erase_frame('frames', $frame, 'b')");
wait_for_waiter($a, $b);
$a->ask('COMMIT');
$b->settle;
unlike(join('', $b->taken), qr/ERROR/, 'a frame that was being deleted is erased from what it leaves');
is(query(q{SELECT * FROM traces('ninth')}), '', 'all of it');
is(query('SELECT count(*) FROM _avcurate.archive'), 0, 'the archive is empty');

# ---- readers
$frame = query(q{SELECT add_known('tenth')});
query('SELECT count(*) FROM avcurate.refresh_slices()');
my $frames = query('SELECT count(*) FROM every');
my ($before) = $c->ask(q{SELECT count(*) FROM avcurate.batches('every', 8)});
$b->ask(q{BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1});
$a->ask("BEGIN; SELECT count(*) FROM avcurate.erase_frame('frames', $frame, 'a')");
my ($beside) = $c->ask(q{SELECT count(*), (SELECT count(*) FROM every), (SELECT verified FROM avcurate.verify_slice('every')) FROM avcurate.batches('every', 8)});
is($beside, "$frames|$frames|t\n", 'readers do not wait for an erasure and see the frame until it commits');
$a->ask('COMMIT');
my ($after) = $c->ask(q{SELECT count(*), (SELECT count(*) FROM every), (SELECT verified FROM avcurate.verify_slice('every')) FROM avcurate.batches('every', 8)});
is($after, ($frames - 1) . '|' . ($frames - 1) . "|t\n", 'and not after');
is(($b->ask(q{SELECT count(*), count(*) FILTER (WHERE convert_from(substr(image_bytes, 7, 5), 'UTF8') = 'tenth') FROM avcurate.batches('every', 8)}))[0],
	"$frames|1\n", 'a snapshot from before sees it whole');
$b->ask('ROLLBACK');
is(($b->ask(q{SELECT count(*) FROM avcurate.batches('every', 8)}))[0], ($frames - 1) . "\n", 'and then no more');

# ---- an evaluation that has read the frame
$frame = query(q{SELECT add_known('eleventh')});
query('SELECT count(*) FROM avcurate.refresh_slices()');
query(q{SELECT avcurate.create_model('m', 'small'); SELECT avcurate.create_checkpoint('m')});
open my $answers, '>', $ENV{FAKE_ENGINE_ANSWERS} or die "answers: $!";
print $answers "slow\n", map { qq($_ {"labels": [1], "scores": [0.5], "boxes": [[0, 0, 9, 9]]}\n) } 1 .. $frame;
close $answers;
$node->append_conf('postgresql.conf', "avcurate.engine_path = '$FindBin::Bin/fake_engine'\n");
$node->reload;
my $job = query(q{SELECT avcurate.evaluate(1, 'every')});
$node->poll_query_until('postgres', "SELECT count(*) > 0 FROM _avcurate.matches WHERE evaluation = $job AND frame_id <= 8")
  or die 'no matches';
my $early = query("SELECT min(frame_id) FROM _avcurate.matches WHERE evaluation = $job");
query("SELECT count(*) FROM avcurate.erase_frame('frames', $frame, 'not yet matched'); SELECT count(*) FROM avcurate.erase_frame('frames', $early, 'matched')");
$node->poll_query_until('postgres', "SELECT state IN ('failed', 'succeeded', 'pending') FROM avcurate.jobs WHERE job = $job");
my $message = query("SELECT string_agg(message, ' ') FROM avcurate.job_log WHERE job = $job") . query("SELECT error FROM avcurate.jobs WHERE job = $job");
like($message, qr/frames were erased from version \d+ of slice \S+ while it was evaluated/, 'an evaluation that has read an erased frame stops');
is(query("SELECT count(*) FROM _avcurate.matches WHERE frame_id IN ($frame, $early)"), 0, 'no match of it is left or comes after');
query("SELECT avcurate.cancel_job($job)") if query("SELECT state FROM avcurate.jobs WHERE job = $job") =~ /pending|running/;
my $again = query(q{SELECT avcurate.evaluate(1, 'every')});
query("SELECT avcurate.wait_job($again, '3 min')");
is(query("SELECT e.frames = s.rows - (SELECT count(*) FROM every WHERE ann_categories IS NULL) FROM avcurate.evaluations e JOIN avcurate.slices s USING (slice) WHERE evaluation = $again"),
	't', 'another one goes on with the rest');
$_->end foreach $a, $b, $c;

# ---- the files
my @values = ('telltale image', 'telltale scene', 'telltale id');
sub files_with
{
	my %found;
	query('CHECKPOINT');
	find(sub {
			return unless -f $_ && $File::Find::name =~ m{/base/};
			open my $in, '<:raw', $_ or return;
			local $/;
			my $bytes = <$in>;
			foreach my $value (@values)
			{
				$found{$value}++ if defined $bytes && index($bytes, $value) >= 0;
			}
		}, $node->data_dir . '/base');
	return \%found;
}
query(q{CREATE INDEX ON every (scene)});
$frame = query(q{INSERT INTO frames (image_id, split, timeofday, scene, image_bytes, ann_categories, ann_bboxes)
	VALUES ('telltale id', 'train', 'night', 'telltale scene', jpeg('telltale image'), '{}', '{}') RETURNING frame_id});
query('SELECT count(*) FROM avcurate.refresh_slices()');
query("UPDATE frames SET image_bytes = jpeg('telltale image 2') WHERE frame_id = $frame");
query('SELECT count(*) FROM avcurate.refresh_slices(); ANALYZE');
cmp_ok(files_with()->{$_} // 0, '>', 0, "the search finds the $_") foreach @values;
my ($rc, $out, $err) = $node->psql('postgres', "SELECT count(*) FROM avcurate.erase_frame('frames', $frame, 'asked for')");
my ($tables) = $err =~ /^HINT:  Then run, as owner of the database, (VACUUM \(FULL, ANALYZE\) .*)\.$/m;
ok($tables, 'the hint names tables') or diag $err;
is(query(q{SELECT * FROM traces('telltale')}), '', 'no row is left');
cmp_ok(files_with()->{$_} // 0, '>', 0, "the files still have the $_") foreach @values;
query($tables);
is_deeply(files_with(), {}, 'until the tables that the hint names are rewritten');
check_all('after VACUUM FULL');

# ---- dump and restore
my $state = q{SELECT slice::text, version, rows, erased, digest FROM avcurate.slice_versions ORDER BY 1, 2};
my $log = q{SELECT dataset, frame_id, erased_at, erased_by, reason, touched FROM avcurate.erasures ORDER BY erased_at};
my $verdicts = q{SELECT v.slice::text, c.* FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c ORDER BY 1, 2};
my $dump = $node->basedir . '/dump';
$node->command_ok(['pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres')], 'pg_dump');
query('CREATE DATABASE restored');
$node->command_ok(['pg_restore', '-d', $node->connstr('restored'), $dump], 'pg_restore');
is($node->safe_psql('restored', $state), query($state), 'the accounts are restored');
is($node->safe_psql('restored', $log), query($log), 'and the log');
is($node->safe_psql('restored', $verdicts), query($verdicts), 'every version verifies there, too');
like(query($verdicts), qr/\|t\|\d+ rows minus \d+ erased: rows and images match/, 'with what was erased');
$node->safe_psql('restored', q{SELECT add_frames(1); SELECT avcurate.refresh_slice('every'); SELECT check_fresh('every')});
is($node->safe_psql('restored', q{SELECT bool_and(c.verified) FROM avcurate.slice_versions v, avcurate.verify_slice(v.slice, v.version) c}), 't', 'and the next version');

# ---- pruning versions that lost frames
query(q{SELECT add_frames(3); SELECT count(*) FROM avcurate.refresh_slices()});
my $newest = query(q{SELECT max(version) FROM avcurate.slice_versions WHERE slice = 'every'::regclass});
query(q{SELECT avcurate.tag_slice('every', 3, 'kept')});
my $pinned = query("SELECT version FROM avcurate.evaluations WHERE evaluation = $again");
is(query(q{SELECT string_agg(version::text, ',' ORDER BY version) FROM avcurate.prune_slice('every', 1) WHERE NOT pruned}), "3,$pinned,$newest", 'versions are pruned');
is(query(qq{SELECT count(*) FROM _avcurate.history_2 WHERE to_version IS NOT NULL
	AND NOT EXISTS (SELECT FROM unnest(array[3, $pinned]) v WHERE from_version <= v AND v < to_version)}), 0, 'no row is left that no version holds');
check_all('after pruning');

# ---- a standby
$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('reader');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
query(q{SELECT count(*) FROM avcurate.erase_frame('frames', 2, 'seen by a standby')});
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', $verdicts), query($verdicts), 'a standby accounts for what was erased');
is($standby->safe_psql('postgres', q{SELECT count(*) FILTER (WHERE frame_id = 2), count(*) > 0 FROM avcurate.batches('every', 8)}), '0|t', 'and reads the rest');
like(($standby->psql('postgres', q{SELECT * FROM avcurate.erase_frame('frames', 5, 'x')}))[2], qr/cannot execute erase_frame\(\) (in a read-only transaction|during recovery)/, 'erasing is refused there');
$standby->stop;
$node->stop;
done_testing();
