/*
 * common/catalog.h
 *		Run as somebody else for a while, with a search_path that cannot be
 *		bent.
 *
 * The tables in _avcurate belong to the extension's owner and nobody else has
 * rights on them, so a backend becomes that owner around each access.  User
 * expressions (features, slice definitions) run as the owner of the dataset
 * or slice, security-restricted.  Scopes nest; an error unwinds them with the
 * (sub)transaction, as PostgreSQL itself does for SetUserIdAndSecContext.
 */
#ifndef AVC_COMMON_CATALOG_H
#define AVC_COMMON_CATALOG_H

typedef struct AvcRoleScope
{
	Oid			saved_role;
	int			saved_context;
	int			guc_level;
} AvcRoleScope;

/* Owner of the extension; an error if the extension is not installed here. */
extern Oid	avc_extension_owner(void);

/* Become the extension's owner, search_path = pg_catalog, pg_temp. */
extern void avc_catalog_enter(AvcRoleScope *scope);

/*
 * Become "role" in a security-restricted operation, search_path = pg_catalog,
 * avcurate, pg_temp.  For expressions that a user wrote.
 */
extern void avc_role_enter(AvcRoleScope *scope, Oid role);

/* Go back to what was before the matching enter. */
extern void avc_scope_leave(AvcRoleScope *scope);
#define avc_catalog_leave(scope) avc_scope_leave(scope)
#define avc_role_leave(scope) avc_scope_leave(scope)

/*
 * Until the end of the GUC nest level that the caller opened (every scope
 * opens one), the text of a value does not depend on the session's settings:
 * dates, intervals, floats, bytes and money read back as what they were,
 * whoever reads them.  For whatever is hashed, stored or parsed again.
 */
extern void avc_pin_text_format(void);

/* Raise an error unless the current user owns the relation. */
extern void avc_require_owner(Oid relid);

#endif
