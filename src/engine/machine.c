/*
 * engine/machine.c
 *		What this program is made of and what it runs on.
 */
#include "engine/commands.h"
#include "engine/cpu/onednn.h"
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

json_t *
eng_machine_describe(void)
{
	char		dnnl_text[64];

	eng_dnnl_version(dnnl_text, sizeof(dnnl_text));
	return json_pack("{s:s, s:{s:s, s:s, s:s}, s:s, s:b, s:i, s:[s, s]}",
					 "engine_version", AVC_VERSION,
					 "libraries",
					 "onednn", dnnl_text,
					 "jansson", jansson_version_str(),
					 "compiler", __VERSION__,
					 "isa", eng_dnnl_isa(),
					 "bf16", eng_dnnl_has_bf16(),
					 "cpu_threads", (int) eng_machine_processors(),
					 "devices", "cpu", "ref");
}

bool
eng_version_print(FILE *out, EngStatus *status)
{
	json_t	   *description = eng_machine_describe();
	bool		fine = description != NULL &&
		json_dumpf(description, out, JSON_INDENT(2)) == 0;

	json_decref(description);
	fputc('\n', out);
	if (!fine)
		return eng_fail(status, ENG_IO, "could not print the versions");
	return true;
}
