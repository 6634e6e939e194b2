/*
 * slices/row_writer.c
 *		Rows into a heap and all its indexes, many at a time.
 *
 * What costs is the indexes: each entry descends a tree whose pages are in no
 * cache of the processor.  So rows are collected, go to the heap a page at a
 * time, and then to one index after the other, in the order of its keys:
 * neighbours find the pages that the one before them has just used.
 *
 * A row that was updated in place keeps the values of all unique indexes, so
 * its entries there need no check: the row had them before, and who is
 * inserted later is checked against it.  Inserted rows are always checked.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_collation.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/sortsupport.h"

#include "slices/index_prefetch.h"
#include "slices/row_writer.h"

/* What is collected before it is written. */
#define BATCH_ROWS 8192
#define BATCH_BYTES (4 * 1024 * 1024)
#define FIRST_ROOM 64

/* Rows that go to the heap by one call. */
#define HEAP_ROWS 128

typedef struct IndexTarget
{
	Relation	rel;
	IndexInfo  *info;
	Bitmapset  *columns;		/* of keys and of expressions */
	SortSupport keys;			/* how entries are sorted; NULL = not */
	ExprState  *predicate;		/* NULL = all rows */
	AvcIndexPrefetch *prefetch; /* while the batch is written */
} IndexTarget;

/* A row that is collected; its t_self is its place once it has one. */
typedef struct Row
{
	HeapTuple	tuple;
	const Bitmapset *changed;	/* if it was updated in place; NULL = insert */
} Row;

struct AvcRowWriter
{
	Relation	rel;
	TupleDesc	desc;
	MemoryContext context;		/* holds all of this */
	MemoryContext batch;		/* of the rows collected */
	EState	   *estate;
	ResultRelInfo *target;
	IndexTarget *indexes;
	int			nindexes;
	TupleTableSlot **slots;		/* HEAP_ROWS, for the heap */
	TupleTableSlot *slot;		/* for one row */
	Row		   *rows;			/* collected */
	int			nrows;
	int			room;			/* for rows */
	Size		bytes;
};

/* An entry of an index, to be sorted. */
typedef struct Entry
{
	Datum	   *values;
	bool	   *nulls;
	Row		   *row;
} Entry;

/* ---- opening ---- */

/* Columns that decide on an index' keys, with "predicate" also on whether. */
static Bitmapset *
index_columns(const IndexInfo *info, bool predicate)
{
	Bitmapset  *columns = NULL;
	int			i;

	for (i = 0; i < info->ii_NumIndexKeyAttrs; i++)
	{
		if (info->ii_IndexAttrNumbers[i] != 0)
			columns = bms_add_member(columns, info->ii_IndexAttrNumbers[i] -
									 FirstLowInvalidHeapAttributeNumber);
	}
	pull_varattnos((Node *) info->ii_Expressions, 1, &columns);
	if (predicate)
		pull_varattnos((Node *) info->ii_Predicate, 1, &columns);
	return columns;
}

/*
 * Any order will do that keeps neighbours of the tree together, so text goes
 * by its bytes: comparing by a language's rules takes longer than it saves.
 */
static SortSupport
sort_keys(Relation index)
{
	int			count = IndexRelationGetNumberOfKeyAttributes(index);
	SortSupport keys;
	int			i;

	if (index->rd_rel->relam != BTREE_AM_OID)
		return NULL;
	keys = palloc0_array(SortSupportData, count);
	for (i = 0; i < count; i++)
	{
		keys[i].ssup_cxt = CurrentMemoryContext;
		keys[i].ssup_collation = OidIsValid(index->rd_indcollation[i]) ?
			C_COLLATION_OID : InvalidOid;
		keys[i].ssup_attno = i + 1;
		PrepareSortSupportFromIndexRel(index, BTLessStrategyNumber, &keys[i]);
	}
	return keys;
}

