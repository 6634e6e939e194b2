/*
 * slices/remake.c
 *		Make a materialized view again with other columns.
 *
 * PostgreSQL adds no column to a materialized view.  So the old view, its
 * indexes and statistics give up their names, a new one is made by ordinary
 * commands, as the view's owner, and what users gave the old one is copied
 * row by row of the catalogs: there is no command that would keep who granted
 * a right.  The old view goes last.  Whatever has a column in it that is no
 * longer there goes with the column, as with DROP COLUMN, and a notice says
 * so.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_statistic_ext.h"
#include "catalog/pg_type.h"
#include "commands/cluster.h"
#include "commands/comment.h"
#include "commands/defrem.h"
#include "commands/seclabel.h"
#include "commands/tablecmds.h"
#include "commands/tablespace.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "slices/refresh.h"

/* An index or a statistics object of the old view. */
typedef struct Part
{
	Oid			class_id;
	Oid			old_id;
	Oid			namespace;
	char	   *name;
	char	   *sql;			/* makes it again; NULL: it cannot be */
} Part;

/* ---- attributes, comments, labels ---- */

static void
copy_comment(Oid class_id, Oid old_id, int old_column, Oid new_id,
			 int new_column)
{
	char	   *comment = GetComment(old_id, class_id, old_column);

	if (comment)
		CreateComments(new_id, class_id, new_column, comment);
}

/* Labels of the object itself and of the columns that are still there. */
static void
copy_labels(Oid old_id, Oid new_id)
{
	AvcParam	params[2] = {AVC_OID(old_id), AVC_OID(new_id)};
	uint64		i;

	avc_spi_exec("SELECT l.provider, l.label, coalesce(n.attnum, 0)::int4 "
				 "FROM pg_catalog.pg_seclabel l "
				 "LEFT JOIN pg_catalog.pg_attribute o "
				 "ON o.attrelid = $1 AND o.attnum = l.objsubid "
				 "LEFT JOIN pg_catalog.pg_attribute n "
				 "ON n.attrelid = $2 AND n.attname = o.attname "
				 "WHERE l.classoid = 'pg_catalog.pg_class'::regclass "
				 "AND l.objoid = $1 "
				 "AND (l.objsubid = 0 OR n.attnum IS NOT NULL)",
				 2, params, false, 0);
	for (i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		ObjectAddress object;
		bool		is_null;

		ObjectAddressSubSet(object, RelationRelationId, new_id,
							DatumGetInt32(SPI_getbinval(row, desc, 3,
														&is_null)));
		SetSecurityLabel(&object, SPI_getvalue(row, desc, 1),
						 SPI_getvalue(row, desc, 2));
	}
}

/* ALTER ... DEPENDS ON EXTENSION */
static void
copy_extensions(Oid class_id, Oid old_id, Oid new_id)
{
	List	   *extensions = getAutoExtensionsOfObject(class_id, old_id);
	ObjectAddress object;
	ObjectAddress extension;
	ListCell   *cell;

	ObjectAddressSet(object, class_id, new_id);
	foreach(cell, extensions)
	{
		ObjectAddressSet(extension, ExtensionRelationId, lfirst_oid(cell));
		recordDependencyOn(&object, &extension, DEPENDENCY_AUTO_EXTENSION);
	}
}

static int
members_of(int cache, HeapTuple tuple, AttrNumber column, Oid **members)
{
	bool		is_null;
	Datum		acl = SysCacheGetAttr(cache, tuple, column, &is_null);

	if (!is_null)
		return aclmembers(DatumGetAclPCopy(acl), members);
	*members = NULL;
	return 0;
}

/* ---- one row of a catalog after the other ---- */

/*
 * Give a row the old row's values in some columns; acl is one of them, whose
 * roles are noted as depended on, or 0.
 */
