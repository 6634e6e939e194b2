/*
 * engine/nets/group.h
 *		One network on several devices.
 *
 * Every device has a detector, a rank, with a thread of its own.  The first
 * one is what users hold: what they ask of it, it asks of all.  A batch is
 * cut into contiguous shares; what is summed over a batch is summed over the
 * ranks (core/ranks.h), so that a step's result is that of one device with
 * the whole batch but for the order of sums, and all ranks' weights stay
 * equal bit for bit.  Ranks beyond the frames of a small batch take part in
 * the sums with nothing.
 *
 * A batch that cannot be put in place on one device changes nothing on any.
 * A device that fails later breaks the group: every later call fails.
 */
#ifndef ENG_NETS_GROUP_H
#define ENG_NETS_GROUP_H

#include "engine/core/devices.h"
#include "engine/nets/detector_private.h"

typedef struct EngGroup EngGroup;

/*
 * A detector on count devices of one kind, 2 to ENG_MOST_RANKS.  Host
 * backends share the threads out.
 */
extern EngDetector *eng_group_create(const EngDetectorConfig *config,
									 const EngDeviceName *names,
									 int32_t count, int threads, bool train,
									 EngStatus *status);
/* Free all but the first detector, and when that is closed, what is left. */
extern void eng_group_stop(EngGroup *group);
extern void eng_group_free(EngGroup *group);

extern bool eng_group_train(EngGroup *group, const EngShare *batch,
							const EngStepInfo *info, EngStepResult *result,
							EngStatus *status);
extern bool eng_group_infer(EngGroup *group, const EngShare *batch,
							EngDetections *out, EngStatus *status);

/* The first detector's weights have changed: the others will follow. */
extern void eng_group_weights_changed(EngGroup *group);

/* Whether all ranks hold the same weights and optimizer's state. */
extern bool eng_group_check_same(EngGroup *group, EngStatus *status);

/*
 * Do to all but the first what was done to it, each by its own thread; no
 * group: nothing to do.
 */
typedef bool (*EngGroupCall) (EngDetector *detector, const void *argument,
							  EngStatus *status);

extern bool eng_group_each(EngGroup *group, EngGroupCall call,
						   const void *argument, EngStatus *status);

#endif