static void
open_indexes(AvcRowWriter *writer)
{
	ResultRelInfo *target = writer->target;
	int			i;

	ExecOpenIndices(target, false);
	writer->indexes = palloc0_array(IndexTarget, target->ri_NumIndices + 1);
	for (i = 0; i < target->ri_NumIndices; i++)
	{
		IndexTarget *index = &writer->indexes[writer->nindexes];

		index->rel = target->ri_IndexRelationDescs[i];
		index->info = target->ri_IndexRelationInfo[i];
		if (!index->info->ii_ReadyForInserts)
			continue;
		index->columns = index_columns(index->info, false);
		index->keys = sort_keys(index->rel);
		index->predicate = ExecPrepareQual(index->info->ii_Predicate,
										   writer->estate);
		writer->nindexes++;
	}
}

AvcRowWriter *
avc_row_writer_open(Relation rel)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "row writer",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	AvcRowWriter *writer = palloc0_object(AvcRowWriter);

	writer->rel = rel;
	writer->context = context;
	writer->batch = AllocSetContextCreate(context, "rows to write",
										  ALLOCSET_DEFAULT_SIZES);
	/* a copy, since a relation's own descriptor is counted by each slot */
	writer->desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	writer->slot = MakeSingleTupleTableSlot(writer->desc, &TTSOpsHeapTuple);
	writer->slots = palloc0_array(TupleTableSlot *, HEAP_ROWS);
	writer->room = FIRST_ROOM;
	writer->rows = palloc_array(Row, FIRST_ROOM);
	writer->estate = CreateExecutorState();
	writer->target = makeNode(ResultRelInfo);
	InitResultRelInfo(writer->target, rel, 0, NULL, 0);
	open_indexes(writer);
	MemoryContextSwitchTo(old);
	return writer;
}

Bitmapset *
avc_row_writer_unique_columns(AvcRowWriter *writer, AttrNumber key)
{
	Bitmapset  *columns = NULL;
	int			i;

	for (i = 0; i < writer->nindexes; i++)
	{
		IndexInfo  *info = writer->indexes[i].info;

		if (!info->ii_Unique ||
			(info->ii_NumIndexKeyAttrs == 1 && info->ii_Predicate == NIL &&
			 info->ii_IndexAttrNumbers[0] == key))
			continue;
		columns = bms_add_members(columns, index_columns(info, true));
	}
	return columns;
}

/* ---- index entries ---- */

static int
compare_entries(const void *a, const void *b, void *arg)
{
	const Entry *left = a;
	const Entry *right = b;
	const IndexTarget *index = arg;
	int			i;

	for (i = 0; i < index->info->ii_NumIndexKeyAttrs; i++)
	{
		int			order = ApplySortComparator(left->values[i],
												left->nulls[i],
												right->values[i],
												right->nulls[i],
												&index->keys[i]);

		if (order != 0)
			return order;
	}
	/* equal keys are in the order of the rows' places */
	return left->row < right->row ? -1 : 1;
}

/* The entry of a row, in per-tuple memory; false if the index has none. */
static bool
form_entry(AvcRowWriter *writer, IndexTarget *index, Entry *entry)
{
	ExprContext *context = GetPerTupleExprContext(writer->estate);

	CHECK_FOR_INTERRUPTS();
	ExecStoreHeapTuple(entry->row->tuple, writer->slot, false);
	context->ecxt_scantuple = writer->slot;
	if (index->predicate && !ExecQual(index->predicate, context))
		return false;
	FormIndexDatum(index->info, writer->slot, writer->estate, entry->values,
				   entry->nulls);
	return true;
}

/*
 * Copy what expressions yielded, so that the rest of their memory can go: it
 * may hold a whole value fetched from TOAST for a few bytes of it.
 */
