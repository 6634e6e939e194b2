/*
 * datasets/label_reader.h
 *		A label file, read piece by piece into a queue.
 */
#ifndef AVC_DATASETS_LABEL_READER_H
#define AVC_DATASETS_LABEL_READER_H

#include "lib/ilist.h"

#include "datasets/json_stream.h"

/* The first field of the reader of each kind of file. */
typedef struct AvcLabelReader
{
	MemoryContext context;		/* of the reader and all that it makes */
	AvcJsonStream *stream;
	bool		is_done;
	const char *problem;		/* of the file as a whole, or NULL; ends it */
	slist_head	ready;			/* read and not yet fetched */
	slist_node *last;
} AvcLabelReader;

/*
 * Make a reader of "size" zeroed bytes, whose events go to "handler" with the
 * reader as argument.  The file "fd" stays the caller's.  Memory is a child of
 * the current context.
 */
extern void *avc_label_reader_open(size_t size, int fd,
								   AvcJsonHandler handler);

/* Put something at the end of the queue. */
extern void avc_label_reader_add(AvcLabelReader *reader, slist_node *node);

/*
 * The first of the queue, or NULL when another piece must be read, which
 * avc_label_reader_read does: false when there is none.
 */
extern slist_node *avc_label_reader_take(AvcLabelReader *reader);
extern bool avc_label_reader_read(AvcLabelReader *reader);

/* Why reading stopped before the end of the file; NULL if it did not. */
extern const char *avc_label_reader_problem(const AvcLabelReader *reader);

extern void avc_label_reader_close(AvcLabelReader *reader);

#endif
