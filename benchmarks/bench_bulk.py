"""`focalnets predict --manifest`: images per second of one process, several processes and Ray, and kills.

    pip install 'focalnets[ray,openvino]'
    python benchmarks/bench_bulk.py speed
    python benchmarks/bench_bulk.py kills

- `speed`: whole commands, from start to exit. The contenders take turns: one process with a thread per core,
  one process per core (`--shard 0/2`, `--shard 1/2`, each bound to one core), and a Ray cluster that the
  command starts on this machine, with one worker per core. `middle` is the speed between a tenth and nine
  tenths of the shards, without start and end. `per_cpu_s` is the number of images per second of processor
  time of all processes of the command, Ray's own included: other work on the machine changes it less. The
  rows of each run are counted.
- `kills`: a run on Ray, in which a worker is killed (SIGKILL), and then the driver. The command is started
  again. Rows are counted.

The images are JPEG files of smooth noise in tar files: a few thousand different ones, each under many keys.
The network has two blocks, so that reading, decoding and writing take much of the time, and with them what
Ray could slow down. `--preset` takes another one.
"""

import argparse
import io
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

import numpy as np
from measure import machine, write_rows

DISTINCT = 2000
_MARK = "FOCALNETS_BENCH_BULK"  # in the environment of all processes of a command


