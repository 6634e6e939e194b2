/*
 * datasets/coco.c
 *		The procedure ingest_coco: a folder of frames and a COCO instances
 *		file.
 *
 * The file is read once, into temporary tables that give it back image by
 * image; nothing is taken before its end is reached, because annotations of
 * the first image may be the last of the file.  Crowds and ignored boxes set
 * ann_ignored, and the area is kept as written; segmentations are passed
 * over.  COCO knows no weather, scene or time of day, so a frame that is
 * there keeps its own.
 *
 * Memory: "run" lives as long as the procedure; "work" is reset with every
 * image.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "common/procedure.h"
#include "datasets/coco_tables.h"
#include "datasets/folder_run.h"
#include "datasets/server_file.h"

PG_FUNCTION_INFO_V1(avc_ingest_coco);

#define PAGE_IMAGES 256

typedef struct CocoRun
{
	AvcFolderRun folder;
	AvcCocoTables *tables;
	bool		has_annotations;	/* the file has a list of them */
} CocoRun;

static const char *const kind_names[] = {"image", "annotation", "category"};

/* What an item lacks that it cannot do without; NULL if nothing. */
static const char *
missing_part(const AvcCocoItem *item)
{
	if (item->kind == AVC_COCO_ANNOTATION)
		return item->known & AVC_COCO_IMAGE_ID ? NULL :
			"annotation has no image_id";
	if ((item->known & AVC_COCO_ID) == 0)
		return item->kind == AVC_COCO_IMAGE ? "image has no id" :
			"category has no id";
	if (item->name == NULL || item->name[0] == '\0')
		return item->kind == AVC_COCO_IMAGE ? "image has no file_name" :
			"category has no name";
	return NULL;
}

/* "number" counts the items of this kind from 1. */
static void
take_item(CocoRun *run, const AvcCocoItem *item, int64 number)
{
	const char *missing = missing_part(item);

	run->folder.scored += item->has_score;
	if (missing == NULL && (item->problem == NULL ||
							item->kind == AVC_COCO_ANNOTATION))
		avc_coco_tables_add(run->tables, item);
	else
		avc_ingest_error(run->folder.ingest,
						 psprintf("%s, %s " INT64_FORMAT,
								  run->folder.labels_path,
								  kind_names[item->kind], number),
						 ERRCODE_INVALID_TEXT_REPRESENTATION, "%s",
						 item->problem ? item->problem : missing);
}

