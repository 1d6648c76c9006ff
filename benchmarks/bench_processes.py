"""Runs on several processes, compared with one process: results, speed, memory.

    .venv/bin/python benchmarks/bench_processes.py equality --python torch=.venv/bin/python \
        jax=.venv-jax/bin/python
    .venv/bin/python benchmarks/bench_processes.py speed --python torch=.venv/bin/python
    .venv/bin/python benchmarks/bench_processes.py memory --python jax=.venv-jax/bin/python

- `equality`: at least 50 steps on the digits in float32, with 1, 2 and 4 processes. For each kind of state,
  the largest difference from one process, relative to the largest number of the array. On JAX also with a
  network that is split over 2 processes.
- `resume`: a run of 2 processes that stops in its first seconds, resumed by 1, 2 and 4 processes, against the
  same run without interruption.
- `split`: logits and the state after one step of a network that is split over 2 processes, on JAX.
- `speed`: images per second of training with 1, 2 and 4 processes of one thread, and of one process with a
  thread per core; and the time of the exchange of gradients, from a loop that does nothing else.
- `memory`: peak memory of each of 2 processes in one step of a wide network and its snapshot, whole or split,
  above that of a process that only imports; and the largest differences between both.

The processes of a run share the cores of this machine.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import textwrap

import numpy as np
from measure import machine, write_rows

SETTINGS = {
    "plain": {"batch_size": 40, "epochs": 2},
    "everything": {
        "batch_size": 50,  # the last batch of an epoch is smaller
        "epochs": 2,
        "optimizer": "muon",
        "accumulation": 2,
        "ema_decay": 0.9,
        "drop_path_rate": 0.2,
        "dropout_rate": 0.1,
        "class_weights": "balanced",
        "label_smoothing": 0.1,
        "layer_decay": 0.8,
        "clip_norm": 1.0,
        "augmentation": {"pad_crop": 1, "mixup": 0.4, "cutmix": 0.5, "erasing": 0.2},
    },
}

TRAIN = """
    import dataclasses, json, resource, sys
    import focalnets
    from focalnets.images.augment import Augmentation
    from focalnets.training.recipe import load_recipe

    out, changes, options = sys.argv[1], *map(json.loads, sys.argv[2:4])
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if "augmentation" in changes:
        changes["augmentation"] = Augmentation(**changes["augmentation"])
    recipe = dataclasses.replace(load_recipe("digits"), keep_weights="last", **changes)
    result = focalnets.train(recipe, out=out, monitor_every=0, verbose=0, **options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print("@", json.dumps({"peak_mb": (peak - start) / 1024, "rows": result.history}))
"""

RESUME = """
    import json, sys
    import focalnets

    focalnets.resume(sys.argv[1], verbose=0)
    print("@", json.dumps({}))
"""

LOGITS = """
    import json, sys, types
    import keras, numpy as np
    from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter
    from focalnets.ops import processes
    from focalnets.training.launch import read_launch

    parts = int(sys.argv[1])
    joined = processes.start(read_launch(), parts) if parts > 1 else None
    keras.utils.set_random_seed(0)
    backbone = FocalNetBackbone(64, (1, 2), patch_size=2, seed=0, image_shape=(32, 32, 3))
    classifier = FocalNetImageClassifier(backbone, 10, FocalNetImageConverter(32))
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3)).astype("uint8")
    logits = types.SimpleNamespace(value=classifier(images, training=False))
    [values] = processes.fetch([logits]) if joined else [np.asarray(logits.value)]
    kernels = [variable.value for variable in classifier.weights]
    print("@", json.dumps({"logits": np.asarray(values).tolist(), "split": sum(
        not value.sharding.is_fully_replicated for value in kernels)}))
    if joined:
        joined.close()
"""

EXCHANGE = """
    import sys, time
    import numpy as np, torch
    from focalnets.ops import processes
    from focalnets.training.launch import read_launch

    joined = processes.start(read_launch())
    gradients = [torch.ones(int(sys.argv[1]))]
    joined.mean(gradients)
    for _ in range(15):
        joined.wait()
        start = time.perf_counter()
        joined.mean(gradients)
        print("@", time.perf_counter() - start)
    joined.close()
