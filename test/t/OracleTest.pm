# The oracle that slices are held against.
#
# A trigger of the test's own logs every row that the dataset is given, with
# the transaction that gave it.  From the log the dataset can be had as any
# snapshot saw it, without reading the dataset.  So a refresh that runs among
# writers is checked too: its rows must be those of the snapshot before it,
# plus some of the transactions that committed until its end, each whole.
package OracleTest;
use strict;
use warnings;

sub setup_sql
{
	return <<'SQL';
CREATE SCHEMA oracle;

-- ---- the dataset at any snapshot --------------------------------------------

CREATE TABLE oracle.log (
	seq bigint GENERATED ALWAYS AS IDENTITY,
	xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
	op text NOT NULL,			-- (W)ritten, (D)eleted, (T)runcated
	frame_id bigint,
	frame frames);

-- what to write to if only an id is wanted
CREATE UNLOGGED TABLE oracle.scratch (i bigint);

CREATE FUNCTION oracle.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP = 'TRUNCATE' THEN
		INSERT INTO oracle.log (op) VALUES ('T');
		RETURN NULL;
	END IF;
	IF TG_OP = 'DELETE' THEN
		INSERT INTO oracle.log (op, frame_id) VALUES ('D', OLD.frame_id);
	ELSE
		INSERT INTO oracle.log (op, frame_id, frame) VALUES ('W', NEW.frame_id, NEW);
	END IF;
	RETURN NULL;
END
$$;

-- Start the log afresh; nobody else may be at work.
CREATE FUNCTION oracle.restart() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	TRUNCATE oracle.log;
	INSERT INTO oracle.log (op, frame_id, frame) SELECT 'W', f.frame_id, f FROM frames f;
END
$$;

-- The dataset under a snapshot, plus what "late" and this transaction wrote.
CREATE FUNCTION oracle.frames(before pg_snapshot, late xid8[])
RETURNS SETOF frames LANGUAGE sql STABLE AS $$
	WITH seen AS MATERIALIZED (
		SELECT seq, op, frame_id, frame FROM oracle.log
		WHERE xid = pg_current_xact_id_if_assigned() OR xid = ANY (late)
			OR pg_visible_in_snapshot(xid, before)),
	last AS (
		SELECT DISTINCT ON (frame_id) op, frame FROM seen
		WHERE op <> 'T' AND seq > coalesce((SELECT max(seq) FROM seen WHERE op = 'T'), 0)
		ORDER BY frame_id, seq DESC)
	SELECT (frame).* FROM last WHERE op = 'W'
$$;

-- How many rows of a view differ from a query's, either way, and the first.
CREATE FUNCTION oracle.difference(slice text, query text, before pg_snapshot,
	late xid8[], OUT n bigint, OUT example text, OUT frame bigint) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT count(*), min(t), min(frame_id) FROM ('
		'(SELECT frame_id, ''lacks '' || q::text AS t FROM (%2$s) q EXCEPT ALL SELECT frame_id, ''lacks '' || v::text FROM %1$s v) UNION ALL '
		'(SELECT frame_id, ''has '' || v::text FROM %1$s v EXCEPT ALL SELECT frame_id, ''has '' || q::text FROM (%2$s) q)) d',
		slice, query) INTO n, example, frame USING before, late;
END
$$;

-- ---- the view just after a refresh ------------------------------------------

CREATE TABLE oracle.versions (slice text, version bigint, mode text, names text,
	checked boolean NOT NULL DEFAULT false, erased boolean NOT NULL DEFAULT false, PRIMARY KEY (slice, version));
CREATE TABLE oracle.saved (slice text, version bigint, frame_id bigint,
	row_text text, row jsonb, PRIMARY KEY (slice, version, frame_id));

CREATE FUNCTION oracle.names(slice text) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT string_agg(quote_ident(attname), ',' ORDER BY attnum) FROM pg_attribute
	WHERE attrelid = slice::regclass AND attnum > 0 AND NOT attisdropped
$$;

-- Keep a copy of a view's rows under its version.  Called in the transaction
-- of the refresh, or whenever nobody refreshes.
CREATE FUNCTION oracle.remember(slice text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	at bigint;
	difference bigint;
BEGIN
	SELECT s.version INTO at FROM avcurate.slices s WHERE s.slice = remember.slice::regclass;
	INSERT INTO oracle.versions
		SELECT remember.slice, v.version, v.mode, oracle.names(remember.slice) FROM avcurate.slice_versions v
		WHERE v.slice = remember.slice::regclass AND v.version = at
		ON CONFLICT DO NOTHING;
	IF FOUND THEN
		EXECUTE format('INSERT INTO oracle.saved SELECT %L, %s, v.frame_id, v::text, to_jsonb(v) FROM %s v',
			slice, at, slice);
	ELSE
		EXECUTE format('SELECT count(*) FROM (SELECT * FROM oracle.saved WHERE slice = %L AND version = %s) s '
			'FULL JOIN %s v USING (frame_id) WHERE s.row_text IS DISTINCT FROM v::text', slice, at, slice) INTO difference;
		IF difference > 0 THEN
			RAISE WARNING 'FAULT: view % changed in % rows and is still at version %', slice, difference, at;
		END IF;
	END IF;
	RETURN at;
END
$$;

-- What the last refresh of a slice saw, the next one must not lose.
CREATE TABLE oracle.last (slice text PRIMARY KEY, before pg_snapshot);

-- Call right after a refresh, in its transaction, with a snapshot taken right
-- before it.  With is_exact nobody can have committed since.  A WARNING
-- tells what is wrong.  Returns how many transactions the bracket held.
CREATE FUNCTION oracle.refreshed(slice text, before pg_snapshot, is_exact boolean)
RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
	after pg_snapshot := pg_current_snapshot();
	definition text := rtrim(pg_get_viewdef(slice::regclass), ';');
	logged text := regexp_replace(definition, '(FROM \(*)(?:ONLY )?(?:public\.)?frames\M', '\1oracle.frames($1, $2)', 'g');
	must xid8[];
	late xid8[];
	part xid8[];
	d record;
	found_it boolean := false;
BEGIN
	ASSERT logged <> definition;
	PERFORM oracle.remember(slice);
	IF is_exact THEN
		SELECT * INTO d FROM oracle.difference(slice, definition, before, '{}');
		IF d.n > 0 THEN
			RAISE WARNING 'FAULT: % differs from its definition in % rows, one: %', slice, d.n, d.example;
		END IF;
	END IF;
	-- TRUNCATE empties a table for older snapshots, too
	IF current_setting('transaction_isolation') <> 'read committed' AND NOT EXISTS (SELECT FROM frames) THEN
		RETURN 0;
	END IF;
	SELECT array_agg(xid ORDER BY pg_xact_commit_timestamp(xid::xid), xid) INTO late
		FROM (SELECT DISTINCT xid FROM oracle.log
			WHERE xid IS DISTINCT FROM pg_current_xact_id_if_assigned()
			AND pg_visible_in_snapshot(xid, after) AND NOT pg_visible_in_snapshot(xid, before)) x;
	late := coalesce(late, '{}');
	IF current_setting('transaction_isolation') = 'read committed' THEN
		SELECT array_agg(x) INTO must FROM unnest(late) x, oracle.last l
			WHERE l.slice = refreshed.slice AND pg_visible_in_snapshot(x, l.before);
		late := ARRAY(SELECT x FROM unnest(late) WITH ORDINALITY x (x, i) WHERE x <> ALL (coalesce(must, '{}')) ORDER BY i);
		INSERT INTO oracle.last VALUES (slice, before) ON CONFLICT ON CONSTRAINT last_pkey DO UPDATE SET before = excluded.before;
	END IF;
	IF is_exact AND cardinality(late) > 0 THEN
		RAISE WARNING 'FAULT: % transactions slipped through the gate of the test', cardinality(late);
	END IF;
	-- most often the first few in order of commit, but any set will do
	FOR i IN 0 .. cardinality(late) LOOP
		SELECT * INTO d FROM oracle.difference(slice, logged, before, must || late[1:i]);
		found_it := d.n = 0;
		EXIT WHEN found_it;
	END LOOP;
	IF NOT found_it AND cardinality(late) BETWEEN 2 AND 10 THEN
		FOR bits IN 1 .. (1 << cardinality(late)) - 1 LOOP
			SELECT array_agg(late[i]) INTO part FROM generate_subscripts(late, 1) i
				WHERE bits & (1 << (i - 1)) > 0;
			SELECT * INTO d FROM oracle.difference(slice, logged, before, must || part);
			found_it := d.n = 0;
			EXIT WHEN found_it;
		END LOOP;
	END IF;
	IF NOT found_it THEN
		RAISE WARNING 'FAULT: % equals its definition under no snapshot since % (% transactions), in % rows, one: %',
			slice, before, cardinality(late), d.n, d.example;
		RAISE WARNING 'FAULT: frame % was written by %, is %; rows that differ from the definition now: %', d.frame,
			(SELECT json_agg(json_build_object('seq', l.seq, 'xid', l.xid, 'op', l.op, 'text', left(l.frame::text, 300)) ORDER BY l.seq)
				FROM oracle.log l WHERE l.frame_id = d.frame),
			(SELECT left(row(f.xmin, f.ctid, f)::text, 300) FROM frames f WHERE f.frame_id = d.frame),
			(SELECT n FROM oracle.difference(slice, definition, before, '{}'));
	END IF;
	RETURN cardinality(late);
END
$$;

-- What explain_refresh says just before refresh_slice, and did it come so?
CREATE TABLE oracle.explained (slice text, mode text, reason text);
-- Writes nothing: a transaction that has an id leaves another watermark.
CREATE FUNCTION oracle.explain(slice text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('oracle.explained', (SELECT to_jsonb(e) || to_jsonb(s) FROM avcurate.explain_refresh(explain.slice::regclass) e,
		(SELECT s.version FROM avcurate.slices s WHERE s.slice = explain.slice::regclass) s)::text, false);
END
$$;

CREATE FUNCTION oracle.as_explained(slice text, is_exact boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	was jsonb := current_setting('oracle.explained');
	v record;
BEGIN
	INSERT INTO oracle.explained VALUES (slice, was ->> 'mode', was ->> 'reason');
	IF NOT is_exact THEN
		RETURN;
	END IF;
	SELECT x.* INTO v FROM avcurate.slice_versions x WHERE x.slice = as_explained.slice::regclass
		AND x.version > (was ->> 'version')::bigint;
	IF was ->> 'mode' = 'none' AND FOUND OR was ->> 'mode' <> 'none' AND FOUND AND was ->> 'mode' <> v.mode
		OR was ->> 'mode' = 'incremental' AND (was ->> 'changed_rows')::bigint IS DISTINCT FROM v.added + v.removed + v.changed THEN
		RAISE WARNING 'FAULT: explain_refresh said % and the version is %', was, v;
	END IF;
END
$$;

-- ---- everything that was kept -----------------------------------------------

-- Rows of a version that differ from the copy.  Columns that a slice was given
-- later read NULL, and those that it lost cannot be read.
CREATE FUNCTION oracle.version_difference(slice text, version bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	same boolean;
	n bigint;
BEGIN
	SELECT v.names = oracle.names(version_difference.slice) INTO same FROM oracle.versions v
		WHERE v.slice = version_difference.slice AND v.version = version_difference.version;
	EXECUTE format('SELECT count(*) FROM (SELECT * FROM oracle.saved WHERE slice = %1$L AND version = %2$s) s '
		'FULL JOIN (SELECT h.frame_id, h::text AS row_text, to_jsonb(h) AS row FROM avcurate.slice_at(NULL::%1$s, %2$s) h) h USING (frame_id) '
		'WHERE CASE WHEN %3$L THEN s.row_text IS DISTINCT FROM h.row_text '
		'ELSE (SELECT coalesce(jsonb_object_agg(e.key, e.value), ''null'') FROM jsonb_each(s.row) e WHERE e.value <> ''null'' AND h.row ? e.key) '
		'IS DISTINCT FROM jsonb_strip_nulls(coalesce(h.row, ''{}'')) END', slice, version, same) INTO n;
	RETURN n;
END
$$;

-- What is wrong with the versions of a slice that were not looked at yet, or
-- with all.
CREATE FUNCTION oracle.faults(slice text, everything boolean) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	v record;
	c record;
	n bigint;
	counted bigint[];
BEGIN
	FOR v IN SELECT o.*, x.rows, x.digest, x.added, x.removed, x.changed, x.version IS NULL AS is_gone
			FROM oracle.versions o LEFT JOIN avcurate.slice_versions x
				ON x.version = o.version AND x.slice = o.slice::regclass
			WHERE o.slice = faults.slice AND (everything OR NOT o.checked OR random() < 0.1) LOOP
		UPDATE oracle.versions o SET checked = true WHERE o.slice = v.slice AND o.version = v.version;
		IF v.is_gone THEN
			RETURN NEXT format('%s: version %s is gone', slice, v.version);
			CONTINUE;
		END IF;
		n := oracle.version_difference(slice, v.version);
		IF n > 0 THEN
			RETURN NEXT format('%s: %s rows of version %s differ from its copy', slice, n, v.version);
		END IF;
		SELECT * INTO c FROM avcurate.verify_slice(slice::regclass, v.version);
		SELECT count(*) INTO n FROM oracle.saved s WHERE s.slice = v.slice AND s.version = v.version;
		IF NOT c.verified OR c.digest IS DISTINCT FROM v.digest OR n <> v.rows - c.erased THEN
			RETURN NEXT format('%s: version %s holds %s rows of %s: %s', slice, v.version, n, v.rows, c);
		END IF;
		SELECT array[count(*) FILTER (WHERE old.row_text IS NULL), count(*) FILTER (WHERE new.row_text IS NULL),
				count(*) FILTER (WHERE new.row_text <> old.row_text)] INTO counted
			FROM (SELECT * FROM oracle.saved s WHERE s.slice = v.slice AND s.version = v.version) new
			FULL JOIN (SELECT * FROM oracle.saved s WHERE s.slice = v.slice AND s.version = v.version - 1) old
				USING (frame_id);
		IF counted IS DISTINCT FROM array[v.added, v.removed, v.changed] AND NOT v.erased
			AND EXISTS (SELECT FROM oracle.versions o WHERE o.slice = v.slice AND o.version = v.version - 1 AND o.names = v.names AND NOT o.erased) THEN
			RETURN NEXT format('%s: version %s says %s added, removed, changed, and %s were', slice, v.version,
				array[v.added, v.removed, v.changed], counted);
		END IF;
	END LOOP;
	RETURN QUERY SELECT format('%s: no copy of version %s', x.slice, x.version) FROM avcurate.slice_versions x
		WHERE x.slice = faults.slice::regclass
		AND NOT EXISTS (SELECT FROM oracle.versions o WHERE o.slice = faults.slice AND o.version = x.version);
END
$$;

-- What amcheck finds in the tables of a slice; an error where an index is bad.
-- Other kinds of indexes must find what a scan of the view "words" finds.
CREATE FUNCTION oracle.damage(slice text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	conditions text[] := array[$c$split = 'train'$c$, $c$split = 'val'$c$, 'frame_id BETWEEN 100 AND 700', 'frame_id > 1100', 'boxes @> array[40.25]::real[]', 'boxes @> array[40.5]::real[]'];
	condition text;
	history text;
	t regclass;
	n bigint[];
BEGIN
	FOREACH condition IN ARRAY CASE slice WHEN 'words' THEN conditions ELSE '{}' END LOOP
		FOR i IN 1 .. 2 LOOP
			PERFORM set_config('enable_seqscan', (i = 1)::text, true), set_config('enable_indexscan', (i = 2)::text, true),
				set_config('enable_bitmapscan', (i = 2)::text, true);
			EXECUTE format('SELECT array_agg(frame_id ORDER BY frame_id) FROM words WHERE %s', condition) INTO n;
			PERFORM set_config('oracle.found_' || i, n::text, true);
		END LOOP;
		IF current_setting('oracle.found_1') IS DISTINCT FROM current_setting('oracle.found_2') THEN
			RETURN NEXT format('words: an index does not find what is %s', condition);
		END IF;
	END LOOP;
	SELECT format('_avcurate.history_%s', s.slice_id) INTO history FROM _avcurate.slices s
		WHERE s.slice = damage.slice::regclass;
	FOREACH t IN ARRAY array[slice, history, 'frames', '_avcurate.archive', '_avcurate.slice_versions']::regclass[] LOOP
		PERFORM bt_index_check(indexrelid, true) FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = c.relam
			WHERE indrelid = t AND indisvalid AND amname = 'btree';
		RETURN QUERY SELECT format('%s: %s', t, v) FROM verify_heapam(t, check_toast => true) v;
	END LOOP;
END
$$;

-- Erase a frame that is there or that versions hold, from the copies too.
CREATE FUNCTION oracle.erase(which integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	id bigint;
BEGIN
	SELECT frame_id INTO id FROM
		(SELECT frame_id FROM frames UNION SELECT frame_id FROM oracle.saved) f
		WHERE frame_id % 16 = 15 ORDER BY md5(frame_id::text) OFFSET which LIMIT 1;
	PERFORM avcurate.erase_frame('frames', id, 'a test') WHERE id IS NOT NULL;
	UPDATE oracle.versions v SET erased = true FROM oracle.saved s
		WHERE s.frame_id = id AND s.slice = v.slice AND s.version = v.version;
	DELETE FROM oracle.saved s WHERE s.frame_id = id;
	RETURN id;
END
$$;

CREATE FUNCTION oracle.pruned(slice text, keep integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
BEGIN
	WITH p AS (SELECT p.version FROM avcurate.prune_slice(slice::regclass, keep) p WHERE p.pruned),
	s AS (DELETE FROM oracle.saved s USING p WHERE s.slice = pruned.slice AND s.version = p.version),
	v AS (DELETE FROM oracle.versions v USING p WHERE v.slice = pruned.slice AND v.version = p.version RETURNING 1)
	SELECT count(*) INTO n FROM v;
	RETURN n;
END
$$;
SQL
}

# To be run once the dataset is there and the log is wanted.
sub start_sql
{
	return <<'SQL';
CREATE TRIGGER zz_oracle_row AFTER INSERT OR UPDATE OR DELETE ON frames
	FOR EACH ROW EXECUTE FUNCTION oracle.note();
CREATE TRIGGER zz_oracle_table AFTER TRUNCATE ON frames
	FOR EACH STATEMENT EXECUTE FUNCTION oracle.note();
SELECT oracle.restart();
SQL
}

1;
