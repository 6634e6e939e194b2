/*
 * common/catalog.c
 *		Role and search_path switches around catalog access and user code.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "common/catalog.h"

Oid
avc_extension_owner(void)
{
	Oid			extension = get_extension_oid("avcurate", true);
	Oid			owner = InvalidOid;
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!OidIsValid(extension))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"avcurate\" is not installed in this database"),
				 errhint("Run CREATE EXTENSION avcurate.")));

	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	if (!OidIsValid(owner))
		elog(ERROR, "extension \"avcurate\" has no owner");
	return owner;
}

static void
scope_enter(AvcRoleScope *scope, Oid role, int context, const char *path)
{
	GetUserIdAndSecContext(&scope->saved_role, &scope->saved_context);
	SetUserIdAndSecContext(role, scope->saved_context | context);
	scope->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

void
avc_catalog_enter(AvcRoleScope *scope)
{
	scope_enter(scope, avc_extension_owner(), SECURITY_LOCAL_USERID_CHANGE,
				"pg_catalog, pg_temp");
}

void
avc_role_enter(AvcRoleScope *scope, Oid role)
{
	scope_enter(scope, role,
				SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION,
				"pg_catalog, avcurate, pg_temp");
}

void
avc_scope_leave(AvcRoleScope *scope)
{
	AtEOXact_GUC(false, scope->guc_level);
	SetUserIdAndSecContext(scope->saved_role, scope->saved_context);
}

void
avc_pin_text_format(void)
{
	static const char *const settings[][2] = {
		{"timezone", "UTC"},
		{"datestyle", "ISO, YMD"},
		{"intervalstyle", "postgres"},
		{"extra_float_digits", "1"},
		{"bytea_output", "hex"},
		{"lc_monetary", "C"},
	};
	int			i;

	for (i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i][0], settings[i][1], PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
								 false);
}

void
avc_require_owner(Oid relid)
{
	if (!pg_class_ownercheck(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER,
					   get_relkind_objtype(get_rel_relkind(relid)),
					   get_rel_name(relid));
}
