"""Shared by the benchmarks: interleaved timing in worker processes, and result rows.

A worker is a process with one backend that prints "ready", then runs its step once for each line it is
sent and answers with the seconds. The parent asks the workers in turn, A B A B, so that a machine whose
speed drifts is the same for all of them.
"""

import csv
import datetime
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

RESULTS = pathlib.Path(__file__).parent / "results"


def serve(step, synchronize=lambda: None, warmup=2):
    """Be a worker: warm up, then time one `step()` for each line on standard input."""
    for _ in range(warmup):
        step()
    synchronize()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        synchronize()
        print(time.perf_counter() - start, flush=True)


def interleave(commands, rounds):
    """Run workers in turn.

    Args:
        commands: dict from name to (argument list, environment additions).
        rounds: timed steps of each.

    Returns:
        Dict from name to its seconds, and dict from name to the seconds until it was ready. A worker that
        cannot start is reported and left out.
    """
    workers, starts = {}, {}
    for name, (argv, environment) in commands.items():
        begin = time.perf_counter()
        worker = subprocess.Popen(
            argv,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if _answer(worker, name) is None:
            continue
        workers[name], starts[name] = worker, time.perf_counter() - begin
    seconds = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            worker.stdin.write("go\n")
            worker.stdin.flush()
            seconds[name].append(float(worker.stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    return seconds, starts


def _answer(worker, name):
    """Wait for "ready" among whatever a backend prints first; None if the worker died."""
    for line in worker.stdout:
        if line.strip() == "ready":
            return line
    print(f"{name}: left out ({worker.stderr.read().strip().splitlines()[-1]})")
    return None


def write_rows(name, rows):
    """Append result rows, one a measurement, to `results/<name>_<date>.csv`, and print them."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}_{datetime.date.today()}.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        if new:
            writer.writeheader()
        writer.writerows(rows)
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]}
    for row in ({key: key for key in rows[0]}, *rows):
        print("  ".join(str(row[key]).ljust(width) for key, width in widths.items()))
    print(f"-> {path}")


def spread(seconds):
    """Median, smallest and largest of a list, rounded."""
    return tuple(round(f(seconds), 4) for f in (statistics.median, min, max))


def machine():
    """A word for this machine's processor and core count."""
    return f"{platform.machine()}-{os.cpu_count()}cores"
