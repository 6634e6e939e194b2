/*
 * models/network.c
 *		A checkpoint as the shared engine knows it.
 */
#include "postgres.h"

#include "common/sha2.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "models/model.h"
#include "models/network.h"

/*
 * What the engine knows the network by: weights of one SHA-256 can belong to
 * several models, whose options make other networks of them.
 */
static char *
name_weights(const AvcCheckpoint *checkpoint)
{
	char	   *text = psprintf("%s\n%s\n%s\n%d", checkpoint->weights_sha256,
								checkpoint->model->architecture,
								checkpoint->model->options,
								checkpoint->model->num_classes);
	bytea	   *digest;
	char	   *hex = palloc(2 * PG_SHA256_DIGEST_LENGTH + 1);

	digest = DatumGetByteaPP(DirectFunctionCall1(sha256_bytea,
												 PointerGetDatum(cstring_to_text(text))));
	hex_encode(VARDATA_ANY(digest), PG_SHA256_DIGEST_LENGTH, hex);
	hex[2 * PG_SHA256_DIGEST_LENGTH] = '\0';
	return hex;
}

static char *
describe_network(const AvcModel *model)
{
	StringInfoData json;

	initStringInfo(&json);
	avc_model_add_network(&json, model);
	return json.data;
}

void
avc_network_open(AvcNetwork *network, const AvcCheckpoint *checkpoint)
{
	const char *device = avc_model_device(NULL);

	avc_model_check_usable(checkpoint->model);
	avc_model_check_device(device);
	if (checkpoint->weights_sha256 == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("checkpoint " INT64_FORMAT " has no recorded SHA-256",
						checkpoint->checkpoint)));
	network->context = CurrentMemoryContext;
	network->checkpoint = checkpoint->checkpoint;
	network->user = GetUserId();
	strlcpy(network->device, device, sizeof(network->device));
	network->service = avc_service(network->device);
	network->sha256 = checkpoint->weights_sha256;
	network->weights = name_weights(checkpoint);
	network->load = describe_network(checkpoint->model);
}

/* Is it this checkpoint for this user on the device that is set now? */
static bool
network_serves(const AvcNetwork *network, int64 checkpoint)
{
	return network->checkpoint == checkpoint &&
		network->user == GetUserId() &&
		strcmp(network->device, avc_model_device(NULL)) == 0;
}

AvcNetwork *
avc_network_of_call(FunctionCallInfo fcinfo, int64 checkpoint,
					AvcNetwork *(*make) (const AvcCheckpoint *checkpoint))
{
	FmgrInfo   *site = fcinfo->flinfo;
	AvcNetwork *network = site->fn_extra;
	MemoryContext own;
	MemoryContext old;

	if (network != NULL && network_serves(network, checkpoint))
		return network;
	site->fn_extra = NULL;
	if (network != NULL)
		MemoryContextDelete(network->context);
	own = AllocSetContextCreate(CurrentMemoryContext, "avcurate network",
								ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(own);
	network = make(avc_checkpoint_find(checkpoint, false));
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(own, site->fn_mcxt);
	site->fn_extra = network;
	return network;
}
