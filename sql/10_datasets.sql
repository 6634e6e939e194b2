-- Datasets: the registry of frames tables, their triggers and views.

CREATE TABLE _avcurate.datasets (
	dataset		regclass	PRIMARY KEY,
	created_at	timestamptz	NOT NULL DEFAULT now()
);
COMMENT ON TABLE _avcurate.datasets IS 'frames tables made by create_dataset';
COMMENT ON COLUMN _avcurate.datasets.dataset IS 'the table';
COMMENT ON COLUMN _avcurate.datasets.created_at IS 'when it was made';
SELECT pg_catalog.pg_extension_config_dump('_avcurate.datasets', '');
