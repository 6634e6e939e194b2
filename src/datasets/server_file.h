/*
 * datasets/server_file.h
 *		Folders and files of the server's machine, read with care.
 */
#ifndef AVC_DATASETS_SERVER_FILE_H
#define AVC_DATASETS_SERVER_FILE_H

typedef struct AvcFolder AvcFolder;

typedef enum AvcEntryKind
{
	AVC_ENTRY_FILE,
	AVC_ENTRY_FOLDER,
	AVC_ENTRY_LINK,
	AVC_ENTRY_OTHER				/* pipe, device, socket */
} AvcEntryKind;

/*
 * Raise an error unless the current role may read server files and the path
 * is absolute.
 */
extern void avc_server_file_check(const char *path);

/* Is the path a folder?  An error if it does not exist. */
extern bool avc_path_is_folder(const char *path);

/*
 * Open a folder.  It is closed with the current memory context, so it stays
 * open over commits.  An error if that cannot be done.
 */
extern AvcFolder *avc_folder_open(const char *path);

/*
 * The same for a folder inside another, without following a link.  NULL with
 * *problem (palloc'd, one line) if that cannot be done.
 */
extern AvcFolder *avc_folder_open_below(AvcFolder *parent, const char *name,
										const char **problem);

/* Is "name" inside it, and a folder, or anything at all? */
extern bool avc_folder_has_folder(AvcFolder *folder, const char *name);
extern bool avc_folder_has(AvcFolder *folder, const char *name);

/* The next name in no certain order, without "." and ".."; NULL at the end. */
extern const char *avc_folder_next(AvcFolder *folder, AvcEntryKind *kind);

/*
 * Open a regular file of the folder, or of any place when folder is NULL;
 * symbolic links are refused.  Returns a descriptor that the current memory
 * context closes, or -1 with *problem (palloc'd, one line) and *is_missing.
 */
extern int	avc_file_open(AvcFolder *folder, const char *name,
						  size_t max_bytes, size_t *size,
						  const char **problem, bool *is_missing);

/*
 * Open a file that a procedure cannot do without: what cannot be read is an
 * error that calls it "what", with this hint.
 */
extern int	avc_file_open_required(const char *path, const char *what,
								   const char *hint);

/*
 * Read "size" bytes of an open file.  NULL, or why that cannot be done
 * (palloc'd, one line).
 */
extern const char *avc_file_read(int fd, uint8 *bytes, size_t size);

#endif
