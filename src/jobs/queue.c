/*
 * jobs/queue.c
 *		Add, claim and read jobs.
 *
 * A row is locked before its state is looked at, and a worker is signalled
 * only while its job's row is locked: it cannot have gone on to another job
 * meanwhile, because ending the job takes the same lock.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "common/catalog.h"
#include "common/settings.h"
#include "common/spi.h"
#include "common/worker.h"
#include "jobs/queue.h"
#include "jobs/state.h"

/*
 * More workers than may run at once would hold the server's slots until the
 * commit, only to leave then.
 */
bool
avc_job_worker_register(bool after_commit)
{
	static TransactionId transaction = InvalidTransactionId;
	static int	registered = 0;

	if (after_commit && transaction != GetTopTransactionId())
	{
		transaction = GetTopTransactionId();
		registered = 0;
	}
	if (after_commit && registered >= avc_max_workers)
		return true;
	if (!avc_worker_register(AVC_JOB_WORKER_ENTRY, "avcurate job worker",
							 after_commit))
		return after_commit && registered > 0;
	if (after_commit)
		registered++;
	return true;
}

/* ---- add and claim -------------------------------------------------- */

int64
avc_job_add(const AvcJobRequest *request)
{
	Oid			role = GetUserId();
	AvcRoleScope scope;
	int64		job;
	AvcParam	params[] = {
		AVC_TEXT(request->kind), AVC_TEXT(request->body),
		{REGROLEOID, ObjectIdGetDatum(role), false},
		{REGCLASSOID, ObjectIdGetDatum(request->dataset),
		!OidIsValid(request->dataset)},
		{INT8OID, Int64GetDatum(request->slice_id), request->slice_id == 0},
		{INT8OID, Int64GetDatum(request->version), request->version == 0},
		AVC_TEXT(request->model),
		{INT8OID, Int64GetDatum(request->checkpoint),
		request->checkpoint == 0},
		{JSONBOID, PointerGetDatum(request->options),
		request->options == NULL},
		AVC_TEXT(request->device),
		AVC_INT4(request->max_attempts > 0 ? request->max_attempts : 3)
	};

	PreventCommandIfReadOnly("queueing a job");
	avc_catalog_enter(&scope);
	SPI_connect();
	job = avc_spi_int64("INSERT INTO _avcurate.jobs (kind, body, role, "
						"dataset, slice_id, version, model, checkpoint, "
						"options, device, max_attempts) VALUES ($1, $2, $3, "
						"$4, $5, $6, $7, $8, COALESCE($9, '{}'), $10, $11) "
						"RETURNING job", lengthof(params), params, 0);
	SPI_finish();
	avc_catalog_leave(&scope);

	if (!avc_job_worker_register(true))
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT " stays pending: no worker slot of the server is free",
						job),
				 errhint("Run avcurate.run_pending() later, or raise max_worker_processes.")));
	return job;
}

/* A column of the first row as a C string in the current context, or NULL. */
static char *
text_column(const char *name)
{
	bool		is_null;
	Datum		value = avc_spi_column(0, name, &is_null);

	return is_null ? NULL : TextDatumGetCString(value);
}

static int64
int8_column(const char *name)
{
	bool		is_null;
	Datum		value = avc_spi_column(0, name, &is_null);

	return is_null ? 0 : DatumGetInt64(value);
}

static Oid
oid_column(const char *name)
{
	bool		is_null;
	Datum		value = avc_spi_column(0, name, &is_null);

	return is_null ? InvalidOid : DatumGetObjectId(value);
}

/* The claimed row as a struct in a context of its own. */
static AvcJob *
read_claimed(void)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext,
												  "avcurate job",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	AvcJob	   *job = palloc0(sizeof(AvcJob));
	bool		is_null;

	job->context = context;
	job->job = int8_column("job");
	job->kind = text_column("kind");
	job->body = text_column("body");
	job->role = oid_column("role");
	job->dataset = oid_column("dataset");
	job->slice_id = int8_column("slice_id");
	job->version = int8_column("version");
	job->model = text_column("model");
	job->checkpoint = int8_column("checkpoint");
	job->options = DatumGetJsonbPCopy(avc_spi_column(0, "options", &is_null));
	job->device = text_column("device");
	job->device_slot = -1;
	job->attempt = DatumGetInt32(avc_spi_column(0, "attempts", &is_null)) + 1;
	MemoryContextSwitchTo(old);
	return job;
}

void
avc_job_access_begin(AvcRoleScope *scope)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	avc_catalog_enter(scope);
	SPI_connect();
}

