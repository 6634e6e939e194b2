/*
 * test/engine/net_derivative.c
 *		Whole detectors: the gradient against differences of the loss.
 *
 * Proposals are held fixed, as they carry no gradient; then the loss is a
 * smooth function of the weights but for ReLUs.  Along a direction v,
 * (L(w + e v) - L(w - e v)) / 2e must be the sum of dw * v.
 */
#include "frames.h"
#include "tap.h"

#define CLASSES	4
#define FRAMES	2

static const char *const architectures[] = {
	"small", "fasterrcnn_resnet18_fpn_v2", "fasterrcnn_resnet50_fpn"
};

#define OPTIONS "{\"widths\":[8,16,24,32],\"fpn_channels\":16," \
	"\"representation_size\":24,\"min_size\":96,\"max_size\":128," \
	"\"anchor_sizes\":[8,16,32,64,128],\"rpn_batch_size_per_image\":64," \
	"\"box_batch_size_per_image\":32,\"rpn_post_nms_top_n_train\":60}"

typedef struct Net
{
	EngDetector *detector;
	EngFrame	frames[FRAMES];
	EngGiven	given[FRAMES];
	float	   *proposals[FRAMES];
	float	  **start;			/* values of each parameter, or NULL */
	float	  **gradient;
} Net;

static double
loss(Net *net)
{
	EngStatus	status = {ENG_OK, ""};
	EngStepInfo info = {.seed = 5, .step = 1, .no_update = true};
	EngStepResult result;

	if (!eng_detector_train_step(net->detector, net->frames, FRAMES, &info,
								 &result, &status))
		tap_note("%s", status.message);
	return result.loss;
}

/*
 * Keep the proposals of the last step for the next ones.
 */
static void
hold_proposals(Net *net)
{
	EngDetectorHooks hooks = {.given = net->given, .given_count = FRAMES};
	int			i;

	for (i = 0; i < FRAMES; i++)
	{
		EngFrameTrace trace;
		size_t		size;

		(void) eng_detector_frame_trace(net->detector, i, &trace);
		size = sizeof(float) * 4 * trace.proposals.count;
		net->proposals[i] = malloc(size + 1);
		memcpy(net->proposals[i], trace.proposals.boxes, size);
		net->given[i].proposals = net->proposals[i];
		net->given[i].proposal_count = trace.proposals.count;
	}
	eng_detector_set_hooks(net->detector, &hooks);
}

static void
remember(Net *net)
{
	int32_t		count = eng_detector_parameter_count(net->detector);
	int32_t		i;

	net->start = calloc(count, sizeof(float *));
	net->gradient = calloc(count, sizeof(float *));
	for (i = 0; i < count; i++)
	{
		EngParameterInfo info;

		eng_detector_parameter_info(net->detector, i, &info);
		if (!info.is_trainable)
			continue;
		net->start[i] = malloc(sizeof(float) * info.count);
		net->gradient[i] = malloc(sizeof(float) * info.count);
		eng_detector_parameter_read(net->detector, i, ENG_PART_VALUE,
									net->start[i]);
		eng_detector_parameter_read(net->detector, i, ENG_PART_GRADIENT,
									net->gradient[i]);
	}
}

/*
 * Component of the direction: the gradient's, or a random share of it.
 */
static double
component(const Net *net, int32_t i, int64_t j, bool along)
{
	double		g = net->gradient[i][j];

	return along ? g : g * eng_random_uniform(3, 0, i, ENG_USE_TEST, j);
}

/* Move all parameters by e along the direction. */
static void
move(Net *net, bool along, double e)
{
	int32_t		i;

	for (i = 0; i < eng_detector_parameter_count(net->detector); i++)
	{
		EngParameterInfo info;
		float	   *values;
		int64_t		j;

		if (net->start[i] == NULL)
			continue;
		eng_detector_parameter_info(net->detector, i, &info);
		values = malloc(sizeof(float) * info.count);
		for (j = 0; j < info.count; j++)
			values[j] = (float) (net->start[i][j] +
								 e * component(net, i, j, along));
		eng_detector_parameter_write(net->detector, i, ENG_PART_VALUE,
									 values);
		free(values);
	}
}

static void
check(Net *net, const char *name, bool along)
{
	double		expected = 0;
	double		e;
	double		up;
	double		down;
	double		slope;
	int32_t		i;

	for (i = 0; i < eng_detector_parameter_count(net->detector); i++)
	{
		EngParameterInfo info;
		int64_t		j;

		if (net->start[i] == NULL)
			continue;
		eng_detector_parameter_info(net->detector, i, &info);
		for (j = 0; j < info.count; j++)
			expected += net->gradient[i][j] * component(net, i, j, along);
	}
	e = 2e-3 / fmax(fabs(expected), 1e-3);
	move(net, along, e);
	up = loss(net);
	move(net, along, -e);
	down = loss(net);
	move(net, along, 0);
	slope = (up - down) / (2 * e);
	tap_ok(fabs(slope - expected) < 0.02 * fabs(expected),
		   "%s, %s: %g, differences say %g", name,
		   along ? "along the gradient" : "along random shares of it", expected, slope);
}

static void
test(const char *architecture, const char *backend)
{
	EngStatus	status = {ENG_OK, ""};
	EngDetectorConfig config;
	Net			net = {0};
	char		name[80];
	int32_t		i;

	snprintf(name, sizeof(name), "%s on %s", architecture, backend);
	for (i = 0; i < FRAMES; i++)
		frame_make(&net.frames[i], i + 1, 128, 96, FRAME_BOXES, CLASSES);
	if (eng_detector_config_parse(&config, architecture, OPTIONS, CLASSES,
								  &status))
		net.detector = eng_detector_create(&config, backend, 1, true,
										   &status);
	if (net.detector == NULL)
	{
		tap_ok(false, "%s: %s", name, status.message);
		return;
	}
	(void) eng_detector_init(net.detector, 21, &status);
	(void) loss(&net);
	hold_proposals(&net);
	(void) loss(&net);
	remember(&net);
	check(&net, name, true);
	check(&net, name, false);
	for (i = 0; i < eng_detector_parameter_count(net.detector); i++)
	{
		free(net.start[i]);
		free(net.gradient[i]);
	}
	free(net.start);
	free(net.gradient);
	eng_detector_free(net.detector);
	for (i = 0; i < FRAMES; i++)
	{
		free(net.proposals[i]);
		frame_free(&net.frames[i]);
	}
}

int
main(void)
{
	size_t		i;

	for (i = 0; i < sizeof(architectures) / sizeof(architectures[0]); i++)
	{
		test(architectures[i], "cpu");
		if (i == 0)
			test(architectures[i], "ref");
	}
	return tap_done();
}
