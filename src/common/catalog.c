/*
 * common/catalog.c
 *		Role and search_path switches around catalog access and user code.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_extension.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "common/catalog.h"

/*
 * The extension's owner, InvalidOid while it is not known.  pg_extension has
 * no cache of PostgreSQL's, and reading it takes longer than what is done as
 * its owner.  The owner changes by DROP and CREATE EXTENSION and by REASSIGN
 * OWNED, all of which change the schemas or the functions of the extension
 * as well, and those have caches that tell when they are out of date.
 */
static Oid	known_owner = InvalidOid;

static void
forget_owner(Datum arg, int cache, uint32 hash)
{
	known_owner = InvalidOid;
}

static void
watch_owner(void)
{
	static bool is_watched = false;

	if (is_watched)
		return;
	CacheRegisterSyscacheCallback(NAMESPACEOID, forget_owner, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, forget_owner, (Datum) 0);
	is_watched = true;
}

static Oid
read_owner(void)
{
	Oid			owner = InvalidOid;
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum("avcurate"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return owner;
}

Oid
avc_extension_owner(void)
{
	if (OidIsValid(known_owner))
		return known_owner;
	watch_owner();
	known_owner = read_owner();
	if (!OidIsValid(known_owner))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"avcurate\" is not installed in this database"),
				 errhint("Run CREATE EXTENSION avcurate.")));
	return known_owner;
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
