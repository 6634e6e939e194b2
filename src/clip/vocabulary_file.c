/*
 * clip/vocabulary_file.c
 *		From a vocabulary file to the lines that are used.
 */
#include <string.h>
#include <zlib.h>

#include "clip/vocabulary.h"

#define STEP	(256 * 1024)	/* bytes unpacked at once */

static bool
is_gzipped(const uint8_t *file, size_t size)
{
	return size >= 2 && file[0] == 0x1f && file[1] == 0x8b;
}

static bool
inflate_all(z_stream *stream, EngBuffer *out, EngStatus *status)
{
	int			result = Z_OK;

	while (result != Z_STREAM_END)
	{
		if (out->size > AVC_CLIP_MAX_FILE)
			return eng_fail(status, ENG_BAD_FILE,
							"vocabulary is larger than 16 MB when unpacked");
		if (!eng_buffer_reserve(out, STEP, status))
			return false;
		stream->next_out = out->data + out->size;
		stream->avail_out = STEP;
		result = inflate(stream, Z_NO_FLUSH);
		out->size += STEP - stream->avail_out;
		if (result == Z_MEM_ERROR)
			return eng_fail(status, ENG_NO_MEMORY, "out of memory");
		if (result != Z_OK && result != Z_STREAM_END)
			return eng_fail(status, ENG_BAD_FILE,
							"vocabulary is a gzip file that is damaged or ends early");
	}
	return true;
}

static bool
unzip(const uint8_t *file, size_t size, EngBuffer *out, EngStatus *status)
{
	z_stream	stream;
	bool		ok;

	memset(&stream, 0, sizeof(stream));
	stream.next_in = (Bytef *) file;
	stream.avail_in = (uInt) size;
	/* 16: a gzip header and its checksum */
	if (inflateInit2(&stream, 16 + MAX_WBITS) != Z_OK)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	ok = inflate_all(&stream, out, status);
	inflateEnd(&stream);
	return ok;
}

/* Bytes of the first lines; 0 if there are fewer. */
static size_t
length_of_lines(const uint8_t *text, size_t size, int lines)
{
	size_t		at = 0;

	while (lines > 0 && at < size)
	{
		const uint8_t *end = memchr(text + at, '\n', size - at);

		lines--;
		at = end != NULL ? (size_t) (end - text) + 1 : size;
	}
	return lines == 0 ? at : 0;
}

static bool
keep_used(EngBuffer *text, size_t from, EngStatus *status)
{
	static const char version[] = "#version";
	const uint8_t *first = text->data + from;
	size_t		size = text->size - from;
	size_t		line = length_of_lines(first, size, 1);
	size_t		used = length_of_lines(first, size, 1 + AVC_CLIP_MERGES);

	if (size > 0 && first[0] == '{')
		return eng_fail(status, ENG_BAD_FILE,
						"vocabulary is a JSON file; merges.txt beside it is what is needed");
	if (memmem(first, line, version, sizeof(version) - 1) == NULL)
		return eng_fail(status, ENG_BAD_FILE,
						"vocabulary does not begin with a line that says \"#version\"");
	if (used == 0)
		return eng_fail(status, ENG_BAD_FILE,
						"vocabulary has fewer than %d merges",
						AVC_CLIP_MERGES);
	text->size = from + used;
	return true;
}

bool
avc_vocabulary_unpack(const void *file, size_t size, EngBuffer *out,
					  EngStatus *status)
{
	size_t		from = out->size;

	if (size > AVC_CLIP_MAX_FILE)
		return eng_fail(status, ENG_BAD_FILE,
						"vocabulary is larger than 16 MB");
	if (size == 0)
		return eng_fail(status, ENG_BAD_FILE, "vocabulary is empty");
	if (is_gzipped(file, size) ? !unzip(file, size, out, status) :
		!eng_buffer_append(out, file, size, status))
		return false;
	return keep_used(out, from, status);
}
