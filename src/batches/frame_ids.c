/*
 * batches/frame_ids.c
 *		A long ascending list of frame ids, packed, with random access.
 *
 * Ids come in blocks of 1024.  The directory holds the first id and the
 * offset of each block; the block holds the differences to the id before as
 * varints (seven bits a byte, low bits first, the top bit says that more
 * follow).  Ids that follow each other closely cost a byte or two, so most
 * lists stay in memory; one that passes its limit is written to a temporary
 * file, and a look-up then reads one block.
 *
 * Everything lives in the context of avc_frame_ids_create.
 */
#include "postgres.h"

#include "storage/buffile.h"
#include "utils/memutils.h"

#include "batches/frame_ids.h"

#define BLOCK_IDS 1024
#define MAX_VARINT 10

typedef struct BlockEntry
{
	int64		first;			/* first id of the block */
	int64		offset;			/* of its differences, in bytes */
} BlockEntry;

struct AvcFrameIds
{
	MemoryContext context;
	Size		limit;			/* bytes that may stay in memory */
	bool		inter_xact;
	int64		count;
	int64		last;			/* id appended last */
	BlockEntry *blocks;
	int64		block_count;
	int64		block_space;
	uint8	   *bytes;			/* all blocks, or those not yet in the file */
	Size		used;
	Size		space;
	int64		file_used;		/* bytes in the file */
	BufFile    *file;			/* NULL while all is in memory */
};

AvcFrameIds *
avc_frame_ids_create(MemoryContext context, Size limit, bool inter_xact)
{
	AvcFrameIds *ids = MemoryContextAllocZero(context, sizeof(AvcFrameIds));

	ids->context = context;
	ids->limit = Max(limit, (Size) 64 * 1024);
	ids->inter_xact = inter_xact;
	ids->block_space = 16;
	ids->blocks = MemoryContextAlloc(context,
									 ids->block_space * sizeof(BlockEntry));
	ids->space = 4096;
	ids->bytes = MemoryContextAlloc(context, ids->space);
	return ids;
}

void
avc_frame_ids_free(AvcFrameIds *ids)
{
	if (ids->file)
		BufFileClose(ids->file);
	pfree(ids->blocks);
	pfree(ids->bytes);
	pfree(ids);
}

AvcFrameIds *
avc_frame_ids_move(AvcFrameIds *ids, MemoryContext context)
{
	AvcFrameIds *moved;

	Assert(ids->file == NULL);
	moved = avc_frame_ids_create(context, ids->limit, ids->inter_xact);
	moved->block_space = Max(ids->block_count, 1);
	moved->blocks = repalloc_huge(moved->blocks,
								  moved->block_space * sizeof(BlockEntry));
	memcpy(moved->blocks, ids->blocks,
		   ids->block_count * sizeof(BlockEntry));
	moved->space = Max(ids->used, 16);
	moved->bytes = repalloc_huge(moved->bytes, moved->space);
	memcpy(moved->bytes, ids->bytes, ids->used);
	moved->count = ids->count;
	moved->last = ids->last;
	moved->block_count = ids->block_count;
	moved->used = ids->used;
	avc_frame_ids_free(ids);
	return moved;
}

int64
avc_frame_ids_count(const AvcFrameIds *ids)
{
	return ids->count;
}

bool
avc_frame_ids_in_file(const AvcFrameIds *ids)
{
	return ids->file != NULL;
}

/* Move what is in memory to the end of the file. */
static void
flush_bytes(AvcFrameIds *ids)
{
	MemoryContext old = MemoryContextSwitchTo(ids->context);

	if (ids->file == NULL)
		ids->file = BufFileCreateTemp(ids->inter_xact);
	BufFileWrite(ids->file, ids->bytes, ids->used);
	ids->file_used += ids->used;
	ids->used = 0;
	MemoryContextSwitchTo(old);
}

static void
start_block(AvcFrameIds *ids, int64 frame_id)
{
	BlockEntry *block;

	if (ids->used > ids->limit)
		flush_bytes(ids);
	if (ids->block_count == ids->block_space)
	{
		ids->block_space *= 2;
		ids->blocks = repalloc_huge(ids->blocks,
									ids->block_space * sizeof(BlockEntry));
	}
	block = &ids->blocks[ids->block_count++];
	block->first = frame_id;
	block->offset = ids->file_used + (int64) ids->used;
}

void
avc_frame_ids_append(AvcFrameIds *ids, int64 frame_id)
{
	uint64		delta;

	if (ids->count > 0 && frame_id <= ids->last)
		elog(ERROR, "frame ids are not ascending");
	if (ids->count % BLOCK_IDS == 0)
		start_block(ids, frame_id);
	else
	{
		if (ids->used + MAX_VARINT > ids->space)
		{
			ids->space *= 2;
			ids->bytes = repalloc_huge(ids->bytes, ids->space);
		}
		delta = (uint64) frame_id - (uint64) ids->last;
		while (delta >= 0x80)
		{
			ids->bytes[ids->used++] = (uint8) (delta | 0x80);
			delta >>= 7;
		}
		ids->bytes[ids->used++] = (uint8) delta;
	}
	ids->last = frame_id;
	ids->count++;
}

/* Read the bytes of one block from the file; returns their number. */
static Size
read_block(AvcFrameIds *ids, int64 offset, uint8 *buffer, Size size)
{
	if (ids->used > 0)
	{
		if (BufFileSeek(ids->file, 0, 0, SEEK_END) != 0)
			elog(ERROR, "could not seek in a temporary file of frame ids");
		flush_bytes(ids);
	}
	if (BufFileSeek(ids->file, 0, (off_t) offset, SEEK_SET) != 0)
		elog(ERROR, "could not seek in a temporary file of frame ids");
	size = Min(size, (Size) (ids->file_used - offset));
	return BufFileRead(ids->file, buffer, size);
}

int64
avc_frame_ids_at(AvcFrameIds *ids, int64 rank)
{
	uint8		buffer[BLOCK_IDS * MAX_VARINT];
	const BlockEntry *block;
	const uint8 *bytes;
	uint64		id;
	int			steps;

	Assert(rank >= 0 && rank < ids->count);
	block = &ids->blocks[rank / BLOCK_IDS];
	steps = rank % BLOCK_IDS;
	id = (uint64) block->first;
	if (steps == 0)
		return block->first;
	if (ids->file)
	{
		Size		size = sizeof(buffer);

		if (rank / BLOCK_IDS + 1 < ids->block_count)
			size = (Size) (block[1].offset - block->offset);
		read_block(ids, block->offset, buffer, size);
		bytes = buffer;
	}
	else
		bytes = ids->bytes + block->offset;

	while (steps-- > 0)
	{
		uint64		delta = 0;
		int			shift = 0;

		for (;;)
		{
			uint8		byte = *bytes++;

			delta |= (uint64) (byte & 0x7F) << shift;
			if ((byte & 0x80) == 0)
				break;
			shift += 7;
		}
		id += delta;
	}
	return (int64) id;
}
