/*
 * models/network.h
 *		A checkpoint that the shared engine is asked about one thing.
 */
#ifndef AVC_MODELS_NETWORK_H
#define AVC_MODELS_NETWORK_H

#include "fmgr.h"

#include "common/engine_service.h"
#include "models/checkpoint.h"

/* A checkpoint ready to be asked; the current user may use it. */
typedef struct AvcNetwork
{
	MemoryContext context;		/* its own */
	int64		checkpoint;
	Oid			user;			/* whose right was checked */
	AvcService *service;
	char		device[AVC_SERVICE_DEVICE];
	char	   *weights;		/* name for the shared engine, 64 hex digits */
	char	   *sha256;			/* of the stored tensors */
	char	   *load;			/* members of LOAD that describe it */
} AvcNetwork;

/* What is asked: an image, or the tokens of a text. */
typedef struct AvcQuestion
{
	uint16		kind;			/* ENG_KIND_DETECT, ENG_KIND_EMBED_... */
	int			width;			/* of an image to detect in, pixels; else 0 */
	int			height;
	const void *data;
	size_t		len;
} AvcQuestion;

/* The engine's numbers, as it sent them. */
typedef struct AvcAnswer
{
	const void *data;
	size_t		len;
} AvcAnswer;

/* ---- network.c ---- */

/*
 * Fill in a network of a checkpoint; the current memory context becomes its
 * own.  Error if the current user may not use the model.
 */
extern void avc_network_open(AvcNetwork *network,
							 const AvcCheckpoint *checkpoint);

/*
 * The network of a call site (fn_extra), looked up anew where it does not
 * serve any more.  make() is called in the network's own memory context; its
 * result may be the first member of something larger.
 */
extern AvcNetwork *avc_network_of_call(FunctionCallInfo fcinfo,
									   int64 checkpoint,
									   AvcNetwork *(*make) (const AvcCheckpoint *checkpoint));

/* ---- answers.c ---- */

/*
 * Ask, or find what was asked before in this transaction.  The answer lives
 * until its end or the next call.
 */
extern AvcAnswer avc_network_ask(const AvcNetwork *network,
								 const AvcQuestion *question);

/*
 * Send a question ahead, so that a later avc_network_ask finds the answer
 * there.  What goes wrong is left to that call.
 */
extern void avc_network_ask_ahead(const AvcNetwork *network,
								  const AvcQuestion *question);

/* Wait for the answers of all that was sent ahead for this transaction. */
extern void avc_network_settle(void);

/*
 * What is sent ahead from now on is for the next transaction: the commit of
 * this one leaves it under way.
 */
extern void avc_network_next(void);

#endif