void
avc_job_access_end(AvcRoleScope *scope)
{
	SPI_finish();
	avc_catalog_leave(scope);
	PopActiveSnapshot();
	CommitTransactionCommand();
}

/* What read_claimed reads. */
#define CLAIMED_COLUMNS "SELECT job, kind, body, role::oid AS role, " \
	"dataset::oid AS dataset, slice_id, version, model, checkpoint, " \
	"options, device, attempts FROM _avcurate.jobs AS j "

/*
 * How well each role that waits is served: r.running, r.last_start.  Jobs of
 * long ago cost nothing: one index knows the open ones, one the last start.
 */
#define JOIN_ROLES "JOIN (SELECT w.role, " \
	"(SELECT pg_catalog.count(*) FROM _avcurate.jobs AS o " \
	"WHERE o.state = 'running' AND o.role = w.role) AS running, " \
	"(SELECT pg_catalog.max(o.started_at) FROM _avcurate.jobs AS o " \
	"WHERE o.role = w.role) AS last_start " \
	"FROM (SELECT DISTINCT role FROM _avcurate.jobs " \
	"WHERE state = 'pending') AS w) AS r USING (role) "

static ArrayType *
with_device(ArrayType *devices, const char *device)
{
	int			count = ArrayGetNItems(ARR_NDIM(devices), ARR_DIMS(devices));
	int			index = count + 1;

	return DatumGetArrayTypeP(array_set_element(PointerGetDatum(devices), 1,
												&index, CStringGetTextDatum(device),
												false, -1, -1, false,
												TYPALIGN_INT));
}

/*
 * Claim a job that is due: of the role with the fewest running jobs, of these
 * the one that was served longest ago, of its jobs the oldest.  Devices that
 * turn out to be full are left out.
 */
AvcJob *
avc_job_claim(void)
{
	AvcJob	   *job = NULL;
	AvcRoleScope scope;
	ArrayType  *full = construct_empty_array(TEXTOID);

	avc_job_access_begin(&scope);
	while (avc_spi_exec(CLAIMED_COLUMNS JOIN_ROLES
						"WHERE state = 'pending' "
						"AND (not_before IS NULL OR "
						"not_before <= pg_catalog.clock_timestamp()) "
						"AND (device = ANY ($1)) IS NOT TRUE "
						"ORDER BY r.running, r.last_start NULLS FIRST, job "
						"LIMIT 1 FOR NO KEY UPDATE OF j SKIP LOCKED", 1,
						(AvcParam[]) {{TEXTARRAYOID, PointerGetDatum(full)}},
						false, 0) > 0)
	{
		job = read_claimed();
		if (avc_job_device_take(job->device, &job->device_slot))
		{
			avc_job_lock(job->job);
			avc_job_state_change(job->job, AVC_JOB_PENDING, AVC_JOB_RUNNING,
								 NULL);
			break;
		}
		full = with_device(full, job->device);
		MemoryContextDelete(job->context);
		job = NULL;
	}
	avc_job_access_end(&scope);
	return job;
}

/* Does a worker of this database run a job?  It will look for the next. */
static bool
somebody_runs(void)
{
	uint64		rows = avc_spi_exec("SELECT job FROM _avcurate.jobs "
									"WHERE state = 'running'", 0, NULL,
									false, 0);
	uint64		i;

	for (i = 0; i < rows; i++)
	{
		bool		is_null;

		if (avc_job_is_alive(DatumGetInt64(avc_spi_column(i, "job", &is_null))))
			return true;
	}
	return false;
}

int64
avc_job_next_start(bool has_slot)
{
	AvcRoleScope scope;
	bool		is_looked_after;
	int64		next = -1;
	uint64		i;

	avc_job_access_begin(&scope);
	is_looked_after = somebody_runs();
	avc_spi_exec("SELECT device, (1000 * pg_catalog.min(COALESCE(GREATEST("
				 "extract(epoch FROM not_before - pg_catalog.clock_timestamp()"
				 "), 0), 0)))::bigint AS wait FROM _avcurate.jobs "
				 "WHERE state = 'pending' GROUP BY device", 0, NULL, false, 0);
	for (i = 0; i < SPI_processed; i++)
	{
		bool		is_null;
		Datum		value = avc_spi_column(i, "device", &is_null);
		char	   *device = is_null ? NULL : TextDatumGetCString(value);
		int64		wait = DatumGetInt64(avc_spi_column(i, "wait", &is_null));

		/* what other databases hold, nobody tells when they let go */
		if (!has_slot || avc_job_device_is_full(device))
		{
			if (is_looked_after)
				continue;
			wait = Max(wait, AVC_JOB_BLOCKED_LOOK_MS);
		}
		if (next < 0 || wait < next)
			next = wait;
	}
	avc_job_access_end(&scope);
	return next;
}

