"""Refresh of a filtered copy of a table with LanceDB, for slices to print
beside its own figures.

    python lance.py FOLDER ROWS

The copy ("view") holds the rows of a base table that pass a filter.  A
refresh reads what the base gained since the version the copy was made from
(fragments that are new; ids that are gone) and adds, merges or deletes it.
Prints "name best median" in milliseconds.
"""
import random
import statistics
import sys
import time

import lance
import lancedb
import pyarrow as pa

FILTER = "brightness < 80"
TRIES = 7


def rows(ids, shift=0):
    ids = list(ids)
    return pa.table({
        "frame_id": pa.array(ids, pa.int64()),
        "weather": [("clear", "rainy", "foggy")[(i + shift) % 3] for i in ids],
        "timeofday": [("day", "night")[i % 2] for i in ids],
        "brightness": pa.array([float(i * 7919 % 100) for i in ids],
                               pa.float32()),
        "image_id": ["frame %d" % i for i in ids],
    })


class View:
    def __init__(self, folder, count):
        self.uri = folder + "/base.lance"
        database = lancedb.connect(folder)
        self.base = database.create_table("base", rows(range(count)))
        source = lance.dataset(self.uri)
        self.view = database.create_table(
            "view", source.to_table(filter=FILTER))
        self.remember(source)

    def remember(self, source):
        self.version = source.version
        self.newest = max(f.fragment_id for f in source.get_fragments())

    def gained(self, source):
        fragments = [f for f in source.get_fragments()
                     if f.fragment_id > self.newest]
        if not fragments:
            return None
        return source.scanner(fragments=fragments, filter=FILTER).to_table()

    def refresh(self, kind):
        source = lance.dataset(self.uri)
        if source.version == self.version:
            return
        new = self.gained(source)
        if kind == "append" and new is not None:
            self.view.add(new)
        elif kind == "update" and new is not None:
            (self.view.merge_insert("frame_id").when_matched_update_all()
             .when_not_matched_insert_all().execute(new))
        elif kind == "delete":
            here = set(self.view.to_lance().to_table(
                columns=["frame_id"])["frame_id"].to_pylist())
            there = set(source.to_table(
                columns=["frame_id"])["frame_id"].to_pylist())
            gone = ",".join(map(str, here - there))
            if gone:
                self.view.delete("frame_id in (%s)" % gone)
        self.remember(source)


def change(view, kind, some, step, count):
    if kind == "append":
        view.base.add(rows(range(count + step * 1000, count + step * 1000 + 1000)))
    elif kind == "update":
        (view.base.merge_insert("frame_id").when_matched_update_all()
         .execute(rows(some, step + 1)))
    elif kind == "delete":
        view.base.delete("frame_id in (%s)" % ",".join(map(str, some)))


def main():
    folder, count = sys.argv[1], int(sys.argv[2])
    view = View(folder, count)
    order = random.Random(1)
    for kind in ("append", "update", "delete", "nothing"):
        times = []
        for step in range(TRIES):
            change(view, kind, sorted(order.sample(range(count), 1000)), step,
                   count)
            start = time.perf_counter()
            view.refresh(kind)
            times.append((time.perf_counter() - start) * 1000)
        print(kind, "%.2f %.2f" % (min(times), statistics.median(times)))


main()
