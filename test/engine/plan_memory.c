/*
 * test/engine/plan_memory.c
 *		Memory of a plan: what is made again and what shares a place changes
 *		no bit; arenas stay close to what is alive; steps allocate nothing.
 *
 * The program replaces malloc and its kin by functions that count the calls
 * made from its own code, and pass all on.  What oneDNN and libgomp allocate
 * in a call is theirs.  Under the address sanitizer, whose own malloc must be
 * left in place, nothing is counted and the rest is tested.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <sys/mman.h>

#include "engine/core/backend.h"
#include "frames.h"
#include "tap.h"

#define CLASSES	4
#define UNCOUNTED	"malloc is the sanitizer's"

#define TINY "\"widths\":[8,16,32,64],\"fpn_channels\":16,\"representation_size\":24," \
	"\"max_size\":128,\"anchor_sizes\":[8,16,32,64,128]," \
	"\"rpn_batch_size_per_image\":32,\"box_batch_size_per_image\":16," \
	"\"rpn_pre_nms_top_n_train\":50,\"rpn_post_nms_top_n_train\":40," \
	"\"rpn_pre_nms_top_n_test\":50,\"rpn_post_nms_top_n_test\":30," \
	"\"min_size\":64"

/* ---- counting ------------------------------------------------------------- */

static int	counted;			/* calls from here since the last reset */

#ifndef __SANITIZE_ADDRESS__
#define COUNTS_CALLS true

extern char __executable_start;
extern char etext;

static void
count_call(const void *caller)
{
	if ((const char *) caller >= &__executable_start &&
		(const char *) caller < &etext)
		__atomic_add_fetch(&counted, 1, __ATOMIC_RELAXED);
}

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

void *
malloc(size_t size)
{
	count_call(__builtin_return_address(0));
	return __libc_malloc(size);
}

void *
calloc(size_t count, size_t size)
{
	count_call(__builtin_return_address(0));
	return __libc_calloc(count, size);
}

void *
realloc(void *memory, size_t size)
{
	count_call(__builtin_return_address(0));
	return __libc_realloc(memory, size);
}

void *
aligned_alloc(size_t alignment, size_t size)
{
	count_call(__builtin_return_address(0));
	return __libc_memalign(alignment, size);
}

void *
mmap(void *address, size_t size, int protection, int flags, int fd,
	 off_t offset)
{
	static void *(*next) (void *, size_t, int, int, int, off_t);

	if (next == NULL)
		*(void **) &next = dlsym(RTLD_NEXT, "mmap");
	count_call(__builtin_return_address(0));
	return next(address, size, protection, flags, fd, offset);
}

#else
#define COUNTS_CALLS false
#endif

/* ---- cases ---------------------------------------------------------------- */

typedef struct Case
{
	const char *name;
	const char *architecture;
	const char *options;
	const char *backend;
	int32_t		trainable_layers;
	bool		freeze_norm;
	EngType		type;
} Case;

static const Case cases[] = {
	{"small", "small", "{" TINY "}", "cpu", 5, false},
	{"basic blocks, v2", "fasterrcnn_resnet18_fpn_v2", "{" TINY "}", "cpu", 5,
	false},
	{"bottlenecks, v2", "fasterrcnn_resnet50_fpn_v2", "{" TINY "}", "cpu", 5,
	false},
	{"bottlenecks, v2, by ref", "fasterrcnn_resnet50_fpn_v2", "{" TINY "}",
	"ref", 5, false},
	{"two layers of the body train", "fasterrcnn_resnet50_fpn_v2",
	"{" TINY "}", "cpu", 2, false},
	{"norms frozen by the optimizer", "fasterrcnn_resnet34_fpn_v2",
	"{" TINY "}", "cpu", 4, true},
	{"frozen norms", "fasterrcnn_resnet50_fpn",
	"{" TINY ",\"norm\":\"frozen\"}", "cpu", 3, false},
	{"bottlenecks, v2, bf16", "fasterrcnn_resnet50_fpn_v2", "{" TINY "}",
	"cpu", 5, false, ENG_BF16}
};

static EngDetector *
make(const Case *test, EngStatus *status)
{
	EngDetectorConfig config;
	EngOptimizerConfig optimizer;
	EngDetector *detector;

	eng_optimizer_config_default(&optimizer);
	optimizer.trainable_layers = test->trainable_layers;
	optimizer.freeze_norm = test->freeze_norm;
	if (!eng_detector_config_parse(&config, test->architecture, test->options,
								   CLASSES, status))
		return NULL;
	detector = eng_detector_create(&config, test->backend, 2, true, status);
	if (detector != NULL &&
		(!eng_detector_set_precision(detector, test->type, status) ||
		 !eng_detector_set_optimizer(detector, &optimizer, status) ||
		 !eng_detector_init(detector, 5, status)))
	{
		eng_detector_free(detector);
		return NULL;
	}
	return detector;
}

static bool
step(EngDetector *detector, const EngFrame *frames, int n, uint64_t number,
	 EngStatus *status)
{
	EngStepInfo info = {.seed = 3, .step = number, .lr = 1e-3f};
	EngStepResult result;

	return eng_detector_train_step(detector, frames, n, &info, &result,
								   status);
}

