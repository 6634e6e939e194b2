/*
 * test/engine/hash_cover.c
 *		The cover of hashes against one that compares all pairs.
 *
 * With arguments COUNT KIND DISTANCE FINE (a number) it prints how long that
 * cover takes.
 */
#include <time.h>

#include "search/cover.h"
#include "tap.h"

typedef enum Kind
{
	RANDOM, PLANTED, CLUSTERED, EQUAL, BALL, DRIVE, EDGE, NIGHT, KINDS
} Kind;

static const char *const kind_names[] = {
	"random", "planted", "clustered", "equal", "ball", "drive",
	"edge", "night"
};

/* How the fine hashes lie. */
typedef enum Fine
{
	NO_FINE, FINE_DRIVE, FINE_RANDOM, FINE_BALL, FINE_EDGE, FINES
} Fine;

static const char *const fine_names[] = {
	"", ", fine", ", fine ones random", ", fine ones in a ball", ", fine ones at the edge"
};

#define EDGE_DISTANCE 10
#define FINE_DISTANCE 40

static uint64_t state = 1;
static uint64_t breaths;
static double last_breath;		/* seconds */
static double longest;			/* seconds between two breaths */
static bool is_plain;
static bool has_unknown;

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

/* Exactly so many bits changed, of "words" words. */
static void
move(uint64_t *hash, int words, int bits)
{
	uint64_t	changed[4] = {0};

	while (bits > 0)
	{
		unsigned	bit = (unsigned) (draw() % (64u * (unsigned) words));
		uint64_t	one = UINT64_C(1) << bit % 64;

		bits -= (changed[bit / 64] & one) == 0;
		changed[bit / 64] |= one;
	}
	for (bits = 0; bits < words; bits++)
		hash[bits] ^= changed[bits];
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
		case EDGE:
			{
				/* as far as counts, or one bit more, from one of the first */
				uint64_t	hash = n < 50 ? draw() : hashes[draw() % 50];

				if (n >= 50)
					move(&hash, 1, EDGE_DISTANCE + (int) (draw() % 2));
				return hash;
			}
		case NIGHT:
			/* half of them have one of a few hashes */
			return draw() % 2 == 0 ? draw() :
				UINT64_C(0x1111111111111111) * (draw() % 3);
		default:
			return draw();
	}
}

static void
next_fine(Fine kind, uint64_t *fine, uint32_t n)
{
	uint64_t   *own = fine + 4 * (size_t) n;
	int			j;

	for (j = 0; j < 4; j++)
		switch (kind)
		{
			case FINE_RANDOM:
				own[j] = draw();
				break;
			case FINE_BALL:
				/* 30 of 256 bits from the middle, so 53 from each other */
				own[j] = shake(0, 14);
				break;
			case FINE_EDGE:
				own[j] = n < 50 ? draw() : fine[4 * (n % 50) + j];
				break;
			default:
				own[j] = n == 0 || draw() % 8 == 0 ? draw() :
					shake(fine[4 * (n - 1 - draw() % (n < 9 ? n : 9)) + j], 8);
		}
	if (kind == FINE_EDGE && n >= 50)
		move(own, 4, FINE_DISTANCE + (int) (draw() % 2));
}

static int
distance(uint64_t a, uint64_t b)
{
	return __builtin_popcountll(a ^ b);
}

static double
now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double) time.tv_sec + (double) time.tv_nsec / 1e9;
}

static void
breathe(void)
{
	double		time = now();

	breaths++;
	if (last_breath > 0 && time - last_breath > longest)
		longest = time - last_breath;
	last_breath = time;
}

/* ---- the oracle ------------------------------------------------------ */

