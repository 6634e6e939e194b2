/*
 * search/duplicates.c
 *		duplicate_groups(): frames that show the same, one of them kept.
 *
 * Frames of equal image_sha256 are one picture, pictures of equal hashes one
 * point, each at the place of its first frame; the cover of the points
 * (cover.h) says which are kept.  Kept frames, and so groups, do not grow by
 * chains: in a slow drive each frame is near the next one and the last is far
 * from the first, so connected components would throw the whole drive into
 * one group, of which all but one frame would go.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/varbit.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "search/duplicates.h"

PG_FUNCTION_INFO_V1(avc_duplicate_groups);
PG_FUNCTION_INFO_V1(avc_mark_duplicates);

#define MARK_COLUMN "duplicate_of"

/* Who stands for each frame. */
typedef struct Grouping
{
	uint32	   *kept;			/* (count) place of the frame that is kept */
	uint8	   *distances;		/* (count) to it */
	uint32	   *sizes;			/* (count) frames of the group, at its kept one */
} Grouping;

/* ---- frames that are equal ------------------------------------------- */

/* Numbers by a key that lies elsewhere; open addressing, half full. */
typedef struct Table
{
	uint32	   *slots;			/* number + 1, 0 = free */
	uint32		mask;
} Table;

typedef bool (*SameKey) (const void *context, uint32 a, uint32 b);

