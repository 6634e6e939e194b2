/*
 * training/feed.h
 *		Steps of a training to the engine, ahead of it, and their answers.
 */
#ifndef AVC_TRAINING_FEED_H
#define AVC_TRAINING_FEED_H

#include "batches/batches.h"
#include "common/engine_client.h"
#include "jobs/job.h"
#include "training/options.h"

/* Requests under way at most: one being worked on, two ready for it. */
#define AVC_FEED_AHEAD 3

/* What was sent and is not answered yet, oldest first. */
typedef struct AvcFeedItem
{
	bool		is_save;
	int64		step;			/* from 0; for a save: steps done */
	int64		epoch;			/* from 0 */
	double		lr;
	int			frames;
	bool		is_last;		/* last micro-batch of its step */
} AvcFeedItem;

typedef struct AvcFeed
{
	AvcJob	   *job;
	AvcEngine  *engine;
	AvcBatchReader *reader;
	const AvcTrainOptions *options;
	int64		per_epoch;		/* steps */
	int64		total;			/* steps */
	int64		epoch;			/* the reader's */
	MemoryContext context;		/* of one batch, reset by each */
	AvcFeedItem sent[AVC_FEED_AHEAD];
	int			sent_count;
} AvcFeed;

/* Called with each answer, outside of any transaction. */
typedef void (*AvcFeedAnswer) (void *arg, const AvcFeedItem *item,
							   const AvcReply *reply);

/* Read the batch of a step (from 0) and send it; answers that have to be
 * taken first go to "answer". */
extern void avc_feed_step(AvcFeed *feed, int64 step, AvcFeedAnswer answer,
						  void *arg);

/* Ask for the weights with the optimizer's state as they are after the
 * steps sent so far. */
extern void avc_feed_save(AvcFeed *feed, int64 steps_done,
						  AvcFeedAnswer answer, void *arg);

/* Take answers until at most "left" requests are under way. */
extern void avc_feed_drain(AvcFeed *feed, int left, AvcFeedAnswer answer,
						   void *arg);

#endif
