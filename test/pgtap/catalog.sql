-- Every SQL object is documented, named and guarded as the style asks.
BEGIN;
SELECT plan(10);

SELECT is_empty($$
	SELECT p.oid::regprocedure FROM pg_proc p
	WHERE p.pronamespace IN ('avcurate'::regnamespace, '_avcurate'::regnamespace)
		AND obj_description(p.oid, 'pg_proc') IS NULL $$,
	'every function has a comment');

SELECT is_empty($$
	SELECT c.oid::regclass FROM pg_class c
	WHERE c.relnamespace IN ('avcurate'::regnamespace, '_avcurate'::regnamespace)
		AND c.relkind IN ('r', 'v', 'm', 'p') AND obj_description(c.oid, 'pg_class') IS NULL $$,
	'every table and view has a comment');

SELECT is_empty($$
	SELECT c.oid::regclass, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
	WHERE c.relnamespace = 'avcurate'::regnamespace AND c.relkind IN ('r', 'v')
		AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL $$,
	'every column of a view or table that users read has a comment');

SELECT is_empty($$
	SELECT p.oid::regprocedure FROM pg_proc p
	WHERE p.pronamespace = 'avcurate'::regnamespace AND p.pronargs > 0
		AND (p.proargnames IS NULL OR '' = ANY (p.proargnames[1:p.pronargs])) $$,
	'every argument has a name');

SELECT is_empty($$
	SELECT p.oid::regprocedure FROM pg_proc p
	WHERE p.pronamespace = '_avcurate'::regnamespace AND p.prosecdef $$,
	'no internal function is SECURITY DEFINER');

SELECT is_empty($$
	SELECT c.oid::regclass FROM pg_class c
	WHERE c.relnamespace = '_avcurate'::regnamespace AND c.relkind IN ('r', 'v')
		AND has_table_privilege('pg_monitor', c.oid, 'SELECT') $$,
	'internal tables are closed to other roles');

SELECT is_empty($$
	SELECT p.oid::regprocedure FROM pg_proc p
	WHERE p.pronamespace = 'avcurate'::regnamespace
		AND p.proname IN ('ingest_bdd100k', 'ingest_coco')
		AND has_function_privilege('pg_monitor', p.oid, 'EXECUTE')
		AND p.proacl IS NULL $$,
	'what reads server files is not open to PUBLIC');

SELECT is_empty($$
	SELECT c.oid::regclass FROM pg_class c JOIN pg_depend d ON d.objid = c.oid AND d.deptype = 'e'
	JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'avcurate'
	WHERE c.relkind = 'r' AND NOT c.oid = ANY (coalesce(e.extconfig, '{}'))
		AND c.relname NOT IN ('watermarks', 'ingest_progress', 'slice_watermarks', 'tombstones', 'backfill_ranges', 'cancel_requests') $$,
	'tables with user data are dumped');

SELECT is_empty(
	$$SELECT check_name, detail, hint FROM avcurate.doctor() WHERE NOT ok$$,
	'doctor finds nothing wrong with a fresh installation');

SELECT results_eq(
	$$SELECT check_name, hint IS NULL FROM avcurate.doctor() WHERE check_name IN ('pg_cron', 'pgvector') ORDER BY 1$$,
	$$SELECT check_name, EXISTS (SELECT FROM pg_extension WHERE extname = name)
		FROM (VALUES ('pg_cron', 'pg_cron'), ('pgvector', 'vector')) optional (check_name, name)$$,
	'doctor tells of the optional extensions, with a hint where they are not installed');

SELECT * FROM finish();
ROLLBACK;
