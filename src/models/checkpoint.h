/*
 * models/checkpoint.h
 *		Models and their weights, as the jobs that use them see them.
 */
#ifndef AVC_MODELS_CHECKPOINT_H
#define AVC_MODELS_CHECKPOINT_H

#include "utils/jsonb.h"

typedef struct AvcModel
{
	char	   *model;
	char	   *architecture;
	char	   *options;		/* JSON text, for the engine's LOAD */
	char	   *label_map;		/* NULL: a CLIP model, which has none */
	int			num_classes;	/* background included; 0 with CLIP */
	Oid			owner;
} AvcModel;

typedef struct AvcCheckpoint
{
	int64		checkpoint;
	AvcModel   *model;
	int64		slice_id;		/* what it was trained on, 0 = nothing */
	int64		version;
	int64		step;
	int			epoch;
	bool		has_state;		/* optimizer tensors are stored too */
	int64		bytes;			/* as a safetensors file */
	char	   *weights_sha256; /* 64 hex digits */
	Jsonb	   *provenance;
} AvcCheckpoint;

/* A file image in memory.  It goes with the memory context in which it was
 * made; it is no chunk that could be freed by itself. */
typedef struct AvcFileImage
{
	char	   *data;
	size_t		len;
} AvcFileImage;

/* model.c */

/* Look a model up; NULL if missing_ok and there is none. */
extern AvcModel *avc_model_find(const char *model, bool missing_ok);

/* Error unless the current user may use (is a member of the owner of) it. */
extern void avc_model_check_usable(const AvcModel *model);

/* Does it embed images and texts?  Else it detects. */
extern bool avc_model_is_clip(const AvcModel *model);

/* Error unless the model detects. */
extern void avc_model_check_detector(const AvcModel *model);

/*
 * Error unless the model detects, or if its label map is gone or has labels
 * that the model has not.
 */
extern void avc_model_check_labels(const AvcModel *model);

/* checkpoint.c */

/* Look a checkpoint up; NULL if missing_ok and there is none. */
extern AvcCheckpoint *avc_checkpoint_find(int64 checkpoint, bool missing_ok);

/*
 * The weights as a safetensors file, for the engine's LOAD; with
 * with_optimizer the optimizer.* tensors too.  Rights are the caller's
 * business.  Needs an open transaction.
 */
extern AvcFileImage avc_checkpoint_read(int64 checkpoint,
										bool with_optimizer);

/* What a new checkpoint row says, apart from its tensors. */
typedef struct AvcCheckpointRow
{
	const char *model;
	int64		job;			/* 0 = none */
	int64		slice_id;		/* 0 = none */
	int64		version;
	const char *digest;			/* NULL = none */
	int64		rows;
	int64		parent;			/* 0 = fresh or imported */
	int64		step;
	int			epoch;
	bool		has_state;
	Jsonb	   *provenance;		/* weights_sha256 is added */
} AvcCheckpointRow;

/*
 * Store a safetensors file as a new checkpoint and return its number.
 * Tensor names and shapes are not compared with the model's here.
 */
extern int64 avc_checkpoint_store(const AvcCheckpointRow *row,
								  const char *data, size_t len);

#endif
