"""train: a recipe and a data set -> a run directory, which is a preset directory and its history."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import platform
from dataclasses import dataclass

import keras
import numpy as np

from focalnets import __version__
from focalnets._io import cores, expanded, new_run_directory, read_json, write_json
from focalnets.convert.open import open_classifier
from focalnets.data.datasets import NAMES, open_dataset
from focalnets.data.loader import Loader
from focalnets.explain.modulation import modulation_maps
from focalnets.explain.render import draw_curves, draw_panels
from focalnets.inference.evaluate import evaluate, write_evaluation
from focalnets.ops.backend import accelerator, bfloat16_is_fast, bfloat16_is_faster
from focalnets.presets.checkpoints import CHECKPOINTS
from focalnets.presets.store import write_preset_files
from focalnets.training.callbacks import StopOnNaN, TensorBoard, TrainMonitor
from focalnets.training.checkpoint import read_snapshot, read_weights, restore
from focalnets.training.optimizer import learning_rate_schedule, make_optimizer
from focalnets.training.prepare import (
    class_weights,
    freeze,
    make_classifier,
    make_converter,
    training_splits,
)
from focalnets.training.recipe import load_recipe, recipe_from_json
from focalnets.training.records import Averages, OutOfTime, Records, best_row, write_history
from focalnets.training.report import write_report

PANEL_IMAGES = 8


@dataclass(frozen=True)
class TrainResult:
    """What `train` leaves: paths, history rows and that of the epoch whose weights were kept, accuracy (0..1)
    on the test split (None without one), and what was wrong with each picture left out. `kept` is None if it
    stopped at its time limit; then there are no panels, report and test accuracy yet."""

    directory: pathlib.Path
    curves: pathlib.Path
    panels: list[pathlib.Path]
    report: pathlib.Path | None
    history: list[dict]
    kept: dict | None
    test_accuracy: float | None
    skipped: list[str]

    @property
    def complete(self):
        """Whether training came to its end."""
        return self.kept is not None


def train(
    recipe,
    data=None,
    out="runs/latest",
    force=False,
    on_bad_image="error",
    keep="auto",
    max_minutes=None,
    monitor_every=None,
    tensorboard=False,
    force_bfloat16=False,
    verbose="auto",
):
    """Train a classifier and write what can be known about it.

    Args:
        recipe: a `Recipe`, or the name of one.
        data: spec for `open_dataset`; None for the recipe's own.
        out: run directory to make: a preset directory (`FocalNetClassifier.from_preset(out)`) with
            `recipe.json`, `run.json`, `history.csv`, `curves.png`, `report.html`, `panels/`, `monitor/`, and
            the snapshot (`last.npz`) from which `resume` goes on.
        force: replace a run that is there.
        on_bad_image: "error" to name the pictures that cannot be read, "skip" to leave them out.
        keep: "memory", "stream" or "auto", see `open_dataset`; a recipe whose augmentation starts from the
            original pictures streams them in any case.
        max_minutes: stop after so long, saved, to be resumed; None for no limit.
        monitor_every: epochs between two panels in `monitor/`; None for about ten in the run, 0 for none.
        tensorboard: write event files, too.
        force_bfloat16: use bfloat16 even where it is slower than float32.
        verbose: as in Keras' `fit`.

    Returns:
        A `TrainResult`.

    Raises:
        ValueError: on an unknown recipe or data set, or data that do not fit the recipe.
        FileExistsError: if `out` is not empty, unless `force`.
        FloatingPointError: if the loss is no longer a number, see `StopOnNaN`.

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
    recipe = _with_precision(recipe, force_bfloat16)
    if data not in NAMES:  # which go before folders, as names of checkpoints do
        data = _absolute(data)
    if recipe.preset not in CHECKPOINTS:
        recipe = dataclasses.replace(recipe, preset=_absolute(recipe.preset))  # to be resumed from anywhere
    if recipe.preset and pathlib.Path(recipe.preset) == expanded(out).resolve():
        raise ValueError(f"{out} is the preset to start from; choose another directory for the new run.")
    settings = {
        "data": str(data),
        "on_bad_image": on_bad_image,
        "keep": keep,
        "monitor_every": monitor_every,
        "tensorboard": tensorboard,
    }
    job = _Job(recipe, settings)
    directory = new_run_directory(out, force)
    write_json(directory / "recipe.json", {**dataclasses.asdict(recipe), "data": str(data)})
    where = {"backend": keras.backend.backend(), "keras": keras.__version__, "focalnets": __version__}
    where["machine"] = accelerator() or f"{platform.machine()}-{cores()}cores"
    images = {"train": len(job.training), "validation": len(job.validation)}
    record = {**settings, **where, "images": images, "fingerprint": job.fingerprint()}
    write_json(directory / "run.json", record)
    return job.run(directory, None, max_minutes, verbose)


