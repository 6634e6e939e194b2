/*
 * engine/core/plugin.c
 *		A backend in a library of its own, opened at run time.
 *
 * The library stays open for good: it has threads of the driver's.
 */
#include "engine/core/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_NAME	"avcurate_cuda.so"

/*
 * Folder of the running program, or "" if the system does not say.
 */
static void
program_folder(char folder[PATH_MAX])
{
	ssize_t		length = readlink("/proc/self/exe", folder, PATH_MAX - 1);
	char	   *slash;

	folder[length > 0 ? length : 0] = '\0';
	slash = strrchr(folder, '/');
	if (slash != NULL)
		*slash = '\0';
}

/*
 * The library's path: what the environment says, else where it lies.
 */
static bool
find_library(char path[PATH_MAX], EngStatus *status)
{
	const char *given = getenv("AVC_CUDA_PLUGIN");
	char		folder[PATH_MAX];
	const char *places[] = {
		"%s/" FILE_NAME, "%s/../lib/avcurate/" FILE_NAME
	};
	size_t		i;

	if (given != NULL && given[0] != '\0')
	{
		if (strlen(given) >= PATH_MAX)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"AVC_CUDA_PLUGIN is too long");
		strcpy(path, given);
		return true;
	}
	program_folder(folder);
	for (i = 0; i < sizeof(places) / sizeof(places[0]); i++)
		if (snprintf(path, PATH_MAX, places[i], folder) < PATH_MAX &&
			access(path, R_OK) == 0)
			return true;
	return eng_fail(status, ENG_UNSUPPORTED,
					"this installation has no GPU backend: there is no %s beside the program",
					FILE_NAME);
}

static const EngPlugin *
open_library(EngStatus *status)
{
	char		path[PATH_MAX];
	const EngPlugin *plugin;
	void	   *library;

	if (!find_library(path, status))
		return NULL;
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (library == NULL)
	{
		eng_fail(status, ENG_UNSUPPORTED,
				 "could not load the GPU backend: %s", dlerror());
		return NULL;
	}
	plugin = dlsym(library, ENG_PLUGIN_SYMBOL);
	if (plugin == NULL || plugin->version != ENG_BACKEND_VERSION ||
		plugin->size != sizeof(EngBackend))
	{
		eng_fail(status, ENG_UNSUPPORTED,
				 "GPU backend \"%s\" is of another version of avcurate",
				 path);
		dlclose(library);
		return NULL;
	}
	return plugin;
}

EngBackend *
eng_plugin_open(const char *name, int threads, EngStatus *status)
{
	const EngPlugin *plugin;
	long		device = -1;

	if (name[4] == ':')
	{
		char	   *end;

		device = strtol(name + 5, &end, 10);
		if (name[5] < '0' || name[5] > '9' || *end != '\0' || device > 1023)
		{
			eng_fail(status, ENG_BAD_ARGUMENT,
					 "\"%s\" is no device; the first GPU is cuda:0", name);
			return NULL;
		}
	}
	plugin = open_library(status);
	return plugin == NULL ? NULL :
		plugin->open((int) device, threads, status);
}
