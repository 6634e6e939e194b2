/*
 * batches/label_map.c
 *		Label maps: which class id a category stands for.
 *
 * Maps are rows of _avcurate.label_maps under folded spellings, so a look-up
 * folds the frame's category and searches a sorted array.  Built-in maps are
 * read-only; a user's map belongs to the role that added its first row.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "batches/batches.h"
#include "common/catalog.h"
#include "common/spi.h"
#include "datasets/category.h"

typedef struct LabelEntry
{
	char	   *category;		/* folded */
	int32		label;
} LabelEntry;

struct AvcLabelMap
{
	int			count;
	LabelEntry *entries;		/* in the byte order of their categories */
};

PG_FUNCTION_INFO_V1(avc_label_map_row);

static int
compare_entries(const void *a, const void *b)
{
	return strcmp(((const LabelEntry *) a)->category,
				  ((const LabelEntry *) b)->category);
}

/* "coco", "bdd100k" and whatever users made, for hints; SPI is connected. */
static char *
list_maps(void)
{
	AvcRoleScope scope;
	char	   *list;
	bool		is_null;
	Datum		value;

	avc_catalog_enter(&scope);
	value = avc_spi_value("SELECT pg_catalog.string_agg(DISTINCT label_map, "
						  "', ' ORDER BY label_map) FROM _avcurate.label_maps",
						  0, NULL, CurrentMemoryContext, &is_null);
	avc_catalog_leave(&scope);
	list = is_null ? pstrdup("(none)") : TextDatumGetCString(value);
	return list;
}

static void
raise_unknown_map(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("label map \"%s\" does not exist", name),
			 errhint("Known label maps: %s. Rows of a new one go into avcurate.label_maps.",
					 list_maps())));
}

AvcLabelMap *
avc_label_map_load(const char *name, MemoryContext context)
{
	AvcLabelMap *map;
	AvcRoleScope scope;
	AvcParam	param = AVC_TEXT(name);
	uint64		rows;
	uint64		i;

	SPI_connect();
	avc_catalog_enter(&scope);
	rows = avc_spi_exec("SELECT category, label FROM _avcurate.label_maps "
						"WHERE label_map = $1", 1, &param, true, 0);
	avc_catalog_leave(&scope);
	if (rows == 0)
		raise_unknown_map(name);

	map = MemoryContextAlloc(context, sizeof(AvcLabelMap));
	map->count = (int) rows;
	map->entries = MemoryContextAlloc(context, rows * sizeof(LabelEntry));
	for (i = 0; i < rows; i++)
	{
		bool		is_null;
		Datum		category = avc_spi_column(i, "category", &is_null);

		map->entries[i].category =
			MemoryContextStrdup(context, TextDatumGetCString(category));
		map->entries[i].label =
			DatumGetInt32(avc_spi_column(i, "label", &is_null));
	}
	SPI_finish();
	qsort(map->entries, map->count, sizeof(LabelEntry), compare_entries);
	return map;
}

int32
avc_label_map_label(const AvcLabelMap *map, const char *category,
					size_t length)
{
	const char *folded = avc_category_fold(category, length);
	LabelEntry	key;
	LabelEntry *found;

	/* A spelling that the table does not know stands for itself. */
	key.category = folded ? unconstify(char *, folded)
		: pnstrdup(category, length);
	found = bsearch(&key, map->entries, map->count, sizeof(LabelEntry),
					compare_entries);
	if (folded == NULL)
		pfree(key.category);
	return found ? found->label : 0;
}

const char *
avc_label_map_category(const AvcLabelMap *map, int32 label)
{
	int			i;

	for (i = 0; i < map->count; i++)
		if (map->entries[i].label == label)
			return map->entries[i].category;
	return NULL;
}

int32
avc_label_map_max(const AvcLabelMap *map)
{
	int32		largest = 0;
	int			i;

	for (i = 0; i < map->count; i++)
		largest = Max(largest, map->entries[i].label);
	return largest;
}

/*
 * Error unless the current user may write rows of the map: it has none yet,
 * or they are neither built in nor another role's.
 */
static void
check_map_owner(const char *name)
{
	AvcRoleScope scope;
	AvcParam	param = AVC_TEXT(name);
	Oid			owner = InvalidOid;
	bool		builtin = false;
	bool		is_null;

	avc_catalog_enter(&scope);
	if (avc_spi_exec("SELECT builtin, owner::oid AS owner "
					 "FROM _avcurate.label_maps WHERE label_map = $1 LIMIT 1",
					 1, &param, true, 1) > 0)
	{
		builtin = DatumGetBool(avc_spi_column(0, "builtin", &is_null));
		owner = DatumGetObjectId(avc_spi_column(0, "owner", &is_null));
	}
	avc_catalog_leave(&scope);
	if (builtin)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("label map \"%s\" is built in and read-only", name),
				 errhint("Copy its rows under a name of your own: INSERT INTO avcurate.label_maps SELECT 'mine', category, label FROM avcurate.label_maps WHERE label_map = '%s'.",
						 name)));
	if (OidIsValid(owner) && !has_privs_of_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of label map \"%s\"", name)));
}

static char *
row_text(HeapTuple row, TupleDesc desc, const char *column)
{
	char	   *value = SPI_getvalue(row, desc, SPI_fnumber(desc, column));

	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("column \"%s\" of a label map must not be null",
						column)));
	return value;
}

/* The new row with its category folded and its owner checked. */
static HeapTuple
check_new_row(HeapTuple row, TupleDesc desc)
{
	int			category_column = SPI_fnumber(desc, "category");
	char	   *category = row_text(row, desc, "category");
	const char *folded = avc_category_fold(category, strlen(category));
	bool		is_null;
	Oid			owner;
	Datum		value;
	bool		value_null = false;

	if (DatumGetBool(SPI_getbinval(row, desc, SPI_fnumber(desc, "builtin"),
								   &is_null)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("label map \"%s\" cannot be made built in",
						row_text(row, desc, "label_map"))));
	check_map_owner(row_text(row, desc, "label_map"));
	owner = DatumGetObjectId(SPI_getbinval(row, desc,
										   SPI_fnumber(desc, "owner"),
										   &is_null));
	if (!has_privs_of_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of label map \"%s\"",
						row_text(row, desc, "label_map"))));
	if (folded == NULL || strcmp(folded, category) == 0)
		return row;
	value = CStringGetTextDatum(folded);
	return heap_modify_tuple_by_cols(row, desc, 1, &category_column, &value,
									 &value_null);
}

/* BEFORE row trigger of _avcurate.label_maps. */
Datum
avc_label_map_row(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	HeapTuple	result;
	MemoryContext caller = CurrentMemoryContext;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("avc_label_map_row must be fired BEFORE each row")));
	desc = RelationGetDescr(trigger->tg_relation);
	SPI_connect();
	result = trigger->tg_trigtuple;
	if (!TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		check_map_owner(row_text(trigger->tg_trigtuple, desc, "label_map"));
	if (!TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
	{
		HeapTuple	row = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
			trigger->tg_newtuple : trigger->tg_trigtuple;

		result = check_new_row(row, desc);
		if (result != row)
		{
			MemoryContext spi = MemoryContextSwitchTo(caller);

			result = heap_copytuple(result);
			MemoryContextSwitchTo(spi);
		}
	}
	SPI_finish();
	PG_RETURN_POINTER(result);
}
