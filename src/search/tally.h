/*
 * search/tally.h
 *		What is in many frames, counted in one pass.
 */
#ifndef AVC_SEARCH_TALLY_H
#define AVC_SEARCH_TALLY_H

/* COCO's sizes: an area below 32 x 32 pixels, below 96 x 96, and the rest. */
typedef enum AvcBoxSize
{
	AVC_BOX_SMALL, AVC_BOX_MEDIUM, AVC_BOX_LARGE, AVC_BOX_SIZES
} AvcBoxSize;

/* Texts with numbers from 0, in the order of their first appearance. */
typedef struct AvcNames
{
	char	  **names;			/* (count) */
	int			count;
	uint16	   *slots;			/* number + 1, 0 = free */
} AvcNames;

/* Descriptions of a frame as a whole. */
typedef enum AvcSceneColumn
{
	AVC_WEATHER, AVC_TIMEOFDAY, AVC_SCENE, AVC_SCENE_COLUMNS
} AvcSceneColumn;

/* Boxes of a category, those that are ignored apart. */
typedef struct AvcCategoryCount
{
	int64		frames;
	int64		boxes;
	int64		ignored;
	int64		sizes[AVC_BOX_SIZES];
	double		pct_sum;		/* share of the frame, in percent */
	double		pct_max;
} AvcCategoryCount;

#define AVC_TALLY_NAMES 16000	/* of each kind, at most */
#define AVC_TALLY_PAIR_NAMES 2048	/* where pairs of them are counted */

typedef struct AvcTally
{
	int64		frames;
	int64		labelled;
	AvcNames	values[AVC_SCENE_COLUMNS];
	int64	   *value_counts[AVC_SCENE_COLUMNS];	/* frames by value */
	int64		unknown[AVC_SCENE_COLUMNS]; /* frames where it is NULL */
	AvcNames	categories;
	AvcCategoryCount *counts;	/* by category */
	int64	   *pairs;			/* frames with both, (2048, 2048); first < second */
} AvcTally;

/* What is to be counted: the more, the more is read. */
#define AVC_TALLY_SCENES	1
#define AVC_TALLY_BOXES		2
#define AVC_TALLY_PAIRS		4

/*
 * Count the rows of "from" (a FROM item) as the current user; $1 is the
 * version.  Connects to SPI.
 */
extern AvcTally *avc_tally(const char *from, int64 version, int what);

#endif							/* AVC_SEARCH_TALLY_H */
