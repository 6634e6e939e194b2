-- Installing, settings and their refusals.
\set VERBOSITY terse
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS avcurate CASCADE;
RESET client_min_messages;
CREATE EXTENSION avcurate;
SELECT extversion FROM pg_extension WHERE extname = 'avcurate';
SELECT avcurate.version() ~ '^0\.1, engine 0\.1, libraries .*onednn' AS version_names_engine_and_libraries;
SELECT check_name, ok, hint IS NOT NULL AS has_hint FROM avcurate.doctor()
	WHERE check_name NOT IN ('pg_cron', 'pgvector') ORDER BY check_name;

-- settings
SHOW avcurate.device;
SET avcurate.device = 'tpu';
SET avcurate.device = 'cuda:x';
SET avcurate.device = 'cpu';
SET avcurate.threads = -1;
SET avcurate.nonsense = 1;
CREATE ROLE avc_install_user;
SET ROLE avc_install_user;
SET avcurate.threads = 1;
SET avcurate.engine_path = '/bin/false';
SET avcurate.max_workers = 9;
RESET ROLE;

-- an engine that is not one: a row that says so, not an error
SET avcurate.engine_path = '/nowhere/avcurate-engine';
SELECT check_name, ok, hint FROM avcurate.doctor() WHERE check_name = 'engine';
SELECT avcurate.version() ~ '^0\.1, no engine \(' AS version_without_engine;
SET avcurate.engine_path = '/bin/cat';
SELECT check_name, ok, hint FROM avcurate.doctor() WHERE check_name = 'engine';
RESET avcurate.engine_path;

-- the schema is closed where it should be
SET ROLE avc_install_user;
SELECT count(*) FROM _avcurate.jobs;
SELECT count(*) FROM avcurate.jobs;
RESET ROLE;
DROP ROLE avc_install_user;

-- dropping takes everything along
DROP EXTENSION avcurate;
SELECT count(*) FROM pg_namespace WHERE nspname = '_avcurate';

-- a session that has used the extension follows its owner
CREATE ROLE avc_first SUPERUSER;
CREATE ROLE avc_second SUPERUSER;
SET ROLE avc_first;
CREATE EXTENSION avcurate;
RESET ROLE;
SELECT avcurate.create_dataset('frames');
SELECT avcurate.create_slice('few', 'frames', 'true');
REASSIGN OWNED BY avc_first TO avc_second;
ALTER ROLE avc_first NOSUPERUSER;
SELECT avcurate.refresh_slice('few');
BEGIN;
DROP EXTENSION avcurate CASCADE;
ROLLBACK;
SELECT avcurate.refresh_slice('few');
SET client_min_messages = warning;
DROP TABLE frames CASCADE;
DROP EXTENSION avcurate CASCADE;
RESET client_min_messages;
DROP ROLE avc_first;
CREATE EXTENSION avcurate;
SELECT avcurate.create_dataset('frames');
SELECT avcurate.create_slice('few', 'frames', 'true');
SET client_min_messages = warning;
DROP TABLE frames CASCADE;
RESET client_min_messages;
DROP EXTENSION avcurate;
DROP ROLE avc_second;
