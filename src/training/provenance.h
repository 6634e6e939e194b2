/*
 * training/provenance.h
 *		What a trained checkpoint says about where it comes from.
 */
#ifndef AVC_TRAINING_PROVENANCE_H
#define AVC_TRAINING_PROVENANCE_H

#include "lib/stringinfo.h"
#include "utils/jsonb.h"

#include "common/engine_client.h"

/* The pinned version as the registry has it. */
typedef struct AvcTrainPin
{
	char	   *slice;			/* name */
	int64		version;
	char	   *digest;
	int64		rows;			/* without those erased */
	int64		erased;
	char	   *definition;
	char	   *features;		/* JSON object: feature -> expression, of now */
	char	   *altered;		/* JSON array: those altered since the version */
} AvcTrainPin;

extern void avc_train_read_pin(AvcTrainPin *pin, int64 slice_id,
							   int64 version);

/* Members of the provenance. */
extern void avc_train_add_pin(StringInfo json, const AvcTrainPin *pin);

/* The label map as a JSON object: category to class id. */
extern char *avc_train_read_labels(const char *label_map);

/*
 * A JSON object of everything outside the pin and the options that decides
 * about the bits: versions, instruction set, device, resolved threads.
 * load_reply is the engine's answer to LOAD.
 */
extern char *avc_train_environment(const AvcEngine *engine,
								   const char *load_reply,
								   const char *device);

/* Provenance of a step checkpoint: its environment alone. */
extern Jsonb *avc_train_state_provenance(const char *environment);

/* The environment of a provenance as text that can be compared. */
extern char *avc_train_environment_of(Jsonb *provenance);

#endif
