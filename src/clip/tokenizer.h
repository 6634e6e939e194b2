/*
 * clip/tokenizer.h
 *		From a text to the token ids of CLIP.
 */
#ifndef AVC_CLIP_TOKENIZER_H
#define AVC_CLIP_TOKENIZER_H

#include "clip/vocabulary.h"

#define AVC_CLIP_MAX_TOKENS	77	/* with start and end */

/*
 * The ids of a text in UTF-8, start and end among them; *count is how many,
 * 2 to AVC_CLIP_MAX_TOKENS.  What does not fit is cut off before the end.
 */
extern bool avc_clip_tokenize(const AvcVocabulary *vocabulary,
							  const char *text, size_t size,
							  int32_t ids[AVC_CLIP_MAX_TOKENS], int *count,
							  EngStatus *status);

#endif
