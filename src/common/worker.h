/*
 * common/worker.h
 *		Background workers of this library.
 */
#ifndef AVC_COMMON_WORKER_H
#define AVC_COMMON_WORKER_H

/*
 * Register a worker of this database that runs the exported function "entry"
 * (void entry(Datum)).  With after_commit it waits for the end of the current
 * transaction before it does anything; otherwise it starts at once.  Returns
 * false when the server has no free worker slot.
 */
extern bool avc_worker_register(const char *entry, const char *name,
								bool after_commit);

/* The same at once in another database. */
extern bool avc_worker_register_in(Oid database, const char *entry,
								   const char *name);

/*
 * While the library is preloaded: register a worker that is there as long as
 * the server is, in no database.
 */
extern void avc_worker_preload(const char *entry, const char *name);

/*
 * Start a worker at once that calls entry(arg).  The caller is told of its
 * end through the handle; NULL when the server has no free worker slot.
 */
extern struct BackgroundWorkerHandle *avc_worker_start(const char *entry,
													   const char *name,
													   Datum arg);

/*
 * First call of an entry: signal handlers, connection to the database as the
 * bootstrap superuser, wait for the transaction that registered it.  Returns
 * false if the extension is not (or no longer) there; then just return.
 */
extern bool avc_worker_begin(void);

/* Take a changed configuration over; call it between pieces of work. */
extern void avc_worker_reload(void);

#endif