"""


def run(python, backend, count, program, *arguments, threads=1):
    """Answers of all processes that run a program."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    running = []
    for rank in range(count):
        environment = {**os.environ, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": str(threads)}
        environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"  # compiles in a third of the time
        if count > 1:
            environment["KERAS_DISTRIBUTION_JOB_ADDRESSES"] = f"127.0.0.1:{port}"
            environment["KERAS_DISTRIBUTION_NUM_PROCESSES"] = str(count)
            environment["KERAS_DISTRIBUTION_PROCESS_ID"] = str(rank)
        command = [python, "-c", textwrap.dedent(program), *map(str, arguments)]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(subprocess.Popen(command, env=environment, **streams))
    outputs = [one.communicate() for one in running]
    if any(one.returncode for one in running):
        sys.exit("\n".join(errors[-2000:] for _, errors in outputs))
    return [[json.loads(text) for text in re.findall("^@ (.*)$", out, re.MULTILINE)] for out, _ in outputs]


def kind(name):
    if re.search("momentum|velocity", name):
        return "moments"
    if name.endswith("average"):
        return "averages"
    return "other" if re.search("seed|iteration|gradient|total|count|rate", name) else "weights"


def differences(directory, other):
    """(largest relative difference, name) for each kind of array in two snapshots."""
    one, two = (np.load(path / "last.npz") for path in (directory, other))
    found = {}
    for index, name in enumerate(json.loads(str(one["meta"]))["names"]):
        a, b = (np.float64(arrays[f"{index:05}"]) for arrays in (one, two))
        worst = float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))
        found[kind(name)] = max(found.get(kind(name), (0.0, "")), (worst, name))
    return found


def equality(pythons, folder, options):
    for backend, python in pythons.items():
        for setting in options.settings:
            changes = SETTINGS[setting]
            for seed in range(options.seeds):
                given = json.dumps({**changes, "seed": seed})
                rows, whole = [], folder / "whole"
                (alone,) = run(python, backend, 1, TRAIN, whole, given, "{}")
                cases = [(count, 1) for count in options.counts] + ([(2, 2)] if backend == "jax" else [])
                for count, parts in cases:
                    out = folder / "run"
                    answers = run(
                        python, backend, count, TRAIN, out, given, json.dumps({"model_parallel": parts})
                    )
                    found = differences(whole, out)
                    row = {"backend": backend, "setting": setting, "seed": seed, "processes": count}
                    row |= {"parts_of_network": parts}
                    for name in ("weights", "averages", "moments"):
                        worst, which = found.get(name, (0.0, ""))
                        row |= {name: f"{worst:.1e}", f"worst_of_{name}": which}
                    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
                        pairs = zip(answers[0][0]["rows"], alone[0]["rows"], strict=True)
                        row[name] = f"{max(abs(a[name] - b[name]) for a, b in pairs):.1e}"
                    rows.append(row)
                    shutil.rmtree(out)
                shutil.rmtree(whole)
                write_rows(f"processes-equality_float32_{machine()}", rows)


def resume(pythons, folder, options):
    """Runs of 2 processes, resumed by another number of processes."""
    given = json.dumps({**SETTINGS["everything"], "epochs": 3})
    for backend, python in pythons.items():
        rows, whole, stopped = [], folder / "whole", folder / "stopped"
        run(python, backend, 2, TRAIN, whole, given, "{}")
        run(python, backend, 2, TRAIN, stopped, given, json.dumps({"max_minutes": options.stop_minutes}))
        meta = json.loads(str(np.load(stopped / "last.npz")["meta"]))
        for count in (1, 2, 4):
            out = folder / "run"
            shutil.copytree(stopped, out)
            run(python, backend, count, RESUME, out)
            found = differences(whole, out)
            row = {"backend": backend, "began_with": 2, "resumed_with": count}
            row |= {name: meta[name] for name in ("epoch", "batch") if name in meta}
            rows.append(row | {name: f"{found[name][0]:.1e}" for name in ("weights", "averages", "moments")})
            shutil.rmtree(out)
        for path in (whole, stopped):
            shutil.rmtree(path)
        write_rows(f"processes-resume_float32_{machine()}", rows)


def split(pythons, folder, options):
    """One network on one process, and split over 2: logits, and everything after one step."""
    python, given = pythons["jax"], json.dumps({**SETTINGS["everything"], "accumulation": 1})
    (one,) = run(python, "jax", 1, LOGITS, 1)
    two = run(python, "jax", 2, LOGITS, 2)
    expected = np.array(one[0]["logits"])
    worst = max(np.abs(np.array(answer[0]["logits"]) - expected).max() for answer in two)
    run(python, "jax", 1, TRAIN, folder / "one", given, json.dumps({"max_minutes": 1e-9}))
    run(
        python, "jax", 2, TRAIN, folder / "two", given, json.dumps({"max_minutes": 1e-9, "model_parallel": 2})
    )
    found = differences(folder / "one", folder / "two")
    row = {"backend": "jax", "processes": 2, "split_variables": two[0][0]["split"]}
    row |= {"logits": f"{worst / np.abs(expected).max():.1e}"}
    row |= {f"{name}_after_a_step": f"{found[name][0]:.1e}" for name in ("weights", "averages", "moments")}
    write_rows(f"processes-split_float32_{machine()}", [row])


