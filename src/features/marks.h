/*
 * features/marks.h
 *		The state of a row's features, kept in the row itself.
 *
 * Stored format of column feature_marks (bytea): two bits for each feature
 * number n, at byte n / 4, bits 2 * (n % 4) and above: 0 = pending, 1 = done,
 * 2 = failed.  Bytes that are missing, and NULL, mean pending, so a feature
 * added to a million rows touches none of them.  Numbers count up from 0 in
 * each dataset and are never used again: a feature whose expression changes
 * gets a new number, and is thereby pending in every row.
 */
#ifndef AVC_FEATURES_MARKS_H
#define AVC_FEATURES_MARKS_H

typedef enum AvcMark
{
	AVC_MARK_PENDING = 0,
	AVC_MARK_DONE = 1,
	AVC_MARK_FAILED = 2
} AvcMark;

#define AVC_MAX_FEATURE_NO 16383

/* State of a feature in a row; marks may be NULL. */
extern AvcMark avc_mark_get(const bytea *marks, int feature_no);

/* A copy with one state changed, long enough; marks may be NULL. */
extern bytea *avc_mark_set(const bytea *marks, int feature_no, AvcMark mark);

#endif
