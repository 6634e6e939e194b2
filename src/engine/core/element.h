/*
 * engine/core/element.h
 *		The types that an element of a tensor can have.
 *
 * bf16 is the upper half of a float: 8 bits of exponent, 7 of fraction.  It
 * is for storage; arithmetic is float.  Kernels for both types are written
 * once, on eng_load and eng_store with a type that the compiler knows.
 */
#ifndef ENG_CORE_ELEMENT_H
#define ENG_CORE_ELEMENT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum EngType
{
	ENG_F32 = 0,
	ENG_BF16,
	ENG_F16						/* of a device without bf16 */
} EngType;

/* For functions whose type argument is a constant in every call. */
#define ENG_INLINE	static inline __attribute__((always_inline))

ENG_INLINE size_t
eng_type_size(EngType type)
{
	return type == ENG_F32 ? sizeof(float) : sizeof(uint16_t);
}

ENG_INLINE const char *
eng_type_name(EngType type)
{
	return type == ENG_BF16 ? "bf16" : type == ENG_F16 ? "f16" : "f32";
}

ENG_INLINE float
eng_bf16_to_float(uint16_t half)
{
	uint32_t	bits = (uint32_t) half << 16;
	float		value;

	memcpy(&value, &bits, sizeof(value));
	return value;
}

/* To the nearest, ties to even; what is not a number stays so. */
ENG_INLINE uint16_t
eng_bf16_from_float(float value)
{
	uint32_t	bits;
	uint32_t	rounded;

	memcpy(&bits, &value, sizeof(bits));
	rounded = bits + 0x7fff + (bits >> 16 & 1);
	return (uint16_t) ((value != value ? bits | 0x400000 : rounded) >> 16);
}

ENG_INLINE float
eng_load(const void *x, EngType type, int64_t i)
{
	return type == ENG_BF16 ? eng_bf16_to_float(((const uint16_t *) x)[i]) :
		((const float *) x)[i];
}

ENG_INLINE void
eng_store(void *x, EngType type, int64_t i, float value)
{
	if (type == ENG_BF16)
		((uint16_t *) x)[i] = eng_bf16_from_float(value);
	else
		((float *) x)[i] = value;
}

/* Address of element i. */
ENG_INLINE void *
eng_at(const void *x, EngType type, int64_t i)
{
	return (uint8_t *) x + i * (int64_t) eng_type_size(type);
}

#endif
