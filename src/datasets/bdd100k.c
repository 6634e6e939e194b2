/*
 * datasets/bdd100k.c
 *		The procedure ingest_bdd100k: a folder of frames and their labels.
 *
 * With one label file for all, the file is streamed and each entry claims
 * its image; what is left unclaimed has no entry.  A folder of label files
 * has one for each video, taken in the same way, or one for each image, which
 * looks for its own.  Every row is compared with what the dataset has, so a
 * run that was cut short is simply run again.
 *
 * Memory: "run" lives as long as the procedure; "work" is reset with every
 * image.  Neither grows with the folder or the label files.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/timestamp.h"

#include "common/procedure.h"
#include "common/spi.h"
#include "datasets/bdd100k_labels.h"
#include "datasets/dataset.h"
#include "datasets/image_folder.h"
#include "datasets/ingest.h"
#include "datasets/server_file.h"

PG_FUNCTION_INFO_V1(avc_ingest_bdd100k);

#define MAX_LABEL_BYTES (256 * 1024 * 1024) /* of the labels of one image */

typedef struct BddRun
{
	AvcIngest  *ingest;
	MemoryContext work;
	AvcImageFolder *images;
	const char *images_path;
	AvcFolder  *label_folder;	/* NULL with one label file, or none */
	const char *labels_path;	/* NULL = no labels */
	const char *split;			/* NULL = not known */
	TimestampTz frame_time;
	bool		has_frame_time;
	int64		entries;		/* read from label files so far */
	int64		without_image;	/* entries whose image is not there */
	int64		without_box;	/* lanes and drivable areas */
	int			unfinished;		/* label files not read to their end */
} BddRun;

