/*
 * datasets/dataset.c
 *		Make, find, count and drop datasets.
 *
 * A dataset is an ordinary table of the user who made it, so that pg_dump,
 * grants, row security and DROP TABLE work on it as on any other.  The
 * registry only remembers that it is one, and which view shows its boxes.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "common/catalog.h"
#include "common/dropped.h"
#include "common/spi.h"
#include "datasets/dataset.h"

PG_FUNCTION_INFO_V1(avc_create_dataset);
PG_FUNCTION_INFO_V1(avc_drop_dataset);
PG_FUNCTION_INFO_V1(avc_dataset_counts);
PG_FUNCTION_INFO_V1(avc_dataset_dropped);

#define BOXES_SUFFIX "_boxes"

/*
 * Columns in physical order: fixed width first, then what filters read, the
 * image last.  The TOAST target keeps boxes and image out of the scanned
 * heap; the rest is MAIN, so it is compressed at most.  The space left in each
 * page lets features be stored by HOT updates.  $table and $boxes are replaced
 * by quoted names.
 */
static const char create_table_sql[] =
"CREATE TABLE $table (\n"
"	frame_id		bigint		GENERATED ALWAYS AS IDENTITY PRIMARY KEY,\n"
"	frame_time		timestamptz,\n"
"	width			integer		NOT NULL,\n"
"	height			integer		NOT NULL,\n"
"	image_sha256	bytea		NOT NULL,\n"
"	image_id		text		NOT NULL UNIQUE,\n"
"	split			text,\n"
"	weather			text,\n"
"	scene			text,\n"
"	timeofday		text,\n"
"	ann_categories	text[],\n"
"	ann_bboxes		real[][],\n"
"	ann_occluded	boolean[],\n"
"	ann_truncated	boolean[],\n"
"	ann_ignored		boolean[],\n"
"	ann_area		real[],\n"
"	image_bytes		bytea		NOT NULL,\n"
"	" AVC_MARKS_COLUMN "	bytea\n"
") WITH (toast_tuple_target = 256, fillfactor = 90);\n"
"ALTER TABLE $table\n"
"	ALTER image_bytes SET STORAGE EXTERNAL,\n"
"	ALTER ann_bboxes SET STORAGE EXTERNAL,\n"
"	ALTER image_id SET STORAGE MAIN,\n"
"	ALTER split SET STORAGE MAIN,\n"
"	ALTER weather SET STORAGE MAIN,\n"
"	ALTER scene SET STORAGE MAIN,\n"
"	ALTER timeofday SET STORAGE MAIN,\n"
"	ALTER ann_categories SET STORAGE MAIN,\n"
"	ALTER ann_occluded SET STORAGE MAIN,\n"
"	ALTER ann_truncated SET STORAGE MAIN,\n"
"	ALTER ann_ignored SET STORAGE MAIN,\n"
"	ALTER ann_area SET STORAGE MAIN,\n"
"	ALTER image_sha256 SET STORAGE PLAIN,\n"
"	ALTER " AVC_MARKS_COLUMN " SET STORAGE MAIN;\n"
"CREATE TRIGGER avc_check_frame BEFORE INSERT OR UPDATE OF frame_id, width,\n"
"	height, image_sha256, image_bytes, ann_categories, ann_bboxes,\n"
"	ann_occluded, ann_truncated, ann_ignored, ann_area ON $table\n"
"	FOR EACH ROW EXECUTE FUNCTION avcurate.check_frame();\n";

static const char create_view_sql[] =
"CREATE VIEW $boxes WITH (security_invoker = true) AS\n"
"SELECT f.frame_id, f.image_id, b.box_no, b.category, b.x1, b.y1, b.x2,\n"
"	b.y2, b.area_pct, b.occluded, b.truncated, b.ignored\n"
"FROM $table f, LATERAL avcurate.frame_boxes(f.ann_categories, f.ann_bboxes,\n"
"	f.ann_occluded, f.ann_truncated, f.ann_ignored, f.width, f.height) b;\n"
"COMMENT ON VIEW $boxes IS 'one row a box of the dataset''s frames';\n";

