/*
 * common/engine_process.c
 *		The engine as a child process: fork, exec, last words, end.
 *
 * One end of a socket pair is the child's descriptor 3 and its standard
 * error is a pipe that we read; it has no other descriptor of ours.  It
 * leaves our process group, resets its signals, dies with us and is the
 * first to go when memory runs out.
 */
#include "postgres.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "miscadmin.h"
#include "portability/instr_time.h"

#include "common/engine_process.h"
#include "common/settings.h"

#define ENGINE_FD			3	/* where the engine finds its socket */
#define STATUS_FD			4	/* child only: errno of a failed exec */

static void
engine_program(char *path)
{
	if (avc_engine_path != NULL && avc_engine_path[0] != '\0')
	{
		strlcpy(path, avc_engine_path, MAXPGPATH);
		return;
	}
	strlcpy(path, my_exec_path, MAXPGPATH);
	get_parent_directory(path);
	join_path_components(path, path, "avcurate-engine");
}

/*
 * The child between fork and exec: async-signal-safe calls only.  It leaves
 * our process group, because the server signals a worker's whole group.
 */
static void
run_engine(const char *path, const int *fds, pid_t parent)
{
	char	   *argv[] = {"avcurate-engine", "serve", "--fd", "3", NULL};
	sigset_t	none;
	int			kept[3];
	int			null_fd;
	int			error;
	int			i;

	for (i = 0; i < 3; i++)
		kept[i] = fcntl(fds[i], F_DUPFD, 16);
	null_fd = open("/dev/null", O_RDWR);
	if (null_fd < 0 || kept[0] < 0 || kept[1] < 0 || kept[2] < 0 ||
		dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0 ||
		dup2(kept[1], 2) < 0 || dup2(kept[0], ENGINE_FD) < 0 ||
		dup2(kept[2], STATUS_FD) < 0)
		_exit(127);
	(void) fcntl(STATUS_FD, F_SETFD, FD_CLOEXEC);
	if (close_range(STATUS_FD + 1, ~0U, 0) != 0)
		for (i = STATUS_FD + 1; i < 65536; i++)
			(void) close(i);

	(void) setpgid(0, 0);
	(void) prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	for (i = 1; i < NSIG; i++)
		(void) signal(i, SIG_DFL);
	sigemptyset(&none);
	(void) sigprocmask(SIG_SETMASK, &none, NULL);

	/* If memory runs out, the engine must go before any server process. */
	i = open("/proc/self/oom_score_adj", O_WRONLY);
	if (i >= 0)
	{
		(void) !write(i, "500", 3);
		(void) close(i);
	}
	(void) !chdir("/");

	execv(path, argv);
	error = errno;
	(void) !write(STATUS_FD, &error, sizeof(error));
	_exit(127);
}

static void
set_nonblocking(int fd)
{
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0 ||
		fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		elog(ERROR, "could not set mode of a descriptor: %m");
}

/*
 * Fork with every signal blocked, so that none of our handlers can run in
 * the child.  Returns the child's pid; *exec_error is 0 once it has become
 * the engine.
 */
static pid_t
fork_engine(const char *path, const int *fds, int status_read, int *exec_error)
{
	sigset_t	all;
	sigset_t	saved;
	pid_t		parent = getpid();
	pid_t		pid;
	ssize_t		got;

	*exec_error = 0;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &saved);
	pid = fork();
	if (pid == 0)
		run_engine(path, fds, parent);
	if (pid < 0)
		*exec_error = errno;
	sigprocmask(SIG_SETMASK, &saved, NULL);
	close(fds[0]);
	close(fds[1]);
	close(fds[2]);
	if (pid > 0)
	{
		do
			got = read(status_read, exec_error, sizeof(int));
		while (got < 0 && errno == EINTR);
		if (got != sizeof(int))
			*exec_error = 0;
	}
	close(status_read);
	return pid;
}

/* Close the pairs made so far and raise the error that errno tells. */
static void
give_up(const int *sockets, const int *errors)
{
	int			error = errno;

	close(sockets[0]);
	close(sockets[1]);
	if (errors != NULL)
	{
		close(errors[0]);
		close(errors[1]);
	}
	errno = error;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
			 errmsg("could not create a pipe: %m")));
}

