/*
 * engine/convert.c
 *		Files of weights from one form to another, and fresh ones.
 */
#include "engine/choice.h"
#include "engine/commands.h"
#include "engine/io/file.h"
#include "engine/io/pth.h"

#include <string.h>

#define MAX_FILE	((size_t) 64 << 30)

const char	eng_convert_help[] =
"usage: avcurate-engine convert IN OUT [OPTIONS]\n"
"\n"
"Read weights, a safetensors file or one of PyTorch's, check every rule of the\n"
"format and write them again: as PyTorch's torch.save does if OUT ends with\n"
".pth or .pt, else as safetensors in the order of the reference writer.  Of a\n"
"PyTorch training checkpoint, what is under \"model\", \"state_dict\",\n"
"\"model_state_dict\" or \"model_ema\" is taken.\n"
"  --weights-only   leave out the tensors of the optimizer\n"
"  --prefix TEXT    take TEXT (module.) off the names that start with it\n";

const char	eng_init_help[] =
"usage: avcurate-engine init ARCHITECTURE OUT [OPTIONS]\n"
"\n"
"Write freshly initialised weights, by torchvision's rules, to a file whose\n"
"metadata name the architecture: as PyTorch's torch.save does if OUT ends with\n"
".pth or .pt, else safetensors.\n"
ENG_CHOICE_NETWORK_HELP
ENG_CHOICE_SEED_HELP;

/*
 * Turn a file of PyTorch's into safetensors; another stays as it is.
 */
static bool
import(EngBuffer *in, EngStatus *status)
{
	EngBuffer	result = {0};

	if (!eng_pth_recognise(in->data, in->size))
		return true;
	if (!eng_pth_convert(in->data, in->size, &result, status))
	{
		eng_buffer_free(&result);
		return false;
	}
	eng_buffer_free(in);
	*in = result;
	return true;
}

/*
 * Copy metadata and tensors; without those of the optimizer, and without the
 * prefix (NULL: none) of names, of which one at least must have it.
 */
static bool
copy_file(const EngTensorFile *file, bool weights_only, const char *prefix,
		  EngTensorWriter *writer, EngStatus *status)
{
	size_t		length = prefix != NULL ? strlen(prefix) : 0;
	bool		found = length == 0;
	int32_t		i;

	for (i = 0; i < file->metadata_count; i++)
		if (!eng_tensor_writer_metadata(writer, file->metadata[i].key,
										file->metadata[i].value, status))
			return false;
	for (i = 0; i < file->count; i++)
	{
		EngFileTensor tensor = file->tensors[i];

		if (length > 0 && strncmp(tensor.name, prefix, length) == 0)
		{
			tensor.name += length;
			found = true;
		}
		if (weights_only && strncmp(tensor.name, "optimizer.", 10) == 0)
			continue;
		if (!eng_tensor_writer_add(writer, &tensor, status))
			return false;
	}
	if (!found)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"no name in the file starts with \"%.96s\", as --prefix says",
						prefix);
	return true;
}

static bool
rewrite(const EngBuffer *in, const EngOption *options, EngBuffer *out,
		EngStatus *status)
{
	EngTensorFile *file = eng_tensor_file_open(in->data, in->size, status);
	EngTensorWriter *writer = eng_tensor_writer_create(status);
	bool		fine;

	fine = file != NULL && writer != NULL &&
		copy_file(file, eng_option_value(options, "weights-only") != NULL,
				  eng_option_value(options, "prefix"), writer, status) &&
		eng_tensor_writer_finish(writer, out, status);
	eng_tensor_writer_free(writer);
	eng_tensor_file_free(file);
	return fine;
}

static bool
is_pth_name(const char *path)
{
	const char *end = strrchr(path, '.');

	return end != NULL && (strcmp(end, ".pth") == 0 || strcmp(end, ".pt") == 0);
}

/*
 * Turn a safetensors file into PyTorch's form.
 */
static bool
to_pth(EngBuffer *file, EngStatus *status)
{
	EngTensorFile *tensors = eng_tensor_file_open(file->data, file->size,
												  status);
	EngBuffer	result = {0};
	bool		fine;

	fine = tensors != NULL && eng_pth_write(tensors, &result, status);
	eng_tensor_file_free(tensors);
	if (!fine)
	{
		eng_buffer_free(&result);
		return false;
	}
	eng_buffer_free(file);
	*file = result;
	return true;
}

/*
 * Write a safetensors file under a name that says in which form.
 */
static bool
write_file(const char *path, EngBuffer *file, EngStatus *status)
{
	return (!is_pth_name(path) || to_pth(file, status)) &&
		eng_file_write(path, file->data, file->size, status);
}

bool
eng_convert_run(int argc, char **argv, FILE *out, EngStatus *status)
{
	EngOption	options[] = {
		{"weights-only", true}, {"prefix"}, {NULL}
	};
	EngArguments arguments;
	EngBuffer	in = {0};
	EngBuffer	result = {0};
	bool		fine;

	if (!eng_arguments_read(&arguments, argc, argv, options, 2, 2, status))
		return false;
	fine = eng_file_read(arguments.places[0], MAX_FILE, &in, status) &&
		import(&in, status) && rewrite(&in, options, &result, status);
	eng_buffer_free(&in);
	fine = fine && write_file(arguments.places[1], &result, status);
	eng_buffer_free(&result);
	return fine;
}

bool
eng_init_run(int argc, char **argv, FILE *out, EngStatus *status)
{
	EngOption	options[] = {ENG_CHOICE_NETWORK, ENG_CHOICE_SEED, {NULL}};
	EngChoice	choice = {0};
	EngBuffer	saved = {0};
	EngBuffer	result = {0};
	EngArguments arguments;
	EngDetector *detector;
	bool		fine;

	if (!eng_arguments_read(&arguments, argc, argv, options, 2, 2, status) ||
		!eng_choice_read(&choice, options, status))
		return false;
	choice.architecture = arguments.places[0];
	detector = eng_choice_create(&choice, false, status);
	if (detector == NULL)
		return false;
	fine = eng_detector_init(detector, (uint64_t) choice.seed, status) &&
		eng_detector_save(detector, false, &saved, status) &&
		eng_choice_stamp(&choice, eng_detector_config(detector), &saved,
						 &result, status) &&
		write_file(arguments.places[1], &result, status);
	eng_detector_free(detector);
	eng_buffer_free(&saved);
	eng_buffer_free(&result);
	return fine;
}
