/*
 * search/duplicate_frames.c
 *		Read the hashes of a dataset.
 *
 * One statement, as the current user: his rights and the policies on the
 * table decide what he compares.  Rows go from the executor straight into
 * arrays, and the scan may be parallel.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/varbit.h"

#include "search/duplicates.h"

#define MAX_FRAMES ((uint32) 1 << 30)
#define FINE_BITS (AVC_COVER_FINE_WORDS * 64)

/* Columns of the statement. */
enum
{
	COLUMN_ID, COLUMN_SHA256, COLUMN_HASH, COLUMN_FINE
};

typedef struct FrameReceiver
{
	DestReceiver pub;
	AvcHashedFrames *frames;
	bool		is_fine;
	uint32		space;
} FrameReceiver;

/* "words" words of a bit string, first bit most significant. */
static bool
read_bits(const TupleTableSlot *slot, int column, int words, uint64 *out)
{
	struct varlena *bits;
	const uint8 *bytes;
	int32		length;
	int			i;

	if (slot->tts_isnull[column])
		return false;
	bits = PG_DETOAST_DATUM_PACKED(slot->tts_values[column]);
	memcpy(&length, VARDATA_ANY(bits), sizeof(length));
	if (length != words * 64)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("hash of frame %lld has %d bits, but must have %d",
						(long long) DatumGetInt64(slot->tts_values[COLUMN_ID]),
						length, words * 64)));
	bytes = (const uint8 *) VARDATA_ANY(bits) + sizeof(length);
	for (i = 0; i < words * 8; i++)
		out[i / 8] = out[i / 8] << 8 | bytes[i];
	if ((Pointer) bits != DatumGetPointer(slot->tts_values[column]))
		pfree(bits);
	return true;
}

static bool
read_sha256(const TupleTableSlot *slot, uint64 *out)
{
	bytea	   *bytes;
	bool		is_whole;

	if (slot->tts_isnull[COLUMN_SHA256])
		return false;
	bytes = DatumGetByteaPP(slot->tts_values[COLUMN_SHA256]);
	is_whole = VARSIZE_ANY_EXHDR(bytes) >= 2 * sizeof(uint64);
	if (is_whole)
		memcpy(out, VARDATA_ANY(bytes), 2 * sizeof(uint64));
	if ((Pointer) bytes != DatumGetPointer(slot->tts_values[COLUMN_SHA256]))
		pfree(bytes);
	return is_whole;
}

static void
grow(FrameReceiver *receiver)
{
	AvcHashedFrames *frames = receiver->frames;

	if (receiver->space >= MAX_FRAMES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("more than %u frames cannot be compared", MAX_FRAMES)));
	receiver->space *= 2;
	frames->items = repalloc_huge(frames->items,
								  sizeof(AvcHashedFrame) * receiver->space);
	if (receiver->is_fine)
		frames->fine = repalloc_huge(frames->fine, sizeof(uint64) *
									 AVC_COVER_FINE_WORDS * receiver->space);
}

static bool
receive_frame(TupleTableSlot *slot, DestReceiver *self)
{
	FrameReceiver *receiver = (FrameReceiver *) self;
	AvcHashedFrames *frames = receiver->frames;
	AvcHashedFrame *frame;

	if (frames->count == receiver->space)
		grow(receiver);
	slot_getallattrs(slot);
	frame = &frames->items[frames->count];
	memset(frame, 0, sizeof(*frame));
	frame->frame_id = DatumGetInt64(slot->tts_values[COLUMN_ID]);
	frame->row = frames->count;
	frame->has_sha256 = read_sha256(slot, frame->sha256);
	frame->has_hash = read_bits(slot, COLUMN_HASH, 1, &frame->hash);
	if (receiver->is_fine)
		frame->has_hash &= read_bits(slot, COLUMN_FINE, AVC_COVER_FINE_WORDS,
									 frames->fine + (Size) AVC_COVER_FINE_WORDS *
									 frames->count);
	frames->unhashed += !frame->has_hash;
	frames->count++;
	return true;
}

static void
start_receiver(DestReceiver *self, int operation, TupleDesc desc)
{
}

static void
end_receiver(DestReceiver *self)
{
}

static char *
statement(const AvcDuplicateQuery *query)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT frame_id::pg_catalog.int8, image_sha256::pg_catalog.bytea, %s",
					 quote_identifier(query->hash));
	if (query->fine != NULL)
		appendStringInfo(&sql, ", %s", quote_identifier(query->fine));
	appendStringInfo(&sql, " FROM %s", query->dataset->quoted_name);
	if (query->prefer != NULL)
		appendStringInfo(&sql, " ORDER BY %s DESC NULLS LAST, frame_id",
						 quote_identifier(query->prefer));
	return sql.data;
}

static int
compare_ids(const void *a, const void *b)
{
	int64		left = ((const AvcHashedFrame *) a)->frame_id;
	int64		right = ((const AvcHashedFrame *) b)->frame_id;

	/* millions are sorted for seconds, and nothing is held meanwhile */
	CHECK_FOR_INTERRUPTS();
	return left < right ? -1 : left > right;
}

/* Tables that are only added to come in order already. */
static void
sort_by_id(AvcHashedFrames *frames)
{
	uint32		i;

	for (i = 1; i < frames->count; i++)
		if (frames->items[i].frame_id < frames->items[i - 1].frame_id)
		{
			qsort(frames->items, frames->count, sizeof(AvcHashedFrame),
				  compare_ids);
			return;
		}
}

AvcHashedFrames *
avc_hashed_frames_read(const AvcDuplicateQuery *query)
{
	AvcHashedFrames *frames = palloc0_object(AvcHashedFrames);
	FrameReceiver receiver = {
		{receive_frame, start_receiver, end_receiver, end_receiver, DestTuplestore},
		frames, query->fine != NULL, 1024
	};
	SPIExecuteOptions options = {.read_only = true, .dest = &receiver.pub};
	char	   *sql = statement(query);
	int			result;

	frames->items = palloc_array(AvcHashedFrame, receiver.space);
	if (receiver.is_fine)
		frames->fine = palloc_array(uint64,
									AVC_COVER_FINE_WORDS * receiver.space);
	SPI_connect();
	result = SPI_execute_extended(sql, &options);
	if (result != SPI_OK_SELECT)
		elog(ERROR, "could not read hashes: %s", SPI_result_code_string(result));
	SPI_finish();
	if (query->prefer == NULL)
		sort_by_id(frames);
	return frames;
}
