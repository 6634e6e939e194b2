# Refresh by difference where files that are new are written without WAL, where
# snapshots may become too old, and where transaction numbers jump.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use OracleSession;
use SliceTest;

my $node = PostgreSQL::Test::Cluster->new('minimal');
$node->init;
$node->append_conf('postgresql.conf', qq{
wal_level = minimal
max_wal_senders = 0
wal_skip_threshold = 0
autovacuum = off
avcurate.refresh_full_threshold = 1
});
$node->start;
$node->safe_psql('postgres', SliceTest::setup_sql());
$node->safe_psql('postgres', q{
SELECT avcurate.create_dataset('frames');
SELECT add_frames(300);
SELECT avcurate.create_slice('night', 'frames', $$timeofday = 'night'$$);
CREATE TABLE noise (n int);
CREATE FUNCTION scene(id bigint, s text) RETURNS void LANGUAGE sql AS
	'UPDATE frames SET scene = s WHERE frame_id = id';
});

sub sql { return $node->safe_psql('postgres', "SET client_min_messages = warning;\n$_[0]") }

sub refreshed
{
	return (split /\n/, sql("SELECT concat_ws(' ', mode, changed_rows) AS how FROM avcurate.explain_refresh('night') \\gset
		SELECT avcurate.refresh_slice('night'); SELECT check_fresh('night'); SELECT :'how';"))[-1];
}
my $refresh = "SELECT avcurate.refresh_slice('night');";
my $page_lsn = q{SELECT count(*) FROM generate_series(0, pg_relation_size('frames') / 8192 - 1) b
	WHERE (page_header(get_raw_page('frames', b::int))).lsn = '0/0'};
sql('CREATE EXTENSION pageinspect');

sql("$refresh SELECT scene(1, 'x'); DELETE FROM frames WHERE frame_id = 3;");
is(refreshed(), 'incremental 2', 'by difference');

# one transaction makes the file and refreshes in the middle of writing to it
sql("BEGIN; CLUSTER frames USING frames_pkey; SELECT scene(1, 'in 1'); $refresh
	SELECT scene(5, 'in 2'); DELETE FROM frames WHERE frame_id = 7; $refresh
	SELECT scene(9, 'in 3'); DELETE FROM frames WHERE frame_id = 11; SELECT add_frames(20); COMMIT;");
cmp_ok(sql($page_lsn), '>', 0, 'pages were written without WAL');
is(refreshed(), 'full', 'the transaction that made the file left no watermark');
sql("SELECT scene(1, 'after'); SELECT scene(5, 'after');");
is(refreshed(), 'incremental 2', 'by difference after it');

# a snapshot from before a file that was written without WAL
my $old = OracleSession->new($node, 'old', client_min_messages => 'warning');
$old->ask('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM noise;');
sql('BEGIN; TRUNCATE frames; SELECT add_frames(200); COMMIT; INSERT INTO noise VALUES (1);');
cmp_ok(sql($page_lsn), '>', 0, 'pages were written without WAL');
my ($out, $err) = $old->ask($refresh);
like($err, qr/could not serialize access due to concurrent truncation/, 'an older snapshot is refused');
$old->ask('ROLLBACK;');
is(refreshed(), 'full', 'a newer one reads it all');
$old->end;

# subtransactions that make the file
sql("BEGIN; SAVEPOINT a; CLUSTER frames; SELECT scene(min(frame_id), 's 1') FROM night; RELEASE a; $refresh
	SELECT scene(min(frame_id), 's 2') FROM night; COMMIT;");
is(refreshed(), 'full', 'a file made in a subtransaction');
sql("BEGIN; SAVEPOINT a; CLUSTER frames; SELECT scene(min(frame_id), 's 3') FROM night; ROLLBACK TO a;
	SELECT scene(max(frame_id), 's 4') FROM night; COMMIT;");
is(refreshed(), 'incremental 1', 'a file that is given up again');

# crash: files without WAL are on disk, the rest is replayed
sql("BEGIN; CLUSTER frames; SELECT scene(min(frame_id), 'c 1') FROM night; COMMIT; $refresh
	SELECT scene(min(frame_id), 'c 2') FROM night; DELETE FROM frames WHERE frame_id = (SELECT max(frame_id) FROM night);");
$node->stop('immediate');
$node->start;
is(refreshed(), 'incremental 2', 'after a crash');

# ---- snapshots that may become too old ----

sub touched
{
	my $plan = sql(q{SELECT count(*) FROM avcurate.explain_refresh('night');
		EXPLAIN (ANALYZE, BUFFERS, COSTS off, TIMING off) SELECT avcurate.explain_refresh('night');});
	return $plan =~ /Buffers: shared hit=(\d+)(?: read=(\d+))?/ ? $1 + ($2 || 0) : die $plan;
}
sql("SELECT add_frames(2000); $refresh VACUUM frames; SELECT add_frames(2); $refresh");
my $pages = sql("SELECT pg_relation_size('frames') / 8192");
cmp_ok(touched(), '<', $pages / 2, 'pages that are all-visible are not read');
$node->append_conf('postgresql.conf', 'old_snapshot_threshold = 60');
$node->restart;
cmp_ok(touched(), '>', $pages, 'unless VACUUM may call rows all-visible that a snapshot does not see');
sql("SELECT scene(min(frame_id), 'old') FROM night; VACUUM frames;");
is(refreshed(), 'incremental 1', 'by difference all the same');

# ---- so many transactions later that tuples do not tell ids apart ----

sql("SELECT scene(min(frame_id), 'long ago') FROM night; $refresh");
$node->stop;
my $far = 1_200_000_000;
my $segment = sprintf '%04X', $far / (8192 * 4 * 32);
append_to_file($node->data_dir . "/pg_xact/$segment", "\0" x (8192 * 32));
command_ok([ 'pg_resetwal', '-x', $far, $node->data_dir ], 'transaction numbers jump');
$node->start;
is(refreshed(), 'full', 'too many transactions');
sql("SELECT scene(min(frame_id), 'now') FROM night; DELETE FROM frames WHERE frame_id = (SELECT max(frame_id) FROM night);");
is(refreshed(), 'incremental 2', 'by difference again');
sql("VACUUM (FREEZE) frames; SELECT scene(min(frame_id), 'later') FROM night;");
is(refreshed(), 'incremental 1', 'and after freezing');
$node->stop;
unlike(slurp_file($node->logfile), qr/leak|not closed|still active|snapshot reference|PANIC|signal 11/, 'nothing is left open');
done_testing();
