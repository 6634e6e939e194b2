/*
 * image/jpeg.c
 *		Bounded JPEG header reader; decoding and encoding by TurboJPEG.
 *
 * The sizes come from our own walk over the markers, so that a picture can
 * be judged, and refused, before any library sees it.  TurboJPEG is told to
 * stop at the first warning: its warnings are what a file cut off or
 * damaged in the body causes, and the alternative is a half grey picture.
 * Bytes after the end of the picture cause none and are allowed.
 */
#include "image/jpeg.h"

#include <stdlib.h>
#include <string.h>
#include <turbojpeg.h>

/* Marker codes, the byte after 0xFF. */
#define MARKER_TEM 0x01
#define MARKER_SOF0 0xC0
#define MARKER_SOF2 0xC2
#define MARKER_SOF15 0xCF
#define MARKER_DHT 0xC4
#define MARKER_JPG 0xC8
#define MARKER_DAC 0xCC
#define MARKER_RST0 0xD0
#define MARKER_SOI 0xD8
#define MARKER_EOI 0xD9
#define MARKER_SOS 0xDA

struct EngJpegDecoder
{
	tjhandle	handle;
	uint8_t    *pixels;			/* of eng_jpeg_decode_alloc */
	size_t		capacity;		/* bytes at pixels */
};

struct EngJpegEncoder
{
	tjhandle	handle;
	uint8_t    *bytes;			/* the last encoded file */
	unsigned long capacity;		/* bytes at bytes */
	unsigned long size;			/* bytes used */
};

/* ---- header ---------------------------------------------------------- */

/* True for SOF0..SOF15, whose range holds three other markers. */
static bool
is_frame_marker(int marker)
{
	return marker >= MARKER_SOF0 && marker <= MARKER_SOF15 &&
		marker != MARKER_DHT && marker != MARKER_JPG && marker != MARKER_DAC;
}

static bool
has_no_length(int marker)
{
	return marker == MARKER_TEM ||
		(marker >= MARKER_RST0 && marker < MARKER_SOI);
}

/* Refuse the coding processes that we do not decode. */
static bool
check_process(int marker, EngStatus *status)
{
	int			process = marker - MARKER_SOF0;

	if (process <= 2)
		return true;
	if (process == 3 || process == 7 || process == 11 || process == 15)
		return eng_fail(status, ENG_UNSUPPORTED,
						"lossless JPEG is not supported");
	if (process >= 8)
		return eng_fail(status, ENG_UNSUPPORTED,
						"JPEG with arithmetic coding is not supported");
	return eng_fail(status, ENG_UNSUPPORTED,
					"hierarchical JPEG is not supported");
}

/* Frame header: body points behind the length, which covers size bytes. */
static bool
read_frame_header(EngJpegInfo *info, int marker, const uint8_t *body,
				  size_t size, EngStatus *status)
{
	int			i;

	if (!check_process(marker, status))
		return false;
	if (size < 6)
		return eng_fail(status, ENG_BAD_FILE,
						"JPEG frame header is too short");
	info->progressive = marker == MARKER_SOF2;
	info->height = body[1] << 8 | body[2];
	info->width = body[3] << 8 | body[4];
	info->components = body[5];
	if (body[0] != 8)
		return eng_fail(status, ENG_UNSUPPORTED,
						"JPEG with %d bits a sample is not supported",
						body[0]);
	if (info->width == 0 || info->height == 0)
		return eng_fail(status, ENG_BAD_FILE, "JPEG has size %dx%d",
						info->width, info->height);
	if (info->components != 1 && info->components != 3 &&
		info->components != 4)
		return eng_fail(status, ENG_BAD_FILE, "JPEG has %d components",
						info->components);
	if (size != (size_t) 6 + 3 * info->components)
		return eng_fail(status, ENG_BAD_FILE,
						"JPEG frame header has a wrong length");
	for (i = 0; i < info->components; i++)
	{
		int			sampling = body[6 + 3 * i + 1];

		if ((sampling >> 4) < 1 || (sampling >> 4) > 4 ||
			(sampling & 15) < 1 || (sampling & 15) > 4)
			return eng_fail(status, ENG_BAD_FILE,
							"JPEG has a sampling factor out of range");
	}
	return true;
}

