/*
 * features/picture.c
 *		The decoded image of a frame, shared by the functions of its pixels.
 *
 * A query or a backfill that asks several functions about a frame asks them
 * one after the other, so each backend keeps the last image: its bytes and
 * what was decoded of them.  That it is the same image is never guessed:
 *
 * - The bytes are compared, all of them.  That costs a thousandth of a decode.
 * - Before that, a value in the TOAST table is known by its pointer, which
 *   saves fetching it again.  A value's number is handed out again only after
 *   the other 2^32 were; at a million in a second that is an hour.  So the
 *   pointer counts for a second, whatever happens to the table meanwhile.
 *
 * Buffers live in a context of their own.  They are given back at the end of
 * a transaction if it failed or if they are larger than for ordinary frames.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "portability/instr_time.h"
#include "utils/memutils.h"

#include "features/picture.h"
#include "image/jpeg.h"
#include "image/resize.h"

#define KEEP_BYTES (8 * 1024 * 1024)	/* between transactions */
#define POINTER_SECONDS 1.0
#define MAX_HASH_SIDE 16
#define THUMBNAIL_QUALITY 85

typedef struct Samples
{
	uint8	   *bytes;
	Size		capacity;
} Samples;

typedef struct Picture
{
	EngImage	image;
	bool		is_valid;
	Samples		buffer;
} Picture;

typedef struct PictureCache
{
	MemoryContext context;
	EngJpegDecoder *decoder;
	EngJpegEncoder *encoder;	/* NULL until a thumbnail is made */
	EngResizer *resizers[AVC_PICTURE_FORMS][AVC_HASHES];
	bool		has_file;
	struct varlena *file;		/* the last image; not toasted */
	bool		has_pointer;
	varatt_external pointer;	/* where it came from */
	instr_time	pointer_time;	/* and when */
	Picture		pictures[AVC_PICTURE_FORMS];
	Samples		small;			/* a thumbnail's pixels */
} PictureCache;

static PictureCache *cache = NULL;

/* ---- lifetime -------------------------------------------------------- */

void
avc_picture_fail(const EngStatus *status)
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
forget_file(void)
{
	int			form;

	cache->has_file = false;
	cache->has_pointer = false;
	for (form = 0; form < AVC_PICTURE_FORMS; form++)
		cache->pictures[form].is_valid = false;
}

static void
free_cache(void)
{
	int			form;
	int			kind;

	eng_jpeg_decoder_free(cache->decoder);
	eng_jpeg_encoder_free(cache->encoder);
	for (form = 0; form < AVC_PICTURE_FORMS; form++)
		for (kind = 0; kind < AVC_HASHES; kind++)
			eng_resizer_free(cache->resizers[form][kind]);
	MemoryContextDelete(cache->context);
	cache = NULL;
}

static void
end_transaction(XactEvent event, void *arg)
{
	bool		has_failed = event == XACT_EVENT_ABORT ||
	event == XACT_EVENT_PARALLEL_ABORT;
	bool		has_ended = has_failed || event == XACT_EVENT_COMMIT ||
	event == XACT_EVENT_PARALLEL_COMMIT || event == XACT_EVENT_PREPARE;

	/* what was fetched in part when it failed is in the context, too */
	if (cache != NULL && has_ended &&
		(has_failed ||
		 MemoryContextMemAllocated(cache->context, true) > KEEP_BYTES))
		free_cache();
}

/* Nothing of a failed attempt is left behind but the context. */
static void
make_cache(void)
{
	static bool is_registered = false;
	MemoryContext context;
	EngStatus	status = {0};

	if (!is_registered)
	{
		RegisterXactCallback(end_transaction, NULL);
		is_registered = true;
	}
	context = AllocSetContextCreate(TopMemoryContext, "avcurate pictures",
									ALLOCSET_SMALL_SIZES);
	cache = MemoryContextAllocZero(context, sizeof(PictureCache));
	cache->context = context;
	cache->decoder = eng_jpeg_decoder_create(&status);
	if (cache->decoder == NULL)
	{
		free_cache();
		avc_picture_fail(&status);
	}
}

/* Make room for that many bytes; contents are not kept. */
static uint8 *
grow(Samples *buffer, Size size)
{
	if (buffer->capacity < size)
	{
		if (buffer->bytes != NULL)
			pfree(buffer->bytes);
		buffer->bytes = NULL;
		buffer->capacity = 0;
		buffer->bytes = MemoryContextAllocHuge(cache->context, size);
		buffer->capacity = size;
	}
	return buffer->bytes;
}

/* ---- the image ------------------------------------------------------- */

static bool
is_known_pointer(const varatt_external *pointer)
{
	instr_time	age;

	if (!cache->has_pointer ||
		memcmp(&cache->pointer, pointer, sizeof(varatt_external)) != 0)
		return false;
	INSTR_TIME_SET_CURRENT(age);
	INSTR_TIME_SUBTRACT(age, cache->pointer_time);
	return INSTR_TIME_GET_DOUBLE(age) < POINTER_SECONDS;
}

static bool
is_known_file(const struct varlena *file)
{
	return cache->has_file &&
		VARSIZE_ANY_EXHDR(cache->file) == VARSIZE_ANY_EXHDR(file) &&
		memcmp(VARDATA_ANY(cache->file), VARDATA_ANY(file),
			   VARSIZE_ANY_EXHDR(file)) == 0;
}

/* Keep a file that was allocated in the cache's context. */
static void
keep_file(struct varlena *file)
{
	struct varlena *old = cache->file;

	forget_file();
	cache->file = file;
	cache->has_file = true;
	if (old != NULL)
		pfree(old);
}

