/*
 * datasets/scene_math.c
 *		exp, log, sin and cos from the four basic operations.
 *
 * A C library may round these functions as it likes and does so differently
 * from release to release; pictures that are promised to be the same
 * everywhere cannot depend on it.
 */
#include "datasets/scene_math.h"

#include <string.h>

#define LN2 0.693147180559945309417
#define PI 3.14159265358979323846

double
avc_scene_exp(double x)
{
	double		sum = 1.0;
	double		scale;
	uint64_t	bits;
	int			k;
	int			n;

	if (x < -700.0)
		return 0.0;
	if (x > 700.0)
		x = 700.0;
	/* x = k ln 2 + r with |r| <= ln 2 / 2; the series of exp(r), Horner */
	k = (int) (x / LN2 + (x < 0.0 ? -0.5 : 0.5));
	x -= k * LN2;
	for (n = 11; n > 0; n--)
		sum = 1.0 + sum * x / n;
	bits = (uint64_t) (k + 1023) << 52;
	memcpy(&scale, &bits, sizeof(scale));
	return sum * scale;
}

double
avc_scene_log(double x)
{
	uint64_t	bits;
	double		t;
	double		square;
	double		sum = 0.0;
	int			k;
	int			n;

	/* x = 2^k m with m in [1, 2); log m = 2 artanh((m - 1) / (m + 1)) */
	memcpy(&bits, &x, sizeof(bits));
	k = (int) (bits >> 52 & 0x7FF) - 1023;
	bits = (bits & UINT64_C(0xFFFFFFFFFFFFF)) | (UINT64_C(1023) << 52);
	memcpy(&x, &bits, sizeof(x));
	if (x > 1.41421356)
	{
		x *= 0.5;
		k++;
	}
	t = (x - 1.0) / (x + 1.0);
	square = t * t;
	for (n = 13; n > 0; n -= 2)
		sum = sum * square + 1.0 / n;
	return k * LN2 + 2.0 * t * sum;
}

double
avc_scene_sin(double x)
{
	double		square;
	double		sum = 1.0;
	int			n;

	/* to [-pi, pi], then by symmetry to [-pi/2, pi/2] */
	x -= 2.0 * PI * (int) (x / (2.0 * PI) + (x < 0.0 ? -0.5 : 0.5));
	if (x > PI / 2.0)
		x = PI - x;
	else if (x < -PI / 2.0)
		x = -PI - x;
	square = x * x;
	for (n = 14; n > 0; n -= 2)
		sum = 1.0 - sum * square / (n * (n + 1));
	return x * sum;
}

double
avc_scene_cos(double x)
{
	return avc_scene_sin(x + PI / 2.0);
}

double
avc_scene_normal(SceneRandom *random)
{
	double		sum = -6.0;
	int			i;

	for (i = 0; i < 12; i++)
		sum += scene_unit(random);
	return sum;
}

double
avc_scene_log_between(SceneRandom *random, double low, double high)
{
	double		from = avc_scene_log(low);

	return avc_scene_exp(from +
						 (avc_scene_log(high) - from) * scene_unit(random));
}
