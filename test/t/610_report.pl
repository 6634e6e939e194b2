# report(): one page that stands by itself, and says no more than its reader
# may see.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use JobTest;

my $node = PostgreSQL::Test::Cluster->new('report');
$node->init;
$node->append_conf('postgresql.conf', "max_worker_processes = 12\navcurate.threads = 2");
$node->start;
sub ask { return $node->safe_psql('postgres', $_[0]) }
setup_small($node, 24);
ask(q{
	SELECT avcurate.create_slice('seen', 'frames', 'frame_id <= 16');
	SELECT avcurate.create_slice('held_out', 'frames', $$frame_id > 16 AND scene <> '<script>&"'$$);
	SELECT avcurate.create_checkpoint('m', 5)});
my $train = ask(q{SELECT avcurate.train('seen', 'm', '{"max_steps": 80, "batch_size": 4, "val_slice": "held_out", "eval_every": 10}')});
ask("SELECT avcurate.wait_job($train)");
my $checkpoint = ask("SELECT checkpoint FROM avcurate.jobs WHERE job = $train");
my @evaluations = map { ask("SELECT avcurate.evaluate($_, 'held_out')") } 1, $checkpoint;
ask("SELECT avcurate.wait_job($_)") for @evaluations;

# Tags of the page that are not closed in order, and what it asks from elsewhere.
my %void = map { $_ => 1 } qw(meta img path circle br);
sub faults
{
	my ($page) = @_;
	my (@open, @faults);
	while ($page =~ m{<(/?)([a-z0-9]+)([^>]*)>}g)
	{
		my ($end, $tag, $rest) = ($1, $2, $3);
		next if $void{$tag} || $rest =~ m{/$};
		if (!$end) { push @open, $tag }
		elsif (!@open || pop @open ne $tag) { push @faults, "</$tag>" }
	}
	push @faults, @open, $page =~ m{((?:src|href)="(?!data:)[^"]*|url\([^)]*|<script[^>]*)}g;
	return join ' ', @faults;
}

my $jobs = join ', ', $train, @evaluations;
my $page = ask("SELECT avcurate.report(ARRAY[$jobs])");
is(faults($page), '', 'the page is well formed and asks for nothing from elsewhere');
like($page, qr/^<!DOCTYPE html>/, 'it is HTML');
like($page, qr/name="viewport"/, 'made for phones, too');
like($page, qr/\@media print/, 'and for print');
like($page, qr/\Q&lt;script&gt;&amp;&quot;\E/, 'text is escaped');
my $digest = ask(q{SELECT digest FROM avcurate.slice_versions WHERE slice = 'seen'::regclass});
like($page, qr/$digest/, 'it shows the pin');
my $sha256 = ask("SELECT provenance ->> 'weights_sha256' FROM avcurate.checkpoints WHERE checkpoint = $checkpoint");
like($page, qr/$sha256/, 'and the weights');
like($page, qr/aria-label="Losses"/, 'curves of the losses');
like($page, qr/aria-label="On val_slice while training"/, 'and of the validations');
# what the versions hold, and how far they are apart
my $most = ask(q{SELECT '<td>' || weather || '</td><td>' || timeofday || '</td>' FROM avcurate.scene_counts('seen', 1) LIMIT 1});
like($page, qr/<h2>Data<\/h2>\n<h3>(public\.)?seen, version 1<\/h3>.*\Q$most\E/s, 'what the version holds, by scene');
like($page, qr/<td>car<\/td>(<td class="n">\d+<\/td>){5}/, 'boxes by category and size');
like($page, qr/Drift from (public\.)?seen, version 1:.*<td>weather<\/td><td class="n">16<\/td>.*<td>box size<\/td>/s, 'drift between what was seen and what was not');
my $figures = ask("SELECT round(ap50::numeric, 4) FROM avcurate.evaluations WHERE evaluation = $evaluations[1]");
like($page, qr/>$figures</, 'figures of the evaluation');
like($page, qr/Evaluation $evaluations[1] against $evaluations[0], 95 % intervals by paired bootstrap over 8 frames/, 'the two evaluations are compared');
my @curves = $page =~ /aria-label="Precision over recall at IoU 0\.5"/g;
cmp_ok(scalar @curves, '>=', 1, 'precision over recall');
my @pictures = $page =~ m{src="data:image/jpeg;base64,([A-Za-z0-9+/=]+)"}g;
cmp_ok(scalar @pictures, '>=', 4, 'pictures');
is(scalar(grep { $node->safe_psql('postgres', "SELECT avcurate.jpeg_width(decode('$_', 'base64')) > 100") ne 't' } @pictures[0, -1]), 0, 'which are JPEGs');

