"""torch_bench.py train|infer BATCH WIDTHxHEIGHT STEPS

torchvision's fasterrcnn_resnet50_fpn_v2 on the GPU with its best settings:
channels_last, autocast to bf16, torch.compile of the backbone where that is
faster.  Frames come as bytes from pinned memory each step, as the engine's
do.  Prints the images a second and which of the two it was.
"""
import sys
import time

import torch
from torch import nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn_v2

BOXES = 20


def material(batch, width, height):
    frames = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8).pin_memory() for _ in range(batch)]
    targets = []
    for _ in range(batch):
        corner = torch.rand(BOXES, 2) * 0.6
        extent = 0.1 + 0.3 * torch.rand(BOXES, 2)
        boxes = torch.cat([corner, corner + extent], 1) * torch.tensor([width, height, width, height])
        targets.append({"boxes": boxes.cuda(), "labels": torch.randint(1, 91, (BOXES,)).cuda()})
    return frames, targets


def measure(way, batch, width, height, steps, compiled):
    torch.manual_seed(1)
    model = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, trainable_backbone_layers=5)
    model = model.cuda().to(memory_format=torch.channels_last)
    model.train(way == "train")
    if compiled:
        model.backbone = torch.compile(model.backbone)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=True)
    frames, targets = material(batch, width, height)

    def step():
        images = [f.cuda(non_blocking=True).float().div(255) for f in frames]
        with torch.autocast("cuda", torch.bfloat16):
            if way == "infer":
                with torch.inference_mode():
                    model(images)
                return
            loss = sum(model(images, [dict(t) for t in targets]).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return batch * steps / (time.perf_counter() - start)


def main():
    way, batch, size, steps = sys.argv[1:]
    width, height = (int(n) for n in size.split("x"))
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = True
    best = (0.0, "nothing")
    for compiled in (False, True):
        try:
            rate = measure(way, int(batch), width, height, int(steps), compiled)
        except Exception as error:  # out of memory, or what compile cannot do
            print(f"{'compiled' if compiled else 'eager'}: {error}", file=sys.stderr)
            torch.cuda.empty_cache()
            continue
        best = max(best, (rate, "compiled" if compiled else "eager"))
    if best[0] == 0:
        sys.exit("torchvision could not run it")
    print(f"{best[0]:.1f} {best[1]}")


main()