def resume(directory, max_minutes=None, verbose="auto"):
    """Take up a run that was stopped or killed, from its last snapshot, and carry it to its end.

    On the same machine and backend, the weights in the end are those of a run that was never interrupted.

    Args:
        directory: run directory.
        max_minutes: as in `train`, for this session.
        verbose: as in Keras' `fit`.

    Returns:
        A `TrainResult`.

    Raises:
        ValueError: if it is no run, its data have changed, or it was begun on another backend.

    >>> import dataclasses, tempfile
    >>> from focalnets import resume, train
    >>> from focalnets.training.recipe import load_recipe
    >>> short = dataclasses.replace(load_recipe("digits"), epochs=1)
    >>> stopped = train(short, out=tempfile.mkdtemp(), max_minutes=1e-6, monitor_every=0, verbose=0)
    >>> stopped.complete, resume(stopped.directory, verbose=0).complete
    (False, True)
    """
    directory = pathlib.Path(directory)
    if not (directory / "run.json").is_file():
        raise ValueError(f"{directory} is not a run that can be resumed: it has no run.json.")
    values, settings = read_json(directory / "recipe.json"), read_json(directory / "run.json")
    if settings["backend"] != keras.backend.backend():
        raise ValueError(
            f"{directory} was begun on {settings['backend']}, not on {keras.backend.backend()}; resume it "
            f"with --backend {settings['backend']}."
        )
    for partial in directory.glob("partial-*"):  # of a write that a crash cut short
        partial.unlink()
    snapshot = read_snapshot(directory / "last.npz")
    if "images" not in settings:
        raise ValueError(
            f"{directory} was begun by another focalnets, {settings.get('focalnets', 'unknown')}, which knew "
            "its data otherwise: resume it with that, or begin anew."
        )
    job = _Job(recipe_from_json(values), settings)
    if job.fingerprint() != settings["fingerprint"]:
        raise ValueError(
            f"The data at {settings['data']}, or the preprocessing of the preset to start from, are not "
            "those the run was begun with; restore them, or begin anew."
        )
    return job.run(directory, snapshot, max_minutes, verbose)


def _absolute(name):
    """The path in full, if it is one that is there."""
    path = expanded(name)
    return str(path.resolve()) if name and path.exists() else name


def _with_precision(recipe, force_bfloat16):
    """The recipe with "auto" replaced by what is faster here; refuses what is very slow."""
    if recipe.precision == "auto":
        return dataclasses.replace(recipe, precision="bfloat16" if bfloat16_is_faster() else "float32")
    if recipe.precision == "bfloat16" and not force_bfloat16 and not bfloat16_is_fast():
        raise ValueError(
            "This processor has no units for bfloat16, and torch without them is about 150 times slower than "
            "with float32. Leave precision at float32, or force it with --force-bfloat16."
        )
    return recipe


