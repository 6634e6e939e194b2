/*
 * perf/decode_floor.c
 *		How fast libjpeg-turbo alone decodes the frames of a folder.
 *
 *		decode_floor FOLDER FRAMES PROCESSES grey8|full
 *
 * Reads up to 1000 JPEG files into memory, then decodes FRAMES of them, over
 * and over, in that many processes, and prints frames a second: grey8 = grey
 * at 1/8 scale, full = colours at full size.  Nothing is done with the
 * pixels.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <turbojpeg.h>
#include <unistd.h>

#define MAX_FILES 1000

typedef struct File
{
	unsigned char *bytes;
	unsigned long size;
} File;

static File files[MAX_FILES];
static int	file_count;

static void
fail(const char *what)
{
	fprintf(stderr, "decode_floor: %s\n", what);
	exit(1);
}

static void
read_file(const char *path)
{
	FILE	   *stream = fopen(path, "rb");
	File	   *file = &files[file_count];
	long		size;

	if (stream == NULL || fseek(stream, 0, SEEK_END) != 0 ||
		(size = ftell(stream)) <= 0)
		fail(path);
	rewind(stream);
	file->size = (unsigned long) size;
	file->bytes = malloc(file->size);
	if (file->bytes == NULL ||
		fread(file->bytes, 1, file->size, stream) != file->size)
		fail(path);
	fclose(stream);
	file_count++;
}

static int
is_jpeg(const struct dirent *entry)
{
	const char *dot = strrchr(entry->d_name, '.');

	return dot != NULL && strcasecmp(dot, ".jpg") == 0;
}

static void
read_folder(const char *folder)
{
	struct dirent **entries;
	int			count = scandir(folder, &entries, is_jpeg, alphasort);
	int			i;
	char		path[4096];

	for (i = 0; i < count && file_count < MAX_FILES; i++)
	{
		snprintf(path, sizeof(path), "%s/%s", folder, entries[i]->d_name);
		read_file(path);
	}
	if (file_count == 0)
		fail("no JPEG files");
}

static void
decode(int first, int step, int frames, int scale, int format)
{
	tjhandle	decoder = tjInitDecompress();
	unsigned char *pixels = NULL;
	size_t		size = 0;
	int			i;

	for (i = first; i < frames; i += step)
	{
		const File *file = &files[i % file_count];
		int			width,
					height,
					subsampling,
					space;
		size_t		needed;

		if (tjDecompressHeader3(decoder, file->bytes, file->size, &width,
								&height, &subsampling, &space) != 0)
			fail("cannot read a header");
		width = (width + scale - 1) / scale;
		height = (height + scale - 1) / scale;
		needed = (size_t) width * height * tjPixelSize[format];
		if (needed > size)
		{
			free(pixels);
			pixels = malloc(size = needed);
		}
		if (tjDecompress2(decoder, file->bytes, file->size, pixels, width, 0,
						  height, format,
						  TJFLAG_ACCURATEDCT | TJFLAG_STOPONWARNING) != 0)
			fail("cannot decode a frame");
	}
	tjDestroy(decoder);
	free(pixels);
}

int
main(int argc, char **argv)
{
	struct timespec start,
				end;
	int			frames,
				processes,
				status,
				i;
	int			is_full;

	if (argc != 5)
		fail("usage: decode_floor FOLDER FRAMES PROCESSES grey8|full");
	frames = atoi(argv[2]);
	processes = atoi(argv[3]);
	is_full = strcmp(argv[4], "full") == 0;
	read_folder(argv[1]);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (i = 0; i < processes; i++)
	{
		if (fork() == 0)
		{
			decode(i, processes, frames, is_full ? 1 : 8,
				   is_full ? TJPF_RGB : TJPF_GRAY);
			exit(0);
		}
	}
	for (i = 0; i < processes; i++)
	{
		if (wait(&status) < 0 || status != 0)
			fail("a process failed");
	}
	clock_gettime(CLOCK_MONOTONIC, &end);
	printf("%.1f\n", frames / ((end.tv_sec - start.tv_sec) +
							   1e-9 * (end.tv_nsec - start.tv_nsec)));
	return 0;
}
