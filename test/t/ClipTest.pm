# A vocabulary and a small network of CLIP's form, for tests.
package ClipTest;
use strict;
use warnings;
use Exporter 'import';
our @EXPORT = qw(write_vocabulary small_clip);

# A file with these merges first and then merges of control characters, which
# no text has; returns its path.
sub write_vocabulary
{
	my ($path, @own) = @_;
	@own = ('o g</w>', 'd og</w>', 'a r</w>', 'c ar</w>') unless @own;
	my @controls = map { chr(256 + $_) } 0 .. 31;
	my @lines = @own;
	foreach my $first (@controls)
	{
		push @lines, map { "$first $_" } @controls;
	}
	foreach my $end ('', '</w>')
	{
		foreach my $first (@controls)
		{
			foreach my $second (@controls)
			{
				push @lines, map { "$first$second $_$end" } @controls;
			}
		}
	}
	open my $out, '>:utf8', $path or die "$path: $!";
	print $out join("\n", '#version: test', @lines[0 .. 48893]), "\n";
	close $out;
	return $path;
}

# A small network with fresh weights in a model "clip".
sub small_clip
{
	my ($node, $database, $vocabulary) = @_;
	$node->safe_psql($database, qq{
		SELECT avcurate.create_model('clip', 'clip_vit_b32',
			'{"image_width": 64, "image_layers": 1, "text_width": 64, "text_layers": 1, "vocabulary": "$vocabulary"}');
		SELECT avcurate.create_checkpoint('clip', 7)});
}

1;
