/*
 * features/pixels.c
 *		Functions of the pixels of one frame: sizes, hashes and measures.
 *
 * All are immutable and read nothing but their arguments.  Decoder, encoder
 * and grey buffer are kept in the call site's context (fn_mcxt), so a query
 * over many frames sets them up once; they are freed by that context's
 * callback.
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"
#include "port/pg_bitutils.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/varbit.h"

#include "image/jpeg.h"
#include "image/resize.h"

PG_FUNCTION_INFO_V1(avc_jpeg_width);
PG_FUNCTION_INFO_V1(avc_jpeg_height);
PG_FUNCTION_INFO_V1(avc_dhash);
PG_FUNCTION_INFO_V1(avc_dhash_scaled);
PG_FUNCTION_INFO_V1(avc_hamming);
PG_FUNCTION_INFO_V1(avc_brightness);
PG_FUNCTION_INFO_V1(avc_sharpness);
PG_FUNCTION_INFO_V1(avc_white_balance);
PG_FUNCTION_INFO_V1(avc_thumbnail);

/* Header bytes fetched at first; most frame headers lie within. */
#define HEADER_SLICE 4096
#define HASH_SIDE 8
#define THUMBNAIL_QUALITY 85

/* What a call site keeps between calls. */
typedef struct PixelState
{
	MemoryContext context;
	EngJpegDecoder *decoder;
	EngJpegEncoder *encoder;	/* NULL until a thumbnail is made */
	uint8	   *buffer;			/* grey or resized picture */
	size_t		buffer_size;
} PixelState;

/* ---- state ----------------------------------------------------------- */

static pg_attribute_noreturn() void
raise_status(const EngStatus *status)
{
	int			code = ERRCODE_DATA_EXCEPTION;

	if (status->code == ENG_NO_MEMORY)
		code = ERRCODE_OUT_OF_MEMORY;
	else if (status->code == ENG_UNSUPPORTED)
		code = ERRCODE_FEATURE_NOT_SUPPORTED;
	else if (status->code == ENG_INTERNAL)
		code = ERRCODE_EXTERNAL_ROUTINE_EXCEPTION;
	ereport(ERROR, (errcode(code), errmsg("%s", status->message)));
}

static void
free_state(void *arg)
{
	PixelState *state = arg;

	eng_jpeg_decoder_free(state->decoder);
	eng_jpeg_encoder_free(state->encoder);
	state->decoder = NULL;
	state->encoder = NULL;
}

static PixelState *
get_state(FunctionCallInfo fcinfo)
{
	PixelState *state = fcinfo->flinfo->fn_extra;
	MemoryContextCallback *callback;
	EngStatus	status = {0};

	if (state != NULL)
		return state;
	state = MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt,
								   sizeof(PixelState));
	state->context = fcinfo->flinfo->fn_mcxt;
	callback = MemoryContextAllocZero(state->context, sizeof(*callback));
	callback->func = free_state;
	callback->arg = state;
	MemoryContextRegisterResetCallback(state->context, callback);
	state->decoder = eng_jpeg_decoder_create(&status);
	if (state->decoder == NULL)
		raise_status(&status);
	fcinfo->flinfo->fn_extra = state;
	return state;
}

/* A buffer of at least that many bytes; contents are not kept. */
static uint8 *
get_buffer(PixelState *state, size_t size)
{
	if (state->buffer_size < size)
	{
		if (state->buffer != NULL)
			pfree(state->buffer);
		state->buffer = NULL;
		state->buffer_size = 0;
		state->buffer = MemoryContextAllocHuge(state->context, size);
		state->buffer_size = size;
	}
	return state->buffer;
}

/* Decode the argument at 1/scale; the pixels belong to the decoder. */
static EngImage
decode_argument(FunctionCallInfo fcinfo, int channels, int scale)
{
	PixelState *state = get_state(fcinfo);
	bytea	   *image = PG_GETARG_BYTEA_PP(0);
	EngImage	picture = {NULL, 0, 0, channels};
	EngStatus	status = {0};

	if (!eng_jpeg_decode_alloc(state->decoder, &picture,
							   (const uint8 *) VARDATA_ANY(image),
							   VARSIZE_ANY_EXHDR(image), scale, &status))
		raise_status(&status);
	PG_FREE_IF_COPY(image, 0);
	return picture;
}

/* ---- header ---------------------------------------------------------- */

