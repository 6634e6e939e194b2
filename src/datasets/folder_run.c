/*
 * datasets/folder_run.c
 *		The ingest of a folder of images: what is the same whatever says what
 *		the images show.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"

#include "datasets/folder_run.h"

void
avc_folder_run_begin(AvcFolderRun *run, FunctionCallInfo fcinfo)
{
	run->work = AllocSetContextCreate(CurrentMemoryContext, "ingest image",
									  ALLOCSET_DEFAULT_SIZES);
	run->images_path = avc_path_argument(fcinfo, 1);
	run->labels_path = avc_path_argument(fcinfo, 2);
	run->dataset = avc_dataset_find(PG_GETARG_OID(0), false);
	run->images = avc_images_open(run->images_path);
	run->split = PG_ARGISNULL(3) ? avc_split_of_folder(run->images_path) :
		text_to_cstring(PG_GETARG_TEXT_PP(3));
}

void
avc_folder_run_list(AvcFolderRun *run)
{
	run->ingest = avc_ingest_begin(run->dataset, run->images_path, -1);
	avc_ingest_set_total(run->ingest,
						 avc_images_list(run->images, run->ingest));
	avc_ingest_flush(run->ingest);
}

char *
avc_folder_run_claim(AvcFolderRun *run, const char *label_name, char **stem,
					 bool *is_duplicate)
{
	/* names may say the folder, too: "video/frame.jpg" */
	const char *base = strrchr(label_name, '/');
	size_t		len;

	*stem = pstrdup(base ? base + 1 : label_name);
	len = avc_image_stem_length(*stem);
	if (len > 0)
		(*stem)[len] = '\0';
	return avc_images_claim(run->images, *stem, is_duplicate);
}

void
avc_folder_run_take(AvcFolderRun *run, AvcIngestFrame *frame,
					const char *stem, const char *name)
{
	frame->split = run->split;
	avc_images_take(run->images, frame, stem, name);
}

void
avc_folder_run_end(AvcFolderRun *run)
{
	avc_images_close(run->images);
	avc_ingest_finish(run->ingest);
	avc_ingest_say_summary(run->ingest, avc_images_passed_over(run->images),
						   run->without_box, run->without_image);
}
