/*
 * engine/serve.c
 *		One session: requests over a socket until the peer says BYE.
 *
 * A request that fails is answered by ERROR and leaves the session as it was,
 * but for a LOAD, which leaves nothing loaded.  Only a stream that cannot be
 * read any more ends the session.
 */
#include "engine/serve.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/answer.h"
#include "engine/channel.h"
#include "engine/core/random.h"
#include "engine/io/json.h"
#include "engine/embed.h"
#include "engine/load.h"
#include "engine/machine.h"
#include "engine/request.h"
#include "engine/shelf.h"

#define SCORE_DIGITS	9		/* make every float come back the same */

typedef struct Session
{
	int			fd;
	EngFeed    *feed;
	EngNet		net;			/* none: nothing is loaded */
	EngShelf	shelf;			/* of networks that are asked for by name */
	bool		train;
	uint64_t	seed;
	double		hflip;
	EngFrame	frames[ENG_PROTOCOL_MAX_FRAMES];
	EngDetections detections[ENG_PROTOCOL_MAX_FRAMES];
} Session;

/* An answer being made: its JSON and what goes with it. */
typedef struct Answer
{
	json_t	   *json;
	EngBuffer	blob;
	int			digits;			/* of numbers */
} Answer;

typedef bool (*Handler) (Session *session, EngFeedItem *item, double wait_s,
						 Answer *answer, EngStatus *status);

static bool
handle_hello(Session *session, EngFeedItem *item, double wait_s,
			 Answer *answer, EngStatus *status)
{
	bool		look;

	if (!eng_hello_request_parse(&item->message, &look, status))
		return false;
	answer->json = eng_machine_describe(look);
	return true;
}

static void
unload(Session *session)
{
	/* the feed is gone before the last network is */
	if (session->feed != NULL)
		eng_feed_set_keeper(session->feed, NULL);
	eng_net_free(&session->net);
}

/* Pictures are prepared as the network wants them. */
static void
feed_for(Session *session, const EngNet *net)
{
	const EngBackend *backend = eng_net_backend(net);

	eng_feed_set_threads(session->feed, backend->threads);
	eng_feed_set_memory(session->feed, &backend->host_memory);
}

/*
 * A LOAD under a name.  What has that name already is the same weights.
 */
static bool
load_kept(Session *session, EngLoadRequest *request,
		  const EngMessage *message, Answer *answer, EngStatus *status)
{
	const EngNet *kept = eng_shelf_find(&session->shelf, request->weights);
	EngNet		net = {0};

	if (kept != NULL)
	{
		answer->json = eng_load_answer(kept);
		return true;
	}
	if (!eng_load_network(&net, request, message, &answer->json, status))
		return false;
	session->shelf.limit = eng_load_limit(request, eng_net_backend(&net));
	feed_for(session, &net);
	return eng_shelf_put(&session->shelf, request->weights, &net, status);
}

static bool
load_alone(Session *session, EngLoadRequest *request,
		   const EngMessage *message, Answer *answer, EngStatus *status)
{
	session->train = request->train;
	session->seed = request->seed;
	session->hflip = request->hflip;
	if (!eng_load_network(&session->net, request, message, &answer->json,
						  status))
		return false;
	feed_for(session, &session->net);
	if (session->train && session->net.detector != NULL)
		eng_feed_set_keeper(session->feed,
							eng_detector_keeper(session->net.detector));
	return true;
}

static bool
handle_load(Session *session, EngFeedItem *item, double wait_s,
			Answer *answer, EngStatus *status)
{
	EngLoadRequest request;
	bool		fine;

	fine = eng_load_request_parse(&request, &item->message, status);
	if (!fine || request.weights == NULL)
		unload(session);
	if (fine)
		eng_feed_set_limit(session->feed, (size_t) request.memory_limit);
	if (fine && request.weights != NULL)
		fine = load_kept(session, &request, &item->message, answer, status);
	else if (fine)
		fine = load_alone(session, &request, &item->message, answer, status);
	eng_load_request_free(&request);
	return fine;
}

static bool
check_detector(const Session *session, bool train, EngStatus *status)
{
	if (eng_net_is_none(&session->net))
		return eng_fail(status, ENG_BAD_ARGUMENT, "nothing is loaded");
	if (session->net.detector == NULL)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"the network that is loaded is no detector");
	if (train && !session->train)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"detector was not loaded to train");
	return true;
}

