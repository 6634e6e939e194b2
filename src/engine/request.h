/*
 * engine/request.h
 *		What a request's JSON asks for, checked field by field.
 *
 * An unknown field is an error, as a misspelt option would otherwise be
 * ignored in silence.
 */
#ifndef ENG_REQUEST_H
#define ENG_REQUEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/channel.h"
#include "engine/nets/detector.h"
#include "engine/protocol.h"
#include "engine/status.h"

typedef struct EngLoadRequest
{
	json_t	   *root;			/* owns the strings */
	const char *architecture;
	char	   *options;		/* JSON text, malloc'ed, NULL = none */
	int32_t		num_classes;	/* 0 = the architecture's default */
	bool		train;
	const char *device;			/* core/devices.h; "cpu" unless said */
	int32_t		threads;		/* 0 = all processors */
	bool		usual;			/* precision that suits the device */
	EngType		precision;		/* else: this */
	uint64_t	seed;
	bool		init;			/* fresh weights, then what the blob holds */
	bool		strict;
	bool		new_head;
	bool		backbone_only;
	EngOptimizerConfig optimizer;	/* when train */
	double		hflip;			/* probability */
	int64_t		memory_limit;	/* bytes of the host's, 0 = none */
	int64_t		device_memory_limit;	/* of a GPU's, 0 = most of it */
	const char *weights;		/* name to keep them under, or NULL */
} EngLoadRequest;

typedef struct EngFrameRequest
{
	int64_t		frame_id;
	int64_t		position;
	size_t		offset;			/* of the JPEG in the blob */
	size_t		bytes;
	int32_t		first_box;		/* in boxes and labels of the batch */
	int32_t		box_count;
} EngFrameRequest;

/* A STEP, a DETECT or an EMBED_IMAGES. */
typedef struct EngBatchRequest
{
	int64_t		step;
	double		lr;
	int32_t		accumulate_index;
	int32_t		accumulate_count;
	double		min_score;
	char		weights[ENG_PROTOCOL_MAX_WEIGHTS + 1];	/* name, "" = none */
	EngFrameRequest *frames;
	int32_t		frame_count;
	float	   *boxes;			/* (box_count, 4) */
	int32_t    *labels;			/* (box_count), at least 1 */
	int32_t		box_count;
	bool		has_bad_frame;	/* a failure concerns this frame */
	int64_t		bad_frame;
} EngBatchRequest;

/* An EMBED_TEXTS. */
typedef struct EngTextsRequest
{
	char		weights[ENG_PROTOCOL_MAX_WEIGHTS + 1];	/* name, "" = none */
	int32_t    *lengths;		/* (count), tokens of each text */
	int32_t		count;
	int32_t    *ids;			/* of all texts, one after another */
} EngTextsRequest;

/* Free with eng_load_request_free, after a failure too. */
extern bool eng_load_request_parse(EngLoadRequest *request,
								   const EngMessage *message,
								   EngStatus *status);
extern void eng_load_request_free(EngLoadRequest *request);

/*
 * The message is a STEP, a DETECT or an EMBED_IMAGES; its frames' lengths must add up to the
 * blob.  Free with eng_batch_request_free, after a failure too.
 */
extern bool eng_batch_request_parse(EngBatchRequest *request,
									const EngMessage *message,
									EngStatus *status);
extern void eng_batch_request_free(EngBatchRequest *request);

/*
 * Every text has tokens, none more than ENG_PROTOCOL_TOKENS, and every token
 * is of the vocabulary.  Free after a failure too.
 */
extern bool eng_texts_request_parse(EngTextsRequest *request,
									const EngMessage *message,
									EngStatus *status);
extern void eng_texts_request_free(EngTextsRequest *request);

/* *look: whether HELLO is to open the GPU. */
extern bool eng_hello_request_parse(const EngMessage *message, bool *look,
									EngStatus *status);
/* The one field of SAVE; BYE has none. */
extern bool eng_save_request_parse(const EngMessage *message,
								   bool *with_optimizer, EngStatus *status);

#endif							/* ENG_REQUEST_H */
