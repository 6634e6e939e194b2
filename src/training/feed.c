/*
 * training/feed.c
 *		Steps of a training to the engine, ahead of it, and their answers.
 *
 * A batch is read in a transaction of its own that is over before anything
 * is sent; the JPEGs go to the socket from where they were detoasted, and
 * their memory is given back at the next batch.  The queue is kept here:
 * answers come in the order of the requests.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/memutils.h"

#include "engine/protocol.h"
#include "training/feed.h"

static void
take_one(AvcFeed *feed, AvcFeedAnswer answer, void *arg)
{
	MemoryContext old = CurrentMemoryContext;
	AvcReply   *reply = avc_engine_receive(feed->engine);
	AvcFeedItem item = feed->sent[0];

	feed->sent_count--;
	memmove(&feed->sent[0], &feed->sent[1],
			feed->sent_count * sizeof(AvcFeedItem));
	answer(arg, &item, reply);
	avc_reply_free(reply);
	MemoryContextSwitchTo(old);
}

void
avc_feed_drain(AvcFeed *feed, int left, AvcFeedAnswer answer, void *arg)
{
	while (feed->sent_count > left)
		take_one(feed, answer, arg);
}

static void
send_item(AvcFeed *feed, const AvcFeedItem *item, const AvcMessage *message,
		  AvcFeedAnswer answer, void *arg)
{
	avc_feed_drain(feed, AVC_FEED_AHEAD - 1, answer, arg);
	avc_engine_send(feed->engine, message);
	feed->sent[feed->sent_count++] = *item;
}

static void
append_frame(StringInfo json, const AvcBatchFrame *frame)
{
	int			i;

	appendStringInfo(json, "{\"frame_id\": " INT64_FORMAT ", \"position\": "
					 INT64_FORMAT ", \"bytes\": %zu, \"labels\": [",
					 frame->frame_id, frame->position,
					 (size_t) VARSIZE_ANY_EXHDR(frame->image));
	for (i = 0; i < frame->box_count; i++)
		appendStringInfo(json, "%s%d", i > 0 ? "," : "", frame->labels[i]);
	appendStringInfoString(json, "], \"boxes\": [");
	for (i = 0; i < frame->box_count; i++)
		appendStringInfo(json, "%s[%.9g,%.9g,%.9g,%.9g]", i > 0 ? "," : "",
						 frame->boxes[4 * i], frame->boxes[4 * i + 1],
						 frame->boxes[4 * i + 2], frame->boxes[4 * i + 3]);
	appendStringInfoString(json, "]}");
}

/* One message: n frames, micro-batch "index" of "count" of the step. */
static void
send_frames(AvcFeed *feed, AvcFeedItem *item, const AvcBatchFrame *frames,
			int index, int count, AvcFeedAnswer answer, void *arg)
{
	StringInfoData json;
	AvcBlobPart *parts = palloc_array(AvcBlobPart, Max(item->frames, 1));
	AvcMessage	message = {ENG_KIND_STEP, NULL, parts, item->frames};
	int			i;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"step\": " INT64_FORMAT ", \"lr\": %.17g, ",
					 item->step, item->lr);
	if (count > 1)
		appendStringInfo(&json, "\"accumulate_index\": %d, "
						 "\"accumulate_count\": %d, ", index, count);
	appendStringInfoString(&json, "\"frames\": [");
	for (i = 0; i < item->frames; i++)
	{
		if (i > 0)
			appendStringInfoString(&json, ", ");
		append_frame(&json, &frames[i]);
		parts[i].data = VARDATA_ANY(frames[i].image);
		parts[i].len = VARSIZE_ANY_EXHDR(frames[i].image);
	}
	appendStringInfoString(&json, "]}");
	message.json = json.data;
	send_item(feed, item, &message, answer, arg);
}

void
avc_feed_step(AvcFeed *feed, int64 step, AvcFeedAnswer answer, void *arg)
{
	AvcFeedItem item = {false};
	AvcBatchFrame *frames;
	MemoryContext old;
	int			count;
	int			size;
	int			index;
	int			pieces;

	item.step = step;
	item.epoch = step / feed->per_epoch;
	item.lr = avc_train_options_lr(feed->options, step, feed->total,
								   item.epoch);
	MemoryContextReset(feed->context);
	avc_job_begin(feed->job);
	if (item.epoch != feed->epoch)
	{
		avc_batch_reader_set_epoch(feed->reader, (int32) item.epoch);
		feed->epoch = item.epoch;
	}
	count = avc_batch_reader_read(feed->reader, step % feed->per_epoch,
								  feed->context, &frames);
	avc_job_commit(feed->job);

	size = (count + feed->options->accumulate - 1) / feed->options->accumulate;
	size = Max(size, 1);
	pieces = Max((count + size - 1) / size, 1);
	old = MemoryContextSwitchTo(feed->context);
	for (index = 0; index < pieces; index++)
	{
		item.frames = Min(size, count - index * size);
		item.is_last = index == pieces - 1;
		send_frames(feed, &item, frames + index * size, index, pieces, answer,
					arg);
	}
	MemoryContextSwitchTo(old);
}

void
avc_feed_save(AvcFeed *feed, int64 steps_done, AvcFeedAnswer answer,
			  void *arg)
{
	AvcFeedItem item = {true};
	AvcMessage	message = {ENG_KIND_SAVE, "{\"with_optimizer\": true}", NULL, 0};

	item.step = steps_done;
	item.epoch = (steps_done - 1) / feed->per_epoch;
	send_item(feed, &item, &message, answer, arg);
}
