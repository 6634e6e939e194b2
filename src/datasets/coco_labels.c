/*
 * datasets/coco_labels.c
 *		Images, annotations and categories of a COCO instances file, one at a
 *		time and in the order of the file.
 *
 * The top object holds three lists of objects; each object becomes an item.
 * Memory: "items" holds what one piece of the file gave and is reset before
 * the next piece is read; the item being read is in the reader itself.
 */
#include "postgres.h"

#include <math.h>

#include "utils/memutils.h"

#include "datasets/coco_labels.h"
#include "datasets/label_reader.h"
#include "datasets/label_text.h"

/* Largest integer that a double holds exactly. */
#define MAX_ID 9007199254740992.0

typedef enum Place
{
	PLACE_OTHER,
	PLACE_FILE,					/* the top object */
	PLACE_LIST,					/* of items */
	PLACE_ITEM,
	PLACE_BBOX
} Place;

typedef enum Key
{
	KEY_OTHER,
	KEY_ID,
	KEY_IMAGE_ID,
	KEY_CATEGORY_ID,
	KEY_NAME,
	KEY_BBOX,
	KEY_AREA,
	KEY_IGNORED,
	KEY_SCORE,
	KEY_WIDTH,
	KEY_HEIGHT
} Key;

static const struct
{
	AvcCocoKind kind;
	Key			key;
	const char *name;
}			key_names[] =
{
	{AVC_COCO_IMAGE, KEY_ID, "id"},
	{AVC_COCO_IMAGE, KEY_NAME, "file_name"},
	{AVC_COCO_IMAGE, KEY_WIDTH, "width"},
	{AVC_COCO_IMAGE, KEY_HEIGHT, "height"},
	{AVC_COCO_ANNOTATION, KEY_ID, "id"},
	{AVC_COCO_ANNOTATION, KEY_IMAGE_ID, "image_id"},
	{AVC_COCO_ANNOTATION, KEY_CATEGORY_ID, "category_id"},
	{AVC_COCO_ANNOTATION, KEY_BBOX, "bbox"},
	{AVC_COCO_ANNOTATION, KEY_AREA, "area"},
	{AVC_COCO_ANNOTATION, KEY_IGNORED, "iscrowd"},
	{AVC_COCO_ANNOTATION, KEY_IGNORED, "ignore"},
	{AVC_COCO_ANNOTATION, KEY_SCORE, "score"},
	{AVC_COCO_CATEGORY, KEY_ID, "id"},
	{AVC_COCO_CATEGORY, KEY_NAME, "name"}
};

static const char *const list_names[] = {
	"images", "annotations", "categories"	/* in the order of AvcCocoKind */
};

struct AvcCocoReader
{
	AvcLabelReader file;		/* its queue is of "items" */
	MemoryContext items;
	bool		has_annotations;
	Place		place;			/* innermost one that is known */
	int			depth;			/* of what is inside it */
	int			list;			/* AvcCocoKind of the list it is in, or -1 */
	Key			key;			/* of the item */
	AvcCocoItem item;
	char		name[AVC_LABEL_TEXT_BYTES + 1];
	int			numbers;		/* of the bbox so far */
};

static void
set_problem(AvcCocoReader *reader, const char *problem)
{
	if (reader->item.problem == NULL)
		reader->item.problem = problem;
}

static void
start_item(AvcCocoReader *reader)
{
	memset(&reader->item, 0, sizeof(AvcCocoItem));
	reader->item.kind = reader->list;
	reader->key = KEY_OTHER;
}

static void
end_item(AvcCocoReader *reader)
{
	AvcCocoItem *item = MemoryContextAlloc(reader->items, sizeof(AvcCocoItem));

	*item = reader->item;
	if (item->name != NULL)
		item->name = MemoryContextStrdup(reader->items, reader->name);
	avc_label_reader_add(&reader->file, &item->node);
}

static bool
is_text(const AvcJsonValue *value, const char *text)
{
	return strlen(text) == value->len &&
		memcmp(text, value->text, value->len) == 0;
}

/* Which of the lists begins at a key of the top object; -1 = another. */
static int
find_list(const AvcJsonValue *value)
{
	int			i;

	for (i = 0; i < lengthof(list_names); i++)
	{
		if (is_text(value, list_names[i]))
			return i;
	}
	return -1;
}

