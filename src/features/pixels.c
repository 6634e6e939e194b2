/*
 * features/pixels.c
 *		Functions of the pixels of one frame: sizes, hashes and measures.
 *
 * All are immutable and read nothing but their arguments.  Those of one image
 * share its decoded pixels (picture.c).  The pixels are the file's: an
 * orientation noted beside them (EXIF) turns nothing, as it does not turn the
 * boxes either.
 */
#include "postgres.h"

#include "fmgr.h"
#include "port/pg_bitutils.h"
#include "utils/varbit.h"

#include "features/picture.h"
#include "image/jpeg.h"
#include "image/measure.h"

PG_FUNCTION_INFO_V1(avc_jpeg_width);
PG_FUNCTION_INFO_V1(avc_jpeg_height);
PG_FUNCTION_INFO_V1(avc_dhash);
PG_FUNCTION_INFO_V1(avc_dhash_scaled);
PG_FUNCTION_INFO_V1(avc_dhash256);
PG_FUNCTION_INFO_V1(avc_dhash256_scaled);
PG_FUNCTION_INFO_V1(avc_hamming);
PG_FUNCTION_INFO_V1(avc_brightness);
PG_FUNCTION_INFO_V1(avc_sharpness);
PG_FUNCTION_INFO_V1(avc_white_balance);
PG_FUNCTION_INFO_V1(avc_thumbnail);

/* Header bytes fetched at first; most frame headers lie within. */
#define HEADER_SLICE 4096

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
			avc_picture_fail(&status);
		image = PG_GETARG_BYTEA_PP(0);
		memset(&status, 0, sizeof(status));
		if (!eng_jpeg_read_header(&info, (const uint8 *) VARDATA_ANY(image),
								  VARSIZE_ANY_EXHDR(image), &status))
			avc_picture_fail(&status);
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

static Datum
hash_datum(Datum image, AvcPictureForm form, AvcHash kind)
{
	int			bits = avc_hash_side(kind) * avc_hash_side(kind);
	VarBit	   *hash = palloc0(VARBITTOTALLEN(bits));

	SET_VARSIZE(hash, VARBITTOTALLEN(bits));
	VARBITLEN(hash) = bits;
	avc_picture_hash(VARBITS(hash), image, form, kind);
	return VarBitPGetDatum(hash);
}

Datum
avc_dhash(PG_FUNCTION_ARGS)
{
	return hash_datum(PG_GETARG_DATUM(0), AVC_PICTURE_COLOUR, AVC_HASH_COARSE);
}

Datum
avc_dhash_scaled(PG_FUNCTION_ARGS)
{
	return hash_datum(PG_GETARG_DATUM(0), AVC_PICTURE_SMALL_GREY,
					  AVC_HASH_COARSE);
}

Datum
avc_dhash256(PG_FUNCTION_ARGS)
{
	return hash_datum(PG_GETARG_DATUM(0), AVC_PICTURE_COLOUR, AVC_HASH_FINE);
}

Datum
avc_dhash256_scaled(PG_FUNCTION_ARGS)
{
	return hash_datum(PG_GETARG_DATUM(0), AVC_PICTURE_SMALL_GREY,
					  AVC_HASH_FINE);
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
	PG_RETURN_FLOAT4((float4) eng_mean_grey(avc_picture(PG_GETARG_DATUM(0),
														AVC_PICTURE_SMALL_GREY)));
}

/* Variance of the Laplacian of the full grey picture. */
Datum
avc_sharpness(PG_FUNCTION_ARGS)
{
	PG_RETURN_FLOAT4((float4) eng_laplacian_variance(avc_picture(PG_GETARG_DATUM(0),
																 AVC_PICTURE_GREY)));
}

/*
 * A rough colour temperature in kelvin: 6500 divided by the ratio of mean
 * red to mean blue, between 2500 and 10000.
 */
Datum
avc_white_balance(PG_FUNCTION_ARGS)
{
	double		mean[3];
	double		kelvin;

	eng_mean_colour(mean, avc_picture(PG_GETARG_DATUM(0),
									  AVC_PICTURE_COLOUR));
	kelvin = 6500.0 / (mean[0] / (mean[2] + 1e-6) + 1e-6);
	PG_RETURN_FLOAT4((float4) Min(Max(kelvin, 2500.0), 10000.0));
}

/* A JPEG of that width, the sides' ratio kept; never larger than before. */
Datum
avc_thumbnail(PG_FUNCTION_ARGS)
{
	int			width = PG_GETARG_INT32(1);

	if (width < 1 || width > ENG_JPEG_MAX_SIDE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("width must be between 1 and %d",
						ENG_JPEG_MAX_SIDE)));
	PG_RETURN_BYTEA_P(avc_picture_thumbnail(PG_GETARG_DATUM(0), width));
}
