/*
 * experiments/report.c
 *		report(): one HTML page about jobs.
 *
 * What the caller may not see is not in it: all is read from the views and
 * functions that he could call himself, as himself.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "experiments/data_page.h"
#include "experiments/page.h"
#include "experiments/plot.h"

PG_FUNCTION_INFO_V1(avc_report);

#define MAX_JOBS		100
#define CURVE_POINTS	400		/* of a loss curve: means of so many pieces */
#define SHEET_FRAMES	"9"
#define OVERLAYS		3

typedef struct Report
{
	StringInfo	page;
	int64	   *jobs;
	int			count;
} Report;

typedef struct JobLine
{
	int64		job;
	char	   *kind;
	char	   *title;
} JobLine;

/* ---- values of queries ---------------------------------------------- */

/* The columns of the rows at hand from "first" on, as lines over column 1. */
static AvcPlotLine *
lines_of_rows(int first, const char *const *names, int count, bool has_dots)
{
	AvcPlotLine *lines = palloc0_array(AvcPlotLine, count);
	TupleDesc	desc = SPI_tuptable->tupdesc;
	int			rows = (int) SPI_processed;
	double	   *x = palloc_array(double, rows + 1);
	int			i;
	int			row;

	for (i = 0; i < count; i++)
	{
		lines[i] = (AvcPlotLine) {names[i], rows, x, palloc_array(double, rows + 1), has_dots};
		for (row = 0; row < rows; row++)
		{
			HeapTuple	tuple = SPI_tuptable->vals[row];
			bool		is_null;
			Datum		value = SPI_getbinval(tuple, desc, first + i, &is_null);

			lines[i].y[row] = is_null ? NAN : DatumGetFloat8(value);
			x[row] = DatumGetFloat8(SPI_getbinval(tuple, desc, 1, &is_null));
		}
	}
	return lines;
}

/* ---- trainings ------------------------------------------------------ */

static void
loss_curves(StringInfo page, int64 job)
{
	static const char *const names[] = {
		"loss", "classifier", "box regression", "objectness", "RPN boxes"
	};
	AvcParam	params[] = {AVC_INT8(job), AVC_INT4(CURVE_POINTS)};
	AvcPlot		plot = {"Losses", "step", "loss"};

	avc_spi_exec("SELECT avg(step)::float8, avg(loss)::float8, "
				 "avg(loss_classifier)::float8, avg(loss_box_reg)::float8, "
				 "avg(loss_objectness)::float8, avg(loss_rpn_box_reg)::float8 "
				 "FROM avcurate.job_progress, LATERAL (SELECT max(step) AS last "
				 "FROM avcurate.job_progress WHERE job = $1) AS l WHERE job = $1 "
				 "GROUP BY (step - 1) * $2 / greatest(last, $2) ORDER BY 1",
				 lengthof(params), params, true, 0);
	plot.lines = lines_of_rows(2, names, lengthof(names), false);
	plot.line_count = lengthof(names);
	avc_plot(page, &plot);
}

static void
validation_curves(StringInfo page, int64 job)
{
	static const char *const names[] = {"AP", "AP50", "recall50"};
	AvcParam	params[] = {AVC_INT8(job)};
	AvcPlot		plot = {"On val_slice while training", "step", ""};

	if (avc_spi_exec("SELECT step::float8, ap, ap50, recall50 "
					 "FROM avcurate.validations WHERE job = $1 ORDER BY step",
					 lengthof(params), params, true, 0) == 0)
		return;
	plot.lines = lines_of_rows(2, names, lengthof(names), true);
	plot.line_count = lengthof(names);
	plot.y_max = 1;
	avc_plot(page, &plot);
	avc_page_table(page, NULL,
				   "SELECT step, epoch, slice::text, version, frames, "
				   "round(ap::numeric, 4) AS ap, round(ap50::numeric, 4) AS ap50, "
				   "round(recall50::numeric, 4) AS recall50, "
				   "CASE WHEN best THEN 'best' END AS \" \" "
				   "FROM avcurate.validations WHERE job = $1 ORDER BY step",
				   lengthof(params), params);
}

static void
training_section(StringInfo page, int64 job)
{
	AvcParam	params[] = {AVC_INT8(job)};

	loss_curves(page, job);
	validation_curves(page, job);
	avc_page_facts(page, "What it made",
				   "SELECT c.checkpoint, c.model, c.slice::text, c.version, "
				   "c.rows, c.digest, c.parent, c.step, "
				   "c.provenance ->> 'weights_sha256' AS weights_sha256 "
				   "FROM avcurate.checkpoints AS c WHERE c.job = $1 ORDER BY 1",
				   lengthof(params), params);
	avc_page_table(page, "Options",
				   "SELECT key AS option, value #>> '{}' AS value "
				   "FROM avcurate.jobs AS j, LATERAL jsonb_each(j.options) "
				   "WHERE j.job = $1 AND value <> 'null' ORDER BY 1",
				   lengthof(params), params);
}

