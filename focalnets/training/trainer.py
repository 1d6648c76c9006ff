"""`Trainer`: network, data and `fit` of a run, new or resumed."""

import contextlib
import hashlib
import json
import logging

import keras

from focalnets.conversion.open import open_classifier
from focalnets.data.batch_part import BatchPart
from focalnets.data.datasets import open_dataset
from focalnets.data.loader import Loader
from focalnets.ops.processes import alone, fetch
from focalnets.report.figures import draw_curves
from focalnets.training.build import class_weights, freeze, make_classifier, make_converter, training_splits
from focalnets.training.callbacks import StopOnNaN, TensorBoard, TrainMonitor
from focalnets.training.checkpoint import restore
from focalnets.training.forecast import Forecast
from focalnets.training.optimizer import learning_rate_schedule, make_optimizer
from focalnets.training.run_recorder import AcrossProcesses, Averages, OutOfTime, RunRecorder, write_history
from focalnets.training.signals import HeldSignals
from focalnets.training.task import ImageClassification

_log = logging.getLogger("focalnets")


class Trainer:
    """A compiled network and its data.

    Args:
        recipe: `Recipe`. Its precision must not be "auto".
        settings: dict. The arguments data, on_bad_image, cache_images, monitor_every and tensorboard of
            `train`.
        processes: `Processes` or None. Defaults to `None`, a run of one process.

    Raises:
        ValueError: if the data cannot be read or do not fit the recipe.
    """

    def __init__(self, recipe, settings, processes=None):
        self.recipe, self.settings, self.processes = recipe, settings, processes
        part = None
        if processes is not None:
            part = BatchPart(processes.part, processes.parts, processes.devices)
        keras.utils.set_random_seed(recipe.seed)
        start = open_classifier(recipe.preset) if recipe.preset else None
        self.converter = make_converter(recipe, start)
        channels = len(self.converter.mean)
        cache_images = "stream" if recipe.augmentation.needs_originals else settings["cache_images"]
        self.dataset = open_dataset(
            settings["data"], channels, self.converter.prepare, settings["on_bad_image"], cache_images
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
        self.task = ImageClassification(self.classifier.num_classes, weights, recipe.label_smoothing)
        self.loader = Loader(
            self.training,
            self.task,
            recipe.batch_size,
            shuffle=True,
            augmentation=recipe.augmentation,
            image_size=self.converter.image_size,
            seed=recipe.seed,
            part=part,
        )
        self.total_steps = recipe.epochs * self.loader.batches
        if self.total_steps < recipe.accumulation:
            raise ValueError(
                f"The run has {self.total_steps} batches, fewer than accumulation={recipe.accumulation}, so "
                "it never updates the weights. Use more epochs, or a smaller batch_size or accumulation."
            )
        optimizer = make_optimizer(recipe, self.classifier, self.total_steps)
        self.classifier.compile(
            optimizer=optimizer, loss=self.task.loss(processes), metrics=self.task.metrics(processes)
        )
        self.classifier.optimizer.build(self.classifier.trainable_variables)
        self.validation_loader = Loader(self.validation, self.task, recipe.batch_size, part=part)

    def fingerprint(self):
        """Hash of data and preprocessing. The preset to start from may change between sessions."""
        config = self.converter.get_config()
        converter = [config[key] for key in ("image_size", "crop_fraction", "interpolation", "mean", "std")]
        splits = (self.training, self.validation, self.dataset.splits.get("test"))
        prints = [split.fingerprint() for split in splits if split is not None]
        text = json.dumps([self.dataset.class_names, converter, prints])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def fit(self, directory, snapshot=None, max_minutes=None, verbose="auto"):
        """Train to the end or to the time limit, and write the files of the run directory.

        Args:
            directory: `pathlib.Path`. Run directory.
            snapshot: `Snapshot` or None. State to resume from. Defaults to `None`, a new run.
            max_minutes, verbose: See `train`.

        Returns:
            Tuple: `RunRecorder`, and whether training is complete.
        """
        schedule = learning_rate_schedule(self.recipe, self.total_steps)
        averaged = self.recipe.ema_decay > 0
        complete = True
        with HeldSignals() as signals:
            recorder = RunRecorder(
                directory,
                self.loader,
                self.task,
                schedule,
                averaged,
                snapshot,
                max_minutes,
                signals,
                self.processes,
            )
            try:
                self._fit(directory, recorder, snapshot, verbose)
            except OutOfTime:
                complete = False
        if recorder.rows and recorder.writes:
            write_history(directory / "history.csv", recorder.rows)
            draw_curves(directory / "curves.png", recorder.rows)
        return recorder, complete

    def _fit(self, directory, recorder, snapshot, verbose):
        stop = StopOnNaN()
        stop.first_batch = 0 if snapshot is None else snapshot.batch
        done = 0 if snapshot is None else snapshot.epoch * self.loader.batches + snapshot.batch
        forecast = Forecast(len(self.training), self.recipe.epochs, self.total_steps, done)
        callbacks = [stop, forecast, *([Averages()] if self.recipe.ema_decay else []), recorder]
        if self.processes is not None:
            callbacks.insert(0, AcrossProcesses(self.processes, self.loader, self.validation_loader))
        every = self._monitor_every() if recorder.writes else 0
        monitor = None
        if every:
            shown = self.validation.one_of_each(3)
            titles = [self.classifier.class_names[label] for label in shown.labels]
            monitor = TrainMonitor(
                shown.images, directory / "monitor", every, titles=titles, labels=shown.labels
            )
            callbacks.insert(0, monitor)
        with contextlib.ExitStack() as stack:
            if self.settings["tensorboard"] and recorder.writes:
                board = stack.enter_context(contextlib.closing(TensorBoard(directory / "tensorboard")))
                callbacks.insert(-1, board)  # before the recorder, which may end the run
            self._fit_from(snapshot, callbacks, verbose)
        if monitor is not None and snapshot is not None and snapshot.epoch == self.recipe.epochs:
            monitor.draw_filmstrips()  # the run may have been killed between its last epoch and this call

    def _monitor_every(self):
        """Epochs between two figures, 0 for none."""
        every = self.settings["monitor_every"]
        every = max(1, round(self.recipe.epochs / 10)) if every is None else every
        if every and self.processes is not None and not self.processes.sums_metrics:
            _log.info("There are no figures in monitor/: on JAX, the network is spread over all devices.")
            return 0
        return every

    def single(self):
        """The classifier for process 0 alone. On JAX, a copy, because the original is on all devices."""
        if self.processes is None or self.processes.sums_metrics:
            return self.classifier
        weights = fetch(self.classifier.weights, everywhere=False)
        if self.processes.rank:
            return None
        with alone():
            copy = type(self.classifier).from_config(self.classifier.get_config())
            copy.set_weights(weights)
        return copy

    def _fit_from(self, snapshot, callbacks, verbose):
        first = 0 if snapshot is None else snapshot.epoch
        if snapshot is not None:
            self._make_metrics()
            restore(snapshot, self.classifier)
        if snapshot is not None and snapshot.batch:
            # In one `fit`, all epochs have the length of the first. A partial epoch needs its own `fit`.
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
                shuffle=False,  # the loader shuffles, as a function of its seed
                validation_data=self.validation_loader,
                callbacks=callbacks,
                verbose=verbose,
            )
        except Exception as error:
            for loader in (self.loader, self.validation_loader):
                if loader.problem not in (None, error):  # TensorFlow replaces the error by its own
                    raise loader.problem from error
            raise

    def _make_metrics(self):
        """Create the variables of the metrics, which Keras does with the first batch."""
        images, targets, *_ = self.validation_loader[0]
        rows = 1 if self.processes is None else len(images)  # JAX splits them over its devices
        self.classifier.evaluate(images[:rows], targets[:rows], batch_size=rows, verbose=0)
