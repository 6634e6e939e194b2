/*
 * search/pack_page.c
 *		A page of a dataset into its pack.
 *
 * A page's rows are taken down under its lock, and unpacked without it; what
 * comes of it is then written at once, so that an error anywhere leaves a
 * pack that holds less, not something wrong.  README says which rows go into
 * the pack and when a page counts as read.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/heapam.h"
#include "access/xact.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "search/cosine.h"
#include "search/pack_page.h"

#define FEWEST_SLOTS 64

/* ---- a page, under its lock ---- */

/*
 * Is a row to be packed?  Whatever a snapshot may come to see is, but for
 * rows that their makers have not committed: they are left to a later time,
 * and the page with them.  And for rows that our snapshot does not see any
 * more, whose vectors may be gone any time: *dead_after is then the id that
 * deleted them.
 */
static bool
is_wanted(PackSync *sync, HeapTuple tuple, Buffer buffer,
		  TransactionId *dead_after)
{
	TransactionId deleter = InvalidTransactionId;
	HTSV_Result state = HeapTupleSatisfiesVacuumHorizon(tuple, buffer,
														&deleter);

	*dead_after = InvalidTransactionId;
	if (state == HEAPTUPLE_DEAD)
		return false;
	if (state == HEAPTUPLE_INSERT_IN_PROGRESS ||
		TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)))
	{
		sync->page.lsn = InvalidXLogRecPtr;
		return HeapTupleSatisfiesVisibility(tuple, sync->snapshot, buffer);
	}
	if (state != HEAPTUPLE_RECENTLY_DEAD ||
		!TransactionIdPrecedes(deleter, sync->snapshot->xmin))
		return true;
	*dead_after = deleter;
	return false;
}

void
avc_pack_page_copy(PackSync *sync, Buffer buffer)
{
	PageCopy   *copy = &sync->page;
	Page		page = BufferGetPage(buffer);
	OffsetNumber offset;

	copy->last = PageIsNew(page) ? 0 : PageGetMaxOffsetNumber(page);
	for (offset = FirstOffsetNumber; offset <= copy->last; offset++)
	{
		ItemId		item = PageGetItemId(page, offset);
		HeapTupleData tuple;

		copy->is_wanted[offset] = false;
		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		tuple.t_tableOid = RelationGetRelid(sync->file->rel);
		ItemPointerSet(&tuple.t_self, copy->block, offset);
		copy->is_wanted[offset] = is_wanted(sync, &tuple, buffer,
											&copy->dead_after[offset]);
	}
	memcpy(copy->bytes.data, page, BLCKSZ);
}

/* ---- what it holds ---- */

/* The row at an offset of the copy; false if there is none. */
static bool
row_at(PackSync *sync, OffsetNumber offset, HeapTuple tuple)
{
	Page		page = sync->page.bytes.data;
	ItemId		item = PageGetItemId(page, offset);

	if (!ItemIdIsNormal(item))
		return false;
	tuple->t_data = (HeapTupleHeader) PageGetItem(page, item);
	tuple->t_len = ItemIdGetLength(item);
	tuple->t_tableOid = RelationGetRelid(sync->file->rel);
	ItemPointerSet(&tuple->t_self, sync->page.block, offset);
	return true;
}

/* Its vector as it lies there; false for NULL. */
static bool
vector_of(PackSync *sync, HeapTuple tuple, Datum *vector, Oid *value)
{
	struct varatt_external pointer;
	bool		is_null;

	*vector = heap_getattr(tuple, sync->file->column,
						   RelationGetDescr(sync->file->rel), &is_null);
	*value = InvalidOid;
	if (!is_null && VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(*vector)))
	{
		VARATT_EXTERNAL_GET_POINTER(pointer,
									(struct varlena *) DatumGetPointer(*vector));
		*value = pointer.va_valueid;
	}
	return !is_null;
}

