/*
 * datasets/ingest_log.c
 *		What an ingest says of itself: errors, progress, and the summary.
 *
 * The tables are the extension's and are written as its owner, in the
 * transaction of the batch that they speak of.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "datasets/ingest_log.h"
#include "datasets/ingest_row.h"

#define NOTICE_MS 5000			/* between two progress messages */

typedef struct QueuedError
{
	char	   *source;
	int			sqlstate;
	char	   *message;
} QueuedError;

void
avc_ingest_log_begin(AvcIngestLog *log)
{
	AvcRoleScope scope;

	log->started_at = GetCurrentTimestamp();
	log->last_notice = log->started_at;
	avc_catalog_enter(&scope);
	avc_spi_exec("INSERT INTO _avcurate.ingest_progress AS p (dataset, source,"
				 " pid, total) VALUES ($1, $2, $3, $4)"
				 " ON CONFLICT (dataset, source) DO UPDATE SET"
				 " pid = EXCLUDED.pid, total = EXCLUDED.total,"
				 " state = EXCLUDED.state, started_at = EXCLUDED.started_at,"
				 " updated_at = EXCLUDED.updated_at, inserted = 0,"
				 " updated = 0, unchanged = 0, unlabelled = 0, errors = 0,"
				 " dropped_boxes = 0, clipped_boxes = 0",
				 4, (AvcParam[]) {AVC_REGCLASS(log->relid),
					 AVC_TEXT(log->source), AVC_INT4(MyProcPid),
					 log->total < 0 ? AVC_NULL(INT8OID) : AVC_INT8(log->total)},
				 false, 0);
	avc_catalog_leave(&scope);
}

void
avc_ingest_log_error(AvcIngestLog *log, const char *source, int sqlstate,
					 const char *message)
{
	QueuedError *error = palloc(sizeof(QueuedError));

	error->source = avc_ingest_clean_text(source);
	error->sqlstate = sqlstate;
	error->message = avc_ingest_clean_text(message);
	log->errors = lappend(log->errors, error);
	log->counts.errors++;
}

/*
 * What an error is found in, by running which again it is found again or
 * not: the labels, if it is of them, or the images.
 */
static const char *
run_of_error(const AvcIngestLog *log, const QueuedError *error)
{
	return log->labels != NULL &&
		strncmp(error->source, log->labels, strlen(log->labels)) == 0 ?
		log->labels : log->source;
}

static void
write_errors(AvcIngestLog *log)
{
	ListCell   *cell;

	foreach(cell, log->errors)
	{
		QueuedError *error = lfirst(cell);

		avc_spi_exec("INSERT INTO _avcurate.ingest_errors (dataset, source,"
					 " run, sqlstate, message) VALUES ($1, $2, $3, $4, $5)"
					 " ON CONFLICT (dataset, source) DO UPDATE SET"
					 " run = EXCLUDED.run, at = EXCLUDED.at,"
					 " sqlstate = EXCLUDED.sqlstate,"
					 " message = EXCLUDED.message", 5,
					 (AvcParam[]) {AVC_REGCLASS(log->relid),
						 AVC_TEXT(error->source),
						 AVC_TEXT(run_of_error(log, error)),
						 AVC_TEXT(unpack_sql_state(error->sqlstate)),
						 AVC_TEXT(error->message)}, false, 0);
	}
}

/* Errors of earlier runs over the same images or labels that did not come up again. */
static void
forget_old_errors(AvcIngestLog *log)
{
	avc_spi_exec("DELETE FROM _avcurate.ingest_errors"
				 " WHERE dataset = $1 AND run IN ($2, $4) AND at < $3", 4,
				 (AvcParam[]) {AVC_REGCLASS(log->relid),
					 AVC_TEXT(log->source),
					 {TIMESTAMPTZOID, TimestampTzGetDatum(log->started_at),
					 false}, AVC_TEXT(log->labels)}, false, 0);
}

/* Unless a newer run over the same source has made the row its own. */
static void
write_progress(AvcIngestLog *log, const char *state)
{
	static SPIPlanPtr plan = NULL;
	const AvcIngestCounts *counts = &log->counts;

	avc_spi_exec_kept(&plan, "UPDATE _avcurate.ingest_progress SET state = $3,"
				 " updated_at = pg_catalog.clock_timestamp(), inserted = $4,"
				 " updated = $5, unchanged = $6, unlabelled = $7, errors = $8,"
				 " dropped_boxes = $9, clipped_boxes = $10, total = $11"
				 " WHERE dataset = $1 AND source = $2 AND pid = $12", 12,
				 (AvcParam[]) {AVC_REGCLASS(log->relid),
					 AVC_TEXT(log->source), AVC_TEXT(state),
					 AVC_INT8(counts->inserted), AVC_INT8(counts->updated),
					 AVC_INT8(counts->unchanged), AVC_INT8(counts->unlabelled),
					 AVC_INT8(counts->errors),
					 AVC_INT8(counts->dropped_boxes + counts->outside_boxes),
					 AVC_INT8(counts->clipped_boxes),
					 log->total < 0 ? AVC_NULL(INT8OID) :
					 AVC_INT8(log->total), AVC_INT4(MyProcPid)}, false, 0);
}

void
avc_ingest_log_write(AvcIngestLog *log, bool is_last)
{
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	write_errors(log);
	if (is_last)
		forget_old_errors(log);
	write_progress(log, is_last ? "finished" : "running");
	avc_catalog_leave(&scope);
	log->errors = NIL;
}

void
avc_ingest_log_say(AvcIngestLog *log)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		done = log->counts.inserted + log->counts.updated +
		log->counts.unchanged;

	if (!TimestampDifferenceExceeds(log->last_notice, now, NOTICE_MS))
		return;
	log->last_notice = now;
	if (log->total >= 0)
		ereport(NOTICE,
				(errmsg("ingested " INT64_FORMAT " of " INT64_FORMAT " frames, "
						INT64_FORMAT " errors", done, log->total,
						log->counts.errors)));
	else
		ereport(NOTICE,
				(errmsg("ingested " INT64_FORMAT " frames, " INT64_FORMAT
						" errors", done, log->counts.errors)));
}

void
avc_ingest_log_summary(const AvcIngestLog *log, int64 passed_over,
					   int64 without_box, int64 without_image)
{
	const AvcIngestCounts *counts = &log->counts;

	ereport(NOTICE,
			(errmsg("ingested " INT64_FORMAT " of " INT64_FORMAT " frames: "
					INT64_FORMAT " new, " INT64_FORMAT " updated, "
					INT64_FORMAT " unchanged; " INT64_FORMAT
					" without labels, " INT64_FORMAT " errors",
					counts->inserted + counts->updated + counts->unchanged,
					log->total, counts->inserted, counts->updated,
					counts->unchanged, counts->unlabelled, counts->errors),
			 errdetail(INT64_FORMAT " boxes without an area and " INT64_FORMAT
					   " outside the frame were dropped, " INT64_FORMAT
					   " were clipped; " INT64_FORMAT
					   " labels have no box, " INT64_FORMAT
					   " entries no image here; " INT64_FORMAT
					   " other files were passed over.",
					   counts->dropped_boxes, counts->outside_boxes,
					   counts->clipped_boxes, without_box, without_image,
					   passed_over),
			 counts->errors > 0 ?
			 errhint("See avcurate.ingest_errors.") : 0));
}
