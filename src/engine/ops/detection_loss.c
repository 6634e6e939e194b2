/*
 * engine/ops/detection_loss.c
 *		The four losses of the detector and their gradients.
 *
 * Terms are computed and summed in double, in index order, from float32
 * logits and targets.  Few elements carry a loss, so this costs nothing.
 */
#include <math.h>
#include <string.h>

#include "engine/ops/detection.h"

#define BETA (1.0 / 9.0)		/* where smooth L1 turns from square to line */

static double
cross_entropy_logit(double x, double y)
{
	return (x > 0.0 ? x : 0.0) - x * y + log1p(exp(-fabs(x)));
}

static double
sigmoid(double x)
{
	double		e = exp(-fabs(x));

	return x >= 0.0 ? 1.0 / (1.0 + e) : e / (1.0 + e);
}

static double
smooth_l1(double d)
{
	double		a = fabs(d);

	return a < BETA ? 0.5 * a * a / BETA : a - 0.5 * BETA;
}

static double
smooth_l1_slope(double d)
{
	if (fabs(d) < BETA)
		return d / BETA;
	return d > 0.0 ? 1.0 : -1.0;
}

float
eng_objectness_loss(float *dx, const float *x, const float *target,
					int32_t n, float scale)
{
	double		sum = 0.0;

	if (n == 0)
		return 0.0f;
	for (int32_t i = 0; i < n; i++)
		sum += cross_entropy_logit(x[i], target[i]);
	for (int32_t i = 0; dx != NULL && i < n; i++)
		dx[i] = (float) (scale * (sigmoid(x[i]) - target[i]) / n);
	return (float) (sum / n);
}

float
eng_smooth_l1_loss(float *dx, const float *x, const float *target, int32_t n,
				   float divisor, float scale)
{
	double		sum = 0.0;

	for (int32_t i = 0; i < n; i++)
		sum += smooth_l1((double) x[i] - target[i]);
	for (int32_t i = 0; dx != NULL && i < n; i++)
		dx[i] = (float) (scale * smooth_l1_slope((double) x[i] - target[i]) /
						 divisor);
	return (float) (sum / divisor);
}

void
eng_softmax(float *y, const float *x, int32_t rows, int32_t columns)
{
	for (int32_t r = 0; r < rows; r++)
	{
		const float *in = x + (size_t) r * columns;
		float	   *out = y + (size_t) r * columns;
		float		high = in[0];
		double		sum = 0.0;

		for (int32_t c = 1; c < columns; c++)
			high = in[c] > high ? in[c] : high;
		for (int32_t c = 0; c < columns; c++)
		{
			out[c] = expf(in[c] - high);
			sum += out[c];
		}
		for (int32_t c = 0; c < columns; c++)
			out[c] = (float) (out[c] / sum);
	}
}

/* Level of an anchor, and its index there. */
static int32_t
anchor_level(const EngPyramid *pyramid, int32_t *anchor)
{
	int32_t		level = 0;

	while (*anchor >= pyramid->first[level + 1])
		level++;
	*anchor -= pyramid->first[level];
	return level;
}

static void
clear_gradients(const EngRpnGradients *gradients, const EngPyramid *pyramid,
				int32_t images)
{
	for (int32_t l = 0; l < ENG_RPN_LEVELS; l++)
	{
		size_t		n = (size_t) images *
			(pyramid->first[l + 1] - pyramid->first[l]);

		memset(gradients->logits[l], 0, n * sizeof(float));
		memset(gradients->deltas[l], 0, 4 * n * sizeof(float));
	}
}

/* Where the sums of the RPN's losses and its constants meet. */
typedef struct RpnSum
{
	const EngRpnBatch *batch;
	const EngRpnGradients *gradients;	/* or NULL */
	double		objectness;
	double		box;
	double		factor;			/* scale / sampled anchors */
} RpnSum;

static void
add_objectness(RpnSum *sum, int32_t image, int32_t anchor, double target)
{
	const EngPyramid *pyramid = sum->batch->pyramid;
	int32_t		at = anchor;
	int32_t		level = anchor_level(pyramid, &at);
	size_t		i = (size_t) image *
		(pyramid->first[level + 1] - pyramid->first[level]) + at;
	double		x = sum->batch->maps.logits[level][i];

	sum->objectness += cross_entropy_logit(x, target);
	if (sum->gradients != NULL)
		sum->gradients->logits[level][i] =
			(float) (sum->factor * (sigmoid(x) - target));
}

