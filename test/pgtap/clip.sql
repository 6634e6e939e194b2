-- CLIP in SQL: vocabularies, embeddings, rights, refusals, weights in and out.
-- The networks are small ones with random weights; the ids of texts and the
-- numbers of the full network are checked without a server (test/engine).
SELECT avcurate.create_dataset('public.tap_frames') \g /dev/null
CALL avcurate.ingest_synthetic('public.tap_frames', 3, 1, 'train', '{"width": 96, "height": 64}');
BEGIN;
SET search_path = public, avcurate;
SET client_min_messages = warning;
SELECT plan(84);
\set small '{"image_width": 64, "image_layers": 1, "text_width": 64, "text_layers": 1}'

-- A vocabulary that joins "dog" and "car"; its other merges are of control
-- characters.
CREATE FUNCTION vocabulary(VARIADIC own text[]) RETURNS bytea LANGUAGE sql AS $$
	SELECT convert_to('#version: test' || E'\n' || string_agg(line, E'\n' ORDER BY part, n) || E'\n', 'UTF8') FROM (
		SELECT 1 AS part, n, line FROM unnest(own) WITH ORDINALITY AS o (line, n)
		UNION ALL SELECT 2, n, chr(256 + n / 32) || ' ' || chr(256 + n % 32) FROM generate_series(0, 1023) AS n
		UNION ALL SELECT 3, n, chr(256 + n / 1024) || chr(256 + n / 32 % 32) || ' ' || chr(256 + n % 32) FROM generate_series(0, 32767) AS n
		UNION ALL SELECT 4, n, chr(256 + n / 1024) || chr(256 + n / 32 % 32) || ' ' || chr(256 + n % 32) || '</w>' FROM generate_series(0, 32767) AS n
		) AS l $$;
SELECT vocabulary('o g</w>', 'd og</w>', 'a r</w>', 'c ar</w>') AS words \gset
SELECT vocabulary('o g</w>') AS other_words \gset
SELECT current_setting('data_directory') || '/vocabulary.txt' AS path \gset
SELECT lo_from_bytea(0, :'words') AS large_object \gset
SELECT lo_export(:large_object, :'path') \g /dev/null

SELECT is(format('%s %s', provolatile, proparallel), 's s', proname || ' is stable and parallel safe') FROM pg_proc
	WHERE pronamespace = 'avcurate'::regnamespace AND proname IN ('clip_embedding', 'clip_text_embedding') ORDER BY proname;
SELECT is(pg_get_function_arguments('clip_embedding(bytea, bigint)'::regprocedure), 'image bytea, checkpoint bigint DEFAULT NULL::bigint', 'arguments of clip_embedding');
SELECT is(pg_get_function_arguments('clip_text_embedding(text, bigint)'::regprocedure), 'query text, checkpoint bigint DEFAULT NULL::bigint', 'arguments of clip_text_embedding');
SELECT is(pg_get_function_result('clip_embedding(bytea, bigint)'::regprocedure), 'real[]', 'result of clip_embedding');
SELECT is(pg_get_function_result('clip_text_embedding(text, bigint)'::regprocedure), 'real[]', 'result of clip_text_embedding');

