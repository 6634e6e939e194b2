/*
 * common/engine_process.h
 *		The engine as a child process; used by engine_client.c alone.
 */
#ifndef AVC_COMMON_ENGINE_PROCESS_H
#define AVC_COMMON_ENGINE_PROCESS_H

#include <sys/types.h>

#define AVC_ENGINE_LAST_WORDS 400	/* bytes kept of the engine's stderr */

typedef struct AvcEngineProcess
{
	pid_t		pid;			/* 0 once reaped */
	int			exit_status;	/* of waitpid, valid once reaped */
	int			socket;			/* non-blocking; -1 once closed */
	int			errors;			/* read end of its stderr, -1 once closed */
	char		last_words[AVC_ENGINE_LAST_WORDS + 1];
	size_t		last_words_len;
} AvcEngineProcess;

/* Start avcurate.engine_path; an error if it cannot be executed. */
extern void avc_engine_process_start(AvcEngineProcess *process);

/* Take what it wrote to stderr; only the last bytes are kept. */
extern void avc_engine_process_listen(AvcEngineProcess *process);

/* Reap it if it ends within that time; true if it is gone. */
extern bool avc_engine_process_reap(AvcEngineProcess *process, int wait_ms);

/* Last line of what it wrote, or NULL. */
extern const char *avc_engine_process_last_line(AvcEngineProcess *process);

/* Ticks of processor time that a process has used, 0 if it is gone. */
extern uint64 avc_process_ticks(pid_t pid);

#endif
