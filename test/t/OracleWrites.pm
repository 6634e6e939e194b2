# Random transactions on a dataset.  frame_id % 16 = 15 is left to whoever
# refreshes, so that a refresh among its own writes waits for nobody.
package OracleWrites;
use strict;
use warnings;

# Whoever holds this lock alone keeps every writer from committing.
our $gate = 305;

my $names = 0;

sub pick { return $_[ rand @_ ] }

sub new
{
	my ($class, %options) = @_;
	# statements counts what was handed out
	return bless { is_own => 0, longest => 0.9, very_long => 0, truncates => 1, statements => 0, prefix => 'w', %options }, $class;
}

# A condition on f that a few frames pass, scattered or side by side.
sub some
{
	my ($self) = @_;
	my $mine = $self->{is_own} ? 'f.frame_id % 16 = 15' : 'f.frame_id % 16 < 15';
	return sprintf '%s AND f.frame_id %% %d = %d', $mine, pick(37, 53, 71, 97), int rand 37 if rand() < 0.6;
	return sprintf '%s AND f.frame_id IN (SELECT frame_id FROM frames WHERE frame_id >= (SELECT min(frame_id) + %d FROM frames) ORDER BY frame_id LIMIT %d)',
		$mine, int rand 700, 1 + int rand 8;
}

sub name
{
	my ($self) = @_;
	return "$self->{prefix} " . ++$names;
}

# As SliceTest's jpeg(), for COPY.
sub jpeg
{
	my ($seed) = @_;
	return '\\\\x' . unpack 'H*',
		pack('H*', 'ffd8fffe') . pack('n', length($seed) + 2) . $seed . pack('H*', 'ffc0001108')
		. pack('nn', 480, 640) . pack('H*', '03012200021101031101ffda000c03010002110311003f0000ffd9');
}

sub nap { return sprintf 'SELECT pg_sleep(%.2f);', rand $_[0] }