/*
 * Parameters whose gradients differ in a bit.
 */
static int
different_gradients(const EngDetector *a, const EngDetector *b)
{
	int			wrong = 0;
	int32_t		i;

	for (i = 0; i < eng_detector_parameter_count(a); i++)
	{
		EngParameterInfo info;
		float	   *left;
		float	   *right;

		eng_detector_parameter_info(a, i, &info);
		left = calloc(info.count, sizeof(float));
		right = calloc(info.count, sizeof(float));
		if (info.is_trainable &&
			(!eng_detector_parameter_read(a, i, ENG_PART_GRADIENT, left) ||
			 !eng_detector_parameter_read(b, i, ENG_PART_GRADIENT, right) ||
			 memcmp(left, right, sizeof(float) * info.count) != 0))
			wrong++;
		free(left);
		free(right);
	}
	return wrong;
}

static int
count_again(EngDetector *detector, int n, EngStatus *status)
{
	EngSize		padded = {64, 96};
	const EngPlanRow *rows;
	int32_t		count;
	int32_t		i;
	int			again = 0;

	if (!eng_detector_explain(detector, padded, n, true, &rows, &count,
							  status))
		return -1;
	for (i = 0; i < count; i++)
		again += rows[i].again;
	return again;
}

/*
 * The same steps with everything kept in a place of its own.
 */
static void
test_equal(const Case *test, const EngFrame *frames)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetectorHooks hooks = {.keep_all = true};
	EngDetector *a = make(test, &status);
	EngDetector *b = make(test, &status);
	EngMemory	shared;
	EngMemory	kept;
	int			wrong = -1;
	uint64_t	i;

	if (a == NULL || b == NULL)
	{
		tap_ok(false, "%s: %s", test->name, status.message);
		eng_detector_free(a);
		eng_detector_free(b);
		return;
	}
	eng_detector_set_hooks(b, &hooks);
	for (i = 0; i < 2; i++)
		if (step(a, frames, 2, i, &status) && step(b, frames, 2, i, &status))
			wrong = different_gradients(a, b);
	tap_ok(status.code == ENG_OK && wrong == 0,
		   "%s: values made again give equal gradients, %d differ %s",
		   test->name, wrong, status.message);
	eng_detector_memory(a, &shared);
	eng_detector_memory(b, &kept);
	tap_ok(shared.activations * 2 < kept.activations &&
		   shared.activations >= shared.alive &&
		   shared.activations <= shared.alive + shared.alive / 8,
		   "%s: %zu KiB, of which %zu are alive at once, instead of %zu",
		   test->name, shared.activations >> 10, shared.alive >> 10,
		   kept.activations >> 10);
	/* a frozen norm keeps no convolution to make its output again from */
	tap_ok((count_again(a, 2, &status) > 0) ==
		   (!test->freeze_norm && strstr(test->options, "frozen") == NULL),
		   "%s: %d operations are done again", test->name,
		   count_again(a, 2, &status));
	eng_detector_free(a);
	eng_detector_free(b);
}

/*
 * Steps and looks after the first ones, also with two shapes in turn.
 */
static void
test_no_allocation(const Case *test, const EngFrame *frames)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetector *detector = make(test, &status);
	EngDetections found[2];
	bool		ok = detector != NULL;
	uint64_t	i;

	for (i = 0; ok && i < 6; i++)
	{
		if (i == 2)
			counted = 0;
		ok = step(detector, frames, 2, i, &status) &&
			step(detector, frames, 1, i, &status) &&
			eng_detector_infer(detector, frames, 2, found, &status);
	}
	if (ok && !COUNTS_CALLS)
		tap_skip(test->name, UNCOUNTED);
	else
		tap_ok(ok && counted == 0, "%s: %d allocations in steps %s",
			   test->name, counted, status.message);
	eng_detector_free(detector);
}

static bool
has_bf16(void)
{
	EngStatus	status = {ENG_OK, ""};
	EngBackend *backend = eng_backend_open("cpu", 1, &status);
	bool		has = backend != NULL && backend->lacks_bf16 == NULL;

	if (backend != NULL)
		backend->close(backend);
	return has;
}

int
main(void)
{
	EngFrame	frames[2];
	size_t		i;
	int			before = counted;

	for (i = 0; i < 2; i++)
		frame_make(&frames[i], (int64_t) i + 1, 96, 64, FRAME_BOXES, CLASSES);
	if (COUNTS_CALLS)
		tap_ok(counted >= before + 6, "calls from the program are counted");
	else
		tap_skip("calls from the program are counted", UNCOUNTED);
	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
	{
		if (cases[i].type == ENG_BF16 && !has_bf16())
		{
			tap_skip(cases[i].name, "this processor does not multiply bf16");
			continue;
		}
		test_equal(&cases[i], frames);
		/* ref is for tests and allocates as it likes */
		if (strcmp(cases[i].backend, "cpu") == 0)
			test_no_allocation(&cases[i], frames);
	}
	for (i = 0; i < 2; i++)
		frame_free(&frames[i]);
	return tap_done();
}