void
avc_engine_process_start(AvcEngineProcess *process)
{
	char		path[MAXPGPATH];
	int			sockets[2];
	int			errors[2];
	int			status[2];
	int			child[3];
	int			exec_error;
	pid_t		pid;

	memset(process, 0, sizeof(*process));
	engine_program(path);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0)
		ereport(ERROR, (errmsg("could not create a socket pair: %m")));
	if (pipe2(errors, O_CLOEXEC) < 0)
		give_up(sockets, NULL);
	if (pipe2(status, O_CLOEXEC) < 0)
		give_up(sockets, errors);
	set_nonblocking(sockets[0]);
	set_nonblocking(errors[0]);
	child[0] = sockets[1];
	child[1] = errors[1];
	child[2] = status[1];
	pid = fork_engine(path, child, status[0], &exec_error);
	if (pid < 0 || exec_error != 0)
	{
		if (pid > 0)
			(void) waitpid(pid, NULL, 0);
		close(sockets[0]);
		close(errors[0]);
		errno = exec_error;
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not start engine \"%s\": %m", path),
				 errhint("Set avcurate.engine_path to the engine program.")));
	}
	process->pid = pid;
	process->socket = sockets[0];
	process->errors = errors[0];
}

void
avc_engine_process_listen(AvcEngineProcess *process)
{
	char		buffer[4096];
	ssize_t		got;
	size_t		keep;

	while (process->errors >= 0)
	{
		got = read(process->errors, buffer, sizeof(buffer));
		if (got < 0 && errno == EINTR)
			continue;
		if (got == 0)
		{
			/* It closed its end: there is nothing more to wait for. */
			close(process->errors);
			process->errors = -1;
		}
		if (got <= 0)
			break;
		if ((size_t) got >= AVC_ENGINE_LAST_WORDS)
		{
			memcpy(process->last_words, buffer + got - AVC_ENGINE_LAST_WORDS, AVC_ENGINE_LAST_WORDS);
			process->last_words_len = AVC_ENGINE_LAST_WORDS;
		}
		else
		{
			keep = Min(process->last_words_len, AVC_ENGINE_LAST_WORDS - (size_t) got);
			memmove(process->last_words,
					process->last_words + process->last_words_len - keep, keep);
			memcpy(process->last_words + keep, buffer, got);
			process->last_words_len = keep + got;
		}
		process->last_words[process->last_words_len] = '\0';
	}
}

bool
avc_engine_process_reap(AvcEngineProcess *process, int wait_ms)
{
	instr_time	start;
	instr_time	now;

	if (process->pid == 0)
		return true;
	INSTR_TIME_SET_CURRENT(start);
	for (;;)
	{
		pid_t		pid = waitpid(process->pid, &process->exit_status, WNOHANG);

		/* ECHILD would mean that somebody else reaped it: it is gone. */
		if (pid == process->pid || (pid < 0 && errno == ECHILD))
		{
			process->pid = 0;
			return true;
		}
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, start);
		if (INSTR_TIME_GET_MILLISEC(now) >= wait_ms)
			return false;
		/* An engine that writes its last words must not block on them. */
		avc_engine_process_listen(process);
		pg_usleep(2000L);
	}
}

const char *
avc_engine_process_last_line(AvcEngineProcess *process)
{
	char	   *end = process->last_words + process->last_words_len;
	char	   *line;

	while (end > process->last_words && (unsigned char) end[-1] <= ' ')
		*--end = '\0';
	line = strrchr(process->last_words, '\n');
	line = line != NULL ? line + 1 : process->last_words;
	/* Not our text: keep what any encoding can hold. */
	for (end = line; *end != '\0'; end++)
		if ((unsigned char) *end < ' ' || (unsigned char) *end > '~')
			*end = '?';
	return line[0] != '\0' ? line : NULL;
}

uint64
avc_process_ticks(pid_t pid)
{
	char		path[64];
	char		line[1024];
	char	   *end = NULL;
	unsigned long user = 0;
	unsigned long system = 0;
	FILE	   *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int) pid);
	file = fopen(path, "r");
	if (file == NULL)
		return 0;
	/* the name in brackets may hold anything */
	if (fgets(line, sizeof(line), file) != NULL)
		end = strrchr(line, ')');
	fclose(file);
	if (end == NULL ||
		sscanf(end + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
			   &user, &system) != 2)
		return 0;
	return (uint64) user + system;
}
