"""Largest differences between the three backends, for every combination of options.

    python benchmarks/parity.py [--python torch=PATH jax=PATH tensorflow=PATH]

Networks, weights and images are those of `tests/models/test_parity.py`. The difference of two backends is
max |a - b| / max |b|, for the logits and for all gates.
"""

import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import measure
import numpy as np

TESTS = pathlib.Path(__file__).parents[1] / "tests"
BACKENDS = ("torch", "jax", "tensorflow")


def worker(path):
    sys.path[:0] = [str(TESTS), str(TESTS / "models")]
    import focalnets  # noqa: F401  isort: skip
    import test_parity

    values = {"flags": json.dumps(test_parity.COMBINATIONS)}
    for index, flags in enumerate(test_parity.COMBINATIONS):
        found = test_parity.computed(test_parity.make_net(flags), test_parity.images())
        values[f"{index} logits"] = found["logits"]
        values |= {f"{index} {name}": value for name, value in found.items() if name.startswith("gates")}
    np.savez(path, **values)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", nargs="*", default=[])
    parser.add_argument("--worker")
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.worker)

    pythons = measure.interpreters(arguments.python)
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for backend in BACKENDS:
            path = f"{folder}/{backend}.npz"
            command = [pythons[backend], __file__, "--worker", path]
            environment = {**os.environ, "KERAS_BACKEND": backend}
            subprocess.run(command, env=environment, check=True)
            found[backend] = dict(np.load(path))
    rows = []
    combinations = json.loads(str(found["torch"]["flags"]))
    for values in found.values():
        del values["flags"]
    for index, flags in enumerate(combinations):
        row = {**flags, "logits": 0.0, "gates": 0.0}
        for a, b in itertools.combinations(found, 2):
            for name in found[a]:
                number, kind, *_ = name.split()
                if int(number) == index:
                    gap = np.abs(found[a][name] - found[b][name]).max() / np.abs(found[b][name]).max()
                    row[kind] = max(row[kind], float(f"{gap:.2e}"))
        rows.append(row)
    largest = {kind: max(row[kind] for row in rows) for kind in ("logits", "gates")}
    rows.append({**dict.fromkeys(combinations[0], "largest"), **largest})
    measure.write_rows(f"parity_backends_float32_{measure.machine()}", rows)


if __name__ == "__main__":
    main()
