# ingest_bdd100k and ingest_coco over real label files of every dialect: what
# arrives is compared with what another JSON reader finds in the files.
use strict;
use warnings;
use File::Path qw(make_path);
use File::Temp qw(tempdir);
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $shared = $ENV{AVC_SHARED} ? "$ENV{AVC_SHARED}/bdd100k" : '';
plan skip_all => 'no label samples: set AVC_SHARED' unless -d "$shared/label_samples";

my $node = PostgreSQL::Test::Cluster->new('dialects');
$node->init;
$node->append_conf('postgresql.conf', "fsync = off\nautovacuum = off");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION avcurate');
my $top = tempdir(CLEANUP => 1);

# every class of the files and what it is stored as; a class that is missing
# here fails the test
my %stored = (
	(map { $_ => [ $_, 0 ] } 'person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle', 'traffic light', 'traffic sign'),
	pedestrian => [ 'person', 0 ], bike => [ 'bicycle', 0 ], motor => [ 'motorcycle', 0 ],
	'other person' => [ 'person', 1 ], 'other vehicle' => [ 'car', 1 ], trailer => [ 'truck', 1 ]);

sub query { return $node->safe_psql('postgres', shift); }

sub decode
{
	my ($path) = @_;
	open my $in, '<:raw', $path or die "$path: $!";
	local $/;
	return JSON::PP->new->decode(<$in>);
}

sub picture
{
	my ($tail) = @_;
	return "\xff\xd8\xff\xc0\x00\x11\x08" . pack('nn', 720, 1280) . "\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01" . $tail . "\xff\xd9";
}

