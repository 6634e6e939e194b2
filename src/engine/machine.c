/*
 * engine/machine.c
 *		What this program is made of and what it runs on.
 */
#include "engine/commands.h"
#include "engine/core/backend.h"
#include "engine/core/devices.h"
#include "engine/cpu/onednn.h"
#include "engine/io/json.h"
#include "engine/machine.h"

#include <sched.h>
#include <stdio.h>

int32_t
eng_machine_processors(void)
{
	cpu_set_t	set;
	int			count;

	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		return 1;
	count = CPU_COUNT(&set);
	return count > 0 ? count : 1;
}

/*
 * Say what GPU there is, or why it cannot be used.
 */
static void
add_gpu(json_t *answer, bool look)
{
	json_t	   *devices = json_object_get(answer, "devices");
	EngBackend *backend;
	EngStatus	why = {0};

	if (!eng_device_gpu_seen())
		return;
	if (!look)
	{
		json_array_append_new(devices, json_string("cuda"));
		return;
	}
	backend = eng_backend_open("cuda", 0, &why);
	if (backend == NULL)
	{
		json_object_set_new(answer, "gpu_missing", eng_json_text(why.message));
		return;
	}
	json_array_append_new(devices, json_string("cuda"));
	json_object_set_new(answer, "gpu",
						eng_json_text(backend->device_name[0] != '\0' ?
									  backend->device_name : backend->name));
	backend->close(backend);
}

json_t *
eng_machine_describe(bool look)
{
	char		dnnl_text[64];
	json_t	   *answer;

	eng_dnnl_version(dnnl_text, sizeof(dnnl_text));
	answer = json_pack("{s:s, s:{s:s, s:s, s:s}, s:s, s:b, s:i, s:[s, s]}",
					 "engine_version", AVC_VERSION,
					 "libraries",
					 "onednn", dnnl_text,
					 "jansson", jansson_version_str(),
					 "compiler", __VERSION__,
					 "isa", eng_dnnl_isa(),
					 "bf16", eng_dnnl_has_bf16(),
					 "cpu_threads", (int) eng_machine_processors(),
					 "devices", "cpu", "ref");
	if (answer != NULL)
		add_gpu(answer, look);
	return answer;
}

bool
eng_version_print(FILE *out, EngStatus *status)
{
	json_t	   *description = eng_machine_describe(true);
	bool		fine = description != NULL &&
		json_dumpf(description, out, JSON_INDENT(2)) == 0;

	json_decref(description);
	fputc('\n', out);
	if (!fine)
		return eng_fail(status, ENG_IO, "could not print the versions");
	return true;
}
