"""Training from shards compared with a folder of files: images per second, memory, and what each host reads.

    .venv/bin/python benchmarks/bench_shards.py [--data cifar10] [--images 6000] [--rounds 5]

Without `--data`, the images are photographs of `bench_input.py`: synthetic, 500 x 375, 108 kB on average.
With it, those of a folder of train/<class>/<image>. They are written as WebDataset (tar files of 1,000
images) and as Parquet (row groups of 100). Each contender reads an epoch in random order in a process of its
own, and does nothing else. Contenders take turns. "http" serves the tar files from this machine, 50 ms after
each request, as an object store does. The memory is the peak of the process above that after the data were
opened.

With `--data`, whose images differ, it also counts: an epoch of one host, of two and of four, and an epoch
that starts in the middle.
"""

import argparse
import collections
import hashlib
import http.server
import io
import itertools
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

import pyarrow
from bench_input import make_folder
from measure import machine, write_rows
from pyarrow import parquet

LATENCY = 0.05

READ = """
    import json, pathlib, re, sys, time
    import focalnets
    from focalnets.data.loader import Loader
    from focalnets.images.augment import Augmentation
    from focalnets.training.task import ImageClassification

    def memory(name):
        found = re.search(f"{name}:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())
        return int(found[1])

    data, side, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    prepare = focalnets.FocalNetImageConverter((side, side)).prepare
    start = time.perf_counter()
    dataset = focalnets.open_dataset(data, prepare=prepare, cache_images="stream")
    opened = time.perf_counter() - start
    split = dataset.splits["train"]
    changes = Augmentation(random_resized_crop=(0.08, 1.0)) if side > 32 else None
    task = ImageClassification(len(dataset.class_names))
    loader = Loader(split, task, batch, True, changes, (side, side))
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # starts a new peak
    before = memory("VmRSS")
    start = time.perf_counter()
    for index in range(len(loader)):
        loader[index]
    seconds = time.perf_counter() - start
    peak = memory("VmHWM")
    print("@", json.dumps({
        "images": len(split), "images_per_second": len(split) / seconds, "open_seconds": opened,
        "memory_mb": (peak - before) / 1024,
    }))
"""


