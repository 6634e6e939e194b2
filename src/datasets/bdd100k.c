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

#include <unistd.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "common/procedure.h"
#include "datasets/bdd100k_labels.h"
#include "datasets/folder_run.h"
#include "datasets/server_file.h"

PG_FUNCTION_INFO_V1(avc_ingest_bdd100k);

#define MAX_LABEL_BYTES (256 * 1024 * 1024) /* of the labels of one image */

typedef struct BddRun
{
	AvcFolderRun folder;
	TimestampTz frame_time;
	bool		has_frame_time;
	int64		entries;		/* read from the label file so far */
	int64		label_files;	/* of the folder of labels that were used */
	int			unfinished;		/* label files not read to their end */
} BddRun;

/* Take one image with what is known of it; entry may be NULL. */
static void
take_image(BddRun *run, const char *stem, const char *name,
		   const AvcBddEntry *entry)
{
	AvcIngestFrame frame = {0};

	frame.frame_time = run->frame_time;
	frame.has_frame_time = run->has_frame_time;
	if (entry != NULL)
	{
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
		run->folder.without_box += entry->without_box;
		run->folder.scored += entry->scored;
		avc_ingest_counts(run->folder.ingest)->dropped_boxes +=
			entry->degenerate;
	}
	avc_folder_run_take(&run->folder, &frame, stem, name);
}

/* An entry that says the name of its image. */
static void
take_named(BddRun *run, const char *file, const AvcBddEntry *entry)
{
	int			sqlstate = ERRCODE_INVALID_TEXT_REPRESENTATION;
	const char *problem = entry->problem;
	char	   *stem;
	char	   *name;

	/* its image is claimed even if the entry is bad: its labels are unknown */
	AvcClaim	claim = avc_folder_run_claim(&run->folder, entry->name, &stem,
											 &name);

	if (claim == AVC_CLAIM_LATER || claim == AVC_CLAIM_DONE)
		return;
	if (problem == NULL && claim == AVC_CLAIM_AGAIN)
	{
		problem = "file has another entry of this name";
		sqlstate = ERRCODE_UNIQUE_VIOLATION;
	}
	else if (problem == NULL && claim == AVC_CLAIM_AMBIGUOUS)
	{
		problem = "name fits several images of the folder";
		sqlstate = ERRCODE_UNIQUE_VIOLATION;
	}
	if (problem != NULL)
		avc_ingest_error(run->folder.ingest,
						 psprintf("%s#%s", file, entry->name), sqlstate, "%s",
						 problem);
	else if (claim == AVC_CLAIM_ABSENT)
		run->folder.without_image++;
	else
		take_image(run, stem, name, entry);
}

/* An entry of a label file for many images. */
static void
take_entry(BddRun *run, const char *file, const AvcBddEntry *entry)
{
	/* entries without an image write nothing: end the transaction anyway */
	if (++run->entries % 4096 == 0)
		avc_ingest_flush(run->folder.ingest);
	if (entry->name != NULL && entry->name[0] != '\0')
		take_named(run, file, entry);
	else if (!run->folder.is_second_pass)
		avc_ingest_error(run->folder.ingest,
						 psprintf("%s, entry " INT64_FORMAT, file,
								  run->entries),
						 ERRCODE_INVALID_TEXT_REPRESENTATION, "%s",
						 entry->problem ? entry->problem :
						 "entry has no name");
}

