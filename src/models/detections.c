/*
 * models/detections.c
 *		What a detector says of an image.
 */
#include "postgres.h"

#include "engine/protocol.h"
#include "image/jpeg.h"
#include "models/detect.h"
#include "models/model.h"

StaticAssertDecl(sizeof(AvcDetection) == ENG_PROTOCOL_DETECTION,
				 "detections travel as they are");

/* The size of the picture; false with a status if it is none. */
static bool
make_question(AvcQuestion *question, const bytea *image, EngStatus *status)
{
	EngJpegInfo info;

	memset(status, 0, sizeof(*status));
	question->kind = ENG_KIND_DETECT;
	question->data = VARDATA_ANY(image);
	question->len = VARSIZE_ANY_EXHDR(image);
	if (!eng_jpeg_read_header(&info, question->data, question->len, status))
		return false;
	question->width = info.width;
	question->height = info.height;
	return true;
}

AvcDetections
avc_detections_of(const AvcDetector *detector, const bytea *image)
{
	AvcDetections detections;
	AvcQuestion question;
	EngStatus	status;
	AvcAnswer	answer;

	if (!make_question(&question, image, &status))
		avc_raise_status(&status);
	answer = avc_network_ask(&detector->network, &question);
	if (answer.len % ENG_PROTOCOL_DETECTION != 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the engine's detections do not have the form agreed on")));
	detections.width = question.width;
	detections.height = question.height;
	detections.count = answer.len / ENG_PROTOCOL_DETECTION;
	detections.found = answer.data;
	return detections;
}

void
avc_detections_ahead(const AvcDetector *detector, const bytea *image)
{
	AvcQuestion question;
	EngStatus	status;

	if (make_question(&question, image, &status))
		avc_network_ask_ahead(&detector->network, &question);
}
