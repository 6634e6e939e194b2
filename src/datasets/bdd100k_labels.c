/*
 * datasets/bdd100k_labels.c
 *		Entries of BDD100K label files, one image at a time.
 *
 * A stack of places follows the nesting of the file: what a key means
 * depends on the place that it stands in, and what is not known is passed
 * over with everything inside.  The layouts differ little:
 *
 *		[ {name, attributes, labels: [...]}, ... ]
 *		{ frames: [ {name, attributes, labels: [...]}, ... ], ... }
 *		{ name, attributes, frames: [ {objects: [...]} ] }
 *
 * In the last two a frame without a name belongs to the object around it.
 * An entry lives in a memory context of its own, so what is held does not
 * grow with the file.
 */
#include "postgres.h"

#include <math.h>

#include "utils/memutils.h"

#include "datasets/bdd100k_labels.h"
#include "datasets/category.h"
#include "datasets/label_reader.h"
#include "datasets/label_text.h"

#define MAX_BOXES 10000			/* of one image */
#define MAX_LABELS 100000		/* of one image, lanes included */
#define MAX_PLACES 80			/* deeper than JSON may be nested */

typedef enum Place
{
	PLACE_FILE,
	PLACE_UNKNOWN,
	PLACE_ENTRIES,				/* list of entries */
	PLACE_ENTRY,
	PLACE_ATTRIBUTES,
	PLACE_LABELS,				/* list of labels */
	PLACE_LABEL,
	PLACE_LABEL_ATTRIBUTES,
	PLACE_BOX
} Place;

typedef enum Key
{
	KEY_UNKNOWN,
	KEY_NAME,
	KEY_ATTRIBUTES,
	KEY_FRAMES,
	KEY_LABELS,
	KEY_COCO,					/* a list of COCO's */
	KEY_WEATHER,
	KEY_SCENE,
	KEY_TIMEOFDAY,
	KEY_CATEGORY,
	KEY_BOX,
	KEY_SCORE,
	KEY_OCCLUDED,
	KEY_TRUNCATED,
	KEY_CROWD,
	KEY_X1,
	KEY_Y1,
	KEY_X2,
	KEY_Y2
} Key;

typedef struct KeyName
{
	Place		place;
	Key			key;
	const char *name;			/* compared without regard to case */
} KeyName;

static const KeyName key_names[] = {
	{PLACE_ENTRY, KEY_NAME, "name"},
	{PLACE_ENTRY, KEY_ATTRIBUTES, "attributes"},
	{PLACE_ENTRY, KEY_FRAMES, "frames"},
	{PLACE_ENTRY, KEY_LABELS, "labels"},
	{PLACE_ENTRY, KEY_LABELS, "objects"},
	{PLACE_ENTRY, KEY_COCO, "images"},
	{PLACE_ENTRY, KEY_COCO, "annotations"},
	{PLACE_ENTRY, KEY_COCO, "categories"},
	{PLACE_ATTRIBUTES, KEY_WEATHER, "weather"},
	{PLACE_ATTRIBUTES, KEY_SCENE, "scene"},
	{PLACE_ATTRIBUTES, KEY_TIMEOFDAY, "timeofday"},
	{PLACE_LABEL, KEY_CATEGORY, "category"},
	{PLACE_LABEL, KEY_ATTRIBUTES, "attributes"},
	{PLACE_LABEL, KEY_BOX, "box2d"},
	{PLACE_LABEL, KEY_SCORE, "score"},
	{PLACE_LABEL_ATTRIBUTES, KEY_OCCLUDED, "occluded"},
	{PLACE_LABEL_ATTRIBUTES, KEY_TRUNCATED, "truncated"},
	{PLACE_LABEL_ATTRIBUTES, KEY_CROWD, "crowd"},
	{PLACE_BOX, KEY_X1, "x1"},
	{PLACE_BOX, KEY_Y1, "y1"},
	{PLACE_BOX, KEY_X2, "x2"},
	{PLACE_BOX, KEY_Y2, "y2"}
};

