/*
 * datasets/category.h
 *		The one table of spellings of object classes.
 */
#ifndef AVC_DATASETS_CATEGORY_H
#define AVC_DATASETS_CATEGORY_H

/* What a label file's class means once its spelling is folded. */
typedef struct AvcCategory
{
	const char *name;			/* the spelling that is stored, static */
	bool		is_ignored;		/* stands for the class, but not to be learnt */
} AvcCategory;

/*
 * Spelling under which avcurate stores the class ("pedestrian" -> "person",
 * "motor" -> "motorcycle"), or NULL for a name that it does not know.  Case
 * does not matter, nor do blanks, '_' and '-'.  "name" need not end in a
 * zero byte.  The result is static: equal classes give equal pointers.
 */
extern const char *avc_category_fold(const char *name, size_t len);

/*
 * The same for ingest, which also takes the ignored classes of BDD100K
 * ("other person", "other vehicle", "trailer") as what they stand for.
 * False for a name that it does not know.
 */
extern bool avc_category_fold_label(AvcCategory *category, const char *name,
									size_t len);

/*
 * An error if "holder", which has so many categories, could not take one
 * more: far more than anybody names are the sign of a wrong column.
 */
extern void avc_category_check_room(int64 count, const char *holder);

/* Are two names the same class: equal once folded, or byte for byte? */
extern bool avc_category_equal(const char *a, size_t a_len,
							   const char *b, size_t b_len);

#endif
