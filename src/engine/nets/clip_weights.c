/*
 * engine/nets/clip_weights.c
 *		Weights in and out of a CLIP network.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/core/mirror.h"
#include "engine/nets/clip_match.h"
#include "engine/nets/clip_private.h"

/*
 * Copy what a parameter is made of, in the file's order, and put it into our
 * layout.  What lies turned in the file lies as ours does.
 */
static bool
take_parameter(EngParameters *all, const EngClipMatch *match, int32_t index,
			   EngStatus *status)
{
	const EngParameter *p = &all->list[index];
	const EngFileTensor *const *parts = match->found +
		(size_t) index * ENG_CLIP_PARTS;
	float	   *floats = malloc(sizeof(float) * (p->count + 1));
	float	   *at = floats;
	bool		ok = floats != NULL;
	int			i;

	if (!ok)
		return eng_fail(status, ENG_NO_MEMORY, "out of memory");
	for (i = 0; ok && i < ENG_CLIP_PARTS && parts[i] != NULL; i++)
	{
		ok = eng_file_tensor_floats(parts[i], at, status);
		at += parts[i]->count;
	}
	if (ok && eng_clip_source(match, p->name).turned)
		memcpy(all->values + p->offset, floats, sizeof(float) * p->count);
	else if (ok)
		eng_parameter_from_torch(p, all->values + p->offset, floats);
	free(floats);
	return ok;
}

bool
eng_clip_load(EngClip *clip, const EngTensorFile *file, int32_t *unused,
			  EngStatus *status)
{
	EngParameters *all = &clip->parameters;
	EngClipMatch match;
	bool		fine = eng_clip_match(&match, all, file, status);
	int32_t		i;

	all->version++;
	for (i = 0; fine && i < all->count; i++)
		fine = take_parameter(all, &match, i, status);
	eng_mirror_host_changed(all);
	*unused = match.unused;
	eng_clip_match_free(&match);
	return fine;
}

int32_t
eng_clip_parameter_count(const EngClip *clip)
{
	return clip->parameters.count;
}

void
eng_clip_parameter_info(const EngClip *clip, int32_t i,
						EngParameterInfo *info)
{
	const EngParameter *p = &clip->parameters.list[i];

	*info = (EngParameterInfo) {
		.name = p->name, .rank = p->rank, .count = p->count
	};
	memcpy(info->shape, p->shape, sizeof(info->shape));
}

void
eng_clip_parameter_write(EngClip *clip, int32_t i, const float *in)
{
	EngParameters *all = &clip->parameters;

	eng_parameter_from_torch(&all->list[i], all->values + all->list[i].offset,
							 in);
	all->version++;
	eng_mirror_host_changed(all);
}

bool
eng_clip_save(const EngClip *clip, EngBuffer *out, EngStatus *status)
{
	const EngParameters *all = &clip->parameters;
	EngTensorWriter *writer = eng_tensor_writer_create(status);
	bool		ok = writer != NULL &&
		eng_tensor_writer_metadata(writer, "format", "pt", status) &&
		eng_tensor_writer_metadata(writer, "architecture",
								   ENG_CLIP_ARCHITECTURE, status) &&
		eng_tensor_writer_metadata(writer, "options",
								   clip->config.quick_gelu ?
								   "{\"quick_gelu\": true}" :
								   "{\"quick_gelu\": false}", status);
	int32_t		i;

	for (i = 0; ok && i < all->count; i++)
	{
		const EngParameter *p = &all->list[i];
		EngFileTensor tensor = {
			.name = p->name, .dtype = ENG_FILE_F32, .rank = p->rank,
			.count = p->count
		};

		memcpy(tensor.shape, p->shape, sizeof(p->shape));
		ok = eng_tensor_writer_add(writer, &tensor, status);
	}
	ok = ok && eng_tensor_writer_finish(writer, out, status);
	for (i = 0; ok && i < all->count; i++)
		eng_parameter_to_torch(&all->list[i],
							   eng_tensor_writer_place(writer, out,
													   all->list[i].name),
							   all->values + all->list[i].offset);
	eng_tensor_writer_free(writer);
	return ok;
}
