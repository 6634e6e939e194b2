/*
 * datasets/label_text.c
 *		Texts of label files that become values of the database.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "datasets/label_text.h"

const char *
avc_label_text_problem(const char *text, size_t len)
{
	int			encoding = GetDatabaseEncoding();
	size_t		i;

	if (len > AVC_LABEL_TEXT_BYTES)
		return "is longer than 1024 bytes";
	if (memchr(text, '\0', len) != NULL)
		return "contains a zero character";
	if (!pg_verify_mbstr(PG_UTF8, text, len, true))
		return "is not valid UTF-8";
	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return NULL;
	for (i = 0; i < len; i++)
	{
		if (IS_HIGHBIT_SET(text[i]))
			return "is not ASCII, and the database is not UTF-8";
	}
	return NULL;
}