/* Is the row the one that a slot was made of? */
static bool
is_of_slot(const AvcPackTuple *slot, HeapTuple tuple, Oid value)
{
	return slot->xmin == HeapTupleHeaderGetRawXmin(tuple->t_data) &&
		slot->value == value;
}

/*
 * A slot of this page with the same value of the TOAST table, of a row that is
 * there: an UPDATE of another column has taken the value along.
 */
static uint32
twin_of(PackSync *sync, Oid value)
{
	const AvcPackTuple *tuples = pack_tuples(sync->file);
	OffsetNumber offset;

	if (!OidIsValid(value))
		return AVC_NO_SLOT;
	for (offset = FirstOffsetNumber; offset <= sync->page.last; offset++)
	{
		uint32		slot = sync->had[offset];

		if (slot != AVC_NO_SLOT && tuples[slot].value == value)
			return slot;
	}
	return AVC_NO_SLOT;
}

static void
copy_twin(PackSync *sync, NewRow *row, uint32 twin)
{
	PackFile   *file = sync->file;
	uint32		numbers = file->header.numbers;
	Size		bytes = AVC_CODE_BYTES(numbers);
	float	   *vector = palloc(sizeof(float) * numbers + 1);

	row->key = pack_keys(file)[twin];
	row->tuple.is_odd = pack_tuples(file)[twin].is_odd;
	row->numbers = row->tuple.is_odd ? 0 : numbers;
	row->codes = palloc(bytes + 1);
	memcpy(row->codes, file->map + file->parts.codes + bytes * twin, bytes);
	memcpy(vector, file->map + file->parts.vectors +
		   sizeof(float) * numbers * twin, sizeof(float) * numbers);
	row->vector = vector;
}

/* The numbers of a one-dimensional array; NULL for what no vector can be. */
static const float *
numbers_of(ArrayType *array, int *count)
{
	*count = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	if (ARR_NDIM(array) != 1 || *count > AVC_MAX_NUMBERS)
		*count = 0;
	if (*count == 0 || ARR_HASNULL(array))
		return NULL;
	return (const float *) ARR_DATA_PTR(array);
}

static void
unpack_row(NewRow *row, Datum datum)
{
	row->vector = numbers_of(DatumGetArrayTypeP(datum), &row->numbers);
	row->key.error = -1;
	row->key.scale = 0;
	row->tuple.is_odd = false;
	row->codes = palloc0(AVC_CODE_BYTES(row->numbers) + 1);
	if (row->vector)
		(void) avc_codes_make(row->vector, row->numbers, row->codes,
							  &row->key.scale, &row->key.error);
}

static void
take_row(PackSync *sync, HeapTuple tuple, Datum vector, Oid value)
{
	NewRow	   *row = &sync->new_rows[sync->new_count++];
	uint32		twin = twin_of(sync, value);
	bool		is_null;

	if (twin != AVC_NO_SLOT)
		copy_twin(sync, row, twin);
	else
		unpack_row(row, vector);
	row->key.frame_id = DatumGetInt64(heap_getattr(tuple, sync->frame_id,
												   RelationGetDescr(sync->file->rel),
												   &is_null));
	row->tuple.block = sync->page.block;
	row->tuple.offset = ItemPointerGetOffsetNumber(&tuple->t_self);
	row->tuple.xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
	row->tuple.value = value;
}

/* A row deleted by that id is not in the pack: older snapshots may see it. */
static void
leave_out(PackSync *sync, TransactionId deleter)
{
	PackHeader *header = &sync->file->header;
	FullTransactionId next = ReadNextFullTransactionId();

	header->horizon = Max(header->horizon,
						  U64FromFullTransactionId(next) +
						  (int32) (deleter - XidFromFullTransactionId(next)));
}

