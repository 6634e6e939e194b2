/*
 * features/feature_graph.c
 *		The features of a dataset: what reads what, in dependency order.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "features/feature.h"

AvcFeature *
avc_feature_find(List *features, const char *name)
{
	ListCell   *cell;

	foreach(cell, features)
	{
		if (strcmp(((AvcFeature *) lfirst(cell))->name, name) == 0)
			return lfirst(cell);
	}
	return NULL;
}

List *
avc_add_name(List *names, char *name)
{
	ListCell   *cell;

	foreach(cell, names)
	{
		if (strcmp(lfirst(cell), name) == 0)
			return names;
	}
	return lappend(names, name);
}

/* A name[] as a list of C strings. */
static List *
names_to_list(Datum array)
{
	Datum	   *names;
	int			count;
	int			i;
	List	   *list = NIL;

	deconstruct_array(DatumGetArrayTypeP(array), NAMEOID, NAMEDATALEN, false,
					  TYPALIGN_CHAR, &names, NULL, &count);
	for (i = 0; i < count; i++)
		list = lappend(list, pstrdup(NameStr(*DatumGetName(names[i]))));
	return list;
}

/* Link each feature to those that it reads. */
static void
link_features(List *features)
{
	ListCell   *cell,
			   *read;

	foreach(cell, features)
	{
		AvcFeature *feature = lfirst(cell);

		foreach(read, feature->reads)
		{
			AvcFeature *need = avc_feature_find(features, lfirst(read));

			if (need != NULL)
				feature->needs = lappend(feature->needs, need);
		}
	}
}

/*
 * What features depend on through others.  In dependency order each is known
 * from those that it reads itself, so a chain costs no more than its length.
 */
static void
sum_up_features(List *sorted)
{
	ListCell   *cell,
			   *other,
			   *input;

	foreach(cell, sorted)
	{
		AvcFeature *feature = lfirst(cell);

		feature->all_needs = list_copy(feature->needs);
		feature->inputs = list_copy(feature->reads);
		foreach(other, feature->needs)
		{
			AvcFeature *need = lfirst(other);

			feature->all_needs = list_concat_unique_ptr(feature->all_needs,
														need->all_needs);
			foreach(input, need->inputs)
				feature->inputs = avc_add_name(feature->inputs,
											   lfirst(input));
		}
	}
}

/* Order them by level. */
static List *
sort_features(List *features)
{
	List	   *sorted = NIL;
	ListCell   *cell,
			   *read;
	int			level;
	bool		is_moved;

	do
	{
		is_moved = false;
		foreach(cell, features)
		{
			AvcFeature *feature = lfirst(cell);

			foreach(read, feature->needs)
			{
				level = ((AvcFeature *) lfirst(read))->level + 1;
				if (level <= feature->level)
					continue;
				/* add_feature and alter_feature let no cycle in */
				if (level > list_length(features))
					elog(ERROR, "features read each other in a circle");
				feature->level = level;
				is_moved = true;
			}
		}
	} while (is_moved);
	for (level = 0; list_length(sorted) < list_length(features); level++)
	{
		foreach(cell, features)
		{
			if (((AvcFeature *) lfirst(cell))->level == level)
				sorted = lappend(sorted, lfirst(cell));
		}
	}
	return sorted;
}

List *
avc_features_load(Oid dataset)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *features = NIL;
	AvcRoleScope scope;
	uint64		count;
	uint64		i;
	bool		is_null;

	avc_catalog_enter(&scope);
	count = avc_spi_exec("SELECT feature, feature_no, resolved, reads"
						 " FROM _avcurate.features WHERE dataset = $1"
						 " ORDER BY feature_no",
						 1, (AvcParam[]) {AVC_REGCLASS(dataset)}, false, 0);
	for (i = 0; i < count; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		AvcFeature *feature = palloc0(sizeof(AvcFeature));

		feature->name = pstrdup(NameStr(*DatumGetName(avc_spi_column(i, "feature", &is_null))));
		feature->number = DatumGetInt32(avc_spi_column(i, "feature_no",
													   &is_null));
		feature->expression = TextDatumGetCString(avc_spi_column(i, "resolved",
																 &is_null));
		feature->reads = names_to_list(avc_spi_column(i, "reads", &is_null));
		features = lappend(features, feature);
		MemoryContextSwitchTo(old);
	}
	SPI_freetuptable(SPI_tuptable);
	avc_catalog_leave(&scope);
	link_features(features);
	features = sort_features(features);
	sum_up_features(features);
	return features;
}
