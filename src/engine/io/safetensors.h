/*
 * engine/io/safetensors.h
 *		Read and write safetensors files held in memory.
 *
 * A file is: u64 little-endian N, N bytes of JSON header (at most 100,000,000),
 * the tensors' bytes to the end of the file.  The header maps a name to
 * {"dtype", "shape", "data_offsets": [begin, end]}, offsets counted from the
 * end of the header, and may hold "__metadata__", strings to strings.
 *
 * Everything here is malloc-based, keeps no state of its own and calls nothing
 * of the engine but status.c, so the server links it too.
 */
#ifndef ENG_IO_SAFETENSORS_H
#define ENG_IO_SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/status.h"

#define ENG_FILE_MAX_RANK		8
#define ENG_FILE_MAX_HEADER		100000000	/* bytes */

/* In the order of the format's reference: by rising alignment. */
typedef enum EngFileDtype
{
	ENG_FILE_BOOL,
	ENG_FILE_F4,
	ENG_FILE_F6_E2M3,
	ENG_FILE_F6_E3M2,
	ENG_FILE_U8,
	ENG_FILE_I8,
	ENG_FILE_F8_E5M2,
	ENG_FILE_F8_E4M3,
	ENG_FILE_F8_E8M0,
	ENG_FILE_F8_E4M3FNUZ,
	ENG_FILE_F8_E5M2FNUZ,
	ENG_FILE_I16,
	ENG_FILE_U16,
	ENG_FILE_F16,
	ENG_FILE_BF16,
	ENG_FILE_I32,
	ENG_FILE_U32,
	ENG_FILE_F32,
	ENG_FILE_C64,
	ENG_FILE_F64,
	ENG_FILE_I64,
	ENG_FILE_U64,
	ENG_FILE_DTYPES				/* their number */
} EngFileDtype;

/* A growing run of bytes.  All zero is an empty one. */
typedef struct EngBuffer
{
	uint8_t    *data;			/* malloc'ed, or NULL */
	size_t		size;			/* bytes in use */
	size_t		capacity;		/* bytes allocated */
} EngBuffer;

typedef struct EngFileTensor
{
	const char *name;			/* UTF-8, owned by the file object */
	EngFileDtype dtype;
	int32_t		rank;			/* 0 = a scalar: one element */
	int64_t		shape[ENG_FILE_MAX_RANK];
	int64_t		count;			/* elements, the product of shape */
	const uint8_t *data;		/* into the caller's image; the format does
								 * not align it: use memcpy */
	size_t		bytes;
} EngFileTensor;

typedef struct EngFileText
{
	const char *key;
	const char *value;
} EngFileText;

/* What a header says, over an image that the caller keeps. */
typedef struct EngTensorFile
{
	int32_t		count;
	EngFileTensor *tensors;		/* sorted by name (bytewise) */
	int32_t		metadata_count;
	EngFileText *metadata;		/* sorted by key */
	char	   *strings;		/* what names, keys and values point into */
} EngTensorFile;

typedef struct EngTensorWriter EngTensorWriter;

/* Buffers.  reserve makes room for extra more bytes; free also empties. */
extern bool eng_buffer_reserve(EngBuffer *buffer, size_t extra,
							   EngStatus *status);
extern bool eng_buffer_append(EngBuffer *buffer, const void *data,
							  size_t size, EngStatus *status);
extern void eng_buffer_free(EngBuffer *buffer);

/* Element types: "F32" etc.; bits of one element; -1 if there is none. */
extern const char *eng_file_dtype_name(EngFileDtype dtype);
extern int	eng_file_dtype_bits(EngFileDtype dtype);
extern int	eng_file_dtype_find(const char *name);

/*
 * Read the header of the file image of size bytes and check every rule of the
 * format.  Returns NULL with status set (bad file, no memory) if one is
 * broken.  No tensor is copied: image must stay as long as the result, which
 * eng_tensor_file_free gives back (NULL is allowed there).
 */
extern EngTensorFile *eng_tensor_file_open(const void *image, size_t size,
										   EngStatus *status);
extern void eng_tensor_file_free(EngTensorFile *file);

/* The tensor of that name, the metadata of that key, or NULL. */
extern const EngFileTensor *eng_tensor_file_find(const EngTensorFile *file,
												 const char *name);
extern const char *eng_tensor_file_metadata(const EngTensorFile *file,
											const char *key);

/*
 * Copy a tensor of F32, F16, BF16, F64, I32 or I64 into count floats; F64,
 * I32 and I64 are rounded, the others are exact.  Another type fails
 * (unsupported): bytes are weights only together with a scale.
 */
extern bool eng_file_tensor_floats(const EngFileTensor *tensor, float *out,
								   EngStatus *status);

/*
 * Write a file: create, add metadata and tensors in any order, finish, free.
 * finish lays the tensors out as the reference does (by type descending in
 * the order above, then by name; header padded with spaces to a multiple of
 * 8) and appends nothing to out but the file, which must be empty before.
 *
 * add: data of count * bits / 8 bytes, read by finish and no sooner; or NULL:
 * the caller fills the place that eng_tensor_writer_place gives for the name
 * after finish, inside out, aligned to the element.  A rank over
 * ENG_FILE_MAX_RANK, an overflow, or names and texts that no header can hold
 * are errors of add and metadata, a name or key given twice one of finish.
 */
extern EngTensorWriter *eng_tensor_writer_create(EngStatus *status);
extern void eng_tensor_writer_free(EngTensorWriter *writer);
extern bool eng_tensor_writer_metadata(EngTensorWriter *writer,
									   const char *key, const char *value,
									   EngStatus *status);
extern bool eng_tensor_writer_add(EngTensorWriter *writer,
								  const EngFileTensor *tensor,
								  EngStatus *status);
extern bool eng_tensor_writer_finish(EngTensorWriter *writer, EngBuffer *out,
									 EngStatus *status);
extern void *eng_tensor_writer_place(const EngTensorWriter *writer,
									 const EngBuffer *out, const char *name);

#endif							/* ENG_IO_SAFETENSORS_H */
