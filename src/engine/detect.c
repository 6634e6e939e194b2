/*
 * engine/detect.c
 *		Detections of JPEG files, as JSON lines.
 */
#include "engine/answer.h"
#include "engine/choice.h"
#include "engine/commands.h"
#include "engine/io/file.h"
#include "engine/io/json.h"
#include "engine/io/pth.h"
#include "image/jpeg.h"

#include <stdlib.h>

#define MAX_WEIGHTS		((size_t) 64 << 30)
#define MAX_JPEG		((size_t) 256 << 20)

const char	eng_detect_help[] =
"usage: avcurate-engine detect WEIGHTS JPEG... [OPTIONS]\n"
"\n"
"Print one line of JSON a picture: file, width, height, labels, scores and\n"
"boxes in pixels, highest score first.\n"
"  --architecture NAME  where the metadata of WEIGHTS does not say\n"
ENG_CHOICE_NETWORK_HELP
ENG_CHOICE_MACHINE_HELP
"  --min-score X    leave out what scores less (0.05, or the option\n"
"                   box_score_thresh, is the least)\n";

/* What stays the same from picture to picture. */
typedef struct Detection
{
	EngDetector *detector;
	EngJpegDecoder *decoder;
	double		min_score;
	FILE	   *out;
} Detection;

static EngTensorFile *
open_weights(const EngBuffer *bytes, const char *path, EngStatus *status)
{
	if (eng_pth_recognise(bytes->data, bytes->size))
	{
		eng_fail(status, ENG_UNSUPPORTED,
				 "\"%.200s\" is a file of PyTorch's: turn it into safetensors by \"avcurate-engine convert\" first",
				 path);
		return NULL;
	}
	return eng_tensor_file_open(bytes->data, bytes->size, status);
}

static EngDetector *
load(EngChoice *choice, const char *path, EngStatus *status)
{
	EngBuffer	bytes = {0};
	EngTensorFile *file = NULL;
	EngDetector *detector = NULL;
	EngLoadOptions options = {.strict = true};

	if (eng_file_read(path, MAX_WEIGHTS, &bytes, status))
		file = open_weights(&bytes, path, status);
	if (file != NULL && eng_choice_complete(choice, file, status))
		detector = eng_choice_create(choice, false, status);
	if (detector != NULL &&
		!eng_detector_load(detector, file, &options, status))
	{
		eng_detector_free(detector);
		detector = NULL;
	}
	eng_tensor_file_free(file);
	eng_buffer_free(&bytes);
	return detector;
}

static bool
print_line(const Detection *detection, const char *path,
		   const EngImage *image, const EngDetections *detections,
		   EngStatus *status)
{
	json_t	   *found = eng_answer_detections(detections,
											  detection->min_score);
	json_t	   *line = json_pack("{s:o, s:i, s:i}", "file",
								 eng_json_text(path), "width",
								 (int) image->width, "height",
								 (int) image->height);
	bool		fine = found != NULL && line != NULL &&
		json_object_update(line, found) == 0 &&
		json_dumpf(line, detection->out,
				   JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0;

	json_decref(found);
	json_decref(line);
	fputc('\n', detection->out);
	if (!fine)
		return eng_fail(status, ENG_IO, "could not print a line");
	return true;
}

static bool
detect_picture(const Detection *detection, const char *path,
			   const EngBuffer *bytes, EngStatus *status)
{
	EngStatus	failure = {0};
	EngDetections found;
	EngFrame	frame = {0};
	EngImage	image = {.channels = 3};

	if (!eng_jpeg_decode_alloc(detection->decoder, &image, bytes->data,
							   bytes->size, 1, &failure))
		return eng_fail(status, failure.code, "\"%.200s\": %.250s", path,
						failure.message);
	frame.rgb = image.pixels;
	frame.width = image.width;
	frame.height = image.height;
	return eng_detector_infer(detection->detector, &frame, 1, &found,
							  status) &&
		print_line(detection, path, &image, &found, status);
}

static bool
detect_file(const Detection *detection, const char *path, EngStatus *status)
{
	EngBuffer	bytes = {0};
	bool		fine;

	fine = eng_file_read(path, MAX_JPEG, &bytes, status) &&
		detect_picture(detection, path, &bytes, status);
	eng_buffer_free(&bytes);
	return fine;
}

bool
eng_detect_run(int argc, char **argv, FILE *out, EngStatus *status)
{
	EngOption	options[] = {
		ENG_CHOICE_NETWORK, ENG_CHOICE_MACHINE, {"architecture"},
		{"min-score"}, {NULL}
	};
	EngChoice	choice = {0};
	Detection	detection = {.out = out};
	EngArguments arguments;
	bool		fine;
	int			i;

	if (!eng_arguments_read(&arguments, argc, argv, options, 2, INT32_MAX,
							status) ||
		!eng_choice_read(&choice, options, status) ||
		!eng_option_number(options, "min-score", 0, 1, &detection.min_score,
						   status))
		return false;
	choice.architecture = eng_option_value(options, "architecture");
	detection.detector = load(&choice, arguments.places[0], status);
	detection.decoder = eng_jpeg_decoder_create(status);
	fine = detection.detector != NULL && detection.decoder != NULL;
	for (i = 1; fine && i < arguments.count; i++)
		fine = detect_file(&detection, arguments.places[i], status);
	eng_jpeg_decoder_free(detection.decoder);
	eng_detector_free(detection.detector);
	return fine;
}
