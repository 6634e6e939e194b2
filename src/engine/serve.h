/*
 * engine/serve.h
 *		One session: requests over a socket until the peer says BYE.
 */
#ifndef ENG_SERVE_H
#define ENG_SERVE_H

#include <stdbool.h>

#include "engine/feed.h"
#include "engine/status.h"

/*
 * Serve until BYE (true) or until the peer is gone or sends garbage (false,
 * status says which).  end is called, on another thread, if the peer is gone
 * while an operation runs on: the owner of the process should end it then.
 */
extern bool eng_serve(int fd, const EngFeedEnd *end, EngStatus *status);

#endif							/* ENG_SERVE_H */
