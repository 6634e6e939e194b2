/*
 * datasets/bdd100k.c
 *		The procedure ingest_bdd100k: a folder of frames and their labels.
 *
 * The names of the images are listed into a temporary table, so memory grows
 * neither with the folder nor with the label file.  With one label file for
 * all, the file is streamed and each entry claims its image; what is left
 * unclaimed has no entry.  With a folder of label files, each image looks
 * for its own.  Every row is compared with what the dataset has, so a run
 * that was cut short is simply run again.
 *
 * Memory: "run" lives as long as the procedure; "work" is reset with every
 * image, "page" with every page of names.
 */
#include "postgres.h"

#include <unistd.h>

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/timestamp.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "datasets/bdd100k_labels.h"
#include "datasets/dataset.h"
#include "datasets/ingest.h"
#include "datasets/server_file.h"

PG_FUNCTION_INFO_V1(avc_ingest_bdd100k);

#define MAX_IMAGE_BYTES (64 * 1024 * 1024)
#define MAX_LABEL_BYTES (256 * 1024 * 1024) /* of the labels of one image */
#define PAGE_NAMES 256

typedef struct BddRun
{
	AvcIngest  *ingest;
	MemoryContext work;
	MemoryContext page;
	AvcFolder  *images;
	const char *images_path;
	AvcFolder  *label_folder;	/* NULL with one label file, or none */
	const char *labels_path;	/* NULL = no labels */
	const char *split;			/* NULL = not known */
	TimestampTz frame_time;
	bool		has_frame_time;
	SPIPlanPtr	find;			/* an image by its stem */
	SPIPlanPtr	mark;			/* it has an entry */
	int64		other_files;	/* in the folder of images, not *.jpg */
	int64		entries;		/* read from the label file so far */
	int64		without_image;	/* entries whose image is not there */
	int64		without_box;	/* lanes and drivable areas */
} BddRun;

/* Length of the name without .jpg or .jpeg; 0 if it has neither. */
static size_t
stem_length(const char *name)
{
	size_t		len = strlen(name);

	if (len > 4 && pg_strcasecmp(name + len - 4, ".jpg") == 0)
		return len - 4;
	if (len > 5 && pg_strcasecmp(name + len - 5, ".jpeg") == 0)
		return len - 5;
	return 0;
}

static char *
image_path(BddRun *run, const char *name)
{
	return psprintf("%s/%s", run->images_path, name);
}

static void
make_file_table(void)
{
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	/* one that an interrupted run of this session left */
	if (avc_spi_exec("SELECT 1 FROM pg_catalog.pg_class"
					 " WHERE relname = 'avc_ingest_files' AND relnamespace ="
					 " pg_catalog.pg_my_temp_schema()",
					 0, NULL, false, 1) > 0)
		avc_spi_exec("DROP TABLE pg_temp.avc_ingest_files", 0, NULL, false, 0);
	avc_spi_exec("CREATE TEMPORARY TABLE avc_ingest_files ("
				 " stem text COLLATE \"C\" PRIMARY KEY,"
				 " name text COLLATE \"C\" NOT NULL,"
				 " seen boolean NOT NULL DEFAULT false)",
				 0, NULL, false, 0);
	avc_catalog_leave(&scope);
}

static void
drop_file_table(void)
{
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	avc_spi_exec("DROP TABLE pg_temp.avc_ingest_files", 0, NULL, false, 0);
	avc_catalog_leave(&scope);
}

