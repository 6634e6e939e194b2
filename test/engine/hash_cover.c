/*
 * test/engine/hash_cover.c
 *		The cover of hashes against one that compares all pairs.
 *
 * With arguments COUNT KIND DISTANCE it prints how long that cover takes.
 */
#include <time.h>

#include "search/cover.h"
#include "tap.h"

typedef enum Kind
{
	RANDOM, PLANTED, CLUSTERED, EQUAL, BALL, DRIVE, KINDS
} Kind;

static const char *const kind_names[] = {
	"random", "planted", "clustered", "equal", "ball", "drive"
};

static uint64_t state = 1;
static uint64_t breaths;
static bool is_plain;

static uint64_t
draw(void)
{
	uint64_t	z = state += UINT64_C(0x9E3779B97F4A7C15);

	z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
	return z ^ z >> 31;
}

/* The hash with up to so many bits changed. */
static uint64_t
shake(uint64_t hash, int bits)
{
	int			i;

	for (i = (int) (draw() % (unsigned) (bits + 1)); i > 0; i--)
		hash ^= UINT64_C(1) << draw() % 64;
	return hash;
}

/* As of a picture: rows that resemble each other and one of few shapes. */
static uint64_t
picture_hash(void)
{
	static const uint8_t shapes[] = {0xf0, 0xe0, 0xf8, 0x0f, 0xcc, 0x8c, 0x31, 0xe1};
	uint64_t	hash = 0;
	uint64_t	row = shapes[draw() % 8];
	int			i;

	for (i = 0; i < 8; i++)
	{
		row ^= draw() & draw() & draw() & 0xff;
		hash = hash << 8 | row;
	}
	return hash;
}

static uint64_t
next_hash(Kind kind, const uint64_t *hashes, uint32_t n)
{
	switch (kind)
	{
		case PLANTED:
			if (n > 0 && draw() % 5 == 0)
				return shake(hashes[draw() % n], 12);
			return draw();
		case CLUSTERED:
			return picture_hash();
		case EQUAL:
			return 0x123456789abcdef0;
		case BALL:
			return shake(0, 6);
		case DRIVE:
			/* each frame is near the one before, the last far from the first */
			return n % 1000 == 0 ? draw() : shake(hashes[n - 1], 1);
		default:
			return draw();
	}
}

static int
distance(uint64_t a, uint64_t b)
{
	return __builtin_popcountll(a ^ b);
}

static void
breathe(void)
{
	breaths++;
}

/* ---- the oracle ------------------------------------------------------ */

static bool
is_near(const AvcCover *cover, const uint64_t *hashes, uint32_t a, uint32_t b)
{
	int			fine = 0;
	int			i;

	if (distance(hashes[a], hashes[b]) > cover->max_distance)
		return false;
	for (i = 0; cover->fine != NULL && i < 4; i++)
		fine += distance(cover->fine[4 * a + i], cover->fine[4 * b + i]);
	return fine <= cover->fine_distance;
}

/* Number of hashes that another one stands for than should; *kept = how many. */
static uint32_t
count_wrong(const AvcCover *cover, const uint64_t *hashes, uint32_t *kept)
{
	uint32_t   *leaders = malloc(sizeof(uint32_t) * (cover->count + 1));
	uint32_t	wrong = 0;
	uint32_t	i;
	uint32_t	j;

	*kept = 0;
	for (i = 0; i < cover->count; i++)
	{
		uint32_t	best = i;
		int			least = 65;

		for (j = 0; j < *kept; j++)
			if (distance(hashes[i], hashes[leaders[j]]) < least &&
				is_near(cover, hashes, i, leaders[j]))
			{
				best = leaders[j];
				least = distance(hashes[i], hashes[best]);
			}
		if (best == i)
		{
			leaders[(*kept)++] = i;
			least = 0;
		}
		wrong += cover->leaders[i] != best || cover->distances[i] != least;
	}
	free(leaders);
	return wrong;
}

/* ---- cases ----------------------------------------------------------- */

static AvcCover
make_case(Kind kind, uint32_t count, int max_distance, bool is_fine)
{
	AvcCover	cover = {count, max_distance, 40};
	uint64_t   *fine = malloc(sizeof(uint64_t) * 4 * (count + 1));
	uint32_t	i;
	int			j;

	cover.hashes = malloc(sizeof(uint64_t) * (count + 1));
	cover.leaders = malloc(sizeof(uint32_t) * (count + 1));
	cover.distances = malloc(count + 1);
	cover.workspace = malloc(avc_cover_workspace(count));
	cover.breathe = breathe;
	state = kind + 17;
	for (i = 0; i < count; i++)
	{
		cover.hashes[i] = next_hash(kind, cover.hashes, i);
		for (j = 0; j < 4; j++)
			fine[4 * i + j] = i == 0 || draw() % 8 == 0 ? draw() :
				shake(fine[4 * (i - 1 - draw() % (i < 9 ? i : 9)) + j], 8);
	}
	cover.fine = is_fine ? fine : NULL;
	if (!is_fine)
		free(fine);
	return cover;
}

