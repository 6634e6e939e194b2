/*
 * engine/nets/detector_match.h
 *		A file of weights beside the network that it is for.
 */
#ifndef ENG_NETS_DETECTOR_MATCH_H
#define ENG_NETS_DETECTOR_MATCH_H

#include "engine/core/parameters.h"
#include "engine/io/safetensors.h"
#include "engine/nets/detector.h"

#define ENG_MATCH_PREFIX	64	/* bytes before every name of a file */

typedef struct EngMatch
{
	const EngParameters *parameters;
	const EngTensorFile *file;
	char		prefix[ENG_MATCH_PREFIX];
	bool		backbone_only;	/* the file is a classification network's */
	const EngFileTensor **found;	/* one a parameter; NULL: not in the file,
									 * or not to be taken */
	bool	   *used;			/* one a tensor of the file */
	const char **missing;		/* counters left out: they have a default */
	const EngParameter **misshapen;
	const char **unexpected;
	int32_t		missing_count;
	int32_t		misshapen_count;
	int32_t		unexpected_count;
	bool		old_names;
} EngMatch;

/*
 * Find each parameter in the file, and what the file has beside them.
 * Strict: an error that names what does not fit, up to some dozen names and
 * the number of the rest.  Give the match back in any case.
 */
extern bool eng_weights_match(EngMatch *match, const EngParameters *parameters,
							  const EngTensorFile *file,
							  const EngLoadOptions *options,
							  EngStatus *status);
extern void eng_weights_match_free(EngMatch *match);

/* Whether the tensor has the parameter's shape. */
extern bool eng_weights_match_shape(const EngFileTensor *tensor,
									const EngParameter *p);

/* Tensors of an optimizer have names that begin so. */
#define ENG_OPTIMIZER_PREFIX	"optimizer."

#endif
