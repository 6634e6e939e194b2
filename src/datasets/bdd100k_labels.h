/*
 * datasets/bdd100k_labels.h
 *		Entries of BDD100K label files, one image at a time.
 */
#ifndef AVC_DATASETS_BDD100K_LABELS_H
#define AVC_DATASETS_BDD100K_LABELS_H

#include "lib/ilist.h"

/* What a label file says of one image. */
typedef struct AvcBddEntry
{
	slist_node	node;
	MemoryContext context;		/* holds everything of the entry */
	char	   *name;			/* as written; NULL if it has none */
	char	   *weather;		/* NULL = not known, as the next two */
	char	   *scene;
	char	   *timeofday;
	const char *problem;		/* why the entry cannot be used, or NULL */
	bool		has_labels;		/* a list of labels was seen */
	int			box_count;
	int			box_room;		/* boxes that the arrays have room for */
	const char **categories;	/* box_count names, folded */
	float	   *boxes;			/* (box_count, 4) x1 y1 x2 y2 pixels */
	int8	   *occluded;		/* 0, 1, -1 = not known */
	int8	   *truncated;
	bool	   *ignored;
	int			without_box;	/* lanes, drivable areas: no box2d */
	int			scored;			/* labels with a score: predictions */
	int			degenerate;		/* x1 >= x2, y1 >= y2 or not finite */
} AvcBddEntry;

typedef struct AvcBddReader AvcBddReader;

/*
 * Read a label file of any of the three layouts from the open file "fd",
 * which stays the caller's: a list of images, one image, or an object with
 * a list "frames".  Memory is taken from the current context.
 */
extern AvcBddReader *avc_bdd_open(int fd);

/*
 * The next entry, or NULL at the end of what can be read.  The caller frees
 * it with avc_bdd_free_entry.
 */
extern AvcBddEntry *avc_bdd_next(AvcBddReader *reader);

/* Why reading stopped before the end of the file; NULL if it did not. */
extern const char *avc_bdd_problem(const AvcBddReader *reader);

extern void avc_bdd_free_entry(AvcBddEntry *entry);
extern void avc_bdd_close(AvcBddReader *reader);

#endif