-- nothing is imported yet
CREATE FUNCTION hint_of(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE hint text;
BEGIN
	EXECUTE statement;
	RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN hint;
END $$;
SELECT image_bytes AS image FROM tap_frames WHERE frame_id = 1 \gset
SELECT throws_ok(format('SELECT clip_embedding(%L)', :'image'), '55000', 'no checkpoint is given and avcurate.clip_model is not set', 'clip_embedding wants a checkpoint');
SELECT throws_ok($$SELECT clip_text_embedding('dog')$$, '55000', 'no checkpoint is given and avcurate.clip_model is not set', 'so does clip_text_embedding');
SELECT throws_ok('SELECT clip_model()', '55000', 'no checkpoint is given and avcurate.clip_model is not set', 'and clip_model');
SELECT throws_ok($$SELECT clip_text_embedding('dog', 4711)$$, '42704', 'checkpoint 4711 does not exist', 'an unknown checkpoint');
SELECT alike(hint_of($$SELECT clip_text_embedding('dog')$$), '%create_model(%vocabulary%import_checkpoint(%SET avcurate.clip_model%', 'the hint says how to import one');
SELECT throws_ok($$SELECT add_feature('tap_frames', 'x', 'clip_embedding(image_bytes)')$$, '55000', 'no checkpoint is given and avcurate.clip_model is not set', 'a feature wants one, too');

-- models
SELECT throws_ok($$SELECT create_model('x', 'clip_vit_b32', '{}', 'coco')$$, '22023', 'a CLIP model has no label map', 'no label map');
SELECT throws_ok($$SELECT create_model('x', 'clip_vit_b32', '{"min_size": 4}')$$, '22023', NULL, 'an unknown option');
SELECT throws_ok($$SELECT create_model('x', 'clip_vit_b32', '{"quick_gelu": 1}')$$, '22023', NULL, 'an option of the wrong type');
SELECT throws_ok($$SELECT create_model('x', 'clip_vit_b32', '{"vocabulary": 1}')$$, '22023', 'option "vocabulary" must be the path of a file', 'a vocabulary that is no path');
SELECT throws_ok($$SELECT create_model('x', 'clip_vit_b32', '{"vocabulary": "/nowhere/bpe.txt"}')$$, '58P01', 'could not open file "/nowhere/bpe.txt": No such file or directory', 'a vocabulary that is not there');
SELECT throws_ok($$SELECT create_model('x', 'clip_vit_b32', '{"vocabulary": "/dev/zero"}')$$, '42809', '"/dev/zero" is not a regular file', 'a device');
SELECT throws_ok(format($$SELECT create_model('x', 'clip_vit_b32', '{"vocabulary": %s}')$$, to_json(current_setting('data_directory') || '/PG_VERSION')), '22000',
	'vocabulary does not begin with a line that says "#version"', 'a file that is no vocabulary');
SELECT is_empty($$SELECT FROM models WHERE model = 'x'$$, 'no model is made then');
SELECT lives_ok(format('SELECT create_model(''clip'', ''clip_vit_b32'', %L::jsonb || %L)', :'small', jsonb_build_object('vocabulary', :'path', 'quick_gelu', false)), 'a model with a vocabulary');
SELECT lives_ok(format('SELECT create_model(''blind'', ''clip_vit_b32'', %L)', :'small'), 'one without');
SELECT results_eq($$SELECT model, options ? 'vocabulary', options ->> 'quick_gelu', label_map, num_classes, vocabulary IS NOT NULL FROM models ORDER BY model$$,
	$$VALUES ('blind', false, NULL, NULL::text, NULL::int, false), ('clip', false, 'false', NULL, NULL, true)$$, 'what the view tells');
SELECT is((SELECT length(lines) FROM _avcurate.vocabularies), (SELECT sum(length(line) + 1)::int FROM (SELECT convert_to(line, 'UTF8') AS line
	FROM regexp_split_to_table(convert_from(:'words', 'UTF8'), E'\n') WITH ORDINALITY AS l (line, n) WHERE n <= 48895) AS l), 'the lines that count are kept');
SELECT create_model('detector', 'small', '{"min_size": 64, "max_size": 96}') \g /dev/null
SELECT throws_ok(format('SELECT set_vocabulary(''detector'', %L::bytea)', :'words'), '42809', 'model "detector" is a detector, which reads no texts', 'detectors have none');

-- checkpoints
SELECT lives_ok($$SELECT create_checkpoint('clip', 3)$$, 'fresh weights');
SELECT max(checkpoint) AS clip FROM checkpoints \gset
SELECT create_checkpoint('blind', 3) AS blind \gset
SELECT create_checkpoint('detector', 3) AS detector \gset
SELECT is((SELECT provenance ->> 'weights_sha256' FROM checkpoints WHERE checkpoint = :clip), (SELECT provenance ->> 'weights_sha256' FROM checkpoints WHERE checkpoint = :blind),
	'equal seeds, equal weights');
SELECT results_eq(format('SELECT check_name, ok FROM verify_checkpoint(%s)', :clip), $$VALUES ('tensors', true)$$, 'verify_checkpoint');
SELECT throws_ok(format('SELECT clip_embedding(%L, %s)', :'image', :detector), '42809', format('checkpoint %s is of detector "detector", which does not embed', :detector::bigint), 'a detector does not embed');
SELECT throws_ok(format('SELECT clip_model(%s)', :detector), '42809', NULL, 'clip_model knows that');
SELECT throws_ok(format('SELECT detect(%L, %s)', :'image', :clip), '42809', 'model "clip" is CLIP, which does not detect', 'CLIP does not detect');
SELECT throws_ok(format('SELECT person_bbox_area_pct(%L, %s)', :'image', :clip), '42809', 'model "clip" is CLIP, which does not detect', 'nor measure persons');
SELECT throws_ok(format('SELECT detector(%s)', :clip), '42809', 'model "clip" is CLIP, which does not detect', 'detector knows that');
SELECT create_slice('public.tap_slice', 'tap_frames', 'true') \g /dev/null
SELECT throws_ok($$SELECT train('tap_slice', 'clip')$$, '42809', 'model "clip" is CLIP, which does not detect', 'it is not trained');
SELECT throws_ok(format('SELECT train(''tap_slice'', ''detector'', ''{"from_checkpoint": %s}'')', :clip), '42809', 'model "clip" is CLIP, which does not detect', 'no training begins with it');
SELECT throws_ok(format('SELECT evaluate(%s, ''tap_slice'')', :clip), '42809', 'model "clip" is CLIP, which does not detect', 'it is not evaluated');
SELECT throws_ok(format('SELECT import_checkpoint(''clip'', %L::bytea, true)', 'x'), '42809', NULL, 'it has no head to be fresh');

-- doctor
CREATE FUNCTION opinion(number int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
	PERFORM set_config('avcurate.clip_model', number::text, true);
	RETURN (SELECT format('%s %s', ok, detail) FROM avcurate.doctor() WHERE check_name = 'clip');
END $$;
SELECT is(opinion(0), 't avcurate.clip_model is not set (needed to search by text)', 'doctor: not set');
SELECT is(opinion(:clip), format('t checkpoint %s of avcurate.clip_model embeds images and texts', :clip::bigint), 'doctor: all is well');
SELECT is(opinion(:blind), format('f checkpoint %s of avcurate.clip_model has no vocabulary, so it embeds images alone', :blind::bigint), 'doctor: no vocabulary');
SELECT is(opinion(:detector), format('f checkpoint %s of avcurate.clip_model is a detector''s', :detector::bigint), 'doctor: a detector');
SELECT is(opinion(4711), 'f checkpoint 4711 of avcurate.clip_model does not exist, or not for you', 'doctor: nothing');

-- images
SET avcurate.clip_model = :clip;
SELECT is(clip_model(), :clip::bigint, 'the setting names one');
SELECT is(clip_model(:blind), :blind::bigint, 'an argument goes first');
SELECT is(array_dims(clip_embedding(:'image')), '[1:512]', '512 numbers');
CREATE FUNCTION dot(a real[], b real[]) RETURNS float8 LANGUAGE sql AS 'SELECT sum(x::float8 * y) FROM unnest(a, b) AS u (x, y)';
SELECT cmp_ok(abs(dot(clip_embedding(:'image'), clip_embedding(:'image')) - 1), '<', 1e-6::float8, 'of norm 1');
SELECT is(clip_embedding(NULL), NULL, 'NULL has none');
SELECT is(clip_embedding(:'image', NULL), clip_embedding(:'image', :clip), 'NULL is what is set');
SELECT isnt(clip_embedding(:'image', :blind), clip_embedding(:'image', :clip), 'the kinds of GELU differ');
SELECT is((SELECT count(DISTINCT clip_embedding(image_bytes)) FROM tap_frames), 3::bigint, 'so do images');
SELECT throws_ok($$SELECT clip_embedding('')$$, '22000', NULL, 'an empty image');
SELECT throws_ok($$SELECT clip_embedding('no picture at all')$$, '22000', 'image is not a JPEG', 'no JPEG');
SELECT throws_ok(format('SELECT clip_embedding(substr(%L::bytea, 1, 700))', :'image'), '22000', NULL, 'a cut JPEG');

-- texts
SELECT is(array_dims(clip_text_embedding('a dog')), '[1:512]', 'a text has 512 numbers');
SELECT cmp_ok(abs(dot(clip_text_embedding('a dog'), clip_text_embedding('a dog')) - 1), '<', 1e-6::float8, 'of norm 1');
SELECT is(clip_text_embedding(NULL), NULL, 'NULL has none');
SELECT is(clip_text_embedding(E'  A\tDOG\n'), clip_text_embedding('a dog'), 'case and blanks do not count');
SELECT isnt(clip_text_embedding('a car'), clip_text_embedding('a dog'), 'words do');
SELECT isnt(clip_text_embedding('dog a'), clip_text_embedding('a dog'), 'and their order');
SELECT is(array_length(clip_text_embedding(''), 1), 512, 'the empty text has an embedding');
SELECT is(clip_text_embedding(repeat('dog ', 100000)), clip_text_embedding(repeat('dog ', 75)), 'what is too long is cut off');
SELECT is((SELECT count(DISTINCT clip_text_embedding('dog ' || n)) FROM generate_series(1, 100) AS n), 100::bigint, 'more texts than a session keeps');
SELECT throws_ok(format($$SELECT clip_text_embedding('dog', %s)$$, :blind), '55000', 'model "blind" has no vocabulary, so it cannot read texts', 'a model without a vocabulary');
SELECT alike(hint_of(format($$SELECT clip_text_embedding('dog', %s)$$, :blind)), '%set_vocabulary(''blind''%', 'the hint says what to do');
SELECT lives_ok(format('SELECT set_vocabulary(''blind'', %L::bytea)', :'words'), 'it can be given one');
SELECT lives_ok(format('SELECT set_vocabulary(''blind'', %L)', :'path'), 'the same again, from a file');
SELECT throws_ok(format('SELECT set_vocabulary(''blind'', %L::bytea)', :'other_words'), '55000', 'model "blind" has another vocabulary', 'but no other');
SELECT throws_ok($$SELECT set_vocabulary('blind', ''::bytea)$$, '22000', 'vocabulary is empty', 'nor garbage');
SELECT is(array_length(clip_text_embedding('dog', :blind), 1), 512, 'now it reads');

-- weights in and out
SELECT export_checkpoint(:clip) AS file \gset
SELECT export_checkpoint(:clip, 'pth') AS pth \gset
SELECT lives_ok(format('SELECT import_checkpoint(''clip'', %L::bytea)', :'file'), 'safetensors come in again');
SELECT lives_ok(format('SELECT import_checkpoint(''clip'', %L::bytea)', :'pth'), 'so do PyTorch''s files');
SELECT is((SELECT count(DISTINCT provenance ->> 'weights_sha256') FROM checkpoints WHERE model = 'clip'), 1::bigint, 'unchanged');
SELECT is((SELECT provenance #>> '{file_metadata,architecture}' FROM checkpoints WHERE model = 'clip' AND provenance ->> 'file_format' = 'safetensors'), 'clip_vit_b32', 'the file says what it is');
SELECT throws_ok(format('SELECT import_checkpoint(''clip'', %L::bytea)', export_checkpoint(:detector)), '22000', NULL, 'a detector''s weights are refused');
SELECT throws_ok(format('SELECT import_checkpoint(''detector'', %L::bytea)', :'file'), '22000', NULL, 'and CLIP''s by a detector');
SELECT throws_ok($$SELECT import_checkpoint('clip', 'garbage'::bytea)$$, '22000', NULL, 'garbage is refused');

-- features
SELECT lives_ok($$SELECT add_feature('tap_frames', 'clip', 'clip_embedding(image_bytes)')$$, 'a feature');
SELECT is((SELECT format('%s %s', type, expression) FROM features WHERE feature = 'clip'), format('real[] clip_embedding(image_bytes, ''%s''::bigint)', :clip), 'its checkpoint is written out');
SELECT lives_ok($$SELECT add_feature('tap_frames', 'told', 'clip_text_embedding(timeofday)')$$, 'one of a text');
SELECT throws_ok($$SELECT add_feature('tap_frames', 'x', 'clip_embedding(image_bytes, frame_id)')$$, '0A000', 'expression of a feature cannot choose a checkpoint row by row', 'a checkpoint is a constant');
SELECT throws_ok(format('SELECT add_feature(''tap_frames'', ''x'', ''clip_embedding(image_bytes, %s)'')', :detector), '42809', NULL, 'and CLIP''s');

-- rights
CREATE ROLE tap_watcher;
GRANT SELECT ON tap_frames TO tap_watcher;
SET LOCAL ROLE tap_watcher;
SELECT throws_ok(format('SELECT avcurate.clip_embedding(image_bytes, %s) FROM public.tap_frames', :clip), '42501', 'permission denied for model "clip"', 'clip_embedding needs the right to the model');
SELECT throws_ok(format('SELECT avcurate.clip_text_embedding(''dog'', %s)', :clip), '42501', 'permission denied for model "clip"', 'so does clip_text_embedding, though its answer is kept');
SELECT throws_ok(format('SELECT avcurate.create_model(''mine'', ''clip_vit_b32'', %L)', jsonb_build_object('vocabulary', :'path')), '42501', 'permission denied to read files of the server', 'a vocabulary is a file of the server');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
SELECT avcurate.drop_dataset('public.tap_frames') \g /dev/null
