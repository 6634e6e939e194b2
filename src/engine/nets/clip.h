/*
 * engine/nets/clip.h
 *		CLIP as its users see it: make, fill, ask, save.
 *
 * Two towers, one of images and one of texts, whose embeddings meet in one
 * space (Radford et al. 2021).  Inference alone.  One network belongs to one
 * thread at a time; it starts OpenMP threads of its own inside a call.
 * Pictures and texts of a call are worked on in groups of a few fixed sizes,
 * whose plans are kept.
 */
#ifndef ENG_NETS_CLIP_H
#define ENG_NETS_CLIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/core/element.h"
#include "engine/io/safetensors.h"
#include "engine/nets/detector.h"
#include "engine/status.h"

#define ENG_CLIP_ARCHITECTURE	"clip_vit_b32"
#define ENG_CLIP_SIDE			224 /* pixels of a picture's side */
#define ENG_CLIP_MOST			1024	/* pictures or texts of a call */

typedef struct EngClip EngClip;

typedef struct EngClipTower
{
	int32_t		width;			/* features of a token */
	int32_t		layers;
	int32_t		heads;
} EngClipTower;

typedef struct EngClipConfig
{
	bool		quick_gelu;		/* else the exact GELU */
	int32_t		side;			/* pixels */
	int32_t		patch;			/* pixels */
	int32_t		tokens;			/* of a text at most */
	int32_t		vocabulary;
	int32_t		dimensions;		/* of an embedding */
	EngClipTower image;
	EngClipTower text;
} EngClipConfig;

/* ---- clip_config.c -------------------------------------------------------- */

/* ViT-B/32 with OpenAI's activation. */
extern void eng_clip_config_default(EngClipConfig *config);
/*
 * options: JSON of {"quick_gelu": bool}, or NULL; for networks of other sizes
 * "image_width", "text_width" (of 64 features a head), "image_layers" and
 * "text_layers".
 */
extern bool eng_clip_config_parse(EngClipConfig *config, const char *options,
								  EngStatus *status);
extern bool eng_clip_config_check(const EngClipConfig *config,
								  EngStatus *status);
/* Whether the architecture is one of CLIP's. */
extern bool eng_clip_is_architecture(const char *name);

/* ---- life ------------------------------------------------------------------ */

/*
 * backend: name of a device (core/devices.h); threads 0: all processors.
 * Weights are zero.
 */
extern EngClip *eng_clip_create(const EngClipConfig *config,
								const char *backend, int threads,
								EngStatus *status);
extern void eng_clip_free(EngClip *clip);

/* Initial weights; equal seeds give equal bits. */
extern void eng_clip_init(EngClip *clip, uint64_t seed);

/*
 * Compute in ENG_BF16 or ENG_F16, or in ENG_F32 as at first: what is
 * multiplied is of that type; weights, the sums of the residual branches,
 * norms and embeddings stay float.  Fails (unsupported) where that type
 * cannot be multiplied.
 */
extern bool eng_clip_set_precision(EngClip *clip, EngType type,
								   EngStatus *status);
extern EngType eng_clip_precision(const EngClip *clip);

/*
 * Precision where none is asked for: on a GPU f16, in which OpenAI trained and
 * ran its networks, and which keeps three bits more than bf16; else float.
 */
extern EngType eng_clip_usual_type(const EngClip *clip);
extern int32_t eng_clip_threads(const EngClip *clip);
extern const EngBackend *eng_clip_backend(const EngClip *clip);
extern const EngClipConfig *eng_clip_config(const EngClip *clip);

/* ---- weights (clip_weights.c, clip_match.c) --------------------------------- */

/*
 * Take weights under OpenAI's and open_clip's names or Hugging Face's, all of
 * them behind what wrappers put before.  Nothing is taken unless everything
 * fits; the message names what does not.  *unused: tensors left aside, which
 * are known not to matter.
 */
extern bool eng_clip_load(EngClip *clip, const EngTensorFile *file,
						  int32_t *unused, EngStatus *status);

/* A safetensors file under OpenAI's names, with architecture and options. */
extern bool eng_clip_save(const EngClip *clip, EngBuffer *out,
						  EngStatus *status);

/* The parameters; write takes values in torch's layout. */
extern int32_t eng_clip_parameter_count(const EngClip *clip);
extern void eng_clip_parameter_info(const EngClip *clip, int32_t i,
									EngParameterInfo *info);
extern void eng_clip_parameter_write(EngClip *clip, int32_t i,
									 const float *in);

/* ---- embeddings -------------------------------------------------------------- */

/*
 * out (n, dimensions): embeddings as the towers give them.  pictures: n of
 * (side, side, 3).
 */
extern bool eng_clip_images(EngClip *clip, const uint8_t *const *pictures,
							int32_t n, float *out, EngStatus *status);

/* Entries of the first group of a call with n of them. */
extern int32_t eng_clip_group(int32_t n);

typedef struct EngClipText
{
	const int32_t *ids;			/* start and end of text among them */
	int32_t		count;
} EngClipText;

/*
 * The embedding is that of the token with the largest id, the first of them:
 * the end of the text.  What lies behind it is not looked at.
 */
extern bool eng_clip_texts(EngClip *clip, const EngClipText *texts, int32_t n,
						   float *out, EngStatus *status);
extern bool eng_clip_check_text(const EngClip *clip, const EngClipText *text,
								EngStatus *status);

/* Make n embeddings of length 1; one that is not finite fails (numeric). */
extern bool eng_clip_unit(float *embeddings, int32_t n, int32_t dimensions,
						  EngStatus *status);

/* ---- looking inside ----------------------------------------------------------- */

extern void eng_clip_memory(const EngClip *clip, EngMemory *memory);
/* Refuse plans that need more than limit bytes in all; 0: no limit. */
extern void eng_clip_set_memory_limit(EngClip *clip, size_t limit);
extern bool eng_clip_check_memory(const EngClip *clip, EngStatus *status);

/*
 * Keep every stage of the next calls: no memory is reused, the last block
 * works on all tokens, and texts run at their full length.
 */
extern void eng_clip_keep_all(EngClip *clip, bool on);

/*
 * A stage of the last group of the last call, (n, tokens, 1, c): patches,
 * ln_pre, block1.., ln_post or ln_final, embedding.
 */
extern bool eng_clip_stage(EngClip *clip, const char *name, EngStage *stage);

/* Measure each operation from now on (and set the sums to zero), or stop. */
extern void eng_clip_profile(EngClip *clip, bool on);

/*
 * Rows of the plan for a group of n pictures, or of n texts of so many tokens
 * (0: pictures).  *count and *rows belong to the network until its next call.
 */
extern bool eng_clip_explain(EngClip *clip, int32_t n, int32_t tokens,
							 const EngPlanRow **rows, int32_t *count,
							 EngStatus *status);

#endif