def make_shards(folder, count, per_shard, size):
    """Write tar files with `count` images and a manifest, and return the manifest."""
    from PIL import Image

    generator, files = np.random.default_rng(0), []
    for _ in range(min(DISTINCT, count)):
        small = generator.integers(0, 256, (size // 8, size // 8, 3), "uint8")
        stream = io.BytesIO()
        Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC).save(stream, "JPEG")
        files.append(stream.getvalue())
    names = []
    for start in range(0, count, per_shard):
        names.append(f"{len(names):05}.tar")
        with tarfile.open(folder / names[-1], "w") as archive:
            for index in range(start, min(start + per_shard, count)):
                label = str(index % 10).encode()
                for suffix, data in (("jpg", files[index % len(files)]), ("cls", label)):
                    member = tarfile.TarInfo(f"{index:09}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    manifest = folder / "shards.txt"
    manifest.write_text("\n".join(names))
    return manifest


def make_preset(folder):
    """Write a network of two blocks with random weights for images of 32 x 32, and return its directory."""
    code = """
import sys
from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter

backbone = FocalNetBackbone(32, (1, 1), patch_size=4, seed=0, image_shape=(32, 32, 3))
FocalNetImageClassifier(backbone, 10, FocalNetImageConverter(32)).save_to_preset(sys.argv[1])
"""
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    subprocess.run([sys.executable, "-c", code, folder / "two-blocks"], env=environment, check=True)
    return folder / "two-blocks"


def start(options, manifest, out, *more, core=None):
    """Start a command line, perhaps bound to a core."""
    words = ["predict", options.preset, "--manifest", manifest, "--out", out, "--engine", options.engine]
    bind = None if core is None else lambda: os.sched_setaffinity(0, {core})
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    # Ray's workers have the niceness 15, so that any other work on the machine would slow down only Ray.
    environment["RAY_worker_niceness"] = "0"
    environment[_MARK] = "1"
    for name in ("OMP_NUM_THREADS", "RAY_ADDRESS"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "focalnets", *map(str, (*words, *more))]
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, preexec_fn=bind, **streams)


def finish(processes):
    """Wait for commands. Returns the processor time of all processes that they start, in seconds."""
    seconds = {}
    while any(process.poll() is None for process in processes):
        for path in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if f"{_MARK}=1".encode() in (path / "environ").read_bytes().split(b"\0"):
                    used = (path / "stat").read_text().rpartition(")")[2].split()[11:13]
                    seconds[path.name] = sum(map(int, used)) / os.sysconf("SC_CLK_TCK")
            except OSError:  # it has just ended, or belongs to another user
                continue
        time.sleep(0.5)
    for process in processes:
        _, error = process.communicate()
        if process.returncode:
            sys.exit(error[-3000:])
    return sum(seconds.values())


def rows_in(out):
    """(rows, different images) of all files of a folder."""
    from pyarrow import parquet

    keys = []
    for path in sorted(out.glob("*.parquet")):
        keys += parquet.read_table(path, columns=["key"])["key"].to_pylist()
    return len(keys), len(set(keys))


def check_rows(options, out):
    rows, different = rows_in(out)
    if (rows, different) != (options.images, options.images):
        sys.exit(f"{rows} rows of {different} images; expected {options.images}.")
    return rows


def middle_speed(options, out):
    """Images per second between a tenth and nine tenths of the shards."""
    times = sorted(path.stat().st_mtime for path in out.glob("*.parquet"))
    first, last = len(times) // 10, len(times) * 9 // 10
    return options.per_shard * (last - first) / (times[last] - times[first])


def speed(options, manifest, folder):
    cores = sorted(os.sched_getaffinity(0))
    plain = {"one process, all cores": 1, "one process per core": len(cores)}
    seen = {name: [] for name in (*plain, "Ray, one worker per core")}
    middle, per_cpu = ({name: [] for name in seen} for _ in range(2))
    for _ in range(options.rounds):  # in turn, because the speed of the machine varies
        for name in seen:
            out = folder / "out"
            begun = time.perf_counter()
            if plain.get(name) == 1:
                used = finish([start(options, manifest, out)])
            elif name in plain:
                parts = [("--shard", f"{place}/{len(cores)}") for place in range(len(cores))]
                used = finish(
                    [
                        start(options, manifest, out, *part, core=core)
                        for part, core in zip(parts, cores, strict=True)
                    ]
                )
            else:
                used = finish([start(options, manifest, out, "--ray", "local")])
            per_cpu[name].append(options.images / used)
            seen[name].append(options.images / (time.perf_counter() - begun))
            middle[name].append(middle_speed(options, out))
            print(
                f"{name}: {seen[name][-1]:.0f} images per second, {middle[name][-1]:.0f} in the middle, "
                f"{per_cpu[name][-1]:.0f} per second of processor time",
                flush=True,
            )
            check_rows(options, out)
            shutil.rmtree(out)
    best = max(plain, key=lambda name: statistics.median(seen[name]))
    best_per_cpu = max(statistics.median(per_cpu[name]) for name in plain)
    best_middle = max(statistics.median(middle[name]) for name in plain)
    rows = [
        {
            "what": name,
            "images": options.images,
            "shards": -(-options.images // options.per_shard),
            "rounds": options.rounds,
            "images_per_s": round(statistics.median(rates), 1),
            "least": round(min(rates), 1),
            "most": round(max(rates), 1),
            "ratio": round(statistics.median(rates) / statistics.median(seen[best]), 3),
            "ratio_least": round(min(a / b for a, b in zip(rates, seen[best], strict=True)), 3),
            "ratio_most": round(max(a / b for a, b in zip(rates, seen[best], strict=True)), 3),
            "ratio_to": best,
            "middle_images_per_s": round(statistics.median(middle[name]), 1),
            "middle_ratio": round(statistics.median(middle[name]) / best_middle, 3),
            "per_cpu_s": round(statistics.median(per_cpu[name]), 1),
            "per_cpu_ratio": round(statistics.median(per_cpu[name]) / best_per_cpu, 3),
            "network": options.network,
            "engine": options.engine,
        }
        for name, rates in seen.items()
    ]
    write_rows(f"bulk-speed_{machine()}", rows)


def workers():
    """Process IDs of the workers of Ray that run a pool."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::MapWorker"):
                found.append(int(path.parent.name))
        except OSError:  # it has just ended
            continue
    return sorted(found)


def wait_for(fraction, options, out, process):
    """Wait until this fraction of the shards is done."""
    shards = -(-options.images // options.per_shard)
    while len(list(out.glob("*.parquet"))) < fraction * shards:
        if process.poll() is not None:
            sys.exit(process.communicate()[1][-3000:])
        time.sleep(0.05)


def kills(options, manifest, folder):
    out = folder / "out"
    process = start(options, manifest, out, "--ray", "local")
    wait_for(0.2, options, out, process)
    victim = workers()[0]
    os.kill(victim, signal.SIGKILL)
    wait_for(0.5, options, out, process)
    replaced = [pid for pid in workers() if pid != victim]
    process.kill()
    process.communicate()
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in replaced):
        time.sleep(0.1)
    before = {path: path.stat().st_ino for path in out.glob("*.parquet")}
    finish([start(options, manifest, out, "--ray", "local")])
    rows, different = rows_in(out)
    row = {
        "images": options.images,
        "shards": -(-options.images // options.per_shard),
        "killed": "a worker at 20 % of the shards, the driver at 50 %",
        "workers_after_the_first_kill": len(replaced),
        "shards_done_before_the_second_start": len(before),
        "of_these_written_again": sum(path.stat().st_ino != number for path, number in before.items()),
        "rows": rows,
        "missing": options.images - different,
        "twice": rows - different,
        "network": options.network,
        "engine": options.engine,
    }
    write_rows(f"bulk-kills_{machine()}", [row])
    if (rows, different) != (options.images, options.images):
        sys.exit("rows are missing, or there twice")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["speed", "kills"])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--per-shard", type=int, default=1000)
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--preset", help="default: a network of two blocks")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-bulk-") as name:
        folder = pathlib.Path(name)
        options.network = options.preset or "two blocks"
        options.preset = options.preset or make_preset(folder)
        manifest = make_shards(folder, options.images, options.per_shard, options.size)
        {"speed": speed, "kills": kills}[options.part](options, manifest, folder)


if __name__ == "__main__":
    main()
