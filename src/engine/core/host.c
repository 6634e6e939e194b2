/*
 * engine/core/host.c
 *		What backends whose memory is the host's have in common.
 */
#include <math.h>
#include <string.h>

#include "engine/core/arena.h"
#include "engine/core/backend.h"

static void *
host_alloc(EngBackend *backend, size_t size)
{
	(void) backend;
	return eng_arena_alloc(size);
}

static void
host_free(EngBackend *backend, void *memory, size_t size)
{
	(void) backend;
	eng_arena_free(memory, size);
}

static bool
host_move(EngBackend *backend, void *to, const void *from, size_t size,
		  EngStatus *status)
{
	(void) backend;
	(void) status;
	memcpy(to, from, size);
	return true;
}

static void
host_copy(EngBackend *backend, void *to, const void *from, size_t size)
{
	(void) backend;
	memcpy(to, from, size);
}

/*
 * w'[o] = w[o] * g[o] / sqrt(var[o] + eps), b'[o] what is left over.
 */
static void
host_fold(EngBackend *backend, const EngFold *f)
{
	int32_t		o;
	int64_t		i;

	(void) backend;
	for (o = 0; o < f->oc; o++)
	{
		float		scale = (float) (f->norm_weight[o] /
									 sqrt((double) f->var[o] + f->eps));

		for (i = 0; i < f->size; i++)
			f->weight[o * f->size + i] = f->from[o * f->size + i] * scale;
		f->bias[o] = f->norm_bias[o] - f->mean[o] * scale +
			(f->from_bias != NULL ? f->from_bias[o] * scale : 0);
	}
}

void
eng_host_operations(EngBackend *backend)
{
	backend->alloc = host_alloc;
	backend->free = host_free;
	backend->upload = host_move;
	backend->download = host_move;
	backend->copy = host_copy;
	backend->fold = host_fold;
}
