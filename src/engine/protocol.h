/*
 * engine/protocol.h
 *		The messages between a worker of the server and the engine program.
 *
 * This file depends on nothing but two standard headers, so that both sides include it.
 *
 * One stream socket carries frames both ways.  A frame is a header of 24
 * bytes, json_length bytes of one JSON object in UTF-8 without a byte order
 * mark, then blob_length bytes of plain data.  Version 1, little-endian:
 *
 *		offset	type	field
 *		0		u32		magic, 0x45435641: the bytes "AVCE"
 *		4		u16		protocol version
 *		6		u16		kind
 *		8		u32		json_length, at most 64 MiB
 *		12		u32		zero
 *		16		u64		blob_length, at most 4 GiB
 *
 * Every request is answered by exactly one frame of kind OK or ERROR, in the
 * order of the requests.  Up to ENG_PROTOCOL_AHEAD requests may be sent before
 * the first of them is answered.  A frame whose header is wrong ends the
 * session: the side that reads it closes the socket, because what follows
 * cannot be told from data.  A frame with a good header and a bad content is
 * answered by ERROR and the session goes on.
 */
#ifndef ENG_PROTOCOL_H
#define ENG_PROTOCOL_H

#include <stddef.h>
#include <stdint.h>

#define ENG_PROTOCOL_MAGIC		UINT32_C(0x45435641)
#define ENG_PROTOCOL_VERSION	1
#define ENG_PROTOCOL_HEADER		24	/* bytes */
#define ENG_PROTOCOL_MAX_JSON	(UINT32_C(64) << 20)
#define ENG_PROTOCOL_MAX_BLOB	(UINT64_C(4) << 30)

/* Requests that may be under way, the one being worked on included. */
#define ENG_PROTOCOL_AHEAD		4

/* More frames, boxes or texts than these in one message are refused. */
#define ENG_PROTOCOL_MAX_FRAMES	1024
#define ENG_PROTOCOL_MAX_BOXES	10000	/* of one frame */
#define ENG_PROTOCOL_MAX_WEIGHTS 64 /* bytes of a name of weights */
#define ENG_PROTOCOL_DETECTION	24	/* bytes of a detection in a blob */

/* CLIP ViT-B/32 */
#define ENG_PROTOCOL_MAX_TEXTS	1024
#define ENG_PROTOCOL_TOKENS		77	/* of one text at most */
#define ENG_PROTOCOL_VOCABULARY	49408	/* a token is 0 to one less */
#define ENG_PROTOCOL_EMBEDDING	512 /* numbers of an embedding */

