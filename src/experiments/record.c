/*
 * experiments/record.c
 *		An experiment's rows, and who works on it.
 *
 * The session that runs an experiment holds a lock named after it, in a
 * corner of the advisory lock space that SQL functions do not reach, as the
 * workers of jobs do (jobs/state.c).  The lock is the session's, because the
 * procedure commits as it goes.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "experiments/experiment.h"

/* Next to those of jobs and their slots. */
#define LOCK_SPACE_EXPERIMENT 0xAC05

static void
lock_tag(LOCKTAG *tag, int64 id)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (id >> 32), (uint32) id,
						 LOCK_SPACE_EXPERIMENT);
}

bool
avc_experiment_lock_here(int64 id)
{
	LOCKTAG		tag;

	lock_tag(&tag, id);
	return LockAcquire(&tag, ExclusiveLock, false, true) !=
		LOCKACQUIRE_NOT_AVAIL;
}

static void
lock_session(AvcExperiment *experiment, int64 id)
{
	LOCKTAG		tag;

	lock_tag(&tag, id);
	if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("experiment \"%s\" is being run by another session",
						experiment->name),
				 errhint("avcurate.experiment_results shows how far it is.")));
	experiment->id = id;
}

void
avc_experiment_unlock(const AvcExperiment *experiment)
{
	LOCKTAG		tag;

	if (experiment->id == 0)
		return;
	lock_tag(&tag, experiment->id);
	(void) LockRelease(&tag, ExclusiveLock, true);
}

/* ---- the row -------------------------------------------------------- */

/* Number of the row that was made, 0 if there was one. */
static int64
insert_row(const AvcExperiment *experiment)
{
	AvcParam	params[] = {
		AVC_TEXT(experiment->name),
		{REGROLEOID, ObjectIdGetDatum(GetUserId()), false},
		AVC_INT8(experiment->base),
		{JSONBOID, JsonbPGetDatum(experiment->options), false}
	};
	AvcRoleScope scope;
	int64		id;

	avc_catalog_enter(&scope);
	SPI_connect();
	id = avc_spi_int64("INSERT INTO _avcurate.experiments "
					   "(experiment, role, base, options) "
					   "VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING "
					   "RETURNING experiment_id", lengthof(params), params, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
	return id;
}

static void
refuse_other(const AvcExperiment *experiment, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_DUPLICATE_OBJECT),
			 errmsg("experiment \"%s\" exists with other %s",
					experiment->name, what),
			 errhint("Give the same arguments to go on with it, choose another name, or drop it with avcurate.drop_experiment.")));
}

/* Take the versions of one kind of slices, or refuse other slices. */
static void
read_pins(const AvcExperiment *experiment, const char *kind,
		  AvcPinnedSlice *slices, int count, const char *argument)
{
	AvcParam	params[] = {AVC_INT8(experiment->id), AVC_TEXT(kind)};
	uint64		rows;
	bool		is_null;
	int			i;

	rows = avc_spi_exec("SELECT slice_id, version "
						"FROM _avcurate.experiment_slices "
						"WHERE experiment_id = $1 AND kind = $2 "
						"ORDER BY place", lengthof(params), params, false, 0);
	if (rows != (uint64) count)
		refuse_other(experiment, argument);
	for (i = 0; i < count; i++)
	{
		if (DatumGetInt64(avc_spi_column(i, "slice_id", &is_null)) !=
			slices[i].slice->slice_id)
			refuse_other(experiment, argument);
		slices[i].version =
			DatumGetInt64(avc_spi_column(i, "version", &is_null));
	}
}

static void
read_controls(AvcExperiment *experiment)
{
	AvcParam	param = AVC_INT8(experiment->id);
	bool		is_null;
	uint64		rows;
	uint64		i;

	rows = avc_spi_exec("SELECT place, slice_id, version "
						"FROM _avcurate.experiment_slices "
						"WHERE experiment_id = $1 AND kind = 'control'",
						1, &param, false, 0);
	for (i = 0; i < rows; i++)
	{
		int			place = DatumGetInt32(avc_spi_column(i, "place", &is_null));
		int64		slice = DatumGetInt64(avc_spi_column(i, "slice_id",
														 &is_null));
		AvcPinnedSlice *control = &experiment->controls[place - 1];
		MemoryContext old = MemoryContextSwitchTo(experiment->context);

		control->version = DatumGetInt64(avc_spi_column(i, "version",
														&is_null));
		control->slice = avc_slice_find_by_id(slice, false);
		MemoryContextSwitchTo(old);
	}
}

/* The row that is there. */
typedef struct Row
{
	int64		id;
	int64		base;
	Oid			role;
	Jsonb	   *options;		/* in the context of the caller */
} Row;

static void
find_row(const AvcExperiment *experiment, Row *row)
{
	AvcParam	param = AVC_TEXT(experiment->name);
	MemoryContext context = CurrentMemoryContext;
	MemoryContext old;
	AvcRoleScope scope;
	bool		is_null;

	avc_catalog_enter(&scope);
	SPI_connect();
	if (avc_spi_exec("SELECT experiment_id, role::pg_catalog.oid AS role, "
					 "base, options FROM _avcurate.experiments "
					 "WHERE experiment = $1", 1, &param, false, 0) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("experiment \"%s\" was dropped meanwhile",
						experiment->name),
				 errhint("Call run_experiment again.")));
	row->id = DatumGetInt64(avc_spi_column(0, "experiment_id", &is_null));
	row->base = DatumGetInt64(avc_spi_column(0, "base", &is_null));
	row->role = DatumGetObjectId(avc_spi_column(0, "role", &is_null));
	old = MemoryContextSwitchTo(context);
	row->options = DatumGetJsonbPCopy(avc_spi_column(0, "options", &is_null));
	MemoryContextSwitchTo(old);
	SPI_finish();
	avc_catalog_leave(&scope);
}

