# Files that tests of ingest make.
package IngestTest;
use strict;
use warnings;
use Exporter 'import';
our @EXPORT = qw(write_file picture box entry);

sub write_file
{
	my ($name, $bytes) = @_;
	open my $out, '>:raw', $name or die "$name: $!";
	print $out $bytes;
	close $out;
}

# A JPEG as far as its frame header and its end, unique by what is between.
sub picture
{
	my ($width, $height, $tail) = @_;
	return "\xff\xd8\xff\xc0\x00\x11\x08"
	  . pack('nn', $height, $width)
	  . "\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01" . $tail . "\xff\xd9";
}

sub box
{
	my ($category, @corners) = @_;
	return sprintf('{"category": "%s", "attributes": {"occluded": true, "truncated": false, '
		. '"trafficLightColor": "none"}, "id": 7, "box2d": {"x1": %s, "y1": %s, "x2": %s, "y2": %s}}',
		$category, @corners);
}

sub entry
{
	my ($name, @labels) = @_;
	return sprintf('{"name": "%s", "attributes": {"weather": "clear", "scene": "highway", "timeofday": "night"}, '
		. '"timestamp": 10000, "labels": [%s]}', $name, join(', ', @labels));
}

1;
