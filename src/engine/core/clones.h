/*
 * engine/core/clones.h
 *		Compile a function for several instruction sets; the loader picks.
 *
 * Only for functions whose results do not depend on the vector width, that
 * is for element-wise loops and for sums with a fixed order.
 */
#ifndef ENG_CORE_CLONES_H
#define ENG_CORE_CLONES_H

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__)
#define ENG_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ENG_CLONES
#endif

/*
 * For loops over bf16, which a backend offers only on processors that
 * multiply it (EngBackend.lacks_bf16): they have all of the following, and
 * without AVX-512BW compilers fall back to short vectors for 16-bit elements.
 */
#if defined(__x86_64__)
#define ENG_FOR_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#else
#define ENG_FOR_BF16
#endif

#endif
