/*
 * engine/nets/misfit.c
 *		What of a file of weights does not fit a network, in words.
 */
#include "engine/nets/misfit.h"

#include <stdio.h>
#include <string.h>

#include "engine/io/safetensors.h"

#define SHOWN_NAMES		20		/* of each kind */

static void
add_text(char *out, size_t size, const char *text)
{
	size_t		used = strlen(out);

	snprintf(out + used, size - used, "%s", text);
}

void
eng_misfit_name(EngMisfits *misfits, EngMisfitKind kind, const char *name)
{
	char	   *text = misfits->text[kind];

	misfits->count[kind]++;
	if (misfits->full[kind] || misfits->shown[kind] == SHOWN_NAMES ||
		strlen(text) + strlen(name) + 3 > ENG_MISFIT_BYTES)
	{
		misfits->full[kind] = true;
		return;
	}
	add_text(text, ENG_MISFIT_BYTES, misfits->shown[kind] > 0 ? ", " : "");
	add_text(text, ENG_MISFIT_BYTES, name);
	misfits->shown[kind]++;
}

static void
describe_shape(char *out, size_t size, EngMisfitShape shape)
{
	int32_t		i;

	snprintf(out, size, "(");
	for (i = 0; i < shape.rank; i++)
	{
		char		number[32];

		snprintf(number, sizeof(number), "%s%lld", i > 0 ? ", " : "",
				 (long long) shape.shape[i]);
		add_text(out, size, number);
	}
	add_text(out, size, ")");
}

void
eng_misfit_shape(EngMisfits *misfits, const char *name, EngMisfitShape theirs,
				 EngMisfitShape ours)
{
	char		text[512];
	char		their_shape[ENG_FILE_MAX_RANK * 24 + 8];
	char		our_shape[ENG_FILE_MAX_RANK * 24 + 8];

	describe_shape(their_shape, sizeof(their_shape), theirs);
	describe_shape(our_shape, sizeof(our_shape), ours);
	snprintf(text, sizeof(text), "%.96s is %s, not %s", name, their_shape,
			 our_shape);
	eng_misfit_name(misfits, ENG_MISFIT_MISSHAPEN, text);
}

bool
eng_misfit_report(const EngMisfits *misfits, const char *hint,
				  EngStatus *status)
{
	static const char *const words[ENG_MISFIT_KINDS] = {
		"missing", "unexpected", "of another shape"
	};
	char		text[ENG_MISFIT_KINDS * (ENG_MISFIT_BYTES + 80)] = "";
	int			kind;

	for (kind = 0; kind < ENG_MISFIT_KINDS; kind++)
	{
		int32_t		count = misfits->count[kind];
		int32_t		rest = count - misfits->shown[kind];
		char		part[64];

		if (count == 0)
			continue;
		snprintf(part, sizeof(part), "%s%d %s: ",
				 text[0] != '\0' ? "; " : "", (int) count, words[kind]);
		add_text(text, sizeof(text), part);
		add_text(text, sizeof(text), misfits->text[kind]);
		snprintf(part, sizeof(part), " and %d more", (int) rest);
		add_text(text, sizeof(text), rest > 0 ? part : "");
	}
	if (text[0] == '\0')
		return true;
	return eng_fail(status, ENG_BAD_FILE,
					"tensors of the weights do not fit the network; %s%s",
					text, hint);
}
