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
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/portal.h"

#include "common/procedure.h"
#include "common/spi.h"
#include "datasets/coco_tables.h"
#include "datasets/dataset.h"
#include "datasets/image_folder.h"
#include "datasets/ingest.h"
#include "datasets/server_file.h"

PG_FUNCTION_INFO_V1(avc_ingest_coco);

#define PAGE_IMAGES 256

typedef struct CocoRun
{
	AvcIngest  *ingest;
	MemoryContext work;
	AvcImageFolder *images;
	AvcCocoTables *tables;
	const char *annotations;	/* path of the file */
	const char *split;			/* NULL = not known */
	bool		has_annotations;	/* the file has a list of them */
	int64		without_image;	/* images of the file that are not there */
	int64		without_box;	/* annotations without a bbox */
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

	if (missing == NULL && (item->problem == NULL ||
							item->kind == AVC_COCO_ANNOTATION))
		avc_coco_tables_add(run->tables, item);
	else
		avc_ingest_error(run->ingest,
						 psprintf("%s, %s " INT64_FORMAT, run->annotations,
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
	size_t		size;
	bool		is_missing;
	int			fd;

	fd = avc_file_open(NULL, run->annotations, 0, &size, &problem,
					   &is_missing);
	if (fd < 0)
		ereport(ERROR,
				(errcode(ERRCODE_IO_ERROR),
				 errmsg("annotations file \"%s\" %s", run->annotations,
						problem),
				 errhint("Name a regular file, a COCO instances document.")));
	avc_file_close_later(fd);
	reader = avc_coco_open(fd);
	old = MemoryContextSwitchTo(run->work);
	while ((item = avc_coco_next(reader)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		take_item(run, item, ++count[item->kind]);
		MemoryContextReset(run->work);
	}
	MemoryContextSwitchTo(old);
	run->has_annotations = avc_coco_has_annotations(reader);
	problem = avc_coco_problem(reader);
	if (problem != NULL)
		avc_ingest_error(run->ingest, run->annotations,
						 ERRCODE_INVALID_TEXT_REPRESENTATION, "%s", problem);
	avc_coco_tables_finish(run->tables);
	avc_ingest_flush(run->ingest);
	avc_coco_close(reader);
	return problem == NULL;
}

/* Take an image of the folder with its boxes. */
static void
take_boxes(CocoRun *run, const char *stem, const char *name,
		   const AvcCocoBoxes *boxes)
{
	AvcIngestFrame frame = {0};

	frame.split = run->split;
	frame.has_labels = run->has_annotations;
	if (boxes != NULL)
	{
		frame.box_count = boxes->count;
		frame.categories = boxes->categories;
		frame.boxes = boxes->boxes;
		frame.ignored = boxes->ignored;
		frame.area = boxes->area;
		run->without_box += boxes->without_box;
		avc_ingest_counts(run->ingest)->dropped_boxes += boxes->degenerate;
	}
	avc_images_take(run->images, &frame, stem, name);
}

/* An image that the file names. */
static void
take_image(CocoRun *run, const AvcCocoImage *image)
{
	const char *base = strrchr(image->name, '/');
	char	   *stem = pstrdup(base ? base + 1 : image->name);
	size_t		len = avc_image_stem_length(stem);
	const char *problem = NULL;
	bool		is_duplicate;
	char	   *name;
	AvcCocoBoxes boxes;

	if (len > 0)
		stem[len] = '\0';
	name = avc_images_claim(run->images, stem, &is_duplicate);
	if (is_duplicate)
		problem = "file has another image of this name";
	else if (image->is_duplicate)
		problem = "file has another image of this id";
	else if (name != NULL)
	{
		avc_coco_tables_boxes(run->tables, image->id, &boxes);
		problem = boxes.problem;
	}
	if (problem != NULL)
		avc_ingest_error(run->ingest,
						 psprintf("%s#%s", run->annotations, image->name),
						 is_duplicate || image->is_duplicate ?
						 ERRCODE_UNIQUE_VIOLATION :
						 ERRCODE_INVALID_TEXT_REPRESENTATION, "%s", problem);
	else if (name == NULL)
		run->without_image++;
	else
		take_boxes(run, stem, name, &boxes);
}

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
	int64		orphans;
	int			count;
	int			i;

	do
	{
		count = avc_coco_tables_images(run->tables, after, images,
									   PAGE_IMAGES);
		MemoryContextSwitchTo(run->work);
		for (i = 0; i < count; i++)
		{
			CHECK_FOR_INTERRUPTS();
			after = images[i].number;
			take_image(run, &images[i]);
			MemoryContextReset(run->work);
		}
		/* images that are not there write nothing: end the transaction */
		avc_ingest_flush(run->ingest);
		MemoryContextSwitchTo(context);
		MemoryContextReset(context);
	} while (count == PAGE_IMAGES);
	orphans = avc_coco_tables_orphans(run->tables);
	if (orphans > 0)
		avc_ingest_error(run->ingest,
						 psprintf("%s, annotations", run->annotations),
						 ERRCODE_INVALID_TEXT_REPRESENTATION,
						 INT64_FORMAT " annotations are of images that the file does not name",
						 orphans);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* An image of the folder that the file does not name. */
static void
take_unclaimed(void *arg, const char *stem, const char *name)
{
	CocoRun    *run = arg;
	MemoryContext old = MemoryContextSwitchTo(run->work);
	AvcIngestFrame frame = {0};

	frame.split = run->split;
	avc_images_take(run->images, &frame, stem, name);
	MemoryContextSwitchTo(old);
	MemoryContextReset(run->work);
}

static CocoRun *
begin_run(FunctionCallInfo fcinfo)
{
	CocoRun    *run = palloc0(sizeof(CocoRun));
	AvcDataset *dataset;
	char	   *path;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("dataset, images and annotations must not be NULL")));
	run->work = AllocSetContextCreate(CurrentMemoryContext, "ingest image",
									  ALLOCSET_DEFAULT_SIZES);
	path = avc_path_argument(fcinfo, 1);
	run->annotations = avc_path_argument(fcinfo, 2);
	dataset = avc_dataset_find(PG_GETARG_OID(0), false);
	run->images = avc_images_open(path);
	run->split = PG_ARGISNULL(3) ? avc_split_of_folder(path) :
		text_to_cstring(PG_GETARG_TEXT_PP(3));
	run->ingest = avc_ingest_begin(dataset, path, -1);
	return run;
}

Datum
avc_ingest_coco(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	MemoryContext old;
	CocoRun    *run;

	avc_procedure_enter(fcinfo, "ingest_coco");
	context = AllocSetContextCreate(PortalContext, "ingest_coco",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	run = begin_run(fcinfo);
	avc_ingest_set_total(run->ingest,
						 avc_images_list(run->images, run->ingest));
	run->tables = avc_coco_tables_create();
	avc_ingest_flush(run->ingest);

	if (!read_annotations(run))
		ereport(WARNING,
				(errmsg("annotations file \"%s\" could not be read to its end",
						run->annotations),
				 errdetail("No image was taken, because annotations may follow in any order."),
				 errhint("Repair the file and run the procedure again.")));
	else
	{
		take_images(run);
		avc_images_rest(run->images, take_unclaimed, run);
	}

	avc_coco_tables_drop(run->tables);
	avc_images_close(run->images);
	avc_ingest_finish(run->ingest);
	avc_ingest_say_summary(run->ingest,
						   avc_images_passed_over(run->images),
						   run->without_box, run->without_image);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	SPI_finish();
	PG_RETURN_VOID();
}