/* The label that is being read. */
typedef struct Label
{
	const char *category;		/* NULL until seen */
	char	   *own_category;	/* the same, if it is no static name */
	bool		is_ignored;
	bool		has_box;
	bool		has_score;
	int			corners;		/* bit mask of the numbers seen */
	double		box[4];
	int8		occluded;
	int8		truncated;
} Label;

struct AvcBddReader
{
	AvcLabelReader file;		/* its queue is of entries */
	AvcBddEntry *entry;			/* being read */
	AvcBddEntry *outer;			/* the object around a frame, or NULL */
	bool		outer_is_list;	/* its frames have names of their own */
	Label		label;
	Place		places[MAX_PLACES];
	Key			keys[MAX_PLACES];	/* last key seen in each place */
};

static void
set_problem(AvcBddReader *reader, const char *problem)
{
	AvcBddEntry *entry = reader->entry;

	if (entry != NULL && entry->problem == NULL)
		entry->problem = MemoryContextStrdup(entry->context, problem);
}

/*
 * Copy a string of the file into the entry, or set its problem and return
 * NULL.
 */
static char *
take_text(AvcBddReader *reader, const AvcJsonValue *value, const char *what)
{
	const char *problem;

	/* nothing more is kept of an entry that is refused anyway */
	if (reader->entry->problem != NULL)
		return NULL;
	problem = avc_label_text_problem(value->text, value->len);
	if (problem != NULL)
	{
		set_problem(reader, psprintf("%s %s", what, problem));
		return NULL;
	}
	return pnstrdup(value->text, value->len);
}

static void
start_entry(AvcBddReader *reader)
{
	MemoryContext context;

	/* a child of the reader, so that an error frees it, too */
	context = AllocSetContextCreate(reader->file.context, "label entry",
									ALLOCSET_SMALL_SIZES);
	reader->entry = MemoryContextAllocZero(context, sizeof(AvcBddEntry));
	reader->entry->context = context;
}

/* A frame without a name: its labels are those of the object around it. */
static void
merge_into_outer(AvcBddReader *reader)
{
	AvcBddEntry *frame = reader->entry;
	AvcBddEntry *outer = reader->outer;

	reader->entry = outer;
	if (outer->has_labels)
	{
		set_problem(reader, "entry has more than one frame");
		avc_bdd_free_entry(frame);
		return;
	}
	MemoryContextSetParent(frame->context, outer->context);
	outer->has_labels = true;
	outer->box_count = frame->box_count;
	outer->box_room = frame->box_room;
	outer->categories = frame->categories;
	outer->boxes = frame->boxes;
	outer->occluded = frame->occluded;
	outer->truncated = frame->truncated;
	outer->ignored = frame->ignored;
	outer->without_box = frame->without_box;
	outer->degenerate = frame->degenerate;
	outer->scored = frame->scored;
	if (frame->problem != NULL)
		set_problem(reader, frame->problem);
}

static void
end_entry(AvcBddReader *reader)
{
	AvcBddEntry *entry = reader->entry;

	if (reader->outer != NULL)
	{
		if (entry->name == NULL && entry->problem == NULL)
			merge_into_outer(reader);
		else
		{
			reader->outer_is_list = true;
			avc_label_reader_add(&reader->file, &entry->node);
			reader->entry = reader->outer;
		}
		reader->outer = NULL;
	}
	else
	{
		if (reader->outer_is_list)
			avc_bdd_free_entry(entry);
		else
			avc_label_reader_add(&reader->file, &entry->node);
		reader->outer_is_list = false;
		reader->entry = NULL;
	}
}

/* Something in a list of entries that is none. */
static void
refuse_element(AvcBddReader *reader)
{
	reader->outer = reader->entry;
	start_entry(reader);
	set_problem(reader, "entry is not an object");
	end_entry(reader);
}

