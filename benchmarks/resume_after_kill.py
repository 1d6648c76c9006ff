"""Kill and resume a training run repeatedly, and compare it with an uninterrupted run.

    .venv/bin/python benchmarks/resume_after_kill.py --backend torch --kills 10 --in-snapshots 2
    .venv/bin/python benchmarks/resume_after_kill.py --backend torch --processes 2

Every kind of state is in use: dropout, drop path, averages, MixUp, erasing, accumulation across epochs, and
bfloat16. SIGKILL is sent at random moments, twice before a session trains and otherwise during training. Some
of the signals wait until a snapshot is being written, and count only if a partial snapshot remains.

With several processes, the signal goes to one of them, or to all, at random; in a snapshot, to the process
that writes. The others must end by themselves, except before they connect. The uninterrupted run has as many
processes.
"""

import argparse
import csv
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
from measure import machine, write_rows

from focalnets.output.paths import PREFIX

OPTIONS = [
    "batch_size=100",
    "accumulation=2",
    "ema_decay=0.9",
    "drop_path_rate=0.2",
    "dropout_rate=0.1",
    "augmentation.mixup=0.4",
    "augmentation.erasing=0.2",
    "precision=bfloat16",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--in-snapshots", type=int, default=2, help="number of kills in snapshots")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--most-seconds", type=float, default=15.0, help="longest training before a kill")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="resume-after-kill-"))
    whole, run = folder / "whole", folder / "run"
    begin = [
        *command(options.backend),
        "--recipe",
        "digits",
        "--monitor-every",
        "0",
        "--epochs",
        str(options.epochs),
    ]
    begin += ["--force-bfloat16", "--set", *OPTIONS, "--out"]
    count = options.processes
    assert started([*begin, str(whole)], count)[0].wait() == 0

    starts = min(2, options.kills - options.in_snapshots)
    kinds = ["snapshot"] * options.in_snapshots + ["start"] * starts
    kinds += ["training"] * (options.kills - len(kinds))
    chance.shuffle(kinds)
    sessions = []
    while kinds:
        argv = [*command(options.backend), "--resume", str(run)]
        if not (run / "run.json").exists():  # killed before the run started
            shutil.rmtree(run, ignore_errors=True)
            argv = [*begin, str(run)]
        killed, seconds, ending = kill(argv, count, run, kinds[0], chance, options.most_seconds)
        if seconds is None:
            sys.exit("The run ended before it was killed often enough: raise --epochs.")
        half = kinds[0] == "snapshot" and bool(partial_snapshots(run))
        sessions.append((kinds[0], killed, seconds, ending, epochs_done(run), half))
        print(*sessions[-1], flush=True)
        if kinds[0] != "snapshot" or half:
            kinds.pop(0)
    assert started([*command(options.backend), "--resume", str(run)], count)[0].wait() == 0

    difference = largest_difference(whole / "last.npz", run / "last.npz")
    same = history(whole) == history(run)
    print(f"largest difference of any variable: {difference}; history equal: {same}")
    write_rows(
        f"resume_digits{f'-{count}-processes' if count > 1 else ''}_bfloat16_{options.backend}_{machine()}",
        [
            {
                "backend": options.backend,
                "kill": number,
                "when": kind,
                **({"killed": killed, "seconds_until_all_ended": round(ending, 2)} if count > 1 else {}),
                "seconds_into_session": round(seconds, 2),
                "epochs_in_history": epochs,
                "half_a_snapshot_left": half,
                "largest_difference_in_the_end": difference,
                "history_equal": same,
            }
            for number, (kind, killed, seconds, ending, epochs, half) in enumerate(sessions, start=1)
        ],
    )
    shutil.rmtree(folder)


def command(backend):
    return [sys.executable, "-m", "focalnets", "train", "--backend", backend]


def started(argv, count, stdout=subprocess.DEVNULL):
    """Start one or several processes, which find each other by the variables of Keras. Returns a list."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    running = []
    for rank in range(count):
        environment = dict(os.environ)
        if count > 1:
            environment |= {
                "OMP_NUM_THREADS": "1",
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": f"127.0.0.1:{port}",
                "KERAS_DISTRIBUTION_NUM_PROCESSES": str(count),
                "KERAS_DISTRIBUTION_PROCESS_ID": str(rank),
            }
        output = stdout if rank == 0 else subprocess.DEVNULL
        running.append(subprocess.Popen(argv, env=environment, stdout=output, text=True))
    return running


def kill(argv, count, run, kind, chance, most_seconds):
    """Start a session and kill one or all of its processes.

    Returns:
        Tuple: killed ("all", or the number of a process), seconds until then (None if the session ended
        before), and seconds from then until all processes have ended.
    """
    start = time.monotonic()
    running = started(argv, count, stdout=subprocess.PIPE)
    session = running[0]
    if kind != "start":
        next((line for line in session.stdout if line.startswith("Epoch")), None)
    # The rest is not read: the output of a few epochs fits into the pipe.
    begun = time.monotonic()
    if kind != "snapshot":
        wait = chance.uniform(0, most_seconds if kind == "training" else 4.0)
        while time.monotonic() - begun < wait and session.poll() is None:
            time.sleep(0.005)
    else:
        before = epochs_done(run)
        writings = chance.randint(1, 4)
        while session.poll() is None:
            if partial_snapshots(run) and epochs_done(run) >= before + writings:
                break
    if session.poll() is not None:
        return "", None, 0.0
    killed = 0 if kind == "snapshot" else chance.choice(["all", *range(count)]) if count > 1 else 0
    seconds = time.monotonic() - start
    for rank, one in enumerate(running):
        if killed in ("all", rank):
            one.send_signal(signal.SIGKILL)
    sent = time.monotonic()
    if kind == "start":  # the others may wait for a connection: launchers such as torchrun end them
        for one in running:
            one.terminate()
    for one in running:
        one.communicate(timeout=120)
    return killed, seconds, time.monotonic() - sent


def partial_snapshots(run):
    """Paths of snapshots that are being written: in a workplace, see `output/locks.py`."""
    return list(run.glob(f"{PREFIX}*/last.npz"))


def epochs_done(run):
    """Number of rows of the history on disk."""
    path = run / "history.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def history(run):
    """Rows of the history, without columns that depend on the clock."""
    with (run / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    clock = ("seconds", "images_per_second", "minutes")
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]


def largest_difference(path, other):
    """Largest difference of weights, averages, moments, seeds and metrics of two snapshots."""
    with np.load(path) as one, np.load(other) as two:
        keys = [key for key in one if key != "meta"]
        assert set(one) == set(two)
        return max(
            float(np.max(np.abs(np.float64(one[key]) - np.float64(two[key])), initial=0)) for key in keys
        )


if __name__ == "__main__":
    main()
