#!/usr/bin/perl
# A test double of avcurate-engine: it speaks the protocol and misbehaves as
# told.  Not an engine: its "weights" are hashes of what it was sent.  The
# file "behaviour" beside this program holds words, one a line:
#
#   slow MS              each step takes so long
#   hang_at STEP         that step takes a minute
#   slow_load MS         LOAD takes so long
#   slow_save MS         SAVE takes so long
#   kill_at STEP         ends itself by SIGKILL at that step
#   exit_at STEP         writes a last line and exits 3
#   garbage_at STEP      answers with garbage
#   huge_at STEP         announces a blob of 3 GB and ends
#   long_at STEP         announces more than the protocol allows
#   nan_at STEP          answers ERROR numeric
#   skip_at STEP         says that the step was skipped
#   deaf                 ignores SIGTERM and end of file
#   no_hello             exits before it answers anything
#   chatty               writes much to stderr
use strict;
use warnings;
use Digest::SHA qw(sha256);
use JSON::PP;
use Time::HiRes qw(usleep);

my ($folder) = $0 =~ m{^(.*)/};
my %do;
if (open my $in, '<', "$folder/behaviour")
{
	while (<$in>) { $do{$1} = $2 // 1 if /^(\w+)(?:\s+(\d+))?/ }
}
$SIG{TERM} = 'IGNORE' if $do{deaf};
if ($do{no_hello}) { print STDERR "double has nothing to say\n"; exit 4 }

# inherited: only this descriptor and the standard ones
my @open = grep { -e "/proc/self/fd/$_" } 0 .. 300;
open my $socket, '+<&=', 3 or die "no socket: $!";
binmode $socket;

sub take
{
	my ($n) = @_;
	my $got = '';
	while (length $got < $n)
	{
		my $r = sysread $socket, $got, $n - length $got, length $got;
		if (!$r)
		{
			sleep 3600 if $do{deaf};
			exit 0;
		}
	}
	return $got;
}

sub put
{
	my ($kind, $json, $blob) = @_;
	$json = encode_json($json);
	$blob //= '';
	my $all = pack('VvvVVQ<', 0x45435641, 1, $kind, length $json, 0, length $blob) . $json . $blob;
	my $done = 0;
	while ($done < length $all)
	{
		my $w = syswrite $socket, $all, length($all) - $done, $done;
		exit 0 unless $w;
		$done += $w;
	}
}

sub tensors
{
	my (%t) = @_;
	my ($at, %head, $data) = (0);
	$data = '';
	foreach my $name (sort keys %t)
	{
		my $len = length $t{$name};
		$head{$name} = { dtype => 'U8', shape => [$len], data_offsets => [ $at, $at + $len ] };
		$data .= $t{$name};
		$at += $len;
	}
	my $json = JSON::PP->new->canonical->encode(\%head);
	$json .= ' ' x (-length($json) % 8);
	return pack('Q<', length $json) . $json . $data;
}

sub untensors
{
	my ($file) = @_;
	my $n = unpack 'Q<', $file;
	my $head = decode_json(substr $file, 8, $n);
	my %t;
	foreach my $name (grep { $_ ne '__metadata__' } keys %$head)
	{
		my ($from, $to) = @{ $head->{$name}{data_offsets} };
		$t{$name} = substr $file, 8 + $n + $from, $to - $from;
	}
	return %t;
}

my ($weights, $momentum) = ('', '');
while (1)
{
	my ($magic, $version, $kind, $jlen, $zero, $blen) = unpack 'VvvVVQ<', take(24);
	my $json = decode_json(take($jlen));
	my $blob = take($blen);

	if ($do{chatty}) { print STDERR ('chatter ' x 1000, "\n") for 1 .. 40 }
	if ($kind == 1)
	{
		put(100, { engine_version => 'double', libraries => {}, isa => 'none',
				open => join(' ', @open) });
	}
	elsif ($kind == 2)
	{
		usleep(1000 * $do{slow_load}) if $do{slow_load};
		if ($json->{init}) { ($weights, $momentum) = (sha256("seed $json->{seed}") x 4, '') }
		else
		{
			my %t = untensors($blob);
			$weights = $t{weights};
			$momentum = $t{'optimizer.momentum'} // '';
		}
		put(100, { parameters => 128, threads => 1, arena_bytes => {}, new_tensors => [] });
	}
	elsif ($kind == 3)
	{
		my $step = $json->{step};
		my $hit = sub { exists $do{"$_[0]_at"} && $do{"$_[0]_at"} == $step };
		usleep(1000 * $do{slow}) if $do{slow};
		sleep 60 if $hit->('hang');
		kill 'KILL', $$ if $hit->('kill');
		if ($hit->('exit')) { print STDERR "first line\nthe double gave up\n"; exit 3 }
		if ($hit->('garbage')) { syswrite $socket, 'x' x 100; sleep 5; exit 0 }
		if ($hit->('huge')) { syswrite $socket, pack('VvvVVQ<', 0x45435641, 1, 100, 2, 0, 3 << 30) . '{}'; exit 0 }
		if ($hit->('long')) { syswrite $socket, pack('VvvVVQ<', 0x45435641, 1, 100, 2, 0, 5 << 30) . '{}'; sleep 5; exit 0 }
		if ($hit->('nan'))
		{
			put(101, { code => 'numeric', message => "loss of step $step is not finite (frames "
					. join(', ', map { $_->{frame_id} } @{ $json->{frames} }) . ')' });
			next;
		}
		my $what = JSON::PP->new->canonical->encode($json) . $blob;
		$momentum = sha256($momentum . $what);
		$weights = sha256($weights . $momentum) x 4;
		put(100, { step => $step, loss => 1.5, loss_classifier => 0.5, loss_box_reg => 0.25,
				loss_objectness => 0.5, loss_rpn_box_reg => 0.25, grad_norm => 2,
				frames => scalar @{ $json->{frames} },
				skipped => $hit->('skip') ? JSON::PP::true : JSON::PP::false,
				wait_s => 0, busy_s => 0.001 });
	}
	elsif ($kind == 5)
	{
		usleep(1000 * $do{slow_save}) if $do{slow_save};
		my %t = (weights => $weights);
		$t{'optimizer.momentum'} = $momentum if $json->{with_optimizer};
		put(100, { tensors => scalar keys %t }, tensors(%t));
	}
	elsif ($kind == 6) { put(100, {}); exit 0 }
}
