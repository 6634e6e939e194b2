# The shared engine under many callers, and one that does not do as it should.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use FindBin;
use lib $FindBin::Bin;
use ServiceTest;

my $node = PostgreSQL::Test::Cluster->new('crowd');
my $answers = $node->basedir . '/answers';
$ENV{FAKE_ENGINE_ANSWERS} = $answers;
$node->init;
$node->append_conf('postgresql.conf', "max_worker_processes = 8\navcurate.threads = 1\nfsync = off");
$node->start;
small_network($node);

# The counts that doctor() gives.
sub counts
{
	my $detail = $node->safe_psql('postgres', q{SELECT detail FROM avcurate.doctor() WHERE check_name = 'shared engine'});
	return $detail =~ /(\d+) requests? in (\d+) batch/ ? ($1, $2) : (0, 0);
}

# --- a crowd
my $all = q{SELECT md5(string_agg(format('%s %s %s', f.frame_id, d.category, round(d.score::numeric, 3)), ' '
	ORDER BY f.frame_id, round(d.score::numeric, 3) DESC, d.category)) FROM frames f, avcurate.detect(f.image_bytes, 1, 0) d};
my $alone = $node->safe_psql('postgres', $all);
my ($requests, $batches) = counts();
# all at once, however long it takes to start them
my $gate = $node->background_psql('postgres');
$gate->query_safe('SELECT pg_advisory_lock(1)');
my @crowd = map { begin($node, 'DO $$BEGIN PERFORM pg_advisory_lock_shared(1); END$$', $all) } 1 .. 12;
$node->poll_query_until('postgres', q{SELECT count(*) = 12 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) or die;
$gate->quit;
my @said = map { [ end_of($_) ] } @crowd;
is(scalar(grep { $_->[0] eq $alone } @said), 12, 'a dozen sessions get what one gets') or diag map { @$_ } @said;
my ($more_requests, $more_batches) = counts();
is($more_requests - $requests, 12 * 24, 'everybody was answered once');
cmp_ok($more_batches - $batches, '<', 12 * 24 * 2 / 3, 'many of them in one batch');

# --- a crowd of which half goes
@crowd = map { begin($node, "SET statement_timeout = " . ($_ % 2 ? 0 : 30 * $_) . "; $all") } 1 .. 12;
@said = map { [ end_of($_) ] } @crowd;
is(scalar(grep { $_->[0] eq $alone } @said[ grep { !($_ % 2) } 0 .. 11 ]), 6, 'those that stay get their answers');
is($node->safe_psql('postgres', $all), $alone, 'so does the next');

# --- a crowd that finds no engine: one of them brings the weights
sub peak_of
{
	my ($pid) = @_;
	my ($kb) = map { /^VmHWM:\s+(\d+)/ ? $1 : () } split /\n/, slurp_file("/proc/$pid/status");
	return $kb;
}
my ($worker) = $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'avcurate shared engine'});
my $copy = $node->safe_psql('postgres', 'SELECT sum(length(data)) / 1024 FROM _avcurate.checkpoint_tensors WHERE checkpoint = 1');
my $peak = peak_of($worker);
foreach my $round (1 .. 3)
{
	kill 'KILL', engine($node);
	@crowd = map { begin($node, ask_sql($_)) } 1 .. 12;
	@said = map { [ end_of($_) ] } @crowd;
	is(scalar(grep { $_->[1] eq '' } @said), 12, "a dozen sessions find no engine, round $round") or diag map { @$_ } @said;
}
is($node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'avcurate shared engine'}), $worker, 'its worker is the same');
cmp_ok(peak_of($worker) - $peak, '<', 2 * $copy, sprintf('and holds the weights once (%d kB, at its peak %d more than before)', $copy, peak_of($worker) - $peak));
is($node->safe_psql('postgres', $all), $alone, 'the answers are the same');