/*
 * Set session->frames from a prepared item.  Whether a frame is flipped
 * depends on seed, step and position alone, so a resumed training decides
 * the same.
 */
static void
collect_frames(Session *session, const EngFeedItem *item)
{
	const EngBatchRequest *batch = &item->batch;
	int32_t		i;

	for (i = 0; i < batch->frame_count; i++)
	{
		const EngFrameRequest *from = &batch->frames[i];
		EngFrame   *to = &session->frames[i];

		to->rgb = item->pictures[i].rgb;
		to->key = item->pictures[i].key;
		to->width = item->pictures[i].width;
		to->height = item->pictures[i].height;
		to->boxes = batch->boxes + 4 * (size_t) from->first_box;
		to->labels = batch->labels + from->first_box;
		to->box_count = from->box_count;
		to->frame_id = from->frame_id;
		to->position = from->position;
		to->flip = session->train && session->hflip > 0 &&
			item->message.kind == ENG_KIND_STEP &&
			eng_random_uniform(session->seed, (uint64_t) batch->step,
							   (uint64_t) from->position, ENG_USE_FLIP,
							   0) < session->hflip;
	}
}

/*
 * What of a frame depends on what is loaded, which the feed does not know.
 */
static bool
check_collected(const Session *session, EngBatchRequest *batch, bool train,
				EngStatus *status)
{
	int32_t		i;

	for (i = 0; i < batch->frame_count; i++)
		if (!eng_detector_check_frame(session->net.detector, &session->frames[i],
									  train, status))
		{
			batch->has_bad_frame = true;
			batch->bad_frame = batch->frames[i].frame_id;
			return false;
		}
	return true;
}

static bool
handle_step(Session *session, EngFeedItem *item, double wait_s,
			Answer *answer, EngStatus *status)
{
	EngBatchRequest *batch = &item->batch;
	EngStepInfo info = {.seed = session->seed};
	EngStepResult result = {0};
	double		start = eng_feed_clock();

	if (!check_detector(session, true, status))
		return false;
	collect_frames(session, item);
	if (!check_collected(session, batch, true, status))
		return false;
	eng_detector_set_pictures(session->net.detector,
							  eng_feed_pictures(session->feed));
	info.step = (uint64_t) batch->step;
	info.lr = (float) batch->lr;
	info.accumulate_index = batch->accumulate_index;
	info.accumulate_count = batch->accumulate_count;
	if (!eng_detector_train_step(session->net.detector, session->frames,
								 batch->frame_count, &info, &result, status))
		return false;
	answer->json = eng_answer_step(batch, &result);
	json_object_set_new(answer->json, "kept", json_integer(
							eng_feed_held(item)));
	if (answer->json != NULL)
		eng_answer_times(answer->json, wait_s, eng_feed_clock() - start);
	return true;
}

/*
 * The frames that were decoded and that the detector takes, in
 * session->frames; returns how many.
 */
static int32_t
collect_decoded(Session *session, EngFeedItem *item,
				const EngDetector *detector)
{
	int32_t		count = 0;
	int32_t		i;

	for (i = 0; i < item->batch.frame_count; i++)
	{
		EngPicture *picture = &item->pictures[i];
		EngFrame   *to = &session->frames[count];
		EngStatus	refused = {0};

		if (picture->code != ENG_OK)
			continue;
		memset(to, 0, sizeof(*to));
		to->rgb = picture->rgb;
		to->width = picture->width;
		to->height = picture->height;
		to->frame_id = item->batch.frames[i].frame_id;
		if (eng_detector_check_frame(detector, to, false, &refused))
			count++;
		else
		{
			picture->code = refused.code;
			snprintf(picture->message, sizeof(picture->message), "%.199s",
					 refused.message);
		}
	}
	return count;
}

/*
 * Append detections to the answer's blob; *count says how many.
 */