/*
 * Kinds.  What each request and its reply hold:
 *
 * HELLO	{"protocol": 1, "look": bool}
 *			OK {"engine_version", "libraries": {name: version}, "isa",
 *			"bf16": bool, "cpu_threads", "devices": [name]}; look: the
 *			GPU is opened, and "gpu" says what it is, or "gpu_missing" why a
 *			machine that seems to have one cannot use it
 * LOAD		{"architecture", "options": {}, "num_classes",
 *			"mode": "train" | "infer", "device": "auto" | "cpu" | "ref" |
 *			"cuda" | "cuda:N" | "cuda:N,N,..." | "cuda:all", "threads",
 *			"precision": "f32" | "bf16" | "f16",
 *			"seed", "init": bool, "strict": bool, "new_head": bool,
 *			"backbone_only": bool, "optimizer": {"name", "momentum",
 *			"betas": [b1, b2], "eps", "weight_decay", "clip_norm",
 *			"decay_rule": "all" | "matrices"}, "trainable_layers",
 *			"freeze_norm": bool, "hflip", "memory_limit",
 *			"device_memory_limit"}
 *			Only architecture is required.  The blob is a safetensors file of
 *			weights, or of weights and optimizer.* tensors, or one of PyTorch's
 *			own files of weights; it is empty when init is true.  new_head: the
 *			box predictor is drawn fresh from seed, whatever the file has there.
 *			backbone_only: the file is a classification network's, which becomes
 *			the body; all else is drawn.
 *			memory_limit is in bytes of the host's memory, 0 = none;
 *			device_memory_limit of a GPU's, 0 = 7/8 of it.  Without precision it
 *			is bf16 on a GPU that has it, f16 on another GPU, else f32; GPUs
 *			alone take f16.  A LOAD
 *			replaces what an earlier one loaded; one that fails leaves nothing
 *			loaded.  With "weights", a name of at most 64 bytes, mode infer: the
 *			detector stays loaded under it, beside others, and DETECT asks for it
 *			by name; the limit is then of all of them together, and the ones
 *			used longest ago are dropped to keep to it.
 *			OK {"parameters", "arena_bytes": {}, "threads", "precision",
 *			"new_tensors": [name], "unused_tensors", "optimizer_tensors",
 *			"old_names": bool, "device": name of the backend, "device_name": of the
 *			GPU, "device_note": why "auto" could not use one}: parameters counts elements, unused_tensors and
 *			optimizer_tensors count tensors; old_names: the file has the names of
 *			torchvision's v1 file of 2019
 * STEP		{"step", "lr", "frames": [{"frame_id", "position", "bytes",
 *			"labels": [label], "boxes": [[x1, y1, x2, y2]]}]}
 *			The blob holds the JPEGs of the frames one after another; "bytes"
 *			is the length of each.  position is the frame's place in the
 *			global order, the key of its random numbers.  A step of several
 *			messages says "accumulate_index" and "accumulate_count" too: the
 *			weights change after the last one.
 *			OK {"step", "loss", "loss_classifier", "loss_box_reg",
 *			"loss_objectness", "loss_rpn_box_reg", "grad_norm", "frames",
 *			"skipped": bool, "kept": frames that the GPU had already, "wait_s",
 *			"busy_s"}; in f16, where the weights would change, also "loss_scale"
 *			and "overflow": bool, true where gradients were too large for it: the
 *			weights stayed, grad_norm is 0
 * DETECT	{"min_score", "frames": [{"frame_id", "bytes"}]} and the JPEGs
 *			OK {"frames": [{"frame_id", "labels": [], "scores": [],
 *			"boxes": [[x1, y1, x2, y2]]}], "wait_s", "busy_s"}
 *			With "weights" (a name, see LOAD): OK {"frames": [{"frame_id",
 *			"count"}], ...}, where the blob holds count detections a frame, each
 *			ENG_PROTOCOL_DETECTION bytes: label i32, score, x1, y1, x2, y2 f32.
 *			A frame that cannot be decoded is {"frame_id", "code", "message"}
 *			there, and the others are answered.  ERROR not_loaded: no such name
 * The architecture "clip_vit_b32" is CLIP's pair of towers.  A LOAD of it
 * has mode infer, the option "quick_gelu" (true: OpenAI's activation; false:
 * the exact GELU) and none of those of detectors, new_head, strict false
 * and num_classes.  Its file may have the names of OpenAI and open_clip or of
 * Hugging Face.  It is kept with "weights" beside detectors, or loaded
 * without, as one is; SAVE writes OpenAI's names.
 *
 * EMBED_IMAGES {"weights", "frames": [{"frame_id", "bytes"}]} and the JPEGs
 *			OK {"dimensions": 512, "frames": [{"frame_id", "count": 1}],
 *			"wait_s", "busy_s"}, the blob holds the embeddings one after another,
 *			512 f32 each of length 1.  A frame that cannot be decoded is
 *			{"frame_id", "code", "message"}, and has none in the blob.  Without
 *			"weights" it is for the network loaded without a name, and a frame
 *			that cannot be decoded fails the message
 * EMBED_TEXTS {"weights", "lengths": [tokens]}: up to 1024 texts of 1 to 77
 *			tokens.  The blob holds the tokens of the texts one after another,
 *			i32 each; start and end of text are among them, padding may be
 *			OK {"dimensions": 512, "texts", "wait_s", "busy_s"}, the blob holds
 *			an embedding of each text, as above
 *			Both: ERROR not_loaded: no such name; bad_argument: the weights are
 *			a detector's (and the same for DETECT of CLIP's)
 * SAVE		{"with_optimizer": bool}
 *			OK {"tensors": n}, the blob is a safetensors file
 * BYE		{}
 *			OK {}, then the engine exits with status 0
 * ERROR	{"code", "message", "frame_id" where one frame is at fault,
 *			"fatal": true where the session is over}
 *			code: bad_argument, bad_file, no_memory, unsupported, io,
 *			numeric, internal, not_loaded
 *
 * wait_s is the time that the step loop waited for decoded frames of this
 * request after it was ready for them, be it for the worker to send them or
 * for the JPEGs to be decoded; busy_s is the time of the work itself.
 */
