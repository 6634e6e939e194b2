/*
 * test/fuzz/labels.c
 *		The readers of BDD100K and COCO files over files that are nearly right.
 *
 * Whatever a file holds, a reader gives entries that keep their promises and
 * comes to an end, without an error of the server, without memory left
 * behind, and the same entries wherever the pieces of the file begin.
 */
#include "postgres.h"

#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "utils/memutils.h"

#include "datasets/bdd100k_labels.h"
#include "datasets/coco_labels.h"
#include "mutate.h"
#include "server_double.h"

#define PIECE_BYTES (64 * 1024) /* as the reader reads */
#define SEED(text) {text, sizeof(text) - 1}

static const Token bdd_seeds[] = {
	SEED("[{\"name\": \"a.jpg\", \"attributes\": {\"weather\": \"clear\", \"scene\": \"city street\", \"timeofday\": \"night\"}, "
		 "\"timestamp\": 10000, \"labels\": [{\"category\": \"motor\", \"attributes\": {\"occluded\": true, \"truncated\": false, "
		 "\"trafficLightColor\": \"none\"}, \"manualShape\": true, \"box2d\": {\"x1\": 1.5, \"y1\": 2, \"x2\": 30.25, \"y2\": 4e1}, \"id\": 7}, "
		 "{\"category\": \"lane\", \"poly2d\": [{\"vertices\": [[1, 2], [3.5, 4]], \"types\": \"LL\", \"closed\": false}]}]}, "
		 "{\"name\": \"b\", \"labels\": null}, {\"name\": \"c.jpg\"}]"),
	SEED("{\"name\": \"0000f77c-6257be58\", \"frames\": [{\"timestamp\": 10000, \"objects\": [{\"category\": \"bike\", \"id\": 0, "
		 "\"attributes\": {\"occluded\": false}, \"box2d\": {\"x1\": 0, \"y1\": 0, \"x2\": 9, \"y2\": 9}}, "
		 "{\"category\": \"area/drivable\", \"id\": 1, \"poly2d\": [[1, 2, \"L\"], [3, 4, \"C\"]]}]}], "
		 "\"attributes\": {\"weather\": \"rainy\", \"scene\": \"tunnel\", \"timeofday\": \"daytime\"}}"),
	SEED("{\"config\": {\"imageSize\": {\"width\": 1280}, \"frames\": [{\"name\": \"x\"}]}, \"groups\": null, \"frames\": ["
		 "{\"name\": \"v-0000001.jpg\", \"videoName\": \"v\", \"frameIndex\": 0, \"labels\": [{\"id\": \"001\", \"category\": \"other person\", "
		 "\"attributes\": {\"Occluded\": true, \"crowd\": true}, \"box2d\": {\"x2\": 5, \"y1\": 1, \"x1\": 1, \"y2\": 5}, \"box3d\": null, "
		 "\"rle\": {\"counts\": \"ab0\", \"size\": [1, 2]}, \"score\": null}]}, {\"name\": \"v-0000002.jpg\", \"labels\": []}]}"),
	SEED("[7, null, [[{\"name\": \"x\"}]], \"x\", {\"name\": \"d\", \"labels\": [{\"score\": 0.5, \"category\": \"tram line\"}, {}]}]"),
	SEED("{\"images\": [{\"id\": 1}], \"annotations\": []}"),
	SEED("[]"), SEED("{}")
};

