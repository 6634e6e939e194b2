/*
 * engine/optim/optimizer.c
 *		One step of SGD or AdamW over all trained parameters.
 */
#include "engine/optim/optimizer.h"

#include <math.h>

#include "engine/core/ranks.h"

void
eng_optimizer_config_default(EngOptimizerConfig *config)
{
	*config = (EngOptimizerConfig)
	{
		.kind = ENG_OPTIMIZER_SGD,
		.momentum = 0.9f,
		.beta1 = 0.9f,
		.beta2 = 0.999f,
		.eps = 1e-8f,
		.weight_decay = 1e-4f,
		.clip_norm = 10,
		.trainable_layers = 5
	};
}

bool
eng_optimizer_check(const EngOptimizerConfig *c, EngStatus *status)
{
	if (!(c->momentum >= 0 && c->momentum < 1))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"momentum must be at least 0 and less than 1");
	if (!(c->beta1 >= 0 && c->beta1 < 1 && c->beta2 >= 0 && c->beta2 < 1))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"betas must be at least 0 and less than 1");
	if (!(c->eps > 0 && isfinite(c->eps)))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"eps must be greater than 0");
	if (!(c->weight_decay >= 0 && isfinite(c->weight_decay)))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"weight_decay must not be negative");
	if (!(c->clip_norm >= 0 && isfinite(c->clip_norm)))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"clip_norm must not be negative");
	if (c->trainable_layers < 0 || c->trainable_layers > 5)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"trainable_layers must be 0 to 5, not %d",
						c->trainable_layers);
	return true;
}

/*
 * The last trainable_layers stages of the body train; all five of them take
 * the stem's norm along.  What is no part of the body always trains.
 */
void
eng_optimizer_select(EngParameters *parameters,
					 const EngOptimizerConfig *config)
{
	int32_t		i;

	for (i = 0; i < parameters->count; i++)
	{
		EngParameter *p = &parameters->list[i];

		p->trainable = !p->is_buffer &&
			(p->body_stage < 0 ||
			 p->body_stage >= 5 - config->trainable_layers) &&
			!(config->freeze_norm && p->is_norm);
	}
}

int
eng_optimizer_slots(EngOptimizerKind kind)
{
	return kind == ENG_OPTIMIZER_ADAMW ? 2 : 1;
}

const char *
eng_optimizer_slot_name(EngOptimizerKind kind, int slot)
{
	if (kind == ENG_OPTIMIZER_SGD)
		return "momentum";
	return slot == 0 ? "exp_avg" : "exp_avg_sq";
}

void
eng_optimizer_share(EngBackend *backend, const EngParameters *parameters)
{
	if (eng_backend_is_rank(backend))
		backend->all_reduce(backend, parameters->run.gradients,
							parameters->trained, ENG_SUM_F32);
}

double
eng_optimizer_norm(EngBackend *backend, const EngParameters *parameters)
{
	return sqrt(backend->square_sum(backend, parameters->run.gradients,
									parameters->trained));
}

/* Whether two neighbours are one to the optimizer. */
static bool
joins(const EngParameter *a, const EngParameter *b,
	  const EngOptimizerConfig *config)
{
	return a->trainable && b->trainable && !b->is_buffer &&
		b->offset > a->offset &&
		(!config->decay_matrices_only || (a->rank < 2) == (b->rank < 2));
}

/*
 * Run an update over all trained parameters: neighbours in one piece, with
 * the zeros that lie between them, which stay zero.
 */
static void
update_all(EngBackend *backend, EngParameters *parameters,
		   const EngOptimizerConfig *config, EngUpdate *update)
{
	const EngRunArrays *run = &parameters->run;
	int32_t		i;
	int32_t		last;

	for (i = 0; i < parameters->count; i = last + 1)
	{
		const EngParameter *p = &parameters->list[i];

		last = i;
		if (!p->trainable)
			continue;
		while (last + 1 < parameters->count &&
			   joins(&parameters->list[last], &parameters->list[last + 1],
					 config))
			last++;
		update->value = run->values + p->offset;
		update->gradient = run->gradients + p->offset;
		update->slot0 = run->slots[0] + p->offset;
		update->slot1 = run->slots[1] == NULL ? NULL :
			run->slots[1] + p->offset;
		update->count = parameters->list[last].offset +
			parameters->list[last].count - p->offset;
		update->weight_decay = config->decay_matrices_only && p->rank < 2 ?
			0 : config->weight_decay;
		if (config->kind == ENG_OPTIMIZER_ADAMW)
			backend->update_adamw(backend, update);
		else
			backend->update_sgd(backend, update);
	}
}

static EngUpdate
first_update(const EngOptimizerConfig *config, float lr, int64_t count)
{
	EngUpdate	update = {
		.scale = 1, .lr = lr, .momentum = config->momentum,
		.beta1 = config->beta1, .beta2 = config->beta2, .eps = config->eps
	};

	update.correction1 = 1 - pow(config->beta1, (double) (count + 1));
	update.correction2 = 1 - pow(config->beta2, (double) (count + 1));
	return update;
}

void
eng_optimizer_step(EngBackend *backend, EngParameters *parameters,
				   const EngOptimizerConfig *config, float lr,
				   int64_t count, double norm)
{
	EngUpdate	update = first_update(config, lr, count);

	if (config->clip_norm > 0 && norm + 1e-6 > config->clip_norm)
		update.scale = (float) (config->clip_norm / (norm + 1e-6));
	update_all(backend, parameters, config, &update);
}

bool
eng_optimizer_step_device(EngBackend *backend, EngParameters *parameters,
						  const EngOptimizerConfig *config,
						  const EngDeviceStep *step, EngStepOutcome *outcome,
						  EngStatus *status)
{
	EngUpdate	update = first_update(config, step->lr, step->count);
	EngStepControl control = {
		.lr = step->lr, .clip_norm = config->clip_norm,
		.correction1 = update.correction1,
		.correction2 = update.correction2
	};

	if (!backend->step_begin(backend, &control, status))
		return false;
	backend->step_norm(backend, parameters->run.gradients,
					   parameters->trained);
	if (!step->no_update)
		update_all(backend, parameters, config, &update);
	return backend->step_end(backend, outcome, status);
}
