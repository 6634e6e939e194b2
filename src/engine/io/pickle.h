/*
 * engine/io/pickle.h
 *		Read the part of Python's pickle format that state dicts use.
 *
 * A pickle is a program.  This one can build values and nothing else: there
 * is no look-up of names, only a table of the few that a state dict holds;
 * every other name, operation or type is an error.
 */
#ifndef ENG_IO_PICKLE_H
#define ENG_IO_PICKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/io/safetensors.h"
#include "engine/status.h"

/* Limits, of what is read and so of what is written. */
#define ENG_PICKLE_MAX_BYTES	((size_t) 64 << 20)
#define ENG_PICKLE_MAX_TEXT		((size_t) 1 << 20)	/* bytes of a string */
#define ENG_PICKLE_MAX_VALUES	2000000 /* made by one or more pickles */

typedef enum EngPickleType
{
	ENG_PICKLE_NONE,
	ENG_PICKLE_BOOLEAN,
	ENG_PICKLE_INTEGER,			/* of 64 bits */
	ENG_PICKLE_LONG,			/* of more: bytes, little-endian */
	ENG_PICKLE_FLOAT,
	ENG_PICKLE_STRING,
	ENG_PICKLE_TUPLE,
	ENG_PICKLE_LIST,
	ENG_PICKLE_DICT,			/* items: key, value, key, value ... */
	ENG_PICKLE_GLOBAL,			/* integer: its place in the table */
	ENG_PICKLE_STORAGE,
	ENG_PICKLE_TENSOR,
	ENG_PICKLE_OPAQUE,			/* an object whose content is dropped */
	ENG_PICKLE_MARK				/* of the machine; never in a result */
} EngPickleType;

typedef struct EngPickleValue EngPickleValue;

/* What a persistent id names: a run of elements stored elsewhere. */
typedef struct EngPickleStorage
{
	int			dtype;			/* EngFileDtype */
	const char *key;			/* zero-terminated */
	int64_t		count;			/* elements */
} EngPickleStorage;

typedef struct EngPickleTensor
{
	const EngPickleStorage *storage;
	int64_t		offset;			/* elements */
	int32_t		rank;
	int64_t		shape[ENG_FILE_MAX_RANK];
	int64_t		stride[ENG_FILE_MAX_RANK];	/* elements, not negative */
} EngPickleTensor;

struct EngPickleValue
{
	EngPickleType type;
	int64_t		integer;		/* and a boolean */
	const char *text;			/* STRING: zero-terminated; LONG: bytes */
	size_t		length;			/* of text */
	EngPickleValue *attributes; /* DICT: a dict of what BUILD gave it, or NULL */
	EngPickleValue **items;		/* TUPLE, LIST, DICT */
	size_t		count;			/* of items */
	size_t		capacity;
	EngPickleStorage storage;
	EngPickleTensor *tensor;
};

/* The values of one or more pickles; freed together. */
typedef struct EngPickle EngPickle;

extern EngPickle *eng_pickle_create(EngStatus *status);
extern void eng_pickle_free(EngPickle *pickle);

/*
 * Run one pickle at *at, which moves behind its end.  The result belongs to
 * the EngPickle; NULL with status set if anything is wrong.
 */
extern const EngPickleValue *eng_pickle_read(EngPickle *pickle,
											 const uint8_t **at,
											 const uint8_t *end,
											 EngStatus *status);

/* The storages that the pickles read so far name, in order, repeats too. */
extern const EngPickleStorage *const *eng_pickle_storages(const EngPickle *pickle,
														  size_t *count);

/* The value of a string key of a dict, or NULL. */
extern const EngPickleValue *eng_pickle_get(const EngPickleValue *dict,
											const char *key);

#endif							/* ENG_IO_PICKLE_H */