my @statements = (
	[ 4 => sub { "SELECT add_frames(" . (1 + int rand 5) . ");" } ],
	[ 1 => sub { my $s = shift; "COPY frames (image_id, weather, timeofday, image_bytes) FROM stdin;\n"
		. join('', map { my $n = $s->name; "$n\t" . pick('clear', 'foggy', '\N') . "\tnight\t" . jpeg($n) . "\n" } 1 .. 3) . '\.' } ],
	[ 6 => sub { "UPDATE frames f SET timeofday = CASE timeofday WHEN 'night' THEN 'day' ELSE 'night' END WHERE " . $_[0]->some . ";" } ],
	[ 3 => sub { "UPDATE frames f SET weather = '" . pick('foggy', 'rainy', 'clear') . "' WHERE " . $_[0]->some . ";" } ],
	[ 3 => sub { "UPDATE frames f SET scene = left(scene, 20) || '" . pick('a', 'b', 'c') . "' WHERE " . $_[0]->some . ";" } ],
	# out of line
	[ 1 => sub { my $n = $_[0]->name; "UPDATE frames f SET scene = (SELECT string_agg(md5(i || '$n'), '') FROM generate_series(1, 200) i) WHERE " . $_[0]->some . ";" } ],
	[ 3 => sub { "UPDATE frames f SET image_bytes = jpeg('again ' || frame_id || clock_timestamp()) WHERE " . $_[0]->some . ";" } ],
	[ 3 => sub { "UPDATE frames f SET ann_categories = array['car'], ann_bboxes = array[[" . int(rand 9) . ",2,30,40.5]]::real[], ann_occluded = NULL, ann_truncated = NULL, ann_ignored = NULL, ann_area = NULL WHERE " . $_[0]->some . ";" } ],
	[ 2 => sub { "UPDATE frames f SET ann_occluded[1] = NOT coalesce(ann_occluded[1], false) WHERE ann_occluded IS NOT NULL AND " . $_[0]->some . ";" } ],
	[ 3 => sub { "UPDATE frames f SET words = " . int(rand 5) . " WHERE " . $_[0]->some . ";" } ],
	[ 2 => sub { "UPDATE frames f SET split = '" . pick('train', 'val') . "' WHERE " . $_[0]->some . ";" } ],
	[ 2 => sub { "UPDATE frames f SET split = split WHERE " . $_[0]->some . ";" } ],
	[ 2 => sub { "INSERT INTO frames AS f (image_id, image_bytes, timeofday, weather) SELECT image_id, jpeg('upsert ' || frame_id || clock_timestamp()), 'night', 'clear' FROM frames f WHERE "
		. $_[0]->some . " UNION ALL VALUES ('" . $_[0]->name . "', jpeg('new'), 'night', 'clear') ON CONFLICT (image_id) DO UPDATE SET scene = 'upserted', image_bytes = excluded.image_bytes;" } ],
	[ 1 => sub { "MERGE INTO frames f USING (SELECT frame_id AS id FROM frames f WHERE " . $_[0]->some
		. ") m ON f.frame_id = m.id WHEN MATCHED AND id % 2 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET scene = 'merged';" } ],
	[ 5 => sub { "DELETE FROM frames f WHERE " . $_[0]->some . ";" } ],
	# gone and back, the same or not
	[ 2 => sub { "DO \$\$DECLARE r frames; BEGIN FOR r IN SELECT * FROM frames f WHERE " . $_[0]->some
		. " LOOP DELETE FROM frames WHERE frame_id = r.frame_id; " . pick('', "r.scene = 'back'; ", "r.timeofday = 'day'; ")
		. "INSERT INTO frames OVERRIDING SYSTEM VALUE VALUES (r.*); END LOOP; END\$\$;" } ],
	[ 2 => sub { my $mine = $_[0]{is_own} ? '= 15' : '< 15';
		"INSERT INTO frames OVERRIDING SYSTEM VALUE SELECT (l.frame).* FROM (SELECT DISTINCT ON (frame_id) * FROM oracle.log WHERE op = 'W' AND frame_id % 16 $mine ORDER BY frame_id DESC, seq DESC LIMIT 400) l"
		. " WHERE l.frame_id % 3 = 0 AND NOT EXISTS (SELECT FROM frames f WHERE f.frame_id = l.frame_id) LIMIT 3 ON CONFLICT DO NOTHING;" } ],
	# two frames change their names: unique in the view as well
	[ 2 => sub { "DO \$\$DECLARE a frames; b frames; BEGIN SELECT * INTO a FROM frames f WHERE " . $_[0]->some . " LIMIT 1; SELECT * INTO b FROM frames f WHERE "
		. $_[0]->some . " AND frame_id > a.frame_id LIMIT 1; IF NOT FOUND THEN RETURN; END IF; UPDATE frames SET image_id = 'swapping ' || a.frame_id WHERE frame_id = a.frame_id;"
		. " UPDATE frames SET image_id = a.image_id WHERE frame_id = b.frame_id; UPDATE frames SET image_id = b.image_id WHERE frame_id = a.frame_id; END\$\$;" } ],
	[ 1 => sub { "SELECT count(*) FROM (SELECT FROM frames f WHERE " . $_[0]->some . " FOR " . pick('UPDATE', 'SHARE', 'NO KEY UPDATE', 'KEY SHARE') . " OF f SKIP LOCKED) s;" } ],
	# more subtransactions than a backend tells others of
	[ 2 => sub { my $p = pick(5, 7, 11); "DO \$\$DECLARE i bigint; BEGIN FOR i IN SELECT frame_id FROM frames f WHERE frame_id % 16 " . ($_[0]{is_own} ? '= 15' : '< 15')
		. " AND frame_id >= (SELECT min(frame_id) + " . int(rand 600) . " FROM frames) ORDER BY frame_id LIMIT 90 LOOP BEGIN IF i % 5 = 1 THEN UPDATE frames SET words = words + 1 WHERE frame_id = i; ELSE INSERT INTO oracle.scratch VALUES (i); END IF;"
		. " IF i % $p = 0 THEN RAISE 'undo'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END\$\$;\n" . nap(0.6) } ],
);
my @weighted = map { ($_->[1]) x $_->[0] } @statements;

