/*
 * slices/delta_rows.c
 *		The difference of a refresh from the dataset's changed rows alone.
 *
 * Rows of the dataset that may have changed since the last refresh go through
 * the definition, one by one, and into a sort by frame_id; keys of rows that
 * were deleted, or that do not pass, go there too.  Then each key's row in
 * the view is looked up, keys ascending, and compared with the new one by
 * image.  What is equal drops out, so a row that is reported without need
 * costs a look-up and nothing else.
 *
 * Memory is bounded by work_mem, whatever changed.  When more changed than
 * avcurate.refresh_full_threshold of the dataset, looking rows up one by one
 * is dearer than computing the definition: then this gives up.
 */
#include "postgres.h"

#include <math.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_index.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "optimizer/plancat.h"
#include "utils/datum.h"
#include "utils/float.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplesort.h"

#include "common/catalog.h"
#include "common/settings.h"
#include "common/spi.h"
#include "slices/index_prefetch.h"
#include "slices/refresh.h"

/* ---- the view's rows by key ---- */

typedef struct Lookup
{
	Relation	view;
	Relation	index;
	Snapshot	snapshot;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	int64		greatest;		/* key in the view */
	bool		is_empty;
} Lookup;

/* Find the greatest key: rows that were appended need no look-up. */
static void
find_greatest(Lookup *lookup, AttrNumber key)
{
	bool		is_descending = lookup->index->rd_indoption[0] &
		INDOPTION_DESC;
	ScanKeyData present;
	bool		is_null;

	ScanKeyEntryInitialize(&present, SK_ISNULL | SK_SEARCHNOTNULL, 1,
						   InvalidStrategy, InvalidOid, InvalidOid,
						   InvalidOid, (Datum) 0);
	index_rescan(lookup->scan, &present, 1, NULL, 0);
	lookup->is_empty = !index_getnext_slot(lookup->scan,
										   is_descending ?
										   ForwardScanDirection :
										   BackwardScanDirection,
										   lookup->slot);
	if (!lookup->is_empty)
		lookup->greatest = DatumGetInt64(slot_getattr(lookup->slot, key,
													  &is_null));
}

static void
lookup_begin(Lookup *lookup, Relation view, AttrNumber key)
{
	lookup->view = view;
	lookup->index = index_open(avc_definition_key_index(view),
							   AccessShareLock);
	/* nobody else writes to the view: its lock is ours */
	lookup->snapshot = RegisterSnapshot(GetLatestSnapshot());
	lookup->scan = index_beginscan(view, lookup->index, lookup->snapshot,
								   1, 0);
	lookup->slot = table_slot_create(view, NULL);
	find_greatest(lookup, key);
}

static bool
lookup_may_hold(const Lookup *lookup, int64 key)
{
	return !lookup->is_empty && key <= lookup->greatest;
}

/* The view's row with that key, or NULL. */
static TupleTableSlot *
lookup_row(Lookup *lookup, int64 key)
{
	ScanKeyData equal;

	if (!lookup_may_hold(lookup, key))
		return NULL;
	ScanKeyInit(&equal, 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(key));
	index_rescan(lookup->scan, &equal, 1, NULL, 0);
	if (!index_getnext_slot(lookup->scan, ForwardScanDirection,
							lookup->slot))
		return NULL;
	slot_getallattrs(lookup->slot);
	return lookup->slot;
}

static void
lookup_end(Lookup *lookup)
{
	index_endscan(lookup->scan);
	ExecDropSingleTupleTableSlot(lookup->slot);
	UnregisterSnapshot(lookup->snapshot);
	index_close(lookup->index, NoLock);
}

/* ---- candidates ---- */

/* The view's columns and "is_gone", which sorts a row before its absence. */
typedef struct Candidates
{
	AttrNumber	key;			/* frame_id in the view */
	AttrNumber	base_key;		/* frame_id in the dataset */
	int			columns;		/* of the view */
	AvcEvaluator *evaluator;
	TupleDesc	base_desc;
	Lookup		lookup;
	Tuplesortstate *sort;
	TupleTableSlot *slot;
	double		count;
	double		limit;
} Candidates;

