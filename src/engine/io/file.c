/*
 * engine/io/file.c
 *		Whole files in and out of memory.
 */
#include "engine/io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool
read_all(int fd, const char *path, size_t size, EngBuffer *out,
		 EngStatus *status)
{
	if (!eng_buffer_reserve(out, size, status))
		return false;
	while (size > 0)
	{
		ssize_t		n = read(fd, out->data + out->size, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return eng_fail(status, ENG_IO, "could not read \"%.200s\": %s",
							path, strerror(errno));
		if (n == 0)
			return eng_fail(status, ENG_IO, "\"%.200s\" became shorter", path);
		out->size += (size_t) n;
		size -= (size_t) n;
	}
	return true;
}

bool
eng_file_read(const char *path, size_t most, EngBuffer *out,
			  EngStatus *status)
{
	struct stat info;
	bool		fine = false;
	int			fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return eng_fail(status, ENG_IO, "could not open \"%.200s\": %s", path,
						strerror(errno));
	if (fstat(fd, &info) != 0)
		eng_fail(status, ENG_IO, "could not examine \"%.200s\": %s", path,
				 strerror(errno));
	else if (!S_ISREG(info.st_mode))
		eng_fail(status, ENG_IO, "\"%.200s\" is not an ordinary file", path);
	else if ((uint64_t) info.st_size > most)
		eng_fail(status, ENG_BAD_FILE, "\"%.200s\" is over %zu bytes long",
				 path, most);
	else
		fine = read_all(fd, path, (size_t) info.st_size, out, status);
	close(fd);
	return fine;
}

static bool
write_all(int fd, const char *path, const uint8_t *data, size_t size,
		  EngStatus *status)
{
	while (size > 0)
	{
		ssize_t		n = write(fd, data, size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return eng_fail(status, ENG_IO, "could not write \"%.200s\": %s",
							path, strerror(errno));
		data += n;
		size -= (size_t) n;
	}
	if (fsync(fd) != 0)
		return eng_fail(status, ENG_IO, "could not flush \"%.200s\": %s",
						path, strerror(errno));
	return true;
}

/*
 * Make the directory's entry durable too.  Some file systems cannot, and then
 * there is nothing to be done.
 */
static void
flush_directory(const char *path)
{
	char		directory[PATH_MAX];
	const char *slash = strrchr(path, '/');
	size_t		length = slash != NULL ? (size_t) (slash - path) : 0;
	int			fd;

	if (length >= sizeof(directory))
		return;
	if (slash == NULL)
		strcpy(directory, ".");
	else if (length == 0)
		strcpy(directory, "/");
	else
	{
		memcpy(directory, path, length);
		directory[length] = '\0';
	}
	fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return;
	(void) fsync(fd);
	close(fd);
}

/*
 * The new file gets the rights that the umask leaves, as a plain open would
 * give it; mkstemp alone would keep it to its owner.
 */
static int
create_beside(const char *path, char *name, size_t size)
{
	mode_t		mask;
	int			fd;

	if ((size_t) snprintf(name, size, "%s.XXXXXX", path) >= size)
	{
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = mkostemp(name, O_CLOEXEC);
	if (fd < 0)
		return -1;
	mask = umask(0);
	umask(mask);
	(void) fchmod(fd, 0666 & ~mask);
	return fd;
}

/*
 * A rename replaces whatever has the name, devices and pipes included.
 */
static bool
check_replaceable(const char *path, EngStatus *status)
{
	struct stat found;

	if (stat(path, &found) == 0 && !S_ISREG(found.st_mode))
		return eng_fail(status, ENG_IO, "\"%.200s\" is not a regular file",
						path);
	return true;
}

bool
eng_file_write(const char *path, const void *data, size_t size,
			   EngStatus *status)
{
	char		name[PATH_MAX];
	bool		fine;
	int			fd;

	if (!check_replaceable(path, status))
		return false;
	fd = create_beside(path, name, sizeof(name));
	if (fd < 0)
		return eng_fail(status, ENG_IO, "could not create \"%.200s\": %s",
						path, strerror(errno));
	fine = write_all(fd, path, data, size, status);
	if (close(fd) != 0 && fine)
		fine = eng_fail(status, ENG_IO, "could not close \"%.200s\": %s",
						path, strerror(errno));
	if (fine && rename(name, path) != 0)
		fine = eng_fail(status, ENG_IO, "could not rename to \"%.200s\": %s",
						path, strerror(errno));
	if (fine)
		flush_directory(path);
	else
		(void) unlink(name);
	return fine;
}
