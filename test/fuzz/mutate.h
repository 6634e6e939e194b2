/*
 * test/fuzz/mutate.h
 *		Inputs that are nearly right: seeds, changed in a few places.
 *
 * AVC_FUZZ sets how many inputs a run tries, AVC_SEED where it begins; a
 * failure names its seed.
 */
#ifndef TEST_FUZZ_MUTATE_H
#define TEST_FUZZ_MUTATE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_INPUT (256 * 1024)

typedef struct Input
{
	size_t		len;
	unsigned char bytes[MAX_INPUT];
} Input;

typedef struct Token
{
	const char *bytes;
	size_t		len;
} Token;

static uint64_t random_state;

static inline uint32_t
random_below(uint32_t limit)
{
	uint64_t	z = random_state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return limit == 0 ? 0 : (uint32_t) ((z ^ (z >> 31)) >> 32) % limit;
}

static inline long
setting(const char *name, long otherwise)
{
	const char *text = getenv(name);

	return text && *text ? atol(text) : otherwise;
}

/* Replace "gone" bytes at "at" by others. */
static inline void
splice(Input *input, size_t at, size_t gone, const void *bytes, size_t len)
{
	if (input->len - gone + len > MAX_INPUT)
		return;
	memmove(input->bytes + at + len, input->bytes + at + gone,
			input->len - at - gone);
	memmove(input->bytes + at, bytes, len);
	input->len += len - gone;
}

static inline void
mutate_once(Input *input, const Token *tokens, int token_count)
{
	static unsigned char copy[4096];
	size_t		at = random_below((uint32_t) input->len + 1);
	size_t		room = input->len - at;
	size_t		len = random_below((uint32_t) (room < 200 ? room : 200) + 1);
	const Token *token = &tokens[random_below(token_count)];

	switch (random_below(8))
	{
		case 0:
			if (room > 0)
				input->bytes[at] ^= 1 << random_below(8);
			break;
		case 1:
			if (room > 0)
				input->bytes[at] = random_below(256);
			break;
		case 2:
			splice(input, at, len, "", 0);
			break;
		case 3:
			splice(input, at, 0, token->bytes, token->len);
			break;
		case 4:
			splice(input, at, room < token->len ? room : token->len,
				   token->bytes, token->len);
			break;
		case 5:
			memcpy(copy, input->bytes + at, len);
			splice(input, random_below((uint32_t) input->len + 1), 0, copy,
				   len);
			break;
		case 6:
			if (random_below(4) == 0)
				input->len = at;
			break;
		default:
			if (room > 1)
				input->bytes[at + random_below((uint32_t) room - 1)] = input->bytes[at];
			break;
	}
}

/* One of the seeds, changed in one to eight places. */
static inline void
make_input(Input *input, const Token *seeds, int seed_count,
		   const Token *tokens, int token_count)
{
	const Token *seed = &seeds[random_below(seed_count)];
	int			changes = 1 + random_below(8);

	input->len = seed->len;
	memcpy(input->bytes, seed->bytes, seed->len);
	while (changes-- > 0)
		mutate_once(input, tokens, token_count);
}

#endif
