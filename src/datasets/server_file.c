/*
 * datasets/server_file.c
 *		Folders and files of the server's machine, read with care.
 *
 * Files are opened relative to their folder, without following a link, and
 * judged by what was opened, not by what a look before said.  Descriptors
 * that must outlive a commit belong to a memory context, because the
 * server's own are closed at the end of the transaction.
 */
#include "postgres.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "catalog/pg_authid.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/acl.h"

#include "datasets/server_file.h"

struct AvcFolder
{
	DIR		   *dir;
	char	   *path;
};

void
avc_server_file_check(const char *path)
{
	if (!has_privs_of_role(GetUserId(), ROLE_PG_READ_SERVER_FILES))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to read files of the server"),
				 errhint("Ask for membership in role pg_read_server_files, or send the frames with INSERT or COPY.")));
	if (!is_absolute_path(path))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("path \"%s\" is not absolute", path),
				 errhint("Give the whole path, as the server sees it.")));
}

bool
avc_path_is_folder(const char *path)
{
	struct stat info;

	if (stat(path, &info) < 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not find \"%s\": %m", path),
				 errhint("The path is one of the server's machine, and user \"postgres\" there must be able to read it.")));
	return S_ISDIR(info.st_mode);
}

static void
close_folder(void *arg)
{
	AvcFolder  *folder = arg;

	closedir(folder->dir);
	ReleaseExternalFD();
}

AvcFolder *
avc_folder_open(const char *path)
{
	AvcFolder  *folder = palloc(sizeof(AvcFolder));
	MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));

	folder->path = pstrdup(path);
	callback->func = close_folder;
	callback->arg = folder;
	ReserveExternalFD();
	folder->dir = opendir(path);
	if (folder->dir == NULL)
	{
		ReleaseExternalFD();
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open folder \"%s\": %m", path),
				 errhint("The path is one of the server's machine, and user \"postgres\" there must be able to read it.")));
	}
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	return folder;
}

AvcFolder *
avc_folder_open_below(AvcFolder *parent, const char *name,
					  const char **problem)
{
	AvcFolder  *folder = palloc(sizeof(AvcFolder));
	MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));
	int			fd;

	folder->path = psprintf("%s/%s", parent->path, name);
	callback->func = close_folder;
	callback->arg = folder;
	ReserveExternalFD();
	fd = openat(dirfd(parent->dir), name,
				O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	folder->dir = fd < 0 ? NULL : fdopendir(fd);
	if (folder->dir == NULL)
	{
		*problem = psprintf("could not be opened: %m");
		if (fd >= 0)
			close(fd);
		ReleaseExternalFD();
		return NULL;
	}
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
	return folder;
}

bool
avc_folder_has_folder(AvcFolder *folder, const char *name)
{
	struct stat info;

	return fstatat(dirfd(folder->dir), name, &info,
				   AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(info.st_mode);
}

bool
avc_folder_has(AvcFolder *folder, const char *name)
{
	return faccessat(dirfd(folder->dir), name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static AvcEntryKind
kind_of_mode(mode_t mode)
{
	if (S_ISREG(mode))
		return AVC_ENTRY_FILE;
	if (S_ISDIR(mode))
		return AVC_ENTRY_FOLDER;
	return S_ISLNK(mode) ? AVC_ENTRY_LINK : AVC_ENTRY_OTHER;
}

const char *
avc_folder_next(AvcFolder *folder, AvcEntryKind *kind)
{
	struct dirent *entry;
	struct stat info;

	do
	{
		errno = 0;
		entry = readdir(folder->dir);
		if (entry == NULL && errno != 0)
			ereport(ERROR,
					(errcode_for_file_access(),
					 errmsg("could not read folder \"%s\": %m",
							folder->path)));
		if (entry == NULL)
			return NULL;
	} while (strcmp(entry->d_name, ".") == 0 ||
			 strcmp(entry->d_name, "..") == 0);

	switch (entry->d_type)
	{
		case DT_REG:
			*kind = AVC_ENTRY_FILE;
			break;
		case DT_DIR:
			*kind = AVC_ENTRY_FOLDER;
			break;
		case DT_LNK:
			*kind = AVC_ENTRY_LINK;
			break;
		case DT_UNKNOWN:
			*kind = AVC_ENTRY_OTHER;
			if (fstatat(dirfd(folder->dir), entry->d_name, &info,
						AT_SYMLINK_NOFOLLOW) == 0)
				*kind = kind_of_mode(info.st_mode);
			break;
		default:
			*kind = AVC_ENTRY_OTHER;
			break;
	}
	return entry->d_name;
}

static void
close_file(void *arg)
{
	close(*(int *) arg);
	ReleaseExternalFD();
}

/* Close the descriptor when the current memory context goes away. */
static void
close_later(int fd)
{
	MemoryContextCallback *callback = palloc(sizeof(MemoryContextCallback));
	int		   *copy = palloc(sizeof(int));

	*copy = fd;
	callback->func = close_file;
	callback->arg = copy;
	ReserveExternalFD();
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
}

int
avc_file_open(AvcFolder *folder, const char *name, size_t max_bytes,
			  size_t *size, const char **problem, bool *is_missing)
{
	struct stat info;
	int			fd;

	/* a pipe must not keep us waiting */
	fd = openat(folder ? dirfd(folder->dir) : AT_FDCWD, name,
				O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	*is_missing = fd < 0 && errno == ENOENT;
	*problem = NULL;
	if (fd < 0 && (errno == ELOOP || errno == EMLINK))
		*problem = "is a symbolic link";
	else if (fd < 0)
		*problem = psprintf("could not be opened: %m");
	else if (fstat(fd, &info) < 0)
		*problem = psprintf("could not be looked at: %m");
	else if (S_ISDIR(info.st_mode))
		*problem = "is a folder";
	else if (!S_ISREG(info.st_mode))
		*problem = "is not a regular file";
	else if (info.st_size == 0)
		*problem = "is empty";
	else if (max_bytes > 0 && info.st_size > max_bytes)
		*problem = psprintf("is larger than %zu MB",
							max_bytes / (1024 * 1024));
	if (*problem == NULL)
	{
		*size = info.st_size;
		close_later(fd);
		return fd;
	}
	if (fd >= 0)
		close(fd);
	return -1;
}

const char *
avc_file_read(int fd, uint8 *bytes, size_t size)
{
	size_t		done = 0;

	while (done < size)
	{
		ssize_t		got = read(fd, bytes + done, size - done);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return psprintf("could not be read: %m");
		if (got == 0)
			return "became shorter while it was read";
		done += got;
	}
	return NULL;
}

int
avc_file_open_required(const char *path, const char *what, const char *hint)
{
	const char *problem;
	size_t		size;
	bool		is_missing;
	int			fd = avc_file_open(NULL, path, 0, &size, &problem, &is_missing);

	if (fd < 0)
		ereport(ERROR,
				(errcode(ERRCODE_IO_ERROR),
				 errmsg("%s \"%s\" %s", what, path, problem),
				 errhint("%s", hint)));
	return fd;
}
