# A rendering ingest that is cancelled, whose backend is terminated, or whose
# server crashes: what was committed stays, and running it again completes it.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

use FindBin;
use lib $FindBin::Bin;
use ServerTest;

my $node = PostgreSQL::Test::Cluster->new('synthetic');
$node->init;
$node->append_conf('postgresql.conf', "restart_after_crash = on\nfsync = off\n");
$node->start;
$node->safe_psql('postgres', q{
CREATE EXTENSION avcurate;
SELECT avcurate.create_dataset('whole');
SELECT avcurate.create_dataset('parts');
});

# enough that no machine is through before it is interrupted
my $frames = 1500;
my $options = '{"preset": "pool", "width": 160, "height": 96}';

sub run_sql { return "CALL avcurate.ingest_synthetic('$_[0]', $frames, 5, NULL, '$options')"; }

# Start the run in the background, wait until it has committed some frames
# more than there were, then do something to its backend.
sub interrupt
{
	my ($action, $what) = @_;
	my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM parts');
	my ($out, $err) = ('', '');
	my $handle = IPC::Run::start(
		[ 'psql', '-X', '-q', '-d', $node->connstr('postgres'),
			'-c', run_sql('parts') ],
		'<', \undef, '>', \$out, '2>', \$err);
	for (1 .. 1200)
	{
		last
		  if $node->safe_psql('postgres', 'SELECT count(*) FROM parts') > $before;
		usleep(50_000);
	}
	$action->();
	$handle->finish;
	isnt($handle->full_result(0), 0, "$what: the run failed");
	like($err, qr/cancel|terminat|connection|crash/i, "$what: and says so");
	wait_for_server($node);
	my $after = $node->safe_psql('postgres', 'SELECT count(*) FROM parts');
	ok($after > $before && $after < $frames,
		"$what: $after of $frames frames, $before before");
	return;
}

my $backend = q{FROM pg_stat_activity WHERE query LIKE 'CALL avcurate.ingest_synthetic%'};
interrupt(sub { $node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) $backend") }, 'cancelled');
ok($node->poll_query_until('postgres',
		q{SELECT state = 'interrupted' FROM avcurate.ingest_progress}),
	'progress tells of it');
interrupt(sub { $node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) $backend") }, 'terminated');
interrupt(
	sub {
		my $pid = $node->safe_psql('postgres', "SELECT pid $backend LIMIT 1");
		# batches are committed without waiting for the disk: let it have them
		$node->safe_psql('postgres', q{SELECT pg_logical_emit_message(true, 'avcurate', 'flush')});
		kill 'KILL', $pid;
	},
	'killed');

$node->safe_psql('postgres', run_sql('parts'));
$node->safe_psql('postgres', run_sql('whole'));
is($node->safe_psql('postgres', q{
	SELECT count(*) FROM parts p FULL JOIN whole w USING (image_id)
	WHERE (p.image_sha256, p.ann_categories, p.ann_bboxes, p.split, p.weather)
		IS DISTINCT FROM (w.image_sha256, w.ann_categories, w.ann_bboxes, w.split, w.weather)}),
	'0', 'run again, it has what an undisturbed run has');
is($node->safe_psql('postgres', 'SELECT count(*) FROM parts'), $frames, 'all of it');
is($node->safe_psql('postgres', q{SELECT DISTINCT state FROM avcurate.ingest_progress}),
	'finished', 'and progress says finished');

$node->stop;
done_testing();
