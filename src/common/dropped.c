/*
 * common/dropped.c
 *		What the registry forgets when objects are dropped.
 */
#include "postgres.h"

#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "executor/spi.h"

#include "common/catalog.h"
#include "common/dropped.h"
#include "common/spi.h"

bool
avc_forget_dropped(FunctionCallInfo fcinfo, const char *name,
				   const char *const *statements, int count)
{
	AvcRoleScope scope;
	int			i;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("%s is an event trigger", name)));
	if (!OidIsValid(get_extension_oid("avcurate", true)))
		return false;
	SPI_connect();
	avc_catalog_enter(&scope);
	for (i = 0; i < count; i++)
		avc_spi_exec(statements[i], 0, NULL, false, 0);
	avc_catalog_leave(&scope);
	SPI_finish();
	return true;
}
