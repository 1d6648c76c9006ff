"""Time from the start of a process to the first prediction of tiny_srf at 224 pixels.

    python benchmarks/bench_start.py [--rounds 3] [--python torch=PATH jax=PATH ...]

`import_backend_s` is the import of the backend alone. `build_s` is the time to build the network with random
weights, `first_s` the first `predict` of one image, and `second_s` the second. In a row with an engine,
`first_s` is the time of the whole process `focalnets predict` with an exported preset, and `import_backend_s`
that of a process that only imports torch. The measurements take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

import measure

BACKENDS = ("torch", "jax", "tensorflow")

BARE = "import time; t = time.perf_counter(); import {backend}; print('[%f]' % (time.perf_counter() - t))"

OURS = """
import json, time
t = [time.perf_counter()]
import focalnets, keras, numpy as np
t.append(time.perf_counter())
from focalnets import FocalNetImageClassifier
network = FocalNetImageClassifier.from_preset("focalnet_tiny_srf", load_weights=False)
t.append(time.perf_counter())
image = np.zeros((1, 224, 224, 3), "uint8")
for _ in range(2):
    network.predict(image, verbose=0)
    t.append(time.perf_counter())
print(json.dumps([b - a for a, b in zip(t, t[1:])]))
"""


PRESET = """
import sys
import numpy as np
from PIL import Image
from focalnets import FocalNetImageConverter
from focalnets.presets.architectures import find_architecture
from focalnets.presets.load import build_architecture
converter = FocalNetImageConverter(image_size=224, crop_fraction=0.9)
network = build_architecture(find_architecture("focalnet_tiny_srf"), image_converter=converter)
network.save_to_preset(sys.argv[1])
Image.fromarray(np.random.default_rng(0).integers(0, 256, (375, 500, 3)).astype("uint8")).save(sys.argv[2])
"""


def engine_seconds(python, rounds):
    """Dict of engine to a list of (seconds of a process that imports torch, seconds of a prediction)."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        preset, image = f"{folder}/preset", f"{folder}/image.jpg"
        environment = {**os.environ, "KERAS_BACKEND": "torch", "FOCALNETS_CACHE": f"{folder}/cache"}

        def seconds(*arguments):
            start = time.perf_counter()
            ran = subprocess.run([python, *arguments], env=environment, capture_output=True, text=True)
            return time.perf_counter() - start if ran.returncode == 0 else None

        if seconds("-c", PRESET, preset, image) is None:
            return found  # torch is not installed
        for round_ in range(rounds + 2):  # the first exports, the second fills the cache of the runtime
            for engine in ("openvino", "onnxruntime"):
                bare = seconds("-c", "import torch")
                ours = seconds("-m", "focalnets", "predict", preset, image, "--engine", engine)
                if ours is not None and round_ > 1:
                    found.setdefault(engine, []).append((bare, ours))
    return found


def timed(python, code, backend):
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    ran = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True)
    if ran.returncode:
        return None
    return json.loads(ran.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", nargs="*", default=[])
    arguments = parser.parse_args()
    pythons = measure.interpreters(arguments.python)

    found = {backend: [] for backend in BACKENDS}
    for round_ in range(arguments.rounds + 1):  # the first fills caches and is not counted
        for backend in BACKENDS:
            python = pythons[backend]
            bare = timed(python, BARE.format(backend=backend), backend)
            if bare is None:
                continue  # not installed
            ours = timed(python, OURS, backend)
            if round_:
                found[backend].append([*bare, *ours])
    rows = []
    for backend, values in found.items():
        if not values:
            continue
        names = ("import_backend_s", "import_focalnets_s", "build_s", "first_s", "second_s")
        medians = [round(statistics.median(column), 2) for column in zip(*values, strict=True)]
        rows.append({"backend": backend, "rounds": len(values), **dict(zip(names, medians, strict=True))})
    for engine, values in engine_seconds(pythons["torch"], arguments.rounds).items():
        bare, ours = (round(statistics.median(column), 2) for column in zip(*values, strict=True))
        empty = dict.fromkeys(("import_focalnets_s", "build_s"), "")
        row = {"import_backend_s": bare, **empty, "first_s": ours, "second_s": ""}
        rows.append({"backend": f"{engine}, whole process", "rounds": len(values), **row})
    measure.write_rows(f"start_tiny_srf_float32_{measure.machine()}", rows)


if __name__ == "__main__":
    main()
