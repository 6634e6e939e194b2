/*
 * engine/bench_report.c
 *		Times of operations beside what the machine could do.
 *
 * The bound of an operation is the longer of two times: its multiplications
 * at the rate of one large matrix product, and its bytes at the rate of
 * memory.  A sparse gradient is held to its bytes alone, as few of its rows
 * are multiplied.
 */
#include "engine/bench.h"

#include <stdlib.h>
#include <string.h>

#define MAX_CLASSES		64

/* One operation, or the sums of several. */
typedef struct Class
{
	char		name[80];
	bool		products;		/* convolutions and linear layers */
	double		seconds[2];		/* forward, backward; of all steps */
	double		flops;			/* of one step */
	double		bound;			/* seconds of one step */
} Class;

static double
bound(double flops, double bytes, const EngPeak *peak)
{
	double		product = flops / peak->flops;
	double		memory = bytes / peak->bytes;

	return product > memory ? product : memory;
}

/*
 * The row as a class of its own.
 */
static Class
row_class(const EngPlanRow *row, const EngPeak *peak)
{
	double		backward = row->sparse ? 0 : row->flops_backward;
	Class		class = {
		.products = row->flops_forward > 0,
		.seconds = {row->seconds_forward, row->seconds_backward},
		.flops = row->flops_forward + backward,
		.bound = bound(row->flops_forward, row->bytes_forward, peak)
	};

	if (row->seconds_backward > 0)
		class.bound += bound(backward, row->bytes_backward, peak);
	else
		class.flops = row->flops_forward;
	return class;
}

static void
name_class(Class *class, const EngPlanRow *row)
{
	if (strcmp(row->kind, "conv") == 0)
		snprintf(class->name, sizeof(class->name), "conv %dx%d%s%s",
				 row->k, row->k, row->stride > 1 ? " stride 2" : "",
				 row->sparse ? ", sparse gradient" : "");
	else
		snprintf(class->name, sizeof(class->name), "%s", row->kind);
}

static void
add_class(Class *sum, const Class *class)
{
	sum->seconds[0] += class->seconds[0];
	sum->seconds[1] += class->seconds[1];
	sum->flops += class->flops;
	sum->bound += class->bound;
}

static int
find_class(Class *list, int count, const Class *class)
{
	int			i;

	for (i = 0; i < count; i++)
		if (strcmp(list[i].name, class->name) == 0)
			break;
	if (i == count && i < MAX_CLASSES)
	{
		memset(&list[i], 0, sizeof(list[i]));
		memcpy(list[i].name, class->name, sizeof(list[i].name));
		list[i].products = class->products;
	}
	return i;
}

static int
compare_classes(const void *a, const void *b)
{
	const Class *left = a;
	const Class *right = b;
	double		difference = right->seconds[0] + right->seconds[1] -
		left->seconds[0] - left->seconds[1];

	return (difference > 0) - (difference < 0);
}

static void
print_class(FILE *out, const EngBenchTimes *times, const EngPeak *peak,
			const Class *class)
{
	double		sum = class->seconds[0] + class->seconds[1];
	double		rate = sum > 0 ? class->flops * times->steps / sum : 0;

	fprintf(out, "  %-44s %9.3f %9.3f %6.1f %9.1f", class->name,
			1e3 * class->seconds[0] / times->steps,
			1e3 * class->seconds[1] / times->steps,
			times->seconds > 0 ? 100 * sum / times->seconds : 0.0,
			rate / 1e9);
	if (class->products)
		fprintf(out, " %8.1f", 100 * rate / peak->flops);
	else
		fprintf(out, " %8s", "");
	fprintf(out, " %9.3f\n", 1e3 * class->bound);
}

void
eng_bench_report(FILE *out, const EngBenchTimes *times, const EngPeak *peak)
{
	Class		classes[MAX_CLASSES + 1];
	Class		products = {.name = "convolutions and linear layers",
							.products = true};
	Class		others = {.name = "all other operations"};
	double		listed;
	int			count = 0;
	int32_t		i;

	fprintf(out, "  %-44s %9s %9s %6s %9s %8s %9s\n", "a step of it",
			"ms fwd", "ms back", "share", "GFLOP/s", "% of peak",
			"ms bound");
	for (i = 0; i < times->count; i++)
	{
		Class		class = row_class(&times->rows[i], peak);
		int			place;

		snprintf(class.name, sizeof(class.name), "%s", times->rows[i].name);
		if (times->each)
			print_class(out, times, peak, &class);
		name_class(&class, &times->rows[i]);
		place = find_class(classes, count, &class);
		if (place == count && count < MAX_CLASSES)
			count++;
		add_class(&classes[place < MAX_CLASSES ? place : MAX_CLASSES - 1],
				  &class);
		add_class(class.products ? &products : &others, &class);
	}
	qsort(classes, count, sizeof(classes[0]), compare_classes);
	for (i = 0; i < count; i++)
		print_class(out, times, peak, &classes[i]);
	print_class(out, times, peak, &products);
	print_class(out, times, peak, &others);
	listed = products.seconds[0] + products.seconds[1] + others.seconds[0] +
		others.seconds[1];
	fprintf(out, "  outside of operations: %.1f %%\n", times->seconds > 0 ?
			100 * (times->seconds - listed) / times->seconds : 0.0);
}