/* ---- evaluations ---------------------------------------------------- */

/*
 * Precision over recall of the detections of one class, from the rows at
 * hand: by falling score, is it a true positive?  Precision is the highest
 * at this recall or a higher one, as COCO interpolates it.
 */
static AvcPlotLine
precision_recall(const char *name, int64 truths, const bool *is_true,
				 int count)
{
	AvcPlotLine line = {name};
	double		best = 0;
	int			hits = 0;
	int			i;

	line.x = palloc_array(double, count + 2);
	line.y = palloc_array(double, count + 2);
	for (i = 0; i < count; i++)
	{
		hits += is_true[i];
		line.x[i] = (double) hits / truths;
		line.y[i] = (double) hits / (i + 1);
	}
	for (i = count - 1; i >= 0; i--)
		line.y[i] = best = Max(best, line.y[i]);
	/* one point where recall rises is enough, and one for the edge */
	for (i = 0; i < count; i++)
		if (i == 0 || line.x[i] > line.x[line.count - 1] || i == count - 1)
		{
			line.x[line.count] = line.x[i];
			line.y[line.count++] = line.y[i];
		}
	return line;
}

static AvcPlotLine
class_curve(int64 job, const char *category, int64 truths)
{
	AvcParam	params[] = {AVC_INT8(job), AVC_TEXT(category)};
	uint64		rows = avc_spi_exec("SELECT kind = 'true_positive' FROM avcurate.matches "
									"WHERE evaluation = $1 AND category = $2 "
									"AND kind IN ('true_positive', 'false_positive') "
									"ORDER BY score DESC, frame_id",
									lengthof(params), params, true, 0);
	bool	   *is_true = palloc_extended(rows + 1, MCXT_ALLOC_HUGE);
	AvcPlotLine line;
	uint64		i;

	for (i = 0; i < rows; i++)
	{
		bool		is_null;

		is_true[i] = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i],
												SPI_tuptable->tupdesc, 1,
												&is_null));
	}
	line = precision_recall(category, truths, is_true, (int) rows);
	pfree(is_true);
	SPI_freetuptable(SPI_tuptable);
	return line;
}

static void
precision_recall_curves(StringInfo page, int64 job)
{
	AvcParam	params[] = {AVC_INT8(job)};
	AvcPlot		plot = {"Precision over recall at IoU 0.5", "recall", "precision", 1, 1};
	int			classes = (int)
	avc_spi_exec("SELECT category, truths FROM avcurate.evaluation_classes "
				 "WHERE evaluation = $1 AND truths > 0 ORDER BY label",
				 lengthof(params), params, true, 0);
	SPITupleTable *table = SPI_tuptable;
	int			i;

	plot.lines = palloc0_array(AvcPlotLine, classes + 1);
	for (i = 0; i < classes; i++)
	{
		bool		is_null;

		plot.lines[i] = class_curve(job,
									SPI_getvalue(table->vals[i], table->tupdesc, 1),
									DatumGetInt64(SPI_getbinval(table->vals[i],
																table->tupdesc, 2,
																&is_null)));
	}
	plot.line_count = classes;
	avc_plot(page, &plot);
}

static void
contact_sheet(StringInfo page, int64 job, const char *kind,
			  const char *caption)
{
	AvcParam	params[] = {AVC_INT8(job), AVC_TEXT(kind)};

	avc_page_picture(page, caption,
					 "SELECT avcurate.contact_sheet($1, $2, " SHEET_FRAMES ") "
					 "WHERE EXISTS (SELECT FROM avcurate.matches "
					 "WHERE evaluation = $1 AND kind = $2)",
					 lengthof(params), params);
}

/* Other evaluations of the report on the same frames; at most one is drawn. */
static Datum
evaluations_beside(const Report *report, int64 job)
{
	Datum	   *elements = palloc_array(Datum, report->count);
	AvcParam	params[] = {
		AVC_INT8(job),
		{INT8ARRAYOID, (Datum) 0, false}
	};
	bool		is_null;
	int			i;

	for (i = 0; i < report->count; i++)
		elements[i] = Int64GetDatum(report->jobs[i]);
	params[1].value = PointerGetDatum(construct_array(elements, report->count,
													  INT8OID, 8, true, 'd'));
	/* a slice that was dropped has no name to be joined by */
	return avc_spi_value("SELECT coalesce(array_agg(evaluation ORDER BY evaluation <> $1, evaluation), ARRAY[$1]) "
						 "FROM (SELECT o.evaluation FROM avcurate.evaluations AS e "
						 "JOIN avcurate.evaluations AS o USING (slice, version, frames) "
						 "WHERE e.evaluation = $1 AND o.evaluation = ANY ($2) "
						 "ORDER BY o.evaluation <> $1, o.evaluation LIMIT 2) AS s",
						 lengthof(params), params, CurrentMemoryContext,
						 &is_null);
}