class _Job:
    """A network, compiled, and its data: the part that is the same for a new run and a resumed one."""

    def __init__(self, recipe, settings):
        self.recipe, self.settings = recipe, settings
        keras.utils.set_random_seed(recipe.seed)
        start = open_classifier(recipe.preset) if recipe.preset else None
        self.converter = make_converter(recipe, start)
        channels = len(self.converter.mean)
        keep = "stream" if recipe.augmentation.needs_originals else settings["keep"]
        self.dataset = open_dataset(
            settings["data"], channels, self.converter.prepare, settings["on_bad_image"], keep
        )
        self.training, self.validation = training_splits(self.dataset, recipe)
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16" if recipe.precision == "bfloat16" else "float32")
        try:
            self.classifier = make_classifier(recipe, start, self.converter, self.dataset.class_names)
        finally:
            keras.config.set_dtype_policy(policy)
        freeze(self.classifier, recipe.frozen_stages)
        weights = class_weights(recipe, self.training, self.classifier.num_classes)
        self.loader = Loader(
            self.training,
            self.classifier.num_classes,
            recipe.batch_size,
            shuffle=True,
            augmentation=recipe.augmentation,
            image_size=self.converter.image_size,
            seed=recipe.seed,
            class_weights=weights,
        )
        self.total_steps = recipe.epochs * self.loader.batches
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)
        optimizer = make_optimizer(recipe, self.classifier, self.total_steps)
        self.classifier.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
        self.classifier.optimizer.build(self.classifier.trainable_variables)
        self.validation_loader = Loader(
            self.validation, self.classifier.num_classes, recipe.batch_size, class_weights=weights
        )

    def fingerprint(self):
        """A text that changes when the data do, or what becomes of them: a preset to start from may have been
        trained anew meanwhile."""
        converter = self.converter.get_config()
        becomes = [converter[key] for key in ("image_size", "crop_fraction", "interpolation", "mean", "std")]
        splits = (self.training, self.validation, self.dataset.splits.get("test"))
        prints = [split.fingerprint() for split in splits if split is not None]
        text = json.dumps([self.dataset.class_names, becomes, prints])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def run(self, directory, snapshot, max_minutes, verbose):
        """Train to the end, or to the time limit, and write everything."""
        schedule = learning_rate_schedule(self.recipe, self.total_steps)
        averaged = self.recipe.ema_decay > 0
        balanced = self.recipe.class_weights == "balanced"
        records = Records(directory, self.loader, schedule, averaged, balanced, snapshot, max_minutes)
        complete = True
        try:
            self._fit(directory, records, snapshot, verbose)
        except OutOfTime:
            complete = False
        if records.rows:
            write_history(directory / "history.csv", records.rows)
            draw_curves(directory / "curves.png", records.rows)
        if not complete:
            return TrainResult(
                directory, directory / "curves.png", [], None, records.rows, None, None, self.dataset.bad
            )
        return self._finish(directory, records)

    def _fit(self, directory, records, snapshot, verbose):
        stop = StopOnNaN()
        stop.first_batch = 0 if snapshot is None else snapshot.batch
        callbacks = [stop, *([Averages()] if self.recipe.ema_decay else []), records]
        every = self.settings["monitor_every"]
        every = max(1, round(self.recipe.epochs / 10)) if every is None else every
        monitor = None
        if every:
            images, titles = _examples(self.classifier, self.validation, 3)
            monitor = TrainMonitor(images, directory / "monitor", every, titles=titles)
            callbacks.insert(0, monitor)
        with contextlib.ExitStack() as stack:
            if self.settings["tensorboard"]:
                board = stack.enter_context(contextlib.closing(TensorBoard(directory / "tensorboard")))
                callbacks.insert(-1, board)  # before records, which may end it all
            self._fit_from(snapshot, callbacks, verbose)
        if monitor is not None and snapshot is not None and snapshot.epoch == self.recipe.epochs:
            monitor.draw_filmstrips()  # the run was killed after its last epoch, maybe before this

    def _fit_from(self, snapshot, callbacks, verbose):
        first = 0 if snapshot is None else snapshot.epoch
        if snapshot is not None:
            self._make_metrics()
            restore(snapshot, self.classifier)
        if snapshot is not None and snapshot.batch:
            # Keras takes all epochs of a fit to be as long as its first: the rest of one is a fit of its own.
            self.loader.first_batch = snapshot.batch
            self._fit_epochs(callbacks, first, first + 1, verbose)
            self.loader.first_batch = 0
            first += 1
        if first < self.recipe.epochs:
            self._fit_epochs(callbacks, first, self.recipe.epochs, verbose)

    def _fit_epochs(self, callbacks, first, last, verbose):
        try:
            self.classifier.fit(
                self.loader,
                initial_epoch=first,
                epochs=last,
                shuffle=False,  # Keras would shuffle by Python's generator; the loader has its own order
                validation_data=self.validation_loader,
                callbacks=callbacks,
                verbose=verbose,
            )
        except Exception as error:
            for loader in (self.loader, self.validation_loader):
                if loader.problem not in (None, error):  # TensorFlow makes an error of its own of it
                    raise loader.problem from error
            raise

    def _make_metrics(self):
        """Keras makes the variables of metrics with the first batch; `evaluate` changes nothing else."""
        images, targets, *_ = self.validation_loader[0]
        self.classifier.evaluate(images[:1], targets[:1], verbose=0)

    def _finish(self, directory, records):
        """Put the chosen weights in place and write the preset, the pictures and the report."""
        classifier, recipe = self.classifier, self.recipe
        if recipe.keep_weights == "best":
            for variable, value in zip(
                classifier.trainable_variables, read_weights(directory / "best.npz"), strict=True
            ):
                variable.assign(value)
        elif recipe.ema_decay:
            classifier.optimizer.swap_averages(classifier.trainable_variables)
        write_preset_files(classifier, directory)
        test = self.dataset.splits.get("test")
        shown, kind = (self.validation, "validation") if test is None else (test, "test")
        panels = _draw_panels(classifier, shown, kind, directory / "panels")
        found = evaluate(_logits(classifier, shown, recipe.batch_size), shown.labels, classifier.class_names)
        write_evaluation(directory, found, self.settings["data"], kind)
        test_accuracy = None if test is None else found.top1
        rows = records.rows
        best = best_row(rows, recipe.class_weights == "balanced")
        kept = best if recipe.keep_weights == "best" else rows[-1]
        facts = {
            "validation accuracy": f"{kept['val_accuracy']:.4f} in epoch {kept['epoch']}",
            "test accuracy": "no test split" if test_accuracy is None else f"{test_accuracy:.4f}",
            "training": f"{records.minutes:.1f} minutes, {rows[-1]['images_per_second']:.0f} images/s",
            "data": self.settings["data"],
            "images": f"{len(self.training):,} to train, {len(self.validation):,} to validate",
            "parameters": f"{classifier.count_params():,}",
            "backend": f"{keras.backend.backend()}, Keras {keras.__version__}, focalnets {__version__}",
        }
        filmstrips = sorted((directory / "monitor").glob("filmstrip.*.png"))
        sections = [
            ("Curves", [directory / "curves.png"]),
            (f"Confusion of {kind} images", [directory / "confusion.png"]),
            (f"Gates and modulators, {kind} images", panels),
            ("While it learned", filmstrips),
        ]
        report = directory / "report.html"
        write_report(report, recipe, facts, rows, kept, sections)
        curves = directory / "curves.png"
        return TrainResult(directory, curves, panels, report, rows, kept, test_accuracy, self.dataset.bad)


def _examples(classifier, split, most):
    """(images, class names) of the first image of up to `most` classes."""
    labels, rows = np.unique(split.labels, return_index=True)
    labels, rows = labels[:most], rows[:most]
    return split.batch(rows), [classifier.class_names[label] for label in labels]


def _draw_panels(classifier, split, kind, folder):
    """Panels of the last block of each stage, for the first image of up to `PANEL_IMAGES` classes."""
    images, titles = _examples(classifier, split, PANEL_IMAGES)
    maps = modulation_maps(classifier, images)
    last_blocks = {name.split("_")[0]: name for name in maps}  # the last of a stage wins
    folder.mkdir(exist_ok=True)
    paths = []
    for name in last_blocks.values():
        paths.append(folder / f"{name}.png")
        draw_panels(paths[-1], images, maps[name], titles, heading=f"{name}, {kind} images")
    return paths


def _logits(classifier, split, batch_size):
    loader = Loader(split, classifier.num_classes, batch_size)
    return np.concatenate([classifier.predict_on_batch(images) for images, _ in loader])
