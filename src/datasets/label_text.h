/*
 * datasets/label_text.h
 *		Texts of label files that become values of the database.
 */
#ifndef AVC_DATASETS_LABEL_TEXT_H
#define AVC_DATASETS_LABEL_TEXT_H

#define AVC_LABEL_TEXT_BYTES 1024	/* of a name, category or attribute */

/*
 * Why a text of a label file, which is UTF-8, cannot be stored; NULL if it
 * can.  Found out here and not by an error in the middle of the file.
 */
extern const char *avc_label_text_problem(const char *text, size_t len);

#endif
