/*
 * engine/cpu/shares.c
 *		Weight gradient in shares, one thread each.
 *
 * oneDNN's kernels for weight gradients in bf16 let their threads wait for
 * each other in busy loops, several times a layer.  Where another process has
 * one of the cores, each such wait lasts until the scheduler comes round: a
 * layer of a tenth of a millisecond took ten.  Here each thread runs kernels
 * made for one thread, on a share of its own that no other one has a part in.
 *
 * Where weights are few, a share is rows: as many whole images as the others
 * have, and a band of each image that is left over.  The shares' gradients
 * are added in their order, so equal threads give equal bits.  Where weights
 * are many, a share is output channels, gathered from dy first; of a linear
 * layer with more inputs than outputs, inputs gathered from x, since a kernel
 * also packs all that it is not given a share of.  Small layers are one share.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/core/arena.h"
#include "engine/core/clones.h"
#include "engine/cpu/cpu.h"

#define SHARE_FLOPS		2e7		/* worth waking a thread for */
#define SHARE_CHANNELS	32		/* fewer waste the kernels' blocks */
#define PIECE_COUNT		8192	/* elements of a flat piece */

/* What a share does in one go. */
typedef struct Part
{
	EngDnnlConv *conv;			/* NULL: nothing */
	int64_t		source;			/* first element of x */
	int64_t		target;			/* and of dy */
	int32_t		channels;		/* gathered, from there on; 0: all, as they
								 * lie */
} Part;

struct EngCpuShares
{
	EngDnnlShape shape;			/* of all */
	int			count;
	bool		by_channel;
	bool		of_input;		/* these are channels of x */
	Part	   *whole;			/* (count) or NULL: whole images */
	Part	   *band;			/* (count) or NULL: of each image left over */
	int32_t		left;			/* images left over, the last ones */
	size_t		room;			/* bytes of workspace of a share */
};

static int64_t
dy_rows(const EngDnnlShape *s)
{
	return (int64_t) s->n * s->oh * s->ow;
}

/* Elements of the weights of one output channel. */
static int64_t
channel_size(const EngDnnlShape *s)
{
	return (int64_t) s->k * s->k * s->c;
}

/*
 * Adding gradients moves each weight three times; gathering, dy once.
 */
static bool
goes_by_channel(const EngDnnlShape *s)
{
	return s->linear || 3 * channel_size(s) > dy_rows(s);
}

static bool
gathers_input(const EngDnnlShape *s)
{
	return s->linear && s->c > s->oc;
}

static int
share_count(const EngDnnlShape *s, int threads)
{
	double		flops = 2.0 * dy_rows(s) * s->oc * channel_size(s);
	int32_t		channels = gathers_input(s) ? s->c : s->oc;
	int64_t		most = goes_by_channel(s) ? channels / SHARE_CHANNELS :
		(int64_t) s->n * s->oh;

	if (flops / SHARE_FLOPS < threads)
		threads = (int) (flops / SHARE_FLOPS);
	if (most < threads)
		threads = (int) most;
	return threads > 1 ? threads : 1;
}

/* Bytes of the gathered part of dy. */
static size_t
gathered_bytes(const EngCpuShares *shares, const Part *part)
{
	return eng_align(eng_type_size(shares->shape.source_type) *
					 dy_rows(&shares->shape) * part->channels);
}

static bool
plan_part(EngCpuShares *shares, Part *part, EngDnnl *dnnl,
		  EngDnnlShape *shape, EngStatus *status)
{
	size_t		size;

	shape->one_thread = true;
	part->conv = eng_dnnl_conv_create(dnnl, shape, status);
	if (part->conv == NULL)
		return false;
	size = gathered_bytes(shares, part) + eng_dnnl_conv_scratch(part->conv);
	if (size > shares->room)
		shares->room = size;
	return true;
}

/*
 * Some images from the first.
 */
static bool
plan_images(EngCpuShares *shares, Part *part, EngDnnl *dnnl, int32_t first,
			int32_t count, EngStatus *status)
{
	EngDnnlShape shape = shares->shape;

	part->source = (int64_t) first * shape.h * shape.w * shape.c;
	part->target = (int64_t) first * shape.oh * shape.ow * shape.oc;
	shape.n = count;
	return plan_part(shares, part, dnnl, &shape, status);
}

/*
 * The output rows from first to before last of one image, and the input rows
 * that they see.
 */
