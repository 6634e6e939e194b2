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

#define NOBODY UINT32_MAX
#define MARK_COLUMN "duplicate_of"

/* Arguments of both functions, in this order. */
enum
{
	ARG_DATASET, ARG_MAX_DISTANCE, ARG_FEATURE, ARG_FINE, ARG_FINE_DISTANCE,
	ARG_PREFER
};

/* Who stands for each frame. */
typedef struct Grouping
{
	uint32	   *kept;			/* (count) place of the frame that is kept */
	uint8	   *distances;		/* (count) to it */
	uint32	   *sizes;			/* (count) frames of the group, at its kept one */
} Grouping;

/* ---- what is compared ------------------------------------------------ */

/*
 * The one feature that is that function of the image, or else its scaled form;
 * NULL if there is none.  Expressions are kept as they read where avcurate is
 * in the search_path.
 */
static char *
find_feature(const AvcDataset *dataset, const char *function,
			 const char *argument)
{
	MemoryContext caller = CurrentMemoryContext;
	AvcParam	params[] = {AVC_REGCLASS(dataset->relid), AVC_TEXT(function)};
	AvcRoleScope scope;
	char	   *found[2] = {NULL, NULL};
	uint64		count;
	uint64		i;

	SPI_connect();
	avc_catalog_enter(&scope);
	count = avc_spi_exec("SELECT feature::text FROM _avcurate.features WHERE dataset = $1 "
						 "AND resolved = (SELECT min(resolved COLLATE \"C\") FROM _avcurate.features WHERE dataset = $1 "
						 "AND resolved IN ($2 || '(image_bytes)', $2 || '_scaled(image_bytes)')) ORDER BY 1",
						 lengthof(params), params, true, 2);
	for (i = 0; i < count; i++)
		found[i] = MemoryContextStrdup(caller,
									   SPI_getvalue(SPI_tuptable->vals[i],
													SPI_tuptable->tupdesc, 1));
	avc_catalog_leave(&scope);
	SPI_finish();
	if (count > 1)
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_PARAMETER),
				 errmsg("dataset %s has several features of %s()",
						dataset->quoted_name, function),
				 errhint("Name one in argument \"%s\", as \"%s\" or \"%s\".",
						 argument, found[0], found[1])));
	return found[0];
}

/* Error unless the column holds that many bits. */
static void
check_column(const AvcDataset *dataset, const char *column, int bits)
{
	AttrNumber	number = avc_dataset_column(dataset, column);
	Oid			type;
	int32		typmod;
	Oid			collation;

	if (number == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("dataset %s has no column \"%s\"", dataset->quoted_name,
						column)));
	get_atttypetypmodcoll(dataset->relid, number, &type, &typmod, &collation);
	if (bits > 0 && (type != BITOID || (typmod != bits && typmod != -1)))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of dataset %s is of type %s, but must be of type bit(%d)",
						column, dataset->quoted_name,
						format_type_with_typemod(type, typmod), bits)));
}

static int
read_distance(FunctionCallInfo fcinfo, int argument, const char *name, int most)
{
	int32		distance = PG_GETARG_INT32(argument);

	if (distance < 0 || distance > most)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" is %d, but must be between 0 and %d",
						name, distance, most)));
	return distance;
}

static char *
read_name(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? NULL :
		pstrdup(NameStr(*PG_GETARG_NAME(argument)));
}

/* Arguments that NULL says nothing for. */
static void
check_given(FunctionCallInfo fcinfo, int argument, const char *name)
{
	if (PG_ARGISNULL(argument))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}

static AvcDuplicateQuery
read_arguments(FunctionCallInfo fcinfo)
{
	AvcDuplicateQuery query = {0};

	check_given(fcinfo, ARG_DATASET, "dataset");
	check_given(fcinfo, ARG_MAX_DISTANCE, "max_distance");
	query.dataset = avc_dataset_find(PG_GETARG_OID(ARG_DATASET), false);
	/* columns stay as they are found */
	avc_dataset_hold(query.dataset, AccessShareLock);
	query.max_distance = read_distance(fcinfo, ARG_MAX_DISTANCE,
									   "max_distance", AVC_COVER_BITS);
	query.hash = read_name(fcinfo, ARG_FEATURE);
	if (query.hash == NULL)
		query.hash = find_feature(query.dataset, "dhash", "feature");
	if (query.hash == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("dataset %s has no feature of dhash()",
						query.dataset->quoted_name),
				 errhint("Run SELECT avcurate.add_feature('%s', 'dhash', 'avcurate.dhash(image_bytes)'), "
						 "then CALL avcurate.backfill('%s').",
						 query.dataset->quoted_name,
						 query.dataset->quoted_name)));
	check_column(query.dataset, query.hash, AVC_COVER_BITS);
	query.fine = read_name(fcinfo, ARG_FINE);
	if (PG_ARGISNULL(ARG_FINE_DISTANCE))
		query.fine = NULL;
	else
	{
		if (query.fine == NULL)
			query.fine = find_feature(query.dataset, "dhash256", "fine");
		query.fine_distance = read_distance(fcinfo, ARG_FINE_DISTANCE,
											"fine_distance",
											AVC_COVER_FINE_WORDS * 64);
	}
	if (query.fine != NULL)
		check_column(query.dataset, query.fine, AVC_COVER_FINE_WORDS * 64);
	query.prefer = read_name(fcinfo, ARG_PREFER);
	if (query.prefer != NULL)
		check_column(query.dataset, query.prefer, 0);
	return query;
}

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
has_same_hashes(const void *context, uint32 a, uint32 b)
{
	const AvcHashedFrames *frames = context;

	return frames->items[a].hash == frames->items[b].hash &&
		(frames->fine == NULL ||
		 memcmp(fine_of(frames, a), fine_of(frames, b),
				sizeof(uint64) * AVC_COVER_FINE_WORDS) == 0);
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
			first[i] = find_or_add(&table, frame->hash, i, has_same_hashes,
								   frames);
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
	uint32		i;

	cover.hashes = huge(sizeof(uint64), count);
	cover.leaders = huge(sizeof(uint32), count);
	cover.distances = huge(1, count);
	cover.breathe = breathe;
	if (frames->fine != NULL)
		cover.fine = huge(sizeof(uint64) * AVC_COVER_FINE_WORDS, count);
	for (i = 0; i < count; i++)
	{
		cover.hashes[i] = frames->items[leads[i]].hash;
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
	query = read_arguments(fcinfo);
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

	check_given(fcinfo, ARG_DATASET, "dataset");
	/* one at a time; readers and writers go on */
	dataset = avc_dataset_lock_owned(PG_GETARG_OID(ARG_DATASET),
									 ShareUpdateExclusiveLock);
	SPI_connect();
	require_mark_column(dataset);
	changed = update_marks(fcinfo, dataset);
	SPI_finish();
	PG_RETURN_INT64((int64) changed);
}
