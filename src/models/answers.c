/*
 * models/answers.c
 *		Ask the shared engine about images and texts, one by one or ahead.
 *
 * Answers are kept until the end of the transaction under the SHA-256 of what
 * was asked about and the name of the network, so two features of one image
 * cost one inference, and images that were sent ahead are batched by the
 * engine while the statement that wants their answers has not come to them
 * yet.
 *
 * What is sent ahead for the next transaction outlives the commit of this one,
 * so that the engine has work meanwhile; it is forgotten at the next commit
 * unless it is sent again.  Who asks has the right to the network then, and an
 * answer depends on nothing but network and question.
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
#include "models/model.h"
#include "models/network.h"

#define MAX_ANSWERS		4096	/* kept; 10 MB where each has 100 detections */
/*
 * Requests under way: one batch computes, one is decoded, and what is sent
 * meanwhile should make a whole third one (engine_broker.h).
 */
#define MAX_AHEAD		32
#define MAX_AHEAD_EMBED	96
#define MAX_TRIES		6		/* of one thing, while engines come and go */

typedef struct AnswerKey
{
	uint8		data[PG_SHA256_DIGEST_LENGTH];
	char		weights[2 * PG_SHA256_DIGEST_LENGTH];
	uint32		kind;			/* of the question */
} AnswerKey;

typedef struct Answer
{
	AnswerKey	key;
	dlist_node	node;			/* in "ahead" while it is under way */
	AvcService *service;
	uint32		round;			/* that it was last sent or wanted in */
	int64		id;				/* of the request, 0 = answered */
	AvcAnswer	answer;
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

static HTAB *answers = NULL;	/* in TopMemoryContext */
static MemoryContext answers_context = NULL;
static dlist_head ahead = DLIST_STATIC_INIT(ahead);
static int	ahead_count = 0;

/*
 * Rounds of sending ahead.  With is_next those of the present one are for the
 * next transaction; those before it are for this one.
 */
static uint32 present_round = 0;
static bool is_next = false;

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
remove_answer(Answer *answer)
{
	AnswerKey	key = answer->key;

	if (answer->id != 0)
	{
		dlist_delete(&answer->node);
		ahead_count--;
	}
	else if (answer->answer.data != NULL)
		pfree(unconstify(void *, answer->answer.data));
	(void) hash_search(answers, &key, HASH_REMOVE, NULL);
}

/* Is it of a round that is over, and nothing that is under way? */
static bool
is_over(const Answer *answer)
{
	return answer->id == 0 && answer->round != present_round;
}

static void
forget_those_over(void)
{
	HASH_SEQ_STATUS scan;
	Answer	   *answer;

	hash_seq_init(&scan, answers);
	while ((answer = hash_seq_search(&scan)) != NULL)
		if (is_over(answer))
			remove_answer(answer);
}

/* What is under way is left to be waited for in the next transaction. */
static void
end_of_commit(void)
{
	if (answers == NULL)
		return;
	if (is_next)
		forget_those_over();
	else
		forget_answers();
}

static void
end_of_transaction(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			return;
		case XACT_EVENT_COMMIT:
			end_of_commit();
			break;
		default:
			forget_answers();
	}
	is_next = false;
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
	answers_context = AllocSetContextCreate(TopMemoryContext,
											"avcurate answers",
											ALLOCSET_DEFAULT_SIZES);
	control.keysize = sizeof(AnswerKey);
	control.entrysize = sizeof(Answer);
	control.hcxt = answers_context;
	answers = hash_create("avcurate answers", 256, &control,
						  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static void
make_key(AnswerKey *key, const AvcNetwork *network,
		 const AvcQuestion *question)
{
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);

	if (hash == NULL || pg_cryptohash_init(hash) < 0 ||
		pg_cryptohash_update(hash, question->data, question->len) < 0 ||
		pg_cryptohash_final(hash, key->data, sizeof(key->data)) < 0)
		elog(ERROR, "could not compute a SHA-256");
	pg_cryptohash_free(hash);
	memcpy(key->weights, network->weights, sizeof(key->weights));
	key->kind = question->kind;
}

/* Enter what is known; id is that of the request, 0 = answered. */
static void
add_answer(const AnswerKey *key, const AvcNetwork *network, int64 id,
		   AvcAnswer known)
{
	Answer	   *answer = hash_search(answers, key, HASH_ENTER, NULL);

	answer->service = network->service;
	answer->round = present_round;
	answer->id = id;
	answer->answer = known;
	if (id != 0)
	{
		dlist_push_tail(&ahead, &answer->node);
		ahead_count++;
	}
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
raise_failure(const AvcNetwork *network, const Failure *failure)
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
			 errdetail("Checkpoint " INT64_FORMAT ".", network->checkpoint),
			 hint != NULL ? errhint("%s", hint) : 0));
}