static const Token coco_seeds[] = {
	SEED("{\"info\": {\"x\": 1}, \"images\": [{\"id\": 42, \"file_name\": \"a.jpg\", \"width\": 100, \"height\": 50}], \"annotations\": ["
		 "{\"id\": 1, \"image_id\": 42, \"category_id\": 3, \"bbox\": [10, 20, 30.5, 10], \"area\": 250.25, \"iscrowd\": 0, "
		 "\"segmentation\": [[1, 2, 3, 4, 5, 6]]}, {\"segmentation\": {\"counts\": [1, 2, 3], \"size\": [50, 100]}, \"iscrowd\": 1, "
		 "\"bbox\": [0, 0, 50, 50], \"category_id\": 1, \"image_id\": 42, \"id\": 2}], "
		 "\"categories\": [{\"id\": 1, \"name\": \"person\", \"supercategory\": \"human\"}, {\"id\": 3, \"name\": \"motor\"}]}"),
	SEED("{\"annotations\": [{\"image_id\": -1, \"category_id\": 90, \"ignore\": true, \"score\": 0.5}], \"categories\": null, \"images\": []}"),
	SEED("{\"images\": [{}], \"annotations\": [{}], \"categories\": [{}]}"),
	SEED("{}")
};

static const Token tokens[] = {
	SEED("{"), SEED("}"), SEED("["), SEED("]"), SEED(","), SEED(":"), SEED("\""), SEED("null"), SEED("true"), SEED("0"), SEED("-1"),
	SEED("1e999"), SEED("-1e-999"), SEED("99999999999999999999999999"), SEED("1.5"), SEED("\"a\""), SEED("\\u0000"), SEED("\\ud800"),
	SEED("\xff"), SEED("\xc3\xa9"), SEED("\xed\xa0\x80"), SEED("\"labels\":"), SEED("\"objects\":"), SEED("\"frames\":"), SEED("\"name\":"),
	SEED("\"attributes\":"), SEED("\"box2d\":"), SEED("\"category\":"), SEED("\"x1\":"), SEED("\"images\":"), SEED("\"annotations\":"),
	SEED("\"categories\":"), SEED("\"bbox\":"), SEED("\"id\":"), SEED("\"image_id\":"), SEED("\"file_name\":"), SEED("\"iscrowd\":"),
	SEED("[[[[[[[[[[[[[[[[[[[["), SEED("{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":"), SEED("[{\"name\": \"a\", \"labels\": [{\"box2d\": {"),
	SEED(" /* comment */ "), SEED("\n\n"), {"\0", 1}
};

/* Values that may stand wherever another does. */
static const Token values[] = {
	SEED("null"), SEED("true"), SEED("0"), SEED("-7"), SEED("1.5"), SEED("1e999"), SEED("9007199254740993"), SEED("\"\""), SEED("\"a\""),
	SEED("\"car\""), SEED("\"a\\u0000b\""), SEED("[]"), SEED("{}"), SEED("[1, 2, 3, 4]"), SEED("[[]]"), SEED("[{}, 1]"),
	SEED("{\"name\": \"z\", \"id\": 3, \"x1\": 2}"), SEED("{\"box2d\": {\"x1\": 1, \"y1\": 1, \"x2\": 2, \"y2\": 2}}"),
	SEED("[{\"labels\": [{\"category\": \"bus\", \"box2d\": {\"x1\": 1, \"y1\": 1, \"x2\": 2, \"y2\": 2}}]}]"),
	SEED("{\"frames\": [{\"objects\": [{}]}, {\"name\": \"q\"}]}"), SEED("[{\"id\": 1, \"image_id\": 2, \"bbox\": [1, 2, 3, 4]}]")
};

static Input input;
static uint64_t input_seed;

/* Where the value ends that begins at "at"; strings, lists and objects whole. */
static size_t
end_of_value(size_t at)
{
	int			depth = 0;
	bool		in_string = false;

	for (; at < input.len; at++)
	{
		unsigned char c = input.bytes[at];

		if (in_string)
		{
			if (c == '\\')
				at++;
			in_string = c != '"';
		}
		else if (c == '"')
			in_string = true;
		else if (c == '[' || c == '{')
			depth++;
		else if (c == ']' || c == '}')
		{
			if (depth == 0)
				return at;
			depth--;
		}
		else if (c == ',' && depth == 0)
			return at;
	}
	return Min(at, input.len);
}

/* Put another value, or a copy of one, in the place of a value. */
static void
mutate_value(void)
{
	static unsigned char copy[4096];
	const Token *value = &values[random_below(lengthof(values))];
	size_t		at;
	size_t		from;
	size_t		len;
	int			tries = 200;

	do
	{
		at = random_below((uint32_t) input.len) + 1;
	} while (strchr(":[", input.bytes[at - 1]) == NULL && --tries > 0);
	if (random_below(3) > 0 || at >= input.len)
	{
		splice(&input, at, end_of_value(at) - at, value->bytes, value->len);
		return;
	}
	from = random_below((uint32_t) input.len);
	while (from > 0 && strchr(":[", input.bytes[from - 1]) == NULL)
		from--;
	len = Min(end_of_value(from) - from, sizeof(copy));
	memcpy(copy, input.bytes + from, len);
	splice(&input, at, end_of_value(at) - at, copy, len);
}

/* Half of the inputs stay JSON for the most part, half are broken anyhow. */
static void
make_labels(const Token *seeds, int seed_count)
{
	const Token *seed = &seeds[random_below(seed_count)];
	int			changes;

	if (random_below(2) == 0)
	{
		make_input(&input, seeds, seed_count, tokens, lengthof(tokens));
		return;
	}
	input.len = seed->len;
	memcpy(input.bytes, seed->bytes, seed->len);
	for (changes = 1 + random_below(6); changes > 0; changes--)
		mutate_value();
}

static void
check(bool is_true, const char *what)
{
	if (is_true)
		return;
	printf("# seed %llu: %s\n# %.*s\n", (unsigned long long) input_seed, what,
		   (int) Min(input.len, 2000), (const char *) input.bytes);
	fflush(stdout);
	abort();
}

/* Fold something that was read into a digest. */
static uint64_t
fold(uint64_t digest, const void *bytes, size_t len)
{
	const unsigned char *at = bytes;

	while (len-- > 0)
		digest = (digest ^ *at++) * UINT64_C(0x100000001b3);
	return digest;
}

static uint64_t
fold_text(uint64_t digest, const char *text)
{
	check(text == NULL || strlen(text) <= 1024, "a text is too long");
	return text ? fold(digest, text, strlen(text) + 1) : digest * 31;
}

static uint64_t
fold_entry(uint64_t digest, const AvcBddEntry *entry)
{
	int			i;

	digest = fold_text(digest, entry->name);
	digest = fold_text(digest, entry->weather);
	digest = fold_text(digest, entry->scene);
	digest = fold_text(digest, entry->timeofday);
	digest = fold_text(digest, entry->problem);
	check(entry->box_count >= 0 && entry->box_count <= entry->box_room,
		  "there are more boxes than room");
	check(entry->box_count <= 10000, "there are too many boxes");
	for (i = 0; i < entry->box_count; i++)
	{
		const float *box = entry->boxes + 4 * i;

		check(isfinite(box[0]) && isfinite(box[1]) && isfinite(box[2]) &&
			  isfinite(box[3]) && box[0] < box[2] && box[1] < box[3],
			  "a box has no area");
		check(entry->problem || entry->categories[i] != NULL,
			  "a box has no category");
		check(entry->occluded[i] >= -1 && entry->occluded[i] <= 1 &&
			  entry->truncated[i] >= -1 && entry->truncated[i] <= 1,
			  "a flag is none");
		digest = fold(digest, box, 4 * sizeof(float));
		digest = fold_text(digest, entry->categories[i]);
		digest = fold(digest, &entry->ignored[i], 1);
	}
	digest = fold(digest, &entry->scored, sizeof(int));
	return fold(digest, &entry->degenerate, sizeof(int));
}

static uint64_t
read_bdd(int fd, bool *is_complete)
{
	AvcBddReader *reader = avc_bdd_open(fd);
	AvcBddEntry *entry;
	uint64_t	digest = 1;

	while ((entry = avc_bdd_next(reader)) != NULL)
	{
		digest = fold_entry(digest, entry);
		avc_bdd_free_entry(entry);
	}
	*is_complete = avc_bdd_problem(reader) == NULL;
	check(avc_bdd_next(reader) == NULL, "there is an entry after the end");
	avc_bdd_close(reader);
	return digest;
}

static uint64_t
fold_item(uint64_t digest, const AvcCocoItem *item)
{
	digest = fold(digest, &item->kind, sizeof(item->kind));
	digest = fold(digest, &item->known, sizeof(item->known));
	digest = fold(digest, &item->id, sizeof(item->id));
	digest = fold(digest, &item->image_id, sizeof(item->image_id));
	digest = fold(digest, &item->category_id, sizeof(item->category_id));
	if (item->known & AVC_COCO_BBOX)
		digest = fold(digest, item->bbox, sizeof(item->bbox));
	digest = fold(digest, &item->is_ignored, 1);
	digest = fold(digest, &item->has_score, 1);
	digest = fold(digest, &item->width, sizeof(item->width));
	digest = fold(digest, &item->height, sizeof(item->height));
	digest = fold_text(digest, item->name);
	return fold_text(digest, item->problem);
}

static uint64_t
read_coco(int fd, bool *is_complete)
{
	AvcCocoReader *reader = avc_coco_open(fd);
	const AvcCocoItem *item;
	uint64_t	digest = 1;

	while ((item = avc_coco_next(reader)) != NULL)
		digest = fold_item(digest, item);
	*is_complete = avc_coco_problem(reader) == NULL;
	check(avc_coco_next(reader) == NULL, "there is an item after the end");
	avc_coco_close(reader);
	return digest;
}

typedef uint64_t (*Reader) (int fd, bool *is_complete);

/* Read the input behind so many blanks, which JSON allows. */
static uint64_t
read_behind(Reader reader, int blanks, bool *is_complete)
{
	static char blank[PIECE_BYTES];
	size_t		before = server_double_memory();
	uint64_t	digest;
	int			fd = memfd_create("labels", 0);

	if (blank[0] == '\0')
		memset(blank, ' ', sizeof(blank));
	if (fd < 0 || write(fd, blank, blanks) != blanks ||
		write(fd, input.bytes, input.len) != (ssize_t) input.len ||
		lseek(fd, 0, SEEK_SET) != 0)
	{
		perror("memfd");
		exit(1);
	}
	digest = reader(fd, is_complete);
	close(fd);
	check(server_double_memory() == before, "memory is left behind");
	return digest;
}

static void
run(int number, const char *name, Reader reader, const Token *seeds,
	int seed_count)
{
	long		count = setting("AVC_FUZZ", 10000);
	long		first = setting("AVC_SEED", 1);
	long		complete = 0;
	long		i;

	for (i = 0; i < count; i++)
	{
		bool		is_complete;
		bool		is_complete_behind;
		uint64_t	digest;

		random_state = input_seed = first + i;
		make_labels(seeds, seed_count);
		digest = read_behind(reader, 0, &is_complete);
		complete += is_complete;
		/* sometimes again, with the end of a piece somewhere inside */
		if (i % 16 != 0 || input.len == 0)
			continue;
		check(read_behind(reader,
						  PIECE_BYTES - 1 - random_below(Min(input.len, PIECE_BYTES - 1)),
						  &is_complete_behind) == digest || !is_complete,
			  "other entries behind blanks");
		check(is_complete == is_complete_behind, "other end behind blanks");
	}
	printf("ok %d - %s: %ld inputs, %ld of them read to their end\n", number,
		   name, count, complete);
	fflush(stdout);
}

int
main(void)
{
	CurrentMemoryContext =
		AllocSetContextCreateInternal(NULL, "all", 0, 0, 0);
	printf("1..2\n");
	run(1, "BDD100K labels", read_bdd, bdd_seeds, lengthof(bdd_seeds));
	run(2, "COCO instances", read_coco, coco_seeds, lengthof(coco_seeds));
	MemoryContextDelete(CurrentMemoryContext);
	return 0;
}
