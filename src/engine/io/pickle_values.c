/*
 * engine/io/pickle_values.c
 *		The values that pickles make: their memory and their number.
 */
#include "engine/io/pickle_objects.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK_VALUES	1024

typedef struct Chunk
{
	struct Chunk *next;
	EngPickleValue values[CHUNK_VALUES];
} Chunk;

typedef struct Text
{
	struct Text *next;
	char		text[];
} Text;

struct EngPickle
{
	Chunk	   *chunks;
	int			used;			/* of the first chunk */
	int64_t		values;			/* of all chunks */
	Text	   *texts;
	const EngPickleStorage **storages;
	size_t		storage_count;
	size_t		storage_capacity;
};

EngPickle *
eng_pickle_create(EngStatus *status)
{
	EngPickle  *pickle = calloc(1, sizeof(*pickle));

	if (pickle == NULL)
		eng_fail(status, ENG_NO_MEMORY, "could not allocate a pickle");
	return pickle;
}

void
eng_pickle_free(EngPickle *pickle)
{
	if (pickle == NULL)
		return;
	while (pickle->chunks != NULL)
	{
		Chunk	   *chunk = pickle->chunks;
		int			i;

		for (i = 0; i < CHUNK_VALUES; i++)
		{
			free(chunk->values[i].items);
			free(chunk->values[i].tensor);
		}
		pickle->chunks = chunk->next;
		free(chunk);
	}
	while (pickle->texts != NULL)
	{
		Text	   *text = pickle->texts;

		pickle->texts = text->next;
		free(text);
	}
	free(pickle->storages);
	free(pickle);
}

EngPickleValue *
eng_pickle_make(EngPickle *pickle, EngPickleType type, EngStatus *status)
{
	EngPickleValue *value;

	/* this bounds what lists are copied, too */
	if (pickle->values++ >= ENG_PICKLE_MAX_VALUES)
	{
		eng_fail(status, ENG_BAD_FILE, "pickle: too many values");
		return NULL;
	}
	if (pickle->chunks == NULL || pickle->used == CHUNK_VALUES)
	{
		Chunk	   *chunk = calloc(1, sizeof(*chunk));

		if (chunk == NULL)
		{
			eng_fail(status, ENG_NO_MEMORY, "could not allocate values");
			return NULL;
		}
		chunk->next = pickle->chunks;
		pickle->chunks = chunk;
		pickle->used = 0;
	}
	value = &pickle->chunks->values[pickle->used++];
	value->type = type;
	return value;
}

void
eng_pickle_charge(EngPickle *pickle, size_t count)
{
	pickle->values += (int64_t) count;
}

/*
 * Copy bytes into a text of the pickle's that ends with a zero byte.
 */
const char *
eng_pickle_keep(EngPickle *pickle, const uint8_t *bytes, size_t length,
				EngStatus *status)
{
	Text	   *text = malloc(sizeof(*text) + length + 1);

	if (text == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "could not keep a text");
		return NULL;
	}
	memcpy(text->text, bytes, length);
	text->text[length] = '\0';
	text->next = pickle->texts;
	pickle->texts = text;
	return text->text;
}

bool
eng_pickle_list_storage(EngPickle *pickle, const EngPickleStorage *storage,
						EngStatus *status)
{
	if (pickle->storage_count == pickle->storage_capacity)
	{
		size_t		larger = pickle->storage_capacity * 2 + 64;
		void	   *moved = realloc(pickle->storages,
									sizeof(*pickle->storages) * larger);

		if (moved == NULL)
			return eng_fail(status, ENG_NO_MEMORY,
							"could not keep storages");
		pickle->storages = moved;
		pickle->storage_capacity = larger;
	}
	pickle->storages[pickle->storage_count++] = storage;
	return true;
}

const EngPickleStorage *const *
eng_pickle_storages(const EngPickle *pickle, size_t *count)
{
	*count = pickle->storage_count;
	return pickle->storages;
}

const EngPickleValue *
eng_pickle_get(const EngPickleValue *dict, const char *key)
{
	size_t		i;

	for (i = 0; i + 1 < dict->count; i += 2)
		if (dict->items[i]->type == ENG_PICKLE_STRING &&
			strcmp(dict->items[i]->text, key) == 0)
			return dict->items[i + 1];
	return NULL;
}
