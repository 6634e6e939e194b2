/*
 * jobs/state.c
 *		States of a job, the transitions between them, and who is alive.
 *
 *		pending -> running -> succeeded | failed | cancelled
 *
 * Besides, a pending job can be cancelled, a running one whose worker is
 * gone goes back to pending, and resume_job puts a failed or cancelled one
 * back to pending.
 *
 * Liveness is a heavyweight lock in a corner of the advisory lock space
 * that no SQL function reaches (field 4 of the tag), so neither users'
 * advisory locks nor reused process ids can be mistaken for a worker.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"

#include "common/settings.h"
#include "common/spi.h"
#include "engine/core/devices.h"
#include "jobs/state.h"

/* pg_advisory_lock uses 1 and 2. */
#define LOCK_SPACE_JOB		0xAC01
#define LOCK_SPACE_SLOT		0xAC02
#define LOCK_SPACE_DEVICE	0xAC03
#define LOCK_SPACE_RETRIES	0xAC04

static const char *const state_names[] = {
	"pending", "running", "succeeded", "failed", "cancelled"
};

/* transitions[from][to] */
static const bool transitions[5][5] = {
	/* pending -> */ {false, true, false, false, true},
	/* running -> */ {true, false, true, true, true},
	/* succeeded -> */ {false, false, false, false, false},
	/* failed -> */ {true, false, false, false, false},
	/* cancelled -> */ {true, false, false, false, false}
};

const char *
avc_job_state_name(AvcJobState state)
{
	return state_names[state];
}

AvcJobState
avc_job_state_from_name(const char *name)
{
	int			i;

	for (i = 0; i < lengthof(state_names); i++)
		if (strcmp(name, state_names[i]) == 0)
			return (AvcJobState) i;
	elog(ERROR, "unknown job state \"%s\"", name);
	return AVC_JOB_FAILED;
}

/* What else a transition into that state sets. */
static const char *
also_set(AvcJobState from, AvcJobState to)
{
	switch (to)
	{
		case AVC_JOB_RUNNING:
			return ", attempts = attempts + 1, fruitless = fruitless + 1"
				", not_before = NULL, worker_pid = $4, heartbeat_at = pg_catalog.clock_timestamp(), started_at ="
				" COALESCE(started_at, pg_catalog.clock_timestamp())";
		case AVC_JOB_SUCCEEDED:
			return ", finished_at = pg_catalog.clock_timestamp()"
				", worker_pid = NULL, progress = 1";
		case AVC_JOB_FAILED:
		case AVC_JOB_CANCELLED:
			return ", finished_at = pg_catalog.clock_timestamp()"
				", worker_pid = NULL";
		case AVC_JOB_PENDING:
			if (from == AVC_JOB_RUNNING)
				return ", worker_pid = NULL";
			return ", attempts = 0, fruitless = 0, not_before = NULL"
				", finished_at = NULL, cancel_requested = false"
				", worker_pid = NULL";
	}
	return "";
}

void
avc_job_state_change(int64 job, AvcJobState from, AvcJobState to,
					 const char *error)
{
	AvcParam	params[] = {
		AVC_INT8(job), AVC_TEXT(state_names[to]), AVC_TEXT(error),
		AVC_INT4(MyProcPid)
	};
	bool		is_null;
	Datum		found;
	char	   *sql;

	found = avc_spi_value("SELECT state FROM _avcurate.jobs WHERE job = $1 "
						  "FOR NO KEY UPDATE", 1, params, CurrentMemoryContext,
						  &is_null);
	if (is_null)
		elog(ERROR, "job " INT64_FORMAT " is gone", job);
	if (strcmp(TextDatumGetCString(found), state_names[from]) != 0)
		elog(ERROR, "job " INT64_FORMAT " is %s, not %s", job,
			 TextDatumGetCString(found), state_names[from]);
	if (!transitions[from][to])
		elog(ERROR, "a job cannot go from %s to %s", state_names[from],
			 state_names[to]);
	/* $4 is mentioned in every form, so that it always has a type. */
	sql = psprintf("UPDATE _avcurate.jobs SET state = $2, error = $3%s "
				   "WHERE job = $1 AND $4 IS NOT NULL", also_set(from, to));
	if (avc_spi_exec(sql, 4, params, false, 0) != 1)
		elog(ERROR, "job " INT64_FORMAT " could not be changed", job);
}

void
avc_job_put_back(int64 job, const char *error, int64 delay)
{
	AvcParam	params[] = {AVC_INT8(job), AVC_INT8(delay)};

	avc_job_state_change(job, AVC_JOB_RUNNING, AVC_JOB_PENDING, error);
	avc_spi_exec("UPDATE _avcurate.jobs SET not_before = "
				 "pg_catalog.clock_timestamp() + $2 * interval '1 ms' "
				 "WHERE job = $1", lengthof(params), params, false, 0);
}

static void
job_tag(LOCKTAG *tag, int64 job)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (job >> 32),
						 (uint32) job, LOCK_SPACE_JOB);
}

/* Slots are the cluster's, so their database is none. */
static void
slot_tag(LOCKTAG *tag, int slot)
{
	SET_LOCKTAG_ADVISORY(*tag, InvalidOid, 0, (uint32) slot, LOCK_SPACE_SLOT);
}

void
avc_job_lock(int64 job)
{
	LOCKTAG		tag;

	job_tag(&tag, job);
	(void) LockAcquire(&tag, ExclusiveLock, true, false);
}

