/*
 * datasets/image_folder.h
 *		The images of a folder of the server, each taken at most once.
 *
 * Their names are listed into a temporary table, so memory does not grow
 * with the folder.  A label file claims images by their stems (the name
 * without .jpg or .jpeg); what is left unclaimed has no labels.
 *
 * The same limits hold as for ingest.h: SPI is connected, the procedure may
 * commit, and what lives longer is kept in a context that outlives commits.
 */
#ifndef AVC_DATASETS_IMAGE_FOLDER_H
#define AVC_DATASETS_IMAGE_FOLDER_H

#include "fmgr.h"

#include "datasets/ingest.h"

typedef struct AvcImageFolder AvcImageFolder;

/* What is done with an image that nothing has claimed. */
typedef void (*AvcImageHandler) (void *arg, const char *stem,
								 const char *name);

/* Argument "number" as a path that the caller may read, or NULL. */
extern char *avc_path_argument(FunctionCallInfo fcinfo, int number);

/* Length of a name without .jpg or .jpeg; 0 if it has neither. */
extern size_t avc_image_stem_length(const char *name);

/*
 * train, val or test from the name of a folder, digits after it left out
 * (train2017); else NULL, not known.
 */
extern const char *avc_split_of_folder(const char *path);

/* Open the folder.  Everything is kept in the current memory context. */
extern AvcImageFolder *avc_images_open(const char *path);

/*
 * List the images, also those in folders one level below (one a video).
 * What cannot be an image becomes an error of the ingest, and so does all
 * but the first by name of what would be one frame.  Returns how many.
 */
extern int64 avc_images_list(AvcImageFolder *folder, AvcIngest *ingest);

/* Files that were passed over because they are no *.jpg or *.jpeg. */
extern int64 avc_images_passed_over(const AvcImageFolder *folder);

/*
 * Mark an image as seen.  Returns its file name, palloc'd, or NULL with
 * *is_duplicate when it was seen before, else when there is none.
 */
extern char *avc_images_claim(AvcImageFolder *folder, const char *stem,
							  bool *is_duplicate);

/*
 * The stem, palloc'd, of the one image that is called so and "-" and one more
 * part: "0000f77c-6257be58" for "0000f77c".  NULL if there is none, and with
 * *is_ambiguous if there are several.
 */
extern char *avc_images_guess(AvcImageFolder *folder, const char *stem,
							  bool *is_ambiguous);

/*
 * Is there an image of this stem?  Or one of a video of this name: in a
 * folder of that name, or with a stem that goes on with "-"?
 */
extern bool avc_images_has(AvcImageFolder *folder, const char *stem);
extern bool avc_images_has_video(AvcImageFolder *folder, const char *video);

/* Mark the images of a video as seen, for it is not known what they show. */
extern void avc_images_pass_video(AvcImageFolder *folder, const char *video);

/*
 * Read the image and give it to the ingest, with whatever else the caller
 * has put into "frame".  A file that cannot be read is an error of the
 * ingest.  Memory is taken from the current context, whose reset closes the
 * file: reset it after every image.
 */
extern void avc_images_take(AvcImageFolder *folder, AvcIngestFrame *frame,
							const char *stem, const char *name);

/*
 * Hand over what is unclaimed, in the order of stems.  The handler is called
 * in the context "work", which is reset after each.
 */
extern void avc_images_rest(AvcImageFolder *folder, MemoryContext work,
							AvcImageHandler handler, void *arg);

/* Drop the table of names. */
extern void avc_images_close(AvcImageFolder *folder);

#endif