/*
 * Position of the code of the next marker, or 0 if there is none: one byte
 * 0xFF at least, any number of them as filling, then the code.
 */
static size_t
next_marker(const uint8_t *data, size_t size, size_t at)
{
	if (at >= size || data[at] != 0xFF)
		return 0;
	while (at < size && data[at] == 0xFF)
		at++;
	if (at >= size || data[at] == 0)
		return 0;
	return at;
}

bool
eng_jpeg_read_header(EngJpegInfo *info, const uint8_t *data, size_t size,
					 EngStatus *status)
{
	size_t		at = 2;

	if (size == 0)
		return eng_fail(status, ENG_BAD_FILE, "image is empty");
	if (size < 2 || data[0] != 0xFF || data[1] != MARKER_SOI)
		return eng_fail(status, ENG_BAD_FILE, "image is not a JPEG");
	for (;;)
	{
		size_t		length;
		int			marker;

		if (at >= size)
			return eng_fail(status, ENG_BAD_FILE,
							"JPEG ends before its frame header");
		at = next_marker(data, size, at);
		if (at == 0)
			return eng_fail(status, ENG_BAD_FILE,
							"JPEG has bytes that are no marker in its header");
		marker = data[at++];
		if (has_no_length(marker))
			continue;
		if (marker == MARKER_SOI || marker == MARKER_EOI ||
			marker == MARKER_SOS)
			return eng_fail(status, ENG_BAD_FILE,
							"JPEG has no frame header");
		if (size - at < 2)
			return eng_fail(status, ENG_BAD_FILE,
							"JPEG ends before its frame header");
		length = (size_t) data[at] << 8 | data[at + 1];
		if (length < 2)
			return eng_fail(status, ENG_BAD_FILE,
							"JPEG has a marker with a wrong length");
		if (length > size - at)
			return eng_fail(status, ENG_BAD_FILE,
							"JPEG ends before its frame header");
		if (is_frame_marker(marker))
			return read_frame_header(info, marker, data + at + 2, length - 2,
									 status);
		at += length;
	}
}

bool
eng_jpeg_has_end(const uint8_t *data, size_t size)
{
	size_t		at;

	/* coded bits hold neither marker; the picture ends after its last scan */
	for (at = size; at >= 2; at--)
	{
		if (data[at - 2] != 0xFF)
			continue;
		if (data[at - 1] == MARKER_EOI)
			return true;
		if (data[at - 1] == MARKER_SOS)
			return false;
	}
	return false;
}

/* ---- scans ----------------------------------------------------------- */

/*
 * Where the coded bits of a scan end: at the first marker that is neither a
 * stuffed 0xFF nor a restart, or at the end of the file.
 */
static size_t
end_of_scan(const uint8_t *data, size_t size, size_t at)
{
	while (at + 1 < size)
	{
		const uint8_t *mark = memchr(data + at, 0xFF, size - at - 1);

		if (mark == NULL)
			return size;
		at = mark - data;
		if (mark[1] == 0 || (mark[1] >= MARKER_RST0 && mark[1] < MARKER_SOI))
			at += 2;
		else if (mark[1] == 0xFF)
			at++;
		else
			return at;
	}
	return size;
}

/*
 * How many scans a decoder would go through.  What is wrong with the file
 * elsewhere is for the decoder to find: its first warning ends it.
 */
static int
count_scans(const EngJpegInfo *info, const uint8_t *data, size_t size)
{
	size_t		at = 2;
	int			scans = 0;

	while ((at = next_marker(data, size, at)) != 0)
	{
		int			marker = data[at++];
		size_t		length;

		if (has_no_length(marker))
			continue;
		if (marker == MARKER_EOI || size - at < 3)
			break;
		length = (size_t) data[at] << 8 | data[at + 1];
		if (length < 2 || length > size - at)
			break;
		if (marker == MARKER_SOS)
		{
			scans++;
			/* all components at once: a decoder looks for no other scan */
			if (!info->progressive && data[at + 2] == info->components)
				break;
			length = end_of_scan(data, size, at + length) - at;
		}
		at += length;
	}
	return scans;
}

/* ---- decoding -------------------------------------------------------- */

