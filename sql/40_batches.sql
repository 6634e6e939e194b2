-- ---- label maps ------------------------------------------------------------

CREATE TABLE _avcurate.label_maps (
	label_map	text NOT NULL CHECK (label_map <> ''),
	category	text NOT NULL CHECK (category <> ''),
	label		integer NOT NULL CHECK (label BETWEEN 1 AND 100000),
	builtin		boolean NOT NULL DEFAULT false,
	owner		regrole NOT NULL DEFAULT
				pg_catalog.quote_ident(CURRENT_USER)::pg_catalog.regrole,
	PRIMARY KEY (label_map, category)
);

COMMENT ON TABLE _avcurate.label_maps IS
	'class ids of categories, under the folded spelling of each';
COMMENT ON COLUMN _avcurate.label_maps.owner IS
	'the role that added the row; it alone changes its map';

-- COCO's ids; a rider counts as a person.
INSERT INTO _avcurate.label_maps (label_map, category, label, builtin)
	SELECT map, name, id, true
	FROM (VALUES
		('coco', 'person', 1), ('coco', 'rider', 1), ('coco', 'bicycle', 2),
		('coco', 'car', 3), ('coco', 'motorcycle', 4),
		('coco', 'airplane', 5), ('coco', 'bus', 6), ('coco', 'train', 7),
		('coco', 'truck', 8), ('coco', 'boat', 9),
		('coco', 'traffic light', 10), ('coco', 'fire hydrant', 11),
		('coco', 'stop sign', 13), ('coco', 'parking meter', 14),
		('coco', 'bench', 15), ('coco', 'bird', 16), ('coco', 'cat', 17),
		('coco', 'dog', 18), ('coco', 'horse', 19), ('coco', 'sheep', 20),
		('coco', 'cow', 21), ('coco', 'elephant', 22), ('coco', 'bear', 23),
		('coco', 'zebra', 24), ('coco', 'giraffe', 25),
		('coco', 'backpack', 27), ('coco', 'umbrella', 28),
		('coco', 'handbag', 31), ('coco', 'tie', 32),
		('coco', 'suitcase', 33), ('coco', 'frisbee', 34),
		('coco', 'skis', 35), ('coco', 'snowboard', 36),
		('coco', 'sports ball', 37), ('coco', 'kite', 38),
		('coco', 'baseball bat', 39), ('coco', 'baseball glove', 40),
		('coco', 'skateboard', 41), ('coco', 'surfboard', 42),
		('coco', 'tennis racket', 43), ('coco', 'bottle', 44),
		('coco', 'wine glass', 46), ('coco', 'cup', 47),
		('coco', 'fork', 48), ('coco', 'knife', 49), ('coco', 'spoon', 50),
		('coco', 'bowl', 51), ('coco', 'banana', 52), ('coco', 'apple', 53),
		('coco', 'sandwich', 54), ('coco', 'orange', 55),
		('coco', 'broccoli', 56), ('coco', 'carrot', 57),
		('coco', 'hot dog', 58), ('coco', 'pizza', 59),
		('coco', 'donut', 60), ('coco', 'cake', 61), ('coco', 'chair', 62),
		('coco', 'couch', 63), ('coco', 'potted plant', 64),
		('coco', 'bed', 65), ('coco', 'dining table', 67),
		('coco', 'toilet', 70), ('coco', 'tv', 72), ('coco', 'laptop', 73),
		('coco', 'mouse', 74), ('coco', 'remote', 75),
		('coco', 'keyboard', 76), ('coco', 'cell phone', 77),
		('coco', 'microwave', 78), ('coco', 'oven', 79),
		('coco', 'toaster', 80), ('coco', 'sink', 81),
		('coco', 'refrigerator', 82), ('coco', 'book', 84),
		('coco', 'clock', 85), ('coco', 'vase', 86),
		('coco', 'scissors', 87), ('coco', 'teddy bear', 88),
		('coco', 'hair drier', 89), ('coco', 'toothbrush', 90)
	) AS builtin (map, name, id);

