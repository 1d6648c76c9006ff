"""Shared by the benchmarks: interleaved timing in worker processes, and result rows.

A worker is a process with one backend. It warms up, says that it is ready, then runs a step for each line
that it is sent and answers with the seconds; at the end it tells how much memory the steps took. The
parent asks the workers in turn, A B A B, so that a machine whose speed drifts is the same for all of them.

    python benchmarks/measure.py      a worker itself: products of two 2048 x 2048 float32 matrices
"""

import contextlib
import csv
import dataclasses
import datetime
import importlib.util
import json
import math
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

RESULTS = pathlib.Path(os.environ.get("FOCALNETS_RESULTS", pathlib.Path(__file__).parent / "results"))

MATRIX_PRODUCT, MATRIX_SIDE = "matrix product", 2048
MARK = "@measure "  # before what a worker says: backends print to standard output, too
SHORTEST_S = 0.05  # a shorter step is repeated until it fills this, so that the pipe does not count
CPU_ONLY = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}


# === Workers ===


def serve(steps, synchronize=lambda: None, warmup=2, **facts):
    """Be a worker: warm up, then time one step for each line on standard input.

    Args:
        steps: a function, or a dict of them by name; each line of input names one.
        synchronize: waits until a step that was started has ended.
        warmup: untimed runs of each step; their seconds, compilation included, are `warmup_s`.
        facts: whatever the parent should know besides, as JSON.
    """
    steps = steps if isinstance(steps, dict) else {"": steps}
    peak = _PeakMemory()
    start = time.perf_counter()
    for step in steps.values():
        for _ in range(warmup):
            step()
    synchronize()
    warmup_s = time.perf_counter() - start

    def seconds(step, repeats):
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        synchronize()
        return (time.perf_counter() - start) / repeats

    repeats = {name: math.ceil(SHORTEST_S / seconds(step, 1)) for name, step in steps.items()}
    _say(steps=list(steps), warmup_s=warmup_s, facts=facts)
    for line in sys.stdin:
        name = line.strip()
        _say(seconds=seconds(steps[name], repeats[name]))
    _say(peak_extra_mb=peak.extra_mb())


def _say(**answer):
    print(MARK + json.dumps(answer), flush=True)


class _PeakMemory:
    """How far the memory of this process rises above what it holds now, in 10^6 bytes.

    On Linux the peak so far is forgotten first: otherwise what was taken and given back while a net was
    built would hide what its steps take. (The kernel's `ru_maxrss` even begins with the parent's.)
    """

    def __init__(self):
        self.status = pathlib.Path("/proc/self/status")
        if self.status.exists():
            with contextlib.suppress(OSError):
                pathlib.Path("/proc/self/clear_refs").write_text("5")
            self.before = self._kilobytes("VmRSS")
        else:
            self.before = self._highest()

    def extra_mb(self):
        now = self._kilobytes("VmHWM") if self.status.exists() else self._highest()
        return round((now - self.before) * 1024 / 1e6, 1)

    def _kilobytes(self, field):
        return int(re.search(rf"{field}:\s*(\d+)", self.status.read_text())[1])

    def _highest(self):
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest // 1024 if sys.platform == "darwin" else highest  # bytes there


def _serve_matrix_product():
    """By every library at hand: BLAS, and on torch oneDNN, which is the faster one on some processors."""
    try:
        import torch
    except ImportError:
        import numpy as np

        a = np.random.default_rng(0).random((MATRIX_SIDE, MATRIX_SIDE), dtype="float32")
        steps = {"blas": lambda: a @ a}
    else:
        a = torch.rand(MATRIX_SIDE, MATRIX_SIDE)
        steps = {"blas": lambda: a @ a}
        if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            linear = torch.ops.mkldnn._linear_pointwise
            steps["onednn"] = lambda: linear(a, a, None, "none", [], "")
    serve(steps)


# === Parent ===


@dataclasses.dataclass
class Measured:
    """What a worker told.

    Attributes:
        ready_s: seconds from the start of its process until it was ready.
        warmup_s: those of them that its first steps took, compilation included.
        facts: see `serve`.
        seconds: dict from a step's name to its seconds, round by round; the name of an only step is "".
        peak_extra_mb: most memory during all steps less what was held before the first, in 10^6 bytes;
            child processes, such as a compiler's, do not count.
    """

    ready_s: float
    warmup_s: float
    facts: dict
    seconds: dict
    peak_extra_mb: float | None = None

    def spread(self, step=""):
        """Median, smallest and largest seconds of a step."""
        return spread(self.seconds[step])


