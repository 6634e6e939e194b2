"""TAP tests of frame_loader.py on the server that libpq's environment names, and its speed beside a folder of JPEGs."""
import io
import os
import pathlib
import tempfile
import time

import psycopg
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision.io import ImageReadMode, decode_image, read_file
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from frame_loader import FrameBatches, loader

count = 0


def ok(fine, name, detail=""):
    global count
    count += 1
    print(("ok" if fine else "not ok"), count, "-", name, flush=True)
    if not fine and detail != "":
        print("#", detail)


def frames(dataset, workers=0):
    """frame_id by batch, in the order in which they come."""
    return [[t["frame_id"] for t in targets] for _, targets in loader(dataset, workers)]


db = psycopg.connect("", autocommit=True)
db.execute("SELECT avcurate.create_dataset('drives')")
db.execute("CALL avcurate.ingest_synthetic('drives', 90, 5, 'train')")
db.execute("UPDATE drives SET ann_categories = NULL, ann_bboxes = NULL, ann_occluded = NULL, ann_truncated = NULL, "
           "ann_ignored = NULL, ann_area = NULL WHERE frame_id = 7")
db.execute("SELECT avcurate.create_slice('picked', 'drives', 'frame_id <= 70')")

feed = FrameBatches("", "picked", 8, seed=3)
wanted = [r[0] for r in db.execute("SELECT array_agg(frame_id ORDER BY position) FROM "
                                   "avcurate.batches('picked', 8, seed => 3) GROUP BY batch_no ORDER BY batch_no")]
wanted = [[f for f in batch if f != 7] for batch in wanted]
ok(frames(feed) == wanted, "batches come in the order of avcurate.batches, without the frame that has no labels")
ok(len(feed) == 9, "as many as it says")
small = FrameBatches("", "picked", 8, seed=3, chunk=2)
ok(frames(small) == wanted, "whatever the server is asked for at a time")
with_workers = frames(small, 3)
ok(sorted(map(tuple, with_workers)) == sorted(map(tuple, wanted)), "three workers share the same batches")
ok(with_workers == frames(small, 3), "in an order that repeats")


class Share(FrameBatches):
    """Puts the worker into each target."""

    def _collate(self, rows):
        images, targets = super()._collate(rows)
        return images, [{**t, "worker": get_worker_info().id} for t in targets]


