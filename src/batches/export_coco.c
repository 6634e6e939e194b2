/*
 * batches/export_coco.c
 *		A version of a slice as a COCO instances document.
 *
 * Corners become corner and size so that reading them back gives the same
 * numbers: width and height are written with as many digits as that takes.
 * ann_ignored becomes iscrowd and ignore.  Frames that are not labelled are
 * left out, for a COCO image without annotations is one without objects.
 *
 * Memory: the lists of the document live in the function's context; "row"
 * is reset with every frame.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "common/shortest_dec.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "batches/frame_scan.h"
#include "batches/jsonb_lists.h"
#include "common/spi.h"
#include "datasets/category.h"
#include "slices/slice.h"

PG_FUNCTION_INFO_V1(avc_export_coco);

#define FETCH_ROWS 256

typedef enum Column
{
	COLUMN_FRAME_ID,
	COLUMN_IMAGE_ID,
	COLUMN_WIDTH,
	COLUMN_HEIGHT,
	COLUMN_CATEGORIES,
	COLUMN_BBOXES,
	COLUMN_IGNORED,
	COLUMN_AREA,
	COLUMNS
} Column;

static const Oid column_types[COLUMNS] = {
	INT8OID, TEXTOID, INT4OID, INT4OID, TEXTARRAYOID, FLOAT4ARRAYOID,
	BOOLARRAYOID, FLOAT4ARRAYOID
};

/* The ten classes under the ids that BDD100K gave them. */
static const char *const official[] = {
	"person", "rider", "car", "truck", "bus", "train", "motorcycle",
	"bicycle", "traffic light", "traffic sign"
};

typedef struct CategoryId
{
	char	   *name;			/* hash key: a string of this address */
	int			id;
} CategoryId;

typedef struct Document
{
	const AvcSlice *slice;
	int64		version;
	MemoryContext context;
	MemoryContext row;
	AvcJsonbList images;
	AvcJsonbList annotations;
	AvcJsonbList categories;
	HTAB	   *ids;			/* CategoryId */
	int64		unlabelled;		/* frames left out */
	int64		degenerate;		/* boxes left out */
} Document;

static uint32
hash_name(const void *key, Size size)
{
	const char *name = *(char *const *) key;

	return string_hash(name, strlen(name) + 1);
}

static int
match_names(const void *a, const void *b, Size size)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

static void
raise_too_large(const Document *document)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("version " INT64_FORMAT " of slice %s does not fit into one jsonb value",
					document->version, document->slice->name),
			 errdetail("A jsonb value holds 256 MB; the first %d labelled frames fill it.",
					   document->images.count),
			 errhint("Export slices of fewer frames.")));
}

static void
add_element(Document *document, AvcJsonbList *list, const char *json)
{
	MemoryContext old = MemoryContextSwitchTo(document->row);

	if (!avc_jsonb_list_add(list, json))
		raise_too_large(document);
	MemoryContextSwitchTo(old);
}

/* The id of a category, which is made when it comes up first. */
static int
category_id(Document *document, const char *name)
{
	CategoryId *entry;
	StringInfoData json;
	bool		is_found;

	entry = hash_search(document->ids, &name, HASH_ENTER, &is_found);
	if (is_found)
		return entry->id;
	avc_category_check_room(hash_get_num_entries(document->ids) - 1,
							psprintf("slice %s", document->slice->name));
	entry->name = MemoryContextStrdup(document->context, name);
	entry->id = hash_get_num_entries(document->ids);
	initStringInfo(&json);
	appendStringInfo(&json, "{\"id\":%d,\"name\":", entry->id);
	escape_json(&json, name);
	appendStringInfoChar(&json, '}');
	add_element(document, &document->categories, json.data);
	return entry->id;
}

static void
append_float(StringInfo json, float value)
{
	char		digits[FLOAT_SHORTEST_DECIMAL_LEN];

	float_to_shortest_decimal_buf(value, digits);
	appendStringInfoString(json, digits);
}

static void
append_double(StringInfo json, double value)
{
	char		digits[DOUBLE_SHORTEST_DECIMAL_LEN];

	double_to_shortest_decimal_buf(value, digits);
	appendStringInfoString(json, digits);
}

/*
 * The distance from a to b, so that a + distance, read back, is b again: in
 * the digits of a float if these do, else in more.
 */
