"""Weight files in and out of a server, held against torchvision itself.

Networks with weights drawn here go in by import_checkpoint and out by
export_checkpoint; names, values and detections on frames are compared.
Called by test/torch/check, which names the server, a scratch folder and a
folder of frames in the environment.
"""
import argparse
import collections
import copy
import functools
import glob
import json
import os
import subprocess
import sys
import zipfile

import numpy
import PIL.Image
import safetensors.torch
import torch
import torchvision
from torchvision.models.detection import (
    FasterRCNN, fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2)
from torchvision.models.detection.backbone_utils import (
    BackboneWithFPN, resnet_fpn_backbone)
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FrozenBatchNorm2d, box_iou

FILES = os.environ["AVC_FILES"]
FRAMES = sorted(glob.glob(os.environ["AVC_FRAMES"] + "/**/*.jpg",
                          recursive=True))[:2]
tests = failures = 0


def check(passed, name, note=""):
    """One test."""
    global tests, failures
    tests += 1
    failures += not passed
    print(f"{'' if passed else 'not '}ok {tests} - {name}", flush=True)
    for line in str(note).splitlines() if note else []:
        print("# " + line[:400], flush=True)
    return passed


def sql(text):
    """Run statements; what they return, and what was said on the way."""
    done = subprocess.run(["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", text],
                          capture_output=True, text=True)
    return done.stdout.strip(), done.stderr.strip()


def path_of(name):
    return f"{FILES}/{name}"


def frames():
    """The frames as torchvision wants them."""
    pictures = []
    for path in FRAMES:
        with PIL.Image.open(path) as picture:
            pixels = numpy.array(picture.convert("RGB"))
        pictures.append(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
    return pictures


def spread(model, pictures):
    """Weights that tell frames apart: norms fitted to the frames, scores and
    boxes drawn apart, so that detections are many and differ."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.uniform_(module.weight, 0.7, 1.3)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    targets = [{"boxes": torch.tensor([[100., 100., 400., 300.]]),
                "labels": torch.tensor([1])} for _ in pictures]
    model.train()
    with torch.no_grad():
        model(pictures, targets)
        model.rpn.head.cls_logits.weight.mul_(20)
        model.roi_heads.box_predictor.cls_score.weight.mul_(25)
        model.roi_heads.box_predictor.bbox_pred.weight.mul_(2)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1
    return model.eval()


def small_r18(classes):
    """ResNet-18 with a pyramid of 128 channels, put together from parts."""
    body = torchvision.models.resnet18(weights=None)
    backbone = BackboneWithFPN(
        body, {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"},
        [64, 128, 256, 512], 128)
    return FasterRCNN(backbone, classes, min_size=320, max_size=640,
                      rpn_head=RPNHead(128, 3),
                      box_head=TwoMLPHead(128 * 49, 1024),
                      box_score_thresh=0.02, rpn_post_nms_top_n_test=300)


def frozen_v1(live):
    """The live network's weights behind frozen norms of eps 0."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None,
        norm_layer=functools.partial(FrozenBatchNorm2d, eps=0.0))
    model = FasterRCNN(backbone, 91)
    model.load_state_dict({name: value for name, value in live.state_dict().items()
                           if "num_batches_tracked" not in name})
    return model.eval()


