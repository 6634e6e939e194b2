/*
 * datasets/coco_labels.h
 *		Images, annotations and categories of a COCO instances file, one at a
 *		time and in the order of the file.
 */
#ifndef AVC_DATASETS_COCO_LABELS_H
#define AVC_DATASETS_COCO_LABELS_H

#include "lib/ilist.h"

typedef enum AvcCocoKind
{
	AVC_COCO_IMAGE,
	AVC_COCO_ANNOTATION,
	AVC_COCO_CATEGORY
} AvcCocoKind;

/* Numbers that an item may have: bits of AvcCocoItem.known. */
typedef enum AvcCocoNumber
{
	AVC_COCO_ID = 1,
	AVC_COCO_IMAGE_ID = 2,
	AVC_COCO_CATEGORY_ID = 4,
	AVC_COCO_BBOX = 8,
	AVC_COCO_AREA = 16
} AvcCocoNumber;

typedef struct AvcCocoItem
{
	slist_node	node;
	AvcCocoKind kind;
	int			known;			/* AvcCocoNumber, which of these it has */
	int64		id;
	int64		image_id;
	int64		category_id;
	double		bbox[4];		/* x y width height, as written */
	double		area;
	bool		is_ignored;		/* iscrowd or ignore */
	bool		has_score;		/* so it is a prediction */
	int			width;			/* of an image; 0 = not said, as height */
	int			height;
	const char *name;			/* file_name or name; NULL = none */
	const char *problem;		/* why the item cannot be used, or NULL */
} AvcCocoItem;

typedef struct AvcCocoReader AvcCocoReader;

/*
 * Read from the open file "fd", which stays the caller's.  Memory is taken
 * from the current context and does not grow with the file: segmentations
 * and whatever else is not known are passed over.
 */
extern AvcCocoReader *avc_coco_open(int fd);

/*
 * The next item, or NULL at the end of what can be read.  It stays valid
 * until the next call.
 */
extern const AvcCocoItem *avc_coco_next(AvcCocoReader *reader);

/* Why reading stopped before the end of the file; NULL if it did not. */
extern const char *avc_coco_problem(const AvcCocoReader *reader);

/* Was there a list of annotations, if only an empty one? */
extern bool avc_coco_has_annotations(const AvcCocoReader *reader);

extern void avc_coco_close(AvcCocoReader *reader);

#endif
