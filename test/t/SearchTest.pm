# SQL that the tests of nearest_frames share.
package SearchTest;
use strict;
use warnings;

# A dataset of small vectors, which lie in the row, and of large ones, which
# lie in the TOAST table; few different ones, so that there are equal ones.
sub setup_sql
{
	my ($frames) = @_;
	return <<"SQL";
CREATE FUNCTION jpeg(seed text) RETURNS bytea LANGUAGE sql IMMUTABLE AS
	\$\$SELECT '\\xffd8ffc000110802d00500'::bytea || '\\x03012200021101031101'::bytea || convert_to(seed, 'UTF8')\$\$;
CREATE FUNCTION vector(seed bigint, n int) RETURNS real[] LANGUAGE sql IMMUTABLE AS
	\$\$SELECT array_agg(((hashint8extended(seed, g) % 2001) / 1000.0)::real ORDER BY g) FROM generate_series(1, n) g\$\$;
SELECT avcurate.create_dataset('frames');
SELECT avcurate.add_feature('frames', 'small', 'vector(hashtext(scene) % 40, 9)');
SELECT avcurate.add_feature('frames', 'large', 'vector(hashtext(scene) % 300, 640)');
CREATE SEQUENCE names;
CREATE FUNCTION add_frames(n int) RETURNS void LANGUAGE sql AS \$\$
	INSERT INTO frames (image_id, image_bytes, weather, scene, small, large)
	SELECT 'frame ' || i, jpeg(i::text), (array['clear', 'rainy', 'foggy'])[1 + i % 3], i::text,
		CASE WHEN i % 11 > 0 THEN vector(i % 40, 9) END, CASE WHEN i % 13 > 0 THEN vector(i % 300, 640) END
	FROM (SELECT nextval('names') AS i FROM generate_series(1, n)) s
\$\$;
SELECT add_frames($frames);

-- What nearest_frames and the plain statement return, where they differ: both
-- in one statement, so under one snapshot.
CREATE FUNCTION differs(query real[], k int, filter text, feature name) RETURNS SETOF text LANGUAGE plpgsql AS \$\$
BEGIN
	RETURN QUERY EXECUTE format('WITH a AS (SELECT row_number() OVER () AS n, f.* FROM avcurate.nearest_frames(''frames'', \$1, %s, %L, %L) f), '
		'b AS (SELECT row_number() OVER (ORDER BY s DESC, frame_id) AS n, frame_id, s FROM (SELECT frame_id, avcurate.cosine_similarity(%I, \$1) AS s '
		'FROM ONLY frames WHERE %s) x WHERE s IS NOT NULL ORDER BY n LIMIT %s) '
		'SELECT format(''%%s of %s (%s): %%s is not %%s'', n, a, b) FROM a FULL JOIN b USING (n) WHERE (a.frame_id, a.similarity) IS DISTINCT FROM (b.frame_id, b.s)',
		k, filter, feature, feature, coalesce(filter, 'true'), k, feature, replace(coalesce(filter, 'all'), '''', '''''')) USING query;
END
\$\$;

-- The same by SQL's own arithmetic.
CREATE FUNCTION is_far(query real[], k int, feature name) RETURNS SETOF text LANGUAGE plpgsql AS \$\$
BEGIN
	RETURN QUERY EXECUTE format('SELECT format(''%%s: %%s is not %%s'', a.frame_id, a.similarity, c) FROM avcurate.nearest_frames(''frames'', \$1, %s, feature => %L) a '
		'JOIN frames f USING (frame_id), LATERAL (SELECT sum(x::float8 * y) / sqrt(sum(x::float8 * x) * sum(y::float8 * y)) AS c FROM unnest(f.%I, \$1) u (x, y)) s '
		'WHERE abs(a.similarity - c) > 1e-6', k, feature, feature) USING query;
END
\$\$;
SQL
}

# A round of checks of either feature, with and without a filter.
sub check_sql
{
	my ($seed) = @_;
	my $k = (1, 3, 10, 60, 5000)[ $seed % 5 ];
	my $filter = (q{weather = 'rainy'}, q{frame_id % 7 = 3}, q{false}, q{large IS NOT NULL AND scene < '5'})[ $seed % 4 ];
	return "SELECT * FROM differs(vector($seed % 40, 9), $k, NULL, 'small');\n"
		. "SELECT * FROM differs(vector($seed % 300, 640), $k, NULL, 'large');\n"
		. "SELECT * FROM differs(vector($seed, 640), $k, \$f\$$filter\$f\$, 'large');\n";
}

1;
