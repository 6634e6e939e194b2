# The files of packed vectors: on a standby and after its promotion, over a
# restart, in a backup and a dump, removed, broken, and where none can be
# written.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FindBin;
use lib $FindBin::Bin;
use SearchTest;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "fsync = off\n");
$primary->start;
$primary->safe_psql('postgres', "CREATE EXTENSION avcurate;\n" . SearchTest::setup_sql(400));

sub files { my @files = glob $_[0]->data_dir . '/base/pgsql_tmp/pgsql_tmp.avcurate.*'; return @files }

# Nothing differs, by packed vectors or, with "unpacked", without.
sub is_exact
{
	my ($node, $name, $unpacked, $database) = @_;
	my $sql = "SET client_min_messages = debug1;\n" . join '', map { SearchTest::check_sql($_) } 1 .. 5;
	my (undef, $out, $err) = $node->psql($database || 'postgres', $sql);
	is($out . join("\n", grep { /ERROR|FATAL/ } split /\n/, $err), '', $name);
	($unpacked ? \&like : \&unlike)->($err, qr/read from the dataset/, $unpacked ? '... without packed vectors' : '... by packed vectors');
	return $err;
}

is_exact($primary, 'on a primary');
is(scalar(files($primary)), 2, 'a file a feature');
$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
is(scalar(files($standby)), 0, 'a backup has none of them');
$standby->start;
$primary->wait_for_catchup($standby);
is_exact($standby, 'on a standby');
$primary->safe_psql('postgres', q{
UPDATE frames SET large = vector(frame_id % 70, 640) WHERE frame_id % 5 = 0;
DELETE FROM frames WHERE frame_id % 7 = 0;
SELECT add_frames(50);
VACUUM frames;
UPDATE frames SET small = vector(frame_id % 9, 9) WHERE frame_id % 4 = 0;
});
$primary->wait_for_catchup($standby);
is_exact($standby, 'that has followed');
$primary->safe_psql('postgres', 'VACUUM FULL frames; DELETE FROM frames WHERE frame_id % 8 = 1');
$primary->wait_for_catchup($standby);
is_exact($standby, 'into another file');
# the primary goes on with what the standby does not get, then that takes over
$primary->safe_psql('postgres', 'UPDATE frames SET large = vector(5, 640) WHERE frame_id % 3 = 0');
$primary->wait_for_catchup($standby);
$primary->stop('immediate');
$standby->promote;
is_exact($standby, 'after its promotion');
$standby->safe_psql('postgres', 'UPDATE frames SET large = vector(6, 640) WHERE frame_id % 3 = 1');
is_exact($standby, 'and with changes of its own');
$primary->start;
is_exact($primary, 'after a crash');

# ---- restarts, removed and broken files ----
my ($file) = files($primary);
$primary->restart;
is(scalar(files($primary)), 0, 'a restart removes the files');
is_exact($primary, 'and they are made anew');
unlink files($primary);
is_exact($primary, 'removed while the server runs');
foreach my $damage (['cut off', sub { truncate $_[0], 5000 }], ['empty', sub { truncate $_[0], 0 }],
	['of nonsense', sub { open my $out, '+<', $_[0] or die; print $out 'x' x 8192; close $out }],
	[ 'half changed', sub { open my $out, '+<', $_[0] or die; seek $out, 76, 0; print $out pack 'L', 1; close $out } ])
{
	$damage->[1]->($_) foreach files($primary);
	is_exact($primary, "a file that is $damage->[0]");
}

# ---- a folder that cannot be written ----
my $folder = $primary->data_dir . '/base/pgsql_tmp';
unlink files($primary);
chmod 0500, $folder;
SKIP:
{
	skip 'this user writes where nobody may', 3 if -w $folder;
	my $err = is_exact($primary, 'where no file can be written', 1);
	like($err, qr/WARNING: +could not write file "base.*Permission denied.*\nHINT: +Vectors are read from the dataset instead/, '... which it warns of');
}
chmod 0700, $folder;
is_exact($primary, 'where it can again');

# ---- a file that a session may not make, and one that others have made ----
unlink files($primary);
{
	local $ENV{PGOPTIONS} = '-c temp_file_limit=100kB';
	my $err = is_exact($primary, 'where temp_file_limit is less than a file', 1);
	like($err, qr/WARNING: +packed vectors of table "frames" need \d+ kB, but temp_file_limit is 100 kB\nHINT: +Raise temp_file_limit/, '... which it warns of');
}
is_exact($primary, 'where it is not');
{
	local $ENV{PGOPTIONS} = '-c temp_file_limit=100kB';
	is_exact($primary, 'and where somebody else has made the file');
}

# ---- a dump ----
my $dump = $primary->basedir . '/search.dump';
$primary->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $primary->connstr('postgres') ], 'a dump');
$primary->safe_psql('postgres', 'CREATE DATABASE copied');
$primary->command_ok([ 'pg_restore', '-d', $primary->connstr('copied'), '--exit-on-error', $dump ], 'and its restoration');
is_exact($primary, 'have the same vectors', 0, 'copied');

# ---- what is dropped ----
my $oid = $primary->safe_psql('postgres', q{SELECT oid FROM pg_database WHERE datname = 'copied'});
is(scalar(grep { /avcurate\.$oid\./ } files($primary)), 2, 'a database has files of its own');
$primary->safe_psql('postgres', 'DROP DATABASE copied');
unlink grep { !/avcurate\.$oid\./ } files($primary);
is_exact($primary, 'a search in another one');
is(scalar(grep { /avcurate\.$oid\./ } files($primary)), 0, '... removes them when that is dropped');

# ---- a search that is cancelled while it makes the file ----
$primary->safe_psql('postgres', q{SELECT add_frames(3000)});
unlink files($primary);
my (undef, undef, $err) = $primary->psql('postgres', q{SET statement_timeout = '5ms'; SELECT * FROM avcurate.nearest_frames('frames', vector(5, 640), feature => 'large')});
like($err, qr/canceling statement due to statement timeout/, 'a search is cancelled');
is_exact($primary, 'and another goes on');

$primary->stop;
$standby->stop;
done_testing();