static bool
is_proven(const AvcNetwork *network)
{
	int64		connection = avc_service_connection(network->service);
	int			i;

	for (i = 0; i < lengthof(proofs); i++)
		if (connection != 0 && proofs[i].connection == connection &&
			memcmp(proofs[i].weights, network->weights,
				   sizeof(proofs[i].weights)) == 0)
			return true;
	return false;
}

static void
note_proof(const AvcNetwork *network)
{
	Proof	   *proof = &proofs[next_proof];

	if (is_proven(network))
		return;
	proof->connection = avc_service_connection(network->service);
	memcpy(proof->weights, network->weights, sizeof(proof->weights));
	next_proof = (next_proof + 1) % lengthof(proofs);
}

/* ---- requests -------------------------------------------------------- */

static int64
send_question(const AvcNetwork *network, const AvcQuestion *question,
			  bool is_ahead)
{
	char	   *size = question->width == 0 ? "" :
	psprintf(", \"width\": %d, \"height\": %d", question->width,
			 question->height);
	char	   *members = psprintf("\"weights\": \"%s\"%s%s",
								   network->weights, size,
								   is_ahead ? ", \"ahead\": true" : "");
	int64		id = avc_service_send(network->service, question->kind,
									  members, question->data, question->len);

	pfree(members);
	return id;
}

/*
 * The weights, which must be what was recorded.  Others wait for them: if they
 * cannot be read, the end of the connection tells the worker to ask another.
 */
static AvcFileImage
read_weights(const AvcNetwork *network)
{
	AvcFileImage file;

	PG_TRY();
	{
		file = avc_checkpoint_read(network->checkpoint, false);
		if (strcmp(avc_weights_sha256(avc_tensor_file_open(file.data, file.len)),
				   network->sha256) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the tensors of checkpoint " INT64_FORMAT " do not match their SHA-256",
							network->checkpoint),
					 errhint("See avcurate.verify_checkpoint().")));
	}
	PG_CATCH();
	{
		avc_service_close(network->service);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return file;
}

/* Give the engine the weights. */
static Outcome
load_weights(const AvcNetwork *network, Failure *failure)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "avcurate weights",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	AvcFileImage file = read_weights(network);
	AvcFrame   *frame;
	Outcome		outcome;
	int64		id;

	id = avc_service_send(network->service, ENG_KIND_LOAD,
						  psprintf("\"weights\": \"%s\", %s",
								   network->weights, network->load),
						  file.data, file.len);
	MemoryContextSwitchTo(old);
	outcome = receive(network->service, id, &frame, failure);
	if (frame != NULL)
		MemoryContextDelete(frame->context);
	MemoryContextDelete(context);
	return outcome;
}