static const char comments_sql[] =
"COMMENT ON TABLE $table IS 'avcurate dataset: one row a driving frame';\n"
"COMMENT ON COLUMN $table.frame_id IS 'key of the frame; never changes';\n"
"COMMENT ON COLUMN $table.frame_time IS 'when the frame was taken';\n"
"COMMENT ON COLUMN $table.width IS 'pixels, from the JPEG header';\n"
"COMMENT ON COLUMN $table.height IS 'pixels, from the JPEG header';\n"
"COMMENT ON COLUMN $table.image_sha256 IS 'sha256 of image_bytes';\n"
"COMMENT ON COLUMN $table.image_id IS 'name of the frame in its source';\n"
"COMMENT ON COLUMN $table.split IS 'train, val or test; NULL = not known';\n"
"COMMENT ON COLUMN $table.weather IS 'NULL = not known';\n"
"COMMENT ON COLUMN $table.scene IS 'NULL = not known';\n"
"COMMENT ON COLUMN $table.timeofday IS 'NULL = not known';\n"
"COMMENT ON COLUMN $table.ann_categories IS 'class of each box; NULL = not labelled, empty = no boxes';\n"
"COMMENT ON COLUMN $table.ann_bboxes IS 'n x 4: x1, y1, x2, y2 in pixels';\n"
"COMMENT ON COLUMN $table.ann_occluded IS 'is each box occluded; NULL = not known';\n"
"COMMENT ON COLUMN $table.ann_truncated IS 'does each object leave the frame; NULL = not known';\n"
"COMMENT ON COLUMN $table.ann_ignored IS 'crowd or ignored class; NULL = none';\n"
"COMMENT ON COLUMN $table.ann_area IS 'square pixels; NULL = width times height of the box';\n"
"COMMENT ON COLUMN $table.image_bytes IS 'the JPEG file';\n"
"COMMENT ON COLUMN $table." AVC_MARKS_COLUMN " IS 'which features of the row are done or failed; kept by avcurate';\n";

/* Both names go in at once: a name may look like a place for the other. */
static void
run_ddl(const char *sql, const char *table, const char *boxes)
{
	StringInfoData text;

	initStringInfo(&text);
	while (*sql != '\0')
	{
		if (strncmp(sql, "$table", 6) == 0)
		{
			appendStringInfoString(&text, table);
			sql += 6;
		}
		else if (strncmp(sql, "$boxes", 6) == 0)
		{
			appendStringInfoString(&text, boxes);
			sql += 6;
		}
		else
			appendStringInfoChar(&text, *sql++);
	}
	avc_spi_exec(text.data, 0, NULL, false, 0);
}

static void
check_is_free(Oid schema, const char *name)
{
	if (OidIsValid(get_relname_relid(name, schema)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_TABLE),
				 errmsg("relation \"%s\" already exists in schema \"%s\"",
						name, get_namespace_name(schema)),
				 errhint("Choose another name for the dataset.")));
}

/* Where the new table goes; refuses what could not work later. */
static void
check_new_name(const RangeVar *name, Oid *schema)
{
	AclResult	acl;

	if (strlen(name->relname) + strlen(BOXES_SUFFIX) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("name of dataset \"%s\" is too long", name->relname),
				 errhint("Use at most %d bytes, so that the view of its boxes can be named after it.",
						 (int) (NAMEDATALEN - 1 - strlen(BOXES_SUFFIX)))));
	*schema = RangeVarGetCreationNamespace(name);
	if (isTempOrTempToastNamespace(*schema))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("dataset \"%s\" cannot be a temporary table",
						name->relname),
				 errhint("Name a schema that background workers can read, too.")));
	if (*schema == get_namespace_oid("avcurate", true) ||
		*schema == get_namespace_oid("_avcurate", true))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_SCHEMA_NAME),
				 errmsg("dataset \"%s\" cannot be in schema \"%s\"",
						name->relname, get_namespace_name(*schema)),
				 errhint("That schema is the extension's, and goes with it; name another one.")));
	acl = pg_namespace_aclcheck(*schema, GetUserId(), ACL_CREATE);
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_SCHEMA, get_namespace_name(*schema));
	check_is_free(*schema, name->relname);
	check_is_free(*schema, psprintf("%s" BOXES_SUFFIX, name->relname));
}

/* A name as in SQL: folded to lower case unless it is quoted. */
static RangeVar *
parse_name(text *name)
{
	List	   *parts;

	if (!SplitIdentifierString(text_to_cstring(name), '.', &parts) ||
		parts == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("\"%s\" is not the name of a table",
						text_to_cstring(name)),
				 errhint("Names are written as in SQL: with blanks or other signs they stand in double quotes.")));
	return makeRangeVarFromNameList(textToQualifiedNameList(name));
}