/* Store a page of names; of two with one stem the second is an error. */
static int64
store_names(BddRun *run, Datum *stems, Datum *names, int count)
{
	AvcParam	params[2];
	AvcRoleScope scope;
	uint64		stored;
	uint64		refused = 0;
	char	  **sources = NULL;
	uint64		i;

	if (count == 0)
		return 0;
	params[0] = (AvcParam) {TEXTARRAYOID,
	PointerGetDatum(construct_array(stems, count, TEXTOID, -1, false,
									TYPALIGN_INT)), false};
	params[1] = (AvcParam) {TEXTARRAYOID,
	PointerGetDatum(construct_array(names, count, TEXTOID, -1, false,
									TYPALIGN_INT)), false};
	avc_catalog_enter(&scope);
	stored = avc_spi_exec("INSERT INTO pg_temp.avc_ingest_files (stem, name)"
						  " SELECT * FROM unnest($1, $2)"
						  " ON CONFLICT DO NOTHING",
						  2, params, false, 0);
	if (stored < count)
	{
		refused = avc_spi_exec("SELECT u.name FROM pg_catalog.unnest($1)"
							   " u(name) WHERE NOT EXISTS (SELECT 1"
							   " FROM pg_temp.avc_ingest_files f"
							   " WHERE f.name = u.name)",
							   1, params + 1, false, 0);
		sources = palloc(refused * sizeof(char *));
		for (i = 0; i < refused; i++)
			sources[i] = image_path(run, SPI_getvalue(SPI_tuptable->vals[i],
													  SPI_tuptable->tupdesc, 1));
		SPI_freetuptable(SPI_tuptable);
	}
	avc_catalog_leave(&scope);
	for (i = 0; i < refused; i++)
		avc_ingest_error(run->ingest, sources[i], ERRCODE_UNIQUE_VIOLATION,
						 "another file of the folder has the same name but for its extension");
	return stored;
}

/* Record what cannot be an image.  True for one that can. */
static bool
judge_name(BddRun *run, const char *name, AvcEntryKind kind)
{
	const char *problem = NULL;
	int			sqlstate = ERRCODE_WRONG_OBJECT_TYPE;

	if (name[0] == '.')
		return false;
	if (kind == AVC_ENTRY_FOLDER)
		problem = "is a folder; only the files of one folder are taken";
	else if (kind == AVC_ENTRY_LINK)
		problem = "is a symbolic link, which is not followed";
	else if (kind == AVC_ENTRY_OTHER)
		problem = "is not a regular file";
	else if (stem_length(name) == 0)
	{
		run->other_files++;
		return false;
	}
	else if (!pg_verifymbstr(name, strlen(name), true))
	{
		problem = "name is not valid in the encoding of the database";
		sqlstate = ERRCODE_CHARACTER_NOT_IN_REPERTOIRE;
	}
	if (problem != NULL)
		avc_ingest_error(run->ingest, image_path(run, name), sqlstate, "%s",
						 problem);
	return problem == NULL;
}

/* List the images of the folder; returns how many. */
static int64
list_images(BddRun *run)
{
	MemoryContext old = MemoryContextSwitchTo(run->page);
	Datum		stems[PAGE_NAMES];
	Datum		names[PAGE_NAMES];
	int64		total = 0;
	int			count = 0;
	const char *name;
	AvcEntryKind kind;

	while ((name = avc_folder_next(run->images, &kind)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (!judge_name(run, name, kind))
			continue;
		stems[count] = PointerGetDatum(cstring_to_text_with_len(name, stem_length(name)));
		names[count++] = CStringGetTextDatum(name);
		if (count < PAGE_NAMES)
			continue;
		total += store_names(run, stems, names, count);
		count = 0;
		MemoryContextReset(run->page);
	}
	total += store_names(run, stems, names, count);
	MemoryContextReset(run->page);
	MemoryContextSwitchTo(old);
	return total;
}

/* Take one image with what is known of it; entry may be NULL. */
static void
take_image(BddRun *run, const char *stem, const char *name,
		   const AvcBddEntry *entry)
{
	AvcIngestFrame frame = {0};
	const char *problem;
	size_t		size;

	frame.source = image_path(run, name);
	frame.image = avc_file_read(run->images, name, MAX_IMAGE_BYTES, &size,
								&problem);
	if (frame.image == NULL)
	{
		avc_ingest_error(run->ingest, frame.source, ERRCODE_IO_ERROR, "%s",
						 problem);
		return;
	}
	frame.image_len = size;
	frame.image_id = stem;
	frame.split = run->split;
	frame.frame_time = run->frame_time;
	frame.has_frame_time = run->has_frame_time;
	if (entry != NULL)
	{
		frame.has_entry = true;
		frame.has_labels = true;
		frame.weather = entry->weather;
		frame.scene = entry->scene;
		frame.timeofday = entry->timeofday;
		frame.box_count = entry->box_count;
		frame.categories = entry->categories;
		frame.boxes = entry->boxes;
		frame.occluded = entry->occluded;
		frame.truncated = entry->truncated;
		frame.ignored = entry->ignored;
		run->without_box += entry->without_box;
		avc_ingest_counts(run->ingest)->dropped_boxes += entry->degenerate;
	}
	avc_ingest_add(run->ingest, &frame);
}

/* Run one of the prepared statements on a stem; rows are in SPI_tuptable. */
static uint64
run_plan(SPIPlanPtr plan, const char *stem)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		value = CStringGetTextDatum(stem);
	int			result = SPI_execute_plan(plan, &value, NULL, false, 0);

	/* SPI leaves its own context current, which lives until SPI_finish */
	MemoryContextSwitchTo(context);
	if (result < 0)
		elog(ERROR, "could not look up an image: %s",
			 SPI_result_code_string(result));
	return SPI_processed;
}