/*
 * The header of the argument.  Only the first few kilobytes are fetched;
 * the rest of the image only if the frame header is not among them.
 */
static EngJpegInfo
read_header_argument(FunctionCallInfo fcinfo)
{
	struct varlena *image = (struct varlena *) PG_DETOAST_DATUM_SLICE(PG_GETARG_DATUM(0),
																	  0, HEADER_SLICE);
	EngJpegInfo info;
	EngStatus	status = {0};

	if (!eng_jpeg_read_header(&info, (const uint8 *) VARDATA_ANY(image),
							  VARSIZE_ANY_EXHDR(image), &status))
	{
		if (VARSIZE_ANY_EXHDR(image) < HEADER_SLICE)
			raise_status(&status);
		image = PG_GETARG_BYTEA_PP(0);
		memset(&status, 0, sizeof(status));
		if (!eng_jpeg_read_header(&info, (const uint8 *) VARDATA_ANY(image),
								  VARSIZE_ANY_EXHDR(image), &status))
			raise_status(&status);
	}
	return info;
}

Datum
avc_jpeg_width(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(read_header_argument(fcinfo).width);
}

Datum
avc_jpeg_height(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(read_header_argument(fcinfo).height);
}

/* ---- hashes ---------------------------------------------------------- */

/*
 * Difference hash of a grey picture: shrink to 9 x 8, then one bit for each
 * pixel and its right neighbour, 1 where the neighbour is brighter; rows
 * from the top, first bit first (imagehash.dhash).
 */
static VarBit *
difference_hash(const EngImage *grey)
{
	uint8		cells[HASH_SIDE * (HASH_SIDE + 1)];
	EngImage	small = {cells, HASH_SIDE + 1, HASH_SIDE, 1};
	EngStatus	status = {0};
	VarBit	   *hash;
	int			x;
	int			y;

	if (!eng_resize(&small, grey, ENG_RESIZE_LANCZOS, &status))
		raise_status(&status);
	hash = palloc0(VARBITTOTALLEN(HASH_SIDE * HASH_SIDE));
	SET_VARSIZE(hash, VARBITTOTALLEN(HASH_SIDE * HASH_SIDE));
	VARBITLEN(hash) = HASH_SIDE * HASH_SIDE;
	for (y = 0; y < HASH_SIDE; y++)
		for (x = 0; x < HASH_SIDE; x++)
		{
			const uint8 *cell = cells + y * (HASH_SIDE + 1) + x;

			if (cell[1] > cell[0])
				VARBITS(hash)[y] |= 0x80 >> x;
		}
	return hash;
}

Datum
avc_dhash(PG_FUNCTION_ARGS)
{
	EngImage	picture = decode_argument(fcinfo, 3, 1);
	EngImage	grey = {NULL, picture.width, picture.height, 1};

	/* grey of the decoded colours, not the file's own brightness channel,
	 * which differs by rounding */
	grey.pixels = get_buffer(fcinfo->flinfo->fn_extra,
							 eng_image_bytes(&grey));
	eng_grey_from_rgb(grey.pixels, picture.pixels, eng_image_bytes(&grey));
	PG_RETURN_VARBIT_P(difference_hash(&grey));
}

Datum
avc_dhash_scaled(PG_FUNCTION_ARGS)
{
	EngImage	grey = decode_argument(fcinfo, 1, 8);

	PG_RETURN_VARBIT_P(difference_hash(&grey));
}

Datum
avc_hamming(PG_FUNCTION_ARGS)
{
	VarBit	   *a = PG_GETARG_VARBIT_P(0);
	VarBit	   *b = PG_GETARG_VARBIT_P(1);
	int64		distance = 0;
	int			bytes = VARBITBYTES(a);
	int			i;

	if (VARBITLEN(a) != VARBITLEN(b))
		ereport(ERROR,
				(errcode(ERRCODE_STRING_DATA_LENGTH_MISMATCH),
				 errmsg("cannot compare bit strings of %d and %d bits",
						VARBITLEN(a), VARBITLEN(b))));
	for (i = 0; i < bytes; i++)
		distance += pg_number_of_ones[VARBITS(a)[i] ^ VARBITS(b)[i]];
	PG_RETURN_INT32((int32) distance);
}

/* ---- measures -------------------------------------------------------- */

