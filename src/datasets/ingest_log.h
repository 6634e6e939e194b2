/*
 * datasets/ingest_log.h
 *		What an ingest says of itself: errors, progress, and the summary.
 *
 * SPI is connected.
 */
#ifndef AVC_DATASETS_INGEST_LOG_H
#define AVC_DATASETS_INGEST_LOG_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "datasets/ingest.h"

/* Fill the first three, zero the rest. */
typedef struct AvcIngestLog
{
	Oid			relid;			/* of the dataset */
	char	   *source;			/* of the run, as it can be stored */
	char	   *labels;			/* the same of its labels, or NULL */
	int64		total;			/* frames to come, -1 = not known */
	List	   *errors;			/* that wait to be written */
	AvcIngestCounts counts;
	TimestampTz started_at;
	TimestampTz last_notice;
} AvcIngestLog;

/* Make the row of the run. */
extern void avc_ingest_log_begin(AvcIngestLog *log);

/* Keep an error, in the current memory context, until it is written. */
extern void avc_ingest_log_error(AvcIngestLog *log, const char *source,
								 int sqlstate, const char *message);

/*
 * Write errors and progress.  The last time, errors of earlier runs over the
 * same source or labels that did not come up again are forgotten.
 */
extern void avc_ingest_log_write(AvcIngestLog *log, bool is_last);

/* A NOTICE of the progress, if the last one was a while ago. */
extern void avc_ingest_log_say(AvcIngestLog *log);

/* The summary; see avc_ingest_say_summary. */
extern void avc_ingest_log_summary(const AvcIngestLog *log,
								   int64 passed_over, int64 without_box,
								   int64 without_image);

#endif
