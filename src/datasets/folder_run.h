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
#include "datasets/server_file.h"

typedef struct AvcFolderRun
{
	const AvcDataset *dataset;
	AvcIngest  *ingest;
	MemoryContext work;			/* reset with every image */
	AvcImageFolder *images;
	const char *images_path;
	const char *labels_path;	/* NULL = no labels */
	AvcFolder  *label_folder;	/* NULL if labels are no folder */
	const char *split;			/* NULL = not known */
	bool		is_second_pass;
	int64		put_off;		/* labels for the second pass */
	int64		without_image;	/* images named by labels that are not there */
	int64		without_box;	/* labels that are no boxes */
	int64		boxes;			/* labels that are */
	int64		scored;			/* labels that are predictions */
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
 * Which image does a label mean?  Its name is that of the file, with or
 * without folder and extension.  Failing that it may mean, as in LanceDB's
 * ingest, an image with another extension, or one that is called so and one
 * more part ("0000f77c" means 0000f77c-6257be58.jpg).  Such labels are put off
 * (AVC_CLAIM_LATER, counted in put_off) to a second pass over all labels, so
 * that none takes an image from labels that name it exactly.
 */
typedef enum AvcClaim
{
	AVC_CLAIM_TAKEN,			/* *stem and *name are set, palloc'd */
	AVC_CLAIM_ABSENT,			/* no such image */
	AVC_CLAIM_AGAIN,			/* an earlier label has it */
	AVC_CLAIM_AMBIGUOUS,		/* several might be meant */
	AVC_CLAIM_LATER,
	AVC_CLAIM_DONE				/* the first pass has decided */
} AvcClaim;

extern AvcClaim avc_folder_run_claim(AvcFolderRun *run,
									 const char *label_name, char **stem,
									 char **name);

/* Take an image with whatever the caller has put into "frame". */
extern void avc_folder_run_take(AvcFolderRun *run, AvcIngestFrame *frame,
								const char *stem, const char *name);

/* Finish the ingest and say what has become of the frames. */
extern void avc_folder_run_end(AvcFolderRun *run);

#endif