static bool
plan_band(EngCpuShares *shares, Part *part, EngDnnl *dnnl, int32_t first,
		  int32_t last, EngStatus *status)
{
	EngDnnlShape shape = shares->shape;
	int32_t		top = first * shape.stride - shape.pad;
	int32_t		bottom = (last - 1) * shape.stride - shape.pad + shape.k;

	if (first >= last)
		return true;
	shape.n = 1;
	shape.cut = top < 0 ? shape.pad + top : shape.pad;
	if (top < 0)
		top = 0;
	if (bottom > shape.h)
		bottom = shape.h;
	shape.h = bottom - top;
	shape.oh = last - first;
	part->source = (int64_t) top * shape.w * shape.c;
	part->target = (int64_t) first * shape.ow * shape.oc;
	return plan_part(shares, part, dnnl, &shape, status);
}

static bool
plan_channels(EngCpuShares *shares, EngDnnl *dnnl, EngStatus *status)
{
	const EngDnnlShape *s = &shares->shape;
	int32_t		all = shares->of_input ? s->c : s->oc;
	int32_t		blocks = all / SHARE_CHANNELS;
	int			i;

	shares->whole = calloc(shares->count, sizeof(Part));
	if (shares->whole == NULL)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	for (i = 0; i < shares->count; i++)
	{
		Part	   *part = &shares->whole[i];
		EngDnnlShape shape = *s;
		int32_t		first = blocks * i / shares->count * SHARE_CHANNELS;
		int32_t		last = i + 1 == shares->count ? all :
			blocks * (i + 1) / shares->count * SHARE_CHANNELS;

		part->channels = last - first;
		*(shares->of_input ? &part->source : &part->target) = first;
		*(shares->of_input ? &shape.c : &shape.oc) = part->channels;
		shape.pitch = s->c;
		if (!plan_part(shares, part, dnnl, &shape, status))
			return false;
	}
	return true;
}

static bool
plan_rows(EngCpuShares *shares, EngDnnl *dnnl, EngStatus *status)
{
	const EngDnnlShape *s = &shares->shape;
	int			count = shares->count;
	int32_t		images;
	int			i;

	shares->left = s->n % count;
	images = s->n - shares->left;
	shares->whole = images > 0 ? calloc(count, sizeof(Part)) : NULL;
	shares->band = shares->left > 0 ? calloc(count, sizeof(Part)) : NULL;
	if ((images > 0 && shares->whole == NULL) ||
		(shares->left > 0 && shares->band == NULL))
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	for (i = 0; i < count; i++)
	{
		int32_t		first = (int32_t) ((int64_t) images * i / count);
		int32_t		last = (int32_t) ((int64_t) images * (i + 1) / count);

		if (shares->whole != NULL &&
			!plan_images(shares, &shares->whole[i], dnnl, first, last - first,
						 status))
			return false;
		/* rounded up: the first share always has rows */
		if (shares->band != NULL &&
			!plan_band(shares, &shares->band[i], dnnl,
					   (s->oh * i + count - 1) / count,
					   (s->oh * (i + 1) + count - 1) / count, status))
			return false;
	}
	return true;
}

EngCpuShares *
eng_cpu_shares_create(EngDnnl *dnnl, const EngDnnlShape *shape, int threads,
					  EngStatus *status)
{
	EngCpuShares *shares = calloc(1, sizeof(EngCpuShares));

	if (shares == NULL)
	{
		eng_fail(status, ENG_NO_MEMORY, "out of memory");
		return NULL;
	}
	shares->shape = *shape;
	shares->count = share_count(shape, threads);
	shares->by_channel = shares->count > 1 && goes_by_channel(shape);
	shares->of_input = shares->by_channel && gathers_input(shape);
	if (shares->by_channel ? !plan_channels(shares, dnnl, status) :
		!plan_rows(shares, dnnl, status))
	{
		eng_cpu_shares_free(shares);
		return NULL;
	}
	return shares;
}

static void
free_parts(Part *parts, int count)
{
	int			i;

	for (i = 0; parts != NULL && i < count; i++)
		eng_dnnl_conv_free(parts[i].conv);
	free(parts);
}

void
eng_cpu_shares_free(EngCpuShares *shares)
{
	if (shares == NULL)
		return;
	free_parts(shares->whole, shares->count);
	free_parts(shares->band, shares->count);
	free(shares);
}

size_t
eng_cpu_shares_workspace(const EngCpuShares *shares)
{
	return shares->room * shares->count;
}

const char *
eng_cpu_shares_text(const EngCpuShares *shares)
{
	return eng_dnnl_conv_text(shares->whole != NULL ? shares->whole[0].conv :
							  shares->band[0].conv);
}

ENG_CLONES static void
add_piece(float *sum, const float *x, int64_t count)
{
	int64_t		i;

	for (i = 0; i < count; i++)
		sum[i] += x[i];
}

/*
 * The first share's packed gradient += those of the others, which have the
 * same layout.
 */