sub stem { my ($name) = @_; $name =~ s/\.jpe?g$//; return $name; }

# A flag under any spelling of its key: 0, 1, or undef if it is not said.
sub flag
{
	my ($attributes, $name) = @_;
	my ($key) = grep { lc $_ eq $name } keys %{ $attributes // {} };
	return defined $key && defined $attributes->{$key} ? ($attributes->{$key} ? 1 : 0) : undef;
}

# What the boxes of a list of labels are to become, 1280 x 720.
sub expected_boxes
{
	my ($labels, $counts) = @_;
	my @boxes;
	foreach my $label (@{ $labels // [] })
	{
		my $box = $label->{box2d};
		$counts->{scored}++ if defined $label->{score};
		$counts->{boxes}++ if $box;
		if (!$box) { $counts->{without_box}++; next; }
		my ($category, $ignored) = @{ $stored{ lc $label->{category} } // die "class $label->{category}" };
		my @corners = map { unpack 'f', pack 'f', $_ } @$box{qw(x1 y1 x2 y2)};
		if ($corners[0] >= $corners[2] || $corners[1] >= $corners[3]) { $counts->{dropped}++; next; }
		if ($corners[0] < -1 || $corners[1] < -1 || $corners[2] > 1281 || $corners[3] > 721)
		{
			$counts->{clipped}++;
			@corners = map { $_ < 0 ? 0 : $_ } @corners;
			$corners[2] = 1280 if $corners[2] > 1280;
			$corners[3] = 720 if $corners[3] > 720;
		}
		my $attributes = $label->{attributes};
		push @boxes, [ $category, @corners, flag($attributes, 'occluded'), flag($attributes, 'truncated'), flag($attributes, 'crowd') || $ignored ? 1 : 0 ];
	}
	return \@boxes;
}

# The boxes of a dataset, in the same form.
sub boxes_query
{
	my ($dataset) = @_;
	return qq{SELECT coalesce(json_object_agg(image_id, boxes), '{}') FROM (SELECT f.image_id, coalesce(json_agg(json_build_array(
		category, x1, y1, x2, y2, occluded::int, truncated::int, coalesce(ignored, false)::int) ORDER BY box_no) FILTER (WHERE b.box_no > 0), '[]') AS boxes
		FROM $dataset f LEFT JOIN ${dataset}_boxes b USING (frame_id) WHERE f.ann_categories IS NOT NULL GROUP BY 1) q};
}

# Both as text: a number is what a float of four bytes prints.
sub plain
{
	my ($boxes) = @_;
	return join "\n", map {
		my $image = $_;
		join "\n", "$image:", map { join ' ', map { !defined $_ ? '-' : /^-?[\d.]+(?:e-?\d+)?$/i ? sprintf('%.4f', unpack 'f', pack 'f', $_) : $_ } @$_ } @{ $boxes->{$image} }
	} sort keys %$boxes;
}

my $runs = 0;

# Ingest one label source over images of these names and compare.
sub compare
{
	my ($what, $images, $labels, $frames, %options) = @_;
	my $dataset = 'd' . ++$runs;
	my $procedure = $options{coco} ? 'ingest_coco' : 'ingest_bdd100k';
	my (%expected, %attributes, %counts, $stdout, $stderr);
	my $errors = 0;
	foreach my $frame (@$frames)
	{
		my $stem = stem($frame->{name});
		# the first entry of a name counts, the others are errors
		if ($expected{$stem}) { $errors++; next; }
		$expected{$stem} = expected_boxes($frame->{labels}, \%counts);
		$attributes{$stem} = join '|', map { $frame->{attributes}{$_} // '' } qw(weather scene timeofday);
	}
	my $call = "CALL avcurate.$procedure('$dataset', '$images', '$labels')";
	$node->psql('postgres', "SELECT avcurate.create_dataset('$dataset'); $call; " . boxes_query($dataset)
		  . "; SELECT image_id, concat_ws('|', coalesce(weather, ''), coalesce(scene, ''), coalesce(timeofday, '')) FROM $dataset WHERE ann_categories IS NOT NULL ORDER BY image_id COLLATE \"C\"; $call",
		stdout => \$stdout, stderr => \$stderr);
	my (undef, $boxes, @attributes) = split /\n/, $stdout;
	my ($first, $again) = $stderr =~ /^(.*?passed over.*?)(psql.*)$/s;
	my $total = $options{total} // keys %expected;
	my $unlabelled = $total - keys %expected;
	like($first, qr/ingested $total of $total frames: $total new, 0 updated, 0 unchanged; $unlabelled without labels, $errors errors/, "$what: all frames go in")
	  or diag(query('SELECT source, message FROM avcurate.ingest_errors'));
	my ($dropped, $clipped, $without) = map { $counts{$_} // 0 } qw(dropped clipped without_box);
	like($first, qr/ $dropped boxes without an area and 0 outside the frame were dropped, $clipped were clipped; $without labels have no box, 0 entries/,
		"$what: the summary counts what the file says");
	my $count = 0;
	$count += @$_ foreach values %expected;
	is(plain(JSON::PP->new->decode($boxes)), plain(\%expected), "$what: " . keys(%expected) . " frames, $count boxes as in the file");
	is(join("\n", @attributes), join("\n", map { "$_|$attributes{$_}" } sort keys %attributes), "$what: attributes of the frames") unless $options{coco};
	my $warned = join ' and ', grep { /(\d+)/ && $1 > 0 } ($counts{scored} // 0) . ' labels have a score',
		$counts{boxes} || !$without ? () : "none of $without labels has a box";
	is(join(' and ', $again =~ /WARNING:  (none of \d+ labels has a box|\d+ labels have a score)/g), join(' and ', ($warned) x ($warned ne '' ? 2 : 0)),
		"$what: what is strange in it is said") unless $options{coco};
	like($again, qr/: 0 new, 0 updated, $total unchanged/, "$what: the same again changes nothing");
	return $dataset;
}

# ---- samples of tools around BDD100K: a made image for each name
foreach my $file (sort glob "$shared/label_samples/*.json")
{
	my ($name) = $file =~ m{([^/]+)\.json$};
	my $frames = decode($file);
	make_path("$top/$name");
	foreach my $frame (@$frames)
	{
		open my $out, '>:raw', "$top/$name/" . stem($frame->{name}) . '.jpg' or die;
		print $out picture($frame->{name});
		close $out;
	}
	compare($name, "$top/$name", $file, $frames);
}

# the same labels in the object form, one file an image, and in the oldest layout
my $det = decode("$shared/label_samples/scalabel_det.json");
my $folder = "$top/scalabel_det";
my %forms = (
	'object with frames' => sub { return [ 'labels.json', { frames => $det, groups => undef, config => { imageSize => undef } } ]; },
	'string ids' => sub { return [ 'labels.json', [ map { { %$_, labels => [ map { { %$_, id => "$_->{id}" } } @{ $_->{labels} } ] } } @$det ] ]; },
	'a file an image' => sub { return map { [ stem($_->{name}) . '.json', [$_] ] } @$det; },
	'a file an image, oldest layout' => sub {
		return map { [ stem($_->{name}) . '.json', { name => stem($_->{name}), attributes => $_->{attributes}, frames => [ { timestamp => 10000, objects => $_->{labels} } ] } ] } @$det;
	});
foreach my $form (sort keys %forms)
{
	my @files = $forms{$form}->();
	my $labels = $top . '/forms ' . $form;
	make_path($labels);
	foreach my $file (@files)
	{
		open my $out, '>:raw', "$labels/$file->[0]" or die;
		print $out JSON::PP->new->encode($file->[1]);
		close $out;
	}
	compare($form, $folder, $form =~ /file an image/ ? $labels : "$labels/labels.json", $det);
}

# ---- tracking: a folder of videos and a folder with a label file for each
my $track = "$shared/track/bdd100k_test";
my @frames = map { @{ decode($_) } } glob "$track/track/labels/*.json";
is(scalar @frames, 12, 'twelve tracking frames in two files');
my $tracking = compare('tracking', "$track/track/images", "$track/track/labels", \@frames);
is(query("SELECT count(*) FILTER (WHERE ignored), count(*) FILTER (WHERE occluded), count(DISTINCT image_sha256), min(width), max(height) FROM $tracking JOIN ${tracking}_boxes USING (frame_id)"),
	join('|', map({ my $which = $_; scalar grep { $which eq 'crowd' ? flag($_->{attributes}, 'crowd') || $stored{ $_->{category} }[1] : flag($_->{attributes}, $which) } map { @{ $_->{labels} } } @frames } 'crowd', 'occluded'), 12, 1280, 720),
	'crowds are ignored, flags are kept, all images differ');
compare("one video", "$track/track/images/00091078-875c1f73", "$track/track/labels/00091078-875c1f73.json", decode("$track/track/labels/00091078-875c1f73.json"));
compare('detect', "$track/detect/images", "$track/detect/labels/annotation.json", decode("$track/detect/labels/annotation.json"));
compare('segmentation: labels without boxes', "$track/segment/images", "$track/segment/labels/annotation.json", decode("$track/segment/labels/annotation.json"),
	total => scalar(my @all = glob "$track/segment/images/*.jpg"));

# ---- COCO, as BDD100K's tools write it
my $coco = decode("$track/detect/annotation_coco.json");
my %name = map { $_->{id} => $_->{name} } @{ $coco->{categories} };
compare('COCO', "$track/detect/images", "$track/detect/annotation_coco.json", [ map {
	my $image = $_;
	{ name => $image->{file_name}, labels => [ map { my ($x, $y, $w, $h) = @{ $_->{bbox} }; {
		category => $name{ $_->{category_id} }, attributes => { crowd => $_->{iscrowd} || $_->{ignore} },
		box2d => { x1 => $x, y1 => $y, x2 => $x + $w, y2 => $y + $h } } } grep { $_->{image_id} == $image->{id} } @{ $coco->{annotations} } ] }
} @{ $coco->{images} } ], coco => 1);

$node->stop;
done_testing();
