/*
 * datasets/annotations.h
 *		The parallel annotation arrays of a frame and their rules.
 */
#ifndef AVC_DATASETS_ANNOTATIONS_H
#define AVC_DATASETS_ANNOTATIONS_H

/* Order of the arrays in AvcAnnotations. */
typedef enum AvcAnnotationArray
{
	AVC_ANN_CATEGORIES,
	AVC_ANN_BBOXES,
	AVC_ANN_OCCLUDED,
	AVC_ANN_TRUNCATED,
	AVC_ANN_IGNORED,
	AVC_ANN_AREA,
	AVC_ANN_ARRAYS				/* how many there are */
} AvcAnnotationArray;

typedef struct AvcAnnotations
{
	Datum		value[AVC_ANN_ARRAYS];	/* arrays, toasted or not */
	bool		is_null[AVC_ANN_ARRAYS];
} AvcAnnotations;

/* Names of the columns, in the order of AvcAnnotationArray. */
extern const char *const avc_annotation_columns[AVC_ANN_ARRAYS];

/*
 * Raise an error that names column and rule unless the arrays obey: all NULL
 * or of one length, boxes n x 4, finite, x1 <= x2, y1 <= y2, at most one
 * pixel out of the frame of width x height pixels.
 */
extern void avc_annotations_check(const AvcAnnotations *annotations,
								  int width, int height,
								  const char *dataset);

#endif