static Key
find_key(AvcCocoKind kind, const AvcJsonValue *value)
{
	int			i;

	for (i = 0; i < lengthof(key_names); i++)
	{
		if (key_names[i].kind == kind && is_text(value, key_names[i].name))
			return key_names[i].key;
	}
	return KEY_OTHER;
}

/*
 * An object or list begins inside the innermost known place.  What is not
 * known does not become a place, so its inside is passed over by depth.
 */
static void
start_level(AvcCocoReader *reader, bool is_list, int depth)
{
	Place		inside = PLACE_OTHER;

	if (reader->place == PLACE_OTHER)
	{
		if (is_list)
			reader->file.problem = "is a list and no COCO instances document";
		inside = PLACE_FILE;
	}
	else if (depth != reader->depth)
		return;
	else if (reader->place == PLACE_FILE && reader->list >= 0)
	{
		if (!is_list)
			reader->file.problem = psprintf("\"%s\" is not a list",
									   list_names[reader->list]);
		reader->has_annotations |= reader->list == AVC_COCO_ANNOTATION;
		inside = PLACE_LIST;
	}
	else if (reader->place == PLACE_LIST)
	{
		start_item(reader);
		inside = PLACE_ITEM;
		if (is_list)
			set_problem(reader, "is a list and not an object");
	}
	else if (reader->place == PLACE_ITEM && reader->key != KEY_OTHER)
	{
		if (reader->key == KEY_BBOX && is_list)
			inside = PLACE_BBOX;
		else if (reader->key < KEY_SCORE)
			set_problem(reader, "a value is of the wrong type");
		reader->numbers = 0;
	}
	if (inside == PLACE_OTHER)
		return;
	reader->place = inside;
	reader->depth = depth + 1;
}

static void
end_bbox(AvcCocoReader *reader)
{
	if (reader->numbers == 4)
		reader->item.known |= AVC_COCO_BBOX;
	else if (reader->numbers > 0)
		set_problem(reader, "bbox does not have four numbers");
}

static void
end_level(AvcCocoReader *reader, int depth)
{
	if (depth + 1 != reader->depth)
		return;
	reader->depth = depth;
	switch (reader->place)
	{
		case PLACE_BBOX:
			end_bbox(reader);
			reader->place = PLACE_ITEM;
			break;
		case PLACE_ITEM:
			end_item(reader);
			reader->place = PLACE_LIST;
			break;
		case PLACE_LIST:
			reader->place = PLACE_FILE;
			break;
		default:
			break;
	}
}

static void
take_id(AvcCocoReader *reader, AvcJsonEvent event, const AvcJsonValue *value)
{
	AvcCocoItem *item = &reader->item;

	int64		id;

	if (event != AVC_JSON_NUMBER ||
		!(value->is_integer || (value->number == floor(value->number) &&
								fabs(value->number) <= MAX_ID)))
	{
		set_problem(reader, "an id is not an integer of 64 bits");
		return;
	}
	id = value->is_integer ? value->integer : (int64) value->number;
	if (reader->key == KEY_ID)
	{
		item->id = id;
		item->known |= AVC_COCO_ID;
	}
	else if (reader->key == KEY_IMAGE_ID)
	{
		item->image_id = id;
		item->known |= AVC_COCO_IMAGE_ID;
	}
	else
	{
		item->category_id = id;
		item->known |= AVC_COCO_CATEGORY_ID;
	}
}

/* The width or height of an image, a number of pixels; else not known. */
static void
take_side(AvcCocoReader *reader, AvcJsonEvent event, const AvcJsonValue *value)
{
	bool		is_known = event == AVC_JSON_NUMBER && value->number >= 1 &&
		value->number <= PG_INT32_MAX;
	int			side = is_known ? (int) value->number : 0;

	if (reader->key == KEY_WIDTH)
		reader->item.width = side;
	else
		reader->item.height = side;
}

static void
take_name(AvcCocoReader *reader, AvcJsonEvent event, const AvcJsonValue *value)
{
	const char *problem;

	if (event != AVC_JSON_STRING)
	{
		set_problem(reader, "a name is not a string");
		return;
	}
	problem = avc_label_text_problem(value->text, value->len);
	if (problem != NULL)
	{
		set_problem(reader, problem);
		return;
	}
	memcpy(reader->name, value->text, value->len);
	reader->name[value->len] = '\0';
	reader->item.name = reader->name;
}

