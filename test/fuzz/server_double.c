/*
 * test/fuzz/server_double.c
 *		What the label readers need of the server, in a program of its own.
 *
 * Each piece of memory is one of malloc's, so the address sanitizer sees
 * every access beyond it; a context frees its pieces and its children.  An
 * error of the server ends the program: the readers raise none for what a
 * file holds.
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "server_double.h"

typedef struct Context
{
	struct Context *parent;
	dlist_head	children;
	dlist_node	sibling;
	dlist_head	pieces;
} Context;

typedef struct Piece
{
	dlist_node	node;
	Context    *owner;
	Size		size;
} Piece;

MemoryContext CurrentMemoryContext;
volatile sig_atomic_t InterruptPending = false;

static Size in_use;

static void
fail(const char *what)
{
	fprintf(stderr, "the reader raised an error: %s\n", what);
	abort();
}

static void
detach(Context *context)
{
	if (context->parent != NULL)
		dlist_delete(&context->sibling);
}

static void
attach(Context *context, Context *parent)
{
	context->parent = parent;
	if (parent != NULL)
		dlist_push_tail(&parent->children, &context->sibling);
}

MemoryContext
AllocSetContextCreateInternal(MemoryContext parent, const char *name,
							  Size min, Size initial, Size max)
{
	Context    *context = calloc(1, sizeof(Context));

	dlist_init(&context->children);
	dlist_init(&context->pieces);
	attach(context, (Context *) parent);
	return (MemoryContext) context;
}

void
MemoryContextReset(MemoryContext memory)
{
	Context    *context = (Context *) memory;

	while (!dlist_is_empty(&context->children))
		MemoryContextDelete((MemoryContext)
							dlist_container(Context, sibling,
											dlist_head_node(&context->children)));
	while (!dlist_is_empty(&context->pieces))
		pfree(dlist_container(Piece, node,
							  dlist_head_node(&context->pieces)) + 1);
}

void
MemoryContextDelete(MemoryContext memory)
{
	MemoryContextReset(memory);
	detach((Context *) memory);
	free(memory);
}

void
MemoryContextSetParent(MemoryContext memory, MemoryContext parent)
{
	detach((Context *) memory);
	attach((Context *) memory, (Context *) parent);
}

void *
MemoryContextAlloc(MemoryContext memory, Size size)
{
	Piece	   *piece;

	if (!AllocSizeIsValid(size))
		fail("invalid memory alloc request size");
	piece = malloc(sizeof(Piece) + size);
	piece->owner = (Context *) memory;
	piece->size = size;
	in_use += size;
	/* what is not set must not look as if it were */
	memset(piece + 1, 0x5a, size);
	dlist_push_tail(&piece->owner->pieces, &piece->node);
	return piece + 1;
}

void *
MemoryContextAllocZero(MemoryContext memory, Size size)
{
	return memset(MemoryContextAlloc(memory, size), 0, size);
}

void *
palloc(Size size)
{
	return MemoryContextAlloc(CurrentMemoryContext, size);
}

void *
palloc0(Size size)
{
	return MemoryContextAllocZero(CurrentMemoryContext, size);
}

void
pfree(void *pointer)
{
	Piece	   *piece = (Piece *) pointer - 1;

	in_use -= piece->size;
	dlist_delete(&piece->node);
	free(piece);
}

void *
repalloc(void *pointer, Size size)
{
	Piece	   *piece = (Piece *) pointer - 1;
	void	   *result = MemoryContextAlloc((MemoryContext) piece->owner, size);

	memcpy(result, pointer, Min(size, piece->size));
	pfree(pointer);
	return result;
}

Size
server_double_memory(void)
{
	return in_use;
}

char *
MemoryContextStrdup(MemoryContext memory, const char *string)
{
	return strcpy(MemoryContextAlloc(memory, strlen(string) + 1), string);
}

char *
pstrdup(const char *string)
{
	return MemoryContextStrdup(CurrentMemoryContext, string);
}

char *
pnstrdup(const char *string, Size len)
{
	char	   *copy = palloc(strnlen(string, len) + 1);

	len = strnlen(string, len);
	memcpy(copy, string, len);
	copy[len] = '\0';
	return copy;
}

char *
psprintf(const char *format,...)
{
	char		text[4096];
	va_list		args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return pstrdup(text);
}

int
GetDatabaseEncoding(void)
{
	return PG_UTF8;
}

bool
pg_verify_mbstr(int encoding, const char *text, int len, bool no_error)
{
	return pg_encoding_verifymbstr(encoding, text, len) == len;
}

void
ProcessInterrupts(void)
{
}

bool
errstart(int level, const char *domain)
{
	return true;
}

bool
errstart_cold(int level, const char *domain)
{
	return true;
}

int
errcode(int sqlstate)
{
	return 0;
}

int
errmsg(const char *format,...)
{
	fail(format);
	return 0;
}

int
errhint(const char *format,...)
{
	return 0;
}

void
errfinish(const char *file, int line, const char *function)
{
	fail(function);
}
