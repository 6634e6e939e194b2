/*
 * datasets/ingest_writer.h
 *		Write the frames of a batch: new rows inserted, changed rows updated.
 */
#ifndef AVC_DATASETS_INGEST_WRITER_H
#define AVC_DATASETS_INGEST_WRITER_H

#include "datasets/ingest.h"
#include "datasets/ingest_row.h"

#define AVC_INGEST_BATCH 128	/* frames of a batch, at most */

typedef struct AvcIngestWriter AvcIngestWriter;

/*
 * Prepare the statements, in the current memory context, whose reset frees
 * them.  SPI is connected.
 */
extern AvcIngestWriter *avc_ingest_writer_create(const AvcDataset *dataset);

/*
 * Begin the batch of a transaction.  Statements name the table, and a name may
 * have gone to another one since the batch before: an error.  With the lock
 * that is taken it stays.  The frames are put into the order in which all
 * runs lock and write, so that no two wait for each other.
 */
extern void avc_ingest_writer_begin(AvcIngestWriter *writer,
									AvcIngestRow **frames, int count);

/*
 * Write frames of the batch, counting what became of them.  Errors are those
 * of the table; the caller is in a subtransaction.
 */
extern void avc_ingest_writer_write(AvcIngestWriter *writer,
									AvcIngestRow **frames, int count,
									AvcIngestCounts *counts);

#endif
