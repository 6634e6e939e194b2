/*
 * engine/embed.c
 *		Answer requests for embeddings.
 */
#include "engine/embed.h"

#include <stdlib.h>

#include "engine/answer.h"

/* What is to be embedded: pictures, or texts; and where it goes. */
typedef struct Work
{
	const uint8_t *pictures[ENG_PROTOCOL_MAX_FRAMES];
	EngClipText texts[ENG_PROTOCOL_MAX_TEXTS];
	int32_t		picture_count;
	int32_t		text_count;
	float	   *out;
} Work;

static bool
embed(EngNet *net, void *context, EngStatus *status)
{
	const Work *work = context;
	int32_t		n = work->picture_count + work->text_count;

	return (work->picture_count == 0 ||
			eng_clip_images(net->clip, work->pictures, n, work->out,
							status)) &&
		(work->text_count == 0 ||
		 eng_clip_texts(net->clip, work->texts, n, work->out, status)) &&
		eng_clip_unit(work->out, n, eng_clip_config(net->clip)->dimensions,
					  status);
}

/*
 * Do the work, whose result becomes the blob.
 */
static bool
run(EngEmbedRequest *request, Work *work, EngBuffer *blob, EngStatus *status)
{
	size_t		bytes = sizeof(float) *
		(size_t) (work->picture_count + work->text_count) *
		(size_t) eng_clip_config(request->net->clip)->dimensions;

	if (bytes == 0)
		return true;
	if (!eng_buffer_reserve(blob, bytes, status))
		return false;
	work->out = (float *) blob->data;
	if (request->shelf != NULL ?
		!eng_shelf_run(request->shelf, request->net, embed, work, status) :
		!embed(request->net, work, status))
		return false;
	blob->size = bytes;
	return true;
}

/* One element of "frames". */
static json_t *
describe_frame(const EngFeedItem *item, int32_t i)
{
	const EngPicture *picture = &item->pictures[i];
	json_int_t	frame_id = item->batch.frames[i].frame_id;

	if (picture->code != ENG_OK)
		return eng_answer_failed_frame(frame_id, picture->code,
									   picture->message);
	return json_pack("{s:I, s:i}", "frame_id", frame_id, "count", 1);
}

bool
eng_embed_images(EngEmbedRequest *request, json_t **json, EngBuffer *blob,
				 EngStatus *status)
{
	const EngFeedItem *item = request->item;
	Work	   *work = calloc(1, sizeof(*work));
	json_t	   *frames = json_array();
	bool		fine = work != NULL && frames != NULL;
	int32_t		i;

	for (i = 0; fine && i < item->batch.frame_count; i++)
	{
		if (item->pictures[i].code == ENG_OK)
			work->pictures[work->picture_count++] = item->pictures[i].rgb;
		fine = json_array_append_new(frames, describe_frame(item, i)) == 0;
	}
	if (!fine)
		eng_fail(status, ENG_NO_MEMORY, "could not keep the pictures");
	fine = fine && run(request, work, blob, status);
	free(work);
	if (!fine)
	{
		json_decref(frames);
		return false;
	}
	*json = json_pack("{s:i, s:o}", "dimensions",
					  (int) eng_clip_config(request->net->clip)->dimensions,
					  "frames", frames);
	return true;
}

bool
eng_embed_texts(EngEmbedRequest *request, json_t **json, EngBuffer *blob,
				EngStatus *status)
{
	const EngTextsRequest *texts = &request->texts;
	const int32_t *ids = texts->ids;
	Work	   *work = calloc(1, sizeof(*work));
	bool		fine;
	int32_t		i;

	if (work == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not keep the texts");
	work->text_count = texts->count;
	for (i = 0; i < texts->count; i++)
	{
		work->texts[i] = (EngClipText) {ids, texts->lengths[i]};
		ids += texts->lengths[i];
	}
	fine = run(request, work, blob, status);
	free(work);
	if (fine)
		*json = json_pack("{s:i, s:i}", "dimensions",
						  (int) eng_clip_config(request->net->clip)->dimensions,
						  "texts", (int) texts->count);
	return fine;
}
