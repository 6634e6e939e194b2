/*
 * test/engine/session_real.h
 *		A session on a thread, with the real networks.
 */
#ifndef TEST_ENGINE_SESSION_REAL_H
#define TEST_ENGINE_SESSION_REAL_H

#include "session_thread.h"

static EngBuffer jpegs;			/* two frames, one behind the other */
static char detect_json[200];

static void
make_pictures(void)
{
	size_t		first = append_jpeg(&jpegs, 96, 64, 1, NULL, 0);
	size_t		second = append_jpeg(&jpegs, 80, 56, 2, NULL, 0);

	snprintf(detect_json, sizeof(detect_json),
			 "{\"min_score\":0.01,\"frames\":[{\"frame_id\":71,\"bytes\":%zu},"
			 "{\"frame_id\":72,\"bytes\":%zu}]}", first, second);
}

static void
server_start(Server *server)
{
	server_open(server, NULL);
}

#endif							/* TEST_ENGINE_SESSION_REAL_H */
