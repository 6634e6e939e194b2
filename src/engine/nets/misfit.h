/*
 * engine/nets/misfit.h
 *		What of a file of weights does not fit a network, in words.
 */
#ifndef ENG_NETS_MISFIT_H
#define ENG_NETS_MISFIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/status.h"

#define ENG_MISFIT_BYTES	1100	/* shown of each kind */

typedef enum EngMisfitKind
{
	ENG_MISFIT_MISSING = 0,
	ENG_MISFIT_UNEXPECTED,
	ENG_MISFIT_MISSHAPEN,
	ENG_MISFIT_KINDS			/* their number */
} EngMisfitKind;

/* All zero: everything fits. */
typedef struct EngMisfits
{
	int32_t		count[ENG_MISFIT_KINDS];
	int32_t		shown[ENG_MISFIT_KINDS];	/* names in the text */
	bool		full[ENG_MISFIT_KINDS]; /* the rest is counted only */
	char		text[ENG_MISFIT_KINDS][ENG_MISFIT_BYTES];
} EngMisfits;

/* A tensor that is missing or unexpected. */
extern void eng_misfit_name(EngMisfits *misfits, EngMisfitKind kind,
							const char *name);

typedef struct EngMisfitShape
{
	const int64_t *shape;
	int32_t		rank;
} EngMisfitShape;

/* A tensor of another shape than ours. */
extern void eng_misfit_shape(EngMisfits *misfits, const char *name,
							 EngMisfitShape theirs, EngMisfitShape ours);

/*
 * True: everything fits.  Else an error (bad file) that names up to some
 * dozen tensors of each kind and the number of the rest, and ends with hint.
 */
extern bool eng_misfit_report(const EngMisfits *misfits, const char *hint,
							  EngStatus *status);

#endif
