/*
 * features/feature.h
 *		Definitions of features: columns computed by an expression.
 */
#ifndef AVC_FEATURES_FEATURE_H
#define AVC_FEATURES_FEATURE_H

#include "nodes/pg_list.h"

#include "common/attempt.h"
#include "common/spi.h"
#include "datasets/dataset.h"

typedef struct AvcFeature
{
	char	   *name;			/* of the feature and its column */
	int			number;			/* its place in feature_marks */
	char	   *expression;		/* all names resolved; the row is "frame" */
	List	   *reads;			/* char *: columns that it reads itself */
	List	   *needs;			/* AvcFeature *: features among these */
	List	   *all_needs;		/* AvcFeature *: these, and what they need */
	List	   *inputs;			/* char *: columns that it or one of these
								 * reads */
	int			level;			/* 0 = reads no feature, else above all needs */
} AvcFeature;

/*
 * feature_graph.c
 *
 * The features of a dataset in dependency order, in the current context.
 * SPI must be connected.
 */
extern List *avc_features_load(Oid dataset);

/* The one of that name, or NULL. */
extern AvcFeature *avc_feature_find(List *features, const char *name);

/* The list with the name in it, once. */
extern List *avc_add_name(List *names, char *name);

/*
 * feature_trigger.c
 *
 * Make the row trigger of the dataset as its features are now.  SPI must be
 * connected.
 */
extern void avc_feature_trigger_make(const AvcDataset *dataset);

/* feature.c: error if the dataset has none of that name; connects to SPI. */
extern void avc_feature_require(const AvcDataset *dataset, const char *name);

/*
 * Error that names the slices and other views that read the feature's column;
 * what_for says what is to be done ("drop").  SPI must be connected.
 */
extern void avc_feature_check_unread(const AvcDataset *dataset,
									 const char *feature,
									 const char *what_for);

/* One row in which the expression of a feature failed. */
typedef struct AvcFeatureFailure
{
	const AvcFeature *feature;
	int64		frame_id;
	AvcFailure	why;
} AvcFeatureFailure;

/*
 * After a batch between these ids: drop the errors of the targets' features
 * (AvcTarget *) in rows where they are done, and record "failures"
 * (AvcFeatureFailure *).  SPI must be connected, as for the next.
 */
extern void avc_feature_errors_settle(const AvcDataset *dataset,
									  List *targets, int64 first, int64 last,
									  List *failures);

/* Frame ids as a parameter. */
extern AvcParam avc_id_array(const int64 *ids, int count);

/* Drop the errors of frames that were deleted. */
extern void avc_feature_errors_forget(const AvcDataset *dataset);

/* What add_feature learns from the text of an expression. */
typedef struct AvcExpression
{
	char	   *type;			/* ready for a column definition */
	const char *shown;			/* for people: as typed, or with the number
								 * that a NULL checkpoint stands for */
	char	   *resolved;		/* as AvcFeature.expression */
	List	   *reads;			/* char * */
} AvcExpression;

/*
 * Analyse an expression over the dataset's columns with the search_path of
 * the caller, to which avcurate is added.  Refuses what cannot be kept
 * current: aggregates, set-returning functions, other tables.
 */
extern AvcExpression *avc_expression_analyze(const AvcDataset *dataset,
											 const char *text);

#endif