/* Go over the entries of an open label file.  Returns what is wrong with it. */
static const char *
read_entries(BddRun *run, const char *file, int fd)
{
	AvcBddReader *reader = avc_bdd_open(fd);
	MemoryContext old = MemoryContextSwitchTo(run->folder.work);
	AvcBddEntry *entry;
	const char *problem;

	run->entries = 0;
	while ((entry = avc_bdd_next(reader)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		take_entry(run, file, entry);
		avc_bdd_free_entry(entry);
		MemoryContextReset(run->folder.work);
	}
	MemoryContextSwitchTo(old);
	problem = avc_bdd_problem(reader);
	if (problem != NULL)
		problem = pstrdup(problem);
	avc_bdd_close(reader);
	return problem;
}

/*
 * Take the entries of an open label file.  False if it could not be read to
 * its end.
 */
static bool
take_entries(BddRun *run, const char *file, int fd)
{
	const char *problem;

	run->folder.is_second_pass = false;
	run->folder.put_off = 0;
	problem = read_entries(run, file, fd);
	if (problem == NULL && run->folder.put_off > 0)
	{
		run->folder.is_second_pass = true;
		if (lseek(fd, 0, SEEK_SET) < 0)
			problem = psprintf("could not be read again: %m");
		else
			problem = read_entries(run, file, fd);
	}
	if (problem == NULL)
		return true;
	run->unfinished++;
	avc_ingest_error(run->folder.ingest, file,
					 ERRCODE_INVALID_TEXT_REPRESENTATION, "%s", problem);
	return false;
}

/* One label file for all images.  True if it could be read to its end. */
static bool
take_label_file(BddRun *run)
{
	const char *path = run->folder.labels_path;
	int			fd = avc_file_open_required(path, "label file",
											"Name a regular file, or a folder with label files.");

	return take_entries(run, path, fd);
}

/*
 * A file of the folder of labels that is not of one image: that of a video,
 * if there are images of it.
 */
static void
take_video(BddRun *run, const char *file)
{
	char	   *video = pnstrdup(file, strlen(file) - strlen(".json"));
	char	   *path = psprintf("%s/%s", run->folder.labels_path, file);
	const char *problem;
	size_t		size;
	bool		is_missing;
	int			fd;

	if (!pg_verifymbstr(file, strlen(file), true) ||
		avc_images_has(run->folder.images, video) ||
		!avc_images_has_video(run->folder.images, video))
		return;
	run->label_files++;
	fd = avc_file_open(run->folder.label_folder, file, 0, &size, &problem,
					   &is_missing);
	if (fd < 0)
	{
		run->unfinished++;
		avc_ingest_error(run->folder.ingest, path, ERRCODE_IO_ERROR, "%s",
						 problem);
	}
	if (fd < 0 || !take_entries(run, path, fd))
		avc_images_pass_video(run->folder.images, video);
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

	while ((file = avc_folder_next(run->folder.label_folder, &kind)) != NULL)
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
	char	   *source = psprintf("%s/%s", run->folder.labels_path, file);
	AvcBddReader *reader;
	AvcBddEntry *entry;
	const char *problem;
	size_t		size;
	bool		is_missing;
	int			fd;

	fd = avc_file_open(run->folder.label_folder, file, MAX_LABEL_BYTES, &size,
					   &problem, &is_missing);
	if (fd < 0 && is_missing)
	{
		take_image(run, stem, name, NULL);
		return;
	}
	run->label_files++;
	if (fd < 0)
	{
		avc_ingest_error(run->folder.ingest, source, ERRCODE_IO_ERROR, "%s",
						 problem);
		return;
	}
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
		avc_ingest_error(run->folder.ingest, source,
						 ERRCODE_INVALID_TEXT_REPRESENTATION, "%s", problem);
	else
		take_image(run, stem, name, entry);
}

/* An image that no entry has claimed. */
static void
take_unclaimed(void *arg, const char *stem, const char *name)
{
	BddRun	   *run = arg;

	if (run->folder.label_folder != NULL)
		take_with_own_labels(run, stem, name);
	else
		take_image(run, stem, name, NULL);
}

static void
say_unfinished(BddRun *run)
{
	ereport(WARNING,
			(run->folder.label_folder == NULL ?
			 errmsg("label file \"%s\" could not be read to its end",
					run->folder.labels_path) :
			 errmsg("%d label files of videos could not be read to their end",
					run->unfinished),
			 errdetail("Images without an entry so far were left alone."),
			 errhint("Repair the file and run the procedure again.")));
}

static void
say_unused(const BddRun *run)
{
	ereport(WARNING,
			(errmsg("no label file in folder \"%s\" belongs to an image",
					run->folder.labels_path),
			 errdetail("A folder of labels holds one file an image or one a video, called as these are and \".json\"."),
			 errhint("If one file has the labels of all images, name that file.")));
}

/* Check the arguments and open what they name. */
static BddRun *
begin_run(FunctionCallInfo fcinfo)
{
	BddRun	   *run = palloc0(sizeof(BddRun));

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("dataset and images must not be NULL")));
	avc_folder_run_begin(&run->folder, fcinfo);
	if (run->folder.labels_path != NULL &&
		avc_path_is_folder(run->folder.labels_path))
		run->folder.label_folder = avc_folder_open(run->folder.labels_path);
	run->has_frame_time = !PG_ARGISNULL(4);
	if (run->has_frame_time)
		run->frame_time = PG_GETARG_TIMESTAMPTZ(4);
	return run;
}

static void
ingest_bdd100k(FunctionCallInfo fcinfo)
{
	BddRun	   *run = begin_run(fcinfo);
	bool		is_complete = true;

	avc_folder_run_list(&run->folder);
	if (run->folder.label_folder != NULL)
		take_videos(run);
	else if (run->folder.labels_path != NULL)
		is_complete = take_label_file(run);
	if (is_complete)
		avc_images_rest(run->folder.images, run->folder.work, take_unclaimed,
						run);
	avc_folder_run_end(&run->folder);
	if (run->unfinished > 0)
		say_unfinished(run);
	if (run->folder.label_folder != NULL && run->label_files == 0)
		say_unused(run);
}

Datum
avc_ingest_bdd100k(PG_FUNCTION_ARGS)
{
	return avc_procedure_run(fcinfo, "ingest_bdd100k", ingest_bdd100k);
}