/* Make the image the one that is kept. */
static void
take_image(Datum image)
{
	struct varlena *value = (struct varlena *) DatumGetPointer(image);
	varatt_external pointer;
	bool		is_on_disk = VARATT_IS_EXTERNAL_ONDISK(value);
	bool		is_plain = !VARATT_IS_EXTERNAL(value) &&
	!VARATT_IS_COMPRESSED(value);

	if (cache == NULL)
		make_cache();
	if (is_on_disk)
	{
		VARATT_EXTERNAL_GET_POINTER(pointer, value);
		if (is_known_pointer(&pointer))
			return;
	}
	if (!is_plain || !is_known_file(value))
	{
		MemoryContext old = MemoryContextSwitchTo(cache->context);

		value = (struct varlena *) pg_detoast_datum_copy(value);
		MemoryContextSwitchTo(old);
		if (is_known_file(value))
			pfree(value);
		else
			keep_file(value);
	}
	if (is_on_disk)
	{
		cache->pointer = pointer;
		INSTR_TIME_SET_CURRENT(cache->pointer_time);
	}
	cache->has_pointer = is_on_disk;
}

/* The image's file, for as long as it is the one that is kept. */
static const uint8 *
take_file(Datum image, size_t *size)
{
	take_image(image);
	*size = VARSIZE_ANY_EXHDR(cache->file);
	return (const uint8 *) VARDATA_ANY(cache->file);
}

const EngImage *
avc_picture(Datum image, AvcPictureForm form)
{
	size_t		size;
	const uint8 *file = take_file(image, &size);
	Picture    *picture = &cache->pictures[form];
	int			scale = form == AVC_PICTURE_SMALL_GREY ? 8 : 1;
	EngStatus	status = {0};

	if (picture->is_valid)
		return &picture->image;
	picture->image.channels = form == AVC_PICTURE_COLOUR ? 4 : 1;
	if (!eng_jpeg_scaled_size(&picture->image, file, size, scale, &status))
		avc_picture_fail(&status);
	picture->image.pixels = grow(&picture->buffer,
								 eng_image_bytes(&picture->image));
	if (!eng_jpeg_decode(cache->decoder, &picture->image, file, size, scale,
						 &status))
		avc_picture_fail(&status);
	picture->is_valid = true;
	return &picture->image;
}

/* ---- hash ------------------------------------------------------------ */

/*
 * Difference hash of a picture: shrink its grey to side + 1 by side pixels,
 * then one bit for each and its right neighbour, 1 where the neighbour is
 * brighter; rows from the top, first bit first (imagehash.dhash).  The grey is
 * that of the decoded colours, not the file's own brightness channel, which
 * differs by rounding.
 */
static void
difference_hash(uint8 *bits, int side, EngResizer *resizer,
				const EngImage *picture)
{
	uint8		cells[MAX_HASH_SIDE * (MAX_HASH_SIDE + 1)];
	EngImage	small = {cells, side + 1, side, 1};
	EngStatus	status = {0};
	int			i;

	if (!eng_resizer_run(resizer, &small, picture, ENG_RESIZE_LANCZOS, &status))
		avc_picture_fail(&status);
	memset(bits, 0, side * side / BITS_PER_BYTE);
	for (i = 0; i < side * side; i++)
	{
		const uint8 *cell = cells + i / side * (side + 1) + i % side;

		if (cell[1] > cell[0])
			bits[i / BITS_PER_BYTE] |= 0x80 >> i % BITS_PER_BYTE;
	}
}

void
avc_picture_hash(uint8 *bits, Datum image, AvcPictureForm form, AvcHash kind)
{
	const EngImage *picture = avc_picture(image, form);
	EngResizer **resizer = &cache->resizers[form][kind];

	if (*resizer == NULL)
		*resizer = eng_resizer_create();
	if (*resizer == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory while resizing a picture")));
	difference_hash(bits, avc_hash_side(kind), *resizer, picture);
}

/* ---- thumbnail ------------------------------------------------------- */

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
encode(const EngImage *picture)
{
	EngStatus	status = {0};
	const uint8 *bytes;
	size_t		size;
	bytea	   *result;

	if (cache->encoder == NULL)
		cache->encoder = eng_jpeg_encoder_create(&status);
	if (cache->encoder == NULL ||
		!eng_jpeg_encode(cache->encoder, picture, THUMBNAIL_QUALITY,
						 ENG_JPEG_420, &status))
		avc_picture_fail(&status);
	bytes = eng_jpeg_encoded(cache->encoder, &size);
	result = palloc(VARHDRSZ + size);
	SET_VARSIZE(result, VARHDRSZ + size);
	memcpy(VARDATA(result), bytes, size);
	return result;
}

bytea *
avc_picture_thumbnail(Datum image, int width)
{
	size_t		size;
	const uint8 *file = take_file(image, &size);
	EngJpegInfo info;
	EngImage	picture = {NULL, 0, 0, 3};
	EngImage	small = {NULL, 0, 0, 3};
	EngStatus	status = {0};

	if (!eng_jpeg_read_header(&info, file, size, &status))
		avc_picture_fail(&status);
	width = Min(width, info.width);
	if (!eng_jpeg_decode_alloc(cache->decoder, &picture, file, size,
							   scale_for(&info, width), &status))
		avc_picture_fail(&status);
	small.width = width;
	small.height = Max(1, (int) ((double) info.height * width / info.width +
								 0.5));
	small.pixels = grow(&cache->small, eng_image_bytes(&small));
	if (!eng_resize(&small, &picture, ENG_RESIZE_BICUBIC, &status))
		avc_picture_fail(&status);
	return encode(&small);
}