Datum
avc_create_dataset(PG_FUNCTION_ARGS)
{
	RangeVar   *name = parse_name(PG_GETARG_TEXT_PP(0));
	char	   *boxes_name;
	char	   *quoted_table;
	char	   *quoted_boxes;
	AvcRoleScope scope;
	Oid			schema;
	Oid			table;
	Oid			boxes;

	check_new_name(name, &schema);
	boxes_name = psprintf("%s" BOXES_SUFFIX, name->relname);
	quoted_table = quote_qualified_identifier(get_namespace_name(schema),
											  name->relname);
	quoted_boxes = quote_qualified_identifier(get_namespace_name(schema),
											  boxes_name);

	SPI_connect();
	/* as the caller, who needs CREATE on the schema, with a pinned path */
	avc_role_enter(&scope, GetUserId());
	run_ddl(create_table_sql, quoted_table, quoted_boxes);
	run_ddl(create_view_sql, quoted_table, quoted_boxes);
	run_ddl(comments_sql, quoted_table, quoted_boxes);
	avc_role_leave(&scope);

	table = get_relname_relid(name->relname, schema);
	boxes = get_relname_relid(boxes_name, schema);
	if (!OidIsValid(table) || !OidIsValid(boxes))
		elog(ERROR, "dataset %s vanished while it was made", quoted_table);
	avc_catalog_enter(&scope);
	avc_spi_exec("INSERT INTO _avcurate.datasets (dataset, boxes)"
				 " VALUES ($1, $2)",
				 2, (AvcParam[]) {AVC_REGCLASS(table), AVC_REGCLASS(boxes)},
				 false, 0);
	avc_catalog_leave(&scope);
	SPI_finish();
	PG_RETURN_OID(table);
}

AvcDataset *
avc_dataset_find(Oid relid, bool missing_ok)
{
	AvcDataset *dataset = NULL;
	HeapTuple	tuple;
	AvcRoleScope scope;
	MemoryContext caller = CurrentMemoryContext;
	TimestampTz created_at = 0;
	bool		is_null = true;

	SPI_connect();
	avc_catalog_enter(&scope);
	created_at = DatumGetTimestampTz(
		avc_spi_value("SELECT created_at FROM _avcurate.datasets"
					  " WHERE dataset = $1",
					  1, (AvcParam[]) {AVC_REGCLASS(relid)}, caller,
					  &is_null));
	avc_catalog_leave(&scope);
	SPI_finish();
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	/* its owner can make a table into a view: that is no dataset any more */
	if (!is_null && HeapTupleIsValid(tuple) &&
		((Form_pg_class) GETSTRUCT(tuple))->relkind == RELKIND_RELATION)
	{
		Form_pg_class class = (Form_pg_class) GETSTRUCT(tuple);

		dataset = palloc0(sizeof(AvcDataset));
		dataset->relid = relid;
		dataset->owner = class->relowner;
		dataset->schema_name = get_namespace_name(class->relnamespace);
		dataset->table_name = pstrdup(NameStr(class->relname));
		dataset->quoted_name = quote_qualified_identifier(dataset->schema_name,
														  dataset->table_name);
		dataset->created_at = created_at;
	}
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	if (dataset == NULL && !missing_ok)
	{
		char	   *name = get_rel_name(relid);

		if (name == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("dataset with OID %u does not exist", relid)));
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a dataset", name),
				 errhint("Datasets are made by avcurate.create_dataset().")));
	}
	return dataset;
}

AvcDataset *
avc_dataset_find_owned(Oid relid)
{
	AvcDataset *dataset = avc_dataset_find(relid, false);

	avc_require_owner(relid);
	return dataset;
}

AvcDataset *
avc_dataset_lock_owned(Oid relid, LOCKMODE mode)
{
	/* strangers cannot take the lock */
	(void) avc_dataset_find_owned(relid);
	LockRelationOid(relid, mode);
	/* name and owner may be others than before the wait */
	return avc_dataset_find_owned(relid);
}