static void
overlays(const Report *report, int64 job)
{
	AvcParam	params[] = {
		AVC_INT8(job),
		{INT8ARRAYOID, evaluations_beside(report, job), false},
		AVC_INT4(0)
	};
	int			i;

	for (i = 0; i < OVERLAYS; i++)
	{
		params[2] = AVC_INT4(i);
		avc_page_picture(report->page,
						 "A frame with many misses: truth green, this evaluation red, another one of the report blue",
						 "SELECT avcurate.overlay(frame_id, $2) FROM avcurate.matches "
						 "WHERE evaluation = $1 AND kind = 'missed' GROUP BY frame_id "
						 "ORDER BY count(*) DESC, frame_id OFFSET $3 LIMIT 1",
						 lengthof(params), params);
	}
}

static void
evaluation_section(const Report *report, int64 job)
{
	StringInfo	page = report->page;
	AvcParam	params[] = {AVC_INT8(job)};

	if (avc_page_facts(page, "Figures",
					   "SELECT checkpoint, slice::text, version, frames, mode, "
					   "round(ap::numeric, 4) AS ap, round(ap50::numeric, 4) AS ap50, "
					   "round(ap75::numeric, 4) AS ap75, round(ap_small::numeric, 4) AS ap_small, "
					   "round(ap_medium::numeric, 4) AS ap_medium, "
					   "round(ap_large::numeric, 4) AS ap_large, "
					   "round(recall50::numeric, 4) AS recall50, "
					   "round(recall::numeric, 4) AS recall, "
					   "round(map_50::numeric, 4) AS map_50, "
					   "round(recall_micro::numeric, 4) AS recall_micro "
					   "FROM avcurate.evaluations WHERE evaluation = $1",
					   lengthof(params), params) == 0)
		return;
	avc_page_table(page, "By class",
				   "SELECT category, truths, detections, round(ap::numeric, 4) AS ap, "
				   "round(ap50::numeric, 4) AS ap50, round(recall50::numeric, 4) AS recall50 "
				   "FROM avcurate.evaluation_classes WHERE evaluation = $1 ORDER BY label",
				   lengthof(params), params);
	precision_recall_curves(page, job);
	contact_sheet(page, job, "missed", "Frames with the most missed objects: the missed ones");
	contact_sheet(page, job, "false_positive", "Frames with the most false detections: the false ones");
	overlays(report, job);
}

/* ---- comparisons ---------------------------------------------------- */

/* Every later evaluation of the same frames against the first one. */
static void
comparisons(const Report *report)
{
	bool		has_heading = false;
	int			i;
	int			j;

	for (i = 0; i < report->count; i++)
		for (j = 0; j < i; j++)
		{
			AvcParam	params[] = {AVC_INT8(report->jobs[j]), AVC_INT8(report->jobs[i])};
			int64		frames;

			frames = avc_spi_int64("SELECT a.frames FROM avcurate.evaluations AS a "
								   "JOIN avcurate.evaluations AS b USING (slice, version, frames, label_map) "
								   "WHERE a.evaluation = $1 AND b.evaluation = $2",
								   lengthof(params), params, 0);
			if (frames == 0)
				continue;
			if (!has_heading)
				avc_page_element(report->page, "h2", "Comparisons");
			has_heading = true;
			avc_page_table(report->page,
						   psprintf("Evaluation " INT64_FORMAT " against " INT64_FORMAT
									", 95 %% intervals by paired bootstrap over "
									INT64_FORMAT " frames",
									report->jobs[i], report->jobs[j], frames),
						   "SELECT metric, round(base::numeric, 4) AS base, "
						   "round(tuned::numeric, 4) AS tuned, "
						   "round(difference::numeric, 4) AS difference, "
						   "round(low::numeric, 4) AS low, round(high::numeric, 4) AS high "
						   "FROM avcurate.compare_evaluations($1, $2)",
						   lengthof(params), params);
			break;
		}
}

/* ---- the page ------------------------------------------------------- */