/*
 * Mark the image of an entry as seen.  Returns its file name, or NULL with
 * *is_duplicate when an earlier entry had it, else when there is none.
 */
static char *
claim_image(BddRun *run, const char *stem, bool *is_duplicate)
{
	AvcRoleScope scope;
	SPITupleTable *found;
	char	   *name = NULL;
	bool		is_null;

	*is_duplicate = false;
	avc_catalog_enter(&scope);
	if (run_plan(run->find, stem) > 0)
	{
		found = SPI_tuptable;
		*is_duplicate = DatumGetBool(SPI_getbinval(found->vals[0],
												   found->tupdesc, 2,
												   &is_null));
		if (!*is_duplicate)
		{
			name = SPI_getvalue(found->vals[0], found->tupdesc, 1);
			run_plan(run->mark, stem);
		}
		SPI_freetuptable(found);
	}
	else
		SPI_freetuptable(SPI_tuptable);
	avc_catalog_leave(&scope);
	return name;
}

/* Prepare what is run for every entry of a label file. */
static void
prepare_claim(BddRun *run)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[1] = {TEXTOID};
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	run->find = SPI_prepare("SELECT name, seen FROM pg_temp.avc_ingest_files"
							" WHERE stem = $1", 1, types);
	run->mark = SPI_prepare("UPDATE pg_temp.avc_ingest_files SET seen = true"
							" WHERE stem = $1", 1, types);
	avc_catalog_leave(&scope);
	MemoryContextSwitchTo(context);
	if (run->find == NULL || run->mark == NULL)
		elog(ERROR, "could not prepare the look-up of images");
}

static void
take_entry(BddRun *run, AvcBddEntry *entry)
{
	const char *problem = entry->problem;
	char	   *source;
	char	   *stem;
	char	   *name;
	bool		is_duplicate = false;
	int			sqlstate = ERRCODE_INVALID_TEXT_REPRESENTATION;

	/* entries without an image write nothing: end the transaction anyway */
	if (++run->entries % 4096 == 0)
		avc_ingest_flush(run->ingest);
	source = entry->name && entry->name[0] ?
		psprintf("%s#%s", run->labels_path, entry->name) :
		psprintf("%s, entry " INT64_FORMAT, run->labels_path, run->entries);
	if (entry->name == NULL || entry->name[0] == '\0')
	{
		avc_ingest_error(run->ingest, source, sqlstate, "%s",
						 problem ? problem : "entry has no name");
		return;
	}
	stem = pstrdup(entry->name);
	if (stem_length(stem) > 0)
		stem[stem_length(stem)] = '\0';
	/* its image is claimed even if the entry is bad: its labels are unknown */
	name = claim_image(run, stem, &is_duplicate);
	if (problem == NULL && is_duplicate)
	{
		problem = "file has another entry of this name";
		sqlstate = ERRCODE_UNIQUE_VIOLATION;
	}
	if (problem != NULL)
		avc_ingest_error(run->ingest, source, sqlstate, "%s", problem);
	else if (name == NULL)
		run->without_image++;
	else
		take_image(run, stem, name, entry);
}

