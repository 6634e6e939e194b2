/*
 * engine/io/pickle_objects.h
 *		What the pickle machine builds with: values, and the names it may use.
 */
#ifndef ENG_IO_PICKLE_OBJECTS_H
#define ENG_IO_PICKLE_OBJECTS_H

#include <stdbool.h>

#include "engine/io/pickle.h"
#include "engine/status.h"

/* pickle_values.c */

/*
 * A fresh value; the count of values is bounded, and charge adds to it what
 * is copied instead of made.
 */
extern EngPickleValue *eng_pickle_make(EngPickle *pickle, EngPickleType type,
									   EngStatus *status);
extern void eng_pickle_charge(EngPickle *pickle, size_t count);

/* A copy of bytes that ends with a zero byte. */
extern const char *eng_pickle_keep(EngPickle *pickle, const uint8_t *bytes,
								   size_t length, EngStatus *status);
extern bool eng_pickle_list_storage(EngPickle *pickle,
									const EngPickleStorage *storage,
									EngStatus *status);

/* pickle_objects.c */

/* Place of a name in the table, or -1. */
extern int	eng_pickle_global_find(const char *module, const char *name);

/* Why a name that is not in the table is refused. */
extern const char *eng_pickle_refusal(const char *module, const char *name);

/* Name of torch's class of storages of a type, or NULL. */
extern const char *eng_pickle_storage_class(int dtype);

/* Set result, a fresh value, to what the name makes of a tuple. */
extern bool eng_pickle_call(EngPickleValue *result, int global,
							const EngPickleValue *arguments,
							EngStatus *status);

/* Set result, a fresh value, to an object that NEWOBJ makes of a class. */
extern bool eng_pickle_new(EngPickleValue *result, int global,
						   const EngPickleValue *arguments,
						   EngStatus *status);

/* Set result to the storage that a persistent id names. */
extern bool eng_pickle_storage(EngPickleValue *result,
							   const EngPickleValue *id, EngStatus *status);

#endif							/* ENG_IO_PICKLE_OBJECTS_H */
