"""measure.py images|texts COUNT f32|bf16 STEPS

PyTorch's side of the comparison: CLIP ViT-B/32 with random weights.  Prints
the milliseconds of one group and the most MB resident.
"""
import resource
import sys
import time

import torch
from torch import nn
from towers import Clip


def main():
    what, count, kind, steps = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    torch.set_num_threads(2)
    torch.manual_seed(1)
    clip = Clip()
    for weight in clip.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.02)
    clip.eval()
    pictures = torch.rand(count, 3, 224, 224)
    ids = torch.randint(0, 49406, (count, 77))
    ids[:, -1] = 49407

    def run():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            return clip.images(pictures) if what == "images" else clip.texts(ids)

    run()
    start = time.perf_counter()
    for _ in range(steps):
        run()
    seconds = (time.perf_counter() - start) / steps
    print(f"{1e3 * seconds:.1f} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}")


main()