/* Ask until there is an answer that counts. */
static AvcFrame *
ask(const AvcNetwork *network, const AvcQuestion *question)
{
	AvcFrame   *frame = NULL;
	Failure		failure;
	int			tries;

	for (tries = 0; tries < MAX_TRIES; tries++)
	{
		Outcome		outcome = receive(network->service,
									  send_question(network, question, false),
									  &frame, &failure);

		if (outcome == NOT_LOADED)
			outcome = load_weights(network, &failure);
		if (outcome == FAILED)
			raise_failure(network, &failure);
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

/* Copy what a frame says to where the answers are; frees it. */
static AvcAnswer
keep(AvcFrame *frame)
{
	AvcAnswer	answer = {NULL, frame->blob_len};

	if (answer.len > 0)
	{
		char	   *copy = MemoryContextAlloc(answers_context, answer.len);

		memcpy(copy, frame->blob, answer.len);
		answer.data = copy;
	}
	MemoryContextDelete(frame->context);
	return answer;
}

/*
 * Wait for the oldest question under way.  If it came to nothing, it is as if
 * it had not been sent: who wants its answer asks and gets the error.
 */
static void
settle_oldest(void)
{
	Answer	   *answer = dlist_head_element(Answer, node, &ahead);
	AvcFrame   *frame;
	Failure		failure;

	if (receive(answer->service, answer->id, &frame, &failure) != ANSWERED)
	{
		remove_answer(answer);
		return;
	}
	answer->answer = keep(frame);
	answer->id = 0;
	dlist_delete(&answer->node);
	ahead_count--;
}

AvcAnswer
avc_network_ask(const AvcNetwork *network, const AvcQuestion *question)
{
	AnswerKey	key;
	Answer	   *answer;
	AvcAnswer	result;

	open_answers();
	make_key(&key, network, question);
	answer = hash_search(answers, &key, HASH_FIND, NULL);
	/* it has the answer, or none comes and it is taken out */
	while (answer != NULL && answer->id != 0)
	{
		settle_oldest();
		answer = hash_search(answers, &key, HASH_FIND, NULL);
	}
	if (answer != NULL)
		return answer->answer;

	if (hash_get_num_entries(answers) >= MAX_ANSWERS)
		forget_those_over();
	if (hash_get_num_entries(answers) >= MAX_ANSWERS)
	{
		forget_answers();
		open_answers();
	}
	result = keep(ask(network, question));
	note_proof(network);
	add_answer(&key, network, 0, result);
	return result;
}

/* Is a question under way whose answer this transaction wants? */
static bool
is_any_wanted(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &ahead)
	{
		if (!is_next ||
			dlist_container(Answer, node, iter.cur)->round != present_round)
			return true;
	}
	return false;
}

void
avc_network_settle(void)
{
	while (is_any_wanted())
		settle_oldest();
}

void
avc_network_next(void)
{
	present_round++;
	is_next = true;
}

/* Is there an answer, or one under way?  It belongs to this round, then. */
static bool
is_sent(const AnswerKey *key)
{
	Answer	   *answer = hash_search(answers, key, HASH_FIND, NULL);

	if (answer == NULL)
		return false;
	answer->round = present_round;
	return true;
}

/* Room for one more under way; no wait for what the next transaction wants. */
static bool
make_room_ahead(const AvcQuestion *question)
{
	int			most = question->kind == ENG_KIND_DETECT ? MAX_AHEAD :
	MAX_AHEAD_EMBED;

	while (ahead_count >= most && is_any_wanted())
		settle_oldest();
	return ahead_count < most;
}

void
avc_network_ask_ahead(const AvcNetwork *network, const AvcQuestion *question)
{
	AnswerKey	key;

	if (!is_proven(network))
	{
		/* the first one sees to it that the weights are loaded */
		(void) avc_network_ask(network, question);
		return;
	}
	open_answers();
	make_key(&key, network, question);
	if (is_sent(&key))
		return;
	if (hash_get_num_entries(answers) >= MAX_ANSWERS)
		forget_those_over();
	if (hash_get_num_entries(answers) >= MAX_ANSWERS ||
		!make_room_ahead(question))
		return;
	add_answer(&key, network, send_question(network, question, true),
			   (AvcAnswer) {NULL, 0});
}