static bool
is_near(const AvcCover *cover, const uint64_t *hashes, uint32_t a, uint32_t b)
{
	int			fine = 0;
	int			i;

	if (distance(hashes[a], hashes[b]) > cover->max_distance)
		return false;
	if (cover->unknown != NULL && (cover->unknown[a] || cover->unknown[b]))
		return true;
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
make_case(Kind kind, uint32_t count, int max_distance, Fine fine)
{
	AvcCover	cover = {count, max_distance, FINE_DISTANCE};
	uint32_t	i;

	cover.hashes = malloc(sizeof(uint64_t) * (count + 1));
	cover.leaders = malloc(sizeof(uint32_t) * (count + 1));
	cover.distances = malloc(count + 1);
	cover.workspace = malloc(avc_cover_workspace(count, fine != NO_FINE));
	cover.breathe = breathe;
	cover.fine = fine == NO_FINE ? NULL :
		malloc(sizeof(uint64_t) * 4 * (count + 1));
	state = kind + 17;
	for (i = 0; i < count; i++)
	{
		cover.hashes[i] = next_hash(kind, cover.hashes, i);
		if (fine != NO_FINE)
			next_fine(fine, cover.fine, i);
	}
	return cover;
}

static void
free_case(AvcCover *cover)
{
	free(cover->hashes);
	free(cover->fine);
	free(cover->leaders);
	free(cover->distances);
	free(cover->workspace);
}

static void
check_case(Kind kind, uint32_t count, int max_distance, Fine fine)
{
	AvcCover	cover = make_case(kind, count, max_distance, fine);
	uint64_t   *hashes = malloc(sizeof(uint64_t) * (count + 1));
	uint8_t    *unknown = calloc(1, count + 1);
	uint32_t	wrong;
	uint32_t	kept;
	uint32_t	i;

	memcpy(hashes, cover.hashes, sizeof(uint64_t) * count);
	cover.is_plain = is_plain;
	if (has_unknown)
	{
		for (i = 0; i < count; i++)
			unknown[i] = draw() % 5 == 0;
		cover.unknown = unknown;
	}
	avc_cover(&cover);
	wrong = count_wrong(&cover, hashes, &kept);
	tap_ok(wrong == 0, "%u %s hashes, distance %d%s%s: %u kept, %u wrong",
		   count, kind_names[kind], max_distance, fine_names[fine],
		   has_unknown ? ", some unknown" : "", kept, wrong);
	free(unknown);
	free(hashes);
	free_case(&cover);
}

/* However many hashes lie in one place, it breathes every so many pairs. */
static void
check_breaths(void)
{
	AvcCover	cover = make_case(EQUAL, 30000, 4, FINE_BALL);
	uint64_t	before = breaths;

	cover.is_plain = is_plain;
	avc_cover(&cover);
	/* 450 million pairs, where no piece of them tells much */
	tap_ok(breaths > before + 100, "it breathes among equal hashes: %lu times",
		   (unsigned long) (breaths - before));
	free_case(&cover);
}

static int
time_case(char **arguments)
{
	uint32_t	count = (uint32_t) atoi(arguments[0]);
	int			kind;
	AvcCover	cover;
	double		start;
	double		took;
	uint32_t	kept = 0;
	uint32_t	i;

	for (kind = 0; kind < KINDS - 1; kind++)
		if (strcmp(kind_names[kind], arguments[1]) == 0)
			break;
	cover = make_case((Kind) kind, count, atoi(arguments[2]),
					  (Fine) atoi(arguments[3]));
	start = last_breath = now();
	avc_cover(&cover);
	took = now() - start;
	for (i = 0; i < count; i++)
		kept += cover.leaders[i] == i;
	printf("%u %s hashes, distance %d%s: %u kept, %.3f s, at most %.1f ms without a breath\n",
		   count, kind_names[kind], cover.max_distance,
		   fine_names[atoi(arguments[3])], kept, took, longest * 1e3);
	free_case(&cover);
	return 0;
}

int
main(int argc, char **argv)
{
	static const int distances[] = {0, 1, 3, 10, 16, 24, 32, 63, 64};
	Kind		kind;
	Fine		fine;
	int			i;

	if (argc == 5)
		return time_case(argv + 1);
	for (kind = RANDOM; kind < KINDS; kind++)
	{
		check_case(kind, 30000, 10, NO_FINE);
		for (fine = FINE_DRIVE; fine < FINES; fine++)
			check_case(kind, 6000, 10, fine);
		for (i = 0; i < (int) (sizeof(distances) / sizeof(distances[0])); i++)
			check_case(kind, 4000, distances[i], NO_FINE);
	}
	check_case(CLUSTERED, 50000, 4, NO_FINE);
	check_case(DRIVE, 20000, 14, FINE_DRIVE);
	check_case(NIGHT, 20000, 10, FINE_RANDOM);
	check_case(EQUAL, 20000, 10, FINE_DRIVE);
	check_case(EQUAL, 20000, 0, FINE_EDGE);
	for (i = 0; i <= 3; i++)
		check_case(RANDOM, (uint32_t) i, 10, NO_FINE);
	check_case(DRIVE, 257, 10, NO_FINE);
	has_unknown = true;
	check_case(DRIVE, 10000, 10, FINE_DRIVE);
	check_case(NIGHT, 10000, 10, FINE_RANDOM);
	has_unknown = false;
	is_plain = true;
	for (kind = RANDOM; kind < KINDS; kind++)
		check_case(kind, 10000, 10, NO_FINE);
	check_case(DRIVE, 10000, 12, FINE_DRIVE);
	check_case(NIGHT, 10000, 10, FINE_RANDOM);
	check_breaths();
	return tap_done();
}
