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
#define MOST_TEXT	65536		/* bytes of a device's properties */

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

/* The whole of a small file, with a zero behind it; NULL: status says why. */
static char *
read_text(const char *path, EngStatus *status)
{
	FILE	   *file = fopen(path, "r");
	char	   *text = calloc(1, MOST_TEXT + 1);
	size_t		size = 0;

	if (file == NULL)
		eng_fail(status, ENG_IO, "could not open \"%s\": %m", path);
	else if (text == NULL)
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
	else
		size = fread(text, 1, MOST_TEXT + 1, file);
	if (file != NULL)
		fclose(file);
	if (size > MOST_TEXT)
		eng_fail(status, ENG_BAD_FILE, "\"%s\" is larger than %d bytes", path,
				 MOST_TEXT);
	if (size > 0 && size <= MOST_TEXT)
		return text;
	eng_fail(status, ENG_BAD_FILE, "\"%s\" is empty", path);
	free(text);
	return NULL;
}

EngBackend *
eng_plugin_plan(const char *path, EngStatus *status)
{
	const EngPlugin *plugin = open_library(status);
	EngBackend *backend = NULL;
	char	   *text;

	if (plugin == NULL)
		return NULL;
	if (plugin->plan == NULL)
	{
		eng_fail(status, ENG_UNSUPPORTED,
				 "this GPU backend plans for no device that is not here");
		return NULL;
	}
	text = read_text(path, status);
	if (text != NULL)
		backend = plugin->plan(text, status);
	free(text);
	return backend;
}

int
eng_plugin_count(EngStatus *status)
{
	const EngPlugin *plugin = open_library(status);

	if (plugin == NULL)
		return 0;
	if (plugin->count == NULL)
		return eng_fail(status, ENG_UNSUPPORTED,
						"this GPU backend does not count devices");
	return plugin->count(status);
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