def write_shards(folder, out, each=1000):
    """Write the images of `folder`/train/<class>/<image> as shards. Returns {kind: path of the data}."""
    images = sorted(path for path in folder.glob("train/*/*") if path.is_file())
    order = sorted(images, key=lambda path: hashlib.md5(str(path).encode()).digest())
    names = sorted({path.parent.name for path in images})
    kinds = {kind: out / kind for kind in ("tar", "parquet")}
    for path in kinds.values():
        path.mkdir()
    (kinds["tar"] / "class_names.txt").write_text("\n".join(names))
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    for shard, start in enumerate(range(0, len(order), each)):
        part = order[start : start + each]
        with tarfile.open(kinds["tar"] / f"train-{shard:05}.tar", "w") as archive:
            for index, path in enumerate(part, start):
                label = str(names.index(path.parent.name)).encode()
                for suffix, data in (("jpg", path.read_bytes()), ("cls", label)):
                    member = tarfile.TarInfo(f"{index:08}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
        cells = [{"bytes": path.read_bytes(), "path": path.name} for path in part]
        table = pyarrow.table({"image": cells, "label": [names.index(path.parent.name) for path in part]})
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
        parquet.write_table(table, kinds["parquet"] / f"train-{shard:05}.parquet", row_group_size=100)
    return kinds


def serve(folder, out):
    """Serve a folder by HTTP, slowly. Returns a manifest of its shards."""

    class Ranges(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self._answer(head=True)

        def do_GET(self):
            self._answer(head=False)

        def _answer(self, head):
            time.sleep(LATENCY)
            path = folder / self.path.lstrip("/")
            size = path.stat().st_size
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
            start, end = (int(found[1]), int(found[2] or size - 1)) if found else (0, size - 1)
            end = min(end, size - 1)
            self.send_response(206 if found else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
            self.send_header("Content-Length", str(end - start + 1))
            self.end_headers()
            if not head:
                with path.open("rb") as file:
                    file.seek(start)
                    self.wfile.write(file.read(end - start + 1))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    manifest = out / "remote.txt"
    shards = sorted(path.name for path in folder.glob("*.tar"))
    manifest.write_text("\n".join(f"http://127.0.0.1:{server.server_port}/{name}" for name in shards))
    (out / "class_names.txt").write_text((folder / "class_names.txt").read_text())
    return manifest


def read(data, side, batch):
    """Numbers of one epoch in a process of its own."""
    program = "\n".join(line[4:] for line in READ.splitlines())
    command = [sys.executable, "-c", program, str(data), str(side), str(batch)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(text[text.index("@") + 1 :])


def counts(data, side, batch):
    """Rows that count images: each kind, hosts, images read, different images, most of a host, and twice."""
    from focalnets import FocalNetImageConverter, open_dataset
    from focalnets.data.batch_part import BatchPart
    from focalnets.data.loader import Loader
    from focalnets.training.task import ImageClassification

    prepare = FocalNetImageConverter((side, side)).prepare

    def epoch(data, start=0, part=None):
        dataset = open_dataset(data, prepare=prepare, cache_images="stream")
        task = ImageClassification(len(dataset.class_names))
        loader = Loader(dataset.splits["train"], task, batch, shuffle=True, part=part)
        loader.epoch, loader.first_batch = 1, start
        found = []
        for index in range(len(loader)):
            images, targets, *weights = loader[index]
            real = weights[0] > 0 if weights else [True] * len(images)
            rows = zip(images, targets, real, strict=True)
            found.append([hashlib.md5(i.tobytes() + t.tobytes()).digest() for i, t, used in rows if used])
        return found

    rows, expected = [], collections.Counter(one for part in epoch(data["folder"]) for one in part)
    for kind in ("tar", "parquet"):
        whole = epoch(data[kind])
        resumed = epoch(data[kind], start=len(whole) // 2)
        for hosts in (1, 2, 4):
            parts = (
                [whole] if hosts == 1 else [epoch(data[kind], 0, BatchPart(i, hosts)) for i in range(hosts)]
            )
            seen = collections.Counter(one for part in parts for found in part for one in found)
            joined = [list(itertools.chain(*found)) for found in zip(*parts, strict=True)]
            rows.append(
                {
                    "kind": kind,
                    "hosts": hosts,
                    "images": sum(seen.values()),
                    "missing": sum((expected - seen).values()),
                    "repeated": sum((seen - expected).values()),
                    "batches_equal_one_host": joined == whole,
                    "second_half_resumed_equal": resumed == whole[len(whole) // 2 :],
                }
            )
            print(rows[-1])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    arguments = parser.parse_args()
    side, name = (32, "small") if arguments.data else (224, "photographs")
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder)
        images = arguments.data or out / "images"
        if arguments.data is None:
            print(f"{make_folder(images / 'train', arguments.images) / 1e3:.0f} kB per image")
        data = {"folder": images, **write_shards(images, out)}
        data["http"] = serve(data["tar"], out)
        for one in data.values():  # headers, page cache
            read(one, side, arguments.batch)
        runs = collections.defaultdict(list)
        for _ in range(arguments.rounds):
            for kind, one in data.items():
                runs[kind].append(read(one, side, arguments.batch))
        rows = []
        for kind, found in runs.items():
            speeds = [run["images_per_second"] for run in found]
            pairs = zip(found, runs["folder"], strict=True)
            ratios = [run["images_per_second"] / base["images_per_second"] for run, base in pairs]
            rows.append(
                {
                    "kind": kind,
                    "images": found[0]["images"],
                    "images_per_second": round(statistics.median(speeds)),
                    "lowest": round(min(speeds)),
                    "highest": round(max(speeds)),
                    "ratio_to_folder": round(statistics.median(ratios), 3),
                    "memory_mb": round(statistics.median(run["memory_mb"] for run in found)),
                    "open_seconds": round(statistics.median(run["open_seconds"] for run in found), 2),
                }
            )
            print(rows[-1])
        write_rows(f"shards-{name}_jpeg", rows)
        if arguments.data:
            write_rows(f"shards-counts_{name}_jpeg", counts(data, side, arguments.batch))
    print(machine())


if __name__ == "__main__":
    main()