#define ENG_KIND_HELLO			1
#define ENG_KIND_LOAD			2
#define ENG_KIND_STEP			3
#define ENG_KIND_DETECT			4
#define ENG_KIND_SAVE			5
#define ENG_KIND_BYE			6
#define ENG_KIND_EMBED_IMAGES	7
#define ENG_KIND_EMBED_TEXTS	8
#define ENG_KIND_OK				100
#define ENG_KIND_ERROR			101

typedef struct EngFrameHeader
{
	uint16_t	kind;
	uint32_t	json_length;	/* bytes */
	uint64_t	blob_length;	/* bytes */
} EngFrameHeader;

/*
 * Write a header in its byte order.
 */
static inline void
eng_frame_header_pack(uint8_t out[ENG_PROTOCOL_HEADER],
					  const EngFrameHeader *header)
{
	uint32_t	magic = ENG_PROTOCOL_MAGIC;
	int			i;

	for (i = 0; i < 4; i++)
	{
		out[i] = (uint8_t) (magic >> (8 * i));
		out[8 + i] = (uint8_t) (header->json_length >> (8 * i));
		out[12 + i] = 0;
	}
	out[4] = ENG_PROTOCOL_VERSION;
	out[5] = 0;
	out[6] = (uint8_t) header->kind;
	out[7] = (uint8_t) (header->kind >> 8);
	for (i = 0; i < 8; i++)
		out[16 + i] = (uint8_t) (header->blob_length >> (8 * i));
}

/*
 * Read a header.  Returns NULL, or a text saying which field is wrong; then
 * the stream is lost and must be closed.  The kind is not checked.
 */
static inline const char *
eng_frame_header_unpack(EngFrameHeader *header,
						const uint8_t in[ENG_PROTOCOL_HEADER])
{
	uint32_t	magic = 0;
	uint32_t	json_length = 0;
	uint32_t	zero = 0;
	uint64_t	blob_length = 0;
	int			i;

	for (i = 3; i >= 0; i--)
	{
		magic = magic << 8 | in[i];
		json_length = json_length << 8 | in[8 + i];
		zero = zero << 8 | in[12 + i];
	}
	for (i = 7; i >= 0; i--)
		blob_length = blob_length << 8 | in[16 + i];
	if (magic != ENG_PROTOCOL_MAGIC)
		return "frame does not start with the protocol's magic number";
	if ((in[4] | in[5] << 8) != ENG_PROTOCOL_VERSION)
		return "frame is of another protocol version";
	if (zero != 0)
		return "reserved field of a frame is not zero";
	if (json_length > ENG_PROTOCOL_MAX_JSON)
		return "JSON part of a frame is longer than 64 MiB";
	if (blob_length > ENG_PROTOCOL_MAX_BLOB)
		return "blob of a frame is longer than 4 GiB";
	header->kind = (uint16_t) (in[6] | in[7] << 8);
	header->json_length = json_length;
	header->blob_length = blob_length;
	return NULL;
}

#endif							/* ENG_PROTOCOL_H */
