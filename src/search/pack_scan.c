/*
 * search/pack_scan.c
 *		The vectors of a pack that come closest to a query.
 *
 * The codes of all vectors are read, a quarter of the bytes of the vectors
 * themselves.  They give each cosine to within a bound (cosine.h).  The best
 * "wanted" lower bounds make a floor; a vector whose upper bound is below it
 * cannot be among the best, whatever it is exactly.  Of the others, which are
 * few, the cosine is computed from the vector itself.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/memutils.h"

#include "search/cosine.h"
#include "search/pack_scan.h"

#define BETWEEN_INTERRUPTS 4096 /* slots */

typedef struct Candidate
{
	uint32		slot;
	float		upper;
} Candidate;

typedef struct PackScan
{
	const AvcPack *pack;
	const AvcIdSet *among;
	AvcQueryCodes query;
	uint32		wanted;
	/* the best lower bounds, the least of them on top */
	uint32		best_count;
	float	   *best;
	float		floor;			/* -INFINITY until there are "wanted" */
	uint32		count;
	uint32		room;
	Candidate  *candidates;
} PackScan;

/* ---- the best lower bounds ---- */

/* Let the top sink to its place. */
static void
sift_down(float *heap, uint32 count)
{
	uint32		at = 0;
	uint32		child;

	while ((child = 2 * at + 1) < count)
	{
		float		value = heap[at];

		if (child + 1 < count && heap[child + 1] < heap[child])
			child++;
		if (value <= heap[child])
			break;
		heap[at] = heap[child];
		heap[child] = value;
		at = child;
	}
}

static void
sift_up(float *heap, uint32 at)
{
	while (at > 0 && heap[at] < heap[(at - 1) / 2])
	{
		float		value = heap[at];

		heap[at] = heap[(at - 1) / 2];
		at = (at - 1) / 2;
		heap[at] = value;
	}
}

static void
note_lower(PackScan *scan, float lower)
{
	if (scan->best_count < scan->wanted)
	{
		scan->best[scan->best_count] = lower;
		sift_up(scan->best, scan->best_count++);
	}
	else if (lower > scan->best[0])
	{
		scan->best[0] = lower;
		sift_down(scan->best, scan->best_count);
	}
	if (scan->best_count == scan->wanted)
		scan->floor = scan->best[0];
}

static void
add_candidate(PackScan *scan, uint32 slot, float upper)
{
	if (scan->count == scan->room)
	{
		scan->room *= 2;
		scan->candidates = repalloc_huge(scan->candidates,
										 sizeof(Candidate) *
										 (Size) scan->room);
	}
	scan->candidates[scan->count++] = (Candidate)
	{
		slot, upper
	};
}

/* ---- codes ---- */

static void
scan_slots(PackScan *scan, uint32 from, uint32 to)
{
	const AvcPack *pack = scan->pack;
	const int8 *codes = pack->codes + (Size) scan->query.bytes * from;
	uint32		slot;

	for (slot = from; slot < to; slot++, codes += scan->query.bytes)
	{
		const AvcPackKey *key = &pack->keys[slot];
		float		lower;
		float		upper;

		if (key->error < 0 ||
			(scan->among && !avc_id_set_has(scan->among, key->frame_id)))
			continue;
		avc_cosine_bounds(avc_codes_product(codes, &scan->query), key->scale,
						  key->error, &scan->query, &lower, &upper);
		if (upper < scan->floor)
			continue;
		add_candidate(scan, slot, upper);
		note_lower(scan, lower);
	}
}

static void
scan_codes(PackScan *scan)
{
	uint32		from;

	for (from = 0; from < scan->pack->slots; from += BETWEEN_INTERRUPTS)
	{
		CHECK_FOR_INTERRUPTS();
		scan_slots(scan, from, Min(scan->pack->slots - from,
								   BETWEEN_INTERRUPTS) + from);
	}
}

/* ---- vectors ---- */

static int
compare_found(const void *a, const void *b)
{
	const AvcFound *x = a;
	const AvcFound *y = b;

	if (x->similarity != y->similarity)
		return x->similarity > y->similarity ? -1 : 1;
	return x->frame_id < y->frame_id ? -1 : x->frame_id > y->frame_id;
}

/* The candidates that may reach the floor, with their exact cosines. */
static uint32
refine(const PackScan *scan, const float *query, AvcFound *found)
{
	const AvcPack *pack = scan->pack;
	uint32		count = 0;
	uint32		i;

	for (i = 0; i < scan->count; i++)
	{
		uint32		slot = scan->candidates[i].slot;
		AvcFound   *one = &found[count];

		if (i % BETWEEN_INTERRUPTS == 0)
			CHECK_FOR_INTERRUPTS();
		if (scan->candidates[i].upper < scan->floor ||
			!avc_cosine(pack->vectors + (Size) pack->numbers * slot, query,
						pack->numbers, &one->similarity))
			continue;
		one->slot = slot;
		one->frame_id = pack->keys[slot].frame_id;
		count++;
	}
	qsort(found, count, sizeof(AvcFound), compare_found);
	return count;
}

uint32
avc_pack_scan(const AvcPack *pack, const float *query, uint32 wanted,
			  const AvcIdSet *among, AvcFound **found, float *floor)
{
	PackScan		scan = {.pack = pack,.among = among};
	uint32		count;

	scan.wanted = Min(wanted, pack->slots);
	scan.floor = -INFINITY;
	scan.room = 1024;
	scan.candidates = palloc_array(Candidate, scan.room);
	scan.best = MemoryContextAllocHuge(CurrentMemoryContext,
									   sizeof(float) * (Size) (scan.wanted + 1));
	scan.query.codes = palloc_array(int16, AVC_CODE_BYTES(pack->numbers) + 1);
	if (pack->numbers == 0 || wanted == 0 ||
		!avc_query_codes_make(query, pack->numbers, &scan.query))
		scan.pack = NULL;
	else
		scan_codes(&scan);

	*found = MemoryContextAllocHuge(CurrentMemoryContext,
									sizeof(AvcFound) * ((Size) scan.count + 1));
	count = scan.pack ? refine(&scan, query, *found) : 0;
	*floor = scan.wanted < wanted ? -INFINITY : scan.floor;
	pfree(scan.candidates);
	pfree(scan.best);
	pfree(scan.query.codes);
	return count;
}
