/*
 * datasets/frame.c
 *		The row trigger of datasets: image hash, sizes and annotation rules.
 *
 * It fires on INSERT and on UPDATE OF the columns concerned only, so storing
 * a feature pays nothing for a 60 kB image.  Whatever a statement gives for
 * image_sha256, width and height is replaced by what the bytes say.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/cryptohash.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/rel.h"

#include "datasets/annotations.h"
#include "datasets/dataset.h"
#include "datasets/frame.h"
#include "image/jpeg.h"

PG_FUNCTION_INFO_V1(avc_check_frame);

/* Columns that the trigger looks at. */
typedef enum FrameColumn
{
	FRAME_ID,
	FRAME_WIDTH,
	FRAME_HEIGHT,
	FRAME_SHA256,
	FRAME_IMAGE,
	FRAME_MARKS,
	FRAME_ANNOTATIONS,			/* the first of AVC_ANN_ARRAYS */
	FRAME_COLUMNS = FRAME_ANNOTATIONS + AVC_ANN_ARRAYS
} FrameColumn;

typedef struct ColumnRule
{
	const char *name;
	Oid			type;
} ColumnRule;

static const ColumnRule rules[FRAME_COLUMNS] = {
	{"frame_id", INT8OID},
	{"width", INT4OID},
	{"height", INT4OID},
	{"image_sha256", BYTEAOID},
	{"image_bytes", BYTEAOID},
	{AVC_MARKS_COLUMN, BYTEAOID},
	{"ann_categories", TEXTARRAYOID},
	{"ann_bboxes", FLOAT4ARRAYOID},
	{"ann_occluded", BOOLARRAYOID},
	{"ann_truncated", BOOLARRAYOID},
	{"ann_ignored", BOOLARRAYOID},
	{"ann_area", FLOAT4ARRAYOID}
};

/* Column numbers of one relation, kept in fn_extra for the statement. */
typedef struct FrameLayout
{
	Oid			relid;
	int			number[FRAME_COLUMNS];
} FrameLayout;

void
avc_frame_sha256(uint8 *digest, const uint8 *image, size_t len)
{
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);

	if (hash == NULL ||
		pg_cryptohash_init(hash) < 0 ||
		pg_cryptohash_update(hash, image, len) < 0 ||
		pg_cryptohash_final(hash, digest, AVC_SHA256_BYTES) < 0)
		elog(ERROR, "could not compute sha256: %s",
			 hash == NULL ? "out of memory" : pg_cryptohash_error(hash));
	pg_cryptohash_free(hash);
}

const char *
avc_frame_size(int *width, int *height, const uint8 *image, size_t len)
{
	EngStatus	status = {ENG_OK, ""};
	EngJpegInfo info;

	if (!eng_jpeg_read_header(&info, image, len, &status))
		return pstrdup(status.message);
	*width = info.width;
	*height = info.height;
	return NULL;
}

/* Find the columns, whose types our C code relies on. */
static FrameLayout *
get_layout(FunctionCallInfo fcinfo, Relation rel)
{
	FrameLayout *layout = fcinfo->flinfo->fn_extra;
	TupleDesc	desc = RelationGetDescr(rel);
	int			i;

	if (layout != NULL && layout->relid == RelationGetRelid(rel))
		return layout;
	layout = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(FrameLayout));
	for (i = 0; i < FRAME_COLUMNS; i++)
	{
		layout->number[i] = SPI_fnumber(desc, rules[i].name);
		if (layout->number[i] <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("dataset \"%s\" has no column \"%s\"",
							RelationGetRelationName(rel), rules[i].name),
					 errhint("Add the column again, or drop trigger \"avc_check_frame\" if this is no dataset any more.")));
		if (TupleDescAttr(desc, layout->number[i] - 1)->atttypid !=
			rules[i].type)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of dataset \"%s\" has type %s, not %s",
							rules[i].name, RelationGetRelationName(rel),
							format_type_be(TupleDescAttr(desc, layout->number[i] - 1)->atttypid),
							format_type_be(rules[i].type)),
					 errhint("Give the column its type back with ALTER TABLE.")));
	}
	layout->relid = RelationGetRelid(rel);
	fcinfo->flinfo->fn_extra = layout;
	return layout;
}

/* Hash and sizes of a new image into values[]. */
static void
read_image(Datum *values, Datum image, Relation rel)
{
	bytea	   *bytes = DatumGetByteaPP(image);
	bytea	   *digest = palloc(VARHDRSZ + AVC_SHA256_BYTES);
	const char *problem;
	int			width,
				height;

	problem = avc_frame_size(&width, &height,
							 (const uint8 *) VARDATA_ANY(bytes),
							 VARSIZE_ANY_EXHDR(bytes));
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_BINARY_REPRESENTATION),
				 errmsg("column \"image_bytes\" of dataset \"%s\" is no usable JPEG: %s",
						RelationGetRelationName(rel), problem),
				 errhint("Store the bytes of a whole baseline or progressive JPEG file.")));
	SET_VARSIZE(digest, VARHDRSZ + AVC_SHA256_BYTES);
	avc_frame_sha256((uint8 *) VARDATA(digest),
					 (const uint8 *) VARDATA_ANY(bytes),
					 VARSIZE_ANY_EXHDR(bytes));
	values[FRAME_WIDTH] = Int32GetDatum(width);
	values[FRAME_HEIGHT] = Int32GetDatum(height);
	values[FRAME_SHA256] = PointerGetDatum(digest);
}