/* The slots of the page, by offset; false if the file makes no sense. */
static bool
find_slots(PackSync *sync)
{
	PackFile   *file = sync->file;
	const AvcPackTuple *tuples = pack_tuples(file);
	uint32		slot = AVC_NO_SLOT;
	int			count = 0;

	memset(sync->had, 0xff, sizeof(sync->had));
	if (sync->page.block < file->header.blocks)
		slot = pack_blocks(file)[sync->page.block].first;
	for (; slot != AVC_NO_SLOT; slot = tuples[slot].next)
	{
		if (slot >= file->header.slots ||
			tuples[slot].block != sync->page.block ||
			tuples[slot].offset > MaxHeapTuplesPerPage ||
			++count > MaxHeapTuplesPerPage)
			return false;
		sync->had[tuples[slot].offset] = slot;
	}
	return true;
}

/* ---- into the file ---- */

static bool
put_row(PackFile *file, uint32 slot, const NewRow *row)
{
	uint32		numbers = file->header.numbers;
	Size		bytes = AVC_CODE_BYTES(numbers);

	if (row->numbers == numbers &&
		(!avc_pack_put(file, file->parts.codes + bytes * slot, row->codes,
					   bytes) ||
		 (row->vector &&
		  !avc_pack_put(file, file->parts.vectors +
						sizeof(float) * numbers * slot, row->vector,
						sizeof(float) * numbers))))
		return false;
	return avc_pack_put(file, file->parts.keys + sizeof(AvcPackKey) * slot,
						&row->key, sizeof(AvcPackKey)) &&
		avc_pack_put(file, file->parts.tuples + sizeof(AvcPackTuple) * slot,
					 &row->tuple, sizeof(AvcPackTuple));
}

/* Append the page's new rows, each before "first", the chain so far. */
static bool
put_new_rows(PackSync *sync, uint32 *first)
{
	PackHeader *header = &sync->file->header;
	int			i;

	for (i = 0; i < sync->new_count; i++)
	{
		NewRow	   *row = &sync->new_rows[i];

		if (row->numbers != header->numbers || row->numbers == 0)
		{
			row->tuple.is_odd = true;
			row->key.error = -1;
			header->odd++;
			if (row->numbers > 0)
				header->odd_numbers = row->numbers;
		}
		row->tuple.next = *first;
		if (!put_row(sync->file, header->slots, row))
			return false;
		*first = header->slots++;
	}
	return true;
}

static bool
put_next(PackFile *file, uint32 slot, uint32 next)
{
	return avc_pack_put(file, file->parts.tuples +
						sizeof(AvcPackTuple) * slot +
						offsetof(AvcPackTuple, next), &next, sizeof(next));
}

static bool
bury_slot(PackFile *file, uint32 slot)
{
	float		error = -1;
	BlockNumber nowhere = InvalidBlockNumber;

	file->header.dead++;
	if (pack_tuples(file)[slot].is_odd)
		file->header.odd--;
	return avc_pack_put(file, file->parts.keys + sizeof(AvcPackKey) * slot +
						offsetof(AvcPackKey, error), &error, sizeof(error)) &&
		avc_pack_put(file, file->parts.tuples + sizeof(AvcPackTuple) * slot +
					 offsetof(AvcPackTuple, block), &nowhere, sizeof(nowhere));
}

/* The chain without the rows that have left the page. */
static bool
put_old_rows(PackSync *sync, const bool *is_gone, uint32 *first)
{
	PackFile   *file = sync->file;
	OffsetNumber offset;

	*first = AVC_NO_SLOT;
	for (offset = FirstOffsetNumber; offset <= MaxHeapTuplesPerPage; offset++)
	{
		uint32		slot = sync->had[offset];

		if (slot == AVC_NO_SLOT)
			continue;
		if (is_gone[offset])
		{
			if (!bury_slot(file, slot))
				return false;
			continue;
		}
		if (pack_tuples(file)[slot].next != *first &&
			!put_next(file, slot, *first))
			return false;
		*first = slot;
	}
	return true;
}