static void
add_box(RpnSum *sum, int32_t image, int32_t anchor)
{
	const EngPyramid *pyramid = sum->batch->pyramid;
	const EngRpnTarget *target = sum->batch->targets + image;
	int32_t		at = anchor;
	int32_t		level = anchor_level(pyramid, &at);
	size_t		i = 4 * ((size_t) image *
						 (pyramid->first[level + 1] - pyramid->first[level]) +
						 at);
	int32_t		match = target->match[anchor];
	float		encoded[4];

	eng_boxes_encode(encoded, target->gt + 4 * (match > 0 ? match : 0),
					 sum->batch->anchors + 4 * (size_t) anchor, 1,
					 eng_rpn_box_weights);
	for (int c = 0; c < 4; c++)
	{
		double		d = (double) sum->batch->maps.deltas[level][i + c] -
			encoded[c];

		sum->box += smooth_l1(d);
		if (sum->gradients != NULL)
			sum->gradients->deltas[level][i + c] =
				(float) (sum->factor * smooth_l1_slope(d));
	}
}

int64_t
eng_rpn_sampled(const EngRpnBatch *batch)
{
	int64_t		sampled = 0;

	for (int32_t i = 0; i < batch->images; i++)
		sampled += batch->targets[i].sample.positive_count +
			batch->targets[i].sample.negative_count;
	return sampled;
}

EngRpnLoss
eng_rpn_loss(const EngRpnGradients *gradients, const EngRpnBatch *batch,
			 float scale)
{
	EngRpnLoss	loss = {0.0f, 0.0f};
	RpnSum		sum = {batch, gradients, 0.0, 0.0, 0.0};
	double		divisor = (double) eng_rpn_sampled(batch);

	if (gradients != NULL)
		clear_gradients(gradients, batch->pyramid, batch->images);
	if (divisor == 0)
		return loss;
	if (batch->divisor > 0)
		divisor = batch->divisor;
	sum.factor = (double) scale / divisor;
	for (int32_t i = 0; i < batch->images; i++)
	{
		const EngSample *sample = &batch->targets[i].sample;

		for (int32_t k = 0; k < sample->positive_count; k++)
		{
			add_objectness(&sum, i, sample->positives[k], 1.0);
			add_box(&sum, i, sample->positives[k]);
		}
		for (int32_t k = 0; k < sample->negative_count; k++)
			add_objectness(&sum, i, sample->negatives[k], 0.0);
	}
	loss.objectness = (float) (sum.objectness / divisor);
	loss.box = (float) (sum.box / divisor);
	return loss;
}

/* Cross-entropy of one row; its gradient times factor into dlogits. */
static double
row_cross_entropy(float *dlogits, const float *logits, int32_t classes,
				  int32_t label, double factor)
{
	double		high = logits[0];
	double		sum = 0.0;

	for (int32_t c = 1; c < classes; c++)
		high = logits[c] > high ? logits[c] : high;
	for (int32_t c = 0; c < classes; c++)
		sum += exp(logits[c] - high);
	for (int32_t c = 0; dlogits != NULL && c < classes; c++)
		dlogits[c] = (float) (factor * (exp(logits[c] - high) / sum -
										(c == label ? 1.0 : 0.0)));
	return log(sum) + high - logits[label];
}

EngRoiLoss
eng_roi_loss(float *dlogits, float *ddeltas, const EngRoiBatch *batch,
			 float scale)
{
	EngRoiLoss	loss = {0.0f, 0.0f};
	int32_t		classes = batch->classes;
	size_t		cells = (size_t) batch->rows * classes;
	double		classifier = 0.0;
	double		box = 0.0;
	double		factor;
	double		divisor;
	int32_t		live = 0;

	if (dlogits != NULL)
		memset(dlogits, 0, cells * sizeof(float));
	if (ddeltas != NULL)
		memset(ddeltas, 0, 4 * cells * sizeof(float));
	for (int32_t r = 0; r < batch->rows; r++)
		live += batch->labels[r] >= 0;
	if (live == 0)
		return loss;
	divisor = batch->divisor > 0 ? batch->divisor : (double) live;
	factor = (double) scale / divisor;
	for (int32_t r = 0; r < batch->rows; r++)
	{
		int32_t		label = batch->labels[r];
		size_t		row = (size_t) r * classes;

		if (label < 0)
			continue;
		classifier += row_cross_entropy(dlogits != NULL ? dlogits + row : NULL,
										batch->logits + row, classes, label,
										factor);
		for (int c = 0; label > 0 && c < 4; c++)
		{
			size_t		i = 4 * (row + label) + c;
			double		d = (double) batch->deltas[i] -
				batch->targets[4 * (size_t) r + c];

			box += smooth_l1(d);
			if (ddeltas != NULL)
				ddeltas[i] = (float) (factor * smooth_l1_slope(d));
		}
	}
	loss.classifier = (float) (classifier / divisor);
	loss.box = (float) (box / divisor);
	return loss;
}