/* Mean of the 1/8-scale grey picture, 0 .. 255. */
Datum
avc_brightness(PG_FUNCTION_ARGS)
{
	EngImage	grey = decode_argument(fcinfo, 1, 8);
	size_t		count = eng_image_bytes(&grey);
	uint64		sum = 0;
	size_t		i;

	for (i = 0; i < count; i++)
		sum += grey.pixels[i];
	PG_RETURN_FLOAT4((float4) ((double) sum / count));
}

/*
 * Variance of the Laplacian (four neighbours) over the inner pixels of the
 * full grey picture; 0 for a picture with none.
 */
Datum
avc_sharpness(PG_FUNCTION_ARGS)
{
	EngImage	grey = decode_argument(fcinfo, 1, 1);
	int64		count = (int64) (grey.width - 2) * (grey.height - 2);
	int64		sum = 0;
	int64		squares = 0;
	double		mean;
	int			x;
	int			y;

	if (grey.width < 3 || grey.height < 3)
		PG_RETURN_FLOAT4(0.0f);
	for (y = 1; y < grey.height - 1; y++)
	{
		const uint8 *row = grey.pixels + (size_t) y * grey.width;
		const uint8 *above = row - grey.width;
		const uint8 *below = row + grey.width;

		for (x = 1; x < grey.width - 1; x++)
		{
			int			value = above[x] + below[x] + row[x - 1] +
			row[x + 1] - 4 * row[x];

			sum += value;
			squares += value * value;
		}
	}
	mean = (double) sum / count;
	PG_RETURN_FLOAT4((float4) ((double) squares / count - mean * mean));
}

/*
 * A rough colour temperature in kelvin: 6500 divided by the ratio of mean
 * red to mean blue, between 2500 and 10000.
 */
Datum
avc_white_balance(PG_FUNCTION_ARGS)
{
	EngImage	picture = decode_argument(fcinfo, 3, 1);
	size_t		count = (size_t) picture.width * picture.height;
	uint64		red = 0;
	uint64		blue = 0;
	double		ratio;
	double		kelvin;
	size_t		i;

	for (i = 0; i < count; i++)
	{
		red += picture.pixels[3 * i];
		blue += picture.pixels[3 * i + 2];
	}
	ratio = ((double) red / count) / ((double) blue / count + 1e-6);
	kelvin = 6500.0 / (ratio + 1e-6);
	PG_RETURN_FLOAT4((float4) Min(Max(kelvin, 2500.0), 10000.0));
}

/* ---- thumbnails ------------------------------------------------------ */

/* Largest scale at which the picture is not smaller than width. */
static int
scale_for(const EngJpegInfo *info, int width)
{
	int			scale = 8;

	while (scale > 1 && eng_jpeg_scaled_side(info->width, scale) < width)
		scale /= 2;
	return scale;
}

static bytea *
encode(PixelState *state, const EngImage *picture)
{
	EngStatus	status = {0};
	const uint8 *bytes;
	size_t		size;
	bytea	   *result;

	if (state->encoder == NULL)
		state->encoder = eng_jpeg_encoder_create(&status);
	if (state->encoder == NULL ||
		!eng_jpeg_encode(state->encoder, picture, THUMBNAIL_QUALITY,
						 ENG_JPEG_420, &status))
		raise_status(&status);
	bytes = eng_jpeg_encoded(state->encoder, &size);
	result = palloc(VARHDRSZ + size);
	SET_VARSIZE(result, VARHDRSZ + size);
	memcpy(VARDATA(result), bytes, size);
	return result;
}

/* A JPEG of that width, the sides' ratio kept; never larger than before. */
Datum
avc_thumbnail(PG_FUNCTION_ARGS)
{
	PixelState *state = get_state(fcinfo);
	EngJpegInfo info = read_header_argument(fcinfo);
	int			width = PG_GETARG_INT32(1);
	EngImage	picture;
	EngImage	small = {NULL, 0, 0, 3};
	EngStatus	status = {0};

	if (width < 1 || width > ENG_JPEG_MAX_SIDE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("width must be between 1 and %d",
						ENG_JPEG_MAX_SIDE)));
	width = Min(width, info.width);
	picture = decode_argument(fcinfo, 3, scale_for(&info, width));
	small.width = width;
	small.height = Max(1, (int) ((double) info.height * width / info.width +
								 0.5));
	small.pixels = get_buffer(state, eng_image_bytes(&small));
	if (!eng_resize(&small, &picture, ENG_RESIZE_BICUBIC, &status))
		raise_status(&status);
	PG_RETURN_BYTEA_P(encode(state, &small));
}
