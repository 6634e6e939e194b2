/*
 * test/emulated/other.c
 *		A GPU backend of another version of avcurate, which must be refused.
 */
#include "engine/core/plugin.h"

const EngPlugin avcurate_cuda_plugin = {
	ENG_BACKEND_VERSION + 1, sizeof(EngBackend), NULL
};