static void
free_case(AvcCover *cover)
{
	free(cover->hashes);
	free((void *) cover->fine);
	free(cover->leaders);
	free(cover->distances);
	free(cover->workspace);
}

static void
check_case(Kind kind, uint32_t count, int max_distance, bool is_fine)
{
	AvcCover	cover = make_case(kind, count, max_distance, is_fine);
	uint64_t   *hashes = malloc(sizeof(uint64_t) * (count + 1));
	uint32_t	wrong;
	uint32_t	kept;

	memcpy(hashes, cover.hashes, sizeof(uint64_t) * count);
	cover.is_plain = is_plain;
	avc_cover(&cover);
	wrong = count_wrong(&cover, hashes, &kept);
	tap_ok(wrong == 0, "%u %s hashes, distance %d%s: %u kept, %u wrong", count,
		   kind_names[kind], max_distance, is_fine ? ", fine" : "", kept, wrong);
	free(hashes);
	free_case(&cover);
}

/*
 * Breaths over random hashes of which a share are the same but for their fine
 * ones, so that none stands for another.
 */
static long
breaths_among(uint32_t count, uint32_t equal_percent)
{
	AvcCover	cover = make_case(RANDOM, count, 4, true);
	uint64_t   *fine = (uint64_t *) cover.fine;
	long		before = breaths;
	uint32_t	i;

	for (i = 0; i < 4 * count; i++)
		fine[i] = draw();
	for (i = 0; i < count; i++)
		if (draw() % 100 < equal_percent)
			cover.hashes[i] = 42;
	avc_cover(&cover);
	free_case(&cover);
	return breaths - before;
}

/* Many looks into one bucket are not one breath. */
static void
check_breaths(void)
{
	long		apart = breaths_among(20000, 0);
	long		crowded = breaths_among(20000, 20);

	/* 4000 equal ones are 8 million pairs, once for each of the pieces */
	tap_ok(crowded > apart + 200, "it breathes among equal hashes: %ld times, %ld where none are",
		   crowded, apart);
}

static int
time_case(char **arguments)
{
	uint32_t	count = (uint32_t) atoi(arguments[0]);
	int			kind;
	AvcCover	cover;
	struct timespec start;
	struct timespec end;
	uint32_t	kept = 0;
	uint32_t	i;

	for (kind = 0; kind < KINDS - 1; kind++)
		if (strcmp(kind_names[kind], arguments[1]) == 0)
			break;
	cover = make_case((Kind) kind, count, atoi(arguments[2]), false);
	clock_gettime(CLOCK_MONOTONIC, &start);
	avc_cover(&cover);
	clock_gettime(CLOCK_MONOTONIC, &end);
	for (i = 0; i < count; i++)
		kept += cover.leaders[i] == i;
	printf("%u %s hashes, distance %d: %u kept, %.3f s\n", count,
		   kind_names[kind], cover.max_distance, kept,
		   (double) (end.tv_sec - start.tv_sec) +
		   (double) (end.tv_nsec - start.tv_nsec) / 1e9);
	free_case(&cover);
	return 0;
}

int
main(int argc, char **argv)
{
	static const int distances[] = {0, 1, 3, 10, 16, 24, 32, 63, 64};
	Kind		kind;
	int			i;

	if (argc == 4)
		return time_case(argv + 1);
	for (kind = RANDOM; kind < KINDS; kind++)
	{
		check_case(kind, 30000, 10, false);
		check_case(kind, 6000, 10, true);
		for (i = 0; i < (int) (sizeof(distances) / sizeof(distances[0])); i++)
			check_case(kind, 4000, distances[i], false);
	}
	check_case(CLUSTERED, 50000, 4, false);
	check_case(DRIVE, 20000, 14, true);
	for (i = 0; i <= 3; i++)
		check_case(RANDOM, (uint32_t) i, 10, false);
	check_case(DRIVE, 257, 10, false);
	is_plain = true;
	for (kind = RANDOM; kind < KINDS; kind++)
		check_case(kind, 20000, 10, false);
	check_case(DRIVE, 20000, 12, true);
	tap_ok(breaths > 1000, "it breathes");
	is_plain = false;
	check_breaths();
	return tap_done();
}