static TupleDesc
sorted_desc(Relation view)
{
	TupleDesc	desc = RelationGetDescr(view);
	TupleDesc	sorted = CreateTemplateTupleDesc(desc->natts + 1);
	int			i;

	for (i = 1; i <= desc->natts; i++)
		TupleDescCopyEntry(sorted, i, desc, i);
	TupleDescInitEntry(sorted, desc->natts + 1, "is_gone", INT4OID, -1, 0);
	return sorted;
}

static void
begin_sort(Candidates *candidates)
{
	AttrNumber	numbers[2];
	Oid			operators[2] = {Int8LessOperator, Int4LessOperator};
	Oid			collations[2] = {InvalidOid, InvalidOid};
	bool		nulls_first[2] = {false, false};

	numbers[0] = candidates->key;
	numbers[1] = candidates->columns + 1;
	candidates->slot =
		MakeSingleTupleTableSlot(sorted_desc(candidates->lookup.view),
								 &TTSOpsVirtual);
	candidates->sort =
		tuplesort_begin_heap(candidates->slot->tts_tupleDescriptor, 2,
							 numbers, operators, collations, nulls_first,
							 work_mem, NULL, TUPLESORT_NONE);
}

/* Put a key and its new row, NULL if it has none, into the sort. */
static bool
put_candidate(Candidates *candidates, int64 key, TupleTableSlot *row)
{
	int			columns = candidates->columns;
	TupleTableSlot *slot;

	if (++candidates->count > candidates->limit)
		return false;
	if (candidates->sort == NULL)
		begin_sort(candidates);
	slot = ExecClearTuple(candidates->slot);
	if (row)
	{
		memcpy(slot->tts_values, row->tts_values, columns * sizeof(Datum));
		memcpy(slot->tts_isnull, row->tts_isnull, columns * sizeof(bool));
	}
	else
	{
		memset(slot->tts_isnull, true, columns * sizeof(bool));
		slot->tts_values[candidates->key - 1] = Int64GetDatum(key);
		slot->tts_isnull[candidates->key - 1] = false;
	}
	slot->tts_values[columns] = Int32GetDatum(row == NULL);
	slot->tts_isnull[columns] = false;
	ExecStoreVirtualTuple(slot);
	tuplesort_puttupleslot(candidates->sort, slot);
	return true;
}

static bool
take_deleted(void *arg, int64 frame_id)
{
	Candidates *candidates = (Candidates *) arg;

	if (!lookup_may_hold(&candidates->lookup, frame_id))
		return true;
	return put_candidate(candidates, frame_id, NULL);
}

static bool
take_row(void *arg, HeapTuple base_row)
{
	Candidates *candidates = (Candidates *) arg;
	TupleTableSlot *row = avc_evaluator_row(candidates->evaluator, base_row);
	bool		is_null;
	Datum		key;

	if (row)
		return put_candidate(candidates, 0, row);
	key = heap_getattr(base_row, candidates->base_key, candidates->base_desc,
					   &is_null);
	return is_null || take_deleted(arg, DatumGetInt64(key));
}

/* Rows that may change before recomputing is cheaper. */
static double
candidates_limit(Relation base)
{
	BlockNumber pages;
	double		rows;
	double		visible;

	estimate_rel_size(base, NULL, &pages, &rows, &visible);
	if (avc_refresh_full_threshold >= 1)
		return get_float8_infinity();
	return ceil(rows * avc_refresh_full_threshold);
}

/* Collect them; false if there are too many.  Runs as the view's owner. */
static bool
candidates_begin(Candidates *candidates, AvcRefresh *refresh, Relation view,
				 Relation base)
{
	const AvcDefinition *rule = refresh->rule;

	candidates->key = rule->key;
	candidates->base_key = rule->base_key;
	candidates->columns = RelationGetNumberOfAttributes(view);
	candidates->base_desc = RelationGetDescr(base);
	candidates->evaluator = avc_evaluator_begin(rule, base, view);
	candidates->limit = candidates_limit(base);
	lookup_begin(&candidates->lookup, view, rule->key);
	return avc_discover(refresh->old, refresh->mark, base, take_row,
						take_deleted, candidates);
}

static void
candidates_end(Candidates *candidates)
{
	if (candidates->sort)
	{
		tuplesort_end(candidates->sort);
		ExecDropSingleTupleTableSlot(candidates->slot);
	}
	lookup_end(&candidates->lookup);
	avc_evaluator_end(candidates->evaluator);
}

