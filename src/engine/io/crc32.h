/*
 * engine/io/crc32.h
 *		The checksum that zip archives record of each entry.
 */
#ifndef ENG_IO_CRC32_H
#define ENG_IO_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Remainders of a byte followed by 0 to 7 zero bytes: eight at a step. */
typedef struct EngCrc32
{
	uint32_t	table[8][256];
} EngCrc32;

extern void eng_crc32_prepare(EngCrc32 *crc);

/* CRC-32 of ISO 3309 (polynomial 0xedb88320, reflected) of size bytes. */
extern uint32_t eng_crc32(const EngCrc32 *crc, const void *data, size_t size);

#endif							/* ENG_IO_CRC32_H */