# One statement that writes.
sub statement
{
	my ($self) = @_;
	$self->{statements}++;
	return pick(@weighted)->($self);
}

# One transaction: short or long, with savepoints, undone, prepared.
sub transaction
{
	my ($self) = @_;
	my $through = "SELECT pg_advisory_xact_lock_shared($gate);";
	return $self->truncation if $self->{truncates} && rand() < 0.02;

	my $isolation = pick(('') x 6, ' ISOLATION LEVEL REPEATABLE READ', ' ISOLATION LEVEL SERIALIZABLE');
	my @sql = ("BEGIN$isolation;");
	my $is_long = rand() < 0.25;
	my $longest = rand() < $self->{very_long} ? 5 : $self->{longest};
	my $points = 0;
	foreach (1 .. pick(1, 1, 2, 3, 6))
	{
		push @sql, $self->statement;
		push @sql, nap($longest / 2) if $is_long;
		if (rand() < 0.25)
		{
			push @sql, "SAVEPOINT s;", $self->statement, $is_long ? nap($longest / 4) : ();
			push @sql, pick('ROLLBACK TO s;', 'RELEASE s;', 'ROLLBACK TO s; RELEASE s;', '');
		}
	}
	if (rand() < 0.06)
	{
		my $name = $self->name;
		return join "\n", @sql, "PREPARE TRANSACTION '$name';", nap($longest),
			rand() < 0.7
			? ("SELECT pg_advisory_lock_shared($gate);", "COMMIT PREPARED '$name';", "SELECT pg_advisory_unlock_shared($gate);")
			: "ROLLBACK PREPARED '$name';";
	}
	return join "\n", @sql, rand() < 0.2 ? 'ROLLBACK;' : "$through\nCOMMIT;";
}

# Nothing is waited for behind the gate with a lock that refreshes want.
sub truncation
{
	my ($self) = @_;
	$self->{statements} += 2;
	return "BEGIN;\nSELECT pg_advisory_xact_lock_shared($gate);\nSET LOCAL lock_timeout = '500ms';\n"
		. "TRUNCATE frames;\nSELECT add_frames(500);\n" . pick('COMMIT;', 'COMMIT;', 'ROLLBACK;');
}

# Errors that writers at once may get from each other.
our $expected = qr/savepoint "s" does not exist|deadlock detected|lock timeout|could not serialize|duplicate key|current transaction is aborted|prepared transaction .* does not exist|canceling statement|cannot reindex invalid index/;

sub maintenance
{
	# a transaction that is prepared behind the gate would be waited for in a
	# circle that nobody sees
	return "SET lock_timeout = '500ms';\n" . pick(
		'VACUUM frames;', 'VACUUM frames;', 'VACUUM (FREEZE) frames;', 'VACUUM (FREEZE, INDEX_CLEANUP ON) night;', 'VACUUM night;',
		'VACUUM;', 'CHECKPOINT;', 'ANALYZE frames;',
		'VACUUM FULL frames;', 'CLUSTER frames USING frames_pkey;',
		'VACUUM FULL night;', 'CLUSTER night USING night_frame_id_idx;',
		'REINDEX TABLE night;',
		'CREATE INDEX CONCURRENTLY IF NOT EXISTS night_later ON night (split, left(scene, 5)) WHERE words > 2;', 'DROP INDEX CONCURRENTLY IF EXISTS night_later;',
		'REINDEX TABLE CONCURRENTLY hashes;', 'REINDEX INDEX CONCURRENTLY night_weather_split_idx;');
}

1;
