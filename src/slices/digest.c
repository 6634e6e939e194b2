/*
 * slices/digest.c
 *		Order-free digest of a version's rows.
 *
 * Format 1: the sum modulo 2^128, over the rows, of the first 16 bytes (big
 * endian) of sha256 over the row's text in UTF-8.  The text is that of the
 * row value, ROW(columns)::text, under TimeZone UTC, DateStyle ISO,
 * IntervalStyle postgres, extra_float_digits 1, bytea_output hex, lc_monetary
 * C and search_path pg_catalog.  Written as 32 hex digits.
 *
 * A sum and not an exclusive or, which cancels rows that come twice; and a
 * sum can be kept up to date from the rows that came and went alone.
 */
#include "postgres.h"

#include <openssl/evp.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "common/catalog.h"
#include "common/spi.h"
#include "slices/refresh.h"
#include "slices/row_text.h"

#define FETCH_ROWS 1000

/* PostgreSQL's, which may lie where palloc puts it: 8 bytes aligned */
typedef uint128 Sum;

struct AvcDigester
{
	Sum			sum;
	AvcRowText *writer;
	int			guc_level;
};

static Sum
sum_from_hex(const char *digest)
{
	Sum			sum = 0;
	const char *c;

	if (strlen(digest) != AVC_DIGEST_LENGTH ||
		strspn(digest, "0123456789abcdef") != AVC_DIGEST_LENGTH)
		elog(ERROR, "malformed digest \"%s\"", digest);
	for (c = digest; *c; c++)
		sum = sum << 4 | (Sum) (*c <= '9' ? *c - '0' : *c - 'a' + 10);
	return sum;
}

static char *
sum_to_hex(Sum sum)
{
	return psprintf("%016llx%016llx", (unsigned long long) (sum >> 64),
					(unsigned long long) sum);
}

/*
 * OpenSSL's own interface: PostgreSQL's looks the algorithm up for every hash,
 * which takes longer than hashing a row.  Both are kept by the backend.
 */
static EVP_MD *sha256;
static EVP_MD_CTX *sha256_context;

static void
sha256_prepare(void)
{
	if (sha256 == NULL)
		sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
	if (sha256_context == NULL)
		sha256_context = EVP_MD_CTX_new();
	if (sha256 == NULL || sha256_context == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
				 errmsg("could not prepare SHA-256 of OpenSSL")));
}

static Sum
text_hash(const char *text, int length)
{
	uint8		hash[EVP_MAX_MD_SIZE];
	char	   *utf8 = pg_server_to_any(text, length, PG_UTF8);
	Sum			sum = 0;
	int			i;

	if (utf8 != text)
		length = strlen(utf8);
	if (!EVP_DigestInit_ex(sha256_context, sha256, NULL) ||
		!EVP_DigestUpdate(sha256_context, utf8, length) ||
		!EVP_DigestFinal_ex(sha256_context, hash, NULL))
		elog(ERROR, "could not compute the hash of a row");
	if (utf8 != text)
		pfree(utf8);
	for (i = 0; i < 16; i++)
		sum = sum << 8 | hash[i];
	return sum;
}

static Sum
record_hash(AvcDigester *digester, Datum row)
{
	int			length;
	const char *text = avc_row_text_of_record(digester->writer, row, &length);

	Assert(digester->guc_level > 0);
	return text_hash(text, length);
}

static Sum
slot_hash(AvcDigester *digester, TupleTableSlot *slot)
{
	const char *text;
	int			length;

	Assert(digester->guc_level > 0);
	slot_getallattrs(slot);
	text = avc_row_text_of_values(digester->writer,
								  slot->tts_tupleDescriptor, slot->tts_values,
								  slot->tts_isnull, &length);
	return text_hash(text, length);
}

AvcDigester *
avc_digest_begin(const char *digest)
{
	AvcDigester *digester = palloc0_object(AvcDigester);

	digester->sum = digest ? sum_from_hex(digest) : 0;
	digester->writer = avc_row_text_begin();
	sha256_prepare();
	return digester;
}

void
avc_digest_pin(AvcDigester *digester)
{
	digester->guc_level = NewGUCNestLevel();
	avc_pin_text_format();
	(void) set_config_option("search_path", "pg_catalog", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

void
avc_digest_unpin(AvcDigester *digester)
{
	AtEOXact_GUC(false, digester->guc_level);
	digester->guc_level = 0;
}

void
avc_digest_add(AvcDigester *digester, Datum row)
{
	digester->sum += record_hash(digester, row);
}

void
avc_digest_subtract(AvcDigester *digester, Datum row)
{
	digester->sum -= record_hash(digester, row);
}

void
avc_digest_add_slot(AvcDigester *digester, TupleTableSlot *slot)
{
	digester->sum += slot_hash(digester, slot);
}

void
avc_digest_subtract_slot(AvcDigester *digester, TupleTableSlot *slot)
{
	digester->sum -= slot_hash(digester, slot);
}

char *
avc_digest_end(AvcDigester *digester)
{
	char	   *digest = sum_to_hex(digester->sum);

	avc_row_text_end(digester->writer);
	pfree(digester);
	return digest;
}

char *
avc_digest_plus(const char *digest, const char *other)
{
	return sum_to_hex(sum_from_hex(digest) + sum_from_hex(other));
}

char *
avc_digest_minus(const char *digest, const char *other)
{
	return sum_to_hex(sum_from_hex(digest) - sum_from_hex(other));
}

char *
avc_digest_query(const char *sql, int count, const AvcParam *params,
				 bool read_only, int64 *rows)
{
	Portal		portal = avc_spi_cursor(sql, count, params, read_only);
	AvcDigester *digester = avc_digest_begin(NULL);

	*rows = 0;
	for (;;)
	{
		uint64		n;
		bool		is_null;

		CHECK_FOR_INTERRUPTS();
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		avc_digest_pin(digester);
		for (n = 0; n < SPI_processed; n++)
			avc_digest_add(digester,
						   SPI_getbinval(SPI_tuptable->vals[n],
										 SPI_tuptable->tupdesc, 1, &is_null));
		avc_digest_unpin(digester);
		*rows += SPI_processed;
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	return avc_digest_end(digester);
}
