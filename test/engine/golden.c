/*
 * test/engine/golden.c
 *		Recorded runs of torchvision against ours.
 *
 * golden [NAME [BACKEND]]: the usual cases, or one.
 * golden --rounded NAME: what bf16 makes of one.
 * golden --compare CASE OUTPUT: judge a file that trace has written.
 */
#include <unistd.h>

#include "engine/trace.h"
#include "golden_rounded.h"

/* One test: is everything in the file of outputs as it was recorded? */
static void
judge(const char *name, const char *golden, const char *output,
	  bool free_running)
{
	static Case c;
	EngStatus	status = {ENG_OK, ""};

	if (!open_case(&c, golden, output, &status))
		tap_ok(false, "%s: %s", name, status.message);
	else
	{
		compare_case(&c, free_running);
		tap_ok(c.failed == 0 && c.compared > 0, "%s: %d of %d tensors agree",
			   name, c.compared - c.failed, c.compared);
	}
	close_case(&c);
}

/* variant: "--free", "--draw" (see trace --help) or NULL. */
static void
run_case(const char *name, const char *path, const char *backend,
		 const char *variant)
{
	char		output[256];
	char	   *argv[] = {"trace", (char *) path, output, "--backend",
	(char *) backend, "--threads", "2", (char *) variant};
	EngStatus	status = {ENG_OK, ""};
	char		title[128];

	tap_scratch(output, sizeof(output), "golden");
	snprintf(title, sizeof(title), "%s on %s%s%s", name, backend,
			 variant != NULL ? " " : "", variant != NULL ? variant : "");
	if (eng_trace_run(variant != NULL ? 8 : 7, argv, stdout, &status))
		judge(title, path, output,
			  variant != NULL && strcmp(variant, "--free") == 0);
	else
		tap_ok(false, "%s: %s", title, status.message);
	unlink(output);
}

/*
 * Whole nets in bf16 against float32: 95 % of the detections must be found
 * again, but for the two deepest with norms in the pyramid too.  Their weights
 * are drawn, not learnt, so that many layers spread an error: 94 % and 93 %
 * are found, where all of the body in bf16 finds 57 % and 85 %.
 */
static const struct
{
	const char *name;
	double		least;
	bool		longer;
}			rounded[] = {
	{"r18_v1_bn", 0.95, false},
	{"r18_v1_frozenbn", 0.95, false},
	{"r18_v1_scale1", 0.95, false},
	{"r18_v2", 0.95, false},
	{"r18_v2_small_gt", 0.93, true},	/* 93.6 % on a GPU, emulated */
	{"r18_v2_many", 0.95, true},
	{"r18_v2_c91", 0.95, true},
	{"r50_v1_bn", 0.95, true},
	{"r50_v1_frozenbn", 0.95, true},
	{"r50_v2", 0.92, true},
	{"r50_v2_t3", 0.92, true}
};

static void
run_rounded(const char *name, const char *path, double least)
{
	static Case c;
	char		output[256];
	char	   *argv[] = {"trace", (char *) path, output, "--threads", "2",
	"--precision", "bf16", "--backend", (char *) tap_backend()};
	EngStatus	status = {ENG_OK, ""};

	tap_scratch(output, sizeof(output), "golden");
	if (!eng_trace_run(9, argv, stdout, &status))
	{
		tap_ok(status.code == ENG_UNSUPPORTED, "%s in bf16: %s", name,
			   status.message);
		return;
	}
	if (open_case(&c, path, output, &status))
		compare_rounded_case(&c, least);
	tap_ok(status.code == ENG_OK && c.failed == 0 && c.compared == 5,
		   "%s in bf16: losses and detections are near %s", name,
		   status.message);
	close_case(&c);
	unlink(output);
}

/* The same run twice: the same bytes. */
static void
run_twice(const char *name, const char *path)
{
	char		output[256];
	char	   *argv[] = {"trace", (char *) path, output, "--threads", "2",
	"--backend", (char *) tap_backend()};
	EngStatus	status = {ENG_OK, ""};
	EngBuffer	files[2] = {{NULL, 0, 0}, {NULL, 0, 0}};
	bool		done = true;

	tap_scratch(output, sizeof(output), "golden");
	for (int i = 0; i < 2; i++)
		done = done && eng_trace_run(7, argv, stdout, &status) &&
			eng_file_read(output, (size_t) 1 << 30, &files[i], &status);
	tap_ok(done && files[0].size == files[1].size &&
		   memcmp(files[0].data, files[1].data, files[0].size) == 0,
		   "%s twice: the same bytes%s%s", name, done ? "" : ": ",
		   status.message);
	eng_buffer_free(&files[0]);
	eng_buffer_free(&files[1]);
	unlink(output);
}

