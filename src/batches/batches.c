/*
 * batches/batches.c
 *		batches() and batch_count(): a pinned version as rows, batch by batch.
 *
 * The rows go into a tuplestore with the images as TOAST pointers, so the
 * store holds some hundred bytes a frame, and the bytes are fetched when the
 * row leaves for the client.  A pointer is good while the snapshot that found
 * it is: rows and images come from the caller's active snapshot, and whatever
 * outlives that (a holdable cursor, a table made from the rows) copies them.
 *
 * Global batch b is the positions b * batch_size and following.  Rank r of w
 * gets the batches b with b % w = r below the largest multiple of w.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "batches/batches.h"
#include "batches/frame_scan.h"
#include "batches/pin.h"

/* What batches() was asked for. */
typedef struct BatchCall
{
	AvcBatchOptions options;
	int64		start_batch;
	int64		num_batches;	/* -1 = all */
} BatchCall;

/* Columns of the result. */
enum BatchColumn
{
	BATCH_NO, POSITION, FRAME_ID, IMAGE_BYTES, WIDTH, HEIGHT, LABELS, BOXES,
	BATCH_COLUMNS
};

PG_FUNCTION_INFO_V1(avc_batches);
PG_FUNCTION_INFO_V1(avc_batch_count);

static void
require_argument(FunctionCallInfo fcinfo, int number, const char *name)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}

static void
check_at_least(const char *name, int64 value, int64 least)
{
	if (value < least)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" is %lld, but must be at least %lld",
						name, (long long) value, (long long) least)));
}

void
avc_batch_options_check(const AvcBatchOptions *options)
{
	check_at_least("batch_size", options->batch_size, 1);
	check_at_least("epoch", options->epoch, 0);
	check_at_least("world_size", options->world_size, 1);
	if (options->rank < 0 || options->rank >= options->world_size)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"rank\" is %d, but must be between 0 and %d",
						options->rank, options->world_size - 1),
				 errhint("Ranks count from 0 to world_size - 1.")));
}

/* Whole batches, one more for the rest unless it is dropped. */
int64
avc_batch_total(const AvcBatchOptions *options, int64 frames)
{
	int64		batches = frames / options->batch_size;

	if (!options->drop_last && frames % options->batch_size != 0)
		batches++;
	return batches - batches % options->world_size;
}

static void
read_version_argument(FunctionCallInfo fcinfo, int number,
					  AvcBatchOptions *options)
{
	options->version = 0;
	if (!PG_ARGISNULL(number))
	{
		options->version = PG_GETARG_INT64(number);
		check_at_least("version", options->version, 1);
	}
}

static void
read_arguments(FunctionCallInfo fcinfo, BatchCall *call)
{
	static const char *const names[] = {
		"slice", "batch_size", "version", "seed", "epoch", "shuffle", "rank",
		"world_size", "start_batch", "num_batches", "drop_last", "label_map"
	};
	AvcBatchOptions *options = &call->options;
	int			i;

	for (i = 0; i < lengthof(names); i++)
		if (i != 2 && i != 9)
			require_argument(fcinfo, i, names[i]);
	memset(call, 0, sizeof(*call));
	options->slice = PG_GETARG_OID(0);
	options->batch_size = PG_GETARG_INT32(1);
	read_version_argument(fcinfo, 2, options);
	options->seed = PG_GETARG_INT64(3);
	options->epoch = PG_GETARG_INT32(4);
	options->shuffle = PG_GETARG_BOOL(5);
	options->rank = PG_GETARG_INT32(6);
	options->world_size = PG_GETARG_INT32(7);
	call->start_batch = PG_GETARG_INT64(8);
	call->num_batches = PG_ARGISNULL(9) ? -1 : PG_GETARG_INT64(9);
	options->drop_last = PG_GETARG_BOOL(10);
	options->label_map = text_to_cstring(PG_GETARG_TEXT_PP(11));

	avc_batch_options_check(options);
	check_at_least("start_batch", call->start_batch, 0);
	if (!PG_ARGISNULL(9))
		check_at_least("num_batches", call->num_batches, 0);
}

/* Labels and boxes of a row as arrays; both NULL where it has none. */
static void
put_boxes(Datum *values, bool *nulls, const AvcFrameRow *row,
		  const AvcLabelMap *map)
{
	AvcFrameBoxes boxes;
	Datum	   *elements;
	int			dims[2];
	int			lower[2] = {1, 1};
	int			i;

	nulls[LABELS] = nulls[BOXES] = !row->labelled;
	if (!row->labelled)
		return;
	avc_frame_boxes_decode(&boxes, row, map, false);
	elements = palloc(sizeof(Datum) * Max(4 * boxes.count, 1));
	for (i = 0; i < boxes.count; i++)
		elements[i] = Int32GetDatum(boxes.labels[i]);
	values[LABELS] = PointerGetDatum(construct_array(elements, boxes.count,
													 INT4OID, 4, true,
													 TYPALIGN_INT));
	for (i = 0; i < 4 * boxes.count; i++)
		elements[i] = Float4GetDatum(boxes.boxes[i]);
	dims[0] = boxes.count;
	dims[1] = 4;
	values[BOXES] = boxes.count == 0 ?
		PointerGetDatum(construct_empty_array(FLOAT4OID)) :
		PointerGetDatum(construct_md_array(elements, NULL, 2, dims, lower,
										   FLOAT4OID, 4, true, TYPALIGN_INT));
}