static void
append_size(StringInfo json, float a, float b)
{
	char		digits[FLOAT_SHORTEST_DECIMAL_LEN];
	double		size = (double) b - a;
	double		from;

	float_to_shortest_decimal_buf(a, digits);
	from = strtod(digits, NULL);
	float_to_shortest_decimal_buf((float) size, digits);
	if ((float) (from + strtod(digits, NULL)) == b)
		appendStringInfoString(json, digits);
	else
		append_double(json, (float) (from + size) == b ? size : b - from);
}

static void
add_annotation(Document *document, int64 frame_id, int category,
			   const float *box, bool is_ignored, float area)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"id\":%d,\"image_id\":" INT64_FORMAT
					 ",\"category_id\":%d,\"iscrowd\":%d%s,\"bbox\":[",
					 document->annotations.count + 1, frame_id, category,
					 is_ignored, is_ignored ? ",\"ignore\":1" : "");
	append_float(&json, box[0]);
	appendStringInfoChar(&json, ',');
	append_float(&json, box[1]);
	appendStringInfoChar(&json, ',');
	append_size(&json, box[0], box[2]);
	appendStringInfoChar(&json, ',');
	append_size(&json, box[1], box[3]);
	appendStringInfoString(&json, "],\"area\":");
	if (isfinite(area))
		append_float(&json, area);
	else
		append_double(&json, ((double) box[2] - box[0]) *
					  ((double) box[3] - box[1]));
	appendStringInfoChar(&json, '}');
	add_element(document, &document->annotations, json.data);
}

static bool
is_usable(const float *box)
{
	return isfinite(box[0]) && isfinite(box[1]) && isfinite(box[2]) &&
		isfinite(box[3]) && box[0] < box[2] && box[1] < box[3];
}

static void
add_annotations(Document *document, const AvcFrameRow *row)
{
	AvcFrameArrays arrays;
	int			i;

	avc_frame_arrays_read(&arrays, row);
	for (i = 0; i < arrays.count; i++)
	{
		const float *box = arrays.boxes + 4 * i;
		char	   *category;

		if (arrays.category_nulls[i] || !is_usable(box))
		{
			document->degenerate++;
			continue;
		}
		category = TextDatumGetCString(arrays.categories[i]);
		add_annotation(document, row->frame_id,
					   category_id(document, category), box,
					   arrays.ignored[i], arrays.areas[i]);
	}
}

/* "name" is the image_id, NULL without one. */
static void
add_image(Document *document, const AvcFrameRow *row, const char *name)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfo(&json, "{\"id\":" INT64_FORMAT
					 ",\"width\":%d,\"height\":%d,\"file_name\":",
					 row->frame_id, row->width, row->height);
	escape_json(&json, name == NULL ?
				psprintf(INT64_FORMAT ".jpg", row->frame_id) :
				psprintf("%s.jpg", name));
	appendStringInfoChar(&json, '}');
	add_element(document, &document->images, json.data);
}

static void
add_frame(Document *document, HeapTuple tuple, TupleDesc desc)
{
	MemoryContext old = MemoryContextSwitchTo(document->row);
	Datum		value[COLUMNS];
	bool		is_null[COLUMNS];
	AvcFrameRow row = {0};
	int			i;

	for (i = 0; i < COLUMNS; i++)
	{
		value[i] = SPI_getbinval(tuple, desc, i + 1, &is_null[i]);
		if (is_null[i])
			value[i] = (Datum) 0;
	}
	if (is_null[COLUMN_CATEGORIES])
		document->unlabelled++;
	else
	{
		row.frame_id = DatumGetInt64(value[COLUMN_FRAME_ID]);
		row.width = DatumGetInt32(value[COLUMN_WIDTH]);
		row.height = DatumGetInt32(value[COLUMN_HEIGHT]);
		row.categories = value[COLUMN_CATEGORIES];
		row.bboxes = value[COLUMN_BBOXES];
		row.ignored = value[COLUMN_IGNORED];
		row.areas = value[COLUMN_AREA];
		add_image(document, &row, is_null[COLUMN_IMAGE_ID] ? NULL :
				  TextDatumGetCString(value[COLUMN_IMAGE_ID]));
		add_annotations(document, &row);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(document->row);
}

/* Our casts would run whatever the slice's owner put behind the type. */
static void
check_types(const AvcSlice *slice, TupleDesc desc)
{
	int			i;

	for (i = 0; i < COLUMNS; i++)
	{
		if (SPI_gettypeid(desc, i + 1) != column_types[i])
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of slice %s has type %s, not %s",
							SPI_fname(desc, i + 1), slice->name,
							format_type_be(SPI_gettypeid(desc, i + 1)),
							format_type_be(column_types[i]))));
	}
}

