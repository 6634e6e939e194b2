/*
 * clip/vocabulary.h
 *		The byte-pair vocabulary of CLIP's tokenizer.
 *
 * The file is OpenAI's bpe_simple_vocab_16e6.txt, plain or gzipped, or the
 * merges.txt that Hugging Face ships with the same data: a line with a
 * version, then one merge a line, the two tokens that become one.  The first
 * 48,894 merges make the ids 512 to 49405; more lines are not used.
 *
 * Ids 0 to 255 are the bytes, 256 to 511 the bytes at the end of a word.
 */
#ifndef AVC_CLIP_VOCABULARY_H
#define AVC_CLIP_VOCABULARY_H

#include <stddef.h>
#include <stdint.h>

#include "engine/io/safetensors.h"
#include "engine/status.h"

#define AVC_CLIP_MERGES		48894
#define AVC_CLIP_WORD_END	256 /* added to the id of a byte that ends a word */
#define AVC_CLIP_FIRST_MERGE 512
#define AVC_CLIP_START		49406
#define AVC_CLIP_END		49407

/* More bytes than these, unpacked, are no vocabulary. */
#define AVC_CLIP_MAX_FILE	((size_t) 16 << 20)

typedef struct AvcVocabulary AvcVocabulary;

/*
 * The lines of a vocabulary file that are used, unpacked if it is gzipped;
 * appended to out.  Nothing but the number of lines and of bytes is checked.
 */
extern bool avc_vocabulary_unpack(const void *file, size_t size,
								  EngBuffer *out, EngStatus *status);

/*
 * Read unpacked lines.  NULL if there are too few of them, or one is not two
 * tokens that the lines before it have made.  Free with avc_vocabulary_free.
 */
extern AvcVocabulary *avc_vocabulary_parse(const char *text, size_t size,
										   EngStatus *status);
extern void avc_vocabulary_free(AvcVocabulary *vocabulary);

/* The id of a byte inside a word. */
extern int32_t avc_vocabulary_byte(uint8_t byte);

/* Which merge joins two tokens, from 0; -1 if none does. */
extern int32_t avc_vocabulary_rank(const AvcVocabulary *vocabulary,
								   int32_t left, int32_t right);

#endif
