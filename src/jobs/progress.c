/*
 * jobs/progress.c
 *		What a job's body tells about itself: heartbeat, steps, log.
 *
 * Rows of progress need not survive a crash of the machine (the job is then
 * resumed and writes them again), so their commits do not wait for the disk.
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "common/catalog.h"
#include "common/message.h"
#include "common/spi.h"
#include "jobs/job.h"
#include "jobs/state.h"

#define BEAT_MS 1000

/* A catalog access that opens a transaction of its own if it needs one. */
typedef struct Access
{
	AvcJob	   *job;
	bool		own;
	AvcRoleScope scope;
} Access;

static void
access_begin(Access *access, AvcJob *job)
{
	access->job = job;
	access->own = !IsTransactionState();
	if (access->own)
	{
		avc_job_begin(job);
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
								 false);
	}
	avc_catalog_enter(&access->scope);
	SPI_connect();
}

static void
access_end(Access *access)
{
	SPI_finish();
	avc_catalog_leave(&access->scope);
	if (access->own)
		avc_job_commit(access->job);
}

void
avc_job_begin(AvcJob *job)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	/* An abort sets the role back by itself, a commit does not. */
	SetUserIdAndSecContext(job->role, SECURITY_LOCAL_USERID_CHANGE);
	pgstat_report_activity(STATE_RUNNING, job->kind);
}

void
avc_job_commit(AvcJob *job)
{
	SetUserIdAndSecContext(GetSessionUserId(), 0);
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(false);
	MemoryContextSwitchTo(job->context);
}

void
avc_job_progress(AvcJob *job, double fraction, double images_per_s)
{
	TimestampTz now = GetCurrentTimestamp();
	Access		access;
	bool		is_null;
	bool		cancelled;
	AvcParam	params[] = {
		AVC_INT8(job->job), AVC_FLOAT8(Min(Max(fraction, 0.0), 1.0)),
		{FLOAT8OID, Float8GetDatum(images_per_s),
		!(images_per_s >= 0.0) || isinf(images_per_s)}
	};

	if (fraction < 1.0 &&
		!TimestampDifferenceExceeds(job->last_beat, now, BEAT_MS))
		return;
	job->last_beat = now;
	access_begin(&access, job);
	avc_spi_exec("UPDATE _avcurate.jobs SET progress = $2::real, "
				 "images_per_s = COALESCE($3::real, images_per_s), "
				 "heartbeat_at = pg_catalog.clock_timestamp() "
				 "WHERE job = $1 RETURNING cancel_requested",
				 3, params, false, 0);
	cancelled = SPI_processed > 0 &&
		DatumGetBool(avc_spi_column(0, "cancel_requested", &is_null));
	access_end(&access);
	/* The signal came when the worker was not yet listening to it. */
	if (cancelled)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("job " INT64_FORMAT " was cancelled", job->job)));
}

void
avc_job_advanced(AvcJob *job)
{
	Access		access;
	AvcParam	params[] = {AVC_INT8(job->job)};

	access_begin(&access, job);
	avc_spi_exec("UPDATE _avcurate.jobs SET fruitless = 0 WHERE job = $1",
				 1, params, false, 0);
	access_end(&access);
}

void
avc_job_log(AvcJob *job, const char *level, const char *format,...)
{
	Access		access;
	va_list		args;
	char	   *message;

	va_start(args, format);
	message = avc_message(format, args);
	va_end(args);
	access_begin(&access, job);
	{
		AvcParam	params[] = {
			AVC_INT8(job->job), AVC_TEXT(level), AVC_TEXT(message)
		};

		avc_spi_exec("INSERT INTO _avcurate.job_log (job, level, message) "
					 "VALUES ($1, $2, $3)", 3, params, false, 0);
	}
	access_end(&access);
	pfree(message);
}

void
avc_job_check_cancel(AvcJob *job)
{
	CHECK_FOR_INTERRUPTS();
}

void
avc_job_finish(AvcJob *job, int64 failed_rows)
{
	Access		access;
	AvcParam	params[] = {AVC_INT8(job->job), AVC_INT8(failed_rows)};

	access_begin(&access, job);
	avc_spi_exec("UPDATE _avcurate.jobs SET failed_rows = $2 WHERE job = $1",
				 2, params, false, 0);
	avc_job_state_change(job->job, AVC_JOB_RUNNING, AVC_JOB_SUCCEEDED, NULL);
	access_end(&access);
	job->is_finished = true;
}

static AvcParam
finite_or_null(double value)
{
	AvcParam	param = AVC_FLOAT8(value);

	param.is_null = isnan(value) || isinf(value);
	return param;
}

void
avc_job_step(AvcJob *job, const AvcJobStep *step)
{
	Access		access;
	AvcParam	params[] = {
		AVC_INT8(job->job), AVC_INT8(step->step), AVC_INT4(step->epoch),
		finite_or_null(step->lr), finite_or_null(step->loss),
		finite_or_null(step->loss_classifier),
		finite_or_null(step->loss_box_reg),
		finite_or_null(step->loss_objectness),
		finite_or_null(step->loss_rpn_box_reg),
		finite_or_null(step->grad_norm),
		finite_or_null(step->images_per_s),
		finite_or_null(step->engine_busy)
	};

	access_begin(&access, job);
	avc_spi_exec("INSERT INTO _avcurate.job_progress AS p (job, step, epoch, "
				 "lr, loss, loss_classifier, loss_box_reg, loss_objectness, "
				 "loss_rpn_box_reg, grad_norm, images_per_s, engine_busy) "
				 "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) "
				 "ON CONFLICT (job, step) DO UPDATE SET (at, epoch, lr, loss, "
				 "loss_classifier, loss_box_reg, loss_objectness, "
				 "loss_rpn_box_reg, grad_norm, images_per_s, engine_busy) = "
				 "ROW (excluded.at, excluded.epoch, excluded.lr, "
				 "excluded.loss, excluded.loss_classifier, "
				 "excluded.loss_box_reg, excluded.loss_objectness, "
				 "excluded.loss_rpn_box_reg, excluded.grad_norm, "
				 "excluded.images_per_s, excluded.engine_busy)",
				 lengthof(params), params, false, 0);
	access_end(&access);
}
