/*
 * test/fuzz/server_double.h
 *		What the label readers need of the server, in a program of its own.
 */
#ifndef TEST_FUZZ_SERVER_DOUBLE_H
#define TEST_FUZZ_SERVER_DOUBLE_H

#include <stddef.h>

/* Bytes that are allocated in all contexts. */
extern size_t server_double_memory(void);

#endif
