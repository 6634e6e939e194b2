/*
 * Vectors for test/perf/search, and the floor of reading them.
 *
 *		search_data frames ROWS NUMBERS		COPY BINARY for a dataset
 *		search_data vectors ROWS NUMBERS	COPY BINARY (bigint, vector)
 *		search_data raw ROWS NUMBERS		the floats
 *		search_data query NUMBERS			one as an array's text
 *		search_data floor ROWS NUMBERS THREADS	milliseconds, best and median
 *
 * They imitate drives: a hundred frames of a scene look alike, and all scenes
 * somewhat.  The floor is the dot product of a query with all of them as one
 * array of floats, each thread with its share.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SCENE 100
#define TRIES 15
#define MOST_THREADS 64

static uint64_t
mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

/* Sum of two uniform numbers, of variance 1. */
static float
noise(uint64_t stream, uint64_t i)
{
	uint64_t	bits = mix(mix(stream) + i);

	return ((uint32_t) bits + (double) (bits >> 32) - 4294967296.0) /
		1753413056.0;
}

static void
make_vector(float *vector, uint64_t row, int numbers)
{
	double		square = 0;
	int			i;

	for (i = 0; i < numbers; i++)
	{
		vector[i] = 1.0f * noise(1, i) + 0.7f * noise(1000 + row / SCENE, i) +
			0.25f * noise(1000000000 + row, i);
		square += (double) vector[i] * vector[i];
	}
	for (i = 0; i < numbers; i++)
		vector[i] /= sqrt(square);
}

/* ---- binary COPY ---- */

static void
put16(int16_t value)
{
	uint16_t	wire = htons(value);

	fwrite(&wire, 2, 1, stdout);
}

static void
put32(int32_t value)
{
	uint32_t	wire = htonl(value);

	fwrite(&wire, 4, 1, stdout);
}

static void
put_bytes(const void *bytes, int size)
{
	put32(size);
	fwrite(bytes, size, 1, stdout);
}

static void
put_float(float value)
{
	int32_t		bits;

	memcpy(&bits, &value, 4);
	put32(bits);
}

static void
put_array(const float *vector, int numbers)
{
	int			i;

	put32(20 + 8 * numbers);
	put32(1);
	put32(0);
	put32(700);					/* real */
	put32(numbers);
	put32(1);
	for (i = 0; i < numbers; i++)
	{
		put32(4);
		put_float(vector[i]);
	}
}

/* image_id, image_bytes, weather, timeofday and the vector */
static void
put_frame(uint64_t row, const float *vector, int numbers)
{
	static const char *const weather[] = {"clear", "rainy", "foggy"};
	static const char header[] = "\xff\xd8\xff\xc0\x00\x11\x08\x02\xd0\x05\x00"
		"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01";
	const char *timeofday = row % 100 == 0 ? "dawn/dusk" :
		row % 2 ? "daytime" : "night";
	char		name[32];
	char		image[64];

	snprintf(name, sizeof(name), "frame-%llu", (unsigned long long) row);
	memcpy(image, header, sizeof(header) - 1);
	memcpy(image + sizeof(header) - 1, name, strlen(name));
	put16(5);
	put_bytes(name, strlen(name));
	put_bytes(image, sizeof(header) - 1 + strlen(name));
	put_bytes(weather[row % 3], 5);
	put_bytes(timeofday, strlen(timeofday));
	put_array(vector, numbers);
}

static void
put_pgvector(uint64_t row, const float *vector, int numbers)
{
	int			i;

	put16(2);
	put32(8);
	put32((row + 1) >> 32);
	put32((int32_t) (row + 1));
	put32(4 + 4 * numbers);
	put16(numbers);
	put16(0);
	for (i = 0; i < numbers; i++)
		put_float(vector[i]);
}

static void
put_all(char form, uint64_t rows, int numbers)
{
	float	   *vector = malloc(sizeof(float) * numbers);
	uint64_t	row;

	if (form != 'r')
	{
		fwrite("PGCOPY\n\377\r\n\0", 11, 1, stdout);
		put32(0);
		put32(0);
	}
	for (row = 0; row < rows; row++)
	{
		make_vector(vector, row, numbers);
		if (form == 'f')
			put_frame(row, vector, numbers);
		else if (form == 'v')
			put_pgvector(row, vector, numbers);
		else
			fwrite(vector, sizeof(float), numbers, stdout);
	}
	if (form != 'r')
		put16(-1);
	free(vector);
}

/* ---- the floor ---- */

typedef struct Share
{
	const float *vectors;
	const float *query;
	uint64_t	rows;
	int			numbers;
	float		best;
} Share;

static void *
run_share(void *arg)
{
	Share	   *share = arg;
	uint64_t	row;

	share->best = -2;
	for (row = 0; row < share->rows; row++)
	{
		const float *vector = share->vectors + row * share->numbers;
		float		sum = 0;
		int			i;

		for (i = 0; i < share->numbers; i++)
			sum += vector[i] * share->query[i];
		if (sum > share->best)
			share->best = sum;
	}
	return NULL;
}

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a;
	double		y = *(const double *) b;

	return x < y ? -1 : x > y;
}

static double
run_once(const float *vectors, const float *query, uint64_t rows, int numbers,
		 int threads)
{
	pthread_t	ids[MOST_THREADS];
	Share		shares[MOST_THREADS];
	struct timespec from;
	struct timespec to;
	int			i;

	clock_gettime(CLOCK_MONOTONIC, &from);
	for (i = 0; i < threads; i++)
	{
		uint64_t	first = rows * i / threads;

		shares[i] = (Share)
		{
			vectors + first * numbers, query,
			rows * (i + 1) / threads - first, numbers, 0
		};
		pthread_create(&ids[i], NULL, run_share, &shares[i]);
	}
	for (i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
	clock_gettime(CLOCK_MONOTONIC, &to);
	return (to.tv_sec - from.tv_sec) * 1e3 + (to.tv_nsec - from.tv_nsec) / 1e6;
}

static void
print_floor(uint64_t rows, int numbers, int threads)
{
	float	   *vectors = malloc(sizeof(float) * rows * numbers);
	float	   *query = malloc(sizeof(float) * numbers);
	double		times[TRIES];
	uint64_t	i;

	if (!vectors || !query || threads < 1 || threads > MOST_THREADS)
		exit(1);
	/* what is in them does not matter, that they are there does */
	for (i = 0; i < rows * numbers; i++)
		vectors[i] = (float) (i & 1023);
	make_vector(query, 7, numbers);
	for (i = 0; i < TRIES; i++)
		times[i] = run_once(vectors, query, rows, numbers, threads);
	qsort(times, TRIES, sizeof(double), compare);
	printf("%.2f %.2f\n", times[0], times[TRIES / 2]);
	free(vectors);
	free(query);
}

int
main(int argc, char **argv)
{
	float		query[65536];
	int			numbers;
	int			i;

	if (argc == 3 && strcmp(argv[1], "query") == 0 &&
		(numbers = atoi(argv[2])) > 0 && numbers <= 65536)
	{
		make_vector(query, 4242, numbers);
		for (i = 0; i < numbers; i++)
			printf("%s%.9g", i ? "," : "", query[i] + 0.01f * noise(5, i));
		return 0;
	}
	if (argc == 5 && strcmp(argv[1], "floor") == 0)
		print_floor(atoll(argv[2]), atoi(argv[3]), atoi(argv[4]));
	else if (argc == 4)
		put_all(argv[1][0], atoll(argv[2]), atoi(argv[3]));
	else
		return 2;
	return 0;
}
