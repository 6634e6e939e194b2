/*
 * models/clip.c
 *		Embeddings of images and texts through the shared engine.
 *
 * A call site keeps the checkpoint that it looked up (fn_extra), so a query
 * over many frames reads the catalog once.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/sha2.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "clip/tokenizer.h"
#include "common/settings.h"
#include "engine/protocol.h"
#include "image/jpeg.h"
#include "models/model.h"
#include "models/network.h"

PG_FUNCTION_INFO_V1(avc_clip_embedding);
PG_FUNCTION_INFO_V1(avc_clip_text_embedding);
PG_FUNCTION_INFO_V1(avc_clip_ahead);
PG_FUNCTION_INFO_V1(avc_clip_text_ahead);
PG_FUNCTION_INFO_V1(avc_clip_model_number);

#define KEPT_TEXTS	64			/* embeddings of texts that a session keeps */

/* A CLIP checkpoint ready to be asked. */
typedef struct AvcClip
{
	AvcNetwork	network;		/* first: avc_network_of_call */
	AvcModel   *model;
} AvcClip;

/* Tokens of a text for a network, and what came of them. */
typedef struct KeptText
{
	char		weights[2 * PG_SHA256_DIGEST_LENGTH];
	int32_t		ids[AVC_CLIP_MAX_TOKENS];
	int			count;			/* 0: unused */
	ArrayType  *embedding;		/* in TopMemoryContext */
} KeptText;

static KeptText kept_texts[KEPT_TEXTS];
static int	next_text = 0;

/* ---- a checkpoint that can be asked ---------------------------------- */

static int64
default_checkpoint(void)
{
	if (avc_clip_model == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no checkpoint is given and avcurate.clip_model is not set"),
				 errhint("Get weights of CLIP ViT-B/32 and its vocabulary, then: "
						 "SELECT avcurate.create_model('clip', 'clip_vit_b32', '{\"vocabulary\": \"/path/of/bpe_simple_vocab_16e6.txt.gz\", \"quick_gelu\": true}'); "
						 "SELECT avcurate.import_checkpoint('clip', '/path/of/model.safetensors'); "
						 "SET avcurate.clip_model to the number that this returns.")));
	return avc_clip_model;
}

static void
check_embeds(const AvcCheckpoint *checkpoint)
{
	avc_model_check_usable(checkpoint->model);
	if (!avc_model_is_clip(checkpoint->model))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("checkpoint " INT64_FORMAT " is of detector \"%s\", which does not embed",
						checkpoint->checkpoint, checkpoint->model->model),
				 errhint("Give the checkpoint of a model of architecture clip_vit_b32.")));
}

static AvcNetwork *
make_clip(const AvcCheckpoint *checkpoint)
{
	AvcClip    *clip = palloc0(sizeof(AvcClip));

	check_embeds(checkpoint);
	avc_network_open(&clip->network, checkpoint);
	clip->model = checkpoint->model;
	return &clip->network;
}

/* The call site's network; argument 1 is the checkpoint or NULL. */
static const AvcClip *
get_clip(FunctionCallInfo fcinfo)
{
	int64		checkpoint = PG_ARGISNULL(1) ? default_checkpoint()
		: PG_GETARG_INT64(1);

	return (AvcClip *) avc_network_of_call(fcinfo, checkpoint, make_clip);
}

/* ---- questions and answers ------------------------------------------- */

/* False with a status if the bytes are no JPEG. */
static bool
ask_of_image(AvcQuestion *question, const bytea *image, EngStatus *status)
{
	EngJpegInfo info;

	memset(status, 0, sizeof(*status));
	memset(question, 0, sizeof(*question));
	question->kind = ENG_KIND_EMBED_IMAGES;
	question->data = VARDATA_ANY(image);
	question->len = VARSIZE_ANY_EXHDR(image);
	return eng_jpeg_read_header(&info, question->data, question->len, status);
}

/* The engine's floats as an array of real. */
static ArrayType *
make_array(AvcAnswer answer)
{
	int			count = answer.len / sizeof(float4);
	int			size = ARR_OVERHEAD_NONULLS(1) + answer.len;
	ArrayType  *array = palloc0(size);

	if (count == 0 || answer.len % sizeof(float4) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("the engine's embedding does not have the form agreed on")));
	SET_VARSIZE(array, size);
	array->ndim = 1;
	array->elemtype = FLOAT4OID;
	ARR_DIMS(array)[0] = count;
	ARR_LBOUND(array)[0] = 1;
	memcpy(ARR_DATA_PTR(array), answer.data, answer.len);
	return array;
}

/* ---- texts ----------------------------------------------------------- */

