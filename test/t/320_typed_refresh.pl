# REFRESH typed in every way a session has, by everybody who may: each makes
# its version, and refresh_slice afterwards takes nothing for unchanged that
# is not.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use SliceTest;

my $node = PostgreSQL::Test::Cluster->new('typed');
$node->init;
$node->append_conf('postgresql.conf', "max_prepared_transactions = 4\navcurate.refresh_full_threshold = 1\n");
$node->start;
$node->safe_psql('postgres', SliceTest::setup_sql());
$node->safe_psql('postgres', q{
CREATE ROLE curator NOLOGIN;
CREATE ROLE member LOGIN IN ROLE curator;
CREATE ROLE aside LOGIN NOINHERIT IN ROLE curator;
CREATE ROLE stranger LOGIN;
GRANT ALL ON SCHEMA public TO curator;
GRANT ALL ON ALL TABLES IN SCHEMA public TO curator;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO curator;
SET ROLE curator;
SELECT avcurate.create_dataset('frames');
SELECT add_frames(80);
SELECT avcurate.create_slice('night', 'frames', $$timeofday = 'night' AND weather <> 'foggy'$$);
RESET ROLE;
SELECT remember('night');

-- something that enters, leaves, changes, is deleted, and nothing twice
CREATE FUNCTION writes() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM add_frames(5);
	UPDATE frames SET timeofday = CASE timeofday WHEN 'night' THEN 'day' ELSE 'night' END
		WHERE frame_id % 13 = (SELECT max(frame_id) % 13 FROM frames);
	UPDATE frames SET scene = 'written ' || clock_timestamp() WHERE frame_id % 7 = 3;
	DELETE FROM frames WHERE frame_id = (SELECT min(frame_id) FROM frames WHERE timeofday = 'night' AND weather <> 'foggy');
END $$;

CREATE FUNCTION refresh_static() RETURNS void LANGUAGE plpgsql AS
	'BEGIN REFRESH MATERIALIZED VIEW night; END';
CREATE FUNCTION refresh_execute(how text) RETURNS void LANGUAGE plpgsql AS
	'BEGIN EXECUTE format($$REFRESH MATERIALIZED VIEW %s night$$, how); END';
CREATE FUNCTION refresh_sql() RETURNS void LANGUAGE sql AS
	'REFRESH MATERIALIZED VIEW CONCURRENTLY night';
CREATE FUNCTION refresh_trapped() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	REFRESH MATERIALIZED VIEW night;
	RAISE 'undo';
EXCEPTION WHEN raise_exception THEN NULL;
END $$;
CREATE PROCEDURE refresh_twice() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM writes();
	REFRESH MATERIALIZED VIEW night;
	COMMIT;
	PERFORM writes();
	REFRESH MATERIALIZED VIEW night;
END $$;
CREATE FUNCTION refresh_as_curator() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
	SET search_path = public, pg_temp AS 'BEGIN REFRESH MATERIALIZED VIEW night; END';
ALTER FUNCTION refresh_as_curator() OWNER TO curator;
CREATE FUNCTION slice_as_curator() RETURNS bigint LANGUAGE sql SECURITY DEFINER
	SET search_path = public, pg_temp AS $$SELECT avcurate.refresh_slice('night')$$;
ALTER FUNCTION slice_as_curator() OWNER TO curator;
CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS
	$$BEGIN PERFORM avcurate.refresh_slice('night'); RETURN NULL; END$$;
CREATE FUNCTION follow_closely() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM avcurate.refresh_slice('night');
	IF EXISTS (SELECT FROM night n FULL JOIN (SELECT * FROM frames WHERE timeofday = 'night' AND weather <> 'foggy') f
			USING (frame_id) WHERE n.scene IS DISTINCT FROM f.scene OR n.split IS NULL OR f.split IS NULL) THEN
		RAISE 'the slice differs from its definition';
	END IF;
	RETURN NULL;
END $$;
CREATE TABLE bell (n int);
GRANT INSERT ON bell TO member;
CREATE FUNCTION ring() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN REFRESH MATERIALIZED VIEW night; RETURN NULL; END';
CREATE TRIGGER ring AFTER INSERT ON bell EXECUTE FUNCTION ring();
GRANT SELECT ON night TO PUBLIC;
});

my $version_sql = q{SELECT version FROM avcurate.slices WHERE slice = 'night'::regclass};
my $latest_sql = q{SELECT mode, created_by FROM avcurate.slice_versions
	WHERE slice = 'night'::regclass ORDER BY version DESC LIMIT 1};

# The view against its definition, its newest version and the copy of it.
sub check
{
	my ($label) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', q{SELECT remember('night'); SELECT check_fresh('night')});
	is($err, '', "$label: the view is what its definition and its version say");
}