static void
keep_entry(const IndexTarget *index, Entry *entry)
{
	ListCell   *expression = list_head(index->info->ii_Expressions);
	int			i;

	for (i = 0; i < index->info->ii_NumIndexAttrs; i++)
	{
		int16		length;
		bool		by_value;

		if (index->info->ii_IndexAttrNumbers[i] != 0)
			continue;
		get_typlenbyval(exprType(lfirst(expression)), &length, &by_value);
		if (!entry->nulls[i])
			entry->values[i] = datumCopy(entry->values[i], by_value, length);
		expression = lnext(index->info->ii_Expressions, expression);
	}
}

/* The entries of the rows collected that belong into an index. */
static int
form_entries(AvcRowWriter *writer, IndexTarget *index, Entry *entries)
{
	int			natts = index->info->ii_NumIndexAttrs;
	Datum	   *values = palloc_array(Datum, writer->nrows * natts);
	bool	   *nulls = palloc_array(bool, writer->nrows * natts);
	int			count = 0;
	int			i;

	for (i = 0; i < writer->nrows; i++)
	{
		Entry	   *entry = &entries[count];

		entry->values = values + count * natts;
		entry->nulls = nulls + count * natts;
		entry->row = &writer->rows[i];
		if (form_entry(writer, index, entry))
		{
			keep_entry(index, entry);
			count++;
		}
		ResetPerTupleExprContext(writer->estate);
	}
	ExecClearTuple(writer->slot);
	return count;
}

/*
 * Does the row have the same entries as before its update?  A hint only: a
 * btree then looks for old versions to delete before it splits a page.
 */
static bool
is_unchanged(const IndexTarget *index, const Bitmapset *changed)
{
	return changed && !bms_overlap(index->columns, changed);
}

/* Fetch the pages of the next entries, from one that is on. */
static void
prefetch_entries(IndexTarget *index, const Entry *entries, int count)
{
	int64		keys[AVC_PREFETCH_KEYS];
	int			i;

	count = Min(count, AVC_PREFETCH_KEYS);
	for (i = 0; i < count; i++)
		keys[i] = avc_index_prefetch_key(index->prefetch,
										 entries[i].values[0],
										 entries[i].nulls[0]);
	avc_index_prefetch(index->prefetch, keys, count);
}

static void
insert_entry(AvcRowWriter *writer, IndexTarget *index, const Entry *entry)
{
	bool		is_checked = index->info->ii_Unique && !entry->row->changed;

	index_insert(index->rel, entry->values, entry->nulls,
				 &entry->row->tuple->t_self, writer->rel,
				 is_checked ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
				 is_unchanged(index, entry->row->changed), index->info);
}

static void
write_sorted(AvcRowWriter *writer, IndexTarget *index)
{
	Entry	   *entries = palloc_array(Entry, writer->nrows);
	int			count = form_entries(writer, index, entries);
	int			i;

	qsort_arg(entries, count, sizeof(Entry), compare_entries, index);
	index->prefetch = avc_index_prefetch_begin(index->rel, NULL);
	for (i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (index->prefetch && i % AVC_PREFETCH_KEYS == 0)
			prefetch_entries(index, &entries[i], count - i);
		insert_entry(writer, index, &entries[i]);
	}
	index->prefetch = NULL;
}

/* Entries of other indexes may be large, so there is one at a time. */
static void
write_unsorted(AvcRowWriter *writer, IndexTarget *index)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];
	int			i;

	for (i = 0; i < writer->nrows; i++)
	{
		Entry		entry = {values, nulls, &writer->rows[i]};

		if (form_entry(writer, index, &entry))
			insert_entry(writer, index, &entry);
		ResetPerTupleExprContext(writer->estate);
	}
	ExecClearTuple(writer->slot);
}

/* ---- rows ---- */

