/*
 * models/model.h
 *		What the files of this folder and of training share about models.
 */
#ifndef AVC_MODELS_MODEL_H
#define AVC_MODELS_MODEL_H

#include "lib/stringinfo.h"

#include "clip/vocabulary.h"
#include "common/engine_client.h"
#include "engine/io/safetensors.h"
#include "engine/nets/detector_config.h"
#include "models/checkpoint.h"

/* What a LOAD request needs besides the model. */
typedef struct AvcLoad
{
	const char *mode;			/* "train" or "infer" */
	const char *device;			/* "cpu", "ref", "auto", "cuda:N", "cuda:0,1" */
	int			threads;		/* 0 = all cores */
	int64		seed;
	bool		init;			/* fresh weights, no blob */
	bool		strict;
	const char *more;			/* ", "key": value ..." or NULL */
} AvcLoad;

/* The JSON of LOAD; the memory limit is the setting's. */
extern char *avc_model_load_json(const AvcModel *model, const AvcLoad *load);

/* Send LOAD with the file (NULL when init) and wait for its answer. */
extern AvcReply *avc_model_load(AvcEngine *engine, const AvcModel *model,
								const AvcLoad *load,
								const AvcFileImage *file);

/*
 * The device, or avcurate.device.  "auto" is "cpu" where no GPU is to be seen,
 * and stays "auto" where one is: the engine finds out whether it can be used.
 */
extern const char *avc_model_device(const char *device);

/* Error with a hint unless this server may have the device. */
extern void avc_model_check_device(const char *device);

/* Whether a device, resolved as above, is likely to be a GPU. */
extern bool avc_model_is_gpu(const char *device);

/* The device by which jobs wait for one another: "auto" is the first GPU. */
extern const char *avc_model_queue_device(const char *device);

/*
 * The member of LOAD, for AvcLoad.more, that a value of the option "amp" comes
 * to; "" for "auto", which is the engine's choice.
 */
extern const char *avc_model_precision(const char *amp);

/*
 * Why an engine that was to take a GPU if it can did not, from its answer to
 * LOAD; NULL if there is nothing to say.
 */
extern char *avc_model_device_note(const char *load_reply);

/* Key, colon and string value as JSON, with a comma before all but the first. */
extern void avc_json_add(StringInfo json, const char *key, const char *value);

/* The same with a value that is JSON already, or a number. */
extern void avc_json_add_raw(StringInfo json, const char *key,
							 const char *value);
extern void avc_json_add_int(StringInfo json, const char *key, int64 value);

/* The text as jsonb. */
extern Jsonb *avc_json_to_jsonb(const char *json);

/* The value of a jsonb as text. */
extern char *avc_jsonb_to_text(Jsonb *jsonb);

/* Members "engine_version", "libraries", "isa" of the engine's HELLO, and
 * the extension's version. */
extern void avc_model_add_versions(StringInfo json, const AvcEngine *engine);

/* Members of LOAD that tell which network this is. */
extern void avc_model_add_network(StringInfo json, const AvcModel *model);

/* Members of a provenance that tell which model this is. */
extern void avc_model_add_identity(StringInfo json, const AvcModel *model);

/* Read a network's options; an error says which is wrong and how. */
extern void avc_model_config(EngDetectorConfig *config,
							 const char *architecture, const char *options,
							 int num_classes);

/* Raise an engine status of code linked into the server. */
extern void avc_raise_status(const EngStatus *status) pg_attribute_noreturn();

/*
 * Open a safetensors image; the result is freed with the current memory
 * context.  Error if a rule of the format is broken.
 */
extern EngTensorFile *avc_tensor_file_open(const char *data, size_t len);

/* Hex SHA-256 over the weights of a file, optimizer tensors left out. */
extern char *avc_weights_sha256(const EngTensorFile *file);

/*
 * avc_checkpoint_read without optimizer tensors, with texts for the file's
 * metadata.
 */
extern AvcFileImage avc_checkpoint_read_with(int64 checkpoint,
											 const EngFileText *texts,
											 int text_count);

/* ---- clip_vocabulary.c ---- */

/*
 * Read a vocabulary file of the server, which the user must have the right to
 * do, as the lines that are used; they go with the current memory context.
 */
extern AvcFileImage avc_clip_vocabulary_read(const char *path);

/* Keep the lines with a CLIP model that has none, or the same. */
extern void avc_clip_vocabulary_store(const char *model, AvcFileImage lines);

/*
 * The vocabulary of a CLIP model, which this session keeps; an error with a
 * hint if it has none.
 */
extern const AvcVocabulary *avc_clip_vocabulary(const AvcModel *model);

/* Error unless the user has the role's right to "read", "write" ... */
extern void avc_check_file_role(Oid role, const char *verb);

/* The bytes of a file of the server, no more than most. */
extern AvcFileImage avc_server_file_image(const char *path, uint64 most);

/*
 * Step checkpoints are a job's hidden checkpoints that pin no version; the
 * best weights of a training are hidden, too, but pin theirs.
 */

/* Delete the step checkpoints of a job except the newest "keep". */
extern void avc_checkpoint_prune_states(int64 job, int keep);

/* The newest step checkpoint of a job, or 0. */
extern int64 avc_checkpoint_newest_state(int64 job);

#endif
