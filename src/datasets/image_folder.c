/*
 * datasets/image_folder.c
 *		The images of a folder of the server, each taken at most once.
 *
 * The table of names is temporary and written as the extension's owner.  It
 * is in the session's own buffers and on disk, so what the backend holds
 * does not grow with the folder.
 *
 * Memory: the folder lives in the context that it was opened in; "page" is
 * reset with every page of names.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "datasets/image_folder.h"
#include "datasets/server_file.h"

#define MAX_IMAGE_BYTES (64 * 1024 * 1024)
#define PAGE_NAMES 256

struct AvcImageFolder
{
	AvcFolder  *dir;
	const char *path;
	AvcIngest  *ingest;
	MemoryContext page;
	int64		passed_over;	/* files that are no *.jpg */
};

/* Names of a folder on their way into the table. */
typedef struct NamePage
{
	Datum		stems[PAGE_NAMES];
	Datum		names[PAGE_NAMES];
	int			count;
	int64		stored;			/* of pages before */
} NamePage;

char *
avc_path_argument(FunctionCallInfo fcinfo, int number)
{
	char	   *path;

	if (PG_ARGISNULL(number))
		return NULL;
	path = text_to_cstring(PG_GETARG_TEXT_PP(number));
	canonicalize_path(path);
	avc_server_file_check(path);
	return path;
}

size_t
avc_image_stem_length(const char *name)
{
	size_t		len = strlen(name);

	if (len > 4 && pg_strcasecmp(name + len - 4, ".jpg") == 0)
		return len - 4;
	if (len > 5 && pg_strcasecmp(name + len - 5, ".jpeg") == 0)
		return len - 5;
	return 0;
}

const char *
avc_split_of_folder(const char *path)
{
	static const char *const known[] = {"train", "val", "test"};
	const char *last = strrchr(path, '/') + 1;
	int			i;

	for (i = 0; i < lengthof(known); i++)
	{
		size_t		len = strlen(known[i]);

		if (strncmp(last, known[i], len) == 0 &&
			strspn(last + len, "0123456789") == strlen(last + len))
			return known[i];
	}
	return NULL;
}

AvcImageFolder *
avc_images_open(const char *path)
{
	AvcImageFolder *folder = palloc0(sizeof(AvcImageFolder));

	folder->path = pstrdup(path);
	folder->dir = avc_folder_open(path);
	folder->page = AllocSetContextCreate(CurrentMemoryContext, "image names",
										 ALLOCSET_DEFAULT_SIZES);
	return folder;
}

int64
avc_images_passed_over(const AvcImageFolder *folder)
{
	return folder->passed_over;
}

static char *
image_path(AvcImageFolder *folder, const char *name)
{
	return psprintf("%s/%s", folder->path, name);
}

static void
make_table(void)
{
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	/* one that an interrupted run of this session left */
	if (avc_spi_exec("SELECT 1 FROM pg_catalog.pg_class"
					 " WHERE relname = 'avc_ingest_files' AND relnamespace ="
					 " pg_catalog.pg_my_temp_schema()",
					 0, NULL, false, 1) > 0)
		avc_spi_exec("DROP TABLE pg_temp.avc_ingest_files", 0, NULL, false, 0);
	avc_spi_exec("CREATE TEMPORARY TABLE avc_ingest_files ("
				 " stem text COLLATE \"C\", name text COLLATE \"C\","
				 " seen boolean NOT NULL DEFAULT false,"
				 " PRIMARY KEY (stem, name))"
				 " WITH (fillfactor = 70)",
				 0, NULL, false, 0);
	avc_catalog_leave(&scope);
}