void
avc_job_unlock(int64 job)
{
	LOCKTAG		tag;

	job_tag(&tag, job);
	(void) LockRelease(&tag, ExclusiveLock, true);
}

/* Could this process have the lock now? */
static bool
is_free(const LOCKTAG *tag)
{
	if (LockAcquire(tag, ShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	(void) LockRelease(tag, ShareLock, false);
	return true;
}

bool
avc_job_is_alive(int64 job)
{
	LOCKTAG		tag;

	job_tag(&tag, job);
	return !is_free(&tag);
}

/* Take one of "count" locks that differ in field 3; returns its number or -1. */
static int
take_one(const LOCKTAG *first, int count)
{
	int			round;
	int			i;

	/* Whoever counts free ones holds each for a moment: look twice. */
	for (round = 0; round < 3; round++)
	{
		for (i = 0; i < count; i++)
		{
			LOCKTAG		tag = *first;

			tag.locktag_field3 = (uint32) i;
			if (LockAcquire(&tag, ExclusiveLock, true, true) !=
				LOCKACQUIRE_NOT_AVAIL)
				return i;
		}
		pg_usleep(10000L);
	}
	return -1;
}

int
avc_job_slot_take(int slots)
{
	LOCKTAG		tag;

	slot_tag(&tag, 0);
	return take_one(&tag, slots);
}

void
avc_job_slot_release(int slot)
{
	LOCKTAG		tag;

	slot_tag(&tag, slot);
	(void) LockRelease(&tag, ExclusiveLock, true);
}

int
avc_job_slot_free_count(int slots)
{
	LOCKTAG		tag;
	int			slot;
	int			count = 0;

	for (slot = 0; slot < slots; slot++)
	{
		slot_tag(&tag, slot);
		if (is_free(&tag))
			count++;
	}
	return count;
}

/* Jobs that may run on a device at once; 0 means any number. */
static int
device_limit(const char *device)
{
	if (device == NULL)
		return 0;
	if (avc_max_device_jobs > 0)
		return avc_max_device_jobs;
	return strncmp(device, "cuda", 4) == 0 ? 1 : 0;
}

/* Devices are the machine's, so their database is none, too. */
static void
device_tag(LOCKTAG *tag, const char *device, int slot)
{
	SET_LOCKTAG_ADVISORY(*tag, InvalidOid,
						 hash_bytes((const unsigned char *) device,
									(int) strlen(device)),
						 (uint32) slot, LOCK_SPACE_DEVICE);
}

/*
 * The locks of one slot: a job on several GPUs takes the same slot of each.
 * Of "cuda:all" the server does not know how many there are: all that can be.
 */
static int
device_tags(LOCKTAG tags[ENG_MOST_DEVICES], const char *device, int slot)
{
	EngDeviceName names[ENG_MOST_DEVICES];
	int			count = eng_device_list(device, names);
	int			i;

	if (!eng_device_is_list(device))
	{
		device_tag(&tags[0], device, slot);
		return 1;
	}
	for (i = 0; count == 0 && i < ENG_MOST_DEVICES; i++)
		snprintf(names[i], sizeof(EngDeviceName), "cuda:%d", i);
	if (count == 0)
		count = ENG_MOST_DEVICES;
	for (i = 0; i < count; i++)
		device_tag(&tags[i], names[i], slot);
	return count;
}

static bool
take_all(const char *device, int slot)
{
	LOCKTAG		tags[ENG_MOST_DEVICES];
	int			count = device_tags(tags, device, slot);
	int			i;

	for (i = 0; i < count; i++)
		if (LockAcquire(&tags[i], ExclusiveLock, true, true) ==
			LOCKACQUIRE_NOT_AVAIL)
		{
			while (--i >= 0)
				(void) LockRelease(&tags[i], ExclusiveLock, true);
			return false;
		}
	return true;
}

bool
avc_job_device_take(const char *device, int *slot)
{
	int			limit = device_limit(device);
	int			round;
	int			i;

	*slot = -1;
	if (limit == 0)
		return true;
	/* whoever counts free ones holds each for a moment: look twice */
	for (round = 0; round < 3; round++)
	{
		for (i = 0; i < limit; i++)
			if (take_all(device, i))
			{
				*slot = i;
				return true;
			}
		pg_usleep(10000L);
	}
	return false;
}

void
avc_job_device_release(const char *device, int slot)
{
	LOCKTAG		tags[ENG_MOST_DEVICES];
	int			count;

	if (slot < 0)
		return;
	count = device_tags(tags, device, slot);
	while (--count >= 0)
		(void) LockRelease(&tags[count], ExclusiveLock, true);
}

bool
avc_job_device_is_full(const char *device)
{
	int			limit = device_limit(device);
	int			i;

	for (i = 0; i < limit; i++)
	{
		LOCKTAG		tags[ENG_MOST_DEVICES];
		int			count = device_tags(tags, device, i);

		while (count > 0 && is_free(&tags[count - 1]))
			count--;
		if (count == 0)
			return false;
	}
	return limit > 0;
}

bool
avc_job_retries_take(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, LOCK_SPACE_RETRIES);
	return LockAcquire(&tag, ExclusiveLock, true, true) !=
		LOCKACQUIRE_NOT_AVAIL;
}

void
avc_job_retries_release(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, LOCK_SPACE_RETRIES);
	(void) LockRelease(&tag, ExclusiveLock, true);
}
