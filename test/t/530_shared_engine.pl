# One engine for all backends: started on demand, shared, lost, started again.
use strict;
use warnings;
use Cwd;
use IO::Socket::UNIX;
use IPC::Run qw(start timeout);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib $FindBin::Bin;
use JobTest;
use ServiceTest;

my $node = PostgreSQL::Test::Cluster->new('shared_engine');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', "max_worker_processes = 12\navcurate.threads = 1\nfsync = off");
$node->start;
small_network($node);
my $socket = $node->data_dir . '/pgsql_tmp_avcurate/cpu.sock';

sub ask { return $node->safe_psql('postgres', ask_sql(@_)) }

# --- one worker, however many ask first
is(workers($node), '', 'nothing runs before the first call');
my @first = map { begin($node, ask_sql($_)) } 1 .. 8;
my @results = map { (end_of($_))[0] } @first;
is(scalar(grep { /^[1-9]\d*\|\w{32}$/ } @results), 8, 'eight first calls at once are answered');
like(workers($node), qr/^\d+$/, 'by one worker');
my $engine = engine($node);
ok($engine, 'with one engine');
is((stat($node->data_dir . '/pgsql_tmp_avcurate'))[2] & 0777, 0700, 'its folder is the server\'s alone');
my @links = map { readlink($_) // '' } glob "/proc/$engine/fd/*";
is(scalar(grep { m{pgdata|base/|pg_wal|\(deleted\)|\.owner|\.sock} } @links), 0, 'the engine has no file of the server open');
is(scalar(grep { /^socket:/ } @links), 1, 'and one socket');

# --- the numbers are those of evaluate, alone or in company
$node->safe_psql('postgres', q{SELECT avcurate.create_slice('all_frames', 'frames', 'true')});
my $evaluation = $node->safe_psql('postgres', q{SELECT avcurate.evaluate(1, 'all_frames')});
$node->safe_psql('postgres', "SELECT avcurate.wait_job($evaluation)");
my $differences = qq{
	WITH here AS (SELECT f.frame_id, d.category, d.score, ARRAY[d.x1, d.y1, d.x2, d.y2] AS box,
			row_number() OVER (PARTITION BY frame_id ORDER BY round(d.score::numeric, 4) DESC, d.category, d.x1) AS n
		FROM frames f, avcurate.detect(f.image_bytes, 1) d),
	there AS (SELECT frame_id, category, score, box,
			row_number() OVER (PARTITION BY frame_id ORDER BY round(score::numeric, 4) DESC, category, box[1]) AS n
		FROM avcurate.matches WHERE evaluation = $evaluation AND kind <> 'missed')
	SELECT count(*) > 1000, count(*) FILTER (WHERE here.category IS DISTINCT FROM there.category
		OR abs(here.score - there.score) > 1e-6 OR NOT (SELECT bool_and(abs(a - b) < 1e-4) FROM unnest(here.box, there.box) u (a, b))),
		count(*) FILTER (WHERE here = there) > 0.9 * count(*)
	FROM here FULL JOIN there USING (frame_id, n)};
is($node->safe_psql('postgres', $differences), 't|0|t', 'detect gives what evaluate found');
is($node->safe_psql('postgres', qq{BEGIN; SELECT count(avcurate.detect_ahead(image_bytes, 1)::text) FROM frames; $differences; COMMIT}), "24\nt|0|t",
	'and so do batches of images sent ahead');
is($node->safe_psql('postgres', q{
	SELECT count(*) FROM frames f WHERE avcurate.person_bbox_area_pct(f.image_bytes, 1, 0) IS DISTINCT FROM
		(SELECT coalesce(max((d.x2::float8 - d.x1) * (d.y2::float8 - d.y1)), 0) * 100 / 160 / 96
		FROM avcurate.detect(f.image_bytes, 1, 0) d WHERE d.category = 'person')::real}), '0', 'person_bbox_area_pct is the largest of them');
is($node->safe_psql('postgres', q{SET force_parallel_mode = on; SELECT count(avcurate.person_bbox_area_pct(image_bytes, 1)) FROM frames}), '24',
	'parallel workers ask too');
my $before = ask(1);

# --- a picture that cannot be decoded is its own matter
$node->safe_psql('postgres', q{CREATE TABLE cut AS SELECT substr(image_bytes, 1, length(image_bytes) - 900) AS image_bytes FROM frames WHERE frame_id = 2});
my ($rc, $out, $err) = $node->psql('postgres', qq{BEGIN;
	SELECT count(avcurate.detect_ahead(image_bytes, 1)::text) FROM (SELECT image_bytes FROM frames WHERE frame_id < 9 UNION ALL TABLE cut) i;
	SAVEPOINT s; SELECT avcurate.person_bbox_area_pct(image_bytes, 1) FROM cut; ROLLBACK TO s;} . ask_sql(1), on_error_stop => 0);
like($err, qr/ERROR: .*(premature end|corrupt|truncated|damaged|cut)/i, 'a cut JPEG is an error');
like($out, qr/\Q$before\E/, 'of its own, not of its neighbours');
is(engine($node), $engine, 'the engine goes on');

# --- two databases, two roles
$node->safe_psql('postgres', 'CREATE DATABASE other');
small_network($node, 'other');
is($node->safe_psql('other', ask_sql(1)), $before, 'another database gets the same from the same weights');
is(engine($node), $engine, 'of the same engine');
$node->safe_psql('postgres', q{CREATE ROLE curator; GRANT SELECT ON frames, cut TO curator});
($rc, $out, $err) = $node->psql('postgres', 'SET ROLE curator; ' . ask_sql(1));
like($err, qr/permission denied for model "m"/, 'loaded or not, a role needs the right to the model');
$node->safe_psql('postgres', q{SET ROLE curator; SELECT avcurate.create_model('small_one', 'small', '{"min_size": 96, "max_size": 160}'); SELECT avcurate.create_checkpoint('small_one', 7)});
$node->safe_psql('postgres', q{SET ROLE curator; SELECT avcurate.create_model('strict', 'small', '{"min_size": 96, "max_size": 160, "box_score_thresh": 0.2}'); SELECT avcurate.create_checkpoint('strict', 7)});
my @both = map { begin($node, "SET ROLE curator; " . ask_sql(1, $_)) } 2, 3;
my ($loose, $strict) = map { (end_of($_))[0] } @both;
isnt($loose, $strict, 'equal weights under other options are another network');
is($node->safe_psql('postgres', q{SELECT count(DISTINCT provenance ->> 'weights_sha256') FROM avcurate.checkpoints WHERE checkpoint IN (2, 3)}), '1', 'though the weights are equal');

# --- the engine dies under a call
sub stop_engine
{
	my $pid = engine($node);
	kill 'STOP', $pid;
	return $pid;
}
my $stopped = stop_engine();
my $call = begin($node, ask_sql(1));
runs($node, '%detect(f.image\_bytes%');
kill 'KILL', $stopped;
($out, $err) = end_of($call);
like($err, qr/ERROR:  shared engine was lost: engine was ended by signal 9/, 'a killed engine is an error of the call in flight');
like($err, qr/HINT:/, 'with a hint');
is(ask(1), $before, 'the next call has an answer');
isnt(engine($node), $stopped, 'of a fresh engine');
kill 'KILL', engine($node);
is(ask(2), $results[1], 'an engine that dies between calls is not noticed');

# --- the engine hangs (which is noticed after 5 seconds without any of this)
$stopped = stop_engine();
my $start = time;
($rc, $out, $err) = $node->psql('postgres', q{SET statement_timeout = 300; } . ask_sql(3));
like($err, qr/canceling statement due to statement timeout/, 'statement_timeout ends a call to an engine that hangs');
cmp_ok(time - $start, '<', 4.5, 'in time');
is(ask(3), $results[2], 'the next call has an answer');
cmp_ok(time - $start, '<', 20, 'soon');
ok(is_gone($stopped), 'the engine that hung is gone');

$stopped = stop_engine();
# one behind the other: whoever the engine works for when it is lost has an error
$call = begin($node, ask_sql(4));
runs($node, '%frame\_id = 4%');
my $other = begin($node, ask_sql(5));
runs($node, '%frame\_id = 5%');
$start = time;
$node->safe_psql('postgres', q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%frame\_id = 4%' AND pid <> pg_backend_pid()});
($out, $err) = end_of($call);
like($err, qr/canceling statement due to user request/, 'a cancel acts');
cmp_ok(time - $start, '<', 4.5, 'at once');
$call = begin($node, ask_sql(6));
runs($node, '%frame\_id = 6%');
$start = time;
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%frame\_id = 6%' AND pid <> pg_backend_pid()});
($out, $err) = end_of($call);
like($err, qr/terminating connection due to administrator command/, 'so does a termination');
cmp_ok(time - $start, '<', 4.5, 'at once');
($out, $err) = end_of($other);
is($out || $err, $results[4], 'who asked after the one that was cancelled gets an answer');

# --- the worker is terminated
my $worker = workers($node);
$stopped = stop_engine();
$call = begin($node, ask_sql(7));
runs($node, '%frame\_id = 7%');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
($out, $err) = end_of($call);
is($out, $results[6], 'a call outlives the worker');
ok(is_gone($stopped), 'its engine does not');
isnt(workers($node), $worker, 'there is another');

# --- settings
configure($node, q{avcurate.engine_memory_limit = '6MB'});
($rc, $out, $err) = $node->psql('postgres', ask_sql(1));
like($err, qr/ERROR:  detector needs \d+ bytes, the limit is 6291456 /, 'the memory limit is kept');
like($err, qr/HINT:  Raise avcurate.engine_memory_limit/, 'and named');
configure($node, q{avcurate.engine_memory_limit = '48MB'});
my @turns = map { $node->safe_psql('postgres', ask_sql(1, $_)) } 1, 2, 3, 1, 2, 3;
is("@turns", "$before $loose $strict $before $loose $strict", 'networks that do not fit together take turns');
my ($peak) = map { /(\d+)/ ? $1 / 1024 : () } grep { /^VmHWM/ } split /\n/, slurp_file('/proc/' . engine($node) . '/status');
cmp_ok($peak, '<', 48 + 150, "the engine stays near its limit of 48 MB ($peak MB with its libraries)");
configure($node, 'avcurate.engine_memory_limit = DEFAULT', q{avcurate.engine_path = '/nowhere/engine'});
($rc, $out, $err) = $node->psql('postgres', ask_sql(1));
like($err, qr{ERROR:  could not start engine "/nowhere/engine"}, 'an engine that is not there is one clear error');
configure($node, q{avcurate.engine_path = DEFAULT});
is(ask(1), $before, 'and is found again');

my ($in, $said) = (ask_sql(1) . ";\n", '');
my $session = start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') ], '<', \$in, '>', \$said, timeout(60));
$session->pump until $said =~ /\|\w{32}/;
$engine = engine($node);
$worker = workers($node);
configure($node, 'avcurate.engine_idle_timeout = 1');
ok(poll($node, q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'avcurate shared engine'}, '0'), 'an idle engine is stopped');
ok(is_gone($engine), 'for good');
ok(!-e $socket, 'and its socket is taken away');
configure($node, 'avcurate.engine_idle_timeout = 60');
$said = '';
$in .= ask_sql(1) . ";\n\\q\n";
$session->finish;
like($said, qr/\Q$before\E/, 'a session that used it before starts another');

# --- garbage at the door
# from its folder: the whole path may be too long for an address
sub knock
{
	my $here = getcwd();
	chdir $node->data_dir . '/pgsql_tmp_avcurate' or die "chdir: $!";
	my $client = IO::Socket::UNIX->new(Peer => 'cpu.sock');
	chdir $here;
	return $client;
}
foreach my $garbage ('x' x 200, pack('VvvVVQ<', 0x45435641, 1, 4, 2, 0, 5 << 30) . '{}', pack('VvvVVQ<', 0x45435641, 1, 4, 2, 0, 4) . '{}abcd',
	pack('VvvVVQ<', 0x45435641, 1, 2, 60 << 20, 0, 0))
{
	my $client = knock() or die "no socket: $!";
	print $client $garbage;
	$client->flush;
	shutdown $client, 1;
	my $answer = '';
	1 while sysread $client, $answer, 1000, length $answer;
	is(length $answer, 24 + length '{"id": 0}', 'garbage is answered by nothing but the greeting');
}
my $half = knock() or die "no socket: $!";
print $half pack('VvvVVQ<', 0x45435641, 1, 4, 2, 0, 1 << 29) . '{';
$half->flush;
is(ask(1), $before, 'who sends half a request holds nobody up');
close $half;

# --- what doctor says
is($node->safe_psql('postgres', q{SELECT ok, detail ~ '^running on cpu, \d+ networks? loaded, \d+ requests? in \d+ batch(es)?' FROM avcurate.doctor() WHERE check_name = 'shared engine'}),
	't|t', 'doctor tells of the shared engine');

# --- a hot standby
$node->backup('base');
ok(!-e $node->backup_dir . '/base/pgsql_tmp_avcurate', 'a base backup leaves its folder out');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
is($standby->safe_psql('postgres', ask_sql(1)), $before, 'a hot standby has an engine of its own');
$standby->stop;

# --- features
$node->safe_psql('postgres', q{SET avcurate.detector = 1;
	SELECT avcurate.add_feature('frames', 'person_pct', 'avcurate.person_bbox_area_pct(image_bytes, min_score => 0)');
	SELECT avcurate.add_feature('frames', 'found', '(SELECT count(*) FROM avcurate.detect(image_bytes, min_score => 0))');
	SELECT avcurate.add_feature('frames', 'checked', 'CASE WHEN person_pct > 0 THEN (SELECT max(score) FROM avcurate.detect(image_bytes)) END');
	SET avcurate.detector = 3;
	CALL avcurate.backfill('frames')});
is($node->safe_psql('postgres', q{SELECT count(*) FROM frames WHERE person_pct IS DISTINCT FROM avcurate.person_bbox_area_pct(image_bytes, 1, 0)
	OR found IS DISTINCT FROM (SELECT count(*) FROM avcurate.detect(image_bytes, 1, 0))}), '0', 'features keep to the checkpoint that was meant when they were added');
like($node->safe_psql('postgres', q{SELECT expression FROM avcurate.features WHERE feature = 'person_pct'}), qr/'1'::bigint/, 'and show it');
$node->safe_psql('postgres', q{UPDATE frames SET image_bytes = (SELECT image_bytes FROM cut) WHERE frame_id = 5; CALL avcurate.backfill('frames')});
is($node->safe_psql('postgres', q{SELECT feature, frame_id FROM avcurate.feature_errors ORDER BY 1}), "found|5\nperson_pct|5", 'a frame that cannot be decoded fails alone');
is($node->safe_psql('postgres', q{SELECT count(*) FROM frames WHERE person_pct IS NULL}), '1', 'the others are computed');

# --- the server dies
$engine = engine($node);
$worker = workers($node);
$node->kill9;
ok(is_gone($engine), 'no engine outlives the postmaster');
ok(is_gone($worker), 'nor a worker');
my $here = getcwd();
chdir $node->data_dir . '/pgsql_tmp_avcurate' or die "chdir: $!";
unlink 'cpu.sock';
IO::Socket::UNIX->new(Local => 'cpu.sock', Listen => 1) or die "no socket: $!";
chdir $here;
ok(-e $socket, 'a socket that nobody listens to lies there');

# --- no worker slot
$node->append_conf('postgresql.conf', 'max_worker_processes = 1');
$node->start;
($rc, $out, $err) = $node->psql('postgres', ask_sql(1));
like($err, qr/ERROR:  could not start the shared engine: no worker slot of the server is free/, 'without a worker slot there is one clear error');
like($err, qr/HINT:  Raise max_worker_processes/, 'with a hint');
$node->append_conf('postgresql.conf', 'max_worker_processes = 12');
$node->restart;
is(ask(1), $before, 'a restarted server starts over a socket left behind');
$engine = engine($node);
$node->stop;
ok(is_gone($engine), 'a server that stops takes its engine along');

done_testing();
