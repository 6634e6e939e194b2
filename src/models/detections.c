/*
 * models/detections.c
 *		Ask the shared engine about images, one by one or ahead.
 *
 * Answers are kept until the end of the transaction under the SHA-256 of the
 * image and the name of the network, so two features of one image cost one
 * inference, and images that were sent ahead are batched by the engine while
 * the statement that wants their answers has not come to them yet.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "common/engine_client.h"
#include "common/server_jansson.h"
#include "image/jpeg.h"
#include "models/detect.h"
#include "models/model.h"

#define MAX_ANSWERS		4096	/* kept; 10 MB where each has 100 detections */
#define MAX_AHEAD		32		/* requests under way */
#define MAX_TRIES		6		/* of one image, while engines come and go */

StaticAssertDecl(sizeof(AvcDetection) == ENG_PROTOCOL_DETECTION,
				 "detections travel as they are");

typedef struct AnswerKey
{
	uint8		image[PG_SHA256_DIGEST_LENGTH];
	char		weights[2 * PG_SHA256_DIGEST_LENGTH];
} AnswerKey;

typedef struct Answer
{
	AnswerKey	key;
	dlist_node	node;			/* in "ahead" while it is under way */
	AvcService *service;
	int64		id;				/* of the request, 0 = answered */
	AvcDetections detections;
} Answer;

/*
 * Networks that a connection has had an answer of, so that images may be sent
 * ahead without a thought for loading; the newest eight.
 */
typedef struct Proof
{
	int64		connection;
	char		weights[2 * PG_SHA256_DIGEST_LENGTH];
} Proof;

static Proof proofs[8];
static int	next_proof = 0;

static HTAB *answers = NULL;	/* in TopTransactionContext */
static MemoryContext answers_context = NULL;
static dlist_head ahead = DLIST_STATIC_INIT(ahead);
static int	ahead_count = 0;

/* ---- answers --------------------------------------------------------- */

/* Nobody will ask for what is under way any more. */
static void
forget_ahead(void)
{
	while (!dlist_is_empty(&ahead))
	{
		Answer	   *answer = dlist_container(Answer, node,
											 dlist_pop_head_node(&ahead));

		avc_service_forget(answer->service);
	}
	ahead_count = 0;
}

static void
forget_answers(void)
{
	if (answers == NULL)
		return;
	forget_ahead();
	MemoryContextDelete(answers_context);
	answers_context = NULL;
	answers = NULL;
}

static void
end_of_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			break;
		default:
			forget_answers();
	}
}

