/*
 * experiments/page.h
 *		Pieces of an HTML page that stands by itself.
 *
 * Everything is appended to a StringInfo.  Text is escaped here and nowhere
 * else.  Queries run as the current user; SPI is connected.
 */
#ifndef AVC_EXPERIMENTS_PAGE_H
#define AVC_EXPERIMENTS_PAGE_H

#include "lib/stringinfo.h"

#include "common/spi.h"

/* Doctype, style and the page's heading; avc_page_end closes it. */
extern void avc_page_begin(StringInfo page, const char *title);
extern void avc_page_end(StringInfo page);

/* Text with the characters that HTML reserves escaped. */
extern void avc_page_text(StringInfo page, const char *text);

/* <tag>text</tag> */
extern void avc_page_element(StringInfo page, const char *tag,
							 const char *text);

/*
 * The rows of a query as a table, column names as its head; nothing if there
 * are none.  Numbers are aligned right; NULL is an empty cell.  Returns the
 * number of rows.
 */
extern uint64 avc_page_table(StringInfo page, const char *caption,
							 const char *sql, int nparams,
							 const AvcParam *params);

/*
 * The first row of a query as a list of names and values, NULL left out;
 * nothing if there is none.  Returns the number of rows.
 */
extern uint64 avc_page_facts(StringInfo page, const char *caption,
							 const char *sql, int nparams,
							 const AvcParam *params);

/* A picture, the bytea that the query returns; what is wrong with it, else. */
extern void avc_page_picture(StringInfo page, const char *caption,
							 const char *sql, int nparams,
							 const AvcParam *params);

#endif							/* AVC_EXPERIMENTS_PAGE_H */
