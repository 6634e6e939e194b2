/*
 * test/engine/session_real.h
 *		A session on a thread, with the real networks.
 */
#ifndef TEST_ENGINE_SESSION_REAL_H
#define TEST_ENGINE_SESSION_REAL_H

#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client.h"
#include "engine/feed.h"
#include "engine/serve.h"
#include "tap.h"

typedef struct Server
{
	int			fd;				/* the client's end */
	int			own;			/* the session's end */
	pthread_t	thread;
	bool		result;
	EngStatus	status;
} Server;

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
on_lost(void *context)
{
}

static void *
server_main(void *argument)
{
	Server	   *server = argument;
	EngFeedEnd	end = {on_lost, NULL};

	server->result = eng_serve(server->own, &end, &server->status);
	close(server->own);
	return NULL;
}

static void
server_start(Server *server)
{
	int			pair[2];

	memset(server, 0, sizeof(*server));
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
		exit(1);
	server->fd = pair[0];
	server->own = pair[1];
	pthread_create(&server->thread, NULL, server_main, server);
}

static void
server_stop(Server *server)
{
	Reply		reply = client_call(server->fd, ENG_KIND_BYE, "{}", NULL);

	reply_free(&reply);
	close(server->fd);
	pthread_join(server->thread, NULL);
	tap_ok(server->result, "the session ends by BYE");
}

#endif							/* TEST_ENGINE_SESSION_REAL_H */