void
avc_dataset_hold(const AvcDataset *dataset, LOCKMODE mode)
{
	HeapTuple	tuple;
	bool		is_same = false;

	LockRelationOid(dataset->relid, mode);
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(dataset->relid));
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_class class = (Form_pg_class) GETSTRUCT(tuple);
		char	   *schema = get_namespace_name(class->relnamespace);

		is_same = class->relowner == dataset->owner && schema != NULL &&
			strcmp(NameStr(class->relname), dataset->table_name) == 0 &&
			strcmp(schema, dataset->schema_name) == 0;
		ReleaseSysCache(tuple);
	}
	if (!is_same)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("dataset \"%s\" was renamed, dropped or given to another owner meanwhile",
						dataset->table_name),
				 errhint("Start again, with the dataset as it is called now.")));
}

AttrNumber
avc_dataset_column(const AvcDataset *dataset, const char *column)
{
	return get_attnum(dataset->relid, column);
}

const char *
avc_dataset_strange_column(Oid relid)
{
	static const struct
	{
		const char *name;
		Oid			type;
	}			columns[] =
	{
		{"frame_id", INT8OID},
		{"image_sha256", BYTEAOID},
		{"image_bytes", BYTEAOID},
		{"ann_categories", TEXTARRAYOID},
		{AVC_MARKS_COLUMN, BYTEAOID},
	};
	int			i;

	for (i = 0; i < lengthof(columns); i++)
	{
		AttrNumber	number = get_attnum(relid, columns[i].name);

		if (number <= 0 || get_atttype(relid, number) != columns[i].type)
			return columns[i].name;
	}
	return NULL;
}

bool
avc_dataset_is_countable(const AvcDataset *dataset)
{
	AclResult	acl;

	acl = pg_class_aclcheck(dataset->relid, GetUserId(), ACL_SELECT);
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_TABLE, dataset->table_name);
	return check_enable_rls(dataset->relid, GetUserId(), true) != RLS_ENABLED;
}

/* What slices and checkpoints would lose, as text; NULL if nothing. */
static char *
find_holders(Oid relid)
{
	static const char slices_sql[] =
		"SELECT pg_catalog.string_agg(DISTINCT 'materialized view ' || c.oid::pg_catalog.regclass::text, ', ')"
		" FROM pg_catalog.pg_depend d"
		" JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid"
		" JOIN pg_catalog.pg_class c ON c.oid = r.ev_class AND c.relkind = 'm'"
		" WHERE d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = $1";
	static const char checkpoints_sql[] =
		"SELECT pg_catalog.string_agg('checkpoint ' || k.checkpoint, ', ' ORDER BY k.checkpoint)"
		" FROM _avcurate.checkpoints k JOIN _avcurate.slices s USING (slice_id)"
		" WHERE s.dataset = $1";
	const char *const queries[] = {slices_sql, checkpoints_sql};
	StringInfoData holders;
	int			i;

	initStringInfo(&holders);
	for (i = 0; i < lengthof(queries); i++)
	{
		bool		is_null;
		Datum		value;

		value = avc_spi_value(queries[i], 1,
							  (AvcParam[]) {AVC_REGCLASS(relid)},
							  CurrentMemoryContext, &is_null);
		if (!is_null)
			appendStringInfo(&holders, "%s%s", holders.len > 0 ? ", " : "",
							 TextDatumGetCString(value));
	}
	return holders.len > 0 ? holders.data : NULL;
}

Datum
avc_drop_dataset(PG_FUNCTION_ARGS)
{
	AvcDataset *dataset = avc_dataset_lock_owned(PG_GETARG_OID(0),
												 AccessExclusiveLock);
	bool		force = PG_GETARG_BOOL(1);
	AvcRoleScope scope;
	char	   *holders = NULL;
	Oid			boxes;
	bool		is_null;

	SPI_connect();
	avc_catalog_enter(&scope);
	if (!force)
		holders = find_holders(dataset->relid);
	boxes = DatumGetObjectId(
		avc_spi_value("SELECT boxes FROM _avcurate.datasets"
					  " WHERE dataset = $1",
					  1, (AvcParam[]) {AVC_REGCLASS(dataset->relid)},
					  CurrentMemoryContext, &is_null));
	avc_catalog_leave(&scope);
	if (holders != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop dataset \"%s\" because other objects hold its frames",
						dataset->table_name),
				 errdetail("It is used by %s.", holders),
				 errhint("Drop those first, or pass force => true.")));

	avc_role_enter(&scope, GetUserId());
	if (!is_null && get_rel_name(boxes) != NULL)
		avc_spi_exec(psprintf("DROP VIEW %s%s",
							  quote_qualified_identifier(
								  get_namespace_name(get_rel_namespace(boxes)),
								  get_rel_name(boxes)),
							  force ? " CASCADE" : ""),
					 0, NULL, false, 0);
	/* the event trigger takes it out of the registry */
	avc_spi_exec(psprintf("DROP TABLE %s%s", dataset->quoted_name,
						  force ? " CASCADE" : ""),
				 0, NULL, false, 0);
	avc_role_leave(&scope);
	SPI_finish();
	PG_RETURN_VOID();
}

