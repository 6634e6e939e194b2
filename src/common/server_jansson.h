/*
 * common/server_jansson.h
 *		jansson.h beside the server's headers.
 *
 * PostgreSQL declares and exports a function json_object() of its own.
 * Jansson's is renamed here so that the declarations do not clash and nobody
 * calls the wrong one; the library's inner calls do not go through the
 * symbol table.
 */
#ifndef AVC_COMMON_SERVER_JANSSON_H
#define AVC_COMMON_SERVER_JANSSON_H

#define json_object jansson_object_not_for_the_server
#include <jansson.h>
#undef json_object

#endif
