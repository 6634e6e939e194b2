/*
 * batches/jsonb_lists.h
 *		A large jsonb object made of lists, put together piece by piece.
 *
 * PostgreSQL makes a jsonb from a tree of all its values, which takes ten
 * times the memory of the result.  Here each element becomes jsonb by itself
 * and its bytes are kept; the lists around them are written at the end.
 */
#ifndef AVC_BATCHES_JSONB_LISTS_H
#define AVC_BATCHES_JSONB_LISTS_H

#include "lib/stringinfo.h"
#include "utils/jsonb.h"

typedef struct AvcJsonbList
{
	StringInfoData data;		/* containers, each at a multiple of 4 */
	uint32	   *lengths;		/* of each, with the bytes before it */
	int			count;
	int			room;
} AvcJsonbList;

typedef struct AvcJsonbField
{
	const char *name;
	const char *json;			/* the value, an object; or NULL and: */
	const AvcJsonbList *list;
} AvcJsonbField;

/* An empty list in the current memory context. */
extern void avc_jsonb_list_init(AvcJsonbList *list);

/*
 * Add an object, given as JSON.  False, with nothing added, if the lists
 * would become larger than jsonb can be.
 */
extern bool avc_jsonb_list_add(AvcJsonbList *list, const char *json);

/*
 * The object.  Fields come in jsonb's order of keys: by length, then by
 * bytes.  NULL if it is larger than jsonb can be.
 */
extern Jsonb *avc_jsonb_object(const AvcJsonbField *fields, int count);

#endif