/* Take one image with what is known of it; entry may be NULL. */
static void
take_image(BddRun *run, const char *stem, const char *name,
		   const AvcBddEntry *entry)
{
	AvcIngestFrame frame = {0};

	frame.split = run->split;
	frame.frame_time = run->frame_time;
	frame.has_frame_time = run->has_frame_time;
	if (entry != NULL)
	{
		frame.has_scene = true;
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
	avc_images_take(run->images, &frame, stem, name);
}

/* An entry of a label file for many images. */
static void
take_entry(BddRun *run, const char *file, AvcBddEntry *entry)
{
	const char *problem = entry->problem;
	const char *base;
	char	   *source;
	char	   *stem;
	char	   *name;
	size_t		len;
	bool		is_duplicate = false;
	int			sqlstate = ERRCODE_INVALID_TEXT_REPRESENTATION;

	/* entries without an image write nothing: end the transaction anyway */
	if (++run->entries % 4096 == 0)
		avc_ingest_flush(run->ingest);
	if (entry->name == NULL || entry->name[0] == '\0')
	{
		avc_ingest_error(run->ingest, psprintf("%s, entry " INT64_FORMAT,
											   file, run->entries),
						 sqlstate, "%s",
						 problem ? problem : "entry has no name");
		return;
	}
	source = psprintf("%s#%s", file, entry->name);
	/* names may say the folder, too: "video/frame.jpg" */
	base = strrchr(entry->name, '/');
	stem = pstrdup(base ? base + 1 : entry->name);
	len = avc_image_stem_length(stem);
	if (len > 0)
		stem[len] = '\0';
	/* its image is claimed even if the entry is bad: its labels are unknown */
	name = avc_images_claim(run->images, stem, &is_duplicate);
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

/*
 * Take the entries of an open label file.  False if it could not be read to
 * its end.
 */
static bool
take_entries(BddRun *run, const char *file, int fd)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "label file in use",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	AvcBddReader *reader;
	AvcBddEntry *entry;
	bool		is_complete;

	avc_file_close_later(fd);
	reader = avc_bdd_open(fd);
	MemoryContextSwitchTo(run->work);
	while ((entry = avc_bdd_next(reader)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		take_entry(run, file, entry);
		avc_bdd_free_entry(entry);
		MemoryContextReset(run->work);
	}
	is_complete = avc_bdd_problem(reader) == NULL;
	if (!is_complete)
	{
		run->unfinished++;
		avc_ingest_error(run->ingest, file,
						 ERRCODE_INVALID_TEXT_REPRESENTATION, "%s",
						 avc_bdd_problem(reader));
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return is_complete;
}

/* One label file for all images.  True if it could be read to its end. */
static bool
take_label_file(BddRun *run)
{
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
				 errhint("Name a regular file, or a folder with label files.")));
	return take_entries(run, run->labels_path, fd);
}

/*
 * A file of the folder of labels that is not of one image: that of a video,
 * if there are images of it.
 */
static void
take_video(BddRun *run, const char *file)
{
	char	   *video = pnstrdup(file, strlen(file) - strlen(".json"));
	char	   *path = psprintf("%s/%s", run->labels_path, file);
	const char *problem;
	size_t		size;
	bool		is_missing;
	int			fd;

	if (!pg_verifymbstr(file, strlen(file), true) ||
		avc_images_has(run->images, video) ||
		!avc_images_has_video(run->images, video))
		return;
	fd = avc_file_open(run->label_folder, file, 0, &size, &problem,
					   &is_missing);
	if (fd < 0)
	{
		run->unfinished++;
		avc_ingest_error(run->ingest, path, ERRCODE_IO_ERROR, "%s", problem);
	}
	if (fd < 0 || !take_entries(run, path, fd))
		avc_images_pass_video(run->images, video);
}

/* The label files of videos among those of the folder of labels. */
static void
take_videos(BddRun *run)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "video in use",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	const char *file;
	AvcEntryKind kind;

	while ((file = avc_folder_next(run->label_folder, &kind)) != NULL)
	{
		size_t		len = strlen(file);

		CHECK_FOR_INTERRUPTS();
		if (len <= 5 || pg_strcasecmp(file + len - 5, ".json") != 0)
			continue;
		take_video(run, pstrdup(file));
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
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

/* An image that no entry has claimed. */
static void
take_unclaimed(void *arg, const char *stem, const char *name)
{
	BddRun	   *run = arg;
	MemoryContext old = MemoryContextSwitchTo(run->work);

	if (run->label_folder != NULL)
		take_with_own_labels(run, stem, name);
	else
		take_image(run, stem, name, NULL);
	MemoryContextSwitchTo(old);
	MemoryContextReset(run->work);
}

static void
say_summary(BddRun *run)
{
	avc_ingest_say_summary(run->ingest,
						   avc_images_passed_over(run->images),
						   run->without_box, run->without_image);
	if (run->unfinished > 0)
		ereport(WARNING,
				(run->label_folder == NULL ?
				 errmsg("label file \"%s\" could not be read to its end",
						run->labels_path) :
				 errmsg("%d label files of videos could not be read to their end",
						run->unfinished),
				 errdetail("Images without an entry so far were left alone."),
				 errhint("Repair the file and run the procedure again.")));
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
	run->images_path = avc_path_argument(fcinfo, 1);
	run->labels_path = avc_path_argument(fcinfo, 2);
	dataset = avc_dataset_find(PG_GETARG_OID(0), false);
	run->images = avc_images_open(run->images_path);
	if (run->labels_path != NULL && avc_path_is_folder(run->labels_path))
		run->label_folder = avc_folder_open(run->labels_path);
	run->split = PG_ARGISNULL(3) ? avc_split_of_folder(run->images_path) :
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
	bool		is_complete = true;

	avc_procedure_enter(fcinfo, "ingest_bdd100k");
	context = AllocSetContextCreate(PortalContext, "ingest_bdd100k",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	run = begin_run(fcinfo);
	avc_ingest_set_total(run->ingest,
						 avc_images_list(run->images, run->ingest));
	avc_ingest_flush(run->ingest);

	if (run->label_folder != NULL)
		take_videos(run);
	else if (run->labels_path != NULL)
		is_complete = take_label_file(run);
	if (is_complete)
		avc_images_rest(run->images, take_unclaimed, run);

	avc_images_close(run->images);
	avc_ingest_finish(run->ingest);
	say_summary(run);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	SPI_finish();
	PG_RETURN_VOID();
}
