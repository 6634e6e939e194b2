/*
 * engine/nets/constructor.h
 *		The Python expression that makes a detector's twin in torchvision.
 */
#ifndef ENG_NETS_CONSTRUCTOR_H
#define ENG_NETS_CONSTRUCTOR_H

#include <stddef.h>

#include "engine/nets/detector_config.h"

#define ENG_CONSTRUCTOR_MAX		4096

/*
 * Write an expression, after "import functools, torch, torchvision", whose
 * value takes the weights of a detector of this configuration with
 * load_state_dict(strict=True) and detects with its sizes, thresholds and
 * anchors.  False: torchvision has no such network, and out says why.
 */
extern bool eng_detector_constructor(const EngDetectorConfig *config,
									 char out[ENG_CONSTRUCTOR_MAX]);

#endif
