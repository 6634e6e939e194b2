/*
 * engine/optim/optimizer.h
 *		One step of SGD or AdamW over all trained parameters.
 */
#ifndef ENG_OPTIM_OPTIMIZER_H
#define ENG_OPTIM_OPTIMIZER_H

#include "engine/core/backend.h"
#include "engine/core/parameters.h"
#include "engine/nets/detector.h"

/* Set which parameters train, from trainable_layers and freeze_norm. */
extern void eng_optimizer_select(EngParameters *parameters,
								 const EngOptimizerConfig *config);

/* Slots that this kind of optimizer keeps a parameter. */
extern int	eng_optimizer_slots(EngOptimizerKind kind);
/* "momentum", "exp_avg", "exp_avg_sq": slot in names of saved tensors */
extern const char *eng_optimizer_slot_name(EngOptimizerKind kind, int slot);

extern bool eng_optimizer_check(const EngOptimizerConfig *config,
								EngStatus *status);

/* The gradients of all ranks, summed, on each of them; alone they stay. */
extern void eng_optimizer_share(EngBackend *backend,
								const EngParameters *parameters);

/* Global L2 norm of the gradients. */
extern double eng_optimizer_norm(EngBackend *backend,
								 const EngParameters *parameters);

/*
 * Clip and step.  count: updates made before this one (Adam's correction);
 * norm: of the gradients.
 */
extern void eng_optimizer_step(EngBackend *backend,
							   EngParameters *parameters,
							   const EngOptimizerConfig *config, float lr,
							   int64_t count, double norm);

/*
 * The same on a device: norm, clip and step without a look at the norm in
 * between; *outcome tells what came of it.
 */
typedef struct EngDeviceStep
{
	float		lr;
	int64_t		count;			/* as above */
	bool		no_update;		/* the norm alone */
} EngDeviceStep;

extern bool eng_optimizer_step_device(EngBackend *backend,
									  EngParameters *parameters,
									  const EngOptimizerConfig *config,
									  const EngDeviceStep *step,
									  EngStepOutcome *outcome,
									  EngStatus *status);

#endif