EngJpegDecoder *
eng_jpeg_decoder_create(EngStatus *status)
{
	EngJpegDecoder *decoder = calloc(1, sizeof(EngJpegDecoder));

	if (decoder != NULL)
		decoder->handle = tjInitDecompress();
	if (decoder == NULL || decoder->handle == NULL)
	{
		free(decoder);
		eng_fail(status, ENG_NO_MEMORY,
				 "out of memory while starting the JPEG decoder");
		return NULL;
	}
	return decoder;
}

void
eng_jpeg_decoder_free(EngJpegDecoder *decoder)
{
	if (decoder == NULL)
		return;
	tjDestroy(decoder->handle);
	free(decoder->pixels);
	free(decoder);
}

/*
 * What a decoder refuses although the header is a legal one.  Every block of
 * 8 x 8 samples costs a bit at least, and there are half as many as the
 * picture has squares of that size at the oddest sampling; a file of fewer
 * bytes than that is refused before room is made for its pixels.
 */
static bool
check_decodable(const EngJpegInfo *info, const uint8_t *data, size_t size,
				int32_t scale, EngStatus *status)
{
	int64_t		blocks = (int64_t) eng_jpeg_scaled_side(info->width, 8) *
		eng_jpeg_scaled_side(info->height, 8);

	if (scale != 1 && scale != 2 && scale != 4 && scale != 8)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"cannot decode a JPEG at scale 1/%d", scale);
	if (info->width > ENG_JPEG_MAX_SIDE || info->height > ENG_JPEG_MAX_SIDE)
		return eng_fail(status, ENG_UNSUPPORTED,
						"JPEG of %dx%d pixels is too large: at most %dx%d are decoded",
						info->width, info->height, ENG_JPEG_MAX_SIDE,
						ENG_JPEG_MAX_SIDE);
	if (info->components == 4)
		return eng_fail(status, ENG_UNSUPPORTED,
						"JPEG with four components (CMYK) is not supported");
	if ((int64_t) size < blocks / 16)
		return eng_fail(status, ENG_BAD_FILE,
						"JPEG is corrupt: %zu bytes cannot hold %dx%d pixels",
						size, info->width, info->height);
	if (count_scans(info, data, size) > ENG_JPEG_MAX_SCANS)
		return eng_fail(status, ENG_UNSUPPORTED,
						"JPEG with more than %d scans is not supported",
						ENG_JPEG_MAX_SCANS);
	return true;
}

static bool
can_decode_to(int32_t channels)
{
	return channels == 1 || channels == 3 || channels == 4;
}

bool
eng_jpeg_scaled_size(EngImage *out, const uint8_t *data, size_t size,
					 int32_t scale, EngStatus *status)
{
	EngJpegInfo info;

	if (!can_decode_to(out->channels))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"cannot decode a JPEG to %d channels", out->channels);
	if (!eng_jpeg_read_header(&info, data, size, status) ||
		!check_decodable(&info, data, size, scale, status))
		return false;
	out->width = eng_jpeg_scaled_side(info.width, scale);
	out->height = eng_jpeg_scaled_side(info.height, scale);
	return true;
}

/* Decode after the header was read and judged, out's sizes being right. */
static bool
decode_body(EngJpegDecoder *decoder, EngImage *out, const uint8_t *data,
			size_t size, EngStatus *status)
{
	int			format = out->channels == 1 ? TJPF_GRAY :
		out->channels == 3 ? TJPF_RGB : TJPF_RGBX;

	if (tjDecompress2(decoder->handle, data, size, out->pixels, out->width,
					  0, out->height, format,
					  TJFLAG_ACCURATEDCT | TJFLAG_STOPONWARNING |
					  TJFLAG_LIMITSCANS) == 0)
		return true;
	return eng_fail(status, ENG_BAD_FILE, "JPEG is corrupt: %s",
					tjGetErrorStr2(decoder->handle));
}

bool
eng_jpeg_decode(EngJpegDecoder *decoder, EngImage *out, const uint8_t *data,
				size_t size, int32_t scale, EngStatus *status)
{
	EngJpegInfo info;

	if (!eng_jpeg_read_header(&info, data, size, status) ||
		!check_decodable(&info, data, size, scale, status))
		return false;
	if (out->width != eng_jpeg_scaled_side(info.width, scale) ||
		out->height != eng_jpeg_scaled_side(info.height, scale) ||
		!can_decode_to(out->channels))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"JPEG of %dx%d at scale 1/%d does not fit a picture of %dx%dx%d",
						info.width, info.height, scale, out->width,
						out->height, out->channels);
	return decode_body(decoder, out, data, size, status);
}

