/*
 * search/pack_file.c
 *		The file of a pack: made, mapped, written, made larger.
 *
 * It lies among the temporary files of the server, which removes them when it
 * starts and after a crash, and leaves them out of base backups.  It is
 * written by write() and only read through the map, so that a full disk is an
 * error and not a signal.
 */
#include "postgres.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_attribute.h"
#include "common/file_perm.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/pg_shmem.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "search/cosine.h"
#include "search/pack_file.h"
#include "slices/page_walk.h"

#define FOLDER "base/" PG_TEMP_FILES_DIR
#define PREFIX PG_TEMP_FILE_PREFIX ".avcurate"
#define PART 4096				/* parts begin at multiples */
#define MOST_SLOTS (AVC_NO_SLOT - 1)

/* ---- maps of this backend ---- */

#define MAPS 8

typedef struct PackMap
{
	dev_t		device;
	ino_t		inode;
	void	   *address;		/* NULL = free */
	Size		size;
} PackMap;

static PackMap maps[MAPS];
static int	next_map = 0;

static void
drop_map(PackMap *map)
{
	if (map->address)
		munmap(map->address, map->size);
	map->address = NULL;
}

/* A place for another map, which is not that of "keep". */
static PackMap *
free_map(const char *keep)
{
	PackMap    *map;

	do
	{
		map = &maps[next_map];
		next_map = (next_map + 1) % MAPS;
	} while (keep != NULL && map->address == keep);
	drop_map(map);
	return map;
}

/* The map of an open file: that of an earlier call, or another. */
static const char *
map_file(int fd, Size size, const char *keep)
{
	struct stat st;
	PackMap    *map;
	int			i;

	if (fstat(fd, &st) < 0 || st.st_size != size)
		return NULL;
	for (i = 0; i < MAPS; i++)
	{
		if (maps[i].address && maps[i].inode == st.st_ino &&
			maps[i].device == st.st_dev && maps[i].size == size)
			return maps[i].address;
	}
	map = free_map(keep);
	map->address = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
	if (map->address == MAP_FAILED)
	{
		map->address = NULL;
		return NULL;
	}
	map->device = st.st_dev;
	map->inode = st.st_ino;
	map->size = size;
	return map->address;
}

/* A file of that number may be another one from now on. */
static void
forget_map(const char *address)
{
	int			i;

	for (i = 0; i < MAPS; i++)
	{
		if (maps[i].address == address)
			drop_map(&maps[i]);
	}
}

/* ---- layout ---- */

static void
identify(PackIdentity *identity, Relation rel, AttrNumber column)
{
	const PGShmemHeader *memory = UsedShmemSegAddr;

	memset(identity, 0, sizeof(PackIdentity));
	memcpy(identity->magic, "avcpack", 8);
	identity->layout = PACK_LAYOUT;
	identity->column = column;
	identity->system = GetSystemIdentifier();
	identity->started = PgStartTime;
	/* a random number, drawn anew after a crash */
	identity->memory = memory->dsm_control;
	identity->database = MyDatabaseId;
	identity->relid = RelationGetRelid(rel);
	identity->node = rel->rd_node;
}

static Size
part(Size *end, Size count, Size width)
{
	Size		begin = *end;

	*end = TYPEALIGN(PART, add_size(begin, mul_size(count, width)));
	return begin;
}

static PackParts
divide(const PackHeader *header)
{
	PackParts	parts;
	Size		slots = header->slot_room;

	parts.size = PART;
	parts.maps = part(&parts.size, avc_map_pages(header->block_room) + 1,
					  sizeof(XLogRecPtr));
	parts.blocks = part(&parts.size, header->block_room, sizeof(PackBlock));
	parts.keys = part(&parts.size, slots, sizeof(AvcPackKey));
	parts.tuples = part(&parts.size, slots, sizeof(AvcPackTuple));
	parts.codes = part(&parts.size, slots, AVC_CODE_BYTES(header->numbers));
	parts.vectors = part(&parts.size, slots,
						 mul_size(header->numbers, sizeof(float)));
	return parts;
}

/* ---- writing ---- */

static void
warn_of_file(PackFile *file, const char *path)
{
	if (!file->is_broken)
		ereport(WARNING,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", path),
				 errhint("Vectors are read from the dataset instead, which takes much longer.")));
	file->is_broken = true;
}

static bool
write_all(int fd, Size offset, const char *data, Size size)
{
	while (size > 0)
	{
		ssize_t		written = pwrite(fd, data, Min(size, 1 << 30), offset);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
		{
			if (written == 0)
				errno = ENOSPC;
			return false;
		}
		data += written;
		offset += written;
		size -= written;
	}
	return true;
}

bool
avc_pack_put(PackFile *file, Size offset, const void *data, Size size)
{
	if (!file->is_broken && !write_all(file->fd, offset, data, size))
		warn_of_file(file, file->path);
	return !file->is_broken;
}

bool
avc_pack_put_header(PackFile *file)
{
	return avc_pack_put(file, 0, &file->header, sizeof(PackHeader));
}