static void
job_section(const Report *report, int64 job)
{
	StringInfo	page = report->page;
	AvcParam	params[] = {AVC_INT8(job)};
	bool		is_null;
	char	   *kind;

	kind = TextDatumGetCString(avc_spi_value("SELECT kind FROM avcurate.jobs WHERE job = $1",
											 lengthof(params), params,
											 CurrentMemoryContext, &is_null));
	avc_page_element(page, "h2", psprintf("Job " INT64_FORMAT ": %s", job, kind));
	avc_page_facts(page, NULL,
				   "SELECT state, role::text, model, checkpoint, slice::text, version, "
				   "device, to_char(started_at, 'YYYY-MM-DD HH24:MI:SS') AS started, "
				   "date_trunc('second', finished_at - started_at)::text AS took, "
				   "round(images_per_s::numeric, 1) AS images_per_s, attempts, error, result "
				   "FROM avcurate.jobs WHERE job = $1", lengthof(params), params);
	avc_page_facts(page, "The version it is pinned to",
				   "SELECT v.slice::text, v.version, v.rows, v.digest, "
				   "to_char(v.created_at, 'YYYY-MM-DD HH24:MI:SS') AS created, "
				   "v.definition, v.note FROM avcurate.jobs AS j "
				   "JOIN avcurate.slice_versions AS v USING (slice, version) WHERE j.job = $1",
				   lengthof(params), params);
	if (strcmp(kind, "train") == 0 || strcmp(kind, "reproduce") == 0)
		training_section(page, job);
	else if (strcmp(kind, "evaluate") == 0)
		evaluation_section(report, job);
	avc_page_table(page, "Log",
				   "SELECT to_char(at, 'YYYY-MM-DD HH24:MI:SS') AS at, level, message "
				   "FROM avcurate.job_log WHERE job = $1 ORDER BY job_log.at LIMIT 200",
				   lengthof(params), params);
}

/* A job that is named twice is shown once. */
static void
add_job(Report *report, int64 job)
{
	int			i;

	for (i = 0; i < report->count; i++)
		if (report->jobs[i] == job)
			return;
	report->jobs[report->count++] = job;
}

static void
read_jobs(Report *report, ArrayType *array)
{
	AvcParam	params[] = {{INT8ARRAYOID, PointerGetDatum(array), false}};
	Datum	   *elements;
	bool	   *nulls;
	bool		is_null;
	Datum		missing;
	int			given;
	int			i;

	deconstruct_array(array, INT8OID, 8, true, 'd', &elements, &nulls,
					  &report->count);
	if (report->count == 0 || report->count > MAX_JOBS ||
		array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("report takes 1 to %d jobs, none of them null",
						MAX_JOBS)));
	given = report->count;
	report->jobs = palloc_array(int64, given);
	report->count = 0;
	for (i = 0; i < given; i++)
		add_job(report, DatumGetInt64(elements[i]));
	missing = avc_spi_value("SELECT string_agg(n::text, ', ' ORDER BY n) FROM (SELECT DISTINCT unnest($1)) AS t (n) "
							"WHERE n NOT IN (SELECT job FROM avcurate.jobs)",
							1, params, CurrentMemoryContext, &is_null);
	if (!is_null)
	{
		char	   *numbers = TextDatumGetCString(missing);

		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 strchr(numbers, ',') != NULL ?
				 errmsg("jobs %s do not exist", numbers) :
				 errmsg("job %s does not exist", numbers),
				 errhint("avcurate.jobs lists the jobs of your roles.")));
	}
}

/*
 * report(jobs) returns text: an HTML page.
 */
Datum
avc_report(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	Report		report = {makeStringInfo()};
	text	   *result;
	int			i;

	SPI_connect();
	read_jobs(&report, PG_GETARG_ARRAYTYPE_P(0));
	avc_page_begin(report.page, report.count == 1 ?
				   psprintf("avcurate: job " INT64_FORMAT, report.jobs[0]) :
				   psprintf("avcurate: %d jobs", report.count));
	avc_page_facts(report.page, NULL,
				   "SELECT d.name AS database, to_char(now(), 'YYYY-MM-DD HH24:MI:SS TZ') AS written, "
				   "d.version FROM (SELECT current_database() AS name, avcurate.version() AS version) AS d",
				   0, NULL);
	comparisons(&report);
	for (i = 0; i < report.count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		job_section(&report, report.jobs[i]);
	}
	avc_page_data(report.page, PG_GETARG_DATUM(0));
	avc_page_end(report.page);
	MemoryContextSwitchTo(caller);
	result = cstring_to_text_with_len(report.page->data, report.page->len);
	SPI_finish();
	PG_RETURN_TEXT_P(result);
}
