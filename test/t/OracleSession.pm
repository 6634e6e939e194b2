# A psql that is fed without waiting for it.
package OracleSession;
use strict;
use warnings;
use IPC::Run;
use Time::HiRes qw(time usleep);

sub new
{
	my ($class, $node, $name, %settings) = @_;
	my $self = bless {
		name => $name, in => '', out => '', err => '', fed => 0, log => '',
		done_out => 0, done_err => 0 }, $class;
	local $ENV{PGOPTIONS} = join ' ', map { "-c $_=$settings{$_}" } sort keys %settings;
	$self->{run} = IPC::Run::start(
		[ $node->installed_command('psql'), '-XqAt', '-d', $node->connstr('postgres'), '-f', '-' ],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err});
	return $self;
}

# Hand a script over; "done" counts those that ended.
sub feed
{
	my ($self, $sql) = @_;
	$self->{fed}++;
	$self->{log} = substr($self->{log}, -20_000) . "$sql\n";
	$self->{in} .= "$sql\n\\echo done $self->{fed}\n\\warn done $self->{fed}\n";
	$self->poll;
	return;
}

# Take what came; returns how many scripts are not done.
sub poll
{
	my ($self) = @_;
	$self->{run}->pump_nb if $self->{run}->pumpable;
	foreach my $stream ('out', 'err')
	{
		$self->{"done_$stream"} = $1 if $self->{$stream} =~ /.*^done (\d+)\n/ms;
	}
	my $done = $self->{done_out} < $self->{done_err} ? $self->{done_out} : $self->{done_err};
	return $self->{fed} - $done;
}

# Wait until no more than "rest" scripts are left to run.
sub settle
{
	my ($self, $rest) = @_;
	my $start = time;
	while ($self->poll > ($rest || 0))
	{
		die "$self->{name}: lost its server: $self->{err}" unless $self->{run}->pumpable;
		die "$self->{name}: no answer for a minute to\n$self->{log}\n$self->{err}" if time > $start + 60;
		usleep(2_000);
	}
	return;
}

# What was written since the last call, errors and warnings by themselves.
sub taken
{
	my ($self) = @_;
	my @taken = map { s/^done \d+\n//gmr } $self->{out}, $self->{err};
	$self->{out} = '';
	$self->{err} = '';
	return @taken;
}

sub ask
{
	my ($self, $sql) = @_;
	$self->feed($sql);
	$self->settle;
	return $self->taken;
}

sub end
{
	my ($self) = @_;
	eval { $self->{run}->kill_kill(grace => 2) };
	return;
}

1;
