# Refreshes that are cancelled, time out or lose their backend, at each of
# their stages: nothing has changed, and the next one is right.
use strict;
use warnings;
use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use SliceTest;

my $node = PostgreSQL::Test::Cluster->new('cancelled');
$node->init;
$node->append_conf('postgresql.conf', "avcurate.refresh_full_threshold = 1\n");
$node->start;
$node->safe_psql('postgres', SliceTest::setup_sql());
$node->safe_psql('postgres', q{
CREATE EXTENSION amcheck;
-- stops whoever comes by while somebody holds the lock of that number
CREATE FUNCTION gate(lock int) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	PERFORM pg_advisory_lock_shared(lock);
	PERFORM pg_advisory_unlock_shared(lock);
	RETURN true;
END $$;
CREATE FUNCTION gate_of(text, lock int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF $1 = 'tunnel' THEN PERFORM public.gate(lock); END IF;
	RETURN $1;
END $$;
SELECT avcurate.create_dataset('frames');
SELECT add_frames(60);
SELECT avcurate.create_slice('night', 'frames',
	$$timeofday = 'night' AND public.gate_of(scene, 1) IS NOT NULL$$);
-- evaluated while rows are written to the view
CREATE INDEX ON night (gate_of(scene, 2));
CREATE INDEX ON night (weather);
SELECT remember('night');
});

my $version_sql = q{SELECT version FROM avcurate.slices WHERE slice = 'night'::regclass};
my %held;

# A session that holds a lock until it is told to let it go.
sub hold
{
	my ($name, $sql) = @_;
	my $session = IPC::Run::start(['psql', '-qXAt', '-d', $node->connstr('postgres') . " application_name=$name", '-c', "$sql", '-c', 'SELECT pg_sleep(180)'],
		'>', \my $out, '2>', \my $err);
	$held{$name} = $session;
	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = '$name' AND wait_event = 'PgSleep'")
	  or die "$name does not hold its lock";
}

sub let_go
{
	my ($name) = @_;
	$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name = '$name'");
	$held{$name}->finish;
}

# Start statements; end them by $signal when they stand at a lock, or let them
# time out.
sub interrupt
{
	my ($sql, $signal, $expected, $label) = @_;
	my $script = $node->basedir . '/script.sql';
	unlink $script;
	append_to_file($script, $sql);
	my $session = IPC::Run::start(['psql', '-qXAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') . ' application_name=victim', '-f', $script],
		'>', \my $out, '2>', \my $err);
	if ($signal)
	{
		$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'victim' AND wait_event_type = 'Lock'})
		  or die "$label: does not wait";
		$node->safe_psql('postgres', "SELECT $signal(pid) FROM pg_stat_activity WHERE application_name = 'victim'");
	}
	$session->finish;
	like($err, $expected, "$label: ended");
}

sub check
{
	my ($label, $version) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "$version_sql; SELECT remember('night');");
	is("$out$err", "$version\n$version", "$label: version and view are as before");
	($rc, $out, $err) = $node->psql('postgres', q{SELECT writes(); SELECT avcurate.refresh_slice('night') \g /dev/null
		SELECT remember('night') \g /dev/null
		SELECT check_fresh('night') \g /dev/null
		SELECT mode FROM avcurate.slice_versions ORDER BY version DESC LIMIT 1;});
	is("$out$err", "\n$SliceTest::by_difference", "$label: the next refresh is right");
}

$node->safe_psql('postgres', q{
CREATE FUNCTION writes() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM add_frames(5);
	UPDATE frames SET timeofday = CASE timeofday WHEN 'night' THEN 'day' ELSE 'night' END
		WHERE frame_id % 13 = (SELECT max(frame_id) % 13 FROM frames);
	UPDATE frames SET scene = 'tunnel' WHERE frame_id % 7 = (SELECT max(frame_id) % 7 FROM frames);
	DELETE FROM frames WHERE frame_id = (SELECT min(frame_id) FROM frames WHERE timeofday = 'night');
END $$});

my $slice = "SELECT avcurate.refresh_slice('night');";
my $typed = 'REFRESH MATERIALIZED VIEW night;';
my %stage = (
	'definition' => 'SELECT pg_advisory_lock(1)',
	'view' => 'SELECT pg_advisory_lock(2)');
my $cancelled = qr/canceling statement due to user request/;
my $terminated = qr/terminating connection due to administrator command/;

foreach my $stage ('definition', 'view')
{
	foreach my $sql ($slice, $typed)
	{
		my $what = ($sql eq $slice ? 'refresh_slice' : 'REFRESH') . " at the $stage";
		$node->safe_psql('postgres', 'SELECT writes()');
		my $version = $node->safe_psql('postgres', $version_sql);
		hold('holder', $stage{$stage});
		interrupt($sql, 'pg_cancel_backend', $cancelled, "$what, cancelled");
		interrupt($sql, 'pg_terminate_backend', $terminated, "$what, terminated");
		interrupt("SET statement_timeout = '100ms'; $sql", '', qr/canceling statement due to statement timeout/, "$what, timed out");
		# caught, with more done in the same transaction
		interrupt("\\set ON_ERROR_STOP 0\nBEGIN; SELECT writes(); SAVEPOINT a; $sql\nROLLBACK TO a; SELECT writes(); ROLLBACK TO a; COMMIT;",
			'pg_cancel_backend', $cancelled, "$what, cancelled in a savepoint");
		let_go('holder');
		check($what, $version);
	}
}

# waiting for another refresh
my $version = $node->safe_psql('postgres', "SELECT writes(); $version_sql");
$version =~ s/\s//g;
hold('holder', "BEGIN; $slice");
foreach my $sql ($slice, $typed)
{
	my $what = $sql eq $slice ? 'refresh_slice' : 'REFRESH';
	interrupt($sql, 'pg_cancel_backend', $cancelled, "$what that waits, cancelled");
	interrupt("SET lock_timeout = '100ms'; $sql", '', qr/canceling statement due to lock timeout/, "$what that waits, timed out");
}
let_go('holder');
check('waiting', $version);

# a retry in the same session and the same transaction
$node->safe_psql('postgres', 'SELECT writes()');
hold('holder', $stage{definition});
interrupt("\\set ON_ERROR_STOP 0\n\\set VERBOSITY terse\nBEGIN; SAVEPOINT a; $slice\nROLLBACK TO a;\n"
	  . "DELETE FROM frames WHERE scene = 'tunnel'; $slice\nSELECT remember('night'), check_fresh('night'); COMMIT;",
	'pg_cancel_backend', qr/\A[^\n]*canceling statement due to user request\s*\z/, 'refreshed again after ROLLBACK TO');
let_go('holder');
check('again', $node->safe_psql('postgres', $version_sql));

is($node->safe_psql('postgres', q{SELECT * FROM compare('night')}), '', 'every version equals the copy kept of it');
is($node->safe_psql('postgres', q{SELECT v.version, c.detail FROM avcurate.slice_versions v,
		avcurate.verify_slice('night', v.version) c WHERE NOT (c.verified AND c.rows = v.rows)}), '', 'and verifies');
is($node->safe_psql('postgres', q{
	SELECT count(bt_index_check(indexrelid, true)) FROM pg_index i JOIN pg_class c ON c.oid = indrelid
		WHERE indrelid = 'night'::regclass;
	SELECT * FROM verify_heapam('night') UNION ALL SELECT * FROM verify_heapam('_avcurate.history_1');}),
	3, 'heaps and indexes are sound');
$node->stop;
done_testing();
