/*
 * experiments/page.c
 *		Pieces of an HTML page that stands by itself.
 *
 * No script and nothing from elsewhere: the style is in the page, pictures
 * are data URLs.  Columns become one on a narrow screen, wide tables scroll
 * by themselves, and print breaks between sections.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "common/base64.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "common/attempt.h"
#include "experiments/page.h"

static const char style[] =
"body{font:16px/1.45 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem;color:#1b1b1b;background:#fff}"
"h1{font-size:1.6rem}h2{font-size:1.3rem;border-top:2px solid #ccc;padding-top:1rem;margin-top:2.5rem}h3{font-size:1.05rem}"
"figure{margin:1rem 0}figcaption,caption{color:#555;font-size:.9rem;text-align:left;padding-bottom:.3rem}"
".scroll{overflow-x:auto;margin-bottom:1rem}.facts{margin-bottom:1rem}table{border-collapse:collapse;font-size:.9rem}th,td{padding:.2rem .7rem .2rem 0;"
"border-bottom:1px solid #ddd;text-align:left;vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}"
".facts td{overflow-wrap:anywhere}.facts th{white-space:nowrap}td.n{white-space:nowrap}img,svg{max-width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#333}"
".note{color:#555}"
"@media print{h2{break-before:page}h2:first-of-type{break-before:auto}figure,tr{break-inside:avoid}.scroll{overflow:visible}body{max-width:none}}";

void
avc_page_begin(StringInfo page, const char *title)
{
	appendStringInfoString(page, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
						   "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">");
	avc_page_element(page, "title", title);
	appendStringInfo(page, "<style>%s</style></head>\n<body>\n", style);
	avc_page_element(page, "h1", title);
}

void
avc_page_end(StringInfo page)
{
	appendStringInfoString(page, "</body></html>\n");
}

void
avc_page_text(StringInfo page, const char *text)
{
	for (; *text != '\0'; text++)
		switch (*text)
		{
			case '&':
				appendStringInfoString(page, "&amp;");
				break;
			case '<':
				appendStringInfoString(page, "&lt;");
				break;
			case '>':
				appendStringInfoString(page, "&gt;");
				break;
			case '"':
				appendStringInfoString(page, "&quot;");
				break;
			default:
				appendStringInfoChar(page, *text);
		}
}

void
avc_page_element(StringInfo page, const char *tag, const char *text)
{
	appendStringInfo(page, "<%s>", tag);
	avc_page_text(page, text);
	appendStringInfo(page, "</%s>\n", tag);
}

static void
table_cell(StringInfo page, const char *tag, Oid type, const char *text)
{
	char		category;
	bool		preferred;

	get_type_category_preferred(type, &category, &preferred);
	appendStringInfo(page, "<%s%s>", tag,
					 category == TYPCATEGORY_NUMERIC ? " class=\"n\"" : "");
	if (text != NULL)
		avc_page_text(page, text);
	appendStringInfo(page, "</%s>", tag);
}

uint64
avc_page_table(StringInfo page, const char *caption, const char *sql,
			   int nparams, const AvcParam *params)
{
	uint64		rows = avc_spi_exec(sql, nparams, params, true, 0);
	TupleDesc	desc = SPI_tuptable->tupdesc;
	uint64		row;
	int			i;

	if (rows == 0)
		return 0;
	appendStringInfoString(page, "<div class=\"scroll\"><table>");
	if (caption != NULL)
		avc_page_element(page, "caption", caption);
	appendStringInfoString(page, "<thead><tr>");
	for (i = 0; i < desc->natts; i++)
		table_cell(page, "th", TupleDescAttr(desc, i)->atttypid,
				   NameStr(TupleDescAttr(desc, i)->attname));
	appendStringInfoString(page, "</tr></thead><tbody>\n");
	for (row = 0; row < rows; row++)
	{
		appendStringInfoString(page, "<tr>");
		for (i = 0; i < desc->natts; i++)
			table_cell(page, "td", TupleDescAttr(desc, i)->atttypid,
					   SPI_getvalue(SPI_tuptable->vals[row], desc, i + 1));
		appendStringInfoString(page, "</tr>\n");
	}
	appendStringInfoString(page, "</tbody></table></div>\n");
	return rows;
}

uint64
avc_page_facts(StringInfo page, const char *caption, const char *sql,
			   int nparams, const AvcParam *params)
{
	uint64		rows = avc_spi_exec(sql, nparams, params, true, 1);
	TupleDesc	desc = SPI_tuptable->tupdesc;
	int			i;

	if (rows == 0)
		return 0;
	appendStringInfoString(page, "<table class=\"facts\">");
	if (caption != NULL)
		avc_page_element(page, "caption", caption);
	appendStringInfoString(page, "<tbody>\n");
	for (i = 0; i < desc->natts; i++)
	{
		char	   *value = SPI_getvalue(SPI_tuptable->vals[0], desc, i + 1);

		if (value == NULL)
			continue;
		appendStringInfoString(page, "<tr>");
		avc_page_element(page, "th", NameStr(TupleDescAttr(desc, i)->attname));
		avc_page_element(page, "td", value);
		appendStringInfoString(page, "</tr>\n");
	}
	appendStringInfoString(page, "</tbody></table>\n");
	return rows;
}

typedef struct Picture
{
	const char *sql;
	int			nparams;
	const AvcParam *params;
	bytea	   *jpeg;			/* result; NULL = none */
} Picture;

static void
fetch_picture(void *arg)
{
	Picture    *picture = arg;
	bool		is_null;
	Datum		value = avc_spi_value(picture->sql, picture->nparams,
									  picture->params, CurrentMemoryContext,
									  &is_null);

	picture->jpeg = is_null ? NULL : DatumGetByteaPP(value);
}

static void
append_base64(StringInfo page, const bytea *bytes)
{
	int			len = VARSIZE_ANY_EXHDR(bytes);
	int			space = pg_b64_enc_len(len);

	enlargeStringInfo(page, space + 1);
	page->len += pg_b64_encode(VARDATA_ANY(bytes), len, page->data + page->len,
							   space);
	page->data[page->len] = '\0';
}

void
avc_page_picture(StringInfo page, const char *caption, const char *sql,
				 int nparams, const AvcParam *params)
{
	Picture		picture = {sql, nparams, params, NULL};
	AvcFailure	failure;

	if (!avc_attempt(fetch_picture, &picture, &failure))
	{
		appendStringInfoString(page, "<p class=\"note\">");
		avc_page_text(page, psprintf("%s: %s", caption, failure.message));
		appendStringInfoString(page, "</p>\n");
		return;
	}
	if (picture.jpeg == NULL)
		return;
	appendStringInfoString(page, "<figure>");
	avc_page_element(page, "figcaption", caption);
	appendStringInfoString(page, "<img alt=\"");
	avc_page_text(page, caption);
	appendStringInfoString(page, "\" src=\"data:image/jpeg;base64,");
	append_base64(page, picture.jpeg);
	appendStringInfoString(page, "\"></figure>\n");
}
