/*
 * engine/nets/net.h
 *		A network of either kind, for those who keep several.
 */
#ifndef ENG_NETS_NET_H
#define ENG_NETS_NET_H

#include "engine/nets/clip.h"
#include "engine/nets/detector.h"

/* One of the two is there, or none. */
typedef struct EngNet
{
	EngDetector *detector;
	EngClip    *clip;
} EngNet;

static inline bool
eng_net_is_none(const EngNet *net)
{
	return net->detector == NULL && net->clip == NULL;
}

/* What computes it; there must be one of the two. */
extern const EngBackend *eng_net_backend(const EngNet *net);

/* Bytes that it holds. */
extern size_t eng_net_bytes(const EngNet *net);

/* Refuse plans that need more than limit bytes in all; 0: no limit. */
extern void eng_net_set_memory_limit(EngNet *net, size_t limit);

/* Afterwards there is none. */
extern void eng_net_free(EngNet *net);

#endif
