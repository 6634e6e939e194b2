/*
 * engine/core/devices.h
 *		Names of devices, and whether this machine seems to have a GPU.
 *
 * The server uses this too, so nothing here loads a library.
 */
#ifndef ENG_CORE_DEVICES_H
#define ENG_CORE_DEVICES_H

#include <stdbool.h>

#define ENG_MOST_DEVICES	16	/* of one job */

typedef char EngDeviceName[12]; /* "cuda:N" */

/*
 * "auto", "cpu", "ref", "cuda" (the first GPU that can), "cuda:N", or several
 * GPUs that work on a job together: "cuda:N,N,...", each number once, and
 * "cuda:all".
 */
extern bool eng_device_is_known(const char *name);

/* Whether it names several devices, or all. */
extern bool eng_device_is_list(const char *name);

/*
 * The devices of a list "cuda:N,N,...", in its order; how many, 0 if the name
 * is none.
 */
extern int	eng_device_list(const char *name,
							EngDeviceName devices[ENG_MOST_DEVICES]);

/*
 * Whether the driver has made its files, or AVC_CUDA_PLUGIN names a backend:
 * then opening it is worth its time, and a failure worth telling.
 */
extern bool eng_device_gpu_seen(void);

#endif
