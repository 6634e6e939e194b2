# A weakness that a detector has because of what it was trained on: it has seen
# no night, suggest_slices says so, and its filter cuts the slice that helps.
# Then README's failure mining, word for word.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use JobTest;

my $node = PostgreSQL::Test::Cluster->new('suggestion');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\nmax_worker_processes = 12\navcurate.threads = 2");
$node->start;

sub ask { return $node->safe_psql('postgres', $_[0]) }

# The share of truths that an evaluation found with a score of 0.5 or more.
sub found
{
	my ($evaluation, $timeofday) = @_;
	return ask("SELECT round(avg((kind = 'true_positive' AND score >= 0.5)::int), 3) FROM avcurate.matches JOIN drives USING (frame_id)
		WHERE evaluation = $evaluation AND kind IN ('true_positive', 'missed') AND timeofday = '$timeofday'");
}

ask(q{CREATE EXTENSION avcurate;
	SELECT avcurate.create_dataset('drives');
	CALL avcurate.ingest_synthetic('drives', 300, 3, 'train', '{"width": 160, "height": 96, "daytime": 1, "dawn_dusk": 0, "night": 0}');
	CALL avcurate.ingest_synthetic('drives', 200, 4, 'val', '{"width": 160, "height": 96, "daytime": 1, "dawn_dusk": 0, "night": 1}');
	CALL avcurate.ingest_synthetic('drives', 100, 5, 'pool', '{"width": 160, "height": 96, "daytime": 1, "dawn_dusk": 0, "night": 1, "rider": 0.5}');
	SELECT avcurate.add_feature('drives', 'sharpness', 'avcurate.sharpness(image_bytes)');
	CALL avcurate.backfill('drives');
	SELECT avcurate.create_slice('train', 'drives', $$split = 'train'$$);
	SELECT avcurate.create_slice('rider_train', 'drives', $$split = 'pool' AND avcurate.has_category(ann_categories, 'rider')$$);
	SELECT avcurate.create_slice('val', 'drives', $$split = 'val'$$);
	SELECT avcurate.create_model('detector', 'small', '{"min_size": 96, "max_size": 160, "fpn_channels": 32, "representation_size": 64}')});
my $training = ask(q{SELECT avcurate.train('train', 'detector', '{"max_steps": 90, "batch_size": 8, "lr": 0.002, "warmup_steps": 20}')});
is(ask("SELECT avcurate.wait_job($training)"), 'succeeded', 'a detector of the day');
my $evaluation = ask("SELECT avcurate.evaluate(checkpoint, 'val') FROM avcurate.jobs WHERE job = $training");
is(ask("SELECT avcurate.wait_job($evaluation)"), 'succeeded', 'is evaluated by day and by night');
my ($day, $night) = map { found($evaluation, $_) } 'daytime', 'night';
cmp_ok($day, '>', 3 * $night, "it finds $day of what there is by day, $night by night");

my ($filter, $frames, $truths, $recall, $elsewhere, $p) = split /\|/, ask("SELECT filter, frames, truths, round(recall50::numeric, 3), round(recall50_elsewhere::numeric, 3), p_value FROM avcurate.suggest_slices($evaluation) LIMIT 1");
is($filter, q{timeofday = 'night'}, 'the night is suggested first');
is("$recall $elsewhere", "$night $day", 'with the recall there and elsewhere');
cmp_ok($p, '<', 1e-4, "as more than chance (p = $p)");
is($frames, ask(q{SELECT count(*) FROM val WHERE timeofday = 'night'}), 'for its frames');

# the filter as it is
ask("SELECT avcurate.create_slice('weak', 'drives', filter) FROM avcurate.suggest_slices($evaluation) LIMIT 1");
is(ask('SELECT count(*), bool_and(timeofday = \'night\') FROM weak'), ask(q{SELECT count(*), true FROM drives WHERE timeofday = 'night'}), 'makes a slice of the nights of all footage');
# and a part of one
ask("SELECT avcurate.create_slice('weak_pool', 'drives', format(\$\$split = 'pool' AND (%s)\$\$, filter)) FROM avcurate.suggest_slices($evaluation) LIMIT 1");
$training = ask("SELECT avcurate.train('weak_pool', 'detector', jsonb_build_object('from_checkpoint', checkpoint, 'max_steps', 40, 'lr', 0.001, 'warmup_steps', 5)) FROM avcurate.jobs WHERE job = $training");
is(ask("SELECT avcurate.wait_job($training)"), 'succeeded', 'tune on other nights');
my $after = ask("SELECT avcurate.evaluate(checkpoint, 'val') FROM avcurate.jobs WHERE job = $training");
is(ask("SELECT avcurate.wait_job($after)"), 'succeeded', 'evaluate again');
my $tuned = found($after, 'night');
cmp_ok($tuned, '>', $night + 0.03, "it finds $tuned of what there is by night");

# --- from failures to a slice, as README has it
my ($mining) = slurp_file("$FindBin::Bin/../../README.md") =~ /^(SELECT avcurate\.evaluate\(:checkpoint, 'rider_train'\).*?)^```/ms;
ok($mining, 'README mines failures');
my $checkpoint = ask("SELECT checkpoint FROM avcurate.jobs WHERE job = $training");
my @told = split /\n/, ask("\\set checkpoint $checkpoint\n$mining");
$training = pop @told;
is(pop @told, 'missed_riders', 'a slice is cut');
is(shift @told, 'succeeded', 'from an evaluation');
$evaluation = ask(q{SELECT max(job) FROM avcurate.jobs WHERE kind = 'evaluate'});
is(join(';', sort @told), join(';', sort split /\n/, ask("SELECT timeofday, weather, count(*), round(avg((m.kind = 'true_positive' AND m.score >= 0.5)::int), 2)
	FROM rider_train f CROSS JOIN LATERAL unnest(f.ann_categories) WITH ORDINALITY AS t (category, no)
	LEFT JOIN avcurate.matches m ON m.evaluation = $evaluation AND m.frame_id = f.frame_id AND m.truth_no = t.no AND m.kind <> 'ignored'
	WHERE t.category = 'rider' GROUP BY 1, 2")), 'every rider of the slice is counted once');
is(ask('SELECT string_agg(frame_id::text, \' \' ORDER BY frame_id) FROM missed_riders'),
	ask("SELECT string_agg(frame_id::text, ' ' ORDER BY frame_id) FROM (SELECT DISTINCT frame_id FROM rider_train CROSS JOIN LATERAL unnest(ann_categories) WITH ORDINALITY AS t (category, no)
	WHERE t.category = 'rider' AND timeofday = 'night' AND NOT EXISTS (SELECT FROM avcurate.matches m WHERE m.evaluation = $evaluation AND m.frame_id = rider_train.frame_id
		AND m.truth_no = t.no AND m.kind = 'true_positive' AND m.score >= 0.5)) AS missed"), 'of the nights on which a rider was missed');
is(ask(q{SELECT incremental FROM avcurate.slices WHERE slice = 'missed_riders'::regclass}), 't', 'it is refreshed by difference');
is(ask("SELECT avcurate.wait_job($training)"), 'succeeded', 'and trained on');
is(ask("SELECT slice, parent FROM avcurate.checkpoints WHERE job = $training"), "missed_riders|$checkpoint", 'from the detector that failed there');
$node->stop;
done_testing();
