/*
 * test/fuzz/jpeg.c
 *		The reader of JPEG headers over files that are nearly right.
 *
 * The bytes end where a page without access begins, so reading one too many
 * ends the program even without a sanitizer.
 */
#include <stdbool.h>
#include <sys/mman.h>
#include <unistd.h>

#include "image/jpeg.h"
#include "mutate.h"

#define SEED(text) {text, sizeof(text) - 1}

#define FRAME "\x00\x11\x08\x02\xd0\x05\x00\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01"
#define JFIF "\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
#define TABLE "\xff\xdb\x00\x08\x00\x01\x02\x03\x04\x05"
#define SCAN "\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00\x12\x34\xff\xd9"

static const Token seeds[] = {
	SEED("\xff\xd8" JFIF TABLE "\xff\xc0" FRAME SCAN),
	SEED("\xff\xd8" "\xff\xe1\x00\x0e" "Exif\x00\x00MM\x00*xx" TABLE TABLE "\xff\xc2" FRAME SCAN),
	SEED("\xff\xd8\xff\xff\xff\xc1\x00\x0b\x08\xff\xff\x00\x01\x01\x01\x11\x00" SCAN),
	SEED("\xff\xd8\xff\xc0" FRAME)
};

static const Token tokens[] = {
	SEED("\xff"), SEED("\xff\xd8"), SEED("\xff\xd9"), SEED("\xff\xc0"), SEED("\xff\xc2"), SEED("\xff\xc4\x00\x02"), SEED("\xff\xda\x00\x02"),
	SEED("\xff\xdd\x00\x04\x00\x10"), SEED("\xff\xff\xff\xff"), SEED("\xff\xd0"), SEED("\xff\xe0\xff\xff"), SEED("\xff\xfe\x00\x00"),
	SEED("\x00\x00"), SEED("\xff\xff"), SEED("\xff\xc0" FRAME), SEED(TABLE), SEED(JFIF)
};

int
main(void)
{
	static Input input;
	long		count = setting("AVC_FUZZ", 10000);
	long		first = setting("AVC_SEED", 1);
	size_t		page = sysconf(_SC_PAGESIZE);
	size_t		room = (MAX_INPUT + page - 1) / page * page;
	unsigned char *memory = mmap(NULL, room + page, PROT_READ | PROT_WRITE,
								 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long		taken = 0;
	long		i;

	if (memory == MAP_FAILED || mprotect(memory + room, page, PROT_NONE) != 0)
		return 1;
	printf("1..1\n");
	for (i = 0; i < count; i++)
	{
		EngStatus	status = {ENG_OK, ""};
		EngJpegInfo info = {0, 0, 0, false};
		unsigned char *bytes;
		bool		is_ok;

		random_state = first + i;
		make_input(&input, seeds, sizeof(seeds) / sizeof(*seeds), tokens,
				   sizeof(tokens) / sizeof(*tokens));
		bytes = memory + room - input.len;
		memcpy(bytes, input.bytes, input.len);
		is_ok = eng_jpeg_read_header(&info, bytes, input.len, &status);
		taken += is_ok;
		if (is_ok)
		{
			EngImage	image = {NULL, 0, 0, 1};
			EngStatus	why = {ENG_OK, ""};

			/* walks over the scans */
			(void) eng_jpeg_scaled_size(&image, bytes, input.len, 8, &why);
			(void) eng_jpeg_has_end(bytes, input.len);
		}
		if (is_ok ? info.width < 1 || info.width > 65535 || info.height < 1 ||
			info.height > 65535 || info.components < 1 ||
			info.components > 4 : status.message[0] == '\0')
		{
			printf("not ok 1 - seed %ld: %d x %d, %s\n", first + i,
				   info.width, info.height, status.message);
			return 1;
		}
	}
	printf("ok 1 - JPEG headers: %ld inputs, %ld of them taken\n", count, taken);
	return 0;
}
