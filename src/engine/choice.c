/*
 * engine/choice.c
 *		Which detector a subcommand works with.
 */
#include "engine/choice.h"

#include "engine/core/backend.h"
#include "engine/core/devices.h"
#include "engine/nets/constructor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool
eng_choice_precision(const EngOption *options, EngType *out,
					 EngStatus *status)
{
	const char *word = eng_option_value(options, "precision");

	if (word == NULL)
		return true;
	return eng_type_find(word, out) ||
		eng_fail(status, ENG_BAD_ARGUMENT,
				 "precision \"%.64s\" is not known: f32, bf16 and f16 are",
				 word);
}

bool
eng_choice_read(EngChoice *choice, const EngOption *options,
				EngStatus *status)
{
	choice->options = eng_option_value(options, "options");
	choice->device = eng_option_value(options, "device");
	if (choice->device == NULL)
		choice->device = "cpu";
	if (!eng_device_is_known(choice->device))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"device \"%.64s\" is not known; auto, cpu, ref, cuda, cuda:N, lists like cuda:0,1 and cuda:all are",
						choice->device);
	return eng_option_integer(options, "classes", 2, 10000,
							  &choice->classes, status) &&
		eng_option_integer(options, "threads", 0, 1024, &choice->threads,
						   status) &&
		eng_option_integer(options, "seed", INT64_MIN, INT64_MAX,
						   &choice->seed, status) &&
		eng_choice_precision(options, &choice->type, status);
}

bool
eng_choice_planned(EngChoice *choice, const EngOption *options,
				   char room[ENG_CHOICE_DEVICE], EngStatus *status)
{
	const char *file = eng_option_value(options, "device-properties");

	if (file == NULL)
		return true;
	if (snprintf(room, ENG_CHOICE_DEVICE, ENG_PLAN_PREFIX "%s", file) >=
		ENG_CHOICE_DEVICE)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"device-properties\" is too long");
	choice->device = room;
	return true;
}

bool
eng_choice_complete(EngChoice *choice, const EngTensorFile *file,
					EngStatus *status)
{
	const char *classes = eng_tensor_file_metadata(file, "num_classes");

	if (choice->architecture == NULL)
		choice->architecture = eng_tensor_file_metadata(file, "architecture");
	if (choice->options == NULL)
		choice->options = eng_tensor_file_metadata(file, "options");
	if (choice->classes == 0 && classes != NULL)
	{
		char	   *end;
		long		value = strtol(classes, &end, 10);

		if (*end != '\0' || value < 2 || value > 10000)
			return eng_fail(status, ENG_BAD_FILE,
							"metadata num_classes is not a number of classes");
		choice->classes = value;
	}
	if (choice->architecture == NULL)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"file does not name its architecture: give --architecture");
	return true;
}

EngDetector *
eng_choice_create(const EngChoice *choice, bool train, EngStatus *status)
{
	EngDetectorConfig config;
	EngDetector *detector;

	if (!eng_detector_config_parse(&config, choice->architecture,
								   choice->options, (int) choice->classes,
								   status))
		return NULL;
	detector = eng_detector_create(&config, choice->device,
								   (int) choice->threads, train, status);
	if (detector != NULL &&
		!eng_detector_set_precision(detector, choice->type, status))
	{
		eng_detector_free(detector);
		return NULL;
	}
	return detector;
}

#define STAMPED	5				/* keys that a stamp sets */

/*
 * Copy tensors and metadata, but for the keys that the stamp sets.
 */
static bool
copy_file(EngTensorWriter *writer, const EngTensorFile *file,
		  EngStatus *status)
{
	static const char *const stamped[STAMPED] = {
		"format", "architecture", "options", "num_classes",
		"avcurate.constructor"
	};
	int32_t		i;
	int			j;

	for (i = 0; i < file->metadata_count; i++)
	{
		for (j = 0; j < STAMPED; j++)
			if (strcmp(file->metadata[i].key, stamped[j]) == 0)
				break;
		if (j == STAMPED &&
			!eng_tensor_writer_metadata(writer, file->metadata[i].key,
										file->metadata[i].value, status))
			return false;
	}
	for (i = 0; i < file->count; i++)
		if (!eng_tensor_writer_add(writer, &file->tensors[i], status))
			return false;
	return true;
}

static bool
stamp(EngTensorWriter *writer, const EngChoice *choice,
	  const EngDetectorConfig *config, EngStatus *status)
{
	char		constructor[ENG_CONSTRUCTOR_MAX];
	char		classes[16];

	(void) eng_detector_constructor(config, constructor);
	snprintf(classes, sizeof(classes), "%d", config->num_classes);
	return eng_tensor_writer_metadata(writer, "format", "pt", status) &&
		eng_tensor_writer_metadata(writer, "architecture",
								   choice->architecture, status) &&
		eng_tensor_writer_metadata(writer, "options",
								   choice->options != NULL ?
								   choice->options : "{}", status) &&
		eng_tensor_writer_metadata(writer, "num_classes", classes, status) &&
		eng_tensor_writer_metadata(writer, "avcurate.constructor",
								   constructor, status);
}

bool
eng_choice_stamp(const EngChoice *choice, const EngDetectorConfig *config,
				 const EngBuffer *saved, EngBuffer *out, EngStatus *status)
{
	EngTensorFile *file = eng_tensor_file_open(saved->data, saved->size,
											   status);
	EngTensorWriter *writer = eng_tensor_writer_create(status);
	bool		fine;

	fine = file != NULL && writer != NULL &&
		stamp(writer, choice, config, status) &&
		copy_file(writer, file, status) &&
		eng_tensor_writer_finish(writer, out, status);
	eng_tensor_writer_free(writer);
	eng_tensor_file_free(file);
	return fine;
}

EngSize
eng_choice_frame_size(const EngDetectorConfig *config)
{
	EngSize		size;

	size.width = config->max_size < 1280 ? config->max_size : 1280;
	size.height = size.width * 9 / 16;
	if (size.height < 1)
		size.height = 1;
	return size;
}

EngSize
eng_choice_padded(const EngDetectorConfig *config, EngSize frame)
{
	EngResizeRule rule = eng_detector_resize(config, false);
	EngSize		size = eng_resize_size(frame, &rule);

	size.width = eng_padded_size(size.width, config->size_divisible);
	size.height = eng_padded_size(size.height, config->size_divisible);
	return size;
}

bool
eng_choice_size(const EngOption *options, EngSize *out, EngStatus *status)
{
	const char *text = eng_option_value(options, "size");
	int			width;
	int			height;
	char		rest;

	if (text == NULL)
		return true;
	if (sscanf(text, "%5dx%5d%c", &width, &height, &rest) != 2 ||
		width < 1 || height < 1 || width > 8192 || height > 8192)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"--size\" must be WIDTHxHEIGHT in pixels, at most 8192x8192");
	out->width = width;
	out->height = height;
	return true;
}