AvcJob *
avc_job_join(int64 number)
{
	AvcJob	   *job = NULL;
	AvcRoleScope scope;

	avc_job_access_begin(&scope);
	if (avc_spi_exec(CLAIMED_COLUMNS
					 "WHERE job = $1 AND state = 'running'", 1,
					 (AvcParam[]) {AVC_INT8(number)}, true, 0) > 0)
	{
		job = read_claimed();
		job->is_helper = true;
	}
	avc_job_access_end(&scope);
	return job;
}

int64
avc_job_count_waiting(void)
{
	AvcRoleScope scope;
	int64		count = 0;
	uint64		rows;
	uint64		i;

	avc_catalog_enter(&scope);
	SPI_connect();
	rows = avc_spi_exec("SELECT job, state FROM _avcurate.jobs "
						"WHERE state IN ('pending', 'running')",
						0, NULL, true, 0);
	for (i = 0; i < rows; i++)
	{
		bool		is_null;
		int64		job = DatumGetInt64(avc_spi_column(i, "job", &is_null));
		char	   *state = TextDatumGetCString(avc_spi_column(i, "state",
															   &is_null));

		if (strcmp(state, "pending") == 0 || !avc_job_is_alive(job))
			count++;
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	return count;
}

/* ---- one row -------------------------------------------------------- */

/* A request that can be seen is this transaction's: it goes at its commit. */
#define JOB_ROW "SELECT state, role::oid AS role, worker_pid, progress, " \
	"images_per_s, error, j.xmin, j.xmax, (not_before <= " \
	"pg_catalog.clock_timestamp()) IS NOT FALSE AS is_due, " \
	"EXISTS (SELECT FROM _avcurate.cancel_requests AS c " \
	"WHERE c.job = j.job) AS is_asked FROM _avcurate.jobs AS j "

/* Take the columns of JOB_ROW, texts in the current context. */
static void
read_row(AvcJobRow *row)
{
	bool		is_null;
	Datum		value;

	row->role = oid_column("role");
	row->state = avc_job_state_from_name(text_column("state"));
	row->error = text_column("error");
	row->is_due = DatumGetBool(avc_spi_column(0, "is_due", &is_null));
	value = avc_spi_column(0, "worker_pid", &is_null);
	row->worker_pid = is_null ? 0 : DatumGetInt32(value);
	row->progress = DatumGetFloat4(avc_spi_column(0, "progress", &is_null));
	value = avc_spi_column(0, "images_per_s", &is_null);
	row->images_per_s = is_null ? 0 : DatumGetFloat4(value);
	value = avc_spi_column(0, "xmin", &is_null);
	row->is_mine =
		TransactionIdIsCurrentTransactionId(DatumGetTransactionId(value));
	value = avc_spi_column(0, "xmax", &is_null);
	if (TransactionIdIsCurrentTransactionId(DatumGetTransactionId(value)))
		row->is_mine = true;
	if (DatumGetBool(avc_spi_column(0, "is_asked", &is_null)))
		row->is_mine = true;
}

bool
avc_job_find(int64 job, bool lock, AvcJobRow *row)
{
	MemoryContext context = CurrentMemoryContext;
	AvcParam	params[] = {AVC_INT8(job)};
	AvcRoleScope scope;
	bool		found;

	avc_catalog_enter(&scope);
	PushActiveSnapshot(GetLatestSnapshot());
	SPI_connect();
	found = avc_spi_exec(lock ?
						 JOB_ROW "WHERE job = $1 FOR NO KEY UPDATE OF j" :
						 JOB_ROW "WHERE job = $1",
						 1, params, !lock, 0) > 0;
	if (found)
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		read_row(row);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	PopActiveSnapshot();
	avc_catalog_leave(&scope);
	return found;
}

void
avc_job_read(int64 job, bool lock, AvcJobRow *row)
{
	Oid			user = GetUserId();

	if (!avc_job_find(job, lock, row))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("job " INT64_FORMAT " does not exist", job)));
	if (!has_privs_of_role(user, row->role) &&
		!pg_database_ownercheck(MyDatabaseId, user))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for job " INT64_FORMAT, job),
				 errdetail("It belongs to role \"%s\".",
						   GetUserNameFromId(row->role, true) ?
						   GetUserNameFromId(row->role, true) : "?")));
}