static void
open_answers(void)
{
	static bool is_registered = false;
	HASHCTL		control;

	if (answers != NULL)
		return;
	if (!is_registered)
		RegisterXactCallback(end_of_transaction, NULL);
	is_registered = true;
	answers_context = AllocSetContextCreate(TopTransactionContext,
											"avcurate detections",
											ALLOCSET_DEFAULT_SIZES);
	control.keysize = sizeof(AnswerKey);
	control.entrysize = sizeof(Answer);
	control.hcxt = answers_context;
	answers = hash_create("avcurate detections", 256, &control,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
make_key(AnswerKey *key, const AvcDetector *detector, const bytea *image)
{
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);

	if (hash == NULL || pg_cryptohash_init(hash) < 0 ||
		pg_cryptohash_update(hash, (const uint8 *) VARDATA_ANY(image),
							 VARSIZE_ANY_EXHDR(image)) < 0 ||
		pg_cryptohash_final(hash, key->image, sizeof(key->image)) < 0)
		elog(ERROR, "could not compute a SHA-256");
	pg_cryptohash_free(hash);
	memcpy(key->weights, detector->weights, sizeof(key->weights));
}

/* Enter what is known of an image; id is that of the request, 0 = answered. */
static void
add_answer(const AnswerKey *key, const AvcDetector *detector, int64 id,
		   AvcDetections detections)
{
	Answer	   *answer = hash_search(answers, key, HASH_ENTER, NULL);

	answer->service = detector->service;
	answer->id = id;
	answer->detections = detections;
	if (id != 0)
	{
		dlist_push_tail(&ahead, &answer->node);
		ahead_count++;
	}
}

static void
remove_answer(Answer *answer)
{
	AnswerKey	key = answer->key;

	if (answer->id != 0)
	{
		dlist_delete(&answer->node);
		ahead_count--;
	}
	(void) hash_search(answers, &key, HASH_REMOVE, NULL);
}

/* ---- the engine's words ---------------------------------------------- */

/* How a request ended. */
typedef enum Outcome
{
	ANSWERED,
	GONE,						/* ask the next worker */
	NOT_LOADED,					/* load the weights, then ask again */
	FAILED						/* failure tells why */
} Outcome;

typedef struct Failure
{
	char	   *code;
	char	   *message;
	char	   *hint;			/* or NULL */
} Failure;

static char *
copy_text(json_t *json, const char *key)
{
	const char *text = json_string_value(json_object_get(json, key));

	return text != NULL ? pstrdup(text) : NULL;
}

/* Wait for the answer to a request; *frame is set if it is an OK. */
static Outcome
receive(AvcService *service, int64 id, AvcFrame **frame, Failure *failure)
{
	json_t	   *json;

	*frame = avc_service_receive(service, id);
	if (*frame == NULL)
		return GONE;
	if ((*frame)->kind == ENG_KIND_OK)
		return ANSWERED;
	json = json_loadb((*frame)->json, (*frame)->json_len, 0, NULL);
	failure->code = copy_text(json, "code");
	failure->message = copy_text(json, "message");
	failure->hint = copy_text(json, "hint");
	json_decref(json);
	MemoryContextDelete((*frame)->context);
	*frame = NULL;
	if (failure->code == NULL)
		failure->code = "internal";
	return strcmp(failure->code, "not_loaded") == 0 ? NOT_LOADED : FAILED;
}

static void
raise_failure(const AvcDetector *detector, const Failure *failure)
{
	int			state = avc_engine_sqlstate(failure->code);
	const char *hint = failure->hint;
	const char *what = "";

	if (strcmp(failure->code, "lost") == 0)
	{
		what = "shared engine was lost: ";
		if (hint == NULL)
			hint = "The next call starts a fresh one.";
	}
	else if (strcmp(failure->code, "unstarted") == 0)
		state = ERRCODE_INSUFFICIENT_RESOURCES;
	else if (strcmp(failure->code, "no_memory") == 0)
	{
		/* of this image and network, not of the server */
		state = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		hint = "Raise avcurate.engine_memory_limit, or use a smaller network or image.";
	}
	ereport(ERROR,
			(errcode(state),
			 errmsg("%s%s", what,
					failure->message ? failure->message : "engine failed without a message"),
			 errdetail("Checkpoint " INT64_FORMAT ".", detector->checkpoint),
			 hint != NULL ? errhint("%s", hint) : 0));
}

static bool
is_proven(const AvcDetector *detector)
{
	int64		connection = avc_service_connection(detector->service);
	int			i;

	for (i = 0; i < lengthof(proofs); i++)
		if (connection != 0 && proofs[i].connection == connection &&
			memcmp(proofs[i].weights, detector->weights,
				   sizeof(proofs[i].weights)) == 0)
			return true;
	return false;
}

static void
note_proof(const AvcDetector *detector)
{
	Proof	   *proof = &proofs[next_proof];

	if (is_proven(detector))
		return;
	proof->connection = avc_service_connection(detector->service);
	memcpy(proof->weights, detector->weights, sizeof(proof->weights));
	next_proof = (next_proof + 1) % lengthof(proofs);
}

/* ---- requests -------------------------------------------------------- */

/* The size of the picture; false with a status if it is none. */
static bool
read_size(const bytea *image, EngJpegInfo *info, EngStatus *status)
{
	memset(status, 0, sizeof(*status));
	return eng_jpeg_read_header(info, (const uint8 *) VARDATA_ANY(image),
								VARSIZE_ANY_EXHDR(image), status);
}

static int64
send_image(const AvcDetector *detector, const bytea *image,
		   const EngJpegInfo *info, bool is_ahead)
{
	char	   *members = psprintf("\"weights\": \"%s\", \"width\": %d, \"height\": %d%s",
								   detector->weights, info->width,
								   info->height,
								   is_ahead ? ", \"ahead\": true" : "");
	int64		id = avc_service_send(detector->service, ENG_KIND_DETECT,
									  members, VARDATA_ANY(image),
									  VARSIZE_ANY_EXHDR(image));

	pfree(members);
	return id;
}

/*
 * The weights, which must be what was recorded.  Others wait for them: if they
 * cannot be read, the end of the connection tells the worker to ask another.
 */
static AvcFileImage
read_weights(const AvcDetector *detector)
{
	AvcFileImage file;

	PG_TRY();
	{
		file = avc_checkpoint_read(detector->checkpoint, false);
		if (strcmp(avc_weights_sha256(avc_tensor_file_open(file.data, file.len)),
				   detector->sha256) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the tensors of checkpoint " INT64_FORMAT " do not match their SHA-256",
							detector->checkpoint),
					 errhint("See avcurate.verify_checkpoint().")));
	}
	PG_CATCH();
	{
		avc_service_close(detector->service);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return file;
}