static void
copy_values(Oid class_id, int cache, HeapTuple old, HeapTuple new,
			const AttrNumber *columns, int count, AttrNumber acl,
			const ObjectAddress *object, Oid owner)
{
	Relation	catalog = table_open(class_id, RowExclusiveLock);
	Datum		values[Natts_pg_class] = {0};
	bool		nulls[Natts_pg_class] = {false};
	bool		replaces[Natts_pg_class] = {false};
	Oid		   *old_members;
	Oid		   *new_members;
	int			old_count;
	int			new_count;
	int			i;

	StaticAssertStmt(Natts_pg_class >= Natts_pg_attribute,
					 "rows of both catalogs must fit");
	for (i = 0; i < count; i++)
	{
		int			at = columns[i] - 1;

		replaces[at] = true;
		values[at] = SysCacheGetAttr(cache, old, columns[i], &nulls[at]);
	}
	if (acl != 0)
	{
		/* what ALTER DEFAULT PRIVILEGES gave the new one is replaced */
		old_count = members_of(cache, new, acl, &old_members);
		new_count = members_of(cache, old, acl, &new_members);
		updateAclDependencies(object->classId, object->objectId,
							  object->objectSubId, owner,
							  old_count, old_members, new_count, new_members);
	}
	new = heap_modify_tuple(new, RelationGetDescr(catalog), values, nulls,
							replaces);
	CatalogTupleUpdate(catalog, &new->t_self, new);
	table_close(catalog, RowExclusiveLock);
	CommandCounterIncrement();
}

static HeapTuple
class_row(Oid relid)
{
	HeapTuple	tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(relid));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "relation %u is gone", relid);
	return tuple;
}

static void
copy_class(Oid old_id, Oid new_id)
{
	static const AttrNumber columns[] = {Anum_pg_class_relacl,
		Anum_pg_class_reloptions, Anum_pg_class_relreplident};
	static const AttrNumber toast_columns[] = {Anum_pg_class_reloptions};
	HeapTuple	old = class_row(old_id);
	HeapTuple	new = class_row(new_id);
	Form_pg_class old_form = (Form_pg_class) GETSTRUCT(old);
	Form_pg_class new_form = (Form_pg_class) GETSTRUCT(new);
	ObjectAddress object;

	ObjectAddressSet(object, RelationRelationId, new_id);
	copy_values(RelationRelationId, RELOID, old, new, columns,
				lengthof(columns), Anum_pg_class_relacl, &object,
				new_form->relowner);
	if (OidIsValid(old_form->reltoastrelid) &&
		OidIsValid(new_form->reltoastrelid))
		copy_values(RelationRelationId, RELOID,
					class_row(old_form->reltoastrelid),
					class_row(new_form->reltoastrelid), toast_columns,
					lengthof(toast_columns), 0, NULL, InvalidOid);
	copy_comment(RelationRelationId, old_id, 0, new_id, 0);
	copy_comment(TypeRelationId, old_form->reltype, 0, new_form->reltype, 0);
	copy_labels(old_id, new_id);
	copy_extensions(RelationRelationId, old_id, new_id);
}

/* Is column "name" there in both views, with one type? */
static bool
is_kept(Oid old_id, Oid new_id, const char *name)
{
	AttrNumber	old = get_attnum(old_id, name);
	AttrNumber	new = get_attnum(new_id, name);
	Oid			types[2];
	int32		typmods[2];
	Oid			collations[2];

	if (old == InvalidAttrNumber || new == InvalidAttrNumber)
		return false;
	get_atttypetypmodcoll(old_id, old, &types[0], &typmods[0],
						  &collations[0]);
	get_atttypetypmodcoll(new_id, new, &types[1], &typmods[1],
						  &collations[1]);
	return types[0] == types[1] && typmods[0] == typmods[1] &&
		collations[0] == collations[1];
}

static void
copy_column(Oid old_id, AttrNumber old_number, Oid new_id,
			AttrNumber new_number, Oid owner)
{
	static const AttrNumber columns[] = {Anum_pg_attribute_attacl,
		Anum_pg_attribute_attstattarget, Anum_pg_attribute_attstorage,
		Anum_pg_attribute_attcompression};
	ObjectAddress object;

	ObjectAddressSubSet(object, RelationRelationId, new_id, new_number);
	copy_values(AttributeRelationId, ATTNUM,
				SearchSysCacheCopyAttNum(old_id, old_number),
				SearchSysCacheCopyAttNum(new_id, new_number),
				columns, lengthof(columns), Anum_pg_attribute_attacl,
				&object, owner);
	copy_comment(RelationRelationId, old_id, old_number, new_id, new_number);
}

