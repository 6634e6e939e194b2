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
	run->ingest = avc_ingest_begin(run->dataset, run->images_path,
								   run->labels_path, -1);
	avc_ingest_set_total(run->ingest,
						 avc_images_list(run->images, run->ingest));
	avc_ingest_flush(run->ingest);
}

/* Has the image a label file of its own? */
static bool
has_own_labels(AvcFolderRun *run, const char *stem)
{
	return run->label_folder != NULL &&
		avc_folder_has(run->label_folder, psprintf("%s.json", stem));
}

/*
 * The stem of an image that a label may mean that has not its own name; NULL
 * if there is none.
 */
static char *
guess_stem(AvcFolderRun *run, const char *stem, bool *is_ambiguous)
{
	char	   *plain = pstrdup(stem);
	char	   *dot = strrchr(plain, '.');
	char	   *guess;

	*is_ambiguous = false;
	if (dot != NULL && dot != plain)
	{
		*dot = '\0';
		if (avc_images_has(run->images, plain))
			return has_own_labels(run, plain) ? NULL : plain;
	}
	guess = avc_images_guess(run->images, plain, is_ambiguous);
	return guess != NULL && has_own_labels(run, guess) ? NULL : guess;
}

static AvcClaim
claim_guess(AvcFolderRun *run, char **stem, char **name)
{
	bool		is_known;
	char	   *guess;

	if (avc_images_has(run->images, *stem))
		return AVC_CLAIM_DONE;
	guess = guess_stem(run, *stem, &is_known);
	if (guess == NULL)
		return AVC_CLAIM_DONE;
	*stem = guess;
	*name = avc_images_claim(run->images, guess, &is_known);
	return *name != NULL ? AVC_CLAIM_TAKEN : AVC_CLAIM_ABSENT;
}

AvcClaim
avc_folder_run_claim(AvcFolderRun *run, const char *label_name, char **stem,
					 char **name)
{
	/* names may say the folder, too: "video/frame.jpg" */
	const char *base = strrchr(label_name, '/');
	bool		is_again;
	bool		is_ambiguous;
	size_t		len;

	*stem = pstrdup(base ? base + 1 : label_name);
	len = avc_image_stem_length(*stem);
	if (len > 0)
		(*stem)[len] = '\0';
	if (run->is_second_pass)
		return claim_guess(run, stem, name);
	*name = avc_images_claim(run->images, *stem, &is_again);
	if (*name != NULL)
		return AVC_CLAIM_TAKEN;
	if (is_again)
		return AVC_CLAIM_AGAIN;
	if (guess_stem(run, *stem, &is_ambiguous) != NULL)
	{
		run->put_off++;
		return AVC_CLAIM_LATER;
	}
	return is_ambiguous ? AVC_CLAIM_AMBIGUOUS : AVC_CLAIM_ABSENT;
}

void
avc_folder_run_take(AvcFolderRun *run, AvcIngestFrame *frame,
					const char *stem, const char *name)
{
	frame->split = run->split;
	run->boxes += frame->box_count;
	avc_images_take(run->images, frame, stem, name);
}

void
avc_folder_run_end(AvcFolderRun *run)
{
	avc_images_close(run->images);
	avc_ingest_finish(run->ingest);
	avc_ingest_say_summary(run->ingest, avc_images_passed_over(run->images),
						   run->without_box, run->without_image);
	if (run->scored > 0)
		ereport(WARNING,
				(errmsg(INT64_FORMAT " labels have a score, as predictions have",
						run->scored),
				 errdetail("They were taken as what is in the frames."),
				 errhint("Keep predictions apart from labels: evaluate them, or ingest the label file again.")));
	if (run->boxes == 0 && run->without_box > 0)
		ereport(WARNING,
				(errmsg("none of " INT64_FORMAT " labels has a box",
						run->without_box),
				 errdetail("Their frames count as frames without objects."),
				 errhint("Name a file of detection or tracking labels, not of segmentation.")));
}
