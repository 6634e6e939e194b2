/*
 * test/engine/trace_refusals.c
 *		What the trace subcommand refuses, and how it says so.
 */

#include "engine/io/file.h"
#include "engine/trace.h"
#include "tap.h"

#define MOST 8

static char scratch[256];

/* Run trace with these arguments; it must fail with this code and word. */
static void
refuses(const char *what, EngCode code, const char *word,
		const char *const *arguments)
{
	EngStatus	status = {ENG_OK, ""};
	char	   *argv[MOST + 1] = {"trace"};
	int			argc = 1;

	for (; arguments[argc - 1] != NULL && argc < MOST; argc++)
		argv[argc] = (char *) arguments[argc - 1];
	tap_ok(!eng_trace_run(argc, argv, stdout, &status) &&
		   status.code == code && strstr(status.message, word) != NULL &&
		   strchr(status.message, '\n') == NULL,
		   "%s: %s", what, status.message);
}

/* Put a case with this metadata and one tensor into the scratch file. */
static void
write_case(const char *key, const char *value, const char *tensor)
{
	EngStatus	status = {ENG_OK, ""};
	EngTensorWriter *writer = eng_tensor_writer_create(&status);
	EngBuffer	out = {NULL, 0, 0};
	EngFileTensor t;
	float		zero[4] = {0, 0, 0, 0};

	memset(&t, 0, sizeof(t));
	t.name = tensor;
	t.dtype = ENG_FILE_F32;
	t.rank = 1;
	t.shape[0] = t.count = 4;
	t.data = (const uint8_t *) zero;
	t.bytes = sizeof(zero);
	if (!eng_tensor_writer_metadata(writer, key, value, &status) ||
		!eng_tensor_writer_metadata(writer, "config", "{\"arch\": {}}",
									&status) ||
		!eng_tensor_writer_add(writer, &t, &status) ||
		!eng_tensor_writer_finish(writer, &out, &status) ||
		!eng_file_write(scratch, out.data, out.size, &status))
		tap_ok(false, "writing a case: %s", status.message);
	eng_tensor_writer_free(writer);
	eng_buffer_free(&out);
}

#define ARGUMENTS(...) ((const char *const[]) {__VA_ARGS__, NULL})

int
main(void)
{
	EngStatus	status = {ENG_OK, ""};

	tap_scratch(scratch, sizeof(scratch), "trace");
	eng_file_write(scratch, "not a case", 10, &status);
	refuses("one file only", ENG_BAD_ARGUMENT, "", ARGUMENTS("a"));
	refuses("a quarter's precision", ENG_BAD_ARGUMENT, "f8",
			ARGUMENTS("a", "b", "--precision", "f8"));
	refuses("negative threads", ENG_BAD_ARGUMENT, "threads",
			ARGUMENTS("a", "b", "--threads", "-1"));
	refuses("an unknown option", ENG_BAD_ARGUMENT, "speed",
			ARGUMENTS("a", "b", "--speed", "2"));
	refuses("no such file", ENG_IO, "/no/such",
			ARGUMENTS("/no/such/file", "b"));
	refuses("a file of another kind", ENG_BAD_FILE, "",
			ARGUMENTS(scratch, "b"));
	write_case("kind", "weather_golden", "out.x.y");
	refuses("a case of another kind", ENG_UNSUPPORTED, "weather_golden",
			ARGUMENTS(scratch, "b"));
	write_case("kind", "operation_golden", "out.fft.y");
	refuses("an operation that is not there", ENG_UNSUPPORTED, "fft",
			ARGUMENTS(scratch, "b"));
	refuses("a device that is none", ENG_BAD_ARGUMENT, "tpu",
			ARGUMENTS(scratch, "b", "--backend", "tpu"));
	refuses("draws of single operations", ENG_BAD_ARGUMENT, "detectors",
			ARGUMENTS(scratch, "b", "--draw"));
	refuses("single operations that run free", ENG_BAD_ARGUMENT, "detectors",
			ARGUMENTS(scratch, "b", "--free"));
	refuses("draws in a run without training", ENG_BAD_ARGUMENT, "exclude",
			ARGUMENTS(scratch, "b", "--free", "--draw"));
	write_case("kind", "operation_golden", "out.softmax.y");
	refuses("an operation without its input", ENG_BAD_FILE, "in.softmax.x",
			ARGUMENTS(scratch, "b"));
	write_case("kind", "faster_rcnn_golden", "out.eval.c2");
	refuses("a detector without options", ENG_BAD_FILE, "options",
			ARGUMENTS(scratch, "b"));
	unlink(scratch);
	return tap_done();
}
