/*
 * datasets/label_reader.c
 *		A label file, read piece by piece into a queue.
 *
 * The queue is as long as what one piece of the file holds.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "datasets/label_reader.h"

void *
avc_label_reader_open(size_t size, int fd, AvcJsonHandler handler)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "label file",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	AvcLabelReader *reader = palloc0(size);

	reader->context = context;
	slist_init(&reader->ready);
	reader->stream = avc_json_open(fd, handler, reader);
	MemoryContextSwitchTo(old);
	return reader;
}

void
avc_label_reader_add(AvcLabelReader *reader, slist_node *node)
{
	if (slist_is_empty(&reader->ready))
		slist_push_head(&reader->ready, node);
	else
		slist_insert_after(reader->last, node);
	reader->last = node;
}

slist_node *
avc_label_reader_take(AvcLabelReader *reader)
{
	return slist_is_empty(&reader->ready) ? NULL :
		slist_pop_head_node(&reader->ready);
}

bool
avc_label_reader_read(AvcLabelReader *reader)
{
	MemoryContext old;

	if (reader->is_done || reader->problem != NULL)
		return false;
	old = MemoryContextSwitchTo(reader->context);
	reader->is_done = !avc_json_read(reader->stream);
	MemoryContextSwitchTo(old);
	return true;
}

const char *
avc_label_reader_problem(const AvcLabelReader *reader)
{
	return reader->problem ? reader->problem :
		avc_json_problem(reader->stream);
}

void
avc_label_reader_close(AvcLabelReader *reader)
{
	MemoryContextDelete(reader->context);
}
