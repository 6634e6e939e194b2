# What the tests of the shared engine share.
package ServiceTest;
use strict;
use warnings;
use FindBin;
use IPC::Run qw(start finish timeout);
use Time::HiRes qw(time usleep);
use lib $FindBin::Bin;
use JobTest;
use Exporter 'import';
our @EXPORT = qw(small_network ask_sql begin end_of workers engine is_gone runs configure);

# Tiny frames, a tiny network with fresh weights: checkpoint 1.
sub small_network
{
	my ($node, $database) = @_;
	setup_small($node, 24, $database);
	$node->safe_psql($database // 'postgres', q{SELECT avcurate.create_checkpoint('m', 7)});
}

# What one frame gives, as text.  A batch of another size may give another
# last bit.
sub ask_sql
{
	my ($frame, $checkpoint) = @_;
	$checkpoint //= 1;
	return qq{SELECT count(*), md5(string_agg(format('%s %s %s', category, round(score::numeric, 3), round(x1::numeric, 1)), ' '
		ORDER BY round(score::numeric, 3) DESC, category, x1)) FROM frames f,
		avcurate.detect(f.image_bytes, $checkpoint, 0) d WHERE frame_id = $frame};
}

# Begin statements in a session of their own; end_of() gives their output.
sub begin
{
	my ($node, @sql) = @_;
	my %session = (out => '', err => '');
	$session{run} = start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), map { ('-c', $_) } @sql ],
		'<', \undef, '>', \$session{out}, '2>', \$session{err}, timeout(120));
	return \%session;
}

sub end_of
{
	my ($session) = @_;
	finish $session->{run};
	chomp $session->{out};
	return ($session->{out}, $session->{err});
}

# Process ids of the workers of shared engines, and of the engine of the one.
sub workers
{
	my ($node) = @_;
	return $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'avcurate shared engine'});
}

sub engine
{
	my ($node) = @_;
	my $worker = workers($node);
	return undef unless $worker =~ /^\d+$/;
	my ($child) = children_of($worker);
	return $child;
}

# Does a process end within a minute?
sub is_gone
{
	my ($pid) = @_;
	my $start = time;
	while (time - $start < 60)
	{
		return 1 unless kill 0, $pid;
		usleep(20_000);
	}
	return 0;
}

# Wait until a backend waits in a statement like that.
sub runs
{
	my ($node, $like) = @_;
	return poll($node, qq{SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '$like' AND wait_event = 'Extension' AND pid <> pg_backend_pid()}, 't');
}

sub configure
{
	my ($node, @settings) = @_;
	# the settings are known where the library is loaded
	$node->safe_psql('postgres', join(";\n", "LOAD 'avcurate'", map { "ALTER SYSTEM SET $_" } @settings));
	$node->reload;
}

1;
