"""Batches of a pinned version of a slice as a PyTorch data set, over libpq.

    from frame_loader import FrameBatches, loader
    feed = loader(FrameBatches("dbname=av", "rider_train", 16, version=7, seed=1), workers=2)
    for epoch in range(10):
        feed.dataset.set_epoch(epoch)
        for images, targets in feed:            # as torchvision's detectors take them
            losses = model(images, targets)

Needs torch, torchvision and psycopg 3.  The order of the frames is that of avcurate.batches: a function of
(version, seed, epoch), the same on every machine.  A data set without a version pins the slice's newest one when it
is made.  Tag the version (avcurate.tag_slice) where somebody prunes the slice: a pin that lives in a client cannot
hold it.
"""
import psycopg
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchvision.io import ImageReadMode, decode_jpeg

QUERY = """SELECT batch_no, frame_id, image_bytes, labels, boxes FROM avcurate.batches(%(slice)s::regclass,
    %(batch_size)s, version => %(version)s, seed => %(seed)s, epoch => %(epoch)s, shuffle => %(shuffle)s,
    rank => %(rank)s, world_size => %(world_size)s, start_batch => %(start)s, num_batches => %(count)s,
    drop_last => %(drop_last)s, label_map => %(label_map)s)"""


class FrameBatches(IterableDataset):
    """Yields (images, targets), one batch at a time.

    images: list of uint8 tensors (3, height, width), RGB; with scale=True float32 in 0..1, as torchvision's detectors
    take them.  targets: list of {"boxes": float32 (n, 4) x1 y1 x2 y2 in pixels, "labels": int64 (n), "frame_id": int};
    None for a frame that is not labelled, unless labelled_only, which leaves such frames out, and with them a batch
    that has no other: where ranks must take equally many steps, read a slice of labelled frames only.

    conninfo     libpq connection string or URI
    batch_size   frames a batch; the last batch of an epoch may be smaller unless drop_last
    rank, world_size   which of several processes this is: it gets the batches with batch_no % world_size = rank;
                 all must name the same version
    chunk        most batches asked for at a time: the server holds a chunk's rows while they are fetched
    """

    def __init__(self, conninfo, slice, batch_size, version=None, seed=0, epoch=0, shuffle=True, rank=0, world_size=1,
                 drop_last=False, label_map="coco", scale=True, labelled_only=True, chunk=16):
        if world_size > 1 and version is None:
            raise ValueError("several ranks need a version: each would pin what is newest when it starts")
        self.conninfo, self.scale, self.labelled_only, self.chunk = conninfo, scale, labelled_only, chunk
        self.query = dict(slice=slice, batch_size=batch_size, version=version, seed=seed, epoch=epoch,
                          shuffle=shuffle, rank=rank, world_size=world_size, drop_last=drop_last,
                          label_map=label_map)
        with psycopg.connect(conninfo, autocommit=True) as db:
            if version is None:
                found = db.execute("SELECT version FROM avcurate.slices WHERE slice = %s::regclass", (slice,)).fetchone()
                if found is None:
                    raise ValueError(f"{slice} is not a slice that this role may read")
                self.query["version"] = found[0]
            self.batches = db.execute(
                "SELECT avcurate.batch_count(%(slice)s::regclass, %(batch_size)s, %(version)s, %(drop_last)s, "
                "%(world_size)s)", self.query).fetchone()[0]

    def set_epoch(self, epoch):
        """Shuffle anew; call it before each epoch, on every rank alike."""
        self.query["epoch"] = epoch

    def __len__(self):
        return self.batches

    def __iter__(self):
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        # as few rounds as the chunk allows, and in each as much for every worker
        shares = workers * -(-self.batches // (workers * self.chunk))
        with psycopg.connect(self.conninfo, autocommit=True) as db:
            for share in range(worker, shares, workers):
                first, end = share * self.batches // shares, (share + 1) * self.batches // shares
                if first < end:
                    yield from self._chunk(db, first, end - first)

    def _chunk(self, db, first, count):
        """Batches first to first + count - 1 of this rank."""
        start = first * self.query["world_size"] + self.query["rank"]
        with db.transaction(), db.cursor(name="frames", binary=True) as rows:
            rows.itersize = self.query["batch_size"]
            batch, number = [], None
            for row in rows.execute(QUERY, {**self.query, "start": start, "count": count}):
                if row[0] != number and batch:
                    yield self._collate(batch)
                    batch = []
                number = row[0]
                if row[3] is not None or not self.labelled_only:
                    batch.append(row)
            if batch:
                yield self._collate(batch)

    def _collate(self, rows):
        images, targets = [], []
        for _, frame_id, jpeg, labels, boxes in rows:
            image = decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), mode=ImageReadMode.RGB)
            images.append(image.to(torch.float32).div_(255) if self.scale else image)
            targets.append(None if labels is None else {
                "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                "labels": torch.tensor(labels, dtype=torch.int64),
                "frame_id": frame_id})
        return images, targets


def as_it_is(batch):
    return batch


def loader(dataset, workers=0, **more):
    """A DataLoader that hands the batches on as they come; each worker has a connection of its own."""
    if more.get("persistent_workers"):
        raise ValueError("persistent workers would not see set_epoch and repeat the order of the first epoch")
    return DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=as_it_is, **more)