/* Space on the disk, so that it cannot be missing later. */
static bool
reserve(int fd, Size size)
{
	int			rc;

	do
		rc = posix_fallocate(fd, 0, size);
	while (rc == EINTR);
	errno = rc;
	return rc == 0;
}

/*
 * Does temp_file_limit of this session let it make a file of that size?  If
 * not, the one that there is stays for the others.
 */
static bool
check_limit(const PackFile *file, Size size)
{
	if (temp_file_limit < 0 || size <= (Size) temp_file_limit * 1024)
		return true;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("packed vectors of table \"%s\" need %zu kB, but temp_file_limit is %d kB",
					RelationGetRelationName(file->rel),
					(size + 1023) / 1024, temp_file_limit),
			 errhint("Raise temp_file_limit; vectors are read from the dataset instead, which takes much longer.")));
	return false;
}

/* ---- copying into a larger file ---- */

/* Slots of the old file in the new one; AVC_NO_SLOT for the dead. */
static uint32 *
number_slots(const PackFile *old, uint32 *count)
{
	const AvcPackTuple *tuples = pack_tuples(old);
	uint32	   *slots = MemoryContextAllocHuge(CurrentMemoryContext,
											   sizeof(uint32) *
											   ((Size) old->header.slots + 1));
	uint32		i;

	*count = 0;
	for (i = 0; i < old->header.slots; i++)
		slots[i] = BlockNumberIsValid(tuples[i].block) ? (*count)++ :
			AVC_NO_SLOT;
	return slots;
}

static bool
copy_blocks(PackFile *new, const PackFile *old, const uint32 *slots)
{
	uint32		left = old->header.blocks;
	uint32		done = 0;
	PackBlock	some[512];

	while (left > 0)
	{
		uint32		count = Min(left, lengthof(some));
		uint32		i;

		memcpy(some, pack_blocks(old) + done, sizeof(PackBlock) * count);
		for (i = 0; i < count; i++)
		{
			if (some[i].first != AVC_NO_SLOT)
				some[i].first = slots[some[i].first];
		}
		if (!avc_pack_put(new, new->parts.blocks + sizeof(PackBlock) * done,
						  some, sizeof(PackBlock) * count))
			return false;
		done += count;
		left -= count;
	}
	return true;
}

/* Slots from "from" on, "count" of them, none dead. */
static bool
copy_run(PackFile *new, const PackFile *old, const uint32 *slots, uint32 from,
		 uint32 count)
{
	Size		to = slots[from];
	Size		code = AVC_CODE_BYTES(old->header.numbers);
	Size		vector = old->header.numbers * sizeof(float);
	uint32		i;
	AvcPackTuple tuple;

	for (i = 0; i < count; i++)
	{
		tuple = pack_tuples(old)[from + i];
		if (tuple.next != AVC_NO_SLOT)
			tuple.next = slots[tuple.next];
		if (!avc_pack_put(new, new->parts.tuples + sizeof(tuple) * (to + i),
						  &tuple, sizeof(tuple)))
			return false;
	}
	return avc_pack_put(new, new->parts.keys + sizeof(AvcPackKey) * to,
						pack_keys(old) + from, sizeof(AvcPackKey) * count) &&
		avc_pack_put(new, new->parts.codes + code * to,
					 old->map + old->parts.codes + code * from,
					 code * count) &&
		avc_pack_put(new, new->parts.vectors + vector * to,
					 old->map + old->parts.vectors + vector * from,
					 vector * count);
}

static bool
copy_slots(PackFile *new, const PackFile *old, const uint32 *slots)
{
	uint32		from = 0;

	while (from < old->header.slots)
	{
		uint32		to = from;

		while (to < old->header.slots && slots[to] != AVC_NO_SLOT)
			to++;
		if (to > from && !copy_run(new, old, slots, from, to - from))
			return false;
		from = to + 1;
	}
	return true;
}

static bool
copy_contents(PackFile *new, const PackFile *old)
{
	uint32	   *slots = number_slots(old, &new->header.slots);
	bool		is_done;

	is_done = avc_pack_put(new, new->parts.maps, old->map + old->parts.maps,
						   sizeof(XLogRecPtr) * old->header.map_pages) &&
		copy_blocks(new, old, slots) && copy_slots(new, old, slots);
	pfree(slots);
	return is_done;
}

/* ---- making ---- */

/* An empty file beside the one there is, with the room that its header says. */
static bool
make_beside(PackFile *file, const char *path, const char *keep)
{
	(void) unlink(path);
	file->fd = OpenTransientFile(path, O_RDWR | O_CREAT | O_EXCL | PG_BINARY);
	if (file->fd < 0 || !reserve(file->fd, file->parts.size) ||
		(file->map = map_file(file->fd, file->parts.size, keep)) == NULL)
	{
		warn_of_file(file, path);
		return false;
	}
	return true;
}

/*
 * Put "new", which is written, in the place of "file"; without success
 * either is gone.
 */
