# What tests share that crash their server.
package ServerTest;
use strict;
use warnings;
use Time::HiRes qw(usleep);
use Exporter 'import';
our @EXPORT = qw(wait_for_server);

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

1;
