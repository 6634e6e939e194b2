/*
 * datasets/category.c
 *		The one table of spellings of object classes.
 *
 * Three generations of BDD100K label files, and tools around them, name the
 * ten classes differently.  Everything that compares classes asks here, so
 * that no box is lost to a spelling.
 */
#include "postgres.h"

#include "datasets/category.h"

#define LONGEST_SPELLING 32
#define MAX_CATEGORIES 100000

typedef struct CategorySpelling
{
	const char *spelling;		/* lower case, without blanks */
	const char *name;
} CategorySpelling;

static const char person[] = "person";
static const char rider[] = "rider";
static const char car[] = "car";
static const char truck[] = "truck";
static const char bus[] = "bus";
static const char train[] = "train";
static const char motorcycle[] = "motorcycle";
static const char bicycle[] = "bicycle";
static const char traffic_light[] = "traffic light";
static const char traffic_sign[] = "traffic sign";

static const CategorySpelling spellings[] = {
	{"person", person},
	{"pedestrian", person},
	{"rider", rider},
	{"car", car},
	{"caravan", car},
	{"van", car},
	{"truck", truck},
	{"bus", bus},
	{"train", train},
	{"motorcycle", motorcycle},
	{"motor", motorcycle},
	{"motorbike", motorcycle},
	{"bicycle", bicycle},
	{"bike", bicycle},
	{"trafficlight", traffic_light},
	{"trafficsign", traffic_sign},
	{NULL, NULL}
};

static const CategorySpelling ignored_spellings[] = {
	{"otherperson", person},
	{"othervehicle", car},
	{"trailer", truck},
	{NULL, NULL}
};

static const char *
look_up(const CategorySpelling *table, const char *name, size_t len)
{
	char		plain[LONGEST_SPELLING];
	size_t		plain_len = 0;
	size_t		i;

	for (i = 0; i < len; i++)
	{
		if (strchr(" _-", name[i]) != NULL && name[i] != '\0')
			continue;
		if (plain_len == sizeof(plain) - 1)
			return NULL;
		plain[plain_len++] = pg_ascii_tolower((unsigned char) name[i]);
	}
	plain[plain_len] = '\0';
	for (; table->spelling != NULL; table++)
	{
		if (strcmp(table->spelling, plain) == 0)
			return table->name;
	}
	return NULL;
}

const char *
avc_category_fold(const char *name, size_t len)
{
	return look_up(spellings, name, len);
}

bool
avc_category_fold_label(AvcCategory *category, const char *name, size_t len)
{
	category->is_ignored = false;
	category->name = look_up(spellings, name, len);
	if (category->name == NULL)
	{
		category->is_ignored = true;
		category->name = look_up(ignored_spellings, name, len);
	}
	return category->name != NULL;
}

void
avc_category_check_room(int64 count, const char *holder)
{
	if (count >= MAX_CATEGORIES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s has more than %d categories", holder,
						MAX_CATEGORIES),
				 errhint("Name classes of objects, not single objects.")));
}

bool
avc_category_equal(const char *a, size_t a_len, const char *b, size_t b_len)
{
	const char *folded = avc_category_fold(a, a_len);

	if (folded != NULL)
		return folded == avc_category_fold(b, b_len);
	return a_len == b_len && memcmp(a, b, a_len) == 0;
}