static bool
replace(PackFile *file, PackFile *new, const char *path)
{
	if (!new->is_broken && avc_pack_put_header(new) &&
		rename(path, file->path) < 0)
		warn_of_file(new, path);
	if (new->is_broken)
	{
		(void) unlink(path);
		(void) unlink(file->path);
	}
	if (file->fd >= 0)
		CloseTransientFile(file->fd);
	if (file->map && file->map != new->map)
		forget_map(file->map);
	*file = *new;
	return !file->is_broken;
}

static bool
remake(PackFile *file, uint32 numbers, uint32 slot_room, uint32 block_room,
	   bool with_contents)
{
	PackFile	new = *file;
	char		path[MAXPGPATH + 8];

	snprintf(path, sizeof(path), "%s.new", file->path);
	new.fd = -1;
	new.map = NULL;
	new.header.numbers = numbers;
	new.header.slot_room = slot_room;
	new.header.block_room = block_room;
	new.header.is_changing = 0;
	new.header.dead = 0;
	new.header.slots = 0;
	if (!with_contents)
	{
		new.header.blocks = new.header.map_pages = 0;
		new.header.odd = 0;
	}
	new.parts = divide(&new.header);
	if (!check_limit(file, new.parts.size))
		return false;
	if (make_beside(&new, path, file->map) && with_contents)
		(void) copy_contents(&new, file);
	return replace(file, &new, path);
}

bool
avc_pack_file_remake(PackFile *file, uint32 numbers, uint32 slot_room,
					 uint32 block_room)
{
	return remake(file, numbers, Min(slot_room, MOST_SLOTS), block_room,
				  true);
}

bool
avc_pack_file_clear(PackFile *file, uint32 numbers)
{
	return remake(file, numbers, numbers > 0 ? file->header.slot_room : 0,
				  file->header.block_room, false);
}

/* ---- opening ---- */

static bool
has_column(Oid relid, AttrNumber number)
{
	HeapTuple	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid),
										Int16GetDatum(number));
	bool		is_there;

	if (!HeapTupleIsValid(tuple))
		return false;
	is_there = !((Form_pg_attribute) GETSTRUCT(tuple))->attisdropped;
	ReleaseSysCache(tuple);
	return is_there;
}

static bool
has_database(Oid database)
{
	return SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database));
}

/* Files of columns of this database, and of databases, that are no more. */
static void
remove_orphans(void)
{
	DIR		   *folder = AllocateDir(FOLDER);
	struct dirent *entry;
	unsigned int database,
				relid,
				column;
	int			end;

	while ((entry = ReadDirExtended(folder, FOLDER, DEBUG1)) != NULL)
	{
		char		path[MAXPGPATH * 2];

		end = 0;
		if (sscanf(entry->d_name, PREFIX ".%u.%u.%u%n", &database, &relid,
				   &column, &end) != 3 || entry->d_name[end] != '\0' ||
			(database == MyDatabaseId ? has_column(relid, column) :
			 has_database(database)))
			continue;
		snprintf(path, sizeof(path), FOLDER "/%s", entry->d_name);
		(void) unlink(path);
	}
	if (folder)
		FreeDir(folder);
}

static bool
make_empty(PackFile *file, const PackIdentity *identity)
{
	memset(&file->header, 0, sizeof(PackHeader));
	file->header.identity = *identity;
	if (MakePGDirectory(FOLDER) < 0 && errno != EEXIST)
	{
		warn_of_file(file, FOLDER);
		return false;
	}
	remove_orphans();
	return avc_pack_file_clear(file, 0);
}

/* Is the open file one that can be relied on? */
static bool
is_valid(PackFile *file, const PackIdentity *identity)
{
	PackHeader *header = &file->header;

	if (pg_pread(file->fd, header, sizeof(PackHeader), 0) !=
		sizeof(PackHeader) ||
		memcmp(&header->identity, identity, sizeof(PackIdentity)) != 0 ||
		header->is_changing || header->numbers > AVC_MAX_NUMBERS ||
		header->slots > header->slot_room ||
		header->blocks > header->block_room ||
		header->map_pages > avc_map_pages(header->block_room))
		return false;
	file->parts = divide(header);
	file->map = map_file(file->fd, file->parts.size, NULL);
	return file->map != NULL;
}

bool
avc_pack_file_open(PackFile *file, Relation rel, AttrNumber column,
				   bool may_make)
{
	PackIdentity identity;

	memset(file, 0, sizeof(PackFile));
	file->rel = rel;
	file->column = column;
	identify(&identity, rel, column);
	snprintf(file->path, MAXPGPATH, FOLDER "/" PREFIX ".%u.%u.%d",
			 MyDatabaseId, RelationGetRelid(rel), column);
	file->fd = OpenTransientFile(file->path, O_RDWR | PG_BINARY);
	if (file->fd >= 0 && is_valid(file, &identity))
		return true;
	return may_make && make_empty(file, &identity);
}

void
avc_pack_file_close(PackFile *file)
{
	if (file->fd >= 0)
		CloseTransientFile(file->fd);
	if (file->is_broken)
		(void) unlink(file->path);
	file->fd = -1;
}
