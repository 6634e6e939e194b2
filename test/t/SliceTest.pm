# SQL that the tests of slices share.
package SliceTest;
use strict;
use warnings;

# the mode of versions that refresh_slice makes by difference
our $by_difference = 'incremental';

sub setup_sql
{
	return <<'SQL';
CREATE EXTENSION avcurate;
SET check_function_bodies = off;

-- the smallest JPEG whose header can be read, different for each text
CREATE FUNCTION jpeg(seed text, w int DEFAULT 640, h int DEFAULT 480)
RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
	SELECT '\xffd8fffe'::bytea
		|| decode(lpad(to_hex(octet_length(seed) + 2), 4, '0'), 'hex')
		|| convert_to(seed, 'UTF8') || '\xffc0001108'::bytea
		|| decode(lpad(to_hex(h), 4, '0') || lpad(to_hex(w), 4, '0'), 'hex')
		|| '\x03012200021101031101ffda000c03010002110311003f0000ffd9'::bytea
$$;

CREATE SEQUENCE names;
CREATE FUNCTION add_frames(n int) RETURNS bigint LANGUAGE sql AS $$
	WITH added AS (
		INSERT INTO frames (image_id, split, image_bytes, weather, scene,
			timeofday, frame_time, ann_categories, ann_bboxes, ann_occluded,
			ann_truncated)
		SELECT 'frame ' || i, 'train', jpeg('frame ' || i),
			(array['clear', 'rainy', 'foggy'])[1 + i % 3],
			'street', (array['day', 'night'])[1 + i % 2],
			CASE WHEN i % 4 > 0 THEN timestamptz '2024-03-31 00:30:00+00' + i * interval '1 minute' END,
			CASE WHEN i % 5 > 0 THEN array['car', 'person'] END,
			CASE WHEN i % 5 > 0 THEN array[[1, 2, 30, 40.25], [5, 6, 100 + i % 7, 60]]::real[] END,
			CASE WHEN i % 5 > 0 THEN array[true, NULL] END,
			CASE WHEN i % 5 > 0 THEN array[false, true] END
		FROM (SELECT nextval('names') AS i FROM generate_series(1, n)) s
		RETURNING 1)
	SELECT count(*) FROM added
$$;

-- The oracle: a copy of the view's rows as text under each version.
CREATE TABLE saved (slice text, version bigint, row_text text);
CREATE INDEX ON saved (slice, version);

CREATE FUNCTION remember(slice text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	at bigint;
	difference bigint;
BEGIN
	SELECT s.version INTO at FROM avcurate.slices s
		WHERE s.slice = remember.slice::regclass;
	IF NOT EXISTS (SELECT FROM saved s
			WHERE s.slice = remember.slice AND s.version = at) THEN
		EXECUTE format('INSERT INTO saved SELECT %L, %s, v::text FROM %s v',
			slice, at, slice);
	ELSE
		EXECUTE format('SELECT count(*) FROM ('
			'(SELECT v::text FROM %s v EXCEPT ALL SELECT row_text FROM saved WHERE slice = %L AND version = %s) UNION ALL '
			'(SELECT row_text FROM saved WHERE slice = %L AND version = %s EXCEPT ALL SELECT v::text FROM %s v)) d',
			slice, slice, at, slice, at, slice) INTO difference;
		IF difference > 0 THEN
			RAISE 'view % changed in % rows without a new version', slice, difference;
		END IF;
	END IF;
	RETURN at;
END
$$;

-- Copies of versions that a rollback undid vanish with it; this drops those
-- that the registry no longer knows, for good measure.
CREATE FUNCTION forget(slice text) RETURNS void LANGUAGE sql AS $$
	DELETE FROM saved s WHERE s.slice = forget.slice AND s.version >
		(SELECT version FROM avcurate.slices v WHERE v.slice = forget.slice::regclass)
$$;

-- Versions whose rows differ from the copy, either way, or that have none.
CREATE FUNCTION compare(slice text) RETURNS TABLE (version bigint, rows bigint)
LANGUAGE plpgsql AS $$
DECLARE
	v bigint;
BEGIN
	FOR v IN SELECT x.version FROM avcurate.slice_versions x
			WHERE x.slice = compare.slice::regclass LOOP
		RETURN QUERY EXECUTE format('SELECT %s::bigint, count(*) FROM ('
			'(SELECT r::text FROM avcurate.slice_at(NULL::%s, %s) r EXCEPT ALL SELECT row_text FROM saved WHERE slice = %L AND version = %s) UNION ALL '
			'(SELECT row_text FROM saved WHERE slice = %L AND version = %s EXCEPT ALL SELECT r::text FROM avcurate.slice_at(NULL::%s, %s) r)) d HAVING count(*) > 0',
			v, slice, v, slice, v, slice, v, slice, v);
		IF NOT EXISTS (SELECT FROM saved s WHERE s.slice = compare.slice AND s.version = v)
			AND EXISTS (SELECT FROM avcurate.slice_versions x WHERE x.slice = compare.slice::regclass AND x.version = v AND x.rows > 0) THEN
			RAISE WARNING 'no copy of version %', v;
		END IF;
	END LOOP;
END
$$;

-- Pairs of versions where slice_diff and the copies disagree.
CREATE FUNCTION compare_diffs(slice text) RETURNS TABLE (a bigint, b bigint, rows bigint)
LANGUAGE plpgsql AS $$
BEGIN
	FOR a, b IN SELECT x.version, y.version FROM avcurate.slice_versions x
			JOIN avcurate.slice_versions y ON y.slice = x.slice
			WHERE x.slice = compare_diffs.slice::regclass
			AND (x.version * 7 + y.version * 3) % 11 = 0
			ORDER BY 1, 2 LIMIT 60 LOOP
		EXECUTE format('SELECT count(*) FROM ('
			'(SELECT before::text FROM avcurate.slice_diff(NULL::%1$s, %2$s, %3$s) WHERE before IS DISTINCT FROM NULL '
			'EXCEPT ALL (SELECT row_text FROM saved WHERE slice = %1$L AND version = %2$s EXCEPT ALL SELECT row_text FROM saved WHERE slice = %1$L AND version = %3$s)) '
			'UNION ALL ((SELECT row_text FROM saved WHERE slice = %1$L AND version = %3$s EXCEPT ALL SELECT row_text FROM saved WHERE slice = %1$L AND version = %2$s) '
			'EXCEPT ALL SELECT after::text FROM avcurate.slice_diff(NULL::%1$s, %2$s, %3$s) WHERE after IS DISTINCT FROM NULL)) d',
			slice, a, b) INTO rows;
		IF rows > 0 THEN
			RETURN NEXT;
		END IF;
	END LOOP;
END
$$;

-- An error unless the view holds what its definition yields now.
CREATE FUNCTION check_fresh(slice text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
	query text := rtrim(pg_get_viewdef(slice::regclass), ';');
BEGIN
	EXECUTE format('SELECT count(*) FROM ((SELECT v::text FROM %1$s v EXCEPT ALL SELECT q::text FROM (%2$s) q) '
		'UNION ALL (SELECT q::text FROM (%2$s) q EXCEPT ALL SELECT v::text FROM %1$s v)) d', slice, query) INTO n;
	IF n > 0 THEN
		RAISE 'view % differs from its definition in % rows', slice, n;
	END IF;
END
$$;
SQL
}

1;
