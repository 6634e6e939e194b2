/*
 * engine/nets/clip_match.h
 *		Where the parameters of a CLIP network are in a file of weights.
 */
#ifndef ENG_NETS_CLIP_MATCH_H
#define ENG_NETS_CLIP_MATCH_H

#include "engine/core/parameters.h"
#include "engine/io/safetensors.h"

#define ENG_CLIP_PARTS		3	/* a tensor may lie in three: q, k and v */
#define ENG_CLIP_NAME		192 /* bytes of a name */

/* What one parameter is made of, one after another along its rows. */
typedef struct EngClipSource
{
	char		names[ENG_CLIP_PARTS][ENG_CLIP_NAME];
	int32_t		parts;
	bool		turned;			/* rows and columns exchanged */
} EngClipSource;

typedef struct EngClipMatch
{
	const EngParameters *parameters;
	const EngTensorFile *file;
	bool		hugging_face;	/* its names, else OpenAI's */
	char		prefix[64];		/* what wrappers put before every name */
	const EngFileTensor **found;	/* ENG_CLIP_PARTS for each parameter */
	bool	   *used;			/* one a tensor of the file */
	int32_t		unused;
} EngClipMatch;

/*
 * Find all parameters, or fail naming what is missing, unexpected or of
 * another shape.  Give the match back in any case.
 */
extern bool eng_clip_match(EngClipMatch *match,
						   const EngParameters *parameters,
						   const EngTensorFile *file, EngStatus *status);
extern void eng_clip_match_free(EngClipMatch *match);

/* The names under which a parameter is looked for. */
extern EngClipSource eng_clip_source(const EngClipMatch *match,
									 const char *name);

#endif