for batches, workers, chunk in ((9, 3, 16), (5, 4, 16), (12, 2, 5), (2, 3, 16)):
    shared = Share("", "picked", -(-70 // batches), seed=3, chunk=chunk)
    taken = [targets[0]["worker"] for _, targets in loader(shared, workers)]
    most, least = max(map(taken.count, range(workers))), min(map(taken.count, range(workers)))
    ok(len(taken) == batches and most - least <= -(-batches // (workers * chunk)),
       f"{batches} batches are shared evenly by {workers} workers, {chunk} at a time", taken)
feed.set_epoch(1)
other = frames(feed)
ok(other != wanted and sorted(sum(other, [])) == sorted(sum(wanted, [])), "another epoch has another order")
feed.set_epoch(0)
parts = [frames(FrameBatches("", "picked", 4, version=1, seed=3, rank=r, world_size=2, chunk=3)) for r in (0, 1)]
ok(len(parts[0]) == len(parts[1]) and not set(sum(parts[0], [])) & set(sum(parts[1], [])), "two ranks share the frames")

images, targets = next(iter(feed))
row = db.execute("SELECT image_bytes, ann_bboxes, (SELECT array_agg(label ORDER BY n) FROM "
                 "unnest(ann_categories) WITH ORDINALITY c (category, n) JOIN avcurate.label_maps USING (category) "
                 "WHERE label_map = 'coco') FROM drives WHERE frame_id = %s", (targets[0]["frame_id"],)).fetchone()
pixels = decode_image(torch.frombuffer(bytearray(row[0]), dtype=torch.uint8), mode=ImageReadMode.RGB)
ok(torch.equal(images[0], pixels.float() / 255), "an image is the frame's, in 0..1")
ok(targets[0]["boxes"].tolist() == torch.tensor(row[1]).reshape(-1, 4).tolist() and targets[0]["labels"].tolist() == row[2],
   "boxes and labels are the frame's", (targets[0], row[1:]))

torch.manual_seed(1)
model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91, min_size=96, max_size=160)
losses = model(images[:2], targets[:2])
ok(all(torch.isfinite(v) for v in losses.values()), "torchvision's detector takes them", losses)

# --- the pin binds
db.execute("UPDATE drives SET ann_categories = '{}', ann_bboxes = '{}', ann_occluded = '{}', ann_truncated = '{}', "
           "ann_ignored = '{}', ann_area = NULL WHERE frame_id = %s", (targets[0]["frame_id"],))
db.execute("DELETE FROM drives WHERE frame_id = %s", (wanted[0][1],))
db.execute("SELECT avcurate.refresh_slice('picked')")
ok(frames(feed) == wanted, "rows that change and go afterwards change nothing")
again = next(iter(feed))[1]
ok(torch.equal(again[0]["boxes"], targets[0]["boxes"]), "neither do their labels")
ok(len(sum(frames(FrameBatches("", "picked", 8, seed=3)), [])) == 68, "a data set made now reads the new version")
for name, call in (("an unknown slice is an error", lambda: FrameBatches("", "nowhere", 8)),
                   ("so is a version that is not there", lambda: FrameBatches("", "picked", 8, version=99))):
    try:
        call()
        ok(False, name)
    except psycopg.Error as error:
        ok("nowhere" in str(error) or "99" in str(error), name, error)


for name, call in (("ranks without a version are refused", lambda: FrameBatches("", "picked", 8, world_size=2)),
                   ("workers that miss set_epoch are refused", lambda: loader(feed, 2, persistent_workers=True))):
    try:
        call()
        ok(False, name)
    except ValueError as error:
        ok("version" in str(error) or "set_epoch" in str(error), name, error)


# --- beside a folder of JPEGs
class Folder(Dataset):
    def __init__(self, folder):
        self.paths = sorted(pathlib.Path(folder).glob("*.jpg"))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return decode_image(read_file(str(self.paths[i])), mode=ImageReadMode.RGB).to(torch.float32).div_(255)


def images_of(batch):
    return len(batch[0]) if isinstance(batch, tuple) else len(batch)


def rate(batches, limit=4.0):
    start, seen = time.time(), 0
    while time.time() - start < limit:
        for batch in batches:
            seen += images_of(batch)
    return seen / (time.time() - start)


def compare(name, workers):
    folder = DataLoader(Folder(home), batch_size=8, shuffle=True, num_workers=workers, collate_fn=list)
    table = loader(FrameBatches("", "all_pictures", 8, labelled_only=False), workers)
    one, other = rate(folder), rate(table)
    print(f"# {name}, {workers} workers: folder {one:.0f} images/s, avcurate {other:.0f} images/s, ratio {other / one:.2f}")


with tempfile.TemporaryDirectory() as home:
    given = sorted(pathlib.Path(os.environ.get("AVC_FRAMES", "")).glob("*.jpg"))[:200]
    name = "real frames" if given else "rendered frames"
    if not given:
        for n, jpeg in db.execute("SELECT frame_id, image_bytes FROM drives"):
            pathlib.Path(home, f"{n}.jpg").write_bytes(jpeg)
        given = sorted(pathlib.Path(home).glob("*.jpg"))
    db.execute("SELECT avcurate.create_dataset('pictures')")
    with db.cursor() as cur, cur.copy("COPY pictures (image_id, image_bytes) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["text", "bytea"])
        for path in given:
            copy.write_row((path.stem, path.read_bytes()))
    db.execute("SELECT avcurate.create_slice('all_pictures', 'pictures', 'true')")
    if name == "real frames":
        for path in given:
            pathlib.Path(home, path.name).write_bytes(path.read_bytes())
    torch.set_num_threads(1)
    for workers in (0, 2):
        compare(name, workers)
print(f"1..{count}")