/* Read the file into the tables.  False if it could not be read to its end. */
static bool
read_annotations(CocoRun *run)
{
	MemoryContext old;
	AvcCocoReader *reader;
	const AvcCocoItem *item;
	const char *problem;
	int64		count[lengthof(kind_names)] = {0};

	reader = avc_coco_open(avc_file_open_required(run->folder.labels_path,
												  "annotations file",
												  "Name a regular file, a COCO instances document."));
	old = MemoryContextSwitchTo(run->folder.work);
	while ((item = avc_coco_next(reader)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		take_item(run, item, ++count[item->kind]);
		MemoryContextReset(run->folder.work);
	}
	MemoryContextSwitchTo(old);
	run->has_annotations = avc_coco_has_annotations(reader);
	problem = avc_coco_problem(reader);
	if (problem != NULL)
		avc_ingest_error(run->folder.ingest, run->folder.labels_path,
						 ERRCODE_INVALID_TEXT_REPRESENTATION, "%s", problem);
	avc_coco_tables_finish(run->tables);
	avc_ingest_flush(run->folder.ingest);
	avc_coco_close(reader);
	return problem == NULL;
}

/* Take an image of the folder with its boxes. */
static void
take_boxes(CocoRun *run, const AvcCocoImage *image, const char *stem,
		   const char *name, const AvcCocoBoxes *boxes)
{
	AvcIngestFrame frame = {0};

	frame.has_labels = run->has_annotations;
	frame.label_width = image->width;
	frame.label_height = image->height;
	frame.box_count = boxes->count;
	frame.categories = boxes->categories;
	frame.boxes = boxes->boxes;
	frame.ignored = boxes->ignored;
	frame.area = boxes->area;
	run->folder.without_box += boxes->without_box;
	avc_ingest_counts(run->folder.ingest)->dropped_boxes += boxes->degenerate;
	avc_folder_run_take(&run->folder, &frame, stem, name);
}

/* An image that the file names. */
static void
take_image(CocoRun *run, const AvcCocoImage *image)
{
	int			sqlstate = ERRCODE_UNIQUE_VIOLATION;
	const char *problem = NULL;
	char	   *stem;
	char	   *name;
	AvcClaim	claim = avc_folder_run_claim(&run->folder, image->name, &stem,
											 &name);
	AvcCocoBoxes boxes;

	if (claim == AVC_CLAIM_LATER || claim == AVC_CLAIM_DONE)
		return;
	if (claim == AVC_CLAIM_AGAIN)
		problem = "file has another image of this name";
	else if (claim == AVC_CLAIM_AMBIGUOUS)
		problem = "name fits several images of the folder";
	else if (image->is_duplicate)
		problem = "file has another image of this id";
	else if (claim == AVC_CLAIM_TAKEN)
	{
		sqlstate = ERRCODE_INVALID_TEXT_REPRESENTATION;
		avc_coco_tables_boxes(run->tables, image->id, &boxes);
		problem = boxes.problem;
	}
	if (problem != NULL)
		avc_ingest_error(run->folder.ingest,
						 psprintf("%s#%s", run->folder.labels_path,
								  image->name), sqlstate, "%s", problem);
	else if (claim == AVC_CLAIM_ABSENT)
		run->folder.without_image++;
	else
		take_boxes(run, image, stem, name, &boxes);
}

/* Go over the images that the file names. */
static void
take_images(CocoRun *run)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "COCO images",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	AvcCocoImage *images = MemoryContextAlloc(old, PAGE_IMAGES *
											  sizeof(AvcCocoImage));
	int64		after = 0;
	int			count;
	int			i;

	do
	{
		count = avc_coco_tables_images(run->tables, after, images,
									   PAGE_IMAGES);
		MemoryContextSwitchTo(run->folder.work);
		for (i = 0; i < count; i++)
		{
			CHECK_FOR_INTERRUPTS();
			after = images[i].number;
			take_image(run, &images[i]);
			MemoryContextReset(run->folder.work);
		}
		/* images that are not there write nothing: end the transaction */
		avc_ingest_flush(run->folder.ingest);
		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
	} while (count == PAGE_IMAGES);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

static void
refuse_orphans(CocoRun *run)
{
	int64		orphans = avc_coco_tables_orphans(run->tables);

	if (orphans > 0)
		avc_ingest_error(run->folder.ingest,
						 psprintf("%s, annotations", run->folder.labels_path),
						 ERRCODE_INVALID_TEXT_REPRESENTATION,
						 INT64_FORMAT " annotations are of images that the file does not name",
						 orphans);
}

/* An image of the folder that the file does not name. */
static void
take_unclaimed(void *arg, const char *stem, const char *name)
{
	CocoRun    *run = arg;
	AvcIngestFrame frame = {0};

	avc_folder_run_take(&run->folder, &frame, stem, name);
}

static void
ingest_coco(FunctionCallInfo fcinfo)
{
	CocoRun    *run = palloc0(sizeof(CocoRun));

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("dataset, images and annotations must not be NULL")));
	avc_folder_run_begin(&run->folder, fcinfo);
	avc_folder_run_list(&run->folder);
	run->tables = avc_coco_tables_create();
	avc_ingest_flush(run->folder.ingest);

	if (!read_annotations(run))
		ereport(WARNING,
				(errmsg("annotations file \"%s\" could not be read to its end",
						run->folder.labels_path),
				 errdetail("No image was taken, because annotations may follow in any order."),
				 errhint("Repair the file and run the procedure again.")));
	else
	{
		take_images(run);
		run->folder.is_second_pass = true;
		if (run->folder.put_off > 0)
			take_images(run);
		refuse_orphans(run);
		avc_images_rest(run->folder.images, run->folder.work, take_unclaimed,
						run);
	}
	avc_coco_tables_drop(run->tables);
	avc_folder_run_end(&run->folder);
}

Datum
avc_ingest_coco(PG_FUNCTION_ARGS)
{
	return avc_procedure_run(fcinfo, "ingest_coco", ingest_coco);
}