/* Is the image of an UPDATE the one that the row had? */
static bool
is_same_image(Datum new_image, HeapTuple old_tuple, TupleDesc desc, int number)
{
	bool		is_null;
	Datum		old_image = heap_getattr(old_tuple, number, desc, &is_null);

	return !is_null && datumIsEqual(new_image, old_image, false, -1);
}

static void
check_annotations(HeapTuple tuple, TupleDesc desc, const FrameLayout *layout,
				  int width, int height, Relation rel)
{
	AvcAnnotations annotations;
	int			i;

	for (i = 0; i < AVC_ANN_ARRAYS; i++)
		annotations.value[i] =
			heap_getattr(tuple, layout->number[FRAME_ANNOTATIONS + i], desc,
						 &annotations.is_null[i]);
	avc_annotations_check(&annotations, width, height,
						  RelationGetRelationName(rel));
}

/* frame_id is the key of every slice and never changes. */
static void
check_frame_id(HeapTuple old_tuple, HeapTuple new_tuple, Relation rel,
			   int number)
{
	bool		old_null,
				new_null;
	Datum		old_id = heap_getattr(old_tuple, number,
									  RelationGetDescr(rel), &old_null);
	Datum		new_id = heap_getattr(new_tuple, number,
									  RelationGetDescr(rel), &new_null);

	if (old_null || new_null || DatumGetInt64(old_id) != DatumGetInt64(new_id))
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("column \"frame_id\" of dataset \"%s\" cannot be changed",
						RelationGetRelationName(rel)),
				 errhint("Insert a new frame and delete the old one.")));
}

/*
 * Sizes and hash of the row's image into values[]: those of the old row, if an
 * UPDATE keeps the image and nobody made them NULL.
 */
static void
find_image_columns(Datum *values, TriggerData *trigger, HeapTuple tuple,
				   const FrameLayout *layout)
{
	Relation	rel = trigger->tg_relation;
	TupleDesc	desc = RelationGetDescr(rel);
	bool		is_null;
	Datum		image = heap_getattr(tuple, layout->number[FRAME_IMAGE], desc,
									 &is_null);
	bool		is_known;
	int			i;

	if (is_null)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("column \"image_bytes\" of dataset \"%s\" must not be NULL",
						RelationGetRelationName(rel)),
				 errhint("A frame has an image; give the bytes of its JPEG file.")));
	is_known = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) &&
		is_same_image(image, trigger->tg_trigtuple, desc,
					  layout->number[FRAME_IMAGE]);
	for (i = FRAME_WIDTH; is_known && i <= FRAME_SHA256; i++)
	{
		values[i] = heap_getattr(trigger->tg_trigtuple, layout->number[i],
								 desc, &is_null);
		is_known = !is_null;
	}
	if (!is_known)
		read_image(values, image, rel);
}

Datum
avc_check_frame(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Relation	rel;
	FrameLayout *layout;
	HeapTuple	tuple;
	Datum		values[FRAME_COLUMNS];
	bool		nulls[FRAME_COLUMNS] = {0};
	bool		is_insert;
	int			columns[4];
	int			count = 3;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("check_frame is the row trigger of datasets, before insert or update")));
	rel = trigger->tg_relation;
	layout = get_layout(fcinfo, rel);
	is_insert = TRIGGER_FIRED_BY_INSERT(trigger->tg_event);
	tuple = is_insert ? trigger->tg_trigtuple : trigger->tg_newtuple;
	if (!is_insert)
		check_frame_id(trigger->tg_trigtuple, tuple, rel,
					   layout->number[FRAME_ID]);

	find_image_columns(values, trigger, tuple, layout);
	columns[0] = layout->number[FRAME_WIDTH];
	columns[1] = layout->number[FRAME_HEIGHT];
	columns[2] = layout->number[FRAME_SHA256];
	if (is_insert)
	{
		/* every feature of a new row is pending, whatever was copied in */
		columns[count++] = layout->number[FRAME_MARKS];
		values[FRAME_SHA256 + 1] = (Datum) 0;
		nulls[FRAME_SHA256 + 1] = true;
	}
	check_annotations(tuple, RelationGetDescr(rel), layout,
					  DatumGetInt32(values[FRAME_WIDTH]),
					  DatumGetInt32(values[FRAME_HEIGHT]), rel);
	tuple = heap_modify_tuple_by_cols(tuple, RelationGetDescr(rel), count,
									  columns, values + FRAME_WIDTH,
									  nulls + FRAME_WIDTH);
	return PointerGetDatum(tuple);
}