def same(left, right):
    """Equal names, types and bits."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and
        torch.equal(left[name], right[name]) for name in left)


def import_file(model, name, more=""):
    """Number of the checkpoint (or None) and the messages."""
    number, words = sql(
        f"SELECT avcurate.import_checkpoint('{model}', '{path_of(name)}'{more})")
    return int(number) if number else None, words


def hash_of(checkpoint):
    return sql("SELECT provenance ->> 'weights_sha256' FROM avcurate.checkpoints "
               f"WHERE checkpoint = {checkpoint}")[0] if checkpoint else None


def export_file(checkpoint, name, form):
    sql(f"SELECT avcurate.export_checkpoint({checkpoint}, '{path_of(name)}', '{form}')")
    return path_of(name)


def detections(checkpoint, path):
    rows, words = sql(
        "SELECT json_agg(d) FROM avcurate.detect(pg_read_binary_file("
        f"'{os.path.abspath(path)}'), {checkpoint}, 0) AS d")
    if words:
        print("# " + words)
    return json.loads(rows) if rows else []


def compare_detections(name, model, checkpoint, pictures):
    """One to one by label, overlap and score."""
    named = set(json.loads(sql("SELECT json_agg(DISTINCT label) FROM "
                               "avcurate.label_maps WHERE label_map = 'coco'")[0]))
    found = wanted = extra = 0
    score_error = box_error = 0.0
    for path, picture in zip(FRAMES, pictures):
        with torch.no_grad():
            theirs = model([picture])[0]
        ours = detections(checkpoint, path)
        left = list(range(len(ours)))
        boxes = torch.tensor([[d["x1"], d["y1"], d["x2"], d["y2"]] for d in ours]
                             or torch.zeros(0, 4).tolist()).reshape(-1, 4)
        for box, label, score in zip(theirs["boxes"], theirs["labels"].tolist(),
                                     theirs["scores"].tolist()):
            if label not in named:
                continue
            wanted += 1
            near = [i for i in left if ours[i]["label"] == label
                    and abs(ours[i]["score"] - score) < 1e-3
                    and box_iou(box[None], boxes[i][None]).item() > 0.9]
            if near:
                left.remove(near[0])
                found += 1
                score_error = max(score_error, abs(ours[near[0]]["score"] - score))
                box_error = max(box_error, (boxes[near[0]] - box).abs().max().item())
        extra += len(left)
    # boxes at the edge of NMS and of the limit of 100 may go either way
    check(wanted >= 20 and found >= 0.97 * wanted and extra <= 0.03 * wanted,
          f"{name}: {found} of {wanted} detections on {len(FRAMES)} frames found, {extra} others",
          f"largest differences: score {score_error:.1e}, side {box_error:.1e} pixels")


def make_model(name, architecture, options):
    sql(f"SELECT avcurate.create_model('{name}', '{architecture}', '{json.dumps(options)}')")


def load_export(path):
    """State dict and texts of an exported file."""
    if path.endswith(".pth"):
        state = torch.load(path, weights_only=True)
        return state, state.avcurate
    with safetensors.safe_open(path, "pt") as file:
        return safetensors.torch.load_file(path), file.metadata()


def check_export(name, model, checkpoint, picture):
    state = model.state_dict()
    for form in "safetensors", "pth":
        back, texts = load_export(export_file(checkpoint, f"out.{form}", form))
        check(same(dict(state), dict(back)), f"{name}: export as {form} has the same bits")
        if form == "pth":
            check(all(state._metadata[module] == version for module, version in back._metadata.items()) and
                  all(module in back._metadata for module, version in state._metadata.items() if version["version"] > 1),
                  f"{name}: versions of modules are torchvision's")
        twin = eval(texts["avcurate.constructor"])
        check(twin.load_state_dict(back, strict=True) is not None,
              f"{name}: load_state_dict(strict=True) takes it",
              texts["avcurate.constructor"])
    with torch.no_grad():
        theirs, ours = model([picture])[0], twin.eval()([picture])[0]
    check(same(theirs, ours), f"{name}: the constructor's network detects the same")


def check_network(name, title, architecture, options, model, pictures):
    make_model(name, architecture, options)
    torch.save(model.state_dict(), path_of("in.pth"))
    checkpoint, words = import_file(name, "in.pth")
    if check(checkpoint is not None, f"{title}: torch.save's file is imported", words):
        compare_detections(title, model, checkpoint, pictures)
        check_export(title, model, checkpoint, pictures[0])
    return checkpoint


# ---- kinds of files ------------------------------------------------------

def training_checkpoint(model):
    """What torchvision's reference script saves."""
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [16, 22])
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
            "lr_scheduler": schedule.state_dict(), "epoch": 3,
            "scaler": torch.amp.GradScaler("cpu").state_dict(),
            "args": argparse.Namespace(data_path="coco", lr=0.02, lr_steps=[16, 22],
                                       weights=None, amp=False)}


