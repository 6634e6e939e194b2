/*
 * batches/jsonb_lists.c
 *		A large jsonb object made of lists, put together piece by piece.
 *
 * The format is that of utils/jsonb.h: a header with the number of children,
 * one JEntry for each, then their bytes.  A JEntry holds the length of its
 * child, and every JB_OFFSET_STRIDE'th the offset of its end instead.  A
 * child that is a container begins at a multiple of 4, and the bytes before
 * it count as its own.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "batches/jsonb_lists.h"

/* Where a container is written, and how far. */
typedef struct Writer
{
	char	   *start;			/* of the children's bytes */
	JEntry	   *entries;
	int			count;			/* children so far */
	uint32		length;			/* of their bytes */
} Writer;

void
avc_jsonb_list_init(AvcJsonbList *list)
{
	initStringInfo(&list->data);
	list->count = 0;
	list->room = 1024;
	list->lengths = palloc(list->room * sizeof(uint32));
}

/* The container inside a jsonb, without its length word. */
static const char *
container_of(const Jsonb *jsonb, uint32 *length)
{
	*length = VARSIZE(jsonb) - VARHDRSZ;
	return VARDATA(jsonb);
}

static Jsonb *
parse(const char *json)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in,
											  CStringGetDatum(json)));
}

bool
avc_jsonb_list_add(AvcJsonbList *list, const char *json)
{
	static const char zeros[4] = {0};
	Jsonb	   *element = parse(json);
	uint32		length;
	const char *bytes = container_of(element, &length);
	uint32		before = INTALIGN(list->data.len) - list->data.len;

	if ((uint64) list->data.len + before + length +
		(uint64) (list->count + 1) * sizeof(JEntry) > JENTRY_OFFLENMASK)
		return false;
	if (list->count == list->room)
	{
		list->room *= 2;
		list->lengths = repalloc(list->lengths, list->room * sizeof(uint32));
	}
	appendBinaryStringInfo(&list->data, zeros, before);
	appendBinaryStringInfo(&list->data, bytes, length);
	list->lengths[list->count++] = before + length;
	pfree(element);
	return true;
}

/* Size of the container of a list, without what aligns it. */
static uint64
list_size(const AvcJsonbList *list)
{
	return sizeof(uint32) + (uint64) list->count * sizeof(JEntry) +
		list->data.len;
}

static void
begin_container(Writer *writer, char *at, int children, uint32 header)
{
	*(uint32 *) at = header;
	writer->entries = (JEntry *) (at + sizeof(uint32));
	writer->start = (char *) (writer->entries + children);
	writer->count = 0;
	writer->length = 0;
}

/* A child of the kind whose bytes are, or will be, at the writer's end. */
static void
add_entry(Writer *writer, JEntry kind, uint32 length)
{
	writer->length += length;
	writer->entries[writer->count] = kind |
		(writer->count % JB_OFFSET_STRIDE == 0 ?
		 writer->length | JENTRY_HAS_OFF : length);
	writer->count++;
}

static void
write_list(char *at, const AvcJsonbList *list)
{
	Writer		writer;
	int			i;

	begin_container(&writer, at, list->count, list->count | JB_FARRAY);
	for (i = 0; i < list->count; i++)
		add_entry(&writer, JENTRY_ISCONTAINER, list->lengths[i]);
	memcpy(writer.start, list->data.data, list->data.len);
}

Jsonb *
avc_jsonb_object(const AvcJsonbField *fields, int count)
{
	Jsonb	  **values = palloc0(count * sizeof(Jsonb *));
	uint64		size = 0;
	Writer		writer;
	char	   *result;
	int			i;

	for (i = 0; i < count; i++)
	{
		if (fields[i].json != NULL)
			values[i] = parse(fields[i].json);
		size += strlen(fields[i].name) + 2 * sizeof(uint32) +
			(values[i] ? VARSIZE(values[i]) : list_size(fields[i].list));
	}
	if (size > JENTRY_OFFLENMASK)
		return NULL;
	result = palloc0(VARHDRSZ + sizeof(uint32) + 2 * count * sizeof(JEntry) +
					 size);
	begin_container(&writer, VARDATA(result), 2 * count, count | JB_FOBJECT);
	for (i = 0; i < count; i++)
	{
		uint32		length = strlen(fields[i].name);

		memcpy(writer.start + writer.length, fields[i].name, length);
		add_entry(&writer, JENTRY_ISSTRING, length);
	}
	for (i = 0; i < count; i++)
	{
		uint32		begin = INTALIGN(writer.length);
		uint32		length;
		const char *bytes;

		if (values[i] != NULL)
		{
			bytes = container_of(values[i], &length);
			memcpy(writer.start + begin, bytes, length);
		}
		else
		{
			length = (uint32) list_size(fields[i].list);
			write_list(writer.start + begin, fields[i].list);
		}
		add_entry(&writer, JENTRY_ISCONTAINER,
				  begin - writer.length + length);
	}
	SET_VARSIZE(result, writer.start + writer.length - result);
	return (Jsonb *) result;
}
