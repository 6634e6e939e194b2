"""Renders two COCO documents, or times pycocotools on them.

    coco.py make FOLDER FRAMES    truth.json and results.json: 18 truths and 100 detections a frame
    coco.py time FOLDER           "whole matching+averaging": seconds, with reading and indexing, and without
"""
import contextlib
import io
import json
import pathlib
import random
import sys
import time


def box(rng):
    width, height = 8 * 20 ** rng.random(), 8 * 20 ** rng.random()
    return [round(v, 2) for v in (rng.random() * (1280 - width), rng.random() * (720 - height), width, height)]


def near(rng, found):
    x, y, width, height = found
    return [round(v, 2) for v in (x + rng.gauss(0, 0.1) * width, y + rng.gauss(0, 0.1) * height,
                                  width * 1.2 ** rng.gauss(0, 1), height * 1.2 ** rng.gauss(0, 1))]


def make(folder, frames):
    rng = random.Random(1)
    truths, results = [], []
    for frame in range(1, frames + 1):
        here = [(rng.choices(range(1, 11), weights=range(10, 0, -1))[0], box(rng)) for _ in range(18)]
        for category, corner in here:
            truths.append({"id": len(truths) + 1, "image_id": frame, "category_id": category, "bbox": corner,
                           "area": round(corner[2] * corner[3], 2), "iscrowd": int(rng.random() < 0.01)})
        for _ in range(100):
            category, corner = rng.choice(here)
            results.append({"image_id": frame, "category_id": category if rng.random() < 0.8 else rng.randint(1, 10),
                            "bbox": near(rng, corner) if rng.random() < 0.6 else box(rng),
                            "score": round(rng.random(), 4)})
    truth = {"images": [{"id": n} for n in range(1, frames + 1)], "annotations": truths,
             "categories": [{"id": n, "name": f"class {n}"} for n in range(1, 11)]}
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))


def measure(folder):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        truth = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "bbox")
        ready = time.perf_counter()
        evaluation.evaluate()
        evaluation.accumulate()
        done = time.perf_counter()
        evaluation.summarize()
    print(f"{done - start:.2f} {done - ready:.2f} {evaluation.stats[0]:.12f}")


if sys.argv[1] == "make":
    make(pathlib.Path(sys.argv[2]), int(sys.argv[3]))
else:
    measure(pathlib.Path(sys.argv[2]))