/* One label file for all images.  True if it could be read to its end. */
static bool
take_label_file(BddRun *run)
{
	MemoryContext old;
	AvcBddReader *reader;
	AvcBddEntry *entry;
	const char *problem;
	size_t		size;
	bool		is_missing;
	int			fd;

	fd = avc_file_open(NULL, run->labels_path, 0, &size, &problem,
					   &is_missing);
	if (fd < 0)
		ereport(ERROR,
				(errcode(ERRCODE_IO_ERROR),
				 errmsg("label file \"%s\" %s", run->labels_path, problem),
				 errhint("Name a regular file, or a folder with one label file for each image.")));
	avc_file_close_later(fd);
	reader = avc_bdd_open(fd);
	old = MemoryContextSwitchTo(run->work);
	while ((entry = avc_bdd_next(reader)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		take_entry(run, entry);
		avc_bdd_free_entry(entry);
		MemoryContextReset(run->work);
	}
	problem = avc_bdd_problem(reader);
	if (problem != NULL)
		avc_ingest_error(run->ingest, run->labels_path,
						 ERRCODE_INVALID_TEXT_REPRESENTATION, "%s", problem);
	MemoryContextSwitchTo(old);
	avc_bdd_close(reader);
	return problem == NULL;
}

/* The label file of one image, if the folder of labels has one. */
static void
take_with_own_labels(BddRun *run, const char *stem, const char *name)
{
	char	   *file = psprintf("%s.json", stem);
	char	   *source = psprintf("%s/%s", run->labels_path, file);
	AvcBddReader *reader;
	AvcBddEntry *entry;
	const char *problem;
	size_t		size;
	bool		is_missing;
	int			fd;

	fd = avc_file_open(run->label_folder, file, MAX_LABEL_BYTES, &size,
					   &problem, &is_missing);
	if (fd < 0 && is_missing)
	{
		take_image(run, stem, name, NULL);
		return;
	}
	if (fd < 0)
	{
		avc_ingest_error(run->ingest, source, ERRCODE_IO_ERROR, "%s",
						 problem);
		return;
	}
	avc_file_close_later(fd);
	reader = avc_bdd_open(fd);
	entry = avc_bdd_next(reader);
	problem = avc_bdd_problem(reader);
	if (problem == NULL && entry != NULL)
		problem = entry->problem;
	if (problem == NULL && entry == NULL)
		problem = "has no entry";
	if (problem == NULL && avc_bdd_next(reader) != NULL)
		problem = "has more than one entry";
	if (problem == NULL)
		problem = avc_bdd_problem(reader);
	if (problem != NULL)
		avc_ingest_error(run->ingest, source,
						 ERRCODE_INVALID_TEXT_REPRESENTATION, "%s", problem);
	else
		take_image(run, stem, name, entry);
}

/* The next page of images that no entry has claimed; returns how many. */
static int
next_names(const char *after, char **stems, char **names)
{
	AvcRoleScope scope;
	int			count;
	int			i;

	avc_catalog_enter(&scope);
	count = avc_spi_exec("SELECT stem, name FROM pg_temp.avc_ingest_files"
						 " WHERE NOT seen AND stem > $1 ORDER BY stem LIMIT $2",
						 2, (AvcParam[]) {AVC_TEXT(after),
							 AVC_INT8(PAGE_NAMES)}, false, 0);
	for (i = 0; i < count; i++)
	{
		stems[i] = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
								1);
		names[i] = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
								2);
	}
	SPI_freetuptable(SPI_tuptable);
	avc_catalog_leave(&scope);
	return count;
}

/* Take the images that no entry has claimed, in order of their names. */
static void
take_unclaimed(BddRun *run)
{
	MemoryContext old = CurrentMemoryContext;
	char	   *stems[PAGE_NAMES];
	char	   *names[PAGE_NAMES];
	char	   *after = pstrdup("");
	int			count;
	int			i;

	do
	{
		MemoryContextSwitchTo(run->page);
		count = next_names(after, stems, names);
		MemoryContextSwitchTo(run->work);
		for (i = 0; i < count; i++)
		{
			CHECK_FOR_INTERRUPTS();
			if (run->label_folder != NULL)
				take_with_own_labels(run, stems[i], names[i]);
			else
				take_image(run, stems[i], names[i], NULL);
			MemoryContextReset(run->work);
		}
		MemoryContextSwitchTo(old);
		if (count > 0)
			after = pstrdup(stems[count - 1]);
		MemoryContextReset(run->page);
	} while (count == PAGE_NAMES);
}

