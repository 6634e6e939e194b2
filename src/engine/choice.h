/*
 * engine/choice.h
 *		Which detector a subcommand works with: its arguments, or the
 *		metadata of a file of weights.
 *
 * A file that this program writes says in its metadata under "architecture",
 * "options" (JSON) and "num_classes" what accepts its tensors.
 */
#ifndef ENG_CHOICE_H
#define ENG_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/arguments.h"
#include "engine/io/safetensors.h"
#include "engine/nets/detector.h"
#include "engine/status.h"

typedef struct EngChoice
{
	const char *architecture;	/* NULL: not known */
	const char *options;		/* JSON, or NULL */
	int64_t		classes;		/* 0: the architecture's default */
	const char *device;			/* core/devices.h */
	int64_t		threads;		/* 0: all processors */
	EngType		type;			/* of activations */
	int64_t		seed;
} EngChoice;

/*
 * The options that eng_choice_read knows, for a table of EngOption: which
 * network, what computes it, its fresh weights.  A subcommand names those
 * that it acts on; any other is an error then.
 */
#define ENG_CHOICE_NETWORK	{"options"}, {"classes"}
#define ENG_CHOICE_MACHINE	{"device"}, {"threads"}, {"precision"}
#define ENG_CHOICE_SEED		{"seed"}

#define ENG_CHOICE_NETWORK_HELP \
"  --options JSON   constructor options by torchvision's names\n" \
"  --classes N      classes, background included\n"
#define ENG_CHOICE_MACHINE_HELP \
"  --device NAME    cpu (default), ref, cuda, cuda:N, or auto: a GPU if there is one\n" \
"  --threads N      default: every processor\n" \
"  --precision NAME f32 (default), bf16, or on a GPU f16\n"
#define ENG_CHOICE_SEED_HELP \
"  --seed N         equal seeds give equal weights (0)\n"

extern bool eng_choice_read(EngChoice *choice, const EngOption *options,
							EngStatus *status);

/*
 * The option "device-properties" in place of the device, whose name it puts
 * into room.
 */
#define ENG_CHOICE_DEVICE	4200
extern bool eng_choice_planned(EngChoice *choice, const EngOption *options,
							   char room[ENG_CHOICE_DEVICE],
							   EngStatus *status);

/* The option "precision"; *out stays as it is if it is not given. */
extern bool eng_choice_precision(const EngOption *options, EngType *out,
								 EngStatus *status);

/* What the choice leaves open, from the file; texts belong to the file. */
extern bool eng_choice_complete(EngChoice *choice, const EngTensorFile *file,
								EngStatus *status);

/* A detector without weights. */
extern EngDetector *eng_choice_create(const EngChoice *choice, bool train,
									  EngStatus *status);

/* Write the file in saved again to out, with the metadata of the choice. */
extern bool eng_choice_stamp(const EngChoice *choice,
							 const EngDetectorConfig *config,
							 const EngBuffer *saved, EngBuffer *out,
							 EngStatus *status);

/* A frame size of 16:9 that suits the detector's input. */
extern EngSize eng_choice_frame_size(const EngDetectorConfig *config);

/* Padded input of a frame of this size, in inference. */
extern EngSize eng_choice_padded(const EngDetectorConfig *config,
								 EngSize frame);

/* "WIDTHxHEIGHT"; *out stays as it is if the option "size" is not given. */
extern bool eng_choice_size(const EngOption *options, EngSize *out,
							EngStatus *status);

#endif							/* ENG_CHOICE_H */