# the curve ends where the figures do
my ($recall) = ask("SELECT round(recall50::numeric, 4) FROM avcurate.evaluation_classes WHERE evaluation = $evaluations[1] AND category = 'car'");
my ($line) = (split /aria-label="Precision over recall/, $page)[-1] =~ m{ d="([^"]*)"/><path d="M\d+ \d+ h18"[^/]*/><text[^>]*>car</text>};
my ($x) = $line =~ /[ML]([\d.]+) [\d.]+$/;
cmp_ok(abs(($x - 56) / (720 - 56 - 150) - $recall), '<', 0.002, "the cars' curve ends at their recall ($recall)");

# --- what cannot be shown
my ($rc, $out, $err) = $node->psql('postgres', q{SELECT avcurate.report(ARRAY[4711, 1])});
like($err, qr/ERROR:  job 4711 does not exist/, 'an unknown job');
like(($node->psql('postgres', 'SELECT avcurate.report(ARRAY[4712, 1, 4711, 4712])'))[2], qr/ERROR:  jobs 4711, 4712 do not exist/, 'several');
is(scalar(() = ask("SELECT avcurate.report(ARRAY[$train, $train])") =~ /<h2>Job /g), 1, 'a job named twice is shown once');
like(($node->psql('postgres', 'SELECT avcurate.report(ARRAY[]::bigint[])'))[2], qr/takes 1 to 100 jobs/, 'no job');
ask('CREATE ROLE reader');
like(($node->psql('postgres', "SET ROLE reader; SELECT avcurate.report(ARRAY[$train])"))[2], qr/job $train does not exist/, "another role's job");
ask(q{GRANT reader TO CURRENT_USER; GRANT SELECT ON held_out TO reader;
	SET ROLE reader; SELECT avcurate.create_model('own', 'small', '{"min_size": 96, "max_size": 160, "fpn_channels": 32, "representation_size": 64}');
	SELECT avcurate.create_checkpoint('own', 1)});
ask('GRANT SELECT ON frames TO reader');
my $own = ask(q{SET ROLE reader; SELECT avcurate.evaluate((SELECT max(checkpoint) FROM avcurate.checkpoints WHERE model = 'own'), 'held_out')});
ask("SELECT avcurate.wait_job($own)");
ask('REVOKE SELECT ON frames FROM reader');
$page = ask("SET ROLE reader; SELECT avcurate.report(ARRAY[$own])");
like($page, qr/class="note">[^<]*permission denied/, 'pictures that one may not see are named, the rest is there');
like($page, qr/Figures/, 'as are the figures');

# --- in a browser
SKIP:
{
	my ($browser) = grep { -x $_ } map { ("$_/chromium", "$_/google-chrome") } split /:/, $ENV{PATH};
	skip 'no headless browser', 1 unless $browser;
	my $folder = $node->basedir;
	append_to_file("$folder/report.html", ask("SELECT avcurate.report(ARRAY[$jobs])"));
	my $seen = `HOME=$folder $browser --headless --no-sandbox --disable-gpu --user-data-dir=$folder/browser --dump-dom file://$folder/report.html 2>/dev/null`;
	like($seen, qr{<h2>Job $train: train</h2>.*<svg.*</svg>.*</body></html>}s, 'a browser reads it');
}

# --- slices that are gone
ask('DROP MATERIALIZED VIEW held_out');
$page = ask("SELECT avcurate.report(ARRAY[$jobs])");
is(faults($page), '', 'the page of a dropped slice is well formed');
like($page, qr/>$figures</, 'and has its figures');
done_testing();
