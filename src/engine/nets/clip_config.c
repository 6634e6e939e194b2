/*
 * engine/nets/clip_config.c
 *		What makes one CLIP network different from another.
 */
#include "engine/nets/clip.h"

#include <string.h>

#include "engine/io/json.h"

bool
eng_clip_is_architecture(const char *name)
{
	return strcmp(name, ENG_CLIP_ARCHITECTURE) == 0;
}

void
eng_clip_config_default(EngClipConfig *config)
{
	*config = (EngClipConfig) {
		.quick_gelu = true, .side = ENG_CLIP_SIDE, .patch = 32,
		.tokens = 77, .vocabulary = 49408, .dimensions = 512,
		.image = {.width = 768, .layers = 12, .heads = 12},
		.text = {.width = 512, .layers = 12, .heads = 8}
	};
}

/*
 * Width and layers of a tower, whose heads are 64 features wide.  A key that
 * is absent leaves what is there.
 */
static bool
read_tower(EngClipTower *tower, const json_t *root, const char *width_key,
		   const char *layers_key, EngStatus *status)
{
	int64_t		width = tower->width;
	int64_t		layers = tower->layers;
	EngJsonRange widths = {64, 4096, false};
	EngJsonRange depths = {1, 99, false};

	if (!eng_json_integer(root, width_key, widths, &width, status) ||
		!eng_json_integer(root, layers_key, depths, &layers, status))
		return false;
	if (width % 64 != 0)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"option \"%s\" must be a multiple of 64", width_key);
	tower->width = (int32_t) width;
	tower->layers = (int32_t) layers;
	tower->heads = (int32_t) (width / 64);
	return true;
}

bool
eng_clip_config_parse(EngClipConfig *config, const char *options,
					  EngStatus *status)
{
	static const char *const keys[] = {
		"quick_gelu", "image_width", "image_layers", "text_width",
		"text_layers", NULL
	};
	json_t	   *root;
	bool		fine;

	eng_clip_config_default(config);
	if (options == NULL)
		return true;
	root = eng_json_parse(options, strlen(options), status);
	if (root == NULL)
		return false;
	fine = eng_json_known(root, keys, "options of " ENG_CLIP_ARCHITECTURE,
						  status) &&
		eng_json_boolean(root, "quick_gelu", &config->quick_gelu, status) &&
		read_tower(&config->image, root, "image_width", "image_layers",
				   status) &&
		read_tower(&config->text, root, "text_width", "text_layers", status);
	json_decref(root);
	return fine;
}

static bool
check_tower(const EngClipTower *tower, EngStatus *status)
{
	if (tower->layers < 1 || tower->layers > 99 || tower->heads < 1 ||
		tower->width < 1 || tower->width > 1 << 16 ||
		tower->width % tower->heads != 0)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"a tower of %d layers of %d heads over %d features cannot be made",
						tower->layers, tower->heads, tower->width);
	return true;
}

bool
eng_clip_config_check(const EngClipConfig *config, EngStatus *status)
{
	if (config->patch < 1 || config->patch > 256 ||
		config->side < config->patch ||
		config->side > 4096 || config->side % config->patch != 0 ||
		config->tokens < 1 || config->vocabulary < 1 ||
		config->vocabulary > 1 << 24 || config->dimensions < 1)
		return eng_fail(status, ENG_BAD_ARGUMENT,
						"pictures of side %d in patches of %d, texts of %d tokens cannot be embedded",
						config->side, config->patch, config->tokens);
	return check_tower(&config->image, status) &&
		check_tower(&config->text, status);
}
