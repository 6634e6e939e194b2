/*
 * search/text_search.c
 *		search_frames(): the frames whose CLIP embeddings come closest to
 *		that of a text.
 *
 * CLIP lives on the floor above (models/clip.c) and is reached through its
 * SQL functions, with the rights of the caller.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "search/search.h"

PG_FUNCTION_INFO_V1(avc_search_frames);

static Oid
function_of(const char *name, int count, const Oid *types)
{
	Oid			function = LookupFuncName(list_make2(makeString("avcurate"),
													 makeString(pstrdup(name))),
										  count, types, false);
	AclResult	result = pg_proc_aclcheck(function, GetUserId(), ACL_EXECUTE);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FUNCTION, name);
	return function;
}

/* Say how to get a CLIP model if there is none: whoever has one goes on. */
static void
require_model(void)
{
	Oid			types[1] = {INT8OID};
	LOCAL_FCINFO(call, 1);
	FmgrInfo	info;

	fmgr_info(function_of("clip_model", 1, types), &info);
	InitFunctionCallInfoData(*call, &info, 1, InvalidOid, NULL, NULL);
	call->args[0].value = (Datum) 0;
	call->args[0].isnull = true;
	(void) FunctionCallInvoke(call);
}

static Datum
embed(Datum text, int64 checkpoint)
{
	Oid			types[2] = {TEXTOID, INT8OID};

	return OidFunctionCall2(function_of("clip_text_embedding", 2, types),
							text, Int64GetDatum(checkpoint));
}

/* CLIP has an embedding of no words, too, but nothing is near to it. */
static void
check_words(const text *query)
{
	const char *bytes = VARDATA_ANY(query);
	int			i;

	for (i = 0; i < VARSIZE_ANY_EXHDR(query); i++)
		if (strchr(" \t\n\r\f\v", bytes[i]) == NULL)
			return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("query has no words"),
			 errhint("Say what is to be seen in the frames.")));
}

Datum
avc_search_frames(PG_FUNCTION_ARGS)
{
	AvcSearch	search;

	if (!PG_ARGISNULL(0) &&
		!avc_search_has_embedding(avc_dataset_find(PG_GETARG_OID(0), false)))
		require_model();
	avc_search_arguments(fcinfo, &search);
	check_words(PG_GETARG_TEXT_PP(1));
	search.query = embed(PG_GETARG_DATUM(1),
						 avc_search_checkpoint(search.dataset,
											   search.feature));
	avc_search_nearest(fcinfo, &search);
	return (Datum) 0;
}