# Run statements that make $made versions, then one refresh by difference.
sub kind
{
	my ($label, $made, $sql, $user) = @_;
	my $check = q{SELECT remember('night') \g /dev/null
SELECT check_fresh('night') \g /dev/null
};
	my ($rc, $out, $err) = $node->psql('postgres', "$version_sql \\gset before_
\\c - @{[$user || '-']}
\\o /dev/null
$sql
\\o
\\c - postgres
SELECT version - :before_version FROM avcurate.slices WHERE slice = 'night'::regclass;
@{[$made ? $check : '']}
SELECT writes() \\g /dev/null
SELECT avcurate.refresh_slice('night') \\g /dev/null
$latest_sql;
$check", on_error_stop => 1);
	is("$out$err", "$made\n$SliceTest::by_difference|postgres", "$label: versions made, and refresh_slice after it");
}

my $writes = 'SELECT writes();';
my $plain = 'REFRESH MATERIALIZED VIEW night;';
my $concurrently = 'REFRESH MATERIALIZED VIEW CONCURRENTLY night;';
my $empty = 'REFRESH MATERIALIZED VIEW night WITH NO DATA;';

kind('plain', 1, "$writes $plain $plain");
kind('concurrently', 1, "$writes $concurrently");
kind('name in full', 1, qq{$writes REFRESH MATERIALIZED VIEW public."night";});
kind('no data, then plain', 1, "$writes $empty $plain");
kind('no data, then refresh_slice', 1, "$writes $empty SELECT avcurate.refresh_slice('night');");
kind('no data, and back without a change', 0, "$empty $plain");
kind('transaction', 1, "BEGIN; $writes $plain COMMIT;");
kind('transaction with two', 2, "BEGIN; $writes $plain $writes $concurrently COMMIT;");
kind('transaction undone', 0, "BEGIN; $writes $plain ROLLBACK;");
kind('transaction, emptied and undone', 0, "BEGIN; $writes $empty ROLLBACK;");
kind('savepoint released', 1, "BEGIN; SAVEPOINT a; $writes $plain RELEASE a; COMMIT;");
kind('savepoint undone', 0, "BEGIN; SAVEPOINT a; $writes $plain ROLLBACK TO a; COMMIT;");
kind('savepoint undone, then again', 1, "BEGIN; $writes SAVEPOINT a; $writes $plain ROLLBACK TO a; $plain COMMIT;");
kind('write undone, refresh kept', 1, "BEGIN; $writes SAVEPOINT a; $writes ROLLBACK TO a; $plain COMMIT;");
kind('refresh_slice undone, then REFRESH', 1, "BEGIN; $writes SAVEPOINT a; SELECT avcurate.refresh_slice('night'); ROLLBACK TO a; $plain COMMIT;");
kind('plpgsql', 1, "$writes SELECT refresh_static();");
kind('plpgsql, cached plan', 3, "$writes SELECT refresh_static(); $writes SELECT refresh_static(); $writes SELECT refresh_static();");
kind('plpgsql, EXECUTE', 2, "$writes SELECT refresh_execute(''); $writes SELECT refresh_execute('CONCURRENTLY');");
kind('plpgsql, trapped error', 0, "$writes SELECT refresh_trapped();");
kind('trapped error, then again', 1, "$writes SELECT refresh_trapped(); SELECT refresh_static();");
kind('SQL function', 2, "$writes SELECT refresh_sql(); $writes SELECT refresh_sql();");
kind('DO', 2, "DO \$\$BEGIN PERFORM writes(); $plain PERFORM writes(); $concurrently END\$\$;");
kind('procedure that commits', 2, 'CALL refresh_twice();');
kind('trigger', 1, "$writes INSERT INTO bell VALUES (1);");
kind('trigger of the dataset', 4, "CREATE TRIGGER follow AFTER INSERT OR UPDATE OR DELETE ON frames EXECUTE FUNCTION follow();"
	  . "$writes DROP TRIGGER follow ON frames;");
kind('deferred trigger of the dataset', 1, "CREATE CONSTRAINT TRIGGER follow AFTER INSERT OR UPDATE OR DELETE ON frames"
	  . " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION follow(); $writes DROP TRIGGER follow ON frames;");
kind('row trigger that comes before ours', 1, 'CREATE TRIGGER "AAA" AFTER DELETE ON frames FOR EACH ROW EXECUTE FUNCTION follow_closely();'
	  . "$writes DROP TRIGGER \"AAA\" ON frames;");
kind('refresh in the statement that deletes', 1, "WITH gone AS (DELETE FROM frames WHERE frame_id = (SELECT max(frame_id) FROM frames WHERE timeofday = 'night' AND weather <> 'foggy') RETURNING 1)"
	  . " SELECT avcurate.refresh_slice('night') FROM gone;");
$node->safe_psql('postgres', "CREATE TRIGGER follow AFTER INSERT ON frames EXECUTE FUNCTION follow_closely(); SELECT add_frames(12); DROP TRIGGER follow ON frames;");
is($node->safe_psql('postgres', $latest_sql), "$SliceTest::by_difference|postgres", 'a trigger at the end of INSERT goes by difference');
is($node->safe_psql('postgres', q{
	SET client_min_messages = error;
	CREATE FUNCTION kept_after_refreshes() RETURNS bigint LANGUAGE plpgsql AS $$
	BEGIN
		FOR i IN 1..60 LOOP
			UPDATE frames SET scene = 'round ' || i WHERE frame_id = (SELECT max(frame_id) FROM night);
			REFRESH MATERIALIZED VIEW night;
		END LOOP;
		RETURN (SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE name IN ('TopTransactionContext', 'refresh of a slice'));
	END $$;
	SELECT kept_after_refreshes() < 1000000}), 't', 'memory of a REFRESH is freed at its end');
kind('EXPLAIN', 0, "$writes EXPLAIN ANALYZE $plain");
kind('prepared refresh_slice', 7, "PREPARE p(regclass) AS SELECT avcurate.refresh_slice(\$1);"
	  . "$writes EXECUTE p('night');" x 7);
kind('replica role', 1, "$writes SET session_replication_role = replica; $plain");
kind('repeatable read', 2, "BEGIN ISOLATION LEVEL REPEATABLE READ; $writes $plain $writes SELECT avcurate.refresh_slice('night'); COMMIT;");
kind('serializable', 2, "BEGIN ISOLATION LEVEL SERIALIZABLE; $writes SELECT avcurate.refresh_slice('night'); $writes $plain COMMIT;");
kind('settings', 1, "$writes SET search_path = ''; SET enable_indexscan = off; SET enable_seqscan = off; SET TimeZone = 'Asia/Tokyo'; SET extra_float_digits = 0; REFRESH MATERIALIZED VIEW public.night;");
$node->safe_psql('postgres', $writes);
kind('member of the owner', 1, $plain, 'member');

# who refreshed, and who may not
my $before;
$node->safe_psql('postgres', $writes);
$node->safe_psql('postgres', $plain, connstr => $node->connstr('postgres') . ' user=member');
is($node->safe_psql('postgres', $latest_sql), 'full|member', 'the version names the member');
$node->safe_psql('postgres', $writes);
$node->safe_psql('postgres', "SELECT avcurate.refresh_slice('night')", connstr => $node->connstr('postgres') . ' user=member');
is($node->safe_psql('postgres', $latest_sql), "$SliceTest::by_difference|member", 'in refresh_slice, too');
$node->safe_psql('postgres', 'INSERT INTO bell VALUES (2)', connstr => $node->connstr('postgres') . ' user=member');
foreach my $who ('aside', 'stranger')
{
	foreach my $sql ($plain, $concurrently, $empty, "SELECT avcurate.refresh_slice('night')")
	{
		my ($rc, $out, $err) = $node->psql('postgres', $sql, connstr => $node->connstr('postgres') . " user=$who");
		like($err, qr/must be owner of (materialized view|slice) /, "$who may not: $sql");
	}
}
$node->safe_psql('postgres', "$writes SET ROLE curator; SELECT avcurate.refresh_slice('night')");
is($node->safe_psql('postgres', $latest_sql), "$SliceTest::by_difference|curator", 'a role that cannot log in');
$node->safe_psql('postgres', $writes);
$node->safe_psql('postgres', "SET ROLE curator; $plain", connstr => $node->connstr('postgres') . ' user=aside');
is($node->safe_psql('postgres', $latest_sql), 'full|curator', 'SET ROLE');
$node->safe_psql('postgres', $writes);
$node->safe_psql('postgres', 'SELECT refresh_as_curator()', connstr => $node->connstr('postgres') . ' user=stranger');
is($node->safe_psql('postgres', $latest_sql), 'full|curator', 'SECURITY DEFINER, REFRESH');
$node->safe_psql('postgres', $writes);
$node->safe_psql('postgres', 'SELECT slice_as_curator()', connstr => $node->connstr('postgres') . ' user=stranger');
is($node->safe_psql('postgres', $latest_sql), "$SliceTest::by_difference|curator", 'SECURITY DEFINER, refresh_slice');
check('roles');

# errors leave nothing behind
my ($rc, $out, $err) = $node->psql('postgres', "$empty $concurrently");
like($err, qr/CONCURRENTLY cannot be used when the materialized view is not populated/, 'CONCURRENTLY of an empty view');
kind('after that error', 1, "$writes $plain");
($rc, $out, $err) = $node->psql('postgres', "SET default_transaction_read_only = on; $plain");
like($err, qr/cannot execute REFRESH MATERIALIZED VIEW in a read-only transaction/, 'read-only transaction');
($rc, $out, $err) = $node->psql('postgres', "SET default_transaction_read_only = on; SELECT avcurate.refresh_slice('night')");
like($err, qr/cannot execute refresh_slice\(\) in a read-only transaction/, 'in refresh_slice, too');

# by the extended protocol, the statement prepared once
my $dir = $node->basedir;
append_to_file("$dir/typed.sql", "SELECT writes();\nREFRESH MATERIALIZED VIEW night;\n");
append_to_file("$dir/slice.sql", "SELECT writes();\nSELECT avcurate.refresh_slice('night');\n");
foreach my $file ('typed', 'slice')
{
	$before = $node->safe_psql('postgres', $version_sql);
	$node->command_ok(['pgbench', '-n', '-M', 'prepared', '-t', 7, '-f', "$dir/$file.sql", $node->connstr('postgres')],
		"prepared statements, $file");
	is($node->safe_psql('postgres', $version_sql) - $before, 7, "prepared statements, $file: versions made");
	check("prepared statements, $file");
}

# two-phase commit, of a refresh and of writers around refreshes
$before = $node->safe_psql('postgres', $version_sql);
$node->safe_psql('postgres', qq{BEGIN; $writes SELECT avcurate.refresh_slice('night'); PREPARE TRANSACTION 'refresh'});
is($node->safe_psql('postgres', $version_sql), $before, 'a prepared refresh has made no version');
$node->safe_psql('postgres', qq{COMMIT PREPARED 'refresh'});
is($node->safe_psql('postgres', $version_sql) - $before, 1, 'until it commits');
check('prepared refresh');
$node->safe_psql('postgres', qq{BEGIN; SELECT add_frames(3); PREPARE TRANSACTION 'kept';});
$node->safe_psql('postgres', qq{BEGIN; UPDATE frames SET scene = 'prepared' WHERE frame_id % 11 = 2; DELETE FROM frames WHERE frame_id % 11 = 4; PREPARE TRANSACTION 'undone';});
$node->restart;
$node->safe_psql('postgres', qq{SELECT add_frames(6); SELECT avcurate.refresh_slice('night'); SELECT add_frames(6); VACUUM frames; $plain SELECT add_frames(6); SELECT avcurate.refresh_slice('night')});
check('prepared writers open');
$node->safe_psql('postgres', qq{COMMIT PREPARED 'kept'; ROLLBACK PREPARED 'undone'; SELECT avcurate.refresh_slice('night')});
is($node->safe_psql('postgres', $latest_sql), "$SliceTest::by_difference|postgres", 'prepared writers over: refresh_slice');
check('prepared writers over');

# by pg_cron, which runs @reboot jobs as it starts
SKIP:
{
	my $library = `pg_config --pkglibdir`;
	chomp $library;
	skip 'pg_cron is not installed', 1 unless -e "$library/pg_cron.so";
	$node->append_conf('postgresql.conf', sprintf("shared_preload_libraries = 'pg_cron'\ncron.host = '%s'\ncron.database_name = 'postgres'\n", $node->host));
	$node->restart;
	$node->safe_psql('postgres', q{CREATE EXTENSION pg_cron;
		SELECT cron.schedule('typed', '@reboot', 'REFRESH MATERIALIZED VIEW night');
		SELECT cron.schedule('slice', '@reboot', $$SELECT avcurate.refresh_slice('night')$$);});
	foreach my $workers ('off', 'on')
	{
		$before = $node->safe_psql('postgres', "$writes $version_sql");
		$node->safe_psql('postgres', 'TRUNCATE cron.job_run_details');
		$node->append_conf('postgresql.conf', "cron.use_background_workers = $workers\n");
		$node->restart;
		ok($node->poll_query_until('postgres', q{SELECT count(*) = 2 FROM cron.job_run_details WHERE status IN ('succeeded', 'failed')}),
			"pg_cron, background workers $workers: ran");
		is($node->safe_psql('postgres', q{SELECT return_message FROM cron.job_run_details WHERE status = 'failed'}), '', 'without error');
		is($node->safe_psql('postgres', $version_sql) - $before, 1, 'one version, by whichever came first');
		check("pg_cron, background workers $workers");
		kind("after pg_cron, background workers $workers", 1, "$writes $plain");
	}
}

is($node->safe_psql('postgres', q{SELECT * FROM compare('night') c
		WHERE EXISTS (SELECT FROM saved s WHERE s.slice = 'night' AND s.version = c.version)}),
	'', 'every version equals the copy kept of it');
is($node->safe_psql('postgres', q{SELECT v.version, c.detail FROM avcurate.slice_versions v,
		avcurate.verify_slice('night', v.version) c WHERE NOT (c.verified AND c.rows = v.rows)}), '', 'and verifies');
$node->stop;
done_testing();