static bool
append_detections(const EngDetections *found, double min_score,
				  EngBuffer *blob, int32_t *count, EngStatus *status)
{
	int32_t		i;

	*count = 0;
	if (!eng_buffer_reserve(blob, (size_t) found->count *
							ENG_PROTOCOL_DETECTION, status))
		return false;
	for (i = 0; i < found->count; i++)
	{
		uint8_t    *at = blob->data + blob->size;
		int32_t		label = found->labels[i];

		if (found->scores[i] < min_score)
			continue;
		memcpy(at, &label, 4);
		memcpy(at + 4, &found->scores[i], 4);
		memcpy(at + 8, &found->boxes[4 * (size_t) i], 16);
		blob->size += ENG_PROTOCOL_DETECTION;
		++*count;
	}
	return true;
}

/*
 * One element of "frames": *next is the place of its detections if it was
 * decoded, and then moves on.
 */
static json_t *
describe_frame(Session *session, const EngFeedItem *item, int32_t i,
			   int32_t *next, Answer *answer, EngStatus *status)
{
	const EngBatchRequest *batch = &item->batch;
	const EngPicture *picture = &item->pictures[i];
	json_int_t	frame_id = batch->frames[i].frame_id;
	int32_t		count;

	if (picture->code != ENG_OK)
		return eng_answer_failed_frame(frame_id, picture->code,
									   picture->message);
	if (!append_detections(&session->detections[(*next)++], batch->min_score,
						   &answer->blob, &count, status))
		return NULL;
	return json_pack("{s:I, s:i}", "frame_id", frame_id, "count", count);
}

/* Work of the shelf: session->frames, of which count are filled. */
typedef struct Inference
{
	Session    *session;
	int32_t		count;
} Inference;

static bool
infer(EngNet *net, void *context, EngStatus *status)
{
	Inference  *inference = context;
	Session    *session = inference->session;

	return eng_detector_infer(net->detector, session->frames,
							  inference->count, session->detections, status);
}

/*
 * The pictures are counted with the detector that works on them alone.
 */
static bool
infer_kept(Session *session, EngNet *net, int32_t count, EngStatus *status)
{
	Inference	inference = {session, count};
	bool		fine;

	eng_detector_set_pictures(net->detector,
							  eng_feed_pictures(session->feed));
	fine = eng_shelf_run(&session->shelf, net, infer, &inference, status);
	eng_detector_set_pictures(net->detector, 0);
	return fine;
}

/*
 * A DETECT for weights of the shelf.
 */
static bool
detect_kept(Session *session, EngFeedItem *item, double wait_s,
			Answer *answer, EngStatus *status)
{
	double		start = eng_feed_clock();
	EngNet	   *net = eng_shelf_find(&session->shelf, item->batch.weights);
	int32_t		count;
	int32_t		next = 0;
	json_t	   *frames;
	int32_t		i;

	if (net == NULL)
		return eng_fail(status, ENG_NOT_LOADED, "weights are not loaded");
	if (net->detector == NULL)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"the network of that name is no detector");
	count = collect_decoded(session, item, net->detector);
	if (count > 0 && !infer_kept(session, net, count, status))
		return false;
	frames = json_array();
	for (i = 0; i < item->batch.frame_count; i++)
		if (json_array_append_new(frames, describe_frame(session, item, i,
														 &next, answer,
														 status)) != 0)
		{
			json_decref(frames);
			return eng_fail(status, ENG_NO_MEMORY,
							"could not keep detections");
		}
	answer->json = json_pack("{s:o}", "frames", frames);
	if (answer->json != NULL)
		eng_answer_times(answer->json, wait_s, eng_feed_clock() - start);
	return true;
}

static bool
handle_detect(Session *session, EngFeedItem *item, double wait_s,
			  Answer *answer, EngStatus *status)
{
	EngBatchRequest *batch = &item->batch;
	double		start = eng_feed_clock();
	json_t	   *frames;
	int32_t		i;

	if (batch->weights[0] != '\0')
		return detect_kept(session, item, wait_s, answer, status);
	if (!check_detector(session, false, status))
		return false;
	collect_frames(session, item);
	eng_detector_set_pictures(session->net.detector,
							  eng_feed_pictures(session->feed));
	if (!check_collected(session, batch, false, status) ||
		!eng_detector_infer(session->net.detector, session->frames,
							batch->frame_count, session->detections, status))
		return false;
	frames = json_array();
	for (i = 0; i < batch->frame_count; i++)
	{
		json_t	   *frame = eng_answer_detections(&session->detections[i],
												  batch->min_score);

		if (frame == NULL)
		{
			json_decref(frames);
			return eng_fail(status, ENG_NO_MEMORY, "could not keep detections");
		}
		json_object_set_new(frame, "frame_id",
							json_integer(batch->frames[i].frame_id));
		json_array_append_new(frames, frame);
	}
	answer->digits = SCORE_DIGITS;
	answer->json = json_pack("{s:o}", "frames", frames);
	if (answer->json != NULL)
		eng_answer_times(answer->json, wait_s, eng_feed_clock() - start);
	return true;
}

