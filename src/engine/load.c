/*
 * engine/load.c
 *		Make the network that a LOAD describes.
 */
#include "engine/load.h"

#include "engine/answer.h"
#include "engine/io/pth.h"

size_t
eng_load_limit(const EngLoadRequest *request, const EngBackend *backend)
{
	if (!backend->device)
		return (size_t) request->memory_limit;
	if (request->device_memory_limit > 0)
		return (size_t) request->device_memory_limit;
	/* the libraries' own memory and workspace come from the rest */
	return backend->memory - backend->memory / 8;
}

static EngType
precision(const EngLoadRequest *request, const EngBackend *backend)
{
	return request->usual ? eng_backend_usual_type(backend) :
		request->precision;
}

/*
 * Fill the new detector with what the request says.
 */
static bool
load_weights(EngDetector *detector, const EngLoadRequest *request,
			 const EngTensorFile *file, EngLoadOptions *options,
			 EngStatus *status)
{
	const EngBackend *backend = eng_detector_backend(detector);

	eng_detector_set_memory_limit(detector, eng_load_limit(request, backend));
	if (!eng_detector_set_precision(detector, precision(request, backend),
									status))
		return false;
	if (request->train &&
		!eng_detector_set_optimizer(detector, &request->optimizer, status))
		return false;
	/* nothing has touched that memory yet */
	if (!eng_detector_check_memory(detector, status))
		return false;
	if ((request->init || !request->strict || request->new_head ||
		 request->backbone_only) &&
		!eng_detector_init(detector, request->seed, status))
		return false;
	options->strict = request->strict;
	options->new_head = request->new_head;
	options->backbone_only = request->backbone_only;
	return file == NULL ||
		eng_detector_load(detector, file, options, status);
}

/*
 * The file of weights in the blob; NULL with status still ok if there is
 * none and none is needed.  One of PyTorch's own is turned into a
 * safetensors file in "converted", which must stay as long as *file.
 */
static bool
open_weights(const EngLoadRequest *request, const EngMessage *message,
			 EngBuffer *converted, EngTensorFile **file, EngStatus *status)
{
	const uint8_t *image = message->blob.data;
	size_t		size = message->blob.size;

	*file = NULL;
	if (message->blob.size == 0)
	{
		if (request->init)
			return true;
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"LOAD has no weights and init is not true");
	}
	if (eng_pth_recognise(image, size))
	{
		if (!eng_pth_convert(image, size, converted, status))
			return false;
		image = converted->data;
		size = converted->size;
	}
	*file = eng_tensor_file_open(image, size, status);
	return *file != NULL;
}

static bool
make_detector(EngNet *net, const EngLoadRequest *request,
			  const EngTensorFile *file, json_t **answer, EngStatus *status)
{
	EngDetectorConfig config;
	EngLoadOptions options = {0};

	if (!eng_detector_config_parse(&config, request->architecture,
								   request->options, request->num_classes,
								   status))
		return false;
	net->detector = eng_detector_create(&config, request->device,
										request->threads, request->train,
										status);
	if (net->detector == NULL ||
		!load_weights(net->detector, request, file, &options, status))
		return false;
	*answer = eng_answer_load(net->detector, &options);
	return true;
}

/* What detectors can be asked for and CLIP cannot. */
static bool
check_clip(const EngLoadRequest *request, EngStatus *status)
{
	if (request->train || request->new_head || request->backbone_only ||
		!request->strict || request->num_classes != 0)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						ENG_CLIP_ARCHITECTURE " is loaded to infer: mode train, num_classes, new_head, backbone_only and strict false are for detectors");
	return true;
}

static bool
fill_clip(EngClip *clip, const EngLoadRequest *request,
		  const EngTensorFile *file, int32_t *unused, EngStatus *status)
{
	EngType		type = request->usual ? eng_clip_usual_type(clip) :
		request->precision;

	eng_clip_set_memory_limit(clip, eng_load_limit(request,
												   eng_clip_backend(clip)));
	if (!eng_clip_set_precision(clip, type, status) ||
		!eng_clip_check_memory(clip, status))
		return false;
	if (request->init)
		eng_clip_init(clip, request->seed);
	return file == NULL || eng_clip_load(clip, file, unused, status);
}

static bool
make_clip(EngNet *net, const EngLoadRequest *request,
		  const EngTensorFile *file, json_t **answer, EngStatus *status)
{
	EngClipConfig config;
	int32_t		unused = 0;

	if (!eng_clip_config_parse(&config, request->options, status))
		return false;
	net->clip = eng_clip_create(&config, request->device, request->threads,
								status);
	if (net->clip == NULL ||
		!fill_clip(net->clip, request, file, &unused, status))
		return false;
	*answer = eng_answer_load_clip(net->clip, unused);
	return true;
}

bool
eng_load_network(EngNet *net, const EngLoadRequest *request,
		 const EngMessage *message, json_t **answer, EngStatus *status)
{
	bool		is_clip = eng_clip_is_architecture(request->architecture);
	EngBuffer	converted = {0};
	EngTensorFile *file = NULL;
	bool		fine;

	fine = (!is_clip || check_clip(request, status)) &&
		open_weights(request, message, &converted, &file, status) &&
		(is_clip ? make_clip(net, request, file, answer, status) :
		 make_detector(net, request, file, answer, status));
	if (!fine)
		eng_net_free(net);
	eng_tensor_file_free(file);
	eng_buffer_free(&converted);
	return fine;
}

json_t *
eng_load_answer(const EngNet *net)
{
	EngLoadOptions options = {0};

	return net->clip != NULL ? eng_answer_load_clip(net->clip, 0) :
		eng_answer_load(net->detector, &options);
}