def interleave(commands, rounds):
    """Run workers in turn.

    Args:
        commands: dict from name to (argument list, environment additions).
        rounds: timed runs of each step of each worker.

    Returns:
        Dict from name to `Measured`, and dict from name to the reason why that one was left out: it did
        not start, or died on the way.
    """
    workers, measured, left_out = {}, {}, {}
    for name, (argv, environment) in commands.items():
        print("starting", name if isinstance(name, str) else ", ".join(name), file=sys.stderr)
        worker = _Worker(argv, environment)
        ready = worker.answer()
        if ready is None:
            left_out[name] = worker.last_words()
            continue
        workers[name] = worker
        measured[name] = Measured(
            time.perf_counter() - worker.begin,
            ready["warmup_s"],
            ready["facts"],
            {step: [] for step in ready["steps"]},
        )
    for _ in range(rounds):
        for name in list(workers):
            for step, seconds in measured[name].seconds.items():
                answer = workers[name].answer(step)
                if answer is None:
                    left_out[name] = workers.pop(name).last_words()
                    del measured[name]
                    break
                seconds.append(answer["seconds"])
    for name, worker in workers.items():
        measured[name].peak_extra_mb = worker.end()
    return measured, left_out


class _Worker:
    def __init__(self, argv, environment):
        self.begin = time.perf_counter()
        # A file, because a pipe that nobody empties would block the worker.
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  read when the worker has ended
        self.process = subprocess.Popen(
            argv,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def answer(self, question=None):
        """The next thing that the worker says, or None if it has died."""
        with contextlib.suppress(BrokenPipeError):
            if question is not None:
                self.process.stdin.write(question + "\n")
                self.process.stdin.flush()
            for line in self.process.stdout:
                if line.startswith(MARK):
                    return json.loads(line.removeprefix(MARK))
        return None

    def end(self):
        """Let the worker end; the peak memory that it tells, or None if it died instead."""
        self.process.stdin.close()
        answer = self.answer()
        self._close()
        return answer and answer["peak_extra_mb"]

    def last_words(self):
        """Why a worker died: its last line that does not belong to a traceback."""
        code = self._close()
        if code < 0:
            return f"killed by signal {-code}" + (": out of memory?" if code == -9 else "")
        return self.words[-1] if self.words else f"ended with code {code}"

    def _close(self):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        code = self.process.wait()
        self.errors.seek(0)
        self.words = [line for line in self.errors.read().splitlines() if line and not line[0].isspace()]
        self.errors.close()
        return code


def add_matrix_product(commands, python=sys.executable):
    """`commands` with the worker that `matrix_product_peak` needs."""
    return {**commands, MATRIX_PRODUCT: ([python, __file__], CPU_ONLY)}


def matrix_product_peak(measured):
    """Best GFLOP/s of the matrix product in the same run, or None if it could not run.

    It is the practical peak of the machine while the others were measured; the product is taken out of
    `measured`, so that contenders remain.
    """
    product = measured.pop(MATRIX_PRODUCT, None)
    if product is None:
        return None
    return 2 * MATRIX_SIDE**3 / 1e9 / min(min(seconds) for seconds in product.seconds.values())


# === Results ===


def write_rows(name, rows):
    """Append result rows, one a measurement, to `results/<name>_<date>.csv`, and print them.

    A file of the same day with other columns is left as it is, and another one is begun beside it.
    """
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]}
    for row in ({key: key for key in rows[0]}, *rows):
        print("  ".join(str(row[key]).ljust(width) for key, width in widths.items()).rstrip())
    RESULTS.mkdir(exist_ok=True, parents=True)
    path = RESULTS / f"{name}_{datetime.date.today()}.csv"
    while path.exists() and path.read_text().splitlines()[0] != ",".join(rows[0]):
        path = path.with_stem(path.stem + "-b")
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        if new:
            writer.writeheader()
        writer.writerows(rows)
    print(f"-> {path}")


def print_left_out(left_out):
    """Say which contenders are missing from the table, and why."""
    for name, reason in left_out.items():
        print(f"left out: {name} ({reason})")


def spread(seconds):
    """Median, smallest and largest of a list, to four significant digits."""
    return tuple(float(f"{f(seconds):.4g}") for f in (statistics.median, min, max))


def interpreters(pairs):
    """Dict from NAME=PATH arguments; ours for names that are not given."""
    return _Interpreters(pair.split("=", 1) for pair in pairs)


class _Interpreters(dict):
    def __missing__(self, name):
        return sys.executable


def machine():
    """A word for this machine. By the file: a peer's environment, or the one that only compares, may have no
    focalnets installed."""
    path = pathlib.Path(__file__).parents[1] / "focalnets" / "threads.py"
    spec = importlib.util.spec_from_file_location("focalnets_threads", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.machine()


if __name__ == "__main__":
    _serve_matrix_product()
