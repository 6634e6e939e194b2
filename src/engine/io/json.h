/*
 * engine/io/json.h
 *		Typed fields of small JSON documents, with messages that name them.
 *
 * Every reader fails with ENG_BAD_ARGUMENT if the field is absent (or null)
 * and required, of another type or out of range; an optional field that is
 * absent leaves *out as it was.
 */
#ifndef ENG_IO_JSON_H
#define ENG_IO_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/status.h"

/* One object; duplicate keys are refused.  The caller decrefs it. */
extern json_t *eng_json_parse(const char *text, size_t length,
							  EngStatus *status);

/* Fail if the object has a key that the list, ended by NULL, lacks. */
extern bool eng_json_known(const json_t *object, const char *const *keys,
						   const char *what, EngStatus *status);

typedef struct EngJsonRange
{
	int64_t		least;
	int64_t		most;
	bool		required;
} EngJsonRange;

extern bool eng_json_integer(const json_t *object, const char *key,
							 EngJsonRange range, int64_t *out,
							 EngStatus *status);

/* A finite number from least to most. */
extern bool eng_json_number(const json_t *object, const char *key,
							double least, double most, bool required,
							double *out, EngStatus *status);
extern bool eng_json_boolean(const json_t *object, const char *key,
							 bool *out, EngStatus *status);

/* A string, owned by the object. */
extern bool eng_json_string(const json_t *object, const char *key,
							bool required, const char **out,
							EngStatus *status);

/* An array or an object; *out is borrowed, NULL if absent. */
extern bool eng_json_array(const json_t *object, const char *key,
						   bool required, json_t **out, EngStatus *status);
extern bool eng_json_object(const json_t *object, const char *key,
							bool required, json_t **out, EngStatus *status);

/* A number as JSON, null if it is not finite. */
extern json_t *eng_json_real(double value);

/* A string as JSON; bytes that are no UTF-8 become '?'. */
extern json_t *eng_json_text(const char *text);

#endif							/* ENG_IO_JSON_H */
