/*
 * datasets/coco_tables.c
 *		What a COCO file says, sorted by image.
 *
 * Memory: the tables and the categories live in the context that they were
 * made in; "page" holds the items that wait to be written.
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "datasets/category.h"
#include "datasets/coco_tables.h"

#define PAGE_ITEMS 1000
#define MAX_BOXES 10000			/* of one image */
#define INDEX_MEMORY (16 * 1024)	/* kB to sort the annotations in */

#define IMAGE_COLUMNS 5
#define BOX_COLUMNS 10

typedef struct CocoCategory
{
	int64		id;				/* hash key */
	const char *name;			/* folded */
	bool		is_ignored;
} CocoCategory;

/* Rows that wait to be written, column by column. */
typedef struct ItemPage
{
	int			columns;
	const Oid  *types;
	const char *sql;
	int			count;
	Datum		values[BOX_COLUMNS][PAGE_ITEMS];
	bool		nulls[BOX_COLUMNS][PAGE_ITEMS];
} ItemPage;

struct AvcCocoTables
{
	MemoryContext context;
	MemoryContext page;
	HTAB	   *categories;
	int64		image_count;
	int64		box_count;
	ItemPage	images;
	ItemPage	boxes;
};

static const Oid image_types[IMAGE_COLUMNS] = {
	INT8OID, INT8OID, TEXTOID, INT8OID, INT8OID
};
static const Oid box_types[BOX_COLUMNS] = {
	INT8OID, INT8OID, INT8OID, FLOAT8OID, FLOAT8OID, FLOAT8OID, FLOAT8OID,
	FLOAT8OID, BOOLOID, TEXTOID
};

static void
drop_table(const char *name)
{
	if (avc_spi_exec("SELECT 1 FROM pg_catalog.pg_class"
					 " WHERE relname = $1 AND relnamespace ="
					 " pg_catalog.pg_my_temp_schema()",
					 1, (AvcParam[]) {AVC_TEXT(name)}, false, 1) > 0)
		avc_spi_exec(psprintf("DROP TABLE pg_temp.%s", name), 0, NULL, false,
					 0);
}

void
avc_coco_tables_drop(AvcCocoTables *tables)
{
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	drop_table("avc_ingest_coco_images");
	drop_table("avc_ingest_coco_boxes");
	avc_catalog_leave(&scope);
}