/* Nobody else does it to a temporary table; its plans must use the index. */
static void
analyze_table(void)
{
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	/* it is the number of rows that matters; a sample would take memory */
	(void) set_config_option("default_statistics_target", "1", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	avc_spi_exec("ANALYZE pg_temp.avc_ingest_files", 0, NULL, false, 0);
	avc_catalog_leave(&scope);
}

void
avc_images_close(AvcImageFolder *folder)
{
	AvcRoleScope scope;

	avc_catalog_enter(&scope);
	avc_spi_exec("DROP TABLE pg_temp.avc_ingest_files", 0, NULL, false, 0);
	avc_catalog_leave(&scope);
}

static void
store_page(AvcImageFolder *folder, NamePage *page)
{
	AvcParam	params[2];
	AvcRoleScope scope;
	Datum	   *const columns[] = {page->stems, page->names};
	int			i;

	for (i = 0; i < 2; i++)
		params[i] = (AvcParam) {TEXTARRAYOID,
		PointerGetDatum(construct_array(columns[i], page->count, TEXTOID, -1,
										false, TYPALIGN_INT)), false};
	avc_catalog_enter(&scope);
	avc_spi_exec("INSERT INTO pg_temp.avc_ingest_files (stem, name)"
				 " SELECT * FROM unnest($1, $2)", 2, params, false, 0);
	avc_catalog_leave(&scope);
	page->stored += page->count;
	page->count = 0;
	MemoryContextReset(folder->page);
}

/*
 * A page of files that have the stem of another one, into arrays of their
 * names and of those before them; returns how many.
 */
static int
find_surplus(Datum *names, Datum *winners)
{
	uint64		count;
	uint64		i;

	/* the index has the order, and a sort would take memory */
	(void) set_config_option("enable_sort", "off", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	count = avc_spi_exec("SELECT name, winner FROM (SELECT name,"
						 " first_value(name) OVER (PARTITION BY stem"
						 " ORDER BY name) AS winner"
						 " FROM pg_temp.avc_ingest_files) s"
						 " WHERE name > winner LIMIT $1", 1,
						 (AvcParam[]) {AVC_INT8(PAGE_NAMES)}, false, 0);
	for (i = 0; i < count; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;

		names[i] = CStringGetTextDatum(SPI_getvalue(row, desc, 1));
		winners[i] = CStringGetTextDatum(SPI_getvalue(row, desc, 2));
	}
	SPI_freetuptable(SPI_tuptable);
	return (int) count;
}

/*
 * Of files with one stem the first by name stays, whatever the order they
 * were listed in.  Takes out a page of the others; returns how many.
 */
static int
refuse_page(AvcImageFolder *folder)
{
	MemoryContext old = MemoryContextSwitchTo(folder->page);
	AvcRoleScope scope;
	AvcParam	param;
	Datum		names[PAGE_NAMES];
	Datum		winners[PAGE_NAMES];
	int			count;
	int			i;

	avc_catalog_enter(&scope);
	count = find_surplus(names, winners);
	param = (AvcParam) {TEXTARRAYOID,
	PointerGetDatum(construct_array(names, count, TEXTOID, -1, false,
									TYPALIGN_INT)), false};
	if (count > 0)
		avc_spi_exec("DELETE FROM pg_temp.avc_ingest_files"
					 " WHERE name = ANY ($1)", 1, &param, false, 0);
	avc_catalog_leave(&scope);
	for (i = 0; i < count; i++)
		avc_ingest_error(folder->ingest,
						 image_path(folder, TextDatumGetCString(names[i])),
						 ERRCODE_UNIQUE_VIOLATION,
						 "would be the same frame as \"%s\", for frames are called by their files' names alone",
						 TextDatumGetCString(winners[i]));
	MemoryContextSwitchTo(old);
	MemoryContextReset(folder->page);
	return count;
}

/*
 * Record what cannot be an image.  True for one that can; "parent" is the
 * folder below that it is in, or NULL.
 */
static bool
judge_name(AvcImageFolder *folder, const char *parent, const char *name,
		   AvcEntryKind kind)
{
	const char *problem = NULL;
	int			sqlstate = ERRCODE_WRONG_OBJECT_TYPE;

	if (kind == AVC_ENTRY_FOLDER)
		problem = parent ? "is a folder; only folders one level below are looked into" :
			"is a folder";
	else if (kind == AVC_ENTRY_LINK)
		problem = "is a symbolic link, which is not followed";
	else if (kind == AVC_ENTRY_OTHER)
		problem = "is not a regular file";
	else if (avc_image_stem_length(name) == 0)
	{
		folder->passed_over++;
		return false;
	}
	else if (!pg_verifymbstr(name, strlen(name), true))
	{
		problem = "name is not valid in the encoding of the database";
		sqlstate = ERRCODE_CHARACTER_NOT_IN_REPERTOIRE;
	}
	if (problem != NULL)
		avc_ingest_error(folder->ingest,
						 image_path(folder, parent ?
									psprintf("%s/%s", parent, name) : name),
						 sqlstate, "%s", problem);
	return problem == NULL;
}

static void
add_name(AvcImageFolder *folder, NamePage *page, const char *parent,
		 const char *name)
{
	page->stems[page->count] =
		PointerGetDatum(cstring_to_text_with_len(name,
												 avc_image_stem_length(name)));
	page->names[page->count++] =
		CStringGetTextDatum(parent ? psprintf("%s/%s", parent, name) : name);
	if (page->count == PAGE_NAMES)
		store_page(folder, page);
}

/* List the images of one folder below: the frames of a video. */
static void
list_video(AvcImageFolder *folder, NamePage *page, const char *video)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "folder of images",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	const char *problem;
	AvcFolder  *dir = avc_folder_open_below(folder->dir, video, &problem);
	const char *name;
	AvcEntryKind kind;

	/* what is added to the page outlives this folder */
	MemoryContextSwitchTo(folder->page);
	if (dir == NULL)
		avc_ingest_error(folder->ingest, image_path(folder, video),
						 ERRCODE_IO_ERROR, "%s", problem);
	while (dir != NULL && (name = avc_folder_next(dir, &kind)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (name[0] != '.' && judge_name(folder, video, name, kind))
			add_name(folder, page, video, name);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

int64
avc_images_list(AvcImageFolder *folder, AvcIngest *ingest)
{
	MemoryContext old = MemoryContextSwitchTo(folder->page);
	NamePage   *page = MemoryContextAllocZero(old, sizeof(NamePage));
	MemoryContext videos;
	const char *name;
	AvcEntryKind kind;
	int64		stored;
	int			refused;

	folder->ingest = ingest;
	make_table();
	videos = AllocSetContextCreate(old, "folders of images",
								   ALLOCSET_DEFAULT_SIZES);
	while ((name = avc_folder_next(folder->dir, &kind)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (name[0] == '.')
			continue;
		if (kind == AVC_ENTRY_FOLDER && avc_image_stem_length(name) == 0 &&
			pg_verifymbstr(name, strlen(name), true))
		{
			MemoryContext page_context = MemoryContextSwitchTo(videos);

			/* a page of names may be reset while the folder is listed */
			list_video(folder, page, pstrdup(name));
			MemoryContextSwitchTo(page_context);
			MemoryContextReset(videos);
		}
		else if (judge_name(folder, NULL, name, kind))
			add_name(folder, page, NULL, name);
	}
	if (page->count > 0)
		store_page(folder, page);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(videos);
	analyze_table();
	stored = page->stored;
	pfree(page);
	while ((refused = refuse_page(folder)) > 0)
		stored -= refused;
	return stored;
}

/* Run a statement on one text, as the owner of the table. */
static uint64
run_on_text(SPIPlanPtr *plan, const char *sql, const char *text)
{
	AvcParam	param = AVC_TEXT(text);
	AvcRoleScope scope;
	uint64		rows;

	avc_catalog_enter(&scope);
	rows = avc_spi_exec_kept(plan, sql, 1, &param, false, 0);
	avc_catalog_leave(&scope);
	return rows;
}

static void
free_rows(void)
{
	if (SPI_tuptable != NULL)
		SPI_freetuptable(SPI_tuptable);
}

bool
avc_images_has(AvcImageFolder *folder, const char *stem)
{
	static SPIPlanPtr plan = NULL;
	uint64		rows = run_on_text(&plan, "SELECT FROM pg_temp.avc_ingest_files"
								   " WHERE stem = $1", stem);

	free_rows();
	return rows > 0;
}

char *
avc_images_claim(AvcImageFolder *folder, const char *stem, bool *is_duplicate)
{
	static SPIPlanPtr plan = NULL;
	char	   *name = NULL;

	*is_duplicate = false;
	if (run_on_text(&plan, "UPDATE pg_temp.avc_ingest_files SET seen = true"
					" WHERE stem = $1 AND NOT seen RETURNING name", stem) > 0)
		name = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	free_rows();
	if (name == NULL)
		*is_duplicate = avc_images_has(folder, stem);
	return name;
}

char *
avc_images_guess(AvcImageFolder *folder, const char *stem, bool *is_ambiguous)
{
	static SPIPlanPtr plan = NULL;
	uint64		rows = run_on_text(&plan, "SELECT stem FROM pg_temp.avc_ingest_files"
								   " WHERE stem > $1 || '-' AND stem < $1 || '.'"
								   " AND strpos(substr(stem, length($1) + 2), '-') = 0"
								   " LIMIT 2", stem);
	char	   *found = NULL;

	if (rows == 1)
		found = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	free_rows();
	*is_ambiguous = rows > 1;
	return found;
}

bool
avc_images_has_video(AvcImageFolder *folder, const char *video)
{
	static SPIPlanPtr plan = NULL;
	uint64		rows;

	if (avc_folder_has_folder(folder->dir, video))
		return true;
	/* '.' follows '-': stems that begin with "video-" */
	rows = run_on_text(&plan, "SELECT FROM pg_temp.avc_ingest_files"
					   " WHERE stem > $1 || '-' AND stem < $1 || '.' LIMIT 1",
					   video);
	free_rows();
	return rows > 0;
}

void
avc_images_pass_video(AvcImageFolder *folder, const char *video)
{
	static SPIPlanPtr plan = NULL;

	run_on_text(&plan, "UPDATE pg_temp.avc_ingest_files SET seen = true"
				" WHERE NOT seen"
				" AND (stem > $1 || '-' AND stem < $1 || '.'"
				" OR name > $1 || '/' AND name < $1 || '0')", video);
}

void
avc_images_take(AvcImageFolder *folder, AvcIngestFrame *frame,
				const char *stem, const char *name)
{
	const char *problem;
	uint8	   *image;
	size_t		size;
	bool		is_missing;
	int			fd;

	frame->source = image_path(folder, name);
	frame->image_id = stem;
	fd = avc_file_open(folder->dir, name, MAX_IMAGE_BYTES, &size, &problem,
					   &is_missing);
	if (fd >= 0)
	{
		image = avc_ingest_image_room(folder->ingest, size);
		problem = avc_file_read(fd, image, size);
		frame->image = image;
		frame->image_len = size;
	}
	if (problem != NULL)
		avc_ingest_error(folder->ingest, frame->source, ERRCODE_IO_ERROR,
						 "%s", problem);
	else
		avc_ingest_add(folder->ingest, frame);
}

/* The next page of images that nothing has claimed; returns how many. */
static int
next_names(const char *after, char **stems, char **names)
{
	AvcRoleScope scope;
	int			count;
	int			i;

	avc_catalog_enter(&scope);
	count = avc_spi_exec("SELECT stem, name FROM pg_temp.avc_ingest_files"
						 " WHERE NOT seen AND stem > $1 ORDER BY stem LIMIT $2",
						 2, (AvcParam[]) {AVC_TEXT(after),
							 AVC_INT8(PAGE_NAMES)}, false, 0);
	for (i = 0; i < count; i++)
	{
		stems[i] = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
								1);
		names[i] = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
								2);
	}
	free_rows();
	avc_catalog_leave(&scope);
	return count;
}

void
avc_images_rest(AvcImageFolder *folder, MemoryContext work,
				AvcImageHandler handler, void *arg)
{
	MemoryContext old = CurrentMemoryContext;
	char	   *stems[PAGE_NAMES];
	char	   *names[PAGE_NAMES];
	char	   *after = pstrdup("");
	int			count;
	int			i;

	do
	{
		MemoryContextSwitchTo(folder->page);
		count = next_names(after, stems, names);
		MemoryContextSwitchTo(work);
		for (i = 0; i < count; i++)
		{
			CHECK_FOR_INTERRUPTS();
			handler(arg, stems[i], names[i]);
			MemoryContextReset(work);
		}
		MemoryContextSwitchTo(old);
		pfree(after);
		after = count > 0 ? pstrdup(stems[count - 1]) : NULL;
		MemoryContextReset(folder->page);
	} while (count == PAGE_NAMES);
}
