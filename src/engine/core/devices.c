/*
 * engine/core/devices.c
 *		Names of devices, and whether this machine seems to have a GPU.
 */
#include "engine/core/devices.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_DIGITS	4			/* of N in cuda:N */

#define ALL			"cuda:all"

bool
eng_device_is_list(const char *name)
{
	return strcmp(name, ALL) == 0 ||
		(strncmp(name, "cuda:", 5) == 0 && strchr(name, ',') != NULL);
}

/* A number at the start of a text, without leading zeros; -1: none. */
static int
read_number(const char **at)
{
	size_t		digits = strspn(*at, "0123456789");
	int			number = 0;
	size_t		i;

	if (digits == 0 || digits > MAX_DIGITS || (digits > 1 && **at == '0'))
		return -1;
	for (i = 0; i < digits; i++)
		number = 10 * number + ((*at)[i] - '0');
	*at += digits;
	return number;
}

int
eng_device_list(const char *name, EngDeviceName devices[ENG_MOST_DEVICES])
{
	int			count = 0;

	if (strncmp(name, "cuda:", 5) != 0)
		return 0;
	name += 4;
	while (*name != '\0')
	{
		EngDeviceName device;
		int			number;
		int			i;

		name++;
		number = read_number(&name);
		if (number < 0 || (*name != ',' && *name != '\0') ||
			count == ENG_MOST_DEVICES)
			return 0;
		snprintf(device, sizeof(device), "cuda:%d", number);
		for (i = 0; i < count; i++)
			if (strcmp(devices[i], device) == 0)
				return 0;
		memcpy(devices[count++], device, sizeof(device));
	}
	return count;
}

bool
eng_device_is_known(const char *name)
{
	EngDeviceName devices[ENG_MOST_DEVICES];
	static const char *const known[] = {"auto", "cpu", "ref", "cuda"};
	size_t		i;

	for (i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(name, known[i]) == 0)
			return true;
	if (strncmp(name, "cuda:", 5) != 0)
		return false;
	if (eng_device_is_list(name))
		return strcmp(name, ALL) == 0 || eng_device_list(name, devices) > 0;
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
