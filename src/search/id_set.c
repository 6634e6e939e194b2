/*
 * search/id_set.c
 *		A set of frame ids, as a query returns them.
 *
 * A bit an id between the least and the greatest, unless they lie far
 * apart: then they are sorted.
 */
#include "postgres.h"

#include "executor/tuptable.h"
#include "utils/memutils.h"

#include "search/id_set.h"

/* Bits spent on an id at most. */
#define MOST_BITS 64

struct AvcIdSet
{
	DestReceiver receiver;
	MemoryContext context;
	int64	   *ids;
	Size		count;
	Size		room;
	int64		least;
	uint64		range;			/* bits; 0 = ids are sorted */
	uint64	   *bits;
};

/* ---- filling ---- */

static void
set_startup(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
set_shutdown(DestReceiver *self)
{
}

static bool
set_receive(TupleTableSlot *slot, DestReceiver *self)
{
	AvcIdSet   *set = (AvcIdSet *) self;
	bool		is_null;
	int64		id = DatumGetInt64(slot_getattr(slot, 1, &is_null));

	if (is_null)
		return true;
	if (set->count == set->room)
	{
		set->room *= 2;
		set->ids = repalloc_huge(set->ids, set->room * sizeof(int64));
	}
	set->ids[set->count++] = id;
	return true;
}

AvcIdSet *
avc_id_set_make(void)
{
	AvcIdSet   *set = palloc0_object(AvcIdSet);

	set->receiver.receiveSlot = set_receive;
	set->receiver.rStartup = set_startup;
	set->receiver.rShutdown = set_shutdown;
	set->receiver.rDestroy = set_shutdown;
	set->receiver.mydest = DestNone;
	set->context = CurrentMemoryContext;
	set->room = 1024;
	set->ids = palloc_array(int64, set->room);
	return set;
}

DestReceiver *
avc_id_set_receiver(AvcIdSet *set)
{
	return &set->receiver;
}

static int
compare_ids(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

static void
make_bits(AvcIdSet *set)
{
	Size		words = set->range / 64 + 1;
	Size		i;

	set->bits = MemoryContextAllocExtended(set->context,
										   words * sizeof(uint64),
										   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (i = 0; i < set->count; i++)
	{
		uint64		place = (uint64) set->ids[i] - (uint64) set->least;

		set->bits[place / 64] |= UINT64CONST(1) << place % 64;
	}
	pfree(set->ids);
	set->ids = NULL;
}

void
avc_id_set_finish(AvcIdSet *set)
{
	int64		most;
	Size		i;

	if (set->count == 0)
		return;
	set->least = most = set->ids[0];
	for (i = 1; i < set->count; i++)
	{
		set->least = Min(set->least, set->ids[i]);
		most = Max(most, set->ids[i]);
	}
	/* one less than there are, so that all of them fit */
	set->range = (uint64) most - (uint64) set->least;
	if (set->range / MOST_BITS <= set->count)
	{
		set->range++;
		make_bits(set);
		return;
	}
	set->range = 0;
	qsort(set->ids, set->count, sizeof(int64), compare_ids);
}

/* ---- asking ---- */

int64
avc_id_set_count(const AvcIdSet *set)
{
	return set->count;
}

bool
avc_id_set_has(const AvcIdSet *set, int64 id)
{
	uint64		place = (uint64) id - (uint64) set->least;

	if (set->range > 0)
		return place < set->range &&
			(set->bits[place / 64] >> place % 64 & 1) != 0;
	return set->count > 0 &&
		bsearch(&id, set->ids, set->count, sizeof(int64), compare_ids) != NULL;
}
