/*
 * search/duplicate_images.c
 *		Fine hashes of frames that may be duplicates, from their images.
 *
 * 64 bits take key frames of different drives for each other.  Where a dataset
 * has no feature of dhash256(), it is computed for those frames alone whose
 * hashes are near.  A frame whose image does not give the hash that is stored
 * for it (it was set by hand, or the image was replaced and waits for the
 * backfill) says nothing about what the hash was made of, and keeps to its 64
 * bits.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "common/spi.h"
#include "features/picture.h"
#include "search/duplicates.h"

#define PROBES 64				/* frames by which images are judged */

typedef struct Looker
{
	const AvcDuplicateQuery *query;
	AvcHashedFrames *frames;
	SPIPlanPtr	plan;			/* the image of a frame by its number */
	MemoryContext each;			/* reset for each frame */
} Looker;

/* First bit most significant. */
static uint64
word_of(const uint8 *bytes)
{
	uint64		word = 0;
	int			i;

	for (i = 0; i < 8; i++)
		word = word << 8 | bytes[i];
	return word;
}

/* Both hashes of an image; false if it cannot be decoded. */
static bool
hash_image(const Looker *looker, Datum image, uint8 *hash, uint8 *fine)
{
	MemoryContext context = CurrentMemoryContext;
	volatile bool is_decoded = true;

	/* decoding holds nothing but memory of its own */
	PG_TRY();
	{
		avc_picture_hash(hash, image, looker->query->is_scaled ?
						 AVC_PICTURE_SMALL_GREY : AVC_PICTURE_COLOUR,
						 AVC_HASH_COARSE);
		avc_picture_hash(fine, image, AVC_PICTURE_COLOUR, AVC_HASH_FINE);
	}
	PG_CATCH();
	{
		int			code = geterrcode();

		MemoryContextSwitchTo(context);
		if (code != ERRCODE_DATA_EXCEPTION && code != ERRCODE_FEATURE_NOT_SUPPORTED)
			PG_RE_THROW();
		FlushErrorState();
		is_decoded = false;
	}
	PG_END_TRY();
	return is_decoded;
}

/* Fill in the fine hash at this place; false if the image tells none. */
static bool
look(const Looker *looker, uint32 place)
{
	AvcHashedFrame *frame = &looker->frames->items[place];
	uint64	   *words = looker->frames->fine +
	(Size) AVC_COVER_FINE_WORDS * frame->row;
	Datum		frame_id = Int64GetDatum(frame->frame_id);
	uint8		hash[AVC_COVER_BITS / 8] = {0};
	uint8		fine[AVC_COVER_FINE_WORDS * 8] = {0};
	bool		is_known = false;
	MemoryContext caller = MemoryContextSwitchTo(looker->each);
	int			i;

	CHECK_FOR_INTERRUPTS();
	if (SPI_execute_plan(looker->plan, &frame_id, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read a frame");
	/* SPI leaves its own context current, which lives until SPI_finish */
	MemoryContextSwitchTo(looker->each);
	if (SPI_processed > 0)
	{
		bool		is_null;
		Datum		image = avc_spi_column(0, "image_bytes", &is_null);

		is_known = !is_null &&
			hash_image(looker, PointerGetDatum(DatumGetByteaPP(image)), hash, fine) &&
			word_of(hash) == frame->hash;
	}
	SPI_freetuptable(SPI_tuptable);
	for (i = 0; is_known && i < AVC_COVER_FINE_WORDS; i++)
		words[i] = word_of(fine + 8 * i);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(looker->each);
	return is_known;
}

/* Do the images give the hashes at all? */
static bool
probe(const Looker *looker, const uint32 *places, uint32 count)
{
	uint32		step = count / PROBES + 1;
	uint32		i;

	for (i = 0; i < count; i += step)
		if (look(looker, places[i]))
			return true;
	return false;
}

static void
look_at_all(const Looker *looker, const uint32 *places, uint32 count)
{
	AvcHashedFrames *frames = looker->frames;
	bool		is_any = false;
	uint32		i;

	frames->unknown = palloc_extended(frames->count,
									  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	for (i = 0; i < count; i++)
		if (!look(looker, places[i]))
			frames->unknown[frames->items[places[i]].row] = is_any = true;
	if (!is_any)
	{
		pfree(frames->unknown);
		frames->unknown = NULL;
	}
}

static void
tell(const AvcDuplicateQuery *query, uint32 count)
{
	ereport(NOTICE,
			(errmsg("looking at the images of %u frames of dataset %s that may be duplicates",
					count, query->dataset->quoted_name),
			 errdetail("The dataset has no feature of dhash256(), which tells frames apart that 64 bits confuse."),
			 errhint("SELECT avcurate.add_feature('%s', 'dhash_fine', 'avcurate.dhash256(image_bytes)') and a backfill do this once for all; "
					 "fine_distance => NULL compares 64 bits alone.",
					 query->dataset->quoted_name)));
}

void
avc_hashed_frames_look(const AvcDuplicateQuery *query, AvcHashedFrames *frames,
					   const uint32 *places, uint32 count)
{
	Looker		looker = {query, frames};
	Oid			types[] = {INT8OID};

	if (count == 0)
		return;
	tell(query, count);
	frames->fine = palloc_extended(sizeof(uint64) * AVC_COVER_FINE_WORDS * frames->count,
								   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	looker.each = AllocSetContextCreate(CurrentMemoryContext, "image of a frame",
										ALLOCSET_DEFAULT_SIZES);
	SPI_connect();
	looker.plan = SPI_prepare(psprintf("SELECT image_bytes::pg_catalog.bytea AS image_bytes FROM %s "
									   "WHERE frame_id OPERATOR(pg_catalog.=) $1",
									   query->dataset->quoted_name), 1, types);
	if (looker.plan == NULL)
		elog(ERROR, "could not prepare to read frames");
	/* what is found outlives SPI */
	MemoryContextSwitchTo(GetMemoryChunkContext(frames));
	if (probe(&looker, places, count))
		look_at_all(&looker, places, count);
	else
	{
		pfree(frames->fine);
		frames->fine = NULL;
	}
	SPI_finish();
	MemoryContextDelete(looker.each);
}
