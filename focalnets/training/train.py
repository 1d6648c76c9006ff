"""train: a recipe and a data set -> a run directory, which is a preset directory and its history."""

import csv
import dataclasses
import pathlib
import time
from dataclasses import dataclass

import keras
import numpy as np

from focalnets._io import new_run_directory, write_json
from focalnets.data.datasets import open_dataset
from focalnets.data.loader import Loader
from focalnets.data.splits import split_validation
from focalnets.explain.modulation import modulation_maps
from focalnets.explain.render import draw_curves, draw_panels
from focalnets.models.image_converter import ImageConverter
from focalnets.presets.architectures import find_architecture
from focalnets.presets.store import build_architecture, write_preset_files
from focalnets.training.optimizer import learning_rate_schedule, make_optimizer
from focalnets.training.recipe import load_recipe

PANEL_IMAGES = 8


@dataclass(frozen=True)
class TrainResult:
    """What `train` leaves: paths, history rows, accuracy (0..1) on the test split (None without one), and
    what was wrong with each picture left out."""

    directory: pathlib.Path
    curves: pathlib.Path
    panels: list[pathlib.Path]
    history: list[dict]
    test_accuracy: float | None
    skipped: list[str]


def train(
    recipe, data=None, out="runs/latest", force=False, on_bad_image="error", keep="auto", verbose="auto"
):
    """Train a classifier and write what can be known about it.

    Args:
        recipe: a `Recipe`, or the name of one.
        data: spec for `open_dataset`; None for the recipe's own.
        out: run directory to make: a preset directory (`FocalNetClassifier.from_preset(out)`) with
            `recipe.json`, `history.csv`, `curves.png` and `panels/`.
        force: replace a run that is there.
        on_bad_image: "error" to name all pictures that cannot be read, "skip" to leave them out.
        keep: "memory", "stream" or "auto", see `open_dataset`; a recipe whose augmentation starts from the
            original pictures streams them in any case.
        verbose: as in Keras' `fit`.

    Returns:
        A `TrainResult`.

    Raises:
        ValueError: on an unknown recipe or data set, or data that do not fit the recipe.
        FileExistsError: if `out` is not empty, unless `force`.

    >>> import dataclasses, tempfile
    >>> from focalnets.training.recipe import load_recipe
    >>> from focalnets.training.train import train
    >>> short = dataclasses.replace(load_recipe("digits"), epochs=1)
    >>> result = train(short, out=tempfile.mkdtemp(), verbose=0)
    >>> result.test_accuracy > 0.1
    True
    """
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    data = recipe.data if data is None else data
    if not data:
        raise ValueError(f"Recipe {recipe.name} has no data of its own; name a folder or zip with --data.")
    architecture = find_architecture(recipe.architecture)
    converter = ImageConverter((recipe.image_size,) * 2, mean=recipe.mean, std=recipe.std)
    keep = "stream" if recipe.augmentation.needs_originals else keep
    dataset = open_dataset(data, len(recipe.mean), converter.prepare, on_bad_image, keep)
    training, validation = _training_splits(dataset, recipe)

    directory = new_run_directory(out, force)
    write_json(directory / "recipe.json", {**dataclasses.asdict(recipe), "data": str(data)})

    keras.utils.set_random_seed(recipe.seed)
    architecture = dataclasses.replace(architecture, channels=len(recipe.mean))
    classifier = build_architecture(
        architecture,
        num_classes=len(dataset.class_names),
        image_converter=converter,
        class_names=dataset.class_names,
    )
    history = _fit(classifier, recipe, training, validation, directory / "history.csv", verbose)
    write_preset_files(classifier, directory)

    curves = directory / "curves.png"
    draw_curves(curves, history)
    test = dataset.splits.get("test")
    shown, kind = (validation, "validation") if test is None else (test, "test")
    panels = _draw_panels(classifier, shown, kind, directory / "panels")
    test_accuracy = None if test is None else _accuracy(classifier, test, recipe.batch_size)
    return TrainResult(directory, curves, panels, history, test_accuracy, dataset.bad)


def _training_splits(dataset, recipe):
    training = dataset.splits["train"]
    if "val" in dataset.splits:
        return training, dataset.splits["val"]
    training, validation = split_validation(training, recipe.validation_fraction, recipe.seed)
    if len(validation) == 0:
        raise ValueError(
            f"The recipe's validation_fraction, {recipe.validation_fraction}, leaves no validation images; "
            "raise it, or give the data set a val/ folder."
        )
    return training, validation


def _fit(classifier, recipe, training, validation, history_path, verbose):
    loader = Loader(
        training,
        classifier.num_classes,
        recipe.batch_size,
        shuffle=True,
        augmentation=recipe.augmentation,
        image_size=(recipe.image_size,) * 2,
        seed=recipe.seed,
    )
    total_steps = recipe.epochs * len(loader)
    optimizer = make_optimizer(recipe, classifier, total_steps)
    classifier.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing),
        metrics=["accuracy"],
    )
    recorder = _Recorder(loader, learning_rate_schedule(recipe, total_steps), history_path)
    classifier.fit(
        loader,
        epochs=recipe.epochs,
        shuffle=False,  # Keras would shuffle batches by Python's generator; the loader has its own order
        validation_data=Loader(validation, classifier.num_classes, recipe.batch_size),
        callbacks=[recorder],
        verbose=verbose,
    )
    return recorder.rows


class _Recorder(keras.callbacks.Callback):
    """Tells the loader which epoch it is and appends one row an epoch to `history.csv`."""

    def __init__(self, loader, schedule, path):
        super().__init__()
        self.schedule = schedule
        self.loader = loader
        self.path = path
        self.rows = []

    def on_epoch_begin(self, epoch, logs=None):
        self.loader.epoch = epoch
        self.started = time.perf_counter()

    def on_test_begin(self, logs=None):
        self.trained = time.perf_counter()

    def rate_of_last_step(self):
        optimizer = self.model.optimizer  # its `learning_rate` is the next step's
        steps = int(keras.ops.convert_to_numpy(optimizer.iterations))
        return float(keras.ops.convert_to_numpy(self.schedule(steps - 1)))

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.trained - self.started  # without validation
        row = {
            "epoch": epoch + 1,
            **{name: float(value) for name, value in logs.items()},
            "learning_rate": self.rate_of_last_step(),
            "seconds": round(seconds, 3),
            "images_per_second": round(len(self.loader.split) / seconds, 1),
        }
        self.rows.append(row)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if epoch == 0:
                writer.writeheader()
            writer.writerow(row)


def _draw_panels(classifier, split, kind, folder):
    """Panels of the last block of each stage, for the first image of up to `PANEL_IMAGES` classes."""
    labels, rows = np.unique(split.labels, return_index=True)
    labels, rows = labels[:PANEL_IMAGES], rows[:PANEL_IMAGES]
    images = split.batch(rows)
    maps = modulation_maps(classifier, images)
    last_blocks = {name.split("_")[0]: name for name in maps}  # the last of a stage wins
    folder.mkdir()
    paths = []
    for name in last_blocks.values():
        paths.append(folder / f"{name}.png")
        titles = [classifier.class_names[label] for label in labels]
        draw_panels(paths[-1], images, maps[name], titles, heading=f"{name}, {kind} images")
    return paths


def _accuracy(classifier, split, batch_size):
    loader = Loader(split, classifier.num_classes, batch_size)
    hits = sum(np.sum(classifier.predict_on_batch(x).argmax(-1) == y.argmax(-1)) for x, y in loader)
    return float(hits / len(split))
