/*
 * engine/io/crc32.c
 *		The checksum that zip archives record of each entry.
 *
 * The remainder of eight bytes is the sum of eight remainders that do not
 * depend on each other, so the loop looks up eight of them at a step
 * (Kounavis and Berry, "Novel Table Lookup-Based Algorithms for
 * High-Performance CRC Generation", 2008).
 */
#include "engine/io/crc32.h"

#include <string.h>

void
eng_crc32_prepare(EngCrc32 *crc)
{
	int			i;
	int			k;

	for (i = 0; i < 256; i++)
	{
		uint32_t	value = (uint32_t) i;

		for (k = 0; k < 8; k++)
			value = value >> 1 ^ (value & 1 ? UINT32_C(0xedb88320) : 0);
		crc->table[0][i] = value;
	}
	for (k = 1; k < 8; k++)
		for (i = 0; i < 256; i++)
		{
			uint32_t	value = crc->table[k - 1][i];

			crc->table[k][i] = value >> 8 ^ crc->table[0][value & 0xff];
		}
}

static uint32_t
four_bytes(const uint8_t *at)
{
	return (uint32_t) at[0] | (uint32_t) at[1] << 8 |
		(uint32_t) at[2] << 16 | (uint32_t) at[3] << 24;
}

uint32_t
eng_crc32(const EngCrc32 *crc, const void *data, size_t size)
{
	const uint8_t *at = data;
	uint32_t	value = UINT32_MAX;

	for (; size >= 8; size -= 8, at += 8)
	{
		uint32_t	low = four_bytes(at) ^ value;
		uint32_t	high = four_bytes(at + 4);

		value = crc->table[7][low & 0xff] ^
			crc->table[6][low >> 8 & 0xff] ^
			crc->table[5][low >> 16 & 0xff] ^
			crc->table[4][low >> 24] ^
			crc->table[3][high & 0xff] ^
			crc->table[2][high >> 8 & 0xff] ^
			crc->table[1][high >> 16 & 0xff] ^
			crc->table[0][high >> 24];
	}
	for (; size > 0; size--, at++)
		value = value >> 8 ^ crc->table[0][(value ^ *at) & 0xff];
	return ~value;
}
