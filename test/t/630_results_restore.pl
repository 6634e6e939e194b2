# Dump and restore of what trainings, evaluations and experiments left: every
# view says the same, what is computed from it too, and work goes on.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use JobTest;

my $node = PostgreSQL::Test::Cluster->new('results');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\nmax_worker_processes = 12\navcurate.threads = 1");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE origin; CREATE DATABASE copy');
sub ask { return $node->safe_psql('origin', $_[0]) }
sub ask_copy { return $node->safe_psql('copy', $_[0]) }

setup_small($node, 24, 'origin');
ask(q{CALL avcurate.ingest_synthetic('frames', 12, 4, 'val', '{"width": 160, "height": 96}');
	SELECT avcurate.create_slice('seen', 'frames', $$split = 'train' AND frame_id <= 12$$);
	SELECT avcurate.create_slice('early', 'frames', $$split = 'val' AND frame_id <= 30$$);
	SELECT avcurate.create_slice('held_out', 'frames', $$split = 'val' AND frame_id > 30$$)});
my $train = ask(q{SELECT avcurate.train('seen', 'm', '{"max_steps": 12, "batch_size": 2, "val_slice": "early"}')});
ask("SELECT avcurate.wait_job($train)");
my $checkpoint = ask("SELECT checkpoint FROM avcurate.jobs WHERE job = $train");
my $experiment = qq{CALL avcurate.run_experiment('x', $checkpoint, '{seen}', '{held_out}', '{"max_steps": 2, "batch_size": 2, "warmup_steps": 1}')};
ask($experiment);
my ($base, $tuned) = split /\|/, ask('SELECT min(evaluation) FILTER (WHERE train_slice IS NULL), min(evaluation) FILTER (WHERE NOT control AND train_slice IS NOT NULL) FROM avcurate.experiment_results');
my $lancedb = ask(qq{SELECT avcurate.evaluate($checkpoint, 'held_out', '{"mode": "lancedb"}')});
ask("SELECT avcurate.wait_job($lancedb)");
my $cancelled = ask(q{SELECT avcurate.train('seen', 'm', '{"max_steps": 60, "batch_size": 2, "checkpoint_every": 1}')});
$node->poll_query_until('origin', "SELECT count(*) > 2 FROM avcurate.job_progress WHERE job = $cancelled");
ask("SELECT avcurate.cancel_job($cancelled)");
$node->poll_query_until('origin', "SELECT state = 'cancelled' FROM avcurate.jobs WHERE job = $cancelled");

my $dump = $node->basedir . '/results.dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('origin') ], 'pg_dump');
$node->command_ok([ 'pg_restore', '-e', '-d', $node->connstr('copy'), $dump ], 'pg_restore');

foreach my $view (qw(jobs job_progress job_log models checkpoints validations evaluations evaluation_classes matches experiments experiment_results experiment_summary slice_versions))
{
	my $rows = "SELECT count(*), md5(string_agg(v::text, E'\\n' ORDER BY v::text)) FROM avcurate.$view AS v";
	my $before = ask($rows);
	unlike($before, qr/^0\|/, "$view has rows");
	is(ask_copy($rows), $before, 'and the same in the copy');
}
foreach my $call ("SELECT * FROM avcurate.compare_evaluations($base, $tuned, 100)", "SELECT md5(avcurate.overlay(frame_id, ARRAY[$base, $tuned])) FROM held_out ORDER BY frame_id LIMIT 2",
	"SELECT md5(avcurate.contact_sheet($tuned))", 
	# but for the names of the database and of the moment
	"SELECT md5(regexp_replace(avcurate.report(ARRAY[$train, $base, $tuned, $lancedb]), '>(origin|copy)<|20\\d\\d-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d', '', 'g'))", "SELECT * FROM avcurate.suggest_slices($base, 0.5, 2)",
	"SELECT checkpoint, v.* FROM avcurate.checkpoints, avcurate.verify_checkpoint(checkpoint) v ORDER BY 1, 2")
{
	is(ask_copy($call), ask($call), "$call: the same in the copy");
}
unlike(ask_copy('SELECT count(*) FROM avcurate.checkpoints c, avcurate.verify_checkpoint(c.checkpoint) v WHERE NOT v.ok'), qr/[1-9]/, 'every checkpoint verifies');

# --- work goes on
my ($rc, $out, $err) = $node->psql('copy', $experiment);
like($err, qr/experiment "x" has succeeded already/, 'the experiment is known');
is(ask_copy("SELECT avcurate.resume_job($cancelled)"), 't', 'a cancelled training is taken up');
is(ask_copy("SELECT avcurate.wait_job($cancelled)"), 'succeeded', 'to its end');
cmp_ok(ask_copy("SELECT count(*) FROM avcurate.job_log WHERE job = $cancelled AND message LIKE 'resumed after step%'"), '>', 0, 'from its last step checkpoint');
my $again = ask_copy("SELECT avcurate.reproduce($checkpoint)");
cmp_ok($again, '>', $cancelled, 'numbers of jobs go on');
ask_copy("SELECT avcurate.wait_job($again)");
is(ask_copy("SELECT result FROM avcurate.jobs WHERE job = $again"), 'same weights', 'a checkpoint is made once more');
is(ask_copy(q{UPDATE frames SET weather = 'foggy' WHERE frame_id = 2; SELECT avcurate.refresh_slice('seen'); SELECT pruned FROM avcurate.prune_slice('seen', 1) WHERE version = 1}), "2\nf", 'pins hold');
ask_copy(q{SELECT avcurate.drop_experiment('x')});
is(ask_copy('SELECT (SELECT count(*) FROM avcurate.experiments), (SELECT count(*) FROM avcurate.evaluations)'), '0|' . ask('SELECT count(*) FROM avcurate.evaluations'), 'the experiment can be dropped');
ask_copy($experiment =~ s/'x'/'y'/r);
is(ask_copy('SELECT state, experiment_id > 1 FROM _avcurate.experiments'), 'succeeded|t', 'and another one be run');
$node->stop;
done_testing();