# --- weights that are not what they were
$node->safe_psql('postgres', q{SELECT avcurate.create_checkpoint('m', 8);
	UPDATE _avcurate.checkpoint_tensors SET data = set_byte(data, 0, get_byte(data, 0) # 1) WHERE checkpoint = 2 AND tensor = 5});
my ($rc, $out, $err) = $node->psql('postgres', ask_sql(1, 2));
like($err, qr/ERROR:  the tensors of checkpoint 2 do not match their SHA-256/, 'damaged weights are not loaded');
$node->safe_psql('postgres', q{SELECT avcurate.create_model('wide', 'small', '{"min_size": 96, "max_size": 160}');
	UPDATE _avcurate.checkpoints SET model = 'wide' WHERE checkpoint = 1});
($rc, $out, $err) = $node->psql('postgres', ask_sql(1));
like($err, qr/ERROR: .*(shape|tensor)/, 'nor those of another network');
$node->safe_psql('postgres', q{UPDATE _avcurate.checkpoints SET model = 'm' WHERE checkpoint = 1});
is($node->safe_psql('postgres', $all), $alone, 'and nobody else is bothered');

# --- an engine that misbehaves
my $threads = 1;

sub tell_engine
{
	open my $file, '>', $answers or die "$answers: $!";
	print $file "$_\n" foreach @_;
	close $file;
	# a setting that concerns the engine has it started anew
	configure($node, 'avcurate.threads = ' . ++$threads);
}
tell_engine();
configure($node, "avcurate.engine_path = '$FindBin::Bin/fake_engine'");
is($node->safe_psql('postgres', ask_sql(1)), '0|', 'an engine that finds nothing');
foreach my $case ([ 'garbage', qr/shared engine was lost: engine sent garbage: it answers another number of frames/ ],
	[ 'lie', qr/shared engine was lost: engine sent garbage: a count cannot be/ ],
	[ 'die 1', qr/shared engine was lost: engine was ended by signal 9/ ],
	[ 'refuse 0', qr/ERROR:  frame 0 is no picture/ ])
{
	my ($how, $error) = @$case;
	tell_engine($how);
	($rc, $out, $err) = $node->psql('postgres', ask_sql(1));
	like($err, $error, "an engine told to $how is an error");
	tell_engine();
	is($node->safe_psql('postgres', ask_sql(1)), '0|', 'the next call has an answer');
}

# --- in a backfill
$node->safe_psql('postgres', q{SELECT avcurate.add_feature('frames', 'found', '(SELECT count(*) FROM avcurate.detect(image_bytes, 1))')});
tell_engine('die 9');
$node->safe_psql('postgres', q{CALL avcurate.backfill('frames')});
my ($done, $failed) = split /\|/, $node->safe_psql('postgres', q{SELECT done, failed FROM avcurate.feature_status WHERE feature = 'found'});
is($done + $failed, 24, 'a backfill over an engine that dies time and again comes to its end');
cmp_ok($done, '>', $failed, 'with most rows computed');
tell_engine();
$node->safe_psql('postgres', q{SELECT avcurate.retry_feature('frames', 'found'); CALL avcurate.backfill('frames')});
is($node->safe_psql('postgres', q{SELECT done, failed FROM avcurate.feature_status WHERE feature = 'found'}), '24|0', 'the rest after a retry');
my $large = $node->safe_psql('postgres', q{SELECT max(length(image_bytes)) FROM frames});
my $starved = $node->safe_psql('postgres', "SELECT count(*) FROM frames WHERE length(image_bytes) = $large");
tell_engine("starve $large");
$node->safe_psql('postgres', q{SELECT avcurate.alter_feature('frames', 'found', '(SELECT count(*) FROM avcurate.detect(image_bytes, 1))'); CALL avcurate.backfill('frames')});
is($node->safe_psql('postgres', q{SELECT done, failed FROM avcurate.feature_status WHERE feature = 'found'}), (24 - $starved) . "|$starved", 'a frame that the engine has no memory for fails alone');
is($node->safe_psql('postgres', q{SELECT DISTINCT sqlstate, message FROM avcurate.feature_errors}), '54000|batch of 1 needs more than there is', 'with one error');
tell_engine();
configure($node, q{avcurate.engine_path = '/nowhere/engine'});
$node->safe_psql('postgres', q{SELECT avcurate.alter_feature('frames', 'found', '(SELECT count(*) + 1 FROM avcurate.detect(image_bytes, 1))')});
($rc, $out, $err) = $node->psql('postgres', q{CALL avcurate.backfill('frames')});
like($err, qr{ERROR: .*could not start engine "/nowhere/engine"}, 'without an engine the backfill ends');
is($node->safe_psql('postgres', q{SELECT pending, failed FROM avcurate.feature_status WHERE feature = 'found'}), '24|0', 'and no row has failed');

$node->stop;
done_testing();
