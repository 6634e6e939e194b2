# The nightly procedure of the README, by pg_cron: backfill, refresh, train
# when the slice changed, evaluate, and put the better detector into service.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use JobTest;

my $node = PostgreSQL::Test::Cluster->new('nightly');
$node->init;
$node->append_conf('postgresql.conf', "max_worker_processes = 12\navcurate.threads = 2");
my $library = `pg_config --pkglibdir`;
chomp $library;
my $has_cron = -e "$library/pg_cron.so";
$node->append_conf('postgresql.conf', sprintf("shared_preload_libraries = 'pg_cron, avcurate'\ncron.host = '%s'\ncron.database_name = 'postgres'\n", $node->host))
	if $has_cron;
$node->start;

sub ask { return $node->safe_psql('postgres', $_[0]) }

# the README's text, word for word
my ($procedure) = slurp_file("$FindBin::Bin/../../README.md") =~ /^(CREATE TABLE deployed .*?^END \$\$;\n)/ms;
ok($procedure, 'README has a nightly procedure');
ask(q{CREATE EXTENSION avcurate;
	SELECT avcurate.create_dataset('drives');
	CALL avcurate.ingest_synthetic('drives', 40, 3, 'train', '{"width": 160, "height": 96}');
	CALL avcurate.ingest_synthetic('drives', 12, 4, 'val', '{"width": 160, "height": 96}');
	SELECT avcurate.add_feature('drives', 'has_rider', $$avcurate.has_category(ann_categories, 'rider')$$);
	SELECT avcurate.create_slice('rider_train', 'drives', $$split = 'train'$$);
	SELECT avcurate.create_slice('rider_val', 'drives', $$split = 'val'$$);
	SELECT avcurate.create_model('detector', 'small', '{"min_size": 96, "max_size": 160, "fpn_channels": 32, "representation_size": 64}');
	SELECT avcurate.create_checkpoint('detector', 5)});
ask($procedure);
ask('INSERT INTO deployed VALUES (1)');

sub night
{
	my ($name) = @_;
	if ($has_cron)
	{
		ask(q{DELETE FROM cron.job; TRUNCATE cron.job_run_details}) if $name ne 'first';
		ask(q{CREATE EXTENSION IF NOT EXISTS pg_cron; SELECT cron.schedule('nightly', '@reboot', 'CALL nightly()')});
		$node->restart;
		ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM cron.job_run_details WHERE status IN ('succeeded', 'failed')}), "$name night: pg_cron ran it");
		is(ask(q{SELECT status, CASE WHEN status = 'failed' THEN return_message END FROM cron.job_run_details}), 'succeeded|', "$name night: it succeeded");
	}
	else
	{
		is(ask('CALL nightly()'), '', "$name night: called by hand");
	}
}

my $deployed = 'SELECT d.checkpoint, c.version, e.ap50 >= b.ap50 FROM deployed d JOIN avcurate.checkpoints c USING (checkpoint)
	LEFT JOIN avcurate.evaluations e ON e.checkpoint = d.checkpoint LEFT JOIN avcurate.evaluations b ON b.checkpoint = 1';
night('first');
is(ask(q{SELECT string_agg(kind || ' ' || state, ', ' ORDER BY job) FROM avcurate.jobs}), 'train succeeded, evaluate succeeded, evaluate succeeded',
	'it trained, and evaluated both detectors');
my ($checkpoint, $version) = split /\|/, ask('SELECT checkpoint, c.version FROM deployed JOIN avcurate.checkpoints c USING (checkpoint)');
my ($old, $new) = split /\|/, ask('SELECT (SELECT ap50 FROM avcurate.evaluations WHERE checkpoint = 1), (SELECT ap50 FROM avcurate.evaluations WHERE checkpoint <> 1)');
is($checkpoint > 1, $new > $old, "the better one is in service (ap50 $old before, $new trained)");
my $trained = ask('SELECT max(checkpoint) FROM avcurate.checkpoints');
ask("UPDATE deployed SET checkpoint = $trained");
my $jobs = ask('SELECT count(*) FROM avcurate.jobs');
night('second');
is(ask('SELECT count(*) FROM avcurate.jobs'), $jobs, 'nothing changed, so nothing was trained');
ask(q{CALL avcurate.ingest_synthetic('drives', 10, 5, 'train', '{"width": 160, "height": 96}')});
night('third');
cmp_ok(ask('SELECT count(*) FROM avcurate.jobs'), '>', $jobs, 'new footage is trained on');
is(ask('SELECT c.version = s.version FROM avcurate.checkpoints c JOIN avcurate.slices s USING (slice) ORDER BY checkpoint DESC LIMIT 1'), 't', 'in the version of today');
is(ask('SELECT pending FROM avcurate.feature_status'), '0', 'with its features');

# --- waiting without a snapshot
my $job = ask(q{SELECT avcurate.train('rider_train', 'detector', '{"max_steps": 1000, "batch_size": 2}')});
my $waiting = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', "CALL avcurate.await_job($job)" ], '<', \undef, '>', \my $out, '2>', \my $err);
ok(defined poll($node, q{SELECT backend_xmin IS NULL FROM pg_stat_activity WHERE query LIKE 'CALL avcurate.await_job%'}, 't'), 'await_job holds no snapshot');
ask("SELECT avcurate.cancel_job($job)");
$waiting->finish;
like($err, qr/ERROR:  job $job is cancelled/, 'what did not succeed is an error');
my $first = ask(q{SELECT min(job) FROM avcurate.jobs});
my ($rc, $o, $e) = $node->psql('postgres', "CALL avcurate.await_job($first, '1 s'); BEGIN; CALL avcurate.await_job($first);");
unlike($e, qr/ERROR.*ERROR/s, 'a job that has succeeded is none');
like($e, qr/cannot run inside a transaction block/, 'it commits, so it is refused in a transaction');
done_testing();
