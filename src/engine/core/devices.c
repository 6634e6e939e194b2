/*
 * engine/core/devices.c
 *		Names of devices, and whether this machine seems to have a GPU.
 */
#include "engine/core/devices.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_DIGITS	4			/* of N in cuda:N */

bool
eng_device_is_known(const char *name)
{
	static const char *const known[] = {"auto", "cpu", "ref", "cuda"};
	size_t		i;

	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(name, known[i]) == 0)
			return true;
	if (strncmp(name, "cuda:", 5) != 0)
		return false;
	name += 5;
	return *name != '\0' && strlen(name) <= MAX_DIGITS &&
		strspn(name, "0123456789") == strlen(name);
}

bool
eng_device_gpu_seen(void)
{
	/* the driver's, and that of Linux under Windows */
	static const char *const files[] = {
		"/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg"
	};
	const char *plugin = getenv("AVC_CUDA_PLUGIN");
	size_t		i;

	if (plugin != NULL && plugin[0] != '\0')
		return true;
	for (i = 0; i < sizeof(files) / sizeof(files[0]); i++)
		if (access(files[i], F_OK) == 0)
			return true;
	return false;
}
