/*
 * engine/machine.h
 *		What this program is made of and what it runs on.
 */
#ifndef ENG_MACHINE_H
#define ENG_MACHINE_H

#include <jansson.h>
#include <stdint.h>

/* The fields of the reply to HELLO; NULL if memory is short. */
extern json_t *eng_machine_describe(void);

/* Processors that this process may use. */
extern int32_t eng_machine_processors(void);

#endif							/* ENG_MACHINE_H */
