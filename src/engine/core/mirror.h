/*
 * engine/core/mirror.h
 *		The weights on a device, beside those of the host.
 *
 * The registry's arrays stay the ones that files are read into and written
 * from.  A backend whose memory is its own computes with a mirror of them;
 * whoever touches one side first brings it up to date.  For other backends
 * there is no mirror, and all of this does nothing.
 */
#ifndef ENG_CORE_MIRROR_H
#define ENG_CORE_MIRROR_H

#include "engine/core/backend.h"
#include "engine/core/parameters.h"

typedef struct EngMirror EngMirror;

/* Make one for arrays that are laid out, if the backend needs it. */
extern bool eng_mirror_open(EngParameters *parameters, EngBackend *backend,
							EngStatus *status);
/* The slots have been made or dropped: follow. */
extern bool eng_mirror_slots(EngParameters *parameters, EngStatus *status);
extern void eng_mirror_close(EngParameters *parameters);

/* Before a run, and before the host reads or writes. */
extern bool eng_mirror_to_device(EngParameters *parameters,
								 EngStatus *status);
extern bool eng_mirror_to_host(const EngParameters *parameters,
							   EngStatus *status);

/* After one side was written. */
extern void eng_mirror_host_changed(const EngParameters *parameters);
extern void eng_mirror_device_changed(const EngParameters *parameters);

#endif