static void
say_summary(BddRun *run, int64 total, bool is_complete)
{
	const AvcIngestCounts *counts = avc_ingest_counts(run->ingest);

	ereport(NOTICE,
			(errmsg("ingested " INT64_FORMAT " of " INT64_FORMAT " frames: "
					INT64_FORMAT " new, " INT64_FORMAT " updated, "
					INT64_FORMAT " unchanged; " INT64_FORMAT
					" without labels, " INT64_FORMAT " errors",
					counts->inserted + counts->updated + counts->unchanged,
					total, counts->inserted, counts->updated,
					counts->unchanged, counts->unlabelled, counts->errors),
			 errdetail(INT64_FORMAT " boxes without an area and " INT64_FORMAT
					   " outside the frame were dropped, " INT64_FORMAT
					   " were clipped; " INT64_FORMAT
					   " labels have no box, " INT64_FORMAT
					   " entries no image here; " INT64_FORMAT
					   " other files were passed over.",
					   counts->dropped_boxes, counts->outside_boxes,
					   counts->clipped_boxes, run->without_box,
					   run->without_image, run->other_files),
			 counts->errors > 0 ?
			 errhint("See avcurate.ingest_errors.") : 0));
	if (!is_complete)
		ereport(WARNING,
				(errmsg("label file \"%s\" could not be read to its end",
						run->labels_path),
				 errdetail("Images without an entry so far were left alone."),
				 errhint("Repair the file and run the procedure again.")));
}

/* train, val or test from the folder's name; else NULL, not known. */
static const char *
split_of_folder(const char *path)
{
	static const char *const known[] = {"train", "val", "test"};
	const char *last = strrchr(path, '/') + 1;
	int			i;

	for (i = 0; i < lengthof(known); i++)
	{
		if (strcmp(last, known[i]) == 0)
			return known[i];
	}
	return NULL;
}

static char *
path_argument(FunctionCallInfo fcinfo, int number)
{
	char	   *path;

	if (PG_ARGISNULL(number))
		return NULL;
	path = text_to_cstring(PG_GETARG_TEXT_PP(number));
	canonicalize_path(path);
	avc_server_file_check(path);
	return path;
}

/* Check the arguments and open what they name. */
static BddRun *
begin_run(FunctionCallInfo fcinfo)
{
	BddRun	   *run = palloc0(sizeof(BddRun));
	AvcDataset *dataset;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("dataset and images must not be NULL")));
	run->work = AllocSetContextCreate(CurrentMemoryContext, "ingest image",
									  ALLOCSET_DEFAULT_SIZES);
	run->page = AllocSetContextCreate(CurrentMemoryContext, "ingest names",
									  ALLOCSET_DEFAULT_SIZES);
	run->images_path = path_argument(fcinfo, 1);
	run->labels_path = path_argument(fcinfo, 2);
	dataset = avc_dataset_find(PG_GETARG_OID(0), false);
	run->images = avc_folder_open(run->images_path);
	if (run->labels_path != NULL && avc_path_is_folder(run->labels_path))
		run->label_folder = avc_folder_open(run->labels_path);
	run->split = PG_ARGISNULL(3) ? split_of_folder(run->images_path) :
		text_to_cstring(PG_GETARG_TEXT_PP(3));
	run->has_frame_time = !PG_ARGISNULL(4);
	if (run->has_frame_time)
		run->frame_time = PG_GETARG_TIMESTAMPTZ(4);
	run->ingest = avc_ingest_begin(dataset, run->images_path, -1);
	return run;
}

Datum
avc_ingest_bdd100k(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	MemoryContext old;
	BddRun	   *run;
	int64		total;
	bool		is_complete = true;

	avc_procedure_enter(fcinfo, "ingest_bdd100k");
	context = AllocSetContextCreate(PortalContext, "ingest_bdd100k",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	run = begin_run(fcinfo);
	make_file_table();
	total = list_images(run);
	avc_ingest_set_total(run->ingest, total);
	avc_ingest_flush(run->ingest);

	prepare_claim(run);
	if (run->labels_path != NULL && run->label_folder == NULL)
		is_complete = take_label_file(run);
	if (is_complete)
		take_unclaimed(run);

	drop_file_table();
	avc_ingest_finish(run->ingest);
	say_summary(run, total, is_complete);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	SPI_finish();
	PG_RETURN_VOID();
}
