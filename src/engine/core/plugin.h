/*
 * engine/core/plugin.h
 *		A backend in a library of its own, opened at run time.
 *
 * The library exports one symbol, avcurate_cuda_plugin, an EngPlugin.  It has
 * copies of the engine's functions that it uses; what both must agree on is
 * in the version, which counts changes of the structures that cross.
 */
#ifndef ENG_CORE_PLUGIN_H
#define ENG_CORE_PLUGIN_H

#include "engine/core/backend.h"

#define ENG_PLUGIN_SYMBOL	"avcurate_cuda_plugin"

typedef struct EngPlugin
{
	uint32_t	version;		/* ENG_BACKEND_VERSION */
	uint32_t	size;			/* of EngBackend, against another compiler's */
	/* status says why where it is NULL; -1: the first device that can */
	EngBackend *(*open) (int device, int threads, EngStatus *status);
	/* plans alone, for the properties of a device; may be NULL */
	EngBackend *(*plan) (const char *properties, EngStatus *status);
	/* devices of this machine; 0: none, status says why */
	int			(*count) (EngStatus *status);
} EngPlugin;

/* How many GPUs there are; 0: status says why none. */
extern int	eng_plugin_count(EngStatus *status);

/*
 * "cuda" or "cuda:N".  The library is looked for where AVC_CUDA_PLUGIN says,
 * else beside the program and in the folder that it was built for.
 */
extern EngBackend *eng_plugin_open(const char *name, int threads,
								   EngStatus *status);

/* A backend that plans for the device whose properties are in a file. */
extern EngBackend *eng_plugin_plan(const char *path, EngStatus *status);

#endif