/* Insert the rows from one that is to be inserted up to one that is not. */
static int
insert_run(AvcRowWriter *writer, int from)
{
	int			count = 0;
	int			i;

	while (count < HEAP_ROWS && from + count < writer->nrows &&
		   !writer->rows[from + count].changed)
	{
		if (writer->slots[count] == NULL)
		{
			MemoryContext old = MemoryContextSwitchTo(writer->context);

			writer->slots[count] =
				MakeSingleTupleTableSlot(writer->desc, &TTSOpsHeapTuple);
			MemoryContextSwitchTo(old);
		}
		ExecStoreHeapTuple(writer->rows[from + count].tuple,
						   writer->slots[count], false);
		count++;
	}
	table_multi_insert(writer->rel, writer->slots, count,
					   GetCurrentCommandId(true), 0, NULL);
	for (i = 0; i < count; i++)
	{
		writer->rows[from + i].tuple->t_self = writer->slots[i]->tts_tid;
		ExecClearTuple(writer->slots[i]);
	}
	return count;
}

void
avc_row_writer_flush(AvcRowWriter *writer)
{
	MemoryContext old;
	int			i = 0;

	if (writer->nrows == 0)
		return;
	old = MemoryContextSwitchTo(writer->batch);
	while (i < writer->nrows)
		i += writer->rows[i].changed ? 1 : insert_run(writer, i);
	for (i = 0; i < writer->nindexes; i++)
	{
		if (writer->indexes[i].keys)
			write_sorted(writer, &writer->indexes[i]);
		else
			write_unsorted(writer, &writer->indexes[i]);
	}
	writer->nrows = 0;
	writer->bytes = 0;
	MemoryContextSwitchTo(old);
	MemoryContextReset(writer->batch);
}

/* Keep a copy of the row until flush. */
static void
collect(AvcRowWriter *writer, HeapTuple row, const Bitmapset *changed)
{
	MemoryContext old = MemoryContextSwitchTo(writer->batch);

	if (writer->nrows == writer->room)
	{
		writer->room *= 2;
		writer->rows = repalloc(writer->rows, writer->room * sizeof(Row));
	}
	writer->rows[writer->nrows].tuple = heap_copytuple(row);
	writer->rows[writer->nrows].changed = bms_copy(changed);
	writer->nrows++;
	writer->bytes += row->t_len;
	MemoryContextSwitchTo(old);
	if (writer->nrows == BATCH_ROWS || writer->bytes > BATCH_BYTES)
		avc_row_writer_flush(writer);
}

void
avc_row_writer_insert(AvcRowWriter *writer, HeapTuple row)
{
	collect(writer, row, NULL);
}

bool
avc_row_writer_update(AvcRowWriter *writer, ItemPointer place, HeapTuple row,
					  const Bitmapset *changed)
{
	TM_FailureData failure;
	LockTupleMode mode;
	TM_Result	result;
	bool		needs_entries;

	Assert(changed != NULL);
	ExecStoreHeapTuple(row, writer->slot, false);
	result = table_tuple_update(writer->rel, place, writer->slot,
								GetCurrentCommandId(true),
								GetActiveSnapshot(), InvalidSnapshot, true,
								&failure, &mode, &needs_entries);
	if (result == TM_Updated || result == TM_Deleted)
		return false;
	if (result != TM_Ok)
		elog(ERROR, "could not update a row of \"%s\": %d",
			 RelationGetRelationName(writer->rel), result);
	if (needs_entries)
	{
		row->t_self = writer->slot->tts_tid;
		collect(writer, row, changed);
	}
	ExecClearTuple(writer->slot);
	return true;
}

void
avc_row_writer_close(AvcRowWriter *writer)
{
	int			i;

	avc_row_writer_flush(writer);
	for (i = 0; i < HEAP_ROWS && writer->slots[i]; i++)
		ExecDropSingleTupleTableSlot(writer->slots[i]);
	ExecDropSingleTupleTableSlot(writer->slot);
	ExecCloseIndices(writer->target);
	FreeExecutorState(writer->estate);
	MemoryContextDelete(writer->context);
}
