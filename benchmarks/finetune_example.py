"""Comparison of training from scratch and fine-tuning with one hundred images per class.

    python benchmarks/finetune_example.py DATA [--images 100] [--seeds 0 1 2] [--ways NAME ...]

DATA is a data set for `focalnets train --data` with a test split. `--images` training images per class are
drawn for each seed, and all test images are used. Every way is the recipe `finetune` with the changes below,
in the faster precision, with the same number of epochs unless stated otherwise. For training from scratch,
choose the best of three settings of optimizer and learning rate on the validation images.
"""

import argparse
import dataclasses
import os
import pathlib
import statistics
import tempfile
import time

import measure
import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")

from focalnets import process
from focalnets.conversion.open import open_classifier
from focalnets.data.datasets import open_dataset
from focalnets.presets.checkpoints import CHECKPOINTS, DEFAULT
from focalnets.training.recipe import load_recipe
from focalnets.training.train import train

_START = CHECKPOINTS[DEFAULT].architecture

SCRATCH = {"preset": "", "architecture": _START, "layer_decay": 1.0, "interpolation": "bicubic"}
WAYS = {
    "from scratch, rate 1e-3": SCRATCH,
    "from scratch, rate 3e-3": {**SCRATCH, "learning_rate": 3e-3},
    "from scratch, Muon, rate 3e-3": {**SCRATCH, "learning_rate": 3e-3, "optimizer": "muon"},
    "from scratch, Muon, rate 3e-3, 100 epochs": {
        **SCRATCH,
        "learning_rate": 3e-3,
        "optimizer": "muon",
        "epochs": 100,
    },
    "fine-tuned": {},
    "fine-tuned, all blocks at one rate": {"layer_decay": 1.0},
    "fine-tuned, all blocks at one rate, Muon": {"layer_decay": 1.0, "optimizer": "muon"},
    "fine-tuned, first stage frozen": {"frozen_stages": 1},
    "fine-tuned, unfrozen a stage every 3 epochs": {"unfreeze_epochs": 3.0},
}


def subset(data, images, seed, path, converter):
    """Write an .npz file with `images` training images per class and all test images."""
    dataset = open_dataset(data, len(converter.mean))
    training, test = dataset.splits["train"], dataset.splits["test"]
    generator = np.random.default_rng(seed)
    chosen = np.concatenate(
        [
            generator.permutation(np.flatnonzero(training.labels == label))[:images]
            for label in range(len(dataset.class_names))
        ]
    )
    few = training.take(np.sort(chosen))
    arrays = {"x_train": few.images, "y_train": few.labels, "x_test": test.images, "y_test": test.labels}
    np.savez(path, **arrays, class_names=np.array(dataset.class_names))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--images", type=int, default=100, help="number of training images per class")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS), metavar="NAME")
    parser.add_argument("--epochs", type=int, help="number of epochs, to try this script")
    arguments = parser.parse_args()
    process.keep_freed_memory()
    converter = open_classifier(DEFAULT).image_converter
    own = {"image_size": converter.image_size[0], "mean": converter.mean, "std": converter.std}
    name = f"finetune-example_{measure.machine()}"
    reached = {}
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            data = pathlib.Path(folder) / "few.npz"
            subset(arguments.data, arguments.images, seed, data, converter)
            for way in arguments.ways:
                changes = {**(own if "architecture" in WAYS[way] else {}), **WAYS[way]}
                changes |= {"seed": seed, "precision": "auto"}
                if arguments.epochs:
                    changes["epochs"] = arguments.epochs
                recipe = dataclasses.replace(load_recipe("finetune"), **changes)
                start = time.perf_counter()
                result = train(recipe, str(data), pathlib.Path(folder) / "run", force=True, verbose=0)
                row = {
                    "way": way,
                    "start": DEFAULT if recipe.preset else "random weights",
                    "data": pathlib.Path(arguments.data).name,
                    "images_a_class": arguments.images,
                    "epochs": recipe.epochs,
                    "seed": seed,
                    "validation": round(result.kept["val_accuracy"], 4),
                    "test": round(result.test_accuracy, 4),
                    "minutes": round((time.perf_counter() - start) / 60, 2),
                }
                measure.write_rows(name, [row])
                reached.setdefault(way, []).append(result.test_accuracy)
    for way, accuracies in reached.items():
        spread = f"{min(accuracies):.1%} to {max(accuracies):.1%}"
        print(f"{way}: {statistics.mean(accuracies):.1%} ({spread})")


if __name__ == "__main__":
    main()