/* An aggregate over a column, or NULL where the owner changed that. */
static const char *
count_of(const AvcDataset *dataset, const char *column, Oid type,
		 const char *aggregate)
{
	AttrNumber	number = avc_dataset_column(dataset, column);

	if (number <= 0 || get_atttype(dataset->relid, number) != type)
		return "NULL::pg_catalog.int8";
	return aggregate;
}

static void
count_frames(const AvcDataset *dataset, Datum *values, bool *nulls)
{
	AvcRoleScope scope;
	int			i;

	SPI_connect();
	avc_role_enter(&scope, dataset->owner);
	avc_spi_exec(psprintf("SELECT pg_catalog.count(*), %s, %s, %s FROM ONLY %s",
						  count_of(dataset, "ann_categories", TEXTARRAYOID,
								   "pg_catalog.count(ann_categories)"),
						  count_of(dataset, "image_bytes", BYTEAOID,
								   "coalesce(pg_catalog.sum(pg_catalog.octet_length(image_bytes)), 0)::pg_catalog.int8"),
						  count_of(dataset, "ann_categories", TEXTARRAYOID,
								   "coalesce(pg_catalog.sum(pg_catalog.cardinality(ann_categories)), 0)::pg_catalog.int8"),
						  dataset->quoted_name),
				 0, NULL, true, 0);
	for (i = 0; i < 4; i++)
		values[i] = SPI_getbinval(SPI_tuptable->vals[0],
								  SPI_tuptable->tupdesc, i + 1, &nulls[i]);
	avc_role_leave(&scope);
	/* these are pass-by-value */
	SPI_finish();
}

/*
 * dataset_counts(dataset) returns (frames, labelled_frames, image_bytes,
 * boxes); NULLs where row security applies to the caller, and for what is no
 * dataset any more, so that one such table does not spoil the view.
 */
Datum
avc_dataset_counts(PG_FUNCTION_ARGS)
{
	AvcDataset *dataset = avc_dataset_find(PG_GETARG_OID(0), true);
	TupleDesc	desc;
	Datum		values[4] = {0};
	bool		nulls[4] = {true, true, true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	if (dataset != NULL && avc_dataset_is_countable(dataset))
		count_frames(dataset, values, nulls);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/*
 * Event trigger on sql_drop: forget datasets, and their features, that are
 * gone, whichever command dropped them.
 */
Datum
avc_dataset_dropped(PG_FUNCTION_ARGS)
{
	static const char *const statements[] = {
		"DELETE FROM _avcurate.datasets d USING pg_catalog.pg_event_trigger_dropped_objects() o"
		" WHERE o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND o.objsubid = 0 AND d.dataset::pg_catalog.oid = o.objid",
		"UPDATE _avcurate.datasets d SET boxes = NULL FROM pg_catalog.pg_event_trigger_dropped_objects() o"
		" WHERE o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND o.objsubid = 0 AND d.boxes::pg_catalog.oid = o.objid",
		"DELETE FROM _avcurate.ingest_errors e USING pg_catalog.pg_event_trigger_dropped_objects() o"
		" WHERE o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND o.objsubid = 0 AND e.dataset::pg_catalog.oid = o.objid",
		"DELETE FROM _avcurate.ingest_progress p USING pg_catalog.pg_event_trigger_dropped_objects() o"
		" WHERE o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND o.objsubid = 0 AND p.dataset::pg_catalog.oid = o.objid",
		/* a number without a table would be another table's after a restore */
		"UPDATE _avcurate.jobs j SET dataset = NULL FROM pg_catalog.pg_event_trigger_dropped_objects() o"
		" WHERE o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND o.objsubid = 0 AND j.dataset::pg_catalog.oid = o.objid",
	};

	(void) avc_forget_dropped(fcinfo, "dataset_dropped", statements,
							  lengthof(statements));
	PG_RETURN_NULL();
}