/* Go on with the row that is there: by the same arguments only. */
static void
take_row(AvcExperiment *experiment)
{
	AvcRoleScope scope;
	Row			row;

	find_row(experiment, &row);
	avc_experiment_check_role(experiment->name, row.role);
	lock_session(experiment, row.id);
	if (row.base != experiment->base)
		refuse_other(experiment, "base");
	if (compareJsonbContainers(&row.options->root,
							   &experiment->options->root) != 0)
		refuse_other(experiment, "options");
	avc_catalog_enter(&scope);
	SPI_connect();
	read_pins(experiment, "train", experiment->trains,
			  experiment->train_count, "train_slices");
	read_pins(experiment, "val", experiment->vals, experiment->val_count,
			  "val_slices");
	read_controls(experiment);
	SPI_finish();
	avc_catalog_leave(&scope);
}

bool
avc_experiment_open(AvcExperiment *experiment)
{
	int64		id;

	PreventCommandIfReadOnly("run_experiment()");
	id = insert_row(experiment);
	if (id != 0)
	{
		lock_session(experiment, id);
		return true;
	}
	take_row(experiment);
	return false;
}

void
avc_experiment_set_state(const AvcExperiment *experiment, const char *state,
						 const char *error)
{
	AvcParam	params[] = {AVC_INT8(experiment->id), AVC_TEXT(state),
	AVC_TEXT(error)};
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("UPDATE _avcurate.experiments SET state = $2, error = $3, "
				 "finished_at = CASE WHEN $2 <> 'running' THEN "
				 "pg_catalog.clock_timestamp() END WHERE experiment_id = $1",
				 lengthof(params), params, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}

bool
avc_experiment_is(const AvcExperiment *experiment, const char *state)
{
	AvcParam	params[] = {AVC_INT8(experiment->id), AVC_TEXT(state)};
	AvcRoleScope scope;
	bool		found;

	avc_catalog_enter(&scope);
	SPI_connect();
	found = avc_spi_exec("SELECT 1 FROM _avcurate.experiments "
						 "WHERE experiment_id = $1 AND state = $2",
						 lengthof(params), params, false, 0) > 0;
	SPI_finish();
	avc_catalog_leave(&scope);
	return found;
}

/* ---- the plan ------------------------------------------------------- */

static void
insert_pins(const AvcExperiment *experiment, const char *kind,
			AvcPinnedSlice *slices, int count)
{
	AvcRoleScope scope;
	int			i;

	for (i = 0; i < count; i++)
	{
		AvcParam	params[5];

		if (slices[i].version == 0)
			slices[i].version = avc_slice_version_pin(slices[i].slice, 0);
		params[0] = AVC_INT8(experiment->id);
		params[1] = AVC_TEXT(kind);
		params[2] = AVC_INT4(i + 1);
		params[3] = AVC_INT8(slices[i].slice->slice_id);
		params[4] = AVC_INT8(slices[i].version);
		avc_catalog_enter(&scope);
		SPI_connect();
		avc_spi_exec("INSERT INTO _avcurate.experiment_slices "
					 "(experiment_id, kind, place, slice_id, version) "
					 "VALUES ($1, $2, $3, $4, $5)", lengthof(params), params,
					 false, 0);
		SPI_finish();
		avc_catalog_leave(&scope);
	}
}

/* The base, and every slice and control with every seed. */
static void
insert_runs(const AvcExperiment *experiment)
{
	AvcParam	params[] = {
		AVC_INT8(experiment->id), AVC_INT8(experiment->base),
		AVC_INT4(experiment->train_count), AVC_BOOL(experiment->has_control)
	};
	AvcRoleScope scope;
	int			i;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("INSERT INTO _avcurate.experiment_runs (experiment_id, "
				 "train, control, seed, checkpoint) "
				 "VALUES ($1, 0, false, 0, $2)", 2, params, false, 0);
	for (i = 0; i < experiment->seed_count; i++)
	{
		params[1] = AVC_INT8(experiment->seeds[i]);
		avc_spi_exec("INSERT INTO _avcurate.experiment_runs (experiment_id, "
					 "train, control, seed) "
					 "SELECT $1, train, control, $2 "
					 "FROM pg_catalog.generate_series(1, $3) AS train, "
					 "(VALUES (false), (true)) AS c (control) "
					 "WHERE $4 OR NOT control", lengthof(params), params,
					 false, 0);
	}
	SPI_finish();
	avc_catalog_leave(&scope);
}

void
avc_experiment_plan(AvcExperiment *experiment)
{
	int			i;

	insert_pins(experiment, "train", experiment->trains,
				experiment->train_count);
	insert_pins(experiment, "val", experiment->vals, experiment->val_count);
	avc_experiment_check_apart(experiment);
	for (i = 0; experiment->has_control && i < experiment->train_count; i++)
		avc_experiment_draw_control(experiment, i);
	if (experiment->has_control)
		insert_pins(experiment, "control", experiment->controls,
					experiment->train_count);
	insert_runs(experiment);
}
