/*
 * engine/core/element.h
 *		The types that an element of a tensor can have.
 *
 * bf16 is the upper half of a float: 8 bits of exponent, 7 of fraction.  f16
 * has 5 and 10: numbers up to 65504, in steps of 2^-24 below 2^-14.  Both are
 * for storage; arithmetic is float.  Kernels for all types are written once,
 * on eng_load and eng_store with a type that the compiler knows.
 */
#ifndef ENG_CORE_ELEMENT_H
#define ENG_CORE_ELEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum EngType
{
	ENG_F32 = 0,
	ENG_BF16,
	ENG_F16						/* of devices alone */
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

/* The type of that name; false: there is none. */
static inline bool
eng_type_find(const char *name, EngType *type)
{
	int			i;

	for (i = ENG_F32; i <= ENG_F16; i++)
		if (strcmp(name, eng_type_name((EngType) i)) == 0)
		{
			*type = (EngType) i;
			return true;
		}
	return false;
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
eng_f16_to_float(uint16_t half)
{
	uint32_t	sign = (uint32_t) (half & 0x8000) << 16;
	uint32_t	rest = (uint32_t) (half & 0x7fff) << 13;
	float		value;

	memcpy(&value, &rest, sizeof(value));
	/* moves the exponent, also that of what is smaller than 2^-14 */
	value *= 0x1p112f;
	memcpy(&rest, &value, sizeof(rest));
	if ((half & 0x7c00) == 0x7c00)	/* what is not finite stays so */
		rest |= 0x7f800000;
	rest |= sign;
	memcpy(&value, &rest, sizeof(value));
	return value;
}

/* As above; what is too large becomes infinite. */
ENG_INLINE uint16_t
eng_f16_from_float(float value)
{
	uint32_t	bits;
	uint32_t	sign;

	memcpy(&bits, &value, sizeof(bits));
	sign = bits >> 16 & 0x8000;
	bits &= 0x7fffffff;
	if (bits > 0x7f800000)
		return (uint16_t) (sign | 0x7e00);
	if (bits >= 0x477ff000)		/* 65520, half way to 65536 */
		return (uint16_t) (sign | 0x7c00);
	if (bits < 0x38800000)
	{
		/* adding a half leaves whole steps of 2^-24 in the fraction */
		memcpy(&value, &bits, sizeof(value));
		value += 0.5f;
		memcpy(&bits, &value, sizeof(bits));
		return (uint16_t) (sign | (bits - 0x3f000000));
	}
	bits += 0xfff + (bits >> 13 & 1);
	return (uint16_t) (sign | (bits - 0x38000000) >> 13);
}

ENG_INLINE float
eng_load(const void *x, EngType type, int64_t i)
{
	if (type == ENG_BF16)
		return eng_bf16_to_float(((const uint16_t *) x)[i]);
	if (type == ENG_F16)
		return eng_f16_to_float(((const uint16_t *) x)[i]);
	return ((const float *) x)[i];
}

ENG_INLINE void
eng_store(void *x, EngType type, int64_t i, float value)
{
	if (type == ENG_BF16)
		((uint16_t *) x)[i] = eng_bf16_from_float(value);
	else if (type == ENG_F16)
		((uint16_t *) x)[i] = eng_f16_from_float(value);
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