/*
 * The CLIP network that a message is for: of a name, or the one loaded
 * without.  *kept: it is the shelf's.
 */
static EngNet *
find_clip(Session *session, const char *name, bool *kept, EngStatus *status)
{
	EngNet	   *net = &session->net;

	*kept = name[0] != '\0';
	if (*kept)
		net = eng_shelf_find(&session->shelf, name);
	if (net == NULL)
		eng_fail(status, ENG_NOT_LOADED, "weights are not loaded");
	else if (eng_net_is_none(net))
		eng_fail(status, ENG_BAD_ARGUMENT, "nothing is loaded");
	else if (net->clip == NULL)
		eng_fail(status, ENG_BAD_ARGUMENT,
				 "the network is a detector: it embeds nothing");
	else
		return net;
	return NULL;
}

static bool
handle_embed(Session *session, EngFeedItem *item, double wait_s,
			 Answer *answer, EngStatus *status)
{
	bool		is_images = item->message.kind == ENG_KIND_EMBED_IMAGES;
	double		start = eng_feed_clock();
	EngEmbedRequest request = {.item = item};
	bool		kept;
	bool		fine;

	fine = is_images ||
		eng_texts_request_parse(&request.texts, &item->message, status);
	if (fine)
	{
		request.net = find_clip(session, is_images ? item->batch.weights :
								request.texts.weights, &kept, status);
		request.shelf = kept ? &session->shelf : NULL;
	}
	fine = fine && request.net != NULL &&
		(is_images ? eng_embed_images(&request, &answer->json, &answer->blob,
									  status) :
		 eng_embed_texts(&request, &answer->json, &answer->blob, status));
	if (fine && answer->json != NULL)
		eng_answer_times(answer->json, wait_s, eng_feed_clock() - start);
	eng_texts_request_free(&request.texts);
	return fine;
}

/*
 * A file that no message holds is not made first.
 */
static bool
check_file_size(const EngDetector *detector, bool with_optimizer,
				EngStatus *status)
{
	EngMemory	memory;
	size_t		bytes;

	eng_detector_memory(detector, &memory);
	bytes = memory.parameters + (with_optimizer ? memory.optimizer : 0);
	if (bytes > ENG_PROTOCOL_MAX_BLOB)
		return eng_fail(status, ENG_UNSUPPORTED,
						"weights of %zu bytes are more than the %llu that a file may have",
						bytes, (unsigned long long) ENG_PROTOCOL_MAX_BLOB);
	return true;
}

static bool
write_weights(Session *session, bool with_optimizer, EngBuffer *out,
			  EngStatus *status)
{
	if (session->net.clip != NULL && !with_optimizer)
		return eng_clip_save(session->net.clip, out, status);
	return check_detector(session, with_optimizer, status) &&
		check_file_size(session->net.detector, with_optimizer, status) &&
		(!session->train ||
		 eng_detector_check_finite(session->net.detector, status)) &&
		eng_detector_save(session->net.detector, with_optimizer, out, status);
}

static bool
handle_save(Session *session, EngFeedItem *item, double wait_s,
			Answer *answer, EngStatus *status)
{
	EngTensorFile *file;
	bool		with_optimizer;

	if (!eng_save_request_parse(&item->message, &with_optimizer, status) ||
		!write_weights(session, with_optimizer, &answer->blob, status))
		return false;
	file = eng_tensor_file_open(answer->blob.data, answer->blob.size, status);
	if (file == NULL)
		return false;
	answer->json = json_pack("{s:i}", "tensors", (int) file->count);
	eng_tensor_file_free(file);
	return true;
}

static bool
handle_bye(Session *session, EngFeedItem *item, double wait_s,
		   Answer *answer, EngStatus *status)
{
	answer->json = json_object();
	return true;
}

