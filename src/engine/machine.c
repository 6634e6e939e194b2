/*
 * engine/machine.c
 *		What this program is made of and what it runs on.
 */
#include "engine/commands.h"
#include "engine/machine.h"

#include <oneapi/dnnl/dnnl.h>
#include <sched.h>
#include <stdio.h>

static const struct
{
	dnnl_cpu_isa_t isa;
	const char *name;
}			isa_names[] = {
	{dnnl_cpu_isa_sse41, "sse41"},
	{dnnl_cpu_isa_avx, "avx"},
	{dnnl_cpu_isa_avx2, "avx2"},
	{dnnl_cpu_isa_avx512_mic, "avx512_mic"},
	{dnnl_cpu_isa_avx512_mic_4ops, "avx512_mic_4ops"},
	{dnnl_cpu_isa_avx512_core, "avx512_core"},
	{dnnl_cpu_isa_avx512_core_vnni, "avx512_core_vnni"},
	{dnnl_cpu_isa_avx512_core_bf16, "avx512_core_bf16"},
	{dnnl_cpu_isa_avx512_core_amx, "avx512_core_amx"},
	{dnnl_cpu_isa_avx2_vnni, "avx2_vnni"}
};

static const char *
isa_name(dnnl_cpu_isa_t isa)
{
	size_t		i;

	for (i = 0; i < sizeof(isa_names) / sizeof(isa_names[0]); i++)
		if (isa_names[i].isa == isa)
			return isa_names[i].name;
	return "other";
}

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
	const dnnl_version_t *dnnl = dnnl_version();
	dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
	char		dnnl_text[64];

	snprintf(dnnl_text, sizeof(dnnl_text), "%d.%d.%d", dnnl->major,
			 dnnl->minor, dnnl->patch);
	return json_pack("{s:s, s:{s:s, s:s, s:s}, s:s, s:b, s:i, s:[s, s]}",
					 "engine_version", AVC_VERSION,
					 "libraries",
					 "onednn", dnnl_text,
					 "jansson", jansson_version_str(),
					 "compiler", __VERSION__,
					 "isa", isa_name(isa),
					 "bf16", isa == dnnl_cpu_isa_avx512_core_bf16 ||
					 isa == dnnl_cpu_isa_avx512_core_amx,
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