/* A string, number, boolean or null at the key of an item. */
static void
take_value(AvcCocoReader *reader, AvcJsonEvent event,
		   const AvcJsonValue *value)
{
	AvcCocoItem *item = &reader->item;

	if (event == AVC_JSON_NULL)
		return;
	switch (reader->key)
	{
		case KEY_ID:
		case KEY_IMAGE_ID:
		case KEY_CATEGORY_ID:
			take_id(reader, event, value);
			break;
		case KEY_NAME:
			take_name(reader, event, value);
			break;
		case KEY_BBOX:
			set_problem(reader, "bbox is not a list");
			break;
		case KEY_AREA:
			if (event != AVC_JSON_NUMBER)
				set_problem(reader, "area is not a number");
			item->area = value->number;
			item->known |= AVC_COCO_AREA;
			break;
		case KEY_IGNORED:
			if (event == AVC_JSON_BOOLEAN)
				item->is_ignored |= value->boolean;
			else if (event == AVC_JSON_NUMBER)
				item->is_ignored |= value->number != 0;
			else
				set_problem(reader, "iscrowd or ignore is not 0 or 1");
			break;
		case KEY_SCORE:
			item->has_score = event == AVC_JSON_NUMBER;
			break;
		case KEY_WIDTH:
		case KEY_HEIGHT:
			take_side(reader, event, value);
			break;
		case KEY_OTHER:
			break;
	}
}

static void
take_bbox_number(AvcCocoReader *reader, AvcJsonEvent event,
				 const AvcJsonValue *value)
{
	if (event != AVC_JSON_NUMBER)
		set_problem(reader, "bbox holds something else than numbers");
	else if (reader->numbers < 4)
		reader->item.bbox[reader->numbers] = value->number;
	reader->numbers = Min(reader->numbers + 1, 5);
}

/* A value that is not an object or list, right inside the known place. */
static void
take_scalar(AvcCocoReader *reader, AvcJsonEvent event,
			const AvcJsonValue *value)
{
	switch (reader->place)
	{
		case PLACE_FILE:
			if (reader->list >= 0 && event != AVC_JSON_NULL)
				reader->file.problem = psprintf("\"%s\" is not a list",
										   list_names[reader->list]);
			break;
		case PLACE_LIST:
			start_item(reader);
			set_problem(reader, "is not an object");
			end_item(reader);
			break;
		case PLACE_ITEM:
			take_value(reader, event, value);
			break;
		case PLACE_BBOX:
			take_bbox_number(reader, event, value);
			break;
		case PLACE_OTHER:
			reader->file.problem = "is no COCO instances document";
			break;
	}
}

static void
handle_event(void *arg, AvcJsonEvent event, const AvcJsonValue *value,
			 int depth)
{
	AvcCocoReader *reader = arg;

	if (reader->file.problem != NULL)
		return;
	switch (event)
	{
		case AVC_JSON_START_OBJECT:
		case AVC_JSON_START_ARRAY:
			start_level(reader, event == AVC_JSON_START_ARRAY, depth);
			break;
		case AVC_JSON_END_OBJECT:
		case AVC_JSON_END_ARRAY:
			end_level(reader, depth);
			break;
		case AVC_JSON_KEY:
			if (depth != reader->depth)
				break;
			if (reader->place == PLACE_FILE)
				reader->list = find_list(value);
			else if (reader->place == PLACE_ITEM)
				reader->key = find_key(reader->item.kind, value);
			break;
		default:
			if (depth == reader->depth)
				take_scalar(reader, event, value);
			break;
	}
}

AvcCocoReader *
avc_coco_open(int fd)
{
	AvcCocoReader *reader = avc_label_reader_open(sizeof(AvcCocoReader), fd,
												  handle_event);

	reader->items = AllocSetContextCreate(reader->file.context, "COCO items",
										  ALLOCSET_DEFAULT_SIZES);
	reader->list = -1;
	return reader;
}

const AvcCocoItem *
avc_coco_next(AvcCocoReader *reader)
{
	slist_node *node;

	while ((node = avc_label_reader_take(&reader->file)) == NULL)
	{
		MemoryContextReset(reader->items);
		if (!avc_label_reader_read(&reader->file))
			return NULL;
	}
	return slist_container(AvcCocoItem, node, node);
}

const char *
avc_coco_problem(const AvcCocoReader *reader)
{
	return avc_label_reader_problem(&reader->file);
}

bool
avc_coco_has_annotations(const AvcCocoReader *reader)
{
	return reader->has_annotations;
}

void
avc_coco_close(AvcCocoReader *reader)
{
	avc_label_reader_close(&reader->file);
}