/* ---- comparison ---- */

typedef struct Merge
{
	AvcDelta   *delta;
	AvcDigester *digester;		/* NULL: only count */
	TupleTableSlot *opened;		/* the view's descriptor */
	MemoryContext scratch;
	bool		has_key;
	int64		last;			/* key merged, if has_key */
} Merge;

static bool
is_equal(TupleTableSlot *a, TupleTableSlot *b, TupleDesc desc)
{
	int			i;

	for (i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (a->tts_isnull[i] != b->tts_isnull[i] ||
			(!a->tts_isnull[i] &&
			 !datum_image_eq(a->tts_values[i], b->tts_values[i],
							 column->attbyval, column->attlen)))
			return false;
	}
	return true;
}

static void
put_closed(Merge *merge, int64 key, TupleTableSlot *row)
{
	Datum		values[2];
	bool		nulls[2] = {false, false};

	values[0] = Int64GetDatum(key);
	values[1] = PointerGetDatum(&row->tts_tid);
	avc_digest_subtract_slot(merge->digester, row);
	tuplestore_putvalues(merge->delta->closed, merge->delta->closed_desc,
						 values, nulls);
}

static void
put_opened(Merge *merge, TupleTableSlot *row)
{
	avc_digest_add_slot(merge->digester, row);
	tuplestore_puttupleslot(merge->delta->opened, row);
}

/* One key: its row in the view and its row now, either may be NULL. */
static void
merge_key(Merge *merge, int64 key, TupleTableSlot *before,
		  TupleTableSlot *after)
{
	MemoryContext old = MemoryContextSwitchTo(merge->scratch);

	if (before == NULL && after == NULL)
		 /* came and went between the refreshes */ ;
	else if (before && after &&
			 is_equal(before, after, merge->delta->opened_desc))
		 /* rewritten as it was */ ;
	else
	{
		avc_delta_count(merge->delta, before == NULL, after == NULL);
		if (merge->digester && before)
			put_closed(merge, key, before);
		if (merge->digester && after)
			put_opened(merge, after);
	}
	MemoryContextSwitchTo(old);
	MemoryContextReset(merge->scratch);
}

/* The sorted row in the view's descriptor. */
static TupleTableSlot *
view_row(Merge *merge, TupleTableSlot *sorted)
{
	TupleTableSlot *slot = ExecClearTuple(merge->opened);
	int			columns = slot->tts_tupleDescriptor->natts;

	memcpy(slot->tts_values, sorted->tts_values, columns * sizeof(Datum));
	memcpy(slot->tts_isnull, sorted->tts_isnull, columns * sizeof(bool));
	return ExecStoreVirtualTuple(slot);
}

/* Candidates whose rows in the view are fetched together. */
typedef struct CandidateGroup
{
	AvcIndexPrefetch *prefetch;
	TupleTableSlot *slots[AVC_PREFETCH_KEYS];
	int64		keys[AVC_PREFETCH_KEYS];
	int			count;
} CandidateGroup;

static void
group_begin(CandidateGroup *group, const Candidates *candidates)
{
	const Lookup *lookup = &candidates->lookup;
	int			i;

	group->prefetch = avc_index_prefetch_begin(lookup->index, lookup->view);
	for (i = 0; i < AVC_PREFETCH_KEYS; i++)
		group->slots[i] =
			MakeSingleTupleTableSlot(candidates->slot->tts_tupleDescriptor,
									 &TTSOpsMinimalTuple);
}

static void
group_end(CandidateGroup *group)
{
	int			i;

	for (i = 0; i < AVC_PREFETCH_KEYS; i++)
		ExecDropSingleTupleTableSlot(group->slots[i]);
	if (group->prefetch)
		pfree(group->prefetch);
}