AvcCocoTables *
avc_coco_tables_create(void)
{
	AvcCocoTables *tables = palloc0(sizeof(AvcCocoTables));
	HASHCTL		control = {
		.keysize = sizeof(int64),
		.entrysize = sizeof(CocoCategory),
		.hcxt = CurrentMemoryContext
	};
	AvcRoleScope scope;

	tables->context = CurrentMemoryContext;
	tables->page = AllocSetContextCreate(CurrentMemoryContext, "COCO page",
										 ALLOCSET_DEFAULT_SIZES);
	tables->categories = hash_create("COCO categories", 128, &control,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	tables->images.columns = IMAGE_COLUMNS;
	tables->images.types = image_types;
	tables->images.sql = "INSERT INTO pg_temp.avc_ingest_coco_images"
		" SELECT * FROM unnest($1, $2, $3, $4, $5)";
	tables->boxes.columns = BOX_COLUMNS;
	tables->boxes.types = box_types;
	tables->boxes.sql = "INSERT INTO pg_temp.avc_ingest_coco_boxes SELECT *"
		" FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";

	/* those that an interrupted run of this session left */
	avc_coco_tables_drop(tables);
	avc_catalog_enter(&scope);
	avc_spi_exec("CREATE TEMPORARY TABLE avc_ingest_coco_images ("
				 " number bigint, id bigint, name text, width bigint,"
				 " height bigint)", 0, NULL, false, 0);
	avc_spi_exec("CREATE TEMPORARY TABLE avc_ingest_coco_boxes ("
				 " number bigint, image bigint, category bigint, x float8,"
				 " y float8, width float8, height float8, area float8,"
				 " ignored boolean, problem text)", 0, NULL, false, 0);
	avc_catalog_leave(&scope);
	return tables;
}

static void
write_page(AvcCocoTables *tables, ItemPage *page)
{
	MemoryContext old = MemoryContextSwitchTo(tables->page);
	AvcParam	params[BOX_COLUMNS];
	AvcRoleScope scope;
	int			lower = 1;
	int			i;

	for (i = 0; i < page->columns && page->count > 0; i++)
	{
		Oid			type = page->types[i];
		bool		is_text = type == TEXTOID;
		bool		is_flag = type == BOOLOID;

		params[i].type = get_array_type(type);
		params[i].value =
			PointerGetDatum(construct_md_array(page->values[i],
											   page->nulls[i], 1,
											   &page->count, &lower, type,
											   is_text ? -1 : is_flag ? 1 : 8,
											   !is_text, is_text ? TYPALIGN_INT :
											   is_flag ? TYPALIGN_CHAR :
											   TYPALIGN_DOUBLE));
		params[i].is_null = false;
	}
	if (page->count > 0)
	{
		avc_catalog_enter(&scope);
		avc_spi_exec(page->sql, page->columns, params, false, 0);
		avc_catalog_leave(&scope);
	}
	page->count = 0;
	MemoryContextSwitchTo(old);
}

/* Both pages share the context of their texts, so they go together. */
static void
write_pages(AvcCocoTables *tables)
{
	write_page(tables, &tables->images);
	write_page(tables, &tables->boxes);
	MemoryContextReset(tables->page);
}

static Datum
page_text(AvcCocoTables *tables, const char *text)
{
	MemoryContext old = MemoryContextSwitchTo(tables->page);
	Datum		value = CStringGetTextDatum(text);

	MemoryContextSwitchTo(old);
	return value;
}

static void
add_image(AvcCocoTables *tables, const AvcCocoItem *item)
{
	ItemPage   *page = &tables->images;
	int			n = page->count++;

	page->values[0][n] = Int64GetDatum(++tables->image_count);
	page->values[1][n] = Int64GetDatum(item->id);
	page->values[2][n] = page_text(tables, item->name);
	page->values[3][n] = Int64GetDatum(item->width);
	page->values[4][n] = Int64GetDatum(item->height);
	if (page->count == PAGE_ITEMS)
		write_pages(tables);
}

static void
add_box(AvcCocoTables *tables, const AvcCocoItem *item)
{
	ItemPage   *page = &tables->boxes;
	int			n = page->count++;
	int			i;

	page->values[0][n] = Int64GetDatum(++tables->box_count);
	page->values[1][n] = Int64GetDatum(item->image_id);
	page->values[2][n] = Int64GetDatum(item->category_id);
	page->nulls[2][n] = (item->known & AVC_COCO_CATEGORY_ID) == 0;
	for (i = 0; i < 4; i++)
	{
		page->values[3 + i][n] = Float8GetDatum(item->bbox[i]);
		page->nulls[3 + i][n] = (item->known & AVC_COCO_BBOX) == 0;
	}
	page->values[7][n] = Float8GetDatum(item->area);
	page->nulls[7][n] = (item->known & AVC_COCO_AREA) == 0;
	page->values[8][n] = BoolGetDatum(item->is_ignored);
	page->nulls[9][n] = item->problem == NULL;
	if (item->problem != NULL)
		page->values[9][n] = page_text(tables, item->problem);
	if (page->count == PAGE_ITEMS)
		write_pages(tables);
}

static void
add_category(AvcCocoTables *tables, const AvcCocoItem *item)
{
	CocoCategory *category;
	AvcCategory folded;
	bool		is_found;

	category = hash_search(tables->categories, &item->id, HASH_ENTER,
						   &is_found);
	/* the first counts, as for images */
	if (is_found)
		return;
	avc_category_check_room(hash_get_num_entries(tables->categories) - 1,
							"COCO file");
	if (avc_category_fold_label(&folded, item->name, strlen(item->name)))
	{
		category->name = folded.name;
		category->is_ignored = folded.is_ignored;
	}
	else
	{
		category->name = MemoryContextStrdup(tables->context, item->name);
		category->is_ignored = false;
	}
}

void
avc_coco_tables_add(AvcCocoTables *tables, const AvcCocoItem *item)
{
	switch (item->kind)
	{
		case AVC_COCO_IMAGE:
			add_image(tables, item);
			break;
		case AVC_COCO_ANNOTATION:
			add_box(tables, item);
			break;
		case AVC_COCO_CATEGORY:
			add_category(tables, item);
			break;
	}
}

void
avc_coco_tables_finish(AvcCocoTables *tables)
{
	AvcRoleScope scope;

	write_pages(tables);
	avc_catalog_enter(&scope);
	/* the scope ends this setting, too */
	if (maintenance_work_mem > INDEX_MEMORY)
		(void) set_config_option("maintenance_work_mem",
								 psprintf("%dkB", INDEX_MEMORY),
								 PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	avc_spi_exec("CREATE INDEX ON pg_temp.avc_ingest_coco_images (number)",
				 0, NULL, false, 0);
	avc_spi_exec("CREATE INDEX ON pg_temp.avc_ingest_coco_images (id, number)",
				 0, NULL, false, 0);
	avc_spi_exec("CREATE INDEX ON pg_temp.avc_ingest_coco_boxes"
				 " (image, number)", 0, NULL, false, 0);
	avc_spi_exec("ANALYZE pg_temp.avc_ingest_coco_images (id, number),"
				 " pg_temp.avc_ingest_coco_boxes (image, number)",
				 0, NULL, false, 0);
	avc_catalog_leave(&scope);
}

int64
avc_coco_tables_orphans(AvcCocoTables *tables)
{
	AvcRoleScope scope;
	int64		count;

	avc_catalog_enter(&scope);
	count = avc_spi_int64("SELECT pg_catalog.count(*)"
						  " FROM pg_temp.avc_ingest_coco_boxes b"
						  " WHERE NOT EXISTS (SELECT"
						  " FROM pg_temp.avc_ingest_coco_images i"
						  " WHERE i.id = b.image)", 0, NULL, 0);
	avc_catalog_leave(&scope);
	return count;
}

int
avc_coco_tables_images(AvcCocoTables *tables, int64 after,
					   AvcCocoImage *images, int room)
{
	static SPIPlanPtr plan = NULL;
	AvcRoleScope scope;
	SPITupleTable *found;
	bool		is_null;
	int			count;
	int			i;

	avc_catalog_enter(&scope);
	count = avc_spi_exec_kept(&plan, "SELECT number, id, name, EXISTS (SELECT"
							  " FROM pg_temp.avc_ingest_coco_images o"
							  " WHERE o.id = i.id AND o.number < i.number),"
							  " width, height"
							  " FROM pg_temp.avc_ingest_coco_images i"
							  " WHERE number > $1 ORDER BY number LIMIT $2",
							  2, (AvcParam[]) {AVC_INT8(after),
								  AVC_INT8(room)}, false, 0);
	avc_catalog_leave(&scope);
	found = SPI_tuptable;
	for (i = 0; i < count; i++)
	{
		HeapTuple	row = found->vals[i];
		TupleDesc	desc = found->tupdesc;

		images[i].number = DatumGetInt64(SPI_getbinval(row, desc, 1,
													   &is_null));
		images[i].id = DatumGetInt64(SPI_getbinval(row, desc, 2, &is_null));
		images[i].name = SPI_getvalue(row, desc, 3);
		images[i].is_duplicate = DatumGetBool(SPI_getbinval(row, desc, 4,
															&is_null));
		images[i].width = DatumGetInt64(SPI_getbinval(row, desc, 5,
													  &is_null));
		images[i].height = DatumGetInt64(SPI_getbinval(row, desc, 6,
													   &is_null));
	}
	SPI_freetuptable(found);
	return count;
}

/* The category of a box, or NULL with the problem of the image. */
static const CocoCategory *
find_category(AvcCocoTables *tables, AvcCocoBoxes *boxes, Datum id,
			  bool is_null)
{
	int64		key = DatumGetInt64(id);
	const CocoCategory *category;

	if (is_null)
	{
		boxes->problem = "an annotation has no category_id";
		return NULL;
	}
	category = hash_search(tables->categories, &key, HASH_FIND, NULL);
	if (category == NULL)
		boxes->problem = psprintf("an annotation has category_id " INT64_FORMAT
								  ", which the file does not name", key);
	return category;
}

/* Columns of a row of boxes, as they are selected below. */
enum BoxColumn
{
	BOX_CATEGORY = 1, BOX_X, BOX_Y, BOX_WIDTH, BOX_HEIGHT, BOX_AREA,
	BOX_IGNORED, BOX_PROBLEM
};

/*
 * The area to keep; NaN for one that is not known or that of the box itself,
 * as far as a float tells.
 */
static float
area_beside(double area, double of_box)
{
	if (!isfinite((float) area) || area < 0 ||
		fabs(area - of_box) <= of_box * FLT_EPSILON * 2)
		return (float) NAN;
	return (float) area;
}

static void
add_row(AvcCocoTables *tables, AvcCocoBoxes *boxes, HeapTuple row,
		TupleDesc desc)
{
	const CocoCategory *category;
	double		number[5];
	bool		nulls[5];
	float		corners[4];
	bool		is_null;
	Datum		value;
	int			i;

	boxes->problem = SPI_getvalue(row, desc, BOX_PROBLEM);
	if (boxes->problem != NULL)
		return;
	value = SPI_getbinval(row, desc, BOX_CATEGORY, &is_null);
	category = find_category(tables, boxes, value, is_null);
	if (category == NULL)
		return;
	for (i = 0; i < 5; i++)
		number[i] = DatumGetFloat8(SPI_getbinval(row, desc, BOX_X + i,
												 &nulls[i]));
	if (nulls[0])
	{
		boxes->without_box++;
		return;
	}
	corners[0] = (float) number[0];
	corners[1] = (float) number[1];
	corners[2] = (float) (number[0] + number[2]);
	corners[3] = (float) (number[1] + number[3]);
	for (i = 0; i < 4 && isfinite(corners[i]); i++);
	if (i < 4 || corners[0] >= corners[2] || corners[1] >= corners[3])
	{
		boxes->degenerate++;
		return;
	}
	value = SPI_getbinval(row, desc, BOX_IGNORED, &is_null);
	boxes->categories[boxes->count] = category->name;
	memcpy(boxes->boxes + 4 * boxes->count, corners, sizeof(corners));
	boxes->ignored[boxes->count] = DatumGetBool(value) || category->is_ignored;
	boxes->area[boxes->count] = nulls[4] ? (float) NAN :
		area_beside(number[4], number[2] * number[3]);
	boxes->count++;
}

void
avc_coco_tables_boxes(AvcCocoTables *tables, int64 image_id,
					  AvcCocoBoxes *boxes)
{
	static SPIPlanPtr plan = NULL;
	AvcRoleScope scope;
	SPITupleTable *found;
	int			rows;
	int			i;

	avc_catalog_enter(&scope);
	rows = avc_spi_exec_kept(&plan, "SELECT category, x, y, width, height,"
							 " area, ignored, problem"
							 " FROM pg_temp.avc_ingest_coco_boxes"
							 " WHERE image = $1 ORDER BY number LIMIT $2",
							 2, (AvcParam[]) {AVC_INT8(image_id),
								 AVC_INT8(MAX_BOXES + 1)}, false, 0);
	avc_catalog_leave(&scope);
	found = SPI_tuptable;
	memset(boxes, 0, sizeof(AvcCocoBoxes));
	boxes->categories = palloc(Max(rows, 1) * sizeof(char *));
	boxes->boxes = palloc(Max(rows, 1) * 4 * sizeof(float));
	boxes->ignored = palloc(Max(rows, 1) * sizeof(bool));
	boxes->area = palloc(Max(rows, 1) * sizeof(float));
	if (rows > MAX_BOXES)
		boxes->problem = psprintf("image has more than %d annotations",
								  MAX_BOXES);
	for (i = 0; i < rows && boxes->problem == NULL; i++)
		add_row(tables, boxes, found->vals[i], found->tupdesc);
	SPI_freetuptable(found);
}