static void
add_gradients(const EngCpuShares *shares, const Part *parts, void *workspace)
{
	float	   *sum = eng_dnnl_conv_gradient(parts[0].conv, workspace);
	int64_t		count = (int64_t) (eng_dnnl_conv_gradient_size(parts[0].conv) /
								   sizeof(float));
	int64_t		first;

#pragma omp parallel for schedule(static)
	for (first = 0; first < count; first += PIECE_COUNT)
	{
		int64_t		size = count - first < PIECE_COUNT ? count - first :
			PIECE_COUNT;
		int			i;

		for (i = 1; i < shares->count && parts[i].conv != NULL; i++)
			add_piece(sum + first, (float *)
					  eng_dnnl_conv_gradient(parts[i].conv,
											 (uint8_t *) workspace +
											 shares->room * i) + first, size);
	}
}

/*
 * Some channels of rows that have more of them.
 */
static void
gather_channels(void *out, const void *in, EngType type, int64_t rows,
				int32_t from, int32_t channels)
{
	size_t		size = eng_type_size(type) * channels;
	int64_t		r;

	for (r = 0; r < rows; r++)
		memcpy((uint8_t *) out + r * size, eng_at(in, type, r * from), size);
}

/*
 * The gradient of some channels, by one thread.
 */
static bool
run_channels(const EngCpuShares *shares, const Part *part, float *dweight,
			 const void *x, const void *dy, void *workspace,
			 EngStatus *status)
{
	const EngDnnlShape *s = &shares->shape;
	EngType		type = s->source_type;
	void	   *scratch = (uint8_t *) workspace + gathered_bytes(shares, part);

	if (shares->of_input)
	{
		gather_channels(workspace, eng_at(x, type, part->source), type,
						dy_rows(s), s->c, part->channels);
		x = workspace;
		dweight += part->source;
	}
	else
	{
		gather_channels(workspace, eng_at(dy, type, part->target), type,
						dy_rows(s), s->oc, part->channels);
		dy = workspace;
		dweight += part->target * channel_size(s);
	}
	return eng_dnnl_conv_multiply(part->conv, x, dy, scratch, status) &&
		eng_dnnl_conv_unpack(part->conv, dweight, scratch, status);
}

/*
 * One part of every share: dweight += by channels, else the shares' own
 * gradients.
 */
static bool
run_each(const EngCpuShares *shares, const Part *parts, float *dweight,
		 const void *x, const void *dy, void *workspace, EngStatus *status)
{
	const EngDnnlShape *s = &shares->shape;
	EngStatus	failure = {ENG_OK, ""};
	int			i;

#pragma omp parallel for schedule(static) num_threads(shares->count)
	for (i = 0; i < shares->count; i++)
	{
		const Part *part = &parts[i];
		void	   *room = (uint8_t *) workspace + shares->room * i;
		EngStatus	result = {ENG_OK, ""};

		if (shares->by_channel)
			(void) run_channels(shares, part, dweight, x, dy, room, &result);
		else if (part->conv != NULL)
			(void) eng_dnnl_conv_multiply(part->conv,
										  eng_at(x, s->source_type,
												 part->source),
										  eng_at(dy, s->target_type,
												 part->target), room, &result);
		if (result.code != ENG_OK)
		{
#pragma omp critical (eng_shares)
			failure = result;
		}
	}
	if (failure.code == ENG_OK)
		return true;
	*status = failure;
	return false;
}

/*
 * dweight += the gradients of one part of every share.
 */
static bool
run_parts(const EngCpuShares *shares, const Part *parts, float *dweight,
		  const void *x, const void *dy, void *workspace, EngStatus *status)
{
	if (!run_each(shares, parts, dweight, x, dy, workspace, status))
		return false;
	if (shares->by_channel)
		return true;
	if (shares->count > 1)
		add_gradients(shares, parts, workspace);
	return eng_dnnl_conv_unpack(parts[0].conv, dweight, workspace, status);
}

bool
eng_cpu_shares_run(const EngCpuShares *shares, float *dweight, const void *x,
				   const void *dy, void *workspace, EngStatus *status)
{
	const EngDnnlShape *s = &shares->shape;
	int32_t		image;

	if (shares->whole != NULL &&
		!run_parts(shares, shares->whole, dweight, x, dy, workspace, status))
		return false;
	for (image = s->n - shares->left; image < s->n; image++)
		if (!run_parts(shares, shares->band, dweight,
					   eng_at(x, s->source_type,
							  (int64_t) image * s->h * s->w * s->c),
					   eng_at(dy, s->target_type,
							  (int64_t) image * s->oh * s->ow * s->oc),
					   workspace, status))
			return false;
	return true;
}
