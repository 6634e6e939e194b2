/*
 * engine/bench.h
 *		The parts of a bench: the machine's limits, the report, its material.
 */
#ifndef ENG_BENCH_H
#define ENG_BENCH_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/choice.h"
#include "engine/nets/detector.h"
#include "engine/status.h"

/* bench_peak.c: measured, best of several */
typedef struct EngPeak
{
	double		flops;			/* a second, of one large matrix product */
	double		bytes;			/* a second, of y = a * x + y on large arrays */
	int32_t		side;			/* of the product's matrices */
} EngPeak;

/* Printed too. */
extern bool eng_bench_peak(EngPeak *peak, const EngChoice *choice, FILE *out,
						   EngStatus *status);

/* The same of a GPU; nothing is printed.  Products are of this type. */
extern bool eng_bench_peak_device(EngPeak *peak, EngBackend *backend,
								  EngType type, EngStatus *status);

/* Most bytes resident at once since the peak was measured; 0: not known. */
extern size_t eng_bench_resident(void);

/* bench_report.c: times of a plan's rows, of steps steps in total seconds */
typedef struct EngBenchTimes
{
	const EngPlanRow *rows;
	int32_t		count;
	int			steps;
	double		seconds;
	bool		each;			/* a line for every row as well */
} EngBenchTimes;

extern void eng_bench_report(FILE *out, const EngBenchTimes *times,
							 const EngPeak *peak);

/*
 * bench_feed.c: prints the rates at which pictures of a size are decoded, sent
 * to the device, and found to be there.
 */
extern bool eng_bench_feed(const EngChoice *choice, EngSize size, FILE *out,
						   EngStatus *status);

/*
 * bench_save.c: a safetensors file of the detector's weights and, as
 * bench.frames (n, h, w, 3) bytes, bench.boxes (n, m, 4) and bench.labels
 * (n, m), the frames, which have one size and number of boxes.
 */
extern bool eng_bench_save(const char *path, EngDetector *detector,
						   const EngFrame *frames, int n, EngStatus *status);

#endif							/* ENG_BENCH_H */