/* What the rows of one call are made from. */
typedef struct BatchSource
{
	const AvcBatchOptions *options;
	AvcFrameIds *ids;
	AvcLabelMap *map;
	AvcFrameScan *scan;
	AvcPermutation order;
} BatchSource;

/* The frames of one batch as rows; resets the current context at each. */
static void
put_batch(ReturnSetInfo *result, const BatchSource *source, int64 batch)
{
	int64		count = avc_frame_ids_count(source->ids);
	int64		position = batch * source->options->batch_size;
	int64		end = Min(position + source->options->batch_size, count);

	for (; position < end; position++)
	{
		Datum		values[BATCH_COLUMNS];
		bool		nulls[BATCH_COLUMNS] = {false};
		AvcFrameRow row;
		int64		rank = position;

		CHECK_FOR_INTERRUPTS();
		if (source->options->shuffle)
			rank = avc_permutation_at(&source->order, position);
		avc_frame_scan_find(source->scan,
							avc_frame_ids_at(source->ids, rank), &row);
		values[BATCH_NO] = Int64GetDatum(batch);
		values[POSITION] = Int64GetDatum(position);
		values[FRAME_ID] = Int64GetDatum(row.frame_id);
		values[IMAGE_BYTES] = row.image;
		values[WIDTH] = Int32GetDatum(row.width);
		values[HEIGHT] = Int32GetDatum(row.height);
		put_boxes(values, nulls, &row, source->map);
		tuplestore_putvalues(result->setResult, result->setDesc, values,
							 nulls);
		MemoryContextReset(CurrentMemoryContext);
	}
}

/* The batches of the call's rank, from start_batch on. */
static void
put_batches(ReturnSetInfo *result, const BatchCall *call,
			const BatchSource *source)
{
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext,
													  "avcurate batch row",
													  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(row_context);
	int64		total = avc_batch_total(source->options,
										avc_frame_ids_count(source->ids));
	int64		left = call->num_batches < 0 ? total : call->num_batches;
	int64		batch;

	for (batch = call->start_batch; batch < total && left > 0; batch++)
	{
		if (batch % source->options->world_size != source->options->rank)
			continue;
		put_batch(result, source, batch);
		left--;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(row_context);
}

Datum
avc_batches(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	BatchCall	call;
	BatchSource source;
	AvcPin		pin;

	read_arguments(fcinfo, &call);
	InitMaterializedSRF(fcinfo, 0);
	avc_pin_open(&pin, call.options.slice, 0, call.options.version);
	avc_pin_check_images(&pin);
	source.options = &call.options;
	source.map = avc_label_map_load(call.options.label_map,
									CurrentMemoryContext);
	source.ids = avc_pin_ids(&pin);
	avc_permutation_init(&source.order, avc_frame_ids_count(source.ids),
						 pin.version, call.options.seed, call.options.epoch);
	source.scan = avc_frame_scan_open(&pin);
	put_batches(result, &call, &source);
	avc_frame_scan_close(source.scan);
	avc_pin_ids_release(source.ids);
	return (Datum) 0;
}

Datum
avc_batch_count(PG_FUNCTION_ARGS)
{
	AvcBatchOptions options = {0};
	AvcFrameIds *ids;
	AvcPin		pin;
	int64		total;

	require_argument(fcinfo, 0, "slice");
	require_argument(fcinfo, 1, "batch_size");
	require_argument(fcinfo, 3, "drop_last");
	require_argument(fcinfo, 4, "world_size");
	options.slice = PG_GETARG_OID(0);
	options.batch_size = PG_GETARG_INT32(1);
	read_version_argument(fcinfo, 2, &options);
	options.drop_last = PG_GETARG_BOOL(3);
	options.world_size = PG_GETARG_INT32(4);
	avc_batch_options_check(&options);

	avc_pin_open(&pin, options.slice, 0, options.version);
	avc_pin_check_slice(&pin);
	ids = avc_pin_ids(&pin);
	total = avc_batch_total(&options, avc_frame_ids_count(ids));
	avc_pin_ids_release(ids);
	PG_RETURN_INT64(total / options.world_size);
}
