"""measure.py FILE ARCHITECTURE OPTIONS infer|train f32|bf16 STEPS

One side of the comparison: torchvision's detector with the weights and frames
that `avcurate-engine bench --save FILE` kept.  Prints the milliseconds of one
batch and the most MB resident.
"""
import json
import resource
import struct
import sys
import time

import numpy as np
import torch
from torch import nn
from torchvision.models import resnet
from torchvision.models.detection import FasterRCNN, fasterrcnn_resnet50_fpn_v2
from torchvision.models.detection.backbone_utils import BackboneWithFPN

TYPES = {"F32": np.float32, "I64": np.int64, "U8": np.uint8}
CLASSES = 91


def read(path):
    """The arrays of a safetensors file."""
    with open(path, "rb") as f:
        size, = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(size))
        data = f.read()
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        flat = np.frombuffer(data[first:last], TYPES[entry["dtype"]])
        arrays[name] = torch.from_numpy(flat.reshape(entry["shape"]).copy())
    return arrays


def build(architecture, options):
    if architecture == "fasterrcnn_resnet50_fpn_v2":
        return fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, trainable_backbone_layers=5)
    if architecture != "fasterrcnn_resnet18_fpn":
        sys.exit(f"measure.py knows no {architecture}")
    channels = options.pop("fpn_channels")
    assert options.pop("norm") == "batch"
    body = resnet.resnet18(weights=None, norm_layer=nn.BatchNorm2d)
    layers = {f"layer{i}": str(i - 1) for i in range(1, 5)}
    backbone = BackboneWithFPN(body, layers, [64, 128, 256, 512], channels)
    return FasterRCNN(backbone, CLASSES, **options)


def main():
    path, architecture, options, way, kind, steps = sys.argv[1:]
    torch.set_num_threads(2)
    torch.manual_seed(1)
    arrays = read(path)
    frames, boxes, labels = (arrays.pop("bench." + name) for name in ("frames", "boxes", "labels"))
    model = build(architecture, json.loads(options))
    model.load_state_dict(arrays, strict=True)
    del arrays
    model = model.to(memory_format=torch.channels_last)
    model.train(way == "train")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    targets = [{"boxes": b, "labels": l} for b, l in zip(boxes, labels)]

    def step():
        images = [frame.permute(2, 0, 1).float().div(255) for frame in frames]
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            if way == "infer":
                with torch.inference_mode():
                    model(images)
                return
            loss = sum(model(images, [dict(t) for t in targets]).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    step()
    start = time.perf_counter()
    for _ in range(int(steps)):
        step()
    seconds = (time.perf_counter() - start) / int(steps)
    print(f"{1e3 * seconds:.1f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6:.0f}")


main()