def averaged(model):
    return {"epoch": 3, "model_ema":
            torch.optim.swa_utils.AveragedModel(model).state_dict()}


def one_storage(state):
    """Every float tensor a view of one run of numbers."""
    flat = torch.cat([value.reshape(-1) for value in state.values()
                      if value.is_floating_point()])
    result, at = collections.OrderedDict(), 0
    for name, value in state.items():
        result[name] = value
        if value.is_floating_point():
            result[name] = flat[at:at + value.numel()].view(value.shape)
            at += value.numel()
    return result


def converted(state, dtype):
    return collections.OrderedDict(
        (name, value.to(dtype) if value.is_floating_point() else value)
        for name, value in state.items())


def check_kinds(model, reference):
    state = model.state_dict()
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    kinds = {
        "a zip archive": state,
        "nn.DataParallel's": torch.nn.DataParallel(model).state_dict(),
        "a training checkpoint": training_checkpoint(model),
        "under state_dict": {"state_dict": state, "epoch": 1},
        "under model_state_dict": {"model_state_dict": state, "loss": 0.5},
        "averaged weights": averaged(model),
        "channels_last": last.state_dict(),
        "one storage for all": one_storage(state),
        "doubles": converted(state, torch.float64),
        "names of torch.compile": {"_orig_mod." + k: v for k, v in state.items()},
    }
    for title, content in kinds.items():
        for form in True, False:
            torch.save(content, path_of("kind.pth"), _use_new_zipfile_serialization=form)
            number, words = import_file("r18", "kind.pth")
            check(hash_of(number) == reference,
                  f"{title}{'' if form else ', legacy'}: the same weights", words)
    torch.serialization.set_crc32_options(False)
    torch.save(state, path_of("kind.pth"))
    torch.serialization.set_crc32_options(True)
    check(hash_of(import_file("r18", "kind.pth")[0]) == reference, "an archive without checksums")
    for dtype in torch.float16, torch.bfloat16:
        torch.save(converted(state, dtype), path_of("kind.pth"))
        back, _ = load_export(export_file(import_file("r18", "kind.pth")[0],
                                          "half.safetensors", "safetensors"))
        check(same(dict(converted(converted(state, dtype), torch.float32)), back),
              f"{dtype} becomes float32")
    safetensors.torch.save_file(state, path_of("kind.safetensors"))
    os.chmod(path_of("kind.safetensors"), 0o644)
    check(hash_of(import_file("r18", "kind.safetensors")[0]) == reference,
          "a file of the safetensors library")


def check_old_names(model, pictures):
    """torchvision's v1 file as it was in 2019."""
    old = collections.OrderedDict()
    for name, value in model.state_dict().items():
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if "_blocks." in name:
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        old[name] = value
    torch.save(old, path_of("old.pth"), _use_new_zipfile_serialization=False)
    make_model("old_v1", "fasterrcnn_resnet50_fpn", {"norm": "frozen"})
    number, words = import_file("old_v1", "old.pth")
    check(number and "NOTICE:  option norm_eps of model \"old_v1\" is 0 now" in words,
          "old names: norm_eps becomes 0, with a notice", words)
    check(sql("SELECT options ->> 'norm_eps' FROM avcurate.models WHERE model = 'old_v1'")[0] == "0",
          "old names: the model has the option")
    compare_detections("old names", model, number, pictures)


