/*
 * search/search.h
 *		Finding frames by the vectors of a feature.
 */
#ifndef AVC_SEARCH_SEARCH_H
#define AVC_SEARCH_SEARCH_H

#include "fmgr.h"

#include "datasets/dataset.h"

/* ---- search_feature.c ---- */

/*
 * The feature whose vectors are searched: "wanted", any column of type real[];
 * or, if that is NULL, the one computed by clip_embedding, or else the only
 * one that is a real[].  An error names the choices.
 */
extern char *avc_search_feature(const AvcDataset *dataset,
								const char *wanted);

/* Has the dataset a feature that clip_embedding computes? */
extern bool avc_search_has_embedding(const AvcDataset *dataset);

/*
 * The checkpoint of the clip_embedding() that computes a feature; an error if
 * none does.
 */
extern int64 avc_search_checkpoint(const AvcDataset *dataset,
								   const char *feature);

/* ---- nearest.c ---- */

typedef struct AvcSearch
{
	AvcDataset *dataset;
	char	   *feature;
	Datum		query;			/* real[], not NULL */
	int			k;
	char	   *filter;			/* NULL = every frame */
} AvcSearch;

/* Return the rows of nearest_frames as the result of the calling function. */
extern void avc_search_nearest(FunctionCallInfo fcinfo,
							   const AvcSearch *search);

/* Dataset, k, filter and feature of a call: arguments 0, 2, 3 and 4. */
extern void avc_search_arguments(FunctionCallInfo fcinfo, AvcSearch *search);

#endif