/* Room for the rows to come, by how many came of the pages so far. */
static bool
make_room(PackSync *sync)
{
	PackHeader *header = &sync->file->header;
	uint32		needed = header->slots + sync->new_count;
	uint32		numbers = header->numbers;
	double		live = needed - header->dead;
	double		expected = live * sync->table_blocks /
		(sync->page.block + 1.0) * 1.1;
	int			i;

	/* the first vector says how many numbers they have */
	for (i = 0; numbers == 0 && i < sync->new_count; i++)
		numbers = sync->new_rows[i].numbers;
	if (numbers == header->numbers && needed <= header->slot_room)
		return true;
	expected = Min(Max(expected, live * 1.25), live * 8) + FEWEST_SLOTS;
	return avc_pack_file_remake(sync->file, numbers,
								Min(expected, AVC_NO_SLOT / 2),
								header->block_room);
}

static bool
put_block(PackSync *sync, XLogRecPtr lsn, uint32 first)
{
	PackBlock	block = {lsn, first, 0};

	return avc_pack_put(sync->file, sync->file->parts.blocks +
						sizeof(PackBlock) * sync->page.block, &block,
						sizeof(block));
}

/* The page's slots are what "had" without those gone, and the new rows. */
static bool
put_page(PackSync *sync, const bool *is_gone)
{
	PackFile   *file = sync->file;
	uint32		first;
	bool		is_done;

	if (!make_room(sync) || !find_slots(sync))
		return false;
	file->header.is_changing = 1;
	is_done = avc_pack_put_header(file) &&
		put_old_rows(sync, is_gone, &first) &&
		put_new_rows(sync, &first) &&
		put_block(sync, sync->page.lsn, first);
	file->header.blocks = Max(file->header.blocks, sync->page.block + 1);
	file->header.is_changing = 0;
	return is_done && avc_pack_put_header(file);
}

/* ---- the page ---- */

/*
 * Sort out the copy: what is new in it, what of the slots is gone.  False if
 * it is as the pack has it.
 */
static bool
compare_page(PackSync *sync, bool *is_gone)
{
	const PackFile *file = sync->file;
	const AvcPackTuple *tuples = pack_tuples(file);
	OffsetNumber offset;

	sync->new_count = 0;
	memset(is_gone, 1, sizeof(bool) * (MaxHeapTuplesPerPage + 1));
	for (offset = FirstOffsetNumber; offset <= sync->page.last; offset++)
	{
		uint32		slot = sync->had[offset];
		HeapTupleData tuple;
		Datum		vector;
		Oid			value;

		if (!row_at(sync, offset, &tuple) ||
			!vector_of(sync, &tuple, &vector, &value))
			continue;
		if (slot != AVC_NO_SLOT && is_of_slot(&tuples[slot], &tuple, value))
			is_gone[offset] = false;
		else if (sync->page.is_wanted[offset])
			take_row(sync, &tuple, vector, value);
		else if (TransactionIdIsValid(sync->page.dead_after[offset]))
			leave_out(sync, sync->page.dead_after[offset]);
	}
	for (offset = FirstOffsetNumber; offset <= MaxHeapTuplesPerPage; offset++)
	{
		if (is_gone[offset] && sync->had[offset] != AVC_NO_SLOT)
			return true;
	}
	return sync->new_count > 0 || sync->page.block >= file->header.blocks ||
		pack_blocks(file)[sync->page.block].lsn != sync->page.lsn;
}

bool
avc_pack_page_put(PackSync *sync)
{
	bool		is_gone[MaxHeapTuplesPerPage + 1];
	MemoryContext old = MemoryContextSwitchTo(sync->page_context);
	bool		is_done = false;

	if (find_slots(sync))
	{
		is_done = !compare_page(sync, is_gone) || put_page(sync, is_gone);
	}
	else
		sync->file->is_broken = true;
	MemoryContextSwitchTo(old);
	MemoryContextReset(sync->page_context);
	return is_done;
}
