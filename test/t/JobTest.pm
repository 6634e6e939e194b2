# What the tests of jobs and training share.
package JobTest;
use strict;
use warnings;
use File::Copy;
use File::Path qw(make_path);
use FindBin;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time usleep);
use Exporter 'import';
our @EXPORT = qw(setup_frames setup_small make_double behave poll state_of engines_of weights_of children_of engine_folders);

# A dataset of small rendered frames, a slice of all, a model.
sub setup_frames
{
	my ($node, $frames) = @_;
	$node->safe_psql('postgres', 'CREATE EXTENSION avcurate');
	$node->safe_psql('postgres', q{SELECT avcurate.create_dataset('frames')});
	$node->safe_psql('postgres', qq{CALL avcurate.ingest_synthetic('frames', $frames, 3, 'train')});
	$node->safe_psql('postgres', q{SELECT avcurate.create_slice('all_frames', 'frames', 'true');
		SELECT avcurate.create_model('m', 'small')});
}

# Tiny frames and a tiny network "m", for tests that run the real engine.
sub setup_small
{
	my ($node, $frames, $database) = @_;
	$node->safe_psql($database // 'postgres', qq{
		CREATE EXTENSION avcurate;
		SELECT avcurate.create_dataset('frames');
		CALL avcurate.ingest_synthetic('frames', $frames, 3, 'train', '{"width": 160, "height": 96}');
		SELECT avcurate.create_model('m', 'small', '{"min_size": 96, "max_size": 160, "fpn_channels": 32, "representation_size": 64}')});
}

# Put the double where the server can run it; returns its path.
sub make_double
{
	my ($node) = @_;
	my $folder = $node->basedir . '/double';
	make_path($folder);
	copy("$FindBin::Bin/engine_double.perl", "$folder/engine") or die "copy: $!";
	chmod 0755, "$folder/engine";
	return "$folder/engine";
}

sub behave
{
	my ($node, @words) = @_;
	open my $out, '>', $node->basedir . '/double/behaviour' or die "behaviour: $!";
	print $out "$_\n" foreach @words;
	close $out;
}

# Wait until the query gives the text; returns the seconds it took, or undef.
sub poll
{
	my ($node, $query, $wanted, $limit) = @_;
	my $start = time;
	$limit //= 180;
	while (time - $start < $limit)
	{
		my ($rc, $out) = $node->psql('postgres', $query);
		return time - $start if defined $out && $out eq $wanted;
		usleep(20_000);
	}
	return undef;
}

sub state_of
{
	my ($node, $job) = @_;
	return $node->safe_psql('postgres', "SELECT state FROM avcurate.jobs WHERE job = $job");
}

# Engine processes that belong to this server's programs or double.
sub engine_folders
{
	my ($path) = @_;
	my @found;
	foreach my $folder (glob '/proc/[0-9]*')
	{
		open my $in, '<', "$folder/cmdline" or next;
		my $line = <$in> // '';
		close $in;
		next unless $line =~ /serve\0--fd/;
		my $program = readlink("$folder/exe") // '';
		push @found, $folder if $line =~ /\Q$path\E/ || $program eq $path;
	}
	return @found;
}

sub engines_of { return scalar(my @found = engine_folders(@_)) }

sub children_of
{
	my ($parent) = @_;
	my @found;
	foreach my $file (glob '/proc/[0-9]*/stat')
	{
		open my $in, '<', $file or next;
		my $line = <$in> // '';
		close $in;
		push @found, $1 if $line =~ /^(\d+) \(.*\) \S (\d+)/ && $2 == $parent;
	}
	return @found;
}

sub weights_of
{
	my ($node, $job) = @_;
	return $node->safe_psql('postgres',
		"SELECT provenance ->> 'weights_sha256' FROM avcurate.checkpoints WHERE job = $job");
}

1;