-- The ten classes of BDD100K with their official ids.
INSERT INTO _avcurate.label_maps (label_map, category, label, builtin)
	SELECT map, name, id, true
	FROM (VALUES
		('bdd100k', 'person', 1), ('bdd100k', 'rider', 2),
		('bdd100k', 'car', 3), ('bdd100k', 'truck', 4),
		('bdd100k', 'bus', 5), ('bdd100k', 'train', 6),
		('bdd100k', 'motorcycle', 7), ('bdd100k', 'bicycle', 8),
		('bdd100k', 'traffic light', 9), ('bdd100k', 'traffic sign', 10)
	) AS builtin (map, name, id);

CREATE FUNCTION _avcurate.label_map_row() RETURNS trigger
	AS 'MODULE_PATHNAME', 'avc_label_map_row'
	LANGUAGE C;
COMMENT ON FUNCTION _avcurate.label_map_row() IS
	'folds the category and keeps built-in and other roles'' maps as they are';

CREATE TRIGGER label_map_row
	BEFORE INSERT OR UPDATE OR DELETE ON _avcurate.label_maps
	FOR EACH ROW EXECUTE FUNCTION _avcurate.label_map_row();

-- Writable: a user adds rows of maps of his own; the trigger sees to the rest.
CREATE VIEW avcurate.label_maps AS
	SELECT label_map, category, label, builtin FROM _avcurate.label_maps;
COMMENT ON VIEW avcurate.label_maps IS
	'class ids of categories; add rows for maps of your own, built-in ones are read-only';
COMMENT ON COLUMN avcurate.label_maps.label_map IS 'name of the map';
COMMENT ON COLUMN avcurate.label_maps.category IS
	'category, stored under its folded spelling';
COMMENT ON COLUMN avcurate.label_maps.label IS 'class id, from 1';
COMMENT ON COLUMN avcurate.label_maps.builtin IS
	'comes with the extension and is read-only';
GRANT SELECT, INSERT, UPDATE, DELETE ON avcurate.label_maps TO PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('_avcurate.label_maps',
	'WHERE NOT builtin');

-- ---- batches ---------------------------------------------------------------

CREATE FUNCTION avcurate.batches(
	slice		regclass,
	batch_size	integer,
	version		bigint DEFAULT NULL,
	seed		bigint DEFAULT 0,
	epoch		integer DEFAULT 0,
	shuffle		boolean DEFAULT true,
	rank		integer DEFAULT 0,
	world_size	integer DEFAULT 1,
	start_batch bigint DEFAULT 0,
	num_batches bigint DEFAULT NULL,
	drop_last	boolean DEFAULT false,
	label_map	text DEFAULT 'coco',
	OUT batch_no bigint,
	OUT "position" bigint,
	OUT frame_id bigint,
	OUT image_bytes bytea,
	OUT width	integer,
	OUT height	integer,
	OUT labels	integer[],
	OUT boxes	real[]
) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'avc_batches'
	LANGUAGE C STABLE PARALLEL UNSAFE ROWS 1000;
COMMENT ON FUNCTION avcurate.batches(regclass, integer, bigint, bigint,
	integer, boolean, integer, integer, bigint, bigint, boolean, text) IS
	'frames of a pinned version in the shuffled order of an epoch, batch by batch; start_batch is a global batch number, num_batches counts the rows'' batches of this rank';

CREATE FUNCTION avcurate.batch_count(
	slice		regclass,
	batch_size	integer,
	version		bigint DEFAULT NULL,
	drop_last	boolean DEFAULT false,
	world_size	integer DEFAULT 1
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_batch_count'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION avcurate.batch_count(regclass, integer, bigint, boolean,
	integer) IS
	'batches that each rank gets of a version; with one rank, all of them';

CREATE FUNCTION _avcurate.permute(
	frames		bigint,
	"position"	bigint,
	version		bigint,
	seed		bigint,
	epoch		integer
) RETURNS bigint
	AS 'MODULE_PATHNAME', 'avc_permute'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION _avcurate.permute(bigint, bigint, bigint, bigint, integer)
	IS 'rank in frame_id order of the frame at a position of the shuffled order';
