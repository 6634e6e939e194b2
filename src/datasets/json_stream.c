/*
 * datasets/json_stream.c
 *		Read a JSON file of any size as a stream of events.
 *
 * The file is read in pieces of 64 kB.  All of the parser's memory is
 * palloc'd, so an error that leaves it midway leaks nothing.
 */
#include "postgres.h"

#include <unistd.h>
#include <yajl/yajl_parse.h>

#include "miscadmin.h"

#include "datasets/json_stream.h"

#define PIECE_BYTES (64 * 1024)
#define MAX_DEPTH 64
#define MAX_TOKEN_BYTES (1024 * 1024)	/* a piece more or less */
#define MAX_NUMBER_BYTES 64

struct AvcJsonStream
{
	int			fd;
	AvcJsonHandler handler;
	void	   *arg;
	yajl_handle parser;
	int			depth;			/* open objects and arrays */
	int64		offset;			/* bytes read */
	int64		piece_offset;	/* of the piece being parsed */
	int64		last_event;		/* offset of the piece of the last event */
	bool		at_end;
	const char *problem;
	char		piece[PIECE_BYTES];
};

static void *
stream_alloc(void *context, size_t size)
{
	return MemoryContextAlloc((MemoryContext) context, size);
}

static void *
stream_realloc(void *context, void *pointer, size_t size)
{
	if (pointer == NULL)
		return MemoryContextAlloc((MemoryContext) context, size);
	return repalloc(pointer, size);
}

static void
stream_free(void *context, void *pointer)
{
	if (pointer != NULL)
		pfree(pointer);
}

static int
hand_on(AvcJsonStream *stream, AvcJsonEvent event, const AvcJsonValue *value)
{
	static const AvcJsonValue no_value = {0};

	stream->last_event = stream->offset;
	stream->handler(stream->arg, event, value ? value : &no_value,
					stream->depth);
	return 1;
}

static int
open_level(AvcJsonStream *stream, AvcJsonEvent event)
{
	if (stream->depth >= MAX_DEPTH)
	{
		stream->problem = psprintf("JSON is nested deeper than %d levels",
								   MAX_DEPTH);
		return 0;
	}
	hand_on(stream, event, NULL);
	stream->depth++;
	return 1;
}

static int
close_level(AvcJsonStream *stream, AvcJsonEvent event)
{
	stream->depth--;
	return hand_on(stream, event, NULL);
}

static int
on_null(void *arg)
{
	return hand_on(arg, AVC_JSON_NULL, NULL);
}

static int
on_boolean(void *arg, int boolean)
{
	AvcJsonValue value = {.boolean = boolean != 0};

	return hand_on(arg, AVC_JSON_BOOLEAN, &value);
}

static int
on_number(void *arg, const char *text, size_t len)
{
	AvcJsonStream *stream = arg;
	AvcJsonValue value = {0};
	char		copy[MAX_NUMBER_BYTES + 1];

	if (len > MAX_NUMBER_BYTES)
	{
		stream->problem = psprintf("JSON has a number of more than %d digits",
								   MAX_NUMBER_BYTES);
		return 0;
	}
	memcpy(copy, text, len);
	copy[len] = '\0';
	value.number = strtod(copy, NULL);
	if (strpbrk(copy, ".eE") == NULL)
	{
		errno = 0;
		value.integer = strtoll(copy, NULL, 10);
		value.is_integer = errno == 0;
	}
	return hand_on(stream, AVC_JSON_NUMBER, &value);
}

static int
on_string(void *arg, const unsigned char *text, size_t len)
{
	AvcJsonValue value = {.text = (const char *) text, .len = len};

	return hand_on(arg, AVC_JSON_STRING, &value);
}

static int
on_key(void *arg, const unsigned char *text, size_t len)
{
	AvcJsonValue value = {.text = (const char *) text, .len = len};

	return hand_on(arg, AVC_JSON_KEY, &value);
}

static int
on_start_map(void *arg)
{
	return open_level(arg, AVC_JSON_START_OBJECT);
}