static const Handler handlers[] = {
	[ENG_KIND_HELLO] = handle_hello,
	[ENG_KIND_LOAD] = handle_load,
	[ENG_KIND_STEP] = handle_step,
	[ENG_KIND_DETECT] = handle_detect,
	[ENG_KIND_SAVE] = handle_save,
	[ENG_KIND_BYE] = handle_bye,
	[ENG_KIND_EMBED_IMAGES] = handle_embed,
	[ENG_KIND_EMBED_TEXTS] = handle_embed
};

/*
 * Run the handler of a message; an answer of JSON, or false.
 */
static bool
handle(Session *session, EngFeedItem *item, double wait_s, Answer *answer,
	   EngStatus *status)
{
	uint16_t	kind = item->message.kind;

	if (item->status.code != ENG_OK)
	{
		*status = item->status;
		return false;
	}
	if (kind >= sizeof(handlers) / sizeof(handlers[0]) ||
		handlers[kind] == NULL)
		return eng_fail(status, ENG_UNSUPPORTED,
						"message of unknown kind %d", kind);
	if (!handlers[kind] (session, item, wait_s, answer, status))
		return false;
	if (answer->json == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not make an answer");
	if (answer->blob.size > ENG_PROTOCOL_MAX_BLOB)
		return eng_fail(status, ENG_UNSUPPORTED,
						"answer of %zu bytes is more than a message holds",
						answer->blob.size);
	return true;
}

static bool
send_answer(Session *session, const Answer *answer, EngStatus *status)
{
	size_t		flags = JSON_COMPACT | JSON_REAL_PRECISION(answer->digits);
	char	   *text = json_dumps(answer->json, flags);
	bool		sent;

	if (text == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not write an answer");
	sent = eng_channel_write(session->fd, ENG_KIND_OK, text, &answer->blob,
							 status);
	free(text);
	return sent;
}

/*
 * Answer with ERROR, which names the frame that the item's batch blames.
 */
static bool
send_error(Session *session, const EngFeedItem *item, bool fatal,
		   const EngStatus *failure, EngStatus *status)
{
	json_t	   *json = eng_answer_error(failure, &item->batch, fatal);
	char	   *text;
	bool		sent;

	text = json != NULL ? json_dumps(json, JSON_COMPACT) : NULL;
	json_decref(json);
	if (text == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not write an answer");
	sent = eng_channel_write(session->fd, ENG_KIND_ERROR, text, NULL, status);
	free(text);
	return sent;
}

/*
 * Take one message and answer it.  *over: it was the last one, by the peer's
 * wish (true) or because the stream is lost (false).
 */
static bool
serve_one(Session *session, bool *over, EngStatus *status)
{
	Answer		answer = {.digits = 17};
	EngStatus	failure = {0};
	EngFeedItem *item;
	double		wait_s;
	bool		sent;

	*over = true;
	item = eng_feed_next(session->feed, &wait_s);
	if (item->result == ENG_READ_END)
		return eng_fail(status, ENG_IO, "connection closed without BYE");
	if (item->result == ENG_READ_FAILED)
	{
		EngStatus	ignored = {0};

		*status = item->status;
		send_error(session, item, true, status, &ignored);
		return false;
	}
	if (handle(session, item, wait_s, &answer, &failure))
		sent = send_answer(session, &answer, status);
	else
		sent = send_error(session, item, false, &failure, status);
	*over = failure.code == ENG_OK && item->message.kind == ENG_KIND_BYE;
	json_decref(answer.json);
	eng_buffer_free(&answer.blob);
	eng_feed_done(session->feed);
	return sent;
}

bool
eng_serve(int fd, const EngFeedEnd *end, EngStatus *status)
{
	Session    *session = calloc(1, sizeof(*session));
	bool		over = false;
	bool		fine = true;

	if (session == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not start a session");
	session->fd = fd;
	session->feed = eng_feed_start(fd, end, status);
	fine = session->feed != NULL;
	while (fine && !over)
		fine = serve_one(session, &over, status);
	eng_feed_stop(session->feed);
	session->feed = NULL;
	unload(session);
	eng_shelf_clear(&session->shelf);
	free(session);
	return fine;
}
