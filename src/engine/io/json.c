/*
 * engine/io/json.c
 *		Typed fields of small JSON documents, with messages that name them.
 */
#include "engine/io/json.h"

#include <math.h>
#include <string.h>

json_t *
eng_json_parse(const char *text, size_t length, EngStatus *status)
{
	json_error_t error;
	json_t	   *root = json_loadb(text, length, JSON_REJECT_DUPLICATES,
								  &error);

	if (root == NULL)
	{
		eng_fail(status, ENG_BAD_FILE, "JSON is malformed: %s at byte %d",
				 error.text, error.position);
		return NULL;
	}
	if (!json_is_object(root))
	{
		json_decref(root);
		eng_fail(status, ENG_BAD_FILE, "JSON is not an object");
		return NULL;
	}
	return root;
}

bool
eng_json_known(const json_t *object, const char *const *keys,
			   const char *what, EngStatus *status)
{
	const char *key;
	json_t	   *value;

	json_object_foreach((json_t *) object, key, value)
	{
		int			i;

		for (i = 0; keys[i] != NULL; i++)
			if (strcmp(keys[i], key) == 0)
				break;
		if (keys[i] == NULL)
			return eng_fail(status, ENG_BAD_ARGUMENT,
							"unknown field \"%.64s\" of %s", key, what);
	}
	return true;
}

/*
 * Find a field; *out is NULL if it is absent or null, which fails if it is
 * required.
 */
static bool
find(const json_t *object, const char *key, bool required, json_t **out,
	 EngStatus *status)
{
	json_t	   *value = json_object_get(object, key);

	*out = json_is_null(value) ? NULL : value;
	if (*out == NULL && required)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"field \"%s\" is missing", key);
	return true;
}

bool
eng_json_integer(const json_t *object, const char *key, EngJsonRange range,
				 int64_t *out, EngStatus *status)
{
	json_t	   *value;

	if (!find(object, key, range.required, &value, status))
		return false;
	if (value == NULL)
		return true;
	if (!json_is_integer(value))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"field \"%s\" is not an integer", key);
	if (json_integer_value(value) < range.least ||
		json_integer_value(value) > range.most)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"field \"%s\" is %lld, but must be from %lld to %lld",
						key, (long long) json_integer_value(value),
						(long long) range.least, (long long) range.most);
	*out = json_integer_value(value);
	return true;
}

bool
eng_json_number(const json_t *object, const char *key, double least,
				double most, bool required, double *out, EngStatus *status)
{
	json_t	   *value;
	double		number;

	if (!find(object, key, required, &value, status))
		return false;
	if (value == NULL)
		return true;
	if (!json_is_number(value))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"field \"%s\" is not a number", key);
	number = json_number_value(value);
	if (!(number >= least && number <= most))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"field \"%s\" is %g, but must be from %g to %g",
						key, number, least, most);
	*out = number;
	return true;
}

bool
eng_json_boolean(const json_t *object, const char *key, bool *out,
				 EngStatus *status)
{
	json_t	   *value;

	if (!find(object, key, false, &value, status))
		return false;
	if (value == NULL)
		return true;
	if (!json_is_boolean(value))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"field \"%s\" is not true or false", key);
	*out = json_is_true(value);
	return true;
}

bool
eng_json_string(const json_t *object, const char *key, bool required,
				const char **out, EngStatus *status)
{
	json_t	   *value;

	if (!find(object, key, required, &value, status))
		return false;
	if (value == NULL)
		return true;
	if (!json_is_string(value))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"field \"%s\" is not a string", key);
	*out = json_string_value(value);
	return true;
}

bool
eng_json_array(const json_t *object, const char *key, bool required,
			   json_t **out, EngStatus *status)
{
	if (!find(object, key, required, out, status))
		return false;
	if (*out != NULL && !json_is_array(*out))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"field \"%s\" is not an array", key);
	return true;
}

bool
eng_json_object(const json_t *object, const char *key, bool required,
				json_t **out, EngStatus *status)
{
	if (!find(object, key, required, out, status))
		return false;
	if (*out != NULL && !json_is_object(*out))
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"field \"%s\" is not an object", key);
	return true;
}

json_t *
eng_json_real(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

json_t *
eng_json_text(const char *text)
{
	json_t	   *value = json_string(text);
	char		plain[1024];
	size_t		i;

	if (value != NULL)
		return value;
	for (i = 0; i < sizeof(plain) - 1 && text[i] != '\0'; i++)
		plain[i] = (text[i] & 0x80) != 0 ? '?' : text[i];
	plain[i] = '\0';
	return json_string(plain);
}
