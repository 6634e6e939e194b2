/*
 * datasets/json_stream.h
 *		Read a JSON file of any size as a stream of events.
 */
#ifndef AVC_DATASETS_JSON_STREAM_H
#define AVC_DATASETS_JSON_STREAM_H

typedef struct AvcJsonStream AvcJsonStream;

typedef enum AvcJsonEvent
{
	AVC_JSON_NULL,
	AVC_JSON_BOOLEAN,
	AVC_JSON_NUMBER,
	AVC_JSON_STRING,
	AVC_JSON_KEY,
	AVC_JSON_START_OBJECT,
	AVC_JSON_END_OBJECT,
	AVC_JSON_START_ARRAY,
	AVC_JSON_END_ARRAY
} AvcJsonEvent;

typedef struct AvcJsonValue
{
	const char *text;			/* strings and keys: not zero-terminated */
	size_t		len;
	double		number;			/* may be infinite */
	int64		integer;		/* of a number that is_integer, exactly */
	bool		is_integer;		/* written without fraction and exponent */
	bool		boolean;
} AvcJsonValue;

/*
 * Called once an event, "depth" being the number of objects and arrays
 * around it.  May palloc and raise errors.
 */
typedef void (*AvcJsonHandler) (void *arg, AvcJsonEvent event,
								const AvcJsonValue *value, int depth);

/*
 * Read from the open file "fd", which stays the caller's.  Memory is taken
 * from the current context, whose end is the stream's.  What it holds does
 * not grow with the file: nesting and the length of one string are limited.
 * A byte order mark of UTF-8 is passed over.
 */
extern AvcJsonStream *avc_json_open(int fd, AvcJsonHandler handler, void *arg);

/*
 * Read and handle the next piece of the file.  False at its end, and when
 * the file turned out to be malformed: then avc_json_problem says why.
 */
extern bool avc_json_read(AvcJsonStream *stream);

/* Why reading stopped before the end, as one line; NULL if it did not. */
extern const char *avc_json_problem(const AvcJsonStream *stream);

#endif
