"""One training step of the `tutorial` net: ours on each installed backend beside the tutorial as written.

    python benchmarks/bench_train_step.py [--rounds 5] [--batch 64] [--python torch=PATH jax=PATH ...]

`--python` names an interpreter a backend, for backends that live in separate environments. Rows go to
`results/`; ratios are to the tutorial's own layers on TensorFlow.
"""

import argparse
import sys

import measure

CONTENDERS = {
    "focalnets-torch": ("torch", "ours"),
    "focalnets-jax": ("jax", "ours"),
    "focalnets-tensorflow": ("tensorflow", "ours"),
    "tutorial-tensorflow": ("tensorflow", "tutorial"),
}


def worker(which, batch):
    import focalnets  # noqa: F401  isort: skip  chooses nothing here: the parent set the backend
    import keras
    import numpy as np

    from focalnets.presets.architectures import ARCHITECTURES
    from focalnets.presets.store import build_architecture

    generator = np.random.default_rng(0)
    x = generator.random((batch, 48, 48, 3)).astype("float32")
    y = generator.integers(0, 10, batch)
    if which == "ours":
        net = build_architecture(ARCHITECTURES["tutorial"])
    else:
        from tutorial_tensorflow import TutorialNet

        net = TutorialNet()
    net.compile(
        keras.optimizers.AdamW(1e-4, weight_decay=1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=which == "ours"),
    )
    losses = []
    measure.serve(lambda: losses.append(float(net.train_on_batch(x, y))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--python", nargs="*", default=[])
    parser.add_argument("--worker")
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.worker, arguments.batch)

    pythons = dict(pair.split("=", 1) for pair in arguments.python)
    commands = {
        name: (
            [
                pythons.get(backend, sys.executable),
                __file__,
                "--worker",
                which,
                "--batch",
                str(arguments.batch),
            ],
            {"KERAS_BACKEND": backend},
        )
        for name, (backend, which) in CONTENDERS.items()
    }
    seconds, starts = measure.interleave(commands, arguments.rounds)
    base = measure.spread(seconds["tutorial-tensorflow"])[0] if "tutorial-tensorflow" in seconds else None
    rows = []
    for name, values in seconds.items():
        median, low, high = measure.spread(values)
        rows.append(
            {
                "what": name,
                "batch": arguments.batch,
                "median_s": median,
                "min_s": low,
                "max_s": high,
                "images_per_s": round(arguments.batch / median, 2),
                "speedup": round(base / median, 2) if base else "",
                "ready_s": round(starts[name], 1),
            }
        )
    measure.write_rows(f"train_step_tutorial_float32_{measure.machine()}", rows)


if __name__ == "__main__":
    main()
