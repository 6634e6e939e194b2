/*
 * engine/machine.h
 *		What this program is made of and what it runs on.
 */
#ifndef ENG_MACHINE_H
#define ENG_MACHINE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * The fields of the reply to HELLO; NULL if memory is short.  look: the GPU is
 * opened, which takes a moment.
 */
extern json_t *eng_machine_describe(bool look);

/* Processors that this process may use. */
extern int32_t eng_machine_processors(void);

#endif							/* ENG_MACHINE_H */