static int
on_end_map(void *arg)
{
	return close_level(arg, AVC_JSON_END_OBJECT);
}

static int
on_start_array(void *arg)
{
	return open_level(arg, AVC_JSON_START_ARRAY);
}

static int
on_end_array(void *arg)
{
	return close_level(arg, AVC_JSON_END_ARRAY);
}

static const yajl_callbacks callbacks = {
	.yajl_null = on_null,
	.yajl_boolean = on_boolean,
	.yajl_number = on_number,
	.yajl_string = on_string,
	.yajl_start_map = on_start_map,
	.yajl_map_key = on_key,
	.yajl_end_map = on_end_map,
	.yajl_start_array = on_start_array,
	.yajl_end_array = on_end_array
};

AvcJsonStream *
avc_json_open(int fd, AvcJsonHandler handler, void *arg)
{
	AvcJsonStream *stream = palloc0(sizeof(AvcJsonStream));
	yajl_alloc_funcs memory = {
		stream_alloc, stream_realloc, stream_free, CurrentMemoryContext
	};

	stream->fd = fd;
	stream->handler = handler;
	stream->arg = arg;
	stream->parser = yajl_alloc(&callbacks, &memory, stream);
	if (stream->parser == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));
	return stream;
}

/* Turn the parser's complaint into one line. */
static void
take_parser_error(AvcJsonStream *stream)
{
	unsigned char *text;
	char	   *line;

	if (stream->problem != NULL)
		return;
	text = yajl_get_error(stream->parser, 0, NULL, 0);
	line = pstrdup(text ? (char *) text : "unknown error");
	if (text != NULL)
		yajl_free_error(stream->parser, text);
	line[strcspn(line, "\n")] = '\0';
	stream->problem = psprintf("malformed JSON at byte " INT64_FORMAT ": %s",
							   stream->at_end ? stream->offset :
							   stream->piece_offset +
							   (int64) yajl_get_bytes_consumed(stream->parser),
							   line);
}

/*
 * Parse a piece, of which there are so many bytes.  The first one may begin
 * with the mark of its encoding.
 */
static yajl_status
parse_piece(AvcJsonStream *stream, size_t bytes)
{
	const unsigned char *piece = (unsigned char *) stream->piece;
	size_t		mark = 0;

	if (stream->offset == 0 && bytes >= 3 &&
		memcmp(piece, "\xEF\xBB\xBF", 3) == 0)
		mark = 3;
	else if (stream->offset == 0 && bytes >= 2 &&
			 (memcmp(piece, "\xFF\xFE", 2) == 0 ||
			  memcmp(piece, "\xFE\xFF", 2) == 0))
		stream->problem = "is UTF-16, and JSON is UTF-8";
	stream->piece_offset = stream->offset + mark;
	stream->offset += bytes;
	return yajl_parse(stream->parser, piece + mark, bytes - mark);
}

bool
avc_json_read(AvcJsonStream *stream)
{
	yajl_status status;
	ssize_t		got;

	CHECK_FOR_INTERRUPTS();
	if (stream->at_end || stream->problem != NULL)
		return false;
	do
	{
		got = read(stream->fd, stream->piece, PIECE_BYTES);
	} while (got < 0 && errno == EINTR);
	if (got < 0)
	{
		stream->problem = psprintf("could not read the file: %m");
		return false;
	}
	stream->at_end = got == 0;
	if (got > 0)
		status = parse_piece(stream, got);
	else
		status = yajl_complete_parse(stream->parser);
	if (status != yajl_status_ok)
		take_parser_error(stream);
	else if (stream->offset - stream->last_event > MAX_TOKEN_BYTES)
		stream->problem = psprintf("JSON has a token of more than %d bytes",
								   MAX_TOKEN_BYTES);
	return !stream->at_end && stream->problem == NULL;
}

const char *
avc_json_problem(const AvcJsonStream *stream)
{
	return stream->problem;
}
