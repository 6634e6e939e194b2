"""CLIP in and out of a server, held against open_clip and transformers.

Networks of ViT-B/32's form with weights drawn here go in by import_checkpoint
and out by export_checkpoint; names, values and embeddings of frames and texts
are compared.  Called by test/torch/check with "clip".
"""
import importlib
import json
import os
import shutil
import sys

import PIL.Image
import safetensors.torch
import torch
import torchvision.transforms.v2.functional as images

import weights
from weights import (FRAMES, check, export_file, import_file, load_export,
                     make_model, path_of, same, sql)

TEXTS = ["a cyclist at night, in the rain", "city street; 2 buses & a tram",
         "Caf\u00e9 at the corner"]
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]


def library(name):
    """The module, or None after a skipped test that says why."""
    try:
        return importlib.import_module(name)
    except ImportError as why:
        weights.tests += 1
        print(f"ok {weights.tests} - held against {name} # SKIP {why}", flush=True)
        return None


def squares():
    """The frames as CLIP's own preprocessing makes them, by Pillow."""
    pictures = []
    for path in FRAMES:
        with PIL.Image.open(path) as picture:
            square = images.center_crop(images.resize(
                picture.convert("RGB"), 224, images.InterpolationMode.BICUBIC), 224)
        pictures.append(images.normalize(
            images.to_dtype(images.to_image(square), torch.float32, scale=True), MEAN, STD))
    return torch.stack(pictures)


def spread(model):
    """Norms and biases that leave no part of the network without effect."""
    torch.manual_seed(5)
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() == 1:
                value.add_(0.1 * torch.randn_like(value))
    return model.eval()


def unit(rows):
    return torch.nn.functional.normalize(rows.detach(), dim=-1)


def embeddings(expression):
    rows, words = sql(f"SELECT array_to_json({expression})")
    if words:
        print("# " + words)
    return json.loads(rows) if rows else [0.0] * 512


def check_images(title, checkpoint, theirs):
    ours = torch.tensor([embeddings(
        f"avcurate.clip_embedding(pg_read_binary_file('{os.path.abspath(path)}'), {checkpoint})")
        for path in FRAMES])
    error = (ours - unit(theirs)).abs().max().item()
    check(error < 1e-4, f"{title}: embeddings of {len(FRAMES)} frames", f"largest difference {error:.1e}")


def check_texts(title, checkpoint, theirs):
    ours = torch.tensor([embeddings(f"avcurate.clip_text_embedding($${text}$$, {checkpoint})")
                         for text in TEXTS])
    error = (ours - unit(theirs)).abs().max().item()
    check(error < 1e-4, f"{title}: embeddings of {len(TEXTS)} texts", f"largest difference {error:.1e}")


def check_open_clip(open_clip, pictures, quick):
    title = "ViT-B-32-quickgelu" if quick else "ViT-B-32"
    shutil.copy(os.path.join(os.path.dirname(open_clip.__file__), "bpe_simple_vocab_16e6.txt.gz"),
                path_of("vocabulary.txt.gz"))
    os.chmod(path_of("vocabulary.txt.gz"), 0o644)
    make_model(title, "clip_vit_b32", {"quick_gelu": quick, "vocabulary": path_of("vocabulary.txt.gz")})
    model = spread(open_clip.create_model(title, pretrained=None))
    torch.save(model.state_dict(), path_of("clip.pth"))
    checkpoint, words = import_file(title, "clip.pth")
    if not check(checkpoint is not None, f"{title}: open_clip's state dict is imported", words):
        return
    for form in "safetensors", "pth":
        back, texts = load_export(export_file(checkpoint, f"exported.{form}", form))
        check(same(dict(model.state_dict()), dict(back)), f"{title}: export as {form} has the same bits")
        twin = eval(texts["avcurate.constructor"], {"open_clip": open_clip})
        check(twin.load_state_dict(back, strict=True) is not None,
              f"{title}: load_state_dict(strict=True) takes it", texts["avcurate.constructor"])
    twin.eval()
    with torch.no_grad():
        check_images(title, checkpoint, twin.encode_image(pictures))
        check_texts(title, checkpoint, twin.encode_text(open_clip.tokenize(TEXTS)))


def check_transformers(transformers, pictures):
    model = spread(transformers.CLIPModel(transformers.CLIPConfig()))
    make_model("transformers", "clip_vit_b32", {"quick_gelu": True})
    torch.save(model.state_dict(), path_of("clip.pth"))
    safetensors.torch.save_file(model.state_dict(), path_of("clip.safetensors"))
    os.chmod(path_of("clip.safetensors"), 0o644)
    checkpoint, words = import_file("transformers", "clip.pth")
    if not check(checkpoint is not None, "CLIPModel's state dict is imported", words):
        return
    other, words = import_file("transformers", "clip.safetensors")
    check(weights.hash_of(checkpoint) == weights.hash_of(other), "and the same as safetensors", words)
    with torch.no_grad():
        check_images("CLIPModel", checkpoint, model.visual_projection(
            model.vision_model(pixel_values=pictures).pooler_output))


def check_transformers_texts(transformers, open_clip):
    """Its texts need a vocabulary, which open_clip brings."""
    model = spread(transformers.CLIPModel(transformers.CLIPConfig()))
    make_model("texts", "clip_vit_b32", {"quick_gelu": True, "vocabulary": path_of("vocabulary.txt.gz")})
    torch.save(model.state_dict(), path_of("clip.pth"))
    checkpoint, words = import_file("texts", "clip.pth")
    with torch.no_grad():
        check_texts("CLIPModel", checkpoint, model.text_projection(
            model.text_model(input_ids=open_clip.tokenize(TEXTS)).pooler_output))


def main():
    if len(FRAMES) < 2:
        print(f"1..0 # SKIP fewer than two JPEGs below {os.environ['AVC_FRAMES']}")
        return 0
    pictures = squares()
    open_clip = library("open_clip")
    if open_clip:
        check_open_clip(open_clip, pictures, True)
        check_open_clip(open_clip, pictures, False)
    transformers = library("transformers")
    if transformers:
        check_transformers(transformers, pictures)
    if transformers and open_clip:
        check_transformers_texts(transformers, open_clip)
    print(f"1..{weights.tests}")
    return weights.failures > 0


sys.exit(main())
