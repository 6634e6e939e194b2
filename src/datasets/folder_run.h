/*
 * datasets/folder_run.h
 *		The ingest of a folder of images: what is the same whatever says what
 *		the images show.
 *
 * A procedure begins the run, opens its labels, lists the images, takes
 * them, and ends the run.
 */
#ifndef AVC_DATASETS_FOLDER_RUN_H
#define AVC_DATASETS_FOLDER_RUN_H

#include "datasets/image_folder.h"
#include "datasets/ingest.h"

typedef struct AvcFolderRun
{
	const AvcDataset *dataset;
	AvcIngest  *ingest;
	MemoryContext work;			/* reset with every image */
	AvcImageFolder *images;
	const char *images_path;
	const char *labels_path;	/* NULL = no labels */
	const char *split;			/* NULL = not known */
	int64		without_image;	/* images named by labels that are not there */
	int64		without_box;	/* labels that are no boxes */
} AvcFolderRun;

/*
 * Check the arguments that the procedures begin with (dataset, images, labels,
 * split), of which the caller has refused NULLs, and open the folder.
 * Everything is kept in the current memory context.
 */
extern void avc_folder_run_begin(AvcFolderRun *run, FunctionCallInfo fcinfo);

/* Start the ingest and list the images. */
extern void avc_folder_run_list(AvcFolderRun *run);

/*
 * Mark the image that a label means as seen: its name is that of the file,
 * with or without folder and extension.  Returns the file's name, or NULL
 * with *is_duplicate as avc_images_claim, and the stem.  All is palloc'd.
 */
extern char *avc_folder_run_claim(AvcFolderRun *run, const char *label_name,
								  char **stem, bool *is_duplicate);

/* Take an image with whatever the caller has put into "frame". */
extern void avc_folder_run_take(AvcFolderRun *run, AvcIngestFrame *frame,
								const char *stem, const char *name);

/* Finish the ingest and say what has become of the frames. */
extern void avc_folder_run_end(AvcFolderRun *run);

#endif
