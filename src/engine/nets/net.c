/*
 * engine/nets/net.c
 *		A network of either kind, for those who keep several.
 */
#include "engine/nets/net.h"

#include <string.h>

const EngBackend *
eng_net_backend(const EngNet *net)
{
	return net->detector != NULL ? eng_detector_backend(net->detector) :
		eng_clip_backend(net->clip);
}

size_t
eng_net_bytes(const EngNet *net)
{
	EngMemory	memory = {0};

	if (net->detector != NULL)
		eng_detector_memory(net->detector, &memory);
	if (net->clip != NULL)
		eng_clip_memory(net->clip, &memory);
	return eng_memory_total(&memory);
}

void
eng_net_set_memory_limit(EngNet *net, size_t limit)
{
	if (net->detector != NULL)
		eng_detector_set_memory_limit(net->detector, limit);
	if (net->clip != NULL)
		eng_clip_set_memory_limit(net->clip, limit);
}

void
eng_net_free(EngNet *net)
{
	eng_detector_free(net->detector);
	eng_clip_free(net->clip);
	memset(net, 0, sizeof(*net));
}