def check_new_head(model):
    sql("SELECT avcurate.create_model('eleven', 'fasterrcnn_resnet18_fpn', "
        "'{\"fpn_channels\": 128}', 'bdd100k')")
    torch.save(model.state_dict(), path_of("kind.pth"))
    number, words = import_file("eleven", "kind.pth")
    check(number is None and "4 of another shape" in words, "another number of classes is refused", words)
    number, words = import_file("eleven", "kind.pth", ", true, 3")
    check(number and "box predictor of the checkpoint is fresh" in words, "unless a new head is asked for", words)
    back, _ = load_export(export_file(number, "eleven.pth", "pth"))
    state = model.state_dict()
    kept = [name for name in state if "box_predictor" not in name]
    check(all(torch.equal(back[name], state[name]) for name in kept),
          "a new head leaves the rest as it is")
    weight = back["roi_heads.box_predictor.cls_score.weight"]
    check(weight.shape == (11, 1024) and weight.abs().max() <= 1 / 32 and
          abs(weight.std().item() - 1 / 32 / 3 ** 0.5) < 1e-3,
          "the new head is drawn as torch.nn.Linear draws")


class Evil:
    def __reduce__(self):
        return os.system, ("touch " + path_of("owned"),)


def check_refused(model):
    class Tiny(torch.nn.Module):
        def forward(self, x):
            return x + 1
    state = model.state_dict()
    torch.save({"model": Evil()}, path_of("evil.pth"))
    torch.save(model, path_of("whole.pth"))
    torch.save(state, path_of("fine.pth"))
    torch.jit.save(torch.jit.script(Tiny()), path_of("script.pt"))
    with open(path_of("fine.pth"), "rb") as file:
        data = bytearray(file.read())
    with open(path_of("cut.pth"), "wb") as file:
        file.write(data[:-1000])
    data[len(data) // 2] ^= 1
    with open(path_of("damaged.pth"), "wb") as file:
        file.write(data)
    with zipfile.ZipFile(path_of("fine.pth")) as source, \
            zipfile.ZipFile(path_of("packed.pth"), "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.namelist():
            target.writestr(entry, source.read(entry))
    torch.save(state, path_of("new.pth"), pickle_protocol=4)
    for name, words in (
            ("evil.pth", 'pickle names "posix system"'),
            ("whole.pth", 'pickle names "torchvision.models.detection.faster_rcnn FasterRCNN"'),
            ("script.pt", "TorchScript"), ("cut.pth", "cut off"),
            ("damaged.pth", "CRC-32"), ("packed.pth", "compressed"),
            ("new.pth", "pickle protocol 4")):
        number, said = import_file("r18", name)
        check(number is None and words in said, f"refused: {name}", said)
    check(not os.path.exists(path_of("owned")), "nothing of a file was run")


def main():
    if len(FRAMES) < 2:
        print(f"1..0 # SKIP fewer than two JPEGs below {os.environ['AVC_FRAMES']}")
        return 0
    torch.set_num_threads(os.cpu_count())
    print(f"# torch {torch.__version__}, torchvision {torchvision.__version__}, frames {FRAMES}")
    pictures = frames()
    r18 = spread(small_r18(91), pictures)
    number = check_network(
        "r18", "ResNet-18", "fasterrcnn_resnet18_fpn",
        {"fpn_channels": 128, "min_size": 320, "max_size": 640,
         "box_score_thresh": 0.02, "rpn_post_nms_top_n_test": 300}, r18, pictures)
    check_kinds(r18, hash_of(number))
    check_new_head(r18)
    check_refused(r18)
    live = spread(fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None), pictures)
    check_network("v1", "v1, live norms", "fasterrcnn_resnet50_fpn", {}, live, pictures)
    frozen = frozen_v1(live)
    check_network("v1_frozen", "v1, frozen norms", "fasterrcnn_resnet50_fpn",
                  {"norm": "frozen", "norm_eps": 0}, frozen, pictures)
    check_old_names(frozen, pictures)
    v2 = spread(fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None), pictures)
    check_network("v2", "v2", "fasterrcnn_resnet50_fpn_v2", {}, v2, pictures)
    print(f"1..{tests}")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