/*
 * ALTER COLUMN ... SET (options).  By a command, because newer minor releases
 * of PostgreSQL keep a version of the attribute among its options, which is
 * its own.
 */
static void
copy_options(Oid old_id, Oid new_id, const char *name, Oid owner)
{
	AvcParam	params[2] = {AVC_OID(old_id), AVC_TEXT(name)};
	AvcRoleScope scope;
	char	   *options;

	avc_spi_exec("SELECT string_agg(format('%I = %L', option_name, "
				 "option_value), ', ') FROM pg_catalog.pg_attribute, "
				 "pg_catalog.pg_options_to_table(attoptions) "
				 "WHERE attrelid = $1 AND attname = $2 "
				 "AND option_name <> 'pg_attver'", 2, params, false, 0);
	options = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (options == NULL)
		return;
	avc_role_enter(&scope, owner);
	avc_spi_exec(psprintf("ALTER MATERIALIZED VIEW %s ALTER COLUMN %s "
						  "SET (%s)", avc_relation_name(new_id),
						  quote_identifier(name), options), 0, NULL, false, 0);
	avc_role_leave(&scope);
}

static void
copy_columns(Oid old_id, Oid new_id)
{
	Relation	rel = table_open(old_id, NoLock);
	TupleDesc	desc = RelationGetDescr(rel);
	int			i;

	for (i = 0; i < desc->natts; i++)
	{
		char	   *name = NameStr(TupleDescAttr(desc, i)->attname);

		if (!is_kept(old_id, new_id, name))
			continue;
		copy_column(old_id, i + 1, new_id, get_attnum(new_id, name),
					rel->rd_rel->relowner);
		copy_options(old_id, new_id, name, rel->rd_rel->relowner);
	}
	table_close(rel, NoLock);
}

/* ---- indexes and statistics ---- */

static Part *
add_part(List **parts, Oid class_id, Oid id, Oid namespace, char *name,
		 char *sql)
{
	Part	   *part = palloc0_object(Part);

	part->class_id = class_id;
	part->old_id = id;
	part->namespace = namespace;
	part->name = name;
	part->sql = sql;
	*parts = lappend(*parts, part);
	return part;
}

static List *
list_parts(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	List	   *parts = NIL;
	ListCell   *cell;

	foreach(cell, RelationGetIndexList(rel))
	{
		Oid			id = lfirst_oid(cell);

		add_part(&parts, RelationRelationId, id, get_rel_namespace(id),
				 get_rel_name(id),
				 get_index_isvalid(id) ? pg_get_indexdef_string(id) : NULL);
	}
	foreach(cell, RelationGetStatExtList(rel))
	{
		Oid			id = lfirst_oid(cell);
		HeapTuple	tuple = SearchSysCache1(STATEXTOID, ObjectIdGetDatum(id));
		Form_pg_statistic_ext form = (Form_pg_statistic_ext) GETSTRUCT(tuple);

		add_part(&parts, StatisticExtRelationId, id, form->stxnamespace,
				 pstrdup(NameStr(form->stxname)),
				 pg_get_statisticsobjdef_string(id));
		ReleaseSysCache(tuple);
	}
	table_close(rel, NoLock);
	return parts;
}

static HeapTuple
statistics_row(Oid id)
{
	HeapTuple	tuple = SearchSysCacheCopy1(STATEXTOID, ObjectIdGetDatum(id));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "statistics object %u is gone", id);
	return tuple;
}

static void
write_statistics(HeapTuple tuple)
{
	Relation	catalog = table_open(StatisticExtRelationId, RowExclusiveLock);

	CatalogTupleUpdate(catalog, &tuple->t_self, tuple);
	table_close(catalog, RowExclusiveLock);
	CommandCounterIncrement();
}