static void
grow_boxes(AvcBddEntry *entry)
{
	int			room = Max(16, entry->box_room * 2);
	MemoryContext old = MemoryContextSwitchTo(entry->context);

	if (entry->box_room == 0)
	{
		entry->categories = palloc(room * sizeof(char *));
		entry->boxes = palloc(room * 4 * sizeof(float));
		entry->occluded = palloc(room);
		entry->truncated = palloc(room);
		entry->ignored = palloc(room * sizeof(bool));
	}
	else
	{
		entry->categories = repalloc(entry->categories,
									 room * sizeof(char *));
		entry->boxes = repalloc(entry->boxes, room * 4 * sizeof(float));
		entry->occluded = repalloc(entry->occluded, room);
		entry->truncated = repalloc(entry->truncated, room);
		entry->ignored = repalloc(entry->ignored, room * sizeof(bool));
	}
	entry->box_room = room;
	MemoryContextSwitchTo(old);
}

static void
drop_category(Label *label)
{
	if (label->own_category != NULL)
		pfree(label->own_category);
	label->own_category = NULL;
	label->category = NULL;
}

static void
end_label(AvcBddReader *reader)
{
	AvcBddEntry *entry = reader->entry;
	Label	   *label = &reader->label;
	float		box[4];
	int			n = entry->box_count;
	int			number = n + entry->without_box + entry->degenerate + 1;
	int			i;

	/* nothing more is kept of an entry that is refused anyway */
	if (entry->problem != NULL)
		return;
	if (number > MAX_LABELS)
	{
		set_problem(reader, psprintf("entry has more than %d labels",
									 MAX_LABELS));
		return;
	}
	entry->scored += label->has_score;
	if (!label->has_box)
	{
		entry->without_box++;
		drop_category(label);
		return;
	}
	if (label->corners != 15)
	{
		set_problem(reader, psprintf("box2d of label %d lacks a corner",
									 number));
		return;
	}
	for (i = 0; i < 4; i++)
		box[i] = (float) label->box[i];
	if (!isfinite(box[0]) || !isfinite(box[1]) || !isfinite(box[2]) ||
		!isfinite(box[3]) || box[0] >= box[2] || box[1] >= box[3])
	{
		entry->degenerate++;
		drop_category(label);
		return;
	}
	if (n >= MAX_BOXES)
	{
		set_problem(reader, psprintf("entry has more than %d boxes",
									 MAX_BOXES));
		return;
	}
	if (n == entry->box_room)
		grow_boxes(entry);
	entry->categories[n] = label->category ? label->category : "unknown";
	memcpy(entry->boxes + 4 * n, box, sizeof(box));
	entry->occluded[n] = label->occluded;
	entry->truncated[n] = label->truncated;
	entry->ignored[n] = label->is_ignored;
	entry->box_count++;
}

/* What is inside the object or list that starts at "key" of "place"? */
static Place
place_inside(AvcBddReader *reader, Place place, Key key, bool is_list)
{
	switch (place)
	{
		case PLACE_FILE:
			return is_list ? PLACE_ENTRIES : PLACE_ENTRY;
		case PLACE_ENTRIES:
			if (!is_list)
				return PLACE_ENTRY;
			refuse_element(reader);
			return PLACE_UNKNOWN;
		case PLACE_ENTRY:
			if (key == KEY_LABELS && is_list)
				return PLACE_LABELS;
			if (key == KEY_ATTRIBUTES && !is_list)
				return PLACE_ATTRIBUTES;
			if (key == KEY_FRAMES && is_list &&
				reader->places[0] == PLACE_ENTRY && reader->outer == NULL)
				return PLACE_ENTRIES;
			if (key == KEY_COCO && is_list && reader->outer == NULL &&
				reader->places[0] == PLACE_ENTRY)
				reader->file.problem = "is a COCO document, which ingest_coco() reads";
			else if (key == KEY_LABELS || key == KEY_ATTRIBUTES ||
					 key == KEY_NAME)
				set_problem(reader, "name, attributes or labels of the entry have the wrong type");
			return PLACE_UNKNOWN;
		case PLACE_LABELS:
			if (!is_list)
				return PLACE_LABEL;
			set_problem(reader, "labels contain a list");
			return PLACE_UNKNOWN;
		case PLACE_LABEL:
			if (key == KEY_ATTRIBUTES && !is_list)
				return PLACE_LABEL_ATTRIBUTES;
			if (key == KEY_BOX && !is_list)
				return PLACE_BOX;
			if (key == KEY_BOX || key == KEY_CATEGORY)
				set_problem(reader, "category or box2d of a label has the wrong type");
			return PLACE_UNKNOWN;
		case PLACE_ATTRIBUTES:
			if (key != KEY_UNKNOWN)
				set_problem(reader, "an attribute of the entry is not a string");
			return PLACE_UNKNOWN;
		case PLACE_BOX:
			if (key != KEY_UNKNOWN)
				set_problem(reader, "a corner of a box2d is not a number");
			return PLACE_UNKNOWN;
		default:
			return PLACE_UNKNOWN;
	}
}

