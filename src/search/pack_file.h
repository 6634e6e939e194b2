/*
 * search/pack_file.h
 *		The file of a pack, for the files here that fill it.
 */
#ifndef AVC_SEARCH_PACK_FILE_H
#define AVC_SEARCH_PACK_FILE_H

#include "access/transam.h"
#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "storage/relfilenode.h"

#include "search/pack.h"

/* Change it with anything below. */
#define PACK_LAYOUT 1

/* A file serves one table file, during one life of the shared memory. */
typedef struct PackIdentity
{
	char		magic[8];
	uint32		layout;
	uint32		column;
	uint64		system;
	TimestampTz started;		/* the postmaster */
	uint64		memory;			/* what its shared memory is told apart by */
	Oid			database;
	Oid			relid;
	RelFileNode node;
	Oid			padding;
} PackIdentity;

typedef struct PackHeader
{
	PackIdentity identity;
	/* what the file has room for */
	uint32		numbers;		/* of a vector; 0 = no slots yet */
	uint32		slot_room;
	uint32		block_room;
	/* what is in it */
	uint32		is_changing;	/* left behind if a change was cut short */
	uint32		slots;
	uint32		dead;			/* of these */
	uint32		odd;
	uint32		odd_numbers;	/* of the odd one that came last */
	uint32		blocks;
	uint32		map_pages;
	uint64		horizon;		/* rows deleted up to this id may be missing */
} PackHeader;

typedef struct PackBlock
{
	XLogRecPtr	lsn;			/* Invalid = read it again */
	uint32		first;			/* slot, or AVC_NO_SLOT */
	uint32		padding;
} PackBlock;

/* Where the parts of the file begin. */
typedef struct PackParts
{
	Size		maps;			/* XLogRecPtr: LSNs of the visibility map */
	Size		blocks;			/* PackBlock */
	Size		keys;
	Size		tuples;
	Size		codes;
	Size		vectors;
	Size		size;
} PackParts;

/* A pack while its lock is held. */
typedef struct PackFile
{
	Relation	rel;
	AttrNumber	column;
	char		path[MAXPGPATH];
	int			fd;
	const char *map;			/* the whole file, to be read */
	PackHeader	header;			/* goes to the file by avc_pack_put_header */
	PackParts	parts;
	bool		is_broken;		/* a write has failed and warned */
} PackFile;

/*
 * Open the pack's file, or make an empty one if "may_make"; false if there is
 * none then.  The caller holds the lock of the pack, the exclusive one to make
 * a file or to write to it.
 */
extern bool avc_pack_file_open(PackFile *file, Relation rel, AttrNumber column,
							   bool may_make);

/* Close it; the map stays.  With is_broken the file is removed. */
extern void avc_pack_file_close(PackFile *file);

/*
 * Write to the file; false once a write has failed.  The map shows at once
 * what was written.
 */
extern bool avc_pack_put(PackFile *file, Size offset, const void *data,
					 Size size);
extern bool avc_pack_put_header(PackFile *file);

/*
 * Another file with such room in place of this one, without the dead slots.
 * "numbers" may change while there are no slots.
 */
extern bool avc_pack_file_remake(PackFile *file, uint32 numbers,
							 uint32 slot_room, uint32 block_room);

/* Empty it; what was in it is read again. */
extern bool avc_pack_file_clear(PackFile *file, uint32 numbers);

static inline const PackBlock *
pack_blocks(const PackFile *file)
{
	return (const PackBlock *) (file->map + file->parts.blocks);
}

static inline const AvcPackTuple *
pack_tuples(const PackFile *file)
{
	return (const AvcPackTuple *) (file->map + file->parts.tuples);
}

static inline const AvcPackKey *
pack_keys(const PackFile *file)
{
	return (const AvcPackKey *) (file->map + file->parts.keys);
}

#endif