def speed(pythons, folder, options):
    changes = {"architecture": "focalnet_nano", "image_size": 32, "batch_size": 64, "epochs": 2}
    changes |= {"mean": (0.3,), "std": (0.37,)}
    cores = len(os.sched_getaffinity(0))
    for backend, python in pythons.items():
        cases = [(1, 1), (1, cores), (2, 1), (4, 1)]
        seen = {case: [] for case in cases}
        for _ in range(options.rounds):  # in turn, because the speed of the machine varies
            for count, threads in cases:
                answers = run(
                    python, backend, count, TRAIN, folder / "run", json.dumps(changes), "{}", threads=threads
                )
                seen[count, threads].append(answers[0][0]["rows"][-1]["images_per_second"])
                shutil.rmtree(folder / "run")
        exchanged = {1: 0.0}
        for count in (2, 4) if backend == "torch" else ():
            seconds = run(python, backend, count, EXCHANGE, options.numbers)
            exchanged[count] = statistics.median(value for one in seconds for value in one)
        rows = []
        for (count, threads), rates in seen.items():
            median = statistics.median(rates)
            rows.append(
                {
                    "backend": backend,
                    "processes": count,
                    "threads": threads,
                    "images_per_s": round(median, 1),
                    "least": round(min(rates), 1),
                    "most": round(max(rates), 1),
                    "ratio_to_one": round(median / statistics.median(seen[1, 1]), 3),
                    "exchange_ms": round(1e3 * exchanged.get(count, 0), 2) if backend == "torch" else "",
                    "exchanged_numbers": options.numbers if backend == "torch" else "",
                    "step_ms": round(1e3 * changes["batch_size"] / median, 1),
                }
            )
        write_rows(f"processes-speed_nano_float32_{machine()}", rows)


def memory(pythons, folder, options):
    wide = """
    import sys
    from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter

    backbone = FocalNetBackbone(1024, (1, 1), patch_size=2, seed=0, image_shape=(8, 8, 1))
    converter = FocalNetImageConverter(8, mean=(0.3,), std=(0.37,))
    names = [str(digit) for digit in range(10)]
    FocalNetImageClassifier(backbone, 10, converter, class_names=names).save_to_preset(sys.argv[1])
    """
    for backend, python in pythons.items():
        preset = folder / "wide"
        run(python, backend, 1, wide, preset)
        changes = {
            "architecture": "",
            "preset": str(preset),
            "epochs": 1,
            "batch_size": 16,
            "ema_decay": 0.9,
        }
        rows = []
        for parts in (1, 2):
            given = json.dumps({"model_parallel": parts, "max_minutes": 1e-9})  # one step and a snapshot
            answers = run(python, backend, 2, TRAIN, folder / f"run{parts}", json.dumps(changes), given)
            rows.append(
                {
                    "backend": backend,
                    "processes": 2,
                    "parts_of_network": parts,
                    "weights_mb": round((preset / "model.weights.h5").stat().st_size / 2**20, 1),
                    "peak_mb_of_process_0": round(answers[0][0]["peak_mb"], 1),
                    "peak_mb_of_process_1": round(answers[1][0]["peak_mb"], 1),
                }
            )
        worst = differences(folder / "run1", folder / "run2")
        for row in rows:
            row |= {name: f"{value:.1e}" for name, (value, _) in worst.items() if name != "other"}
        write_rows(f"processes-memory_wide_float32_{machine()}", rows)


PARTS = {"equality": equality, "resume": resume, "split": split, "speed": speed, "memory": memory}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--python", nargs="+", required=True, help="BACKEND=INTERPRETER ...")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--counts", nargs="+", type=int, default=[2, 4], help="numbers of processes")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--stop-minutes", type=float, default=0.02, help="time before a run stops to be resumed"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--numbers", type=int, default=1_280_000, help="size of the exchanged gradients")
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bench-processes-"))
    pythons = dict(one.split("=", 1) for one in options.python)
    PARTS[options.part](pythons, folder, options)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
