/*
 * datasets/coco_tables.h
 *		What a COCO file says, sorted by image.
 *
 * A COCO file may name its categories, images and annotations in any order,
 * and the annotations of one image anywhere among those of others.  They are
 * put into temporary tables while the file passes and read back image by
 * image: what the backend holds is a page of annotations and the categories,
 * what it writes to disk about 130 bytes an annotation.
 */
#ifndef AVC_DATASETS_COCO_TABLES_H
#define AVC_DATASETS_COCO_TABLES_H

#include "datasets/coco_labels.h"

typedef struct AvcCocoTables AvcCocoTables;

typedef struct AvcCocoImage
{
	int64		number;			/* in the file, from 1 */
	int64		id;
	const char *name;			/* as written */
	bool		is_duplicate;	/* an earlier image has this id */
	int			width;			/* 0 = not said, as height */
	int			height;
} AvcCocoImage;

/* The boxes of an image, in the order of the file. */
typedef struct AvcCocoBoxes
{
	const char *problem;		/* why they cannot be used, or NULL */
	int			count;
	const char **categories;	/* folded */
	float	   *boxes;			/* (count, 4) x1 y1 x2 y2 pixels */
	bool	   *ignored;
	float	   *area;			/* NaN = not known */
	int			without_box;	/* annotations without a bbox */
	int			degenerate;		/* without an area, or not finite */
} AvcCocoBoxes;

/*
 * Make the tables.  SPI is connected; everything is kept in the current
 * context.
 */
extern AvcCocoTables *avc_coco_tables_create(void);

/*
 * Put an item into them.  An annotation knows its image; if it has a problem,
 * the boxes of its image have it, too.  An image knows its id and name.
 */
extern void avc_coco_tables_add(AvcCocoTables *tables,
								const AvcCocoItem *item);

/* The file is read: make the tables ready to be read from. */
extern void avc_coco_tables_finish(AvcCocoTables *tables);

/* How many annotations are of images that the file does not name? */
extern int64 avc_coco_tables_orphans(AvcCocoTables *tables);

/*
 * The next images after number "after", at most "room", in the order of the
 * file.  Names are palloc'd in the current context, as is what follows.
 */
extern int	avc_coco_tables_images(AvcCocoTables *tables, int64 after,
								   AvcCocoImage *images, int room);

extern void avc_coco_tables_boxes(AvcCocoTables *tables, int64 image_id,
								  AvcCocoBoxes *boxes);

extern void avc_coco_tables_drop(AvcCocoTables *tables);

#endif