static void
start_level(AvcBddReader *reader, int depth, bool is_list)
{
	Place		place = PLACE_FILE;
	Key			key = KEY_UNKNOWN;

	if (depth > 0)
	{
		place = reader->places[depth - 1];
		key = reader->keys[depth - 1];
	}
	reader->places[depth] = place_inside(reader, place, key, is_list);
	reader->keys[depth] = KEY_UNKNOWN;
	switch (reader->places[depth])
	{
		case PLACE_ENTRY:
			/* inside a list of the top object it is one of its frames */
			reader->outer = reader->entry;
			start_entry(reader);
			break;
		case PLACE_LABELS:
			reader->entry->has_labels = true;
			break;
		case PLACE_LABEL:
			memset(&reader->label, 0, sizeof(Label));
			reader->label.occluded = -1;
			reader->label.truncated = -1;
			break;
		case PLACE_BOX:
			reader->label.has_box = true;
			break;
		default:
			break;
	}
}

static Key
find_key(Place place, const AvcJsonValue *value)
{
	int			i;

	for (i = 0; i < lengthof(key_names); i++)
	{
		if (key_names[i].place == place &&
			strlen(key_names[i].name) == value->len &&
			pg_strncasecmp(key_names[i].name, value->text, value->len) == 0)
			return key_names[i].key;
	}
	return KEY_UNKNOWN;
}

static void
take_category(AvcBddReader *reader, const AvcJsonValue *value)
{
	AvcCategory category;

	drop_category(&reader->label);
	/* without one, like a label that lacks the key */
	if (value->len == 0)
		return;
	if (avc_category_fold_label(&category, value->text, value->len))
	{
		reader->label.category = category.name;
		reader->label.is_ignored |= category.is_ignored;
	}
	else
	{
		reader->label.own_category = take_text(reader, value, "category");
		reader->label.category = reader->label.own_category;
	}
}

static void
take_attribute(AvcBddReader *reader, Key key, AvcJsonEvent event,
			   const AvcJsonValue *value)
{
	AvcBddEntry *entry = reader->entry;
	char	  **field;

	if (key == KEY_UNKNOWN)
		return;
	field = key == KEY_WEATHER ? &entry->weather :
		key == KEY_SCENE ? &entry->scene : &entry->timeofday;
	if (*field != NULL)
		pfree(*field);
	*field = NULL;
	if (event == AVC_JSON_STRING)
		*field = take_text(reader, value, "attribute");
	else if (event != AVC_JSON_NULL)
		set_problem(reader, "an attribute of the entry is not a string");
}

static void
take_flag(Label *label, Key key, AvcJsonEvent event, const AvcJsonValue *value)
{
	if (event != AVC_JSON_BOOLEAN)
		return;
	if (key == KEY_OCCLUDED)
		label->occluded = value->boolean;
	else if (key == KEY_TRUNCATED)
		label->truncated = value->boolean;
	else if (key == KEY_CROWD)
		label->is_ignored |= value->boolean;
}

