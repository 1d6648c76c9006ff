"""Effect of fixing each error of the 2023 Keras tutorial, with equal budgets and at a reduced scale.

    python benchmarks/tutorial_ablation.py DATA [--updates 1000] [--width 64] [--batch 64] [--rows N,N,...]

Rows 1 to 11 include the fixes of the rows above. Rows 12 to 16 have all fixes up to row 9, the learning rate,
except one, because the effect of a fix depends on the learning rate. The width is a quarter of the tutorial's
(64 channels in the first stage, 2.5 million parameters), and a batch has 64 images instead of 1024. Data
split, 48 pixels, patches of 4, number of updates (1000) and augmentation are those of the tutorial. The
validation accuracy is measured after the last update, on 10,000 held-out images. Test images are not used.
"""

import argparse
import dataclasses
import os
import time

import measure
import numpy as np

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras

import focalnets
from focalnets import process
from focalnets.data.datasets import open_dataset
from focalnets.data.loader import Loader
from focalnets.data.splits import split_validation
from focalnets.images.augment import Augmentation
from focalnets.models.image_converter import FocalNetImageConverter
from focalnets.presets.architectures import ARCHITECTURES
from focalnets.training.adamw import AdamW
from focalnets.training.muon import Muon
from focalnets.training.task import ImageClassification


@dataclasses.dataclass(frozen=True)
class Setup:
    """Settings of the original tutorial. Each fix replaces a field."""

    backbone: dict
    dead_updates: int = 24  # of 1000: the schedule of the tutorial has 976 updates
    decay_everything: bool = True
    optimizer: str = "adamw"
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    image_size: int = 48
    augmentation: Augmentation = dataclasses.field(
        default_factory=lambda: Augmentation(resize_crop=52, interpolation="bilinear", flip=True)
    )
    mean: tuple = (0.0, 0.0, 0.0)
    std: tuple = (1.0, 1.0, 1.0)


RATE = 9  # number of the row that fixes the learning rate


def setups(width):
    """List of (text, Setup): cumulative fixes, then all fixes up to the learning rate except one."""
    tutorial = {**ARCHITECTURES["tutorial"].backbone, "embed_dim": width}
    steps = [("none: the original tutorial", {}, {})]
    steps.append(("learning rate 0 after the last update, not 24 updates before", {"dead_updates": 0}, {}))
    steps.append(("biases and norms do not decay", {"decay_everything": False}, {}))
    steps.append(("a norm before the modulation", {}, {"norm_placement": "pre"}))
    steps.append(("epsilon 1e-5 in every norm", {}, {"embedding_norm_epsilon": 1e-5}))
    steps.append(("initializers of the paper's code", {}, {"kernel_initializer": None}))
    steps.append(("drop path 0.1 instead of dropout 0.1", {}, {"dropout_rate": 0.0, "drop_path_rate": 0.1}))
    normalized = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.2435, 0.2616)}
    steps.append(("pixels normalized by mean and standard deviation", normalized, {}))
    rates = {"learning_rate": 1e-3, "weight_decay": 0.05}
    steps.append(("learning rate 1e-3 and weight decay 0.05", rates, {}))
    steps.append(("Muon, learning rate 3e-3", {"optimizer": "muon", "learning_rate": 3e-3}, {}))
    small = {"image_size": 32, "augmentation": Augmentation(pad_crop=4, flip=True)}
    stem = {"patch_size": 2, "overlap_embed": True}
    steps.append(("32 pixels without resizing, overlapping patches of 2", small, stem))

    def together(chosen):
        fields, backbone = {}, tutorial
        for _, changed, changed_backbone in chosen:
            fields, backbone = {**fields, **changed}, {**backbone, **changed_backbone}
        return Setup(backbone=backbone, **fields)

    rows = [(steps[last][0], together(steps[: last + 1])) for last in range(len(steps))]
    for without in range(3, RATE - 1):
        rest = steps[:without] + steps[without + 1 : RATE]
        rows.append((f"row {RATE} without: {steps[without][0]}", together(rest)))
    return rows


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """15 % warm-up, then half a cosine that reaches 0 `dead` updates before the end."""

    def __init__(self, peak, updates, dead):
        self.peak, self.warmup, self.end = peak, round(0.15 * updates), updates - dead

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        rising = (step + 1) / (self.warmup + 1)
        progress = keras.ops.clip((step - self.warmup) / (self.end - self.warmup), 0, 1)
        falling = 0.5 * (1 + keras.ops.cos(np.pi * progress))
        return self.peak * keras.ops.where(step < self.warmup, rising, falling)

    def get_config(self):
        return {}


def run(setup, data, updates, batch, seed):
    """Train for a number of updates, and return a dict of metrics."""
    keras.utils.set_random_seed(seed)
    size = (setup.image_size,) * 2
    converter = FocalNetImageConverter(size, interpolation="bilinear", mean=setup.mean, std=setup.std)
    cache_images = "stream" if setup.augmentation.needs_originals else "auto"
    train = open_dataset(data, 3, converter.prepare, "error", cache_images).splits["train"]
    training, validation = split_validation(train, 0.2, 0)
    backbone = focalnets.FocalNetBackbone(**setup.backbone, image_shape=(*size, 3), seed=seed)
    net = focalnets.FocalNetImageClassifier(backbone, 10, converter)
    loader = Loader(training, ImageClassification(10), batch, True, setup.augmentation, size, seed)
    dead = round(setup.dead_updates * updates / 1000)
    schedule = Schedule(setup.learning_rate, updates, dead)
    if setup.decay_everything:
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=setup.weight_decay)
    elif setup.optimizer == "adamw":
        optimizer = AdamW(schedule, weight_decay=setup.weight_decay, epsilon=1e-7)
    else:
        optimizer = Muon(schedule, weight_decay=setup.weight_decay)
    net.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    start, done = time.perf_counter(), 0
    while done < updates:
        loader.epoch = done // loader.batches
        batches = min(loader.batches, updates - done)
        history = net.fit(loader, steps_per_epoch=batches, epochs=1, shuffle=False, verbose=0).history
        done += batches
    seconds = time.perf_counter() - start
    loss, accuracy = net.evaluate(Loader(validation, ImageClassification(10), 250), verbose=0)
    return {
        "validation_accuracy": round(accuracy, 4),
        "validation_loss": round(loss, 4),
        "training_loss": round(history["loss"][-1], 4),
        "training_accuracy": round(history["accuracy"][-1], 4),
        "parameters": net.count_params(),
        "seconds": round(seconds, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data")
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rows", help="numbers of the rows to run, such as 1,2,5")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    process.keep_freed_memory()
    name = f"tutorial-ablation_{keras.backend.backend()}_float32_{measure.machine()}"
    numbers = range(1, len(setups(arguments.width)) + 1)
    if arguments.rows:
        numbers = [int(number) for number in arguments.rows.split(",")]
    for number in numbers:
        repaired, setup = setups(arguments.width)[number - 1]
        row = {"row": number, "repaired": repaired, "seed": arguments.seed, "updates": arguments.updates}
        row["batch"] = arguments.batch
        found = run(setup, arguments.data, arguments.updates, arguments.batch, arguments.seed)
        print(row, found, flush=True)
        measure.write_rows(name, [{**row, **found}])


if __name__ == "__main__":
    main()