static bool
has_column(const AvcSlice *slice, const char *column)
{
	ListCell   *cell;

	foreach(cell, slice->columns)
	{
		if (strcmp(lfirst(cell), column) == 0)
			return true;
	}
	return false;
}

/*
 * Read the version through slice_at, with the rights of the caller.
 */
static void
add_frames(Document *document)
{
	const AvcSlice *slice = document->slice;
	AvcParam	param = AVC_INT8(document->version);
	Portal		portal;
	uint64		i;

	portal = avc_spi_cursor(psprintf("SELECT frame_id, %s, width, height,"
									 " ann_categories, ann_bboxes,"
									 " ann_ignored, ann_area"
									 " FROM avcurate.slice_at(NULL::%s, $1)"
									 " ORDER BY frame_id",
									 has_column(slice, "image_id") ?
									 "image_id" : "NULL::pg_catalog.text",
									 slice->name), 1, &param, true);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		check_types(slice, SPI_tuptable->tupdesc);
		for (i = 0; i < SPI_processed; i++)
		{
			CHECK_FOR_INTERRUPTS();
			add_frame(document, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_freetuptable(SPI_tuptable);
	SPI_cursor_close(portal);
}

static Document *
begin_document(const AvcSlice *slice, int64 version)
{
	Document   *document = palloc0(sizeof(Document));
	HASHCTL		control = {
		.keysize = sizeof(char *),
		.entrysize = sizeof(CategoryId),
		.hash = hash_name,
		.match = match_names,
		.hcxt = CurrentMemoryContext
	};
	int			i;

	document->slice = slice;
	document->version = version;
	document->context = CurrentMemoryContext;
	document->row = AllocSetContextCreate(CurrentMemoryContext, "COCO frame",
										  ALLOCSET_DEFAULT_SIZES);
	avc_jsonb_list_init(&document->images);
	avc_jsonb_list_init(&document->annotations);
	avc_jsonb_list_init(&document->categories);
	document->ids = hash_create("COCO categories", 64, &control,
								HASH_ELEM | HASH_FUNCTION | HASH_COMPARE |
								HASH_CONTEXT);
	for (i = 0; i < lengthof(official); i++)
		category_id(document, official[i]);
	return document;
}

static Jsonb *
end_document(Document *document)
{
	StringInfoData info;
	AvcJsonbField fields[4] = {
		{"info"},
		{"images", NULL, &document->images},
		{"categories", NULL, &document->categories},
		{"annotations", NULL, &document->annotations}
	};
	Jsonb	   *result;

	initStringInfo(&info);
	appendStringInfoString(&info, "{\"slice\":");
	escape_json(&info, document->slice->name);
	appendStringInfo(&info, ",\"version\":" INT64_FORMAT
					 ",\"unlabelled_frames\":" INT64_FORMAT
					 ",\"degenerate_boxes\":" INT64_FORMAT "}",
					 document->version, document->unlabelled,
					 document->degenerate);
	fields[0].json = info.data;
	result = avc_jsonb_object(fields, lengthof(fields));
	if (result == NULL)
		raise_too_large(document);
	return result;
}

Datum
avc_export_coco(PG_FUNCTION_ARGS)
{
	Oid			relid;
	int64		version = 0;
	AvcSlice   *slice;
	Document   *document;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	relid = PG_GETARG_OID(0);
	if (!PG_ARGISNULL(1))
	{
		version = PG_GETARG_INT64(1);
		if (version < 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("version must be at least 1")));
	}
	/* the view must not go away before slice_at looks at it */
	LockRelationOid(relid, AccessShareLock);
	slice = avc_slice_find(relid, false);
	avc_slice_check_readable(slice);
	avc_slice_check_complete(slice);
	document = begin_document(slice, avc_slice_version_check(slice, version));
	SPI_connect();
	add_frames(document);
	SPI_finish();
	PG_RETURN_JSONB_P(end_document(document));
}
