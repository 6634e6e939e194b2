/*
 * test/emulated/memory.h
 *		The "device's" memory: the host cannot touch it but in between.
 */
#ifndef EMULATED_MEMORY_H
#define EMULATED_MEMORY_H

#ifdef __cplusplus
extern "C"
{
#endif

/* Kernels and copies happen between these; they nest. */
extern void emulated_memory_open(void);
extern void emulated_memory_close(void);

#ifdef __cplusplus
}
#endif

#endif