/* A string, number, boolean or null at "key" of "place". */
static void
take_value(AvcBddReader *reader, Place place, Key key, AvcJsonEvent event,
		   const AvcJsonValue *value)
{
	bool		is_null = event == AVC_JSON_NULL;

	switch (place)
	{
		case PLACE_ENTRIES:
			refuse_element(reader);
			break;
		case PLACE_ENTRY:
			if (key == KEY_NAME && event == AVC_JSON_STRING)
			{
				if (reader->entry->name != NULL)
					pfree(reader->entry->name);
				reader->entry->name = take_text(reader, value, "name");
			}
			else if (key != KEY_UNKNOWN && key != KEY_COCO && !is_null)
				set_problem(reader, "name, attributes or labels of the entry have the wrong type");
			break;
		case PLACE_ATTRIBUTES:
			take_attribute(reader, key, event, value);
			break;
		case PLACE_LABELS:
			if (!is_null)
				set_problem(reader, "labels contain something else than objects");
			break;
		case PLACE_LABEL:
			if (key == KEY_CATEGORY && event == AVC_JSON_STRING)
				take_category(reader, value);
			else if (key == KEY_SCORE)
				reader->label.has_score = event == AVC_JSON_NUMBER;
			else if ((key == KEY_CATEGORY || key == KEY_BOX) && !is_null)
				set_problem(reader, "category or box2d of a label has the wrong type");
			break;
		case PLACE_LABEL_ATTRIBUTES:
			take_flag(&reader->label, key, event, value);
			break;
		case PLACE_BOX:
			if (key == KEY_UNKNOWN)
				break;
			if (event == AVC_JSON_NUMBER)
			{
				reader->label.box[key - KEY_X1] = value->number;
				reader->label.corners |= 1 << (key - KEY_X1);
			}
			else
				set_problem(reader, "a corner of a box2d is not a number");
			break;
		default:
			break;
	}
}

static void
handle_event(void *arg, AvcJsonEvent event, const AvcJsonValue *value,
			 int depth)
{
	AvcBddReader *reader = arg;
	MemoryContext old = CurrentMemoryContext;

	if (reader->file.problem != NULL)
		return;
	if (reader->entry != NULL)
		MemoryContextSwitchTo(reader->entry->context);
	switch (event)
	{
		case AVC_JSON_START_OBJECT:
		case AVC_JSON_START_ARRAY:
			start_level(reader, depth, event == AVC_JSON_START_ARRAY);
			break;
		case AVC_JSON_END_OBJECT:
			if (reader->places[depth] == PLACE_ENTRY)
			{
				/* which may free the entry's context */
				MemoryContextSwitchTo(reader->file.context);
				end_entry(reader);
			}
			else if (reader->places[depth] == PLACE_LABEL)
				end_label(reader);
			break;
		case AVC_JSON_END_ARRAY:
			break;
		case AVC_JSON_KEY:
			reader->keys[depth - 1] = find_key(reader->places[depth - 1],
											   value);
			break;
		default:
			if (depth > 0)
				take_value(reader, reader->places[depth - 1],
						   reader->keys[depth - 1], event, value);
			else
				reader->file.problem = "is neither a list nor an object";
			break;
	}
	MemoryContextSwitchTo(old);
}

AvcBddReader *
avc_bdd_open(int fd)
{
	return avc_label_reader_open(sizeof(AvcBddReader), fd, handle_event);
}

AvcBddEntry *
avc_bdd_next(AvcBddReader *reader)
{
	slist_node *node;

	while ((node = avc_label_reader_take(&reader->file)) == NULL)
	{
		if (!avc_label_reader_read(&reader->file))
			return NULL;
	}
	return slist_container(AvcBddEntry, node, node);
}

const char *
avc_bdd_problem(const AvcBddReader *reader)
{
	return avc_label_reader_problem(&reader->file);
}

void
avc_bdd_free_entry(AvcBddEntry *entry)
{
	MemoryContextDelete(entry->context);
}

void
avc_bdd_close(AvcBddReader *reader)
{
	avc_label_reader_close(&reader->file);
}
