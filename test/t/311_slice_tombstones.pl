# Notes of deleted frames go once nobody needs them, and not before.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use OracleSession;
use SliceTest;

my $node = PostgreSQL::Test::Cluster->new('tombstones');
$node->init;
$node->append_conf('postgresql.conf', qq{
autovacuum = off
fsync = off
avcurate.refresh_full_threshold = 1
});
$node->start;
$node->safe_psql('postgres', SliceTest::setup_sql());
$node->safe_psql('postgres', q{
SELECT avcurate.create_dataset('frames');
SELECT add_frames(1000);
SELECT avcurate.create_slice('night', 'frames', $$timeofday = 'night'$$);
SELECT avcurate.create_slice('rare', 'frames', $$weather = 'rainy'$$);
});

sub sql { return $node->safe_psql('postgres', "SET client_min_messages = warning;\n$_[0]") }
sub last_line { return (split /\n/, sql($_[0]))[-1] }
my $left = 'SELECT count(*) FROM _avcurate.tombstones;';

# Delete frames of both slices; that many, and the newest ones.
sub delete_frames
{
	my ($n) = @_;
	return "DELETE FROM frames WHERE frame_id IN (SELECT frame_id FROM frames
		WHERE timeofday = 'night' AND weather = 'rainy' ORDER BY 1 DESC LIMIT $n);";
}

# What a refresh does when there are many: whatever is not needed goes.
sub prune { return "SELECT count(*) FROM avcurate.prune_slice('night');" }

sub refreshed
{
	my ($slice) = @_;
	return last_line("SELECT mode AS how FROM avcurate.explain_refresh('$slice') \\gset
		SELECT avcurate.refresh_slice('$slice'); SELECT check_fresh('$slice'); SELECT :'how';");
}

# ---- every slice must have seen it ----

sql(delete_frames(10));
is(refreshed('night'), 'incremental', 'one slice has seen them');
is(last_line(prune() . $left), '10', 'the other one has not');
is(refreshed('rare'), 'incremental', 'now both have');
is(last_line(prune() . $left), '0', 'and they are gone');
is(refreshed('rare'), 'none', 'nobody misses them');

# a dataset without slices
sql(q{SELECT avcurate.create_dataset('others');
	INSERT INTO others (image_id, split, image_bytes) SELECT i::text, 'train', jpeg(i::text) FROM generate_series(1, 20) i;
	SELECT avcurate.create_slice('other', 'others', 'true'); DROP MATERIALIZED VIEW other; DELETE FROM others;});
is(last_line($left), '20', 'a dataset that has no slice any more');
is(last_line(prune() . $left), '0', 'needs none');

# ---- transactions that are open ----

my $other = OracleSession->new($node, 'other', client_min_messages => 'warning');
sub meanwhile { my ($out, $err) = $other->ask($_[0]); is($err, '', 'the other session goes on') if $err; return }

# a slice that nobody sees yet
meanwhile("BEGIN; SELECT avcurate.create_slice('fresh', 'frames', 'true');");
sql(delete_frames(10));
refreshed($_) foreach 'night', 'rare';
is(last_line(prune() . $left), '10', 'a slice that is being made may need them');
meanwhile('COMMIT;');
is(refreshed('fresh'), 'incremental', 'and did');
is(last_line(prune() . $left), '0', 'afterwards they are gone');

# a snapshot from before, of a refresh to come
meanwhile("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM saved;");
sql(delete_frames(10));
refreshed($_) foreach 'night', 'rare', 'fresh';
is(last_line(prune() . $left), '10', 'a snapshot that does not see them deleted');
meanwhile("SELECT avcurate.create_slice('late', 'frames', 'true'); COMMIT;");
is(refreshed('late'), 'incremental', 'made a slice that needed them');
is(last_line(prune() . $left), '0', 'afterwards they are gone');

# a refresh whose snapshot is released and that has not committed
meanwhile("BEGIN; SELECT avcurate.refresh_slice('night');");
sql(delete_frames(10));
refreshed($_) foreach 'rare', 'fresh', 'late';
is(last_line(q{SELECT count(*) FROM avcurate.prune_slice('rare');} . $left), '10', 'a refresh that is not committed');
meanwhile('COMMIT;');
is(refreshed('night'), 'incremental', 'its slice needed them');

# pruning that is not committed, and one beside it, of what neither refreshes
sql(q{SELECT avcurate.create_dataset('thirds'); SELECT avcurate.create_slice('third', 'thirds', 'true');
	INSERT INTO others (image_id, split, image_bytes) SELECT i::text, 'train', jpeg(i::text) FROM generate_series(1, 20) i; DELETE FROM others;});
meanwhile('BEGIN;' . prune());
is(last_line(q{SET lock_timeout = '10s'; SELECT count(*) FROM avcurate.prune_slice('third');} . $left), '30',
	'two at once do not wait for each other');
meanwhile('ROLLBACK;');
is(last_line($left), '30', 'rolled back');
is(last_line(prune() . $left), '0', 'and done');

# ---- by itself ----

sql('SELECT add_frames(30000); DROP MATERIALIZED VIEW rare, fresh, late;');
refreshed('night');
sql('DELETE FROM frames WHERE frame_id % 8 < 5;');
my $many = sql($left);
is(refreshed('night'), 'incremental', 'many are deleted');
is(sql($left), '0', "a refresh that meets many tombstones ($many) prunes them");
sql('VACUUM _avcurate.tombstones');
sql(delete_frames(5));
is(refreshed('night'), 'incremental', 'few are deleted');
is(sql($left), '5', 'few are left alone');

$other->end;
$node->stop;
unlike(slurp_file($node->logfile), qr/leak|not closed|still active|snapshot reference|PANIC|signal 11/, 'nothing is left open');
done_testing();