/* Give the engine the weights. */
static Outcome
load_weights(const AvcDetector *detector, Failure *failure)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "avcurate weights",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	AvcFileImage file = read_weights(detector);
	AvcFrame   *frame;
	Outcome		outcome;
	int64		id;

	id = avc_service_send(detector->service, ENG_KIND_LOAD,
						  psprintf("\"weights\": \"%s\", %s",
								   detector->weights, detector->network),
						  file.data, file.len);
	MemoryContextSwitchTo(old);
	outcome = receive(detector->service, id, &frame, failure);
	if (frame != NULL)
		MemoryContextDelete(frame->context);
	MemoryContextDelete(context);
	return outcome;
}

/* Ask until there is an answer that counts. */
static AvcFrame *
ask(const AvcDetector *detector, const bytea *image, const EngJpegInfo *info)
{
	AvcFrame   *frame = NULL;
	Failure		failure;
	int			tries;

	for (tries = 0; tries < MAX_TRIES; tries++)
	{
		Outcome		outcome = receive(detector->service,
									  send_image(detector, image, info,
												 false),
									  &frame, &failure);

		if (outcome == NOT_LOADED)
			outcome = load_weights(detector, &failure);
		if (outcome == FAILED)
			raise_failure(detector, &failure);
		if (frame != NULL)
			return frame;
		CHECK_FOR_INTERRUPTS();
	}
	ereport(ERROR,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 errmsg("shared engine went away %d times", tries),
			 errhint("The server log may tell why.")));
	return NULL;
}

/* Copy the detections of a frame to where the answers are; frees it. */
static AvcDetections
keep(AvcFrame *frame, const EngJpegInfo *info)
{
	AvcDetections detections = {info->width, info->height, 0, NULL};

	if (frame->blob_len % ENG_PROTOCOL_DETECTION != 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the engine's detections do not have the form agreed on")));
	detections.count = frame->blob_len / ENG_PROTOCOL_DETECTION;
	if (detections.count > 0)
	{
		AvcDetection *copy = MemoryContextAlloc(answers_context,
												frame->blob_len);

		memcpy(copy, frame->blob, frame->blob_len);
		detections.found = copy;
	}
	MemoryContextDelete(frame->context);
	return detections;
}

/*
 * Wait for the oldest image under way.  If it came to nothing, it is as if it
 * had not been sent: who wants its answer asks and gets the error.
 */
static Outcome
settle_oldest(void)
{
	Answer	   *answer = dlist_head_element(Answer, node, &ahead);
	EngJpegInfo info = {answer->detections.width, answer->detections.height};
	AvcFrame   *frame;
	Failure		failure;
	Outcome		outcome;

	outcome = receive(answer->service, answer->id, &frame, &failure);
	if (outcome != ANSWERED)
	{
		remove_answer(answer);
		return outcome;
	}
	answer->detections = keep(frame, &info);
	answer->id = 0;
	dlist_delete(&answer->node);
	ahead_count--;
	return outcome;
}

AvcDetections
avc_detections_of(const AvcDetector *detector, const bytea *image)
{
	AnswerKey	key;
	Answer	   *answer;
	EngJpegInfo info;
	EngStatus	status;
	AvcDetections detections;

	open_answers();
	make_key(&key, detector, image);
	answer = hash_search(answers, &key, HASH_FIND, NULL);
	/* it has the answer, or none comes and it is taken out */
	while (answer != NULL && answer->id != 0)
	{
		(void) settle_oldest();
		answer = hash_search(answers, &key, HASH_FIND, NULL);
	}
	if (answer != NULL)
		return answer->detections;

	if (!read_size(image, &info, &status))
		avc_raise_status(&status);
	if (hash_get_num_entries(answers) >= MAX_ANSWERS)
	{
		forget_answers();
		open_answers();
	}
	detections = keep(ask(detector, image, &info), &info);
	note_proof(detector);
	add_answer(&key, detector, 0, detections);
	return detections;
}

void
avc_detections_settle(void)
{
	while (ahead_count > 0)
		(void) settle_oldest();
}

void
avc_detections_ahead(const AvcDetector *detector, const bytea *image)
{
	AnswerKey	key;
	EngJpegInfo info;
	EngStatus	status;
	int64		id;

	if (!is_proven(detector))
	{
		/* the first one sees to it that the weights are loaded */
		(void) avc_detections_of(detector, image);
		return;
	}
	open_answers();
	if (hash_get_num_entries(answers) >= MAX_ANSWERS ||
		!read_size(image, &info, &status))
		return;
	make_key(&key, detector, image);
	if (hash_search(answers, &key, HASH_FIND, NULL) != NULL)
		return;
	while (ahead_count >= MAX_AHEAD)
		(void) settle_oldest();
	id = send_image(detector, image, &info, true);
	add_answer(&key, detector, id,
			   (AvcDetections) {info.width, info.height, 0, NULL});
}
