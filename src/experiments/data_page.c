/*
 * experiments/data_page.c
 *		The section of a report that shows what its jobs learned from.
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "common/attempt.h"
#include "experiments/data_page.h"
#include "experiments/page.h"

#define MAX_VERSIONS 4			/* each is read once for every table */

/* A version of a slice, and the one it is compared with. */
typedef struct Version
{
	StringInfo	page;
	Oid			slice;
	int64		number;
	char	   *title;
	const struct Version *first;
} Version;

static void
show_contents(void *argument)
{
	const Version *version = argument;
	StringInfo	page = version->page;
	AvcParam	params[] = {
		AVC_REGCLASS(version->slice), AVC_INT8(version->number)
	};

	avc_page_table(page, "Frames by weather, time of day and scene: the 20 most frequent",
				   "SELECT coalesce(weather, 'not known') AS weather, "
				   "coalesce(timeofday, 'not known') AS \"time of day\", "
				   "coalesce(scene, 'not known') AS scene, frames, "
				   "round(pct::numeric, 1) AS \"%\", labelled, boxes, ignored "
				   "FROM avcurate.scene_counts($1, $2) LIMIT 20",
				   lengthof(params), params);
	avc_page_table(page, "Boxes by category and size (COCO: small below 32 x 32 pixels, medium below 96 x 96), "
				   "and their share of the frame",
				   "SELECT category, frames, boxes, small, medium, large, "
				   "round(mean_pct::numeric, 2) AS \"mean %\", "
				   "round(max_pct::numeric, 1) AS \"max %\", ignored "
				   "FROM avcurate.box_sizes($1, $2) LIMIT 30",
				   lengthof(params), params);
	avc_page_table(page, "Categories in one frame: the 15 most frequent pairs, their share of the frames with each, "
				   "and how many times as often as by chance",
				   "SELECT category, other AS \"and\", frames, "
				   "round(100 * of_category::numeric, 1) AS \"% of the first\", "
				   "round(100 * of_other::numeric, 1) AS \"% of the second\", "
				   "round(lift::numeric, 2) AS lift FROM avcurate.category_pairs($1, $2) "
				   "ORDER BY frames DESC, category, other LIMIT 15",
				   lengthof(params), params);
}

static void
show_drift(void *argument)
{
	const Version *version = argument;
	AvcParam	params[] = {
		AVC_REGCLASS(version->first->slice), AVC_INT8(version->first->number),
		AVC_INT8(version->number), AVC_REGCLASS(version->slice)
	};

	avc_page_table(version->page,
				   psprintf("Drift from %s: Jensen-Shannon divergence, 0 = the same, 1 = nothing in common",
							version->first->title),
				   "SELECT variable, before, after, round(divergence::numeric, 4) AS divergence, "
				   "CASE WHEN divergence > 0 THEN coalesce(most, 'not known') END AS \"most of it\" FROM avcurate.slice_drift($1, $2, $3, $4)",
				   lengthof(params), params);
}

/* Run a part; a note in its place if the reader may not see it. */
static void
attempt_part(AvcStep part, Version *version)
{
	StringInfo	page = version->page;
	int			length = page->len;
	AvcFailure	failure;

	if (avc_attempt(part, version, &failure))
		return;
	page->len = length;
	page->data[length] = '\0';
	appendStringInfoString(page, "<p class=\"note\">");
	avc_page_text(page, failure.message);
	appendStringInfoString(page, "</p>\n");
}

void
avc_page_data(StringInfo page, Datum jobs)
{
	AvcParam	params[] = {{INT8ARRAYOID, jobs, false}};
	int			count = (int)
	avc_spi_exec("SELECT slice::oid, version, format('%s, version %s', slice, version) "
				 "FROM avcurate.jobs WHERE job = ANY ($1) AND slice IS NOT NULL "
				 "AND version IS NOT NULL GROUP BY slice, version ORDER BY min(job)",
				 lengthof(params), params, true, 0);
	SPITupleTable *table = SPI_tuptable;
	Version    *versions = palloc0_array(Version, MAX_VERSIONS);
	int			i;

	if (count == 0)
		return;
	avc_page_element(page, "h2", "Data");
	for (i = 0; i < Min(count, MAX_VERSIONS); i++)
	{
		HeapTuple	tuple = table->vals[i];
		bool		is_null;

		versions[i] = (Version) {
			page, DatumGetObjectId(SPI_getbinval(tuple, table->tupdesc, 1, &is_null)),
			DatumGetInt64(SPI_getbinval(tuple, table->tupdesc, 2, &is_null)),
			SPI_getvalue(tuple, table->tupdesc, 3), &versions[0]
		};
		avc_page_element(page, "h3", versions[i].title);
		attempt_part(show_contents, &versions[i]);
		if (i > 0)
			attempt_part(show_drift, &versions[i]);
	}
	if (count > MAX_VERSIONS)
		avc_page_element(page, "p", psprintf("%d more versions are not shown.",
											 count - MAX_VERSIONS));
}
