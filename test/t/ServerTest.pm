# What tests share that crash their server or watch its processes.
package ServerTest;
use strict;
use warnings;
use Time::HiRes qw(usleep);
use Exporter 'import';
our @EXPORT = qw(wait_for_server resident_growth);

# Until a node takes queries again.  A psql that is refused early breaks the
# pipe it gets its query from, which poll_query_until dies of.
sub wait_for_server
{
	my ($node) = @_;
	foreach (1 .. 600)
	{
		return if eval { $node->poll_query_until('postgres', 'SELECT true') };
		usleep(100_000);
	}
	die 'the server did not come back';
}

# By how many kB a new backend's resident memory, shared pages that it touches
# included, peaks above what it was before the statement.
sub resident_growth
{
	my ($node, $statement) = @_;
	my $session = $node->background_psql('postgres');
	my $backend = $session->query_safe('SELECT pg_backend_pid()');
	my $read = sub {
		my ($what) = @_;
		open my $in, '<', "/proc/$backend/status" or die;
		my ($kb) = map { /^$what:\s+(\d+)/ ? $1 : () } <$in>;
		return $kb;
	};
	my $start = $read->('VmRSS');
	$session->query($statement);
	my $growth = $read->('VmHWM') - $start;
	$session->quit;
	return $growth;
}

1;
