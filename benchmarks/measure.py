"""Tools for benchmarks: interleaved timing in worker processes, and result rows.

A worker is a process with one backend. It warms up, reports that it is ready, and then runs a step for each
line on standard input and answers with the time. At the end, it reports the memory of the steps. The parent
asks the workers in turn (A B A B), so that drifts in the speed of the machine affect all of them.

    python benchmarks/measure.py      a worker that multiplies two 2048 x 2048 float32 matrices
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

MATMUL, MATRIX_SIDE = "matrix multiplication", 2048
MARK = "@measure "  # start of each answer of a worker: backends print to standard output, too
SHORTEST_S = 0.05  # a shorter step is repeated for this time, so that the time of the pipe is negligible
CPU_ONLY = {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}


# === Workers ===


def serve(steps, synchronize=lambda: None, warmup=2, **facts):
    """Run as a worker: warm up, then time one step for each line on standard input.

    Args:
        steps: function, or dict of functions by name. Each line of input is a name.
        synchronize: function that waits until the running step is complete.
        warmup: int. Number of untimed runs of each step. `warmup_s` is their time with compilation.
            Defaults to 2.
        facts: JSON values for the parent.
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
    """Peak memory of this process above the current memory, in 10^6 bytes.

    On Linux, the previous peak is reset first. Otherwise memory that was freed after building a network would
    hide the memory of its steps. (`ru_maxrss` even starts from the peak of the parent.)
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
        return highest // 1024 if sys.platform == "darwin" else highest  # bytes on macOS


def _serve_matmul():
    """Run as a worker with matrix multiplications by BLAS and, with torch, by oneDNN."""
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
    """Results of a worker.

    Attributes:
        ready_s: float. Seconds from the start of the process until it was ready.
        warmup_s: float. Seconds of the first steps, with compilation.
        facts: dict. See `serve`.
        seconds: dict. Seconds of each round, by name of the step. The name of a single step is "".
        peak_extra_mb: float. Peak memory during all steps minus the memory before the first step, in 10^6
            bytes, without child processes such as compilers.
    """

    ready_s: float
    warmup_s: float
    facts: dict
    seconds: dict
    peak_extra_mb: float | None = None

    def spread(self, step=""):
        """Median, minimum and maximum time of a step."""
        return spread(self.seconds[step])


def interleave(commands, rounds):
    """Run workers in turn.

    Args:
        commands: dict of name to (list of arguments, dict of environment variables).
        rounds: int. Number of timed runs of each step of each worker.

    Returns:
        Dict of name to `Measured`, and dict of name to reason for workers that did not start or failed.
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
        # A file, because a full pipe would block the worker.
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  read after the end of the worker
        self.process = subprocess.Popen(
            argv,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def answer(self, question=None):
        """Next answer of the worker, or None if it died."""
        with contextlib.suppress(BrokenPipeError):
            if question is not None:
                self.process.stdin.write(question + "\n")
                self.process.stdin.flush()
            for line in self.process.stdout:
                if line.startswith(MARK):
                    return json.loads(line.removeprefix(MARK))
        return None

    def end(self):
        """End the worker, and return its peak memory, or None if it died."""
        self.process.stdin.close()
        answer = self.answer()
        self._close()
        return answer and answer["peak_extra_mb"]

    def last_words(self):
        """Reason why a worker died: its last line outside a traceback."""
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


def add_matmul(commands, python=sys.executable):
    """Add the worker that `matmul_peak` needs to `commands`."""
    return {**commands, MATMUL: ([python, __file__], CPU_ONLY)}


def matmul_peak(measured):
    """Best GFLOP/s of the matrix multiplication in the same run, or None if it did not run.

    It is the practical peak of the machine during the run. The matrix multiplication is removed from
    `measured`, so that only contenders remain.
    """
    matmul = measured.pop(MATMUL, None)
    if matmul is None:
        return None
    return 2 * MATRIX_SIDE**3 / 1e9 / min(min(seconds) for seconds in matmul.seconds.values())


# === Results ===


def write_rows(name, rows):
    """Append result rows, one per measurement, to `results/<name>_<date>.csv`, and print them.

    If a file of the same day has other columns, the rows go to a new file beside it.
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
    """Print the contenders that are missing from the table, with the reason."""
    for name, reason in left_out.items():
        print(f"left out: {name} ({reason})")


def spread(seconds):
    """Median, minimum and maximum of a list, with four significant digits."""
    return tuple(float(f"{f(seconds):.4g}") for f in (statistics.median, min, max))


def interpreters(pairs):
    """Dict from NAME=PATH arguments. The default for other names is the current interpreter."""
    return _Interpreters(pair.split("=", 1) for pair in pairs)


class _Interpreters(dict):
    def __missing__(self, name):
        return sys.executable


def machine():
    """Name of this machine. Loads the file directly, because some environments do not have focalnets."""
    path = pathlib.Path(__file__).parents[1] / "focalnets" / "threads.py"
    spec = importlib.util.spec_from_file_location("focalnets_threads", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.machine()


if __name__ == "__main__":
    _serve_matmul()