/* Free the names of a view and its parts for the new ones. */
static void
give_up_names(Oid relid, const List *parts)
{
	ListCell   *cell;

	foreach(cell, parts)
	{
		Part	   *part = lfirst(cell);

		if (part->class_id == RelationRelationId)
			RenameRelationInternal(part->old_id,
								   ChooseRelationName(part->name, NULL, "old",
													  part->namespace, false),
								   true, true);
		else
		{
			HeapTuple	tuple = statistics_row(part->old_id);

			namestrcpy(&((Form_pg_statistic_ext) GETSTRUCT(tuple))->stxname,
					   psprintf("avcurate_old_%u", part->old_id));
			write_statistics(tuple);
		}
	}
	RenameRelationInternal(relid,
						   ChooseRelationName(get_rel_name(relid), NULL,
											  "old", get_rel_namespace(relid),
											  false), true, false);
}

/* Does the part need a column of the old view that the new one lacks? */
static char *
lost_column(const Part *part, Oid old_id, Oid new_id)
{
	AvcParam	params[3] = {AVC_OID(part->class_id), AVC_OID(part->old_id),
	AVC_OID(old_id)};
	uint64		i;

	avc_spi_exec("SELECT a.attname FROM pg_catalog.pg_depend d "
				 "JOIN pg_catalog.pg_attribute a "
				 "ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid "
				 "WHERE d.classid = $1 AND d.objid = $2 AND d.refclassid = "
				 "'pg_catalog.pg_class'::regclass AND d.refobjid = $3 "
				 "ORDER BY a.attnum", 3, params, false, 0);
	for (i = 0; i < SPI_processed; i++)
	{
		char	   *name = SPI_getvalue(SPI_tuptable->vals[i],
										SPI_tuptable->tupdesc, 1);

		if (!is_kept(old_id, new_id, name))
			return name;
	}
	return NULL;
}

static void
copy_index(Oid old_id, Oid new_id, Oid relid)
{
	Relation	old = index_open(old_id, NoLock);
	Relation	rel;
	int			i;

	for (i = 1; i <= RelationGetNumberOfAttributes(old); i++)
		copy_column(old_id, i, new_id, i, old->rd_rel->relowner);
	if (old->rd_index->indisclustered)
	{
		rel = table_open(relid, NoLock);
		mark_index_clustered(rel, new_id, true);
		table_close(rel, NoLock);
		CommandCounterIncrement();
	}
	index_close(old, NoLock);
}

static void
copy_statistics(Oid old_id, Oid new_id)
{
	Form_pg_statistic_ext old = (Form_pg_statistic_ext) GETSTRUCT(statistics_row(old_id));
	HeapTuple	tuple = statistics_row(new_id);
	Form_pg_statistic_ext new = (Form_pg_statistic_ext) GETSTRUCT(tuple);

	if (new->stxowner != old->stxowner)
		changeDependencyOnOwner(StatisticExtRelationId, new_id, old->stxowner);
	new->stxowner = old->stxowner;
	new->stxstattarget = old->stxstattarget;
	write_statistics(tuple);
}

static void
remake_part(const Part *part, Oid old_id, Oid new_id, Oid owner)
{
	char	   *kind = part->class_id == RelationRelationId ? "index" :
	"statistics object";
	char	   *lost = lost_column(part, old_id, new_id);
	AvcRoleScope scope;
	Oid			id;

	if (lost || part->sql == NULL)
	{
		ereport(NOTICE,
				(lost ?
				 errmsg("%s \"%s\" is dropped with column \"%s\"", kind,
						part->name, lost) :
				 errmsg("invalid index \"%s\" is dropped", part->name)));
		return;
	}
	avc_role_enter(&scope, owner);
	avc_spi_exec(part->sql, 0, NULL, false, 0);
	avc_role_leave(&scope);
	if (part->class_id == RelationRelationId)
	{
		id = get_relname_relid(part->name, part->namespace);
		copy_index(part->old_id, id, new_id);
	}
	else
	{
		id = GetSysCacheOid2(STATEXTNAMENSP, Anum_pg_statistic_ext_oid,
							 CStringGetDatum(part->name),
							 ObjectIdGetDatum(part->namespace));
		copy_statistics(part->old_id, id);
	}
	copy_comment(part->class_id, part->old_id, 0, id, 0);
	copy_extensions(part->class_id, part->old_id, id);
}

/* ---- the view ---- */

