/*
 * engine/core/devices.h
 *		Names of devices, and whether this machine seems to have a GPU.
 *
 * The server uses this too, so nothing here loads a library.
 */
#ifndef ENG_CORE_DEVICES_H
#define ENG_CORE_DEVICES_H

#include <stdbool.h>

/* "auto", "cpu", "ref", "cuda" (the first GPU that can) or "cuda:N". */
extern bool eng_device_is_known(const char *name);

/*
 * Whether the driver has made its files, or AVC_CUDA_PLUGIN names a backend:
 * then opening it is worth its time, and a failure worth telling.
 */
extern bool eng_device_gpu_seen(void);

#endif
