/*
 * engine/clip_commands.c
 *		Explain and time CLIP.
 */
#include "engine/clip_commands.h"

#include <stdlib.h>

#include "engine/bench.h"
#include "engine/core/random.h"
#include "engine/feed.h"

/* What is asked for. */
typedef struct ClipChoice
{
	EngChoice	machine;		/* device, threads, precision, seed, options */
	int64_t		frames;
	int64_t		texts;			/* 0: pictures */
	int64_t		tokens;
	char		planned[ENG_CHOICE_DEVICE]; /* device that is not here */
	EngClip    *clip;
} ClipChoice;

bool
eng_clip_is_named(int argc, char **argv)
{
	int			i;

	for (i = 1; i < argc; i++)
		if (eng_clip_is_architecture(argv[i]))
			return true;
	return false;
}

bool
eng_clip_refuse_options(const EngOption *options, EngStatus *status)
{
	if (eng_option_value(options, "texts") != NULL ||
		eng_option_value(options, "tokens") != NULL)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"options \"--texts\" and \"--tokens\" are for " ENG_CLIP_ARCHITECTURE);
	return true;
}

/*
 * Read the arguments and make the network, which the caller frees.
 */
static bool
choose(ClipChoice *choice, int argc, char **argv, EngOption *options,
	   EngStatus *status)
{
	EngClipConfig config;
	EngArguments arguments;

	choice->frames = 32;
	choice->tokens = 77;
	if (!eng_arguments_read(&arguments, argc, argv, options, 1, 1, status) ||
		!eng_choice_read(&choice->machine, options, status) ||
		!eng_choice_planned(&choice->machine, options, choice->planned,
							status) ||
		!eng_option_integer(options, "frames", 1, ENG_CLIP_MOST,
							&choice->frames, status) ||
		!eng_option_integer(options, "texts", 1, ENG_CLIP_MOST,
							&choice->texts, status) ||
		!eng_option_integer(options, "tokens", 1, 77, &choice->tokens,
							status) ||
		!eng_clip_config_parse(&config, choice->machine.options, status))
		return false;
	choice->clip = eng_clip_create(&config, choice->machine.device,
								   (int) choice->machine.threads, status);
	return choice->clip != NULL &&
		eng_clip_set_precision(choice->clip, choice->machine.type, status);
}

static bool
explain(const ClipChoice *choice, const EngOption *options, FILE *out,
		EngStatus *status)
{
	bool		texts = choice->texts > 0;
	int32_t		n = eng_clip_group((int32_t) (texts ? choice->texts :
											  choice->frames));
	const EngPlanRow *rows;
	EngMemory	memory;
	int64_t		limit = 0;
	int32_t		count;

	if (!eng_option_integer(options, "limit", 1, INT64_MAX, &limit, status))
		return false;
	eng_clip_set_memory_limit(choice->clip, (size_t) limit);
	if (!eng_clip_explain(choice->clip, n,
						  texts ? (int32_t) choice->tokens : 0, &rows, &count,
						  status))
		return false;
	fprintf(out, ENG_CLIP_ARCHITECTURE ", inference, %s, %s, %d threads, %d %s\n",
			eng_clip_backend(choice->clip)->name,
			eng_type_name(eng_clip_precision(choice->clip)),
			eng_clip_threads(choice->clip), (int) n,
			texts ? "texts" : "pictures");
	eng_explain_rows(out, rows, count, false);
	eng_clip_memory(choice->clip, &memory);
	eng_explain_memory(out, &memory);
	return true;
}

bool
eng_clip_explain_run(int argc, char **argv, FILE *out, EngStatus *status)
{
	EngOption	options[] = {
		{"options"}, ENG_CHOICE_MACHINE, {"frames"},
		ENG_CLIP_OPTIONS, {"limit"}, {"device-properties"}, {NULL}
	};
	ClipChoice	choice = {{0}};
	bool		fine;

	fine = choose(&choice, argc, argv, options, status) &&
		explain(&choice, options, out, status);
	eng_clip_free(choice.clip);
	return fine;
}

/* ---- bench ------------------------------------------------------------------ */

typedef struct Material
{
	uint8_t    *pixels;
	int32_t    *ids;
	const uint8_t **pictures;
	EngClipText *texts;
	float	   *embeddings;
} Material;

static void
free_material(Material *material)
{
	free(material->pixels);
	free(material->ids);
	free(material->pictures);
	free(material->texts);
	free(material->embeddings);
}