static Table
make_table(uint32 count)
{
	Table		table;
	uint32		size = 16;

	while (size < 2 * count)
		size *= 2;
	table.slots = palloc_extended(sizeof(uint32) * size,
								  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	table.mask = size - 1;
	return table;
}

/* The number that has the same key, which becomes this one if none had. */
static uint32
find_or_add(Table *table, uint64 hash, uint32 number, SameKey is_same,
			const void *context)
{
	uint32		at = hash_bytes((const unsigned char *) &hash, sizeof(hash)) &
	table->mask;

	while (table->slots[at] != 0 &&
		   !is_same(context, table->slots[at] - 1, number))
		at = (at + 1) & table->mask;
	if (table->slots[at] == 0)
		table->slots[at] = number + 1;
	return table->slots[at] - 1;
}

static bool
has_same_sha256(const void *context, uint32 a, uint32 b)
{
	const AvcHashedFrames *frames = context;

	return frames->items[a].sha256[0] == frames->items[b].sha256[0] &&
		frames->items[a].sha256[1] == frames->items[b].sha256[1];
}

static const uint64 *
fine_of(const AvcHashedFrames *frames, uint32 place)
{
	return frames->fine + (Size) AVC_COVER_FINE_WORDS * frames->items[place].row;
}

static bool
is_unknown(const AvcHashedFrames *frames, uint32 place)
{
	return frames->unknown != NULL &&
		frames->unknown[frames->items[place].row] != 0;
}

static bool
has_same_hashes(const void *context, uint32 a, uint32 b)
{
	const AvcHashedFrames *frames = context;

	return frames->items[a].hash == frames->items[b].hash &&
		is_unknown(frames, a) == is_unknown(frames, b) &&
		(frames->fine == NULL || is_unknown(frames, a) ||
		 memcmp(fine_of(frames, a), fine_of(frames, b),
				sizeof(uint64) * AVC_COVER_FINE_WORDS) == 0);
}

/* Equal for equal hashes; many may share the one, and differ in the fine. */
static uint64
key_of(const AvcHashedFrames *frames, uint32 place)
{
	uint64		key = frames->items[place].hash;
	const uint64 *fine;
	int			i;

	if (frames->fine == NULL || is_unknown(frames, place))
		return key;
	fine = fine_of(frames, place);
	for (i = 0; i < AVC_COVER_FINE_WORDS; i++)
		key = hash_combine64(key, fine[i]);
	return key;
}

/*
 * first[i] = the first frame with the image of frame i.  A first frame
 * without hash gets that of another one of its image.
 */
static void
join_pictures(AvcHashedFrames *frames, uint32 *first)
{
	Table		table = make_table(frames->count);
	uint32		i;

	for (i = 0; i < frames->count; i++)
	{
		AvcHashedFrame *frame = &frames->items[i];
		AvcHashedFrame *picture;

		if ((i & 0xffff) == 0)
			CHECK_FOR_INTERRUPTS();
		first[i] = !frame->has_sha256 ? i :
			find_or_add(&table, frame->sha256[0], i, has_same_sha256, frames);
		picture = &frames->items[first[i]];
		if (picture->has_hash || !frame->has_hash)
			continue;
		picture->hash = frame->hash;
		picture->row = frame->row;
		picture->has_hash = true;
	}
	pfree(table.slots);
}

/*
 * first[i] = the first frame with the hashes of frame i's picture; leads[]
 * lists these frames, whose number is returned.
 */
static uint32
join_points(const AvcHashedFrames *frames, uint32 *first, uint32 *leads)
{
	Table		table = make_table(frames->count);
	uint32		count = 0;
	uint32		i;

	for (i = 0; i < frames->count; i++)
	{
		const AvcHashedFrame *frame = &frames->items[i];

		if ((i & 0xffff) == 0)
			CHECK_FOR_INTERRUPTS();
		if (first[i] != i)
			first[i] = first[first[i]];
		else if (frame->has_hash)
		{
			first[i] = find_or_add(&table, key_of(frames, i), i,
								   has_same_hashes, frames);
			if (first[i] == i)
				leads[count++] = i;
		}
	}
	pfree(table.slots);
	return count;
}

/* ---- groups ---------------------------------------------------------- */

static void
breathe(void)
{
	CHECK_FOR_INTERRUPTS();
}

static void *
huge(Size each, Size count)
{
	return palloc_extended(Max(each * count, 8), MCXT_ALLOC_HUGE);
}

/* Cover the points, whose frames are listed; their fine hashes are let go. */
static AvcCover
cover_points(const AvcDuplicateQuery *query, AvcHashedFrames *frames,
			 const uint32 *leads, uint32 count)
{
	AvcCover	cover = {count, query->max_distance, query->fine_distance};
	uint8	   *unknown = NULL;
	uint32		i;

	cover.hashes = huge(sizeof(uint64), count);
	cover.leaders = huge(sizeof(uint32), count);
	cover.distances = huge(1, count);
	cover.breathe = breathe;
	if (frames->fine != NULL)
		cover.fine = huge(sizeof(uint64) * AVC_COVER_FINE_WORDS, count);
	if (frames->unknown != NULL)
		cover.unknown = unknown = huge(1, count);
	for (i = 0; i < count; i++)
	{
		cover.hashes[i] = frames->items[leads[i]].hash;
		if (unknown != NULL)
			unknown[i] = is_unknown(frames, leads[i]);
		if (cover.fine != NULL)
			memcpy(cover.fine + (Size) AVC_COVER_FINE_WORDS * i,
				   fine_of(frames, leads[i]),
				   sizeof(uint64) * AVC_COVER_FINE_WORDS);
	}
	if (frames->fine != NULL)
		pfree(frames->fine);
	frames->fine = NULL;
	cover.workspace = huge(1, avc_cover_workspace(count, cover.fine != NULL));
	avc_cover(&cover);
	pfree(cover.workspace);
	pfree(cover.hashes);
	if (cover.fine != NULL)
		pfree(cover.fine);
	return cover;
}

/* Marks of points: has it a near one? */
static bool *
find_neighbours(const AvcDuplicateQuery *query, AvcHashedFrames *frames,
				const uint32 *leads, uint32 count)
{
	AvcCover	cover = cover_points(query, frames, leads, count);
	bool	   *is_near = palloc_extended(Max(count, 8),
										  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	uint32	   *places = huge(sizeof(uint32), count);
	AvcCover	rest = {.max_distance = query->max_distance, .breathe = breathe};
	uint32		standing = 0;
	uint32		i;

	for (i = 0; i < count; i++)
		if (cover.leaders[i] != i)
		{
			is_near[i] = is_near[cover.leaders[i]] = true;
			places[standing++] = i;
		}
	/* no two that are kept are near, so that is left to find out */
	rest.count = standing;
	for (i = 0; i < count; i++)
		if (!is_near[i])
			places[rest.count++] = i;
	rest.hashes = huge(sizeof(uint64), rest.count);
	for (i = 0; i < rest.count; i++)
		rest.hashes[i] = frames->items[leads[places[i]]].hash;
	/* who is no longer needed makes room */
	rest.leaders = cover.leaders;
	rest.distances = cover.distances;
	rest.workspace = huge(1, avc_cover_match_workspace(rest.count));
	avc_cover_match(&rest, standing);
	for (i = standing; i < rest.count; i++)
		is_near[places[i]] = rest.leaders[i] != i;
	pfree(rest.workspace);
	pfree(rest.hashes);
	pfree(rest.leaders);
	pfree(rest.distances);
	pfree(places);
	return is_near;
}

/*
 * Where fine hashes are to be had of the images alone: get those of the
 * pictures that have a near one, the only ones for which they matter.
 */
static void
look_at_images(const AvcDuplicateQuery *query, AvcHashedFrames *frames,
			   const uint32 *pictures)
{
	uint32	   *points = huge(sizeof(uint32), frames->count);
	uint32	   *leads = huge(sizeof(uint32), frames->count);
	uint32	   *numbers = huge(sizeof(uint32), frames->count);
	bool	   *is_near;
	uint32		count;
	uint32		looked = 0;
	uint32		i;

	memcpy(points, pictures, sizeof(uint32) * frames->count);
	count = join_points(frames, points, leads);
	is_near = find_neighbours(query, frames, leads, count);
	for (i = 0; i < count; i++)
		numbers[leads[i]] = i;
	/* two pictures of one hash are near, too */
	for (i = 0; i < frames->count; i++)
		if (pictures[i] == i && frames->items[i].has_hash && points[i] != i)
			is_near[numbers[points[i]]] = true;
	for (i = 0; i < frames->count; i++)
		if (pictures[i] == i && frames->items[i].has_hash &&
			is_near[numbers[points[i]]])
			leads[looked++] = i;
	avc_hashed_frames_look(query, frames, leads, looked);
	pfree(is_near);
	pfree(points);
	pfree(leads);
	pfree(numbers);
}

static Grouping
group_frames(const AvcDuplicateQuery *query, AvcHashedFrames *frames)
{
	Grouping	grouping;
	uint32	   *leads = huge(sizeof(uint32), frames->count);
	AvcCover	cover;
	uint32		count;
	uint32		i;

	grouping.kept = huge(sizeof(uint32), frames->count);
	grouping.distances = huge(1, frames->count);
	grouping.sizes = palloc_extended(Max(sizeof(uint32) * frames->count, 8),
									 MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	memset(grouping.distances, 0, frames->count);
	join_pictures(frames, grouping.kept);
	if (query->looks_at_images)
		look_at_images(query, frames, grouping.kept);
	count = join_points(frames, grouping.kept, leads);
	cover = cover_points(query, frames, leads, count);
	for (i = 0; i < count; i++)
	{
		grouping.distances[leads[i]] = cover.distances[i];
		/* not yet the frame: others look up who leads their point here */
		grouping.sizes[leads[i]] = leads[cover.leaders[i]] + 1;
	}
	for (i = 0; i < frames->count; i++)
	{
		uint32		lead = grouping.kept[i];

		grouping.distances[i] = grouping.distances[lead];
		if (grouping.sizes[lead] != 0)
			grouping.kept[i] = grouping.sizes[lead] - 1;
	}
	memset(grouping.sizes, 0, sizeof(uint32) * frames->count);
	for (i = 0; i < frames->count; i++)
		grouping.sizes[grouping.kept[i]]++;
	return grouping;
}

static void
tell_unhashed(const AvcDuplicateQuery *query, const AvcHashedFrames *frames)
{
	if (frames->unhashed == 0)
		return;
	ereport(NOTICE,
			(errmsg("%llu of %u frames have no hash and were compared by image_sha256 alone",
					(unsigned long long) frames->unhashed, frames->count),
			 errhint("CALL avcurate.backfill('%s') computes what is pending.",
					 query->dataset->quoted_name)));
}

static void
put_groups(ReturnSetInfo *result, const AvcHashedFrames *frames,
		   const Grouping *grouping)
{
	bool		nulls[4] = {false};
	uint32		i;

	for (i = 0; i < frames->count; i++)
	{
		uint32		kept = grouping->kept[i];
		Datum		values[4];

		if ((i & 0xffff) == 0)
			CHECK_FOR_INTERRUPTS();
		if (grouping->sizes[kept] < 2)
			continue;
		values[0] = Int64GetDatum(frames->items[i].frame_id);
		values[1] = Int64GetDatum(frames->items[kept].frame_id);
		values[2] = BoolGetDatum(kept == i);
		values[3] = Int32GetDatum(grouping->distances[i]);
		tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
	}
}

/*
 * duplicate_groups(dataset, max_distance, feature, fine, fine_distance,
 * prefer): a row for each frame that is not alone.
 */
Datum
avc_duplicate_groups(PG_FUNCTION_ARGS)
{
	AvcDuplicateQuery query;
	AvcHashedFrames *frames;
	Grouping	grouping;

	InitMaterializedSRF(fcinfo, 0);
	query = avc_duplicate_query(fcinfo);
	frames = avc_hashed_frames_read(&query);
	tell_unhashed(&query, frames);
	grouping = group_frames(&query, frames);
	put_groups((ReturnSetInfo *) fcinfo->resultinfo, frames, &grouping);
	return (Datum) 0;
}

/* ---- marks in the dataset -------------------------------------------- */

/* Make the column, or check that it is one that may be written. */
static void
require_mark_column(const AvcDataset *dataset)
{
	AttrNumber	number = avc_dataset_column(dataset, MARK_COLUMN);
	AvcParam	params[] = {AVC_REGCLASS(dataset->relid)};

	if (number == InvalidAttrNumber)
		avc_spi_exec(psprintf("ALTER TABLE %s ADD COLUMN " MARK_COLUMN " bigint",
							  dataset->quoted_name), 0, NULL, false, 0);
	else if (get_atttype(dataset->relid, number) != INT8OID ||
			 avc_spi_exec("SELECT 1 FROM avcurate.features WHERE dataset = $1 AND feature = '" MARK_COLUMN "'",
						  1, params, false, 1) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_COLUMN),
				 errmsg("column \"%s\" of dataset %s is something else",
						MARK_COLUMN, dataset->quoted_name),
				 errhint("Marks of duplicates need a bigint column of this name that is no feature.")));
}

/* The call of duplicate_groups with the arguments of this one. */
static uint64
update_marks(FunctionCallInfo fcinfo, const AvcDataset *dataset)
{
	static const Oid types[] = {
		REGCLASSOID, INT4OID, NAMEOID, NAMEOID, INT4OID, NAMEOID
	};
	AvcParam	params[lengthof(types)];
	int			i;

	for (i = 0; i < lengthof(types); i++)
		params[i] = (AvcParam) {types[i], fcinfo->args[i].value, PG_ARGISNULL(i)};
	return avc_spi_exec(psprintf("UPDATE %s AS f SET " MARK_COLUMN " = n.group_id FROM "
								 "(SELECT o.frame_id, g.group_id FROM %s AS o LEFT JOIN "
								 "avcurate.duplicate_groups($1, $2, $3, $4, $5, $6) AS g "
								 "ON g.frame_id OPERATOR(pg_catalog.=) o.frame_id AND NOT g.keep "
								 "WHERE o." MARK_COLUMN " IS DISTINCT FROM g.group_id) AS n "
								 "WHERE f.frame_id OPERATOR(pg_catalog.=) n.frame_id",
								 dataset->quoted_name, dataset->quoted_name),
						lengthof(types), params, false, 0);
}

/*
 * mark_duplicates(the same arguments) returns bigint: rows changed.
 */
Datum
avc_mark_duplicates(PG_FUNCTION_ARGS)
{
	AvcDataset *dataset;
	uint64		changed;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"dataset\" must not be null")));
	/* one at a time; readers and writers go on */
	dataset = avc_dataset_lock_owned(PG_GETARG_OID(0),
									 ShareUpdateExclusiveLock);
	SPI_connect();
	require_mark_column(dataset);
	changed = update_marks(fcinfo, dataset);
	SPI_finish();
	PG_RETURN_INT64((int64) changed);
}