static void
tokenize(const AvcClip *clip, const text *query, KeptText *wanted)
{
	char	   *given = text_to_cstring(query);
	char	   *utf8 = pg_server_to_any(given, strlen(given), PG_UTF8);
	EngStatus	status = {ENG_OK, ""};

	memset(wanted, 0, sizeof(*wanted));
	memcpy(wanted->weights, clip->network.weights, sizeof(wanted->weights));
	if (!avc_clip_tokenize(avc_clip_vocabulary(clip->model), utf8,
						   strlen(utf8), wanted->ids, &wanted->count,
						   &status))
		avc_raise_status(&status);
}

static const KeptText *
find_kept(const KeptText *wanted)
{
	int			i;

	for (i = 0; i < KEPT_TEXTS; i++)
		if (kept_texts[i].count == wanted->count &&
			memcmp(kept_texts[i].ids, wanted->ids, sizeof(wanted->ids)) == 0 &&
			memcmp(kept_texts[i].weights, wanted->weights,
				   sizeof(wanted->weights)) == 0)
			return &kept_texts[i];
	return NULL;
}

static void
keep_text(const KeptText *wanted, const ArrayType *embedding)
{
	KeptText   *place = &kept_texts[next_text];
	ArrayType  *copy = MemoryContextAlloc(TopMemoryContext,
										  VARSIZE(embedding));

	memcpy(copy, embedding, VARSIZE(embedding));
	if (place->embedding != NULL)
		pfree(place->embedding);
	*place = *wanted;
	place->embedding = copy;
	next_text = (next_text + 1) % KEPT_TEXTS;
}

/* ---- SQL ------------------------------------------------------------- */

/*
 * clip_embedding(image, checkpoint) returns real[].
 */
Datum
avc_clip_embedding(PG_FUNCTION_ARGS)
{
	const AvcClip *clip;
	AvcQuestion question;
	EngStatus	status;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	clip = get_clip(fcinfo);
	if (!ask_of_image(&question, PG_GETARG_BYTEA_PP(0), &status))
		avc_raise_status(&status);
	PG_RETURN_ARRAYTYPE_P(make_array(avc_network_ask(&clip->network,
													 &question)));
}

static AvcQuestion
ask_of_text(const KeptText *wanted)
{
	AvcQuestion question = {ENG_KIND_EMBED_TEXTS};

	question.data = wanted->ids;
	question.len = wanted->count * sizeof(wanted->ids[0]);
	return question;
}

/*
 * clip_text_embedding(query, checkpoint) returns real[].
 */
Datum
avc_clip_text_embedding(PG_FUNCTION_ARGS)
{
	const AvcClip *clip;
	AvcQuestion question;
	KeptText	wanted;
	const KeptText *kept;
	ArrayType  *embedding;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	clip = get_clip(fcinfo);
	tokenize(clip, PG_GETARG_TEXT_PP(0), &wanted);
	kept = find_kept(&wanted);
	if (kept != NULL)
		PG_RETURN_ARRAYTYPE_P(DatumGetArrayTypePCopy(PointerGetDatum(kept->embedding)));
	question = ask_of_text(&wanted);
	embedding = make_array(avc_network_ask(&clip->network, &question));
	keep_text(&wanted, embedding);
	PG_RETURN_ARRAYTYPE_P(embedding);
}

/* clip_ahead(image, checkpoint) returns void: what a backfill calls first. */
Datum
avc_clip_ahead(PG_FUNCTION_ARGS)
{
	const AvcClip *clip;
	AvcQuestion question;
	EngStatus	status;

	if (PG_ARGISNULL(0))
		PG_RETURN_VOID();
	clip = get_clip(fcinfo);
	if (ask_of_image(&question, PG_GETARG_BYTEA_PP(0), &status))
		avc_network_ask_ahead(&clip->network, &question);
	PG_RETURN_VOID();
}

/* clip_text_ahead(query, checkpoint) returns void: the same for a text. */
Datum
avc_clip_text_ahead(PG_FUNCTION_ARGS)
{
	const AvcClip *clip;
	AvcQuestion question;
	KeptText	wanted;

	if (PG_ARGISNULL(0))
		PG_RETURN_VOID();
	clip = get_clip(fcinfo);
	tokenize(clip, PG_GETARG_TEXT_PP(0), &wanted);
	question = ask_of_text(&wanted);
	if (find_kept(&wanted) == NULL)
		avc_network_ask_ahead(&clip->network, &question);
	PG_RETURN_VOID();
}

/* clip_model(checkpoint) returns bigint: the one that a call would use. */
Datum
avc_clip_model_number(PG_FUNCTION_ARGS)
{
	int64		checkpoint = PG_ARGISNULL(0) ? default_checkpoint()
		: PG_GETARG_INT64(0);

	check_embeds(avc_checkpoint_find(checkpoint, false));
	PG_RETURN_INT64(checkpoint);
}