/* Pictures of noise, or texts whose last token is their end. */
static bool
make_material(Material *m, const ClipChoice *choice, int32_t n,
			  EngStatus *status)
{
	const EngClipConfig *config = eng_clip_config(choice->clip);
	size_t		bytes = (size_t) config->side * config->side * 3;
	size_t		i;

	m->pixels = malloc(bytes * (size_t) n);
	m->ids = malloc(sizeof(int32_t) * (size_t) n * (size_t) choice->tokens);
	m->pictures = malloc(sizeof(*m->pictures) * (size_t) n);
	m->texts = malloc(sizeof(*m->texts) * (size_t) n);
	m->embeddings = malloc(sizeof(float) * (size_t) n *
						   (size_t) config->dimensions);
	if (m->pixels == NULL || m->ids == NULL || m->pictures == NULL ||
		m->texts == NULL || m->embeddings == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "could not make pictures");
	for (i = 0; i < bytes * (size_t) n; i++)
		m->pixels[i] = (uint8_t) eng_random_u64(1, 0, 0, ENG_USE_TEST, i);
	for (i = 0; i < (size_t) (n * choice->tokens); i++)
		m->ids[i] = (int64_t) i % choice->tokens == choice->tokens - 1 ?
			config->vocabulary - 1 : (int32_t) (i % 1000);
	for (i = 0; i < (size_t) n; i++)
	{
		m->pictures[i] = m->pixels + bytes * i;
		m->texts[i] = (EngClipText) {m->ids + (size_t) choice->tokens * i,
									 (int32_t) choice->tokens};
	}
	return true;
}

static bool
run_once(const ClipChoice *choice, const Material *m, EngStatus *status)
{
	if (choice->texts > 0)
		return eng_clip_texts(choice->clip, m->texts, (int32_t) choice->texts,
							  m->embeddings, status);
	return eng_clip_images(choice->clip, m->pictures,
						   (int32_t) choice->frames, m->embeddings, status);
}

/*
 * Operations are reported of the first group of a call, the largest.
 */
static bool
measure(const ClipChoice *choice, const Material *m, EngBenchTimes *times,
		FILE *out, EngStatus *status)
{
	bool		texts = choice->texts > 0;
	int64_t		n = texts ? choice->texts : choice->frames;
	double		start;
	bool		fine = run_once(choice, m, status);
	int			i;

	eng_clip_profile(choice->clip, true);
	start = eng_feed_clock();
	for (i = 0; fine && i < times->steps; i++)
		fine = run_once(choice, m, status);
	times->seconds = eng_feed_clock() - start;
	if (!fine)
		return false;
	fprintf(out, "inference: %.1f %s/s, %.1f ms for %d, resident at most %.0f MB\n",
			(double) n * times->steps / times->seconds,
			texts ? "texts" : "images",
			1e3 * times->seconds / times->steps, (int) n,
			eng_bench_resident() / 1e6);
	return true;
}

static bool
bench(const ClipChoice *choice, const EngOption *options, FILE *out,
	  EngStatus *status)
{
	int32_t		n = (int32_t) (choice->texts > 0 ? choice->texts :
							   choice->frames);
	int64_t		steps = 5;
	EngBenchTimes times = {
		.each = eng_option_value(options, "rows") != NULL
	};
	Material	material = {0};
	EngPeak		peak;
	bool		fine;

	if (!eng_option_integer(options, "steps", 1, 10000, &steps, status) ||
		!eng_bench_peak(&peak, &choice->machine, out, status))
		return false;
	times.steps = (int) steps;
	eng_clip_init(choice->clip, (uint64_t) choice->machine.seed);
	fine = make_material(&material, choice, n, status) &&
		measure(choice, &material, &times, out, status) &&
		eng_clip_explain(choice->clip, eng_clip_group(n),
						 choice->texts > 0 ? (int32_t) choice->tokens : 0,
						 &times.rows, &times.count, status);
	if (fine)
		eng_bench_report(out, &times, &peak);
	free_material(&material);
	return fine;
}

bool
eng_clip_bench_run(int argc, char **argv, FILE *out, EngStatus *status)
{
	EngOption	options[] = {
		{"options"}, ENG_CHOICE_MACHINE, ENG_CHOICE_SEED, {"frames"},
		ENG_CLIP_OPTIONS, {"steps"}, {"rows", true}, {NULL}
	};
	ClipChoice	choice = {{0}};
	bool		fine;

	fine = choose(&choice, argc, argv, options, status) &&
		bench(&choice, options, out, status);
	eng_clip_free(choice.clip);
	return fine;
}
