"""LanceDB's exact search, for search to print beside its own figures.

    python search_lancedb.py load FOLDER NUMBERS     from FOLDER/raw
    python search_lancedb.py search FOLDER NUMBERS   best and median, ms
"""
import statistics
import sys
import time

import lancedb
import numpy
import pyarrow

what, folder, numbers = sys.argv[1], sys.argv[2], int(sys.argv[3])
database = lancedb.connect(folder + "/lance")
if what == "load":
    raw = numpy.fromfile(folder + "/raw", dtype=numpy.float32)
    vectors = pyarrow.FixedSizeListArray.from_arrays(
        pyarrow.array(raw), numbers)
    ids = pyarrow.array(range(1, len(vectors) + 1), pyarrow.int64())
    database.create_table("frames", pyarrow.table(
        {"frame_id": ids, "vector": vectors}))
else:
    frames = database.open_table("frames")
    query = numpy.fromfile(folder + "/raw", dtype=numpy.float32,
                           count=numbers, offset=4242 * numbers * 4)
    times = []
    for _ in range(8):
        start = time.perf_counter()
        frames.search(query).distance_type("cosine").limit(10).to_arrow()
        times.append((time.perf_counter() - start) * 1000)
    print("%.2f %.2f" % (min(times[1:]), statistics.median(times[1:])))