/* Where a case is: a copy of our own, else the shared folder. */
static bool
find_case(char *path, size_t size, const char *name)
{
	const char *shared = getenv("AVC_SHARED");

	snprintf(path, size, "test/data/golden/%s.safetensors", name);
	if (access(path, R_OK) == 0)
		return true;
	snprintf(path, size, "%s/golden/detector/%s.safetensors",
			 shared != NULL ? shared : "../shared", name);
	return access(path, R_OK) == 0;
}

static void
check(const char *name, const char *backend, const char *variant)
{
	char		path[4096];

	if (find_case(path, sizeof(path), name))
	{
		if (variant != NULL && strcmp(variant, "twice") == 0)
			run_twice(name, path);
		else
			run_case(name, path, backend, variant);
	}
	else
		tap_skip(name, "recorded data are not here (AVC_SHARED)");
}

/* name: NULL, or the only one. */
static void
check_rounded(const char *name, bool all)
{
	char		path[4096];

	for (size_t i = 0; i < sizeof(rounded) / sizeof(rounded[0]); i++)
	{
		if (name != NULL ? strcmp(name, rounded[i].name) != 0 :
			rounded[i].longer && !all)
			continue;
		if (find_case(path, sizeof(path), rounded[i].name))
			run_rounded(rounded[i].name, path, rounded[i].least);
		else
			tap_skip(rounded[i].name, "recorded data are not here (AVC_SHARED)");
	}
}

int
main(int argc, char **argv)
{
	const char *thorough = getenv("AVC_LONG");
	static const char *const longer[] = {"r18_v2_small_gt", "r18_v2_many",
		"r18_v2_c91", "r50_v1_frozenbn", "r50_v1_bn", "r50_v2", "r50_v2_t3",
	NULL};
	bool		all = thorough != NULL && thorough[0] != '\0';

	if (argc == 4 && strcmp(argv[1], "--compare") == 0)
	{
		judge(argv[2], argv[2], argv[3], false);
		return tap_done();
	}
	if (argc == 3 && strcmp(argv[1], "--rounded") == 0)
	{
		check_rounded(argv[2], false);
		if (tap_count == 0)
			tap_ok(false, "no case of bf16 is called %s", argv[2]);
		return tap_done();
	}
	if (argc > 1)
	{
		check(argv[1], argc > 2 ? argv[2] : tap_backend(), NULL);
		return tap_done();
	}
	check("ops", "ref", NULL);
	if (strncmp(tap_backend(), "cuda", 4) == 0)
		tap_skip("ops on cuda", "device_ops holds them against ref");
	else
		check("ops", tap_backend(), NULL);
	check("r18_v1_scale1", tap_backend(), NULL);
	if (getenv("AVC_SANITIZED") != NULL)
		return tap_done();		/* the rest is slow there */
	check("options_boxes", tap_backend(), NULL);
	check("options_boxes", tap_backend(), "--free");
	check("options_boxes", tap_backend(), "--draw");
	check("options_boxes", "ref", NULL);
	check("options_sizes", tap_backend(), NULL);
	check("options_sizes", tap_backend(), "--draw");
	check("options_no_truth", tap_backend(), NULL);
	check("options_no_truth", tap_backend(), "--draw");
	check("r18_v1_frozenbn", tap_backend(), NULL);
	check("r18_v1_bn", tap_backend(), NULL);
	check("r18_v1_frozenbn", tap_backend(), "--free");
	check("r18_v1_bn", tap_backend(), "--free");
	check("r18_v1_scale1", tap_backend(), "--draw");
	check("r18_v1_bn", tap_backend(), "--draw");
	check("r18_v1_scale1", tap_backend(), "twice");
	check("r18_v2", tap_backend(), NULL);
	check("r18_v1_scale1", "ref", NULL);
	for (int i = 0; all && longer[i] != NULL; i++)
		check(longer[i], tap_backend(), NULL);
	check_rounded(NULL, all);
	if (all)
	{
		check("r18_v1_frozenbn", "ref", NULL);
		check("r18_v1_bn", "ref", NULL);
	}
	return tap_done();
}
