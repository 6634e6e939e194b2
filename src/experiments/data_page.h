/*
 * experiments/data_page.h
 *		The section of a report that shows what its jobs learned from.
 */
#ifndef AVC_EXPERIMENTS_DATA_PAGE_H
#define AVC_EXPERIMENTS_DATA_PAGE_H

#include "lib/stringinfo.h"

/*
 * What is in the versions that the jobs (bigint[]) are pinned to, and how far
 * they are apart; read as the current user, and what he may not read is left
 * out with a note.  SPI is connected.
 */
extern void avc_page_data(StringInfo page, Datum jobs);

#endif							/* AVC_EXPERIMENTS_DATA_PAGE_H */