bool
eng_jpeg_decode_alloc(EngJpegDecoder *decoder, EngImage *out,
					  const uint8_t *data, size_t size, int32_t scale,
					  EngStatus *status)
{
	size_t		bytes;

	if (!eng_jpeg_scaled_size(out, data, size, scale, status))
		return false;
	bytes = eng_image_bytes(out);
	if (bytes > decoder->capacity)
	{
		free(decoder->pixels);
		decoder->capacity = 0;
		decoder->pixels = malloc(bytes);
		if (decoder->pixels == NULL)
			return eng_fail(status, ENG_NO_MEMORY,
							"out of memory for a picture of %zu bytes",
							bytes);
		decoder->capacity = bytes;
	}
	out->pixels = decoder->pixels;
	return decode_body(decoder, out, data, size, status);
}

/* ---- encoding -------------------------------------------------------- */

EngJpegEncoder *
eng_jpeg_encoder_create(EngStatus *status)
{
	EngJpegEncoder *encoder = calloc(1, sizeof(EngJpegEncoder));

	if (encoder != NULL)
		encoder->handle = tjInitCompress();
	if (encoder == NULL || encoder->handle == NULL)
	{
		free(encoder);
		eng_fail(status, ENG_NO_MEMORY,
				 "out of memory while starting the JPEG encoder");
		return NULL;
	}
	return encoder;
}

void
eng_jpeg_encoder_free(EngJpegEncoder *encoder)
{
	if (encoder == NULL)
		return;
	tjDestroy(encoder->handle);
	free(encoder->bytes);
	free(encoder);
}

static bool
check_encodable(const EngImage *image, int quality, EngStatus *status)
{
	if (image->width < 1 || image->height < 1 ||
		image->width > ENG_JPEG_MAX_SIDE || image->height > ENG_JPEG_MAX_SIDE)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"cannot encode a picture of %dx%d pixels",
						image->width, image->height);
	if (image->channels != 1 && image->channels != 3)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"cannot encode a picture of %d channels",
						image->channels);
	if (quality < 1 || quality > 100)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"JPEG quality %d is not between 1 and 100", quality);
	return true;
}

bool
eng_jpeg_encode(EngJpegEncoder *encoder, const EngImage *image, int quality,
				EngJpegSampling sampling, EngStatus *status)
{
	static const int subsamplings[] = {
		[ENG_JPEG_420] = TJSAMP_420,
		[ENG_JPEG_422] = TJSAMP_422,
		[ENG_JPEG_444] = TJSAMP_444
	};
	int			format = image->channels == 1 ? TJPF_GRAY : TJPF_RGB;
	int			subsampling = image->channels == 1 ? TJSAMP_GRAY :
		subsamplings[sampling];
	unsigned long needed;

	encoder->size = 0;
	if (!check_encodable(image, quality, status))
		return false;
	needed = tjBufSize(image->width, image->height, subsampling);
	if (needed > encoder->capacity)
	{
		free(encoder->bytes);
		encoder->capacity = 0;
		encoder->bytes = malloc(needed);
		if (encoder->bytes == NULL)
			return eng_fail(status, ENG_NO_MEMORY,
							"out of memory for a JPEG of up to %lu bytes",
							needed);
		encoder->capacity = needed;
	}
	encoder->size = encoder->capacity;
	if (tjCompress2(encoder->handle, image->pixels, image->width, 0,
					image->height, format, &encoder->bytes, &encoder->size,
					subsampling, quality,
					TJFLAG_NOREALLOC | TJFLAG_ACCURATEDCT) != 0)
	{
		encoder->size = 0;
		return eng_fail(status, ENG_INTERNAL, "could not encode a JPEG: %s",
						tjGetErrorStr2(encoder->handle));
	}
	return true;
}

const uint8_t *
eng_jpeg_encoded(const EngJpegEncoder *encoder, size_t *size)
{
	*size = encoder->size;
	return encoder->bytes;
}
