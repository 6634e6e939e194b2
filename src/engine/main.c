/*
 * engine/main.c
 *		The program: finds the subcommand, prints, and ends the process.
 *
 * Exit status: 0 done, 1 bad input or a failure, 2 wrong arguments; then one
 * line on stderr says why.  Nothing else in the engine prints or exits.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/arguments.h"
#include "engine/commands.h"
#include "engine/serve.h"
#include "engine/status.h"
#include "engine/trace.h"

#define PROGRAM		"avcurate-engine"
#define MARK		"AVCURATE_ENGINE_STARTED"

typedef struct Command
{
	const char *name;
	bool		(*run) (int argc, char **argv, FILE *out, EngStatus *status);
	const char *help;
} Command;

/* What the threads' library reads when it is loaded. */
static const char *const environment[][2] = {
	/* waiting threads sleep: the cores are shared with the server */
	{"OMP_WAIT_POLICY", "passive"},
	/* the number of threads is part of what makes a run repeatable */
	{"OMP_DYNAMIC", "false"}
};

static const char serve_help[] =
"usage: avcurate-engine serve --fd N\n"
"\n"
"Answer the requests of a worker over the stream socket that is descriptor N.\n"
"Workers of the server start this; engine/protocol.h describes the messages.\n";

static const char version_help[] =
"usage: avcurate-engine version\n"
"\n"
"Print one JSON object: versions, instruction set, processors, devices.\n";

/*
 * The peer is gone and the session is inside a long operation.  There is
 * nothing to save: what a session keeps, its worker has asked for.
 */
static void
end_lost(void *context)
{
	static const char line[] = PROGRAM ": connection closed\n";

	(void) !write(STDERR_FILENO, line, sizeof(line) - 1);
	_exit(1);
}

static void
end_terminated(int signal_number)
{
	static const char line[] = PROGRAM ": ended by a signal\n";

	(void) !write(STDERR_FILENO, line, sizeof(line) - 1);
	_exit(128 + signal_number);
}

static bool
run_serve(int argc, char **argv, FILE *out, EngStatus *status)
{
	EngOption	options[] = {{"fd"}, {NULL}};
	EngFeedEnd	end = {.lost = end_lost};
	EngStatus	failure = {0};
	EngArguments arguments;
	int64_t		fd = -1;

	if (!eng_arguments_read(&arguments, argc, argv, options, 0, 0, status) ||
		!eng_option_integer(options, "fd", 0, 65535, &fd, status))
		return false;
	if (fd < 0)
		return eng_fail(status, ENG_BAD_ARGUMENT, "serve needs --fd");
	signal(SIGTERM, end_terminated);
	if (eng_serve((int) fd, &end, &failure))
		return true;
	*status = failure;
	return false;
}

static bool
run_version(int argc, char **argv, FILE *out, EngStatus *status)
{
	EngOption	options[] = {{NULL}};
	EngArguments arguments;

	return eng_arguments_read(&arguments, argc, argv, options, 0, 0,
							  status) &&
		eng_version_print(out, status);
}

static const Command commands[] = {
	{"serve", run_serve, serve_help},
	{"explain", eng_explain_run, eng_explain_help},
	{"bench", eng_bench_run, eng_bench_help},
	{"init", eng_init_run, eng_init_help},
	{"detect", eng_detect_run, eng_detect_help},
	{"embed", eng_embed_run, eng_embed_help},
	{"convert", eng_convert_run, eng_convert_help},
	{"trace", eng_trace_run, eng_trace_help},
	{"version", run_version, version_help}
};

#define COMMANDS	((int) (sizeof(commands) / sizeof(commands[0])))

/*
 * One line on stderr; what came from files and arguments cannot break it.
 */
static int
complain(int result, const char *message)
{
	char		line[600];
	char	   *at;

	snprintf(line, sizeof(line), PROGRAM ": %s", message);
	for (at = line; *at != '\0'; at++)
		if ((unsigned char) *at < 0x20 || *at == 0x7f)
			*at = ' ';
	fprintf(stderr, "%s\n", line);
	return result;
}

static int
print_usage(void)
{
	int			i;

	printf("usage: " PROGRAM " COMMAND [ARGUMENTS]; commands:\n");
	for (i = 0; i < COMMANDS; i++)
		printf("  %s\n", commands[i].name);
	printf("Each has --help.\n");
	return 0;
}

static bool
wants_help(int argc, char **argv)
{
	int			i;

	for (i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--help") == 0)
			return true;
	return false;
}

static int
run_command(const Command *command, int argc, char **argv)
{
	EngStatus	status = {0};
	bool		fine = true;

	if (wants_help(argc, argv))
		fputs(command->help, stdout);
	else
		fine = command->run(argc, argv, stdout, &status);
	if (fine && (fflush(stdout) != 0 || ferror(stdout)))
		fine = eng_fail(&status, ENG_IO, "could not write the output: %s",
						strerror(errno));
	if (fine)
		return 0;
	return complain(status.code == ENG_BAD_ARGUMENT ? 2 : 1, status.message);
}

/*
 * The OpenMP library reads its settings before main runs, so a process that
 * lacks them starts itself once more with them.  What is set already stays.
 */
static void
settle_environment(char **argv)
{
	char		path[4096];
	ssize_t		length;
	size_t		i;

	if (getenv(MARK) != NULL)
	{
		unsetenv(MARK);
		return;
	}
	for (i = 0; i < sizeof(environment) / sizeof(environment[0]); i++)
		setenv(environment[i][0], environment[i][1], 0);
	length = readlink("/proc/self/exe", path, sizeof(path) - 1);
	if (length > 0)
	{
		path[length] = '\0';
		setenv(MARK, "1", 1);
		execv(path, argv);
		unsetenv(MARK);
	}
	/* without it everything works as well, only less politely */
}

static void
settle_signals(void)
{
	sigset_t	none;

	/* the starter's mask and ignored signals are not ours */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGTERM, SIG_DFL);
	signal(SIGPIPE, SIG_IGN);
}

int
main(int argc, char **argv)
{
	int			i;

	settle_environment(argv);
	settle_signals();
	if (argc < 2)
		return complain(2, "no command is given; see --help");
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)
		return print_usage();
	for (i = 0; i < COMMANDS; i++)
		if (strcmp(commands[i].name, argv[1]) == 0)
			return run_command(&commands[i], argc - 1, argv + 1);
	return complain(2, "unknown command; see --help");
}