/* The next sorted candidates, their rows on the way; false at the end. */
static bool
group_read(CandidateGroup *group, Candidates *candidates)
{
	int			held = 0;

	group->count = 0;
	while (group->count < AVC_PREFETCH_KEYS)
	{
		TupleTableSlot *slot = group->slots[group->count];

		if (!tuplesort_gettupleslot(candidates->sort, true, true, slot, NULL))
			break;
		slot_getallattrs(slot);
		group->keys[group->count] =
			DatumGetInt64(slot->tts_values[candidates->key - 1]);
		if (lookup_may_hold(&candidates->lookup, group->keys[group->count]))
			held++;
		group->count++;
	}
	/* those that the view may hold come first */
	avc_index_prefetch(group->prefetch, group->keys, held);
	return group->count > 0;
}

static void
merge_group(Candidates *candidates, Merge *merge, const CandidateGroup *group)
{
	int			i;

	for (i = 0; i < group->count; i++)
	{
		TupleTableSlot *slot = group->slots[i];
		int64		key = group->keys[i];
		bool		is_gone;

		CHECK_FOR_INTERRUPTS();
		is_gone = DatumGetInt32(slot->tts_values[candidates->columns]) != 0;
		if (merge->has_key && key == merge->last)
		{
			if (!is_gone)
				ereport(ERROR,
						(errcode(ERRCODE_UNIQUE_VIOLATION),
						 errmsg("two frames of the dataset have frame_id " INT64_FORMAT,
								key)));
			continue;
		}
		merge->has_key = true;
		merge->last = key;
		merge_key(merge, key, lookup_row(&candidates->lookup, key),
				  is_gone ? NULL : view_row(merge, slot));
	}
}

static void
merge_candidates(Candidates *candidates, Merge *merge)
{
	CandidateGroup group;

	group_begin(&group, candidates);
	tuplesort_performsort(candidates->sort);
	while (group_read(&group, candidates))
		merge_group(candidates, merge, &group);
	group_end(&group);
}

/* A digester that starts from the newest version, whose rows it returns. */
static AvcDigester *
begin_digest(const AvcSlice *slice, int64 *rows)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old;
	AvcDigester *digester;
	AvcVersion *newest;
	AvcRoleScope scope;

	/* the view's owner may not read it */
	avc_catalog_enter(&scope);
	SPI_connect();
	newest = avc_version_newest(slice);
	*rows = newest->rows;
	old = MemoryContextSwitchTo(context);
	digester = avc_digest_begin(newest->digest);
	MemoryContextSwitchTo(old);
	SPI_finish();
	avc_catalog_leave(&scope);
	return digester;
}

/* Compare all candidates with the view and fill the delta. */
static void
fill_delta(AvcDelta *delta, Candidates *candidates, const AvcSlice *slice,
		   bool is_counted_only)
{
	Merge		merge = {.delta = delta};
	int64		rows = 0;

	merge.scratch = AllocSetContextCreate(CurrentMemoryContext,
										  "comparison of rows",
										  ALLOCSET_DEFAULT_SIZES);
	/* one descriptor for old and new: the digest learns each anew */
	merge.opened =
		MakeSingleTupleTableSlot(candidates->lookup.slot->tts_tupleDescriptor,
								 &TTSOpsVirtual);
	if (!is_counted_only)
	{
		merge.digester = begin_digest(slice, &rows);
		avc_digest_pin(merge.digester);
	}
	merge_candidates(candidates, &merge);
	if (!is_counted_only)
	{
		avc_digest_unpin(merge.digester);
		delta->digest = avc_digest_end(merge.digester);
		delta->rows = rows + delta->added - delta->removed;
	}
	ExecDropSingleTupleTableSlot(merge.opened);
	MemoryContextDelete(merge.scratch);
}

AvcDelta *
avc_delta_by_rows(AvcRefresh *refresh, Relation view, Relation base,
				  bool is_counted_only)
{
	Candidates	candidates = {0};
	AvcDelta   *delta = NULL;
	AvcRoleScope scope;

	avc_role_enter(&scope, view->rd_rel->relowner);
	if (candidates_begin(&candidates, refresh, view, base))
	{
		delta = avc_delta_create(view);
		if (candidates.sort)
			fill_delta(delta, &candidates, refresh->slice, is_counted_only);
	}
	else
		refresh->obstacle =
			psprintf("more than %.0f rows of the dataset changed (avcurate.refresh_full_threshold is %g)",
					 candidates.limit, avc_refresh_full_threshold);
	candidates_end(&candidates);
	avc_role_leave(&scope);
	return delta;
}
