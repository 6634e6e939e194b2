/*
 * experiments/drop.c
 *		drop_experiment(): forget an experiment and its control slices.
 *
 * Checkpoints and evaluations are results like any others and stay; the
 * pinned version of a control outlives its view as long as a checkpoint
 * names it, as that of any dropped slice does.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "experiments/experiment.h"

PG_FUNCTION_INFO_V1(avc_drop_experiment);

/* Number of the experiment, which the caller has the rights of. */
static int64
find_experiment(const char *name)
{
	AvcParam	param = AVC_TEXT(name);
	AvcRoleScope scope;
	Oid			role = InvalidOid;
	int64		id = 0;
	bool		is_null;

	avc_catalog_enter(&scope);
	SPI_connect();
	if (avc_spi_exec("SELECT experiment_id, role::pg_catalog.oid AS role "
					 "FROM _avcurate.experiments WHERE experiment = $1 "
					 "FOR UPDATE", 1, &param, false, 0) > 0)
	{
		id = DatumGetInt64(avc_spi_column(0, "experiment_id", &is_null));
		role = DatumGetObjectId(avc_spi_column(0, "role", &is_null));
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	if (id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("experiment \"%s\" does not exist", name),
				 errhint("avcurate.experiments lists those of your roles.")));
	avc_experiment_check_role(name, role);
	return id;
}

/* A text of the catalog's tables, NULL for none. */
static char *
read_text(const char *sql, int64 id)
{
	AvcParam	param = AVC_INT8(id);
	MemoryContext context = CurrentMemoryContext;
	AvcRoleScope scope;
	Datum		value;
	bool		is_null;

	avc_catalog_enter(&scope);
	SPI_connect();
	value = avc_spi_value(sql, 1, &param, context, &is_null);
	SPI_finish();
	avc_catalog_leave(&scope);
	return is_null ? NULL : TextDatumGetCString(value);
}

static void
check_idle(const char *name, int64 id)
{
	char	   *jobs;

	if (!avc_experiment_lock_here(id))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("experiment \"%s\" is being run by another session",
						name),
				 errhint("Cancel it there first.")));
	jobs = read_text("SELECT pg_catalog.string_agg(j.job::text, ', ' ORDER BY j.job) "
					 "FROM _avcurate.jobs AS j "
					 "WHERE j.state IN ('pending', 'running') AND j.job IN ("
					 "SELECT job FROM _avcurate.experiment_runs "
					 "WHERE experiment_id = $1 UNION ALL "
					 "SELECT job FROM _avcurate.experiment_evaluations "
					 "WHERE experiment_id = $1)", id);
	if (jobs != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("jobs of experiment \"%s\" are not finished: %s",
						name, jobs),
				 errhint("Cancel them with avcurate.cancel_job first.")));
}

/* Refuse what others pin of the control slices. */
static void
check_pins(const char *name, int64 id)
{
	char	   *pin;

	pin = read_text("SELECT s.slice_name || ' version ' || p.version || ' by ' "
					"|| p.kind || ' ' || COALESCE(p.id::text, p.tag) "
					"FROM _avcurate.experiment_slices AS c "
					"JOIN _avcurate.slices AS s USING (slice_id) "
					"JOIN _avcurate.slice_pins() AS p USING (slice_id) "
					"WHERE c.experiment_id = $1 AND c.kind = 'control' "
					"AND NOT (p.kind = 'experiment' AND p.id = $1) "
					"AND NOT (p.kind = 'checkpoint' AND p.id IN ("
					"SELECT k.checkpoint FROM _avcurate.checkpoints AS k "
					"JOIN _avcurate.experiment_runs AS r USING (job) "
					"WHERE r.experiment_id = $1)) "
					"ORDER BY 1 LIMIT 1", id);
	if (pin != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("control slices of experiment \"%s\" are pinned by others",
						name),
				 errdetail("Pinned is %s.", pin),
				 errhint("Remove what pins it first, or keep the experiment.")));
}

/* Names of the control slices that are still there, ready for SQL. */
static List *
control_views(int64 id)
{
	AvcParam	param = AVC_INT8(id);
	MemoryContext context = CurrentMemoryContext;
	AvcRoleScope scope;
	List	   *views = NIL;
	uint64		rows;
	uint64		i;

	avc_catalog_enter(&scope);
	SPI_connect();
	rows = avc_spi_exec("SELECT s.slice::pg_catalog.oid AS slice "
						"FROM _avcurate.experiment_slices AS c "
						"JOIN _avcurate.slices AS s USING (slice_id) "
						"WHERE c.experiment_id = $1 AND c.kind = 'control' "
						"AND s.slice IS NOT NULL", 1, &param, false, 0);
	for (i = 0; i < rows; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		bool		is_null;
		Oid			view = DatumGetObjectId(avc_spi_column(i, "slice",
														   &is_null));
		char	   *name = get_rel_name(view);

		if (name != NULL)
			views = lappend(views,
							quote_qualified_identifier(get_namespace_name(get_rel_namespace(view)),
													   name));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	avc_catalog_leave(&scope);
	return views;
}

static void
delete_rows(int64 id)
{
	AvcParam	param = AVC_INT8(id);
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	SPI_connect();
	avc_spi_exec("DELETE FROM _avcurate.experiments "
				 "WHERE experiment_id = $1", 1, &param, false, 0);
	SPI_finish();
	avc_catalog_leave(&scope);
}

/*
 * drop_experiment(experiment)
 */
Datum
avc_drop_experiment(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	List	   *views;
	ListCell   *cell;
	int64		id;

	PreventCommandIfReadOnly("drop_experiment()");
	id = find_experiment(name);
	check_idle(name, id);
	check_pins(name, id);
	views = control_views(id);
	delete_rows(id);
	CommandCounterIncrement();
	foreach(cell, views)
	{
		SPI_connect();
		avc_spi_exec(psprintf("DROP MATERIALIZED VIEW %s",
							  (char *) lfirst(cell)), 0, NULL, false, 0);
		SPI_finish();
	}
	PG_RETURN_VOID();
}
