/*
 * models/detect.h
 *		Detections of one image through the shared engine.
 */
#ifndef AVC_MODELS_DETECT_H
#define AVC_MODELS_DETECT_H

#include "fmgr.h"

#include "models/network.h"

/* As the engine writes it. */
typedef struct AvcDetection
{
	int32		label;
	float		score;
	float		box[4];			/* x1 y1 x2 y2, pixels of the image */
} AvcDetection;

typedef struct AvcDetections
{
	int			width;			/* of the image, pixels */
	int			height;
	int			count;
	const AvcDetection *found;	/* highest score first */
} AvcDetections;

typedef struct AvcDetector
{
	AvcNetwork	network;		/* first: avc_network_of_call */
	int			label_count;	/* of categories, which label 0 has none of */
	char	  **categories;		/* by label, NULL where the map has none */
	int			person;			/* label, 0 = the map has no person */
} AvcDetector;

/* ---- detector.c ---- */

/* What avcurate.detector means now; an error if that is nothing. */
extern int64 avc_detector_default(void);

/* ---- detections.c ---- */

/*
 * The detections of an image above the network's own threshold.  The result
 * lives until the end of the transaction or the next call.
 */
extern AvcDetections avc_detections_of(const AvcDetector *detector,
									   const bytea *image);

/*
 * Send an image ahead, so that a later avc_detections_of finds the answer
 * there.  What goes wrong is left to that call.
 */
extern void avc_detections_ahead(const AvcDetector *detector,
								 const bytea *image);

#endif
