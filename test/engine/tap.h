/*
 * test/engine/tap.h
 *		The little of the Test Anything Protocol that the engine tests need.
 */
#ifndef TEST_ENGINE_TAP_H
#define TEST_ENGINE_TAP_H

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int	tap_count;
static int	tap_failed;

/* One test: its result and its name. */
static bool tap_ok(bool pass, const char *format,...)
			__attribute__((format(printf, 2, 3), unused));

/* A line for the reader, printed before or after a test. */
static void tap_note(const char *format,...)
			__attribute__((format(printf, 1, 2), unused));

/* Make an empty scratch file below TMPDIR; its path goes into the buffer. */
static void tap_scratch(char *path, size_t size, const char *name)
			__attribute__((unused));

/* A test that cannot run here, and why. */
static void tap_skip(const char *name, const char *reason)
			__attribute__((unused));

/* The backend to test: the environment's, or the processor's. */
static inline const char *
tap_backend(void)
{
	const char *name = getenv("AVC_TEST_BACKEND");

	return name != NULL ? name : "cpu";
}

/* The plan, at the end; returns the exit status. */
static int	tap_done(void) __attribute__((unused));

static bool
tap_ok(bool pass, const char *format,...)
{
	va_list		args;

	tap_count++;
	tap_failed += !pass;
	printf("%sok %d - ", pass ? "" : "not ", tap_count);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	return pass;
}

static void
tap_note(const char *format,...)
{
	va_list		args;

	printf("# ");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
}

static void
tap_scratch(char *path, size_t size, const char *name)
{
	const char *folder = getenv("TMPDIR");
	int			fd;

	snprintf(path, size, "%s/avcurate-%s-XXXXXX",
			 folder != NULL ? folder : "/tmp", name);
	fd = mkstemp(path);
	if (fd >= 0)
		close(fd);
}

static void
tap_skip(const char *name, const char *reason)
{
	tap_count++;
	printf("ok %d # SKIP %s: %s\n", tap_count, name, reason);
}

static int
tap_done(void)
{
	printf("1..%d\n", tap_count);
	return tap_failed > 0;
}

#endif