/* An error that names what else reads the view or its row type. */
static void
check_no_dependants(Oid relid)
{
	AvcParam	param = AVC_OID(relid);
	StringInfoData names;
	uint64		i;

	/* what belongs to the view, and what depends on any of it */
	avc_spi_exec("WITH RECURSIVE own(classid, objid) AS ("
				 "SELECT 'pg_catalog.pg_class'::regclass::oid, $1 UNION "
				 "SELECT d.classid, d.objid FROM own o "
				 "JOIN pg_catalog.pg_depend d ON d.refclassid = o.classid "
				 "AND d.refobjid = o.objid AND d.deptype IN ('i', 'a')) "
				 "SELECT DISTINCT CASE WHEN r.oid IS NULL THEN "
				 "pg_catalog.pg_describe_object(d.classid, d.objid, 0) ELSE "
				 "pg_catalog.pg_describe_object('pg_catalog.pg_class'::regclass, "
				 "r.ev_class, 0) END FROM own o "
				 "JOIN pg_catalog.pg_depend d ON d.refclassid = o.classid "
				 "AND d.refobjid = o.objid AND d.deptype NOT IN ('i', 'a') "
				 "LEFT JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid "
				 "AND d.classid = 'pg_catalog.pg_rewrite'::regclass "
				 "WHERE (d.classid, d.objid) NOT IN "
				 "(SELECT classid, objid FROM own) ORDER BY 1",
				 1, &param, false, 0);
	if (SPI_processed == 0)
		return;
	initStringInfo(&names);
	for (i = 0; i < SPI_processed; i++)
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "",
						 SPI_getvalue(SPI_tuptable->vals[i],
									  SPI_tuptable->tupdesc, 1));
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot change the columns of slice %s because other objects depend on it",
					avc_relation_name(relid)),
			 errdetail("Depending on it: %s.", names.data),
			 errhint("Drop them first and make them again afterwards; a new filter alone needs none of this.")));
}

/* CREATE MATERIALIZED VIEW ... WITH NO DATA as the old view's owner. */
static Oid
create_view(Relation old, char *name, const char *sql)
{
	Oid			namespace = RelationGetNamespace(old);
	Oid			tablespace = old->rd_rel->reltablespace;
	char	   *place = "";
	AvcRoleScope scope;

	if (OidIsValid(tablespace))
		place = psprintf("TABLESPACE %s",
						 quote_identifier(get_tablespace_name(tablespace)));
	avc_role_enter(&scope, old->rd_rel->relowner);
	(void) set_config_option("default_tablespace", "", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	avc_spi_exec(psprintf("CREATE MATERIALIZED VIEW %s USING %s %s AS %s "
						  "WITH NO DATA",
						  quote_qualified_identifier(get_namespace_name(namespace),
													 name),
						  quote_identifier(get_am_name(old->rd_rel->relam)),
						  place, sql), 0, NULL, false, 0);
	avc_role_leave(&scope);
	return get_relname_relid(name, namespace);
}

Oid
avc_view_remake(Oid relid, const char *sql)
{
	Relation	old = table_open(relid, NoLock);
	char	   *name = pstrdup(RelationGetRelationName(old));
	Oid			owner = old->rd_rel->relowner;
	AvcRoleScope scope;
	List	   *parts;
	ListCell   *cell;
	Oid			new_id;

	CheckTableNotInUse(old, "alter");
	avc_catalog_enter(&scope);
	SPI_connect();
	check_no_dependants(relid);
	parts = list_parts(relid);
	give_up_names(relid, parts);
	new_id = create_view(old, name, sql);
	table_close(old, NoLock);
	LockRelationOid(new_id, AccessExclusiveLock);
	copy_class(relid, new_id);
	copy_columns(relid, new_id);
	foreach(cell, parts)
		remake_part(lfirst(cell), relid, new_id, owner);
	avc_catalog_leave(&scope);

	avc_role_enter(&scope, owner);
	avc_spi_exec(psprintf("DROP MATERIALIZED VIEW %s",
						  avc_relation_name(relid)), 0, NULL, false, 0);
	avc_role_leave(&scope);
	SPI_finish();
	return new_id;
}
