/*
 * test/engine/session_thread.h
 *		A session of the engine on a thread of this process.
 */
#ifndef TEST_ENGINE_SESSION_THREAD_H
#define TEST_ENGINE_SESSION_THREAD_H

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
	volatile int lost;			/* calls of the callback */
	void		(*on_lost) (void);	/* or NULL */
} Server;

static void
server_lost(void *context)
{
	Server	   *server = context;

	server->lost++;
	if (server->on_lost != NULL)
		server->on_lost();
}

static void *
server_main(void *argument)
{
	Server	   *server = argument;
	EngFeedEnd	end = {server_lost, server};

	server->result = eng_serve(server->own, &end, &server->status);
	close(server->own);
	return NULL;
}

static void
server_open(Server *server, void (*on_lost) (void))
{
	int			pair[2];

	memset(server, 0, sizeof(*server));
	server->on_lost = on_lost;
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
		exit(1);
	server->fd = pair[0];
	server->own = pair[1];
	pthread_create(&server->thread, NULL, server_main, server);
}

static void __attribute__((unused))
server_stop(Server *server)
{
	Reply		reply = client_call(server->fd, ENG_KIND_BYE, "{}", NULL);

	reply_free(&reply);
	close(server->fd);
	pthread_join(server->thread, NULL);
	tap_ok(server->result, "the session ends by BYE");
}

#endif							/* TEST_ENGINE_SESSION_THREAD_H */
