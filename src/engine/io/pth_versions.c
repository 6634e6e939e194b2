/*
 * engine/io/pth_versions.c
 *		Versions of the modules in a state dict.
 *
 * state_dict() notes a version for every module, and load_state_dict hands it
 * to the module, which may then rename or add what older versions lacked.
 * Modules are 1 but for four kinds that files of detectors hold, known by
 * what they hold, three of them by tensors that their second version brought:
 *		BatchNorm2d				num_batches_tracked
 *		FeaturePyramidNetwork	inner_blocks.0.0.weight
 *		RPNHead					conv.0.0.weight
 *		IntermediateLayerGetter	as "body", what a ResNet holds
 * Modules without tensors in or below them leave no name and are left out;
 * none of them looks at its version.
 */
#include "engine/io/pth_versions.h"

#include <string.h>

/* Two tensors that a module of version 2 holds, and what its name ends in. */
typedef struct Mark
{
	const char *tensor;
	const char *beside;
	const char *ending;
} Mark;

static const Mark marks[] = {
	{"num_batches_tracked", "running_mean", ""},
	{"inner_blocks.0.0.weight", "layer_blocks.0.0.weight", ""},
	{"conv.0.0.weight", "cls_logits.weight", ""},
	{"layer1.0.conv1.weight", "conv1.weight", ".body"}
};

#define MARKS		((int) (sizeof(marks) / sizeof(marks[0])))
#define NAME_SIZE	512			/* longer modules are no detector's */

static bool
holds(const EngTensorFile *file, const char *module, size_t length,
	  const char *tensor)
{
	char		name[NAME_SIZE + 64];

	memcpy(name, module, length);
	name[length] = '.';
	strcpy(name + length + 1, tensor);
	return eng_tensor_file_find(file, name) != NULL;
}

static bool
ends_in(const char *module, size_t length, const char *ending)
{
	size_t		wanted = strlen(ending);

	return wanted <= length &&
		memcmp(module + length - wanted, ending, wanted) == 0;
}

static int
version_of(const EngTensorFile *file, const char *module, size_t length)
{
	int			i;

	if (length == 0 || length > NAME_SIZE)
		return 1;
	for (i = 0; i < MARKS; i++)
		if (ends_in(module, length, marks[i].ending) &&
			holds(file, module, length, marks[i].tensor) &&
			holds(file, module, length, marks[i].beside))
			return 2;
	return 1;
}

/*
 * Bytes that two names have in common at their start.
 */
static size_t
common_length(const char *a, const char *b)
{
	size_t		length = 0;

	while (a[length] != '\0' && a[length] == b[length])
		length++;
	return length;
}

bool
eng_pth_versions(const EngTensorFile *file, EngPthVersion take,
				 void *context)
{
	const char *before = "";
	int32_t		i;

	if (!take(context, "", 0, 1))
		return false;
	/* sorted by name, the tensors of a module follow one another */
	for (i = 0; i < file->count; i++)
	{
		const char *name = file->tensors[i].name;
		const char *dot = name + common_length(before, name);

		while ((dot = strchr(dot, '.')) != NULL)
		{
			size_t		length = (size_t) (dot - name);

			if (length > 0 &&
				!take(context, name, length, version_of(file, name, length)))
				return false;
			dot++;
		}
		before = name;
	}
	return true;
}
