"""Callbacks that write history, weights and snapshots of a run, so that it can resume after a crash."""

import contextlib
import csv
import io
import math
import time

import keras
import numpy as np
from keras import ops

from focalnets.ops.processes import fetch
from focalnets.output.files import writing
from focalnets.report.figures import draw_curves
from focalnets.training.checkpoint import take_snapshot, write_snapshot, write_weights

# Interval of snapshots within an epoch: a killed run loses at most this.
SNAPSHOT_MINUTES = 10.0
CURVES_SECONDS = 10.0


# Several processes agree on whether to stop about this often, because they must do so after the same batch.
AGREEMENT_SECONDS = 1.0
AGREED_BATCHES = 4  # batches of an epoch after which the time of one is known


class OutOfTime(Exception):  # noqa: N818 - not an error
    """Raised after a snapshot when training reaches its time limit."""


class Averages(keras.callbacks.Callback):
    """Validate with the averaged weights. Training continues with the weights themselves."""

    def on_test_begin(self, logs=None):
        self.model.optimizer.swap_averages(self.model.trainable_variables)

    def on_test_end(self, logs=None):
        self.model.optimizer.swap_averages(self.model.trainable_variables)


class AcrossProcesses(keras.callbacks.Callback):
    """Metrics of all processes of a run, and the size of the current batch of all processes.

    Args:
        processes: `Processes`.
        loader, validation: `Loader` of the training and of the validation images, with a `BatchPart`.
    """

    def __init__(self, processes, loader, validation):
        super().__init__()
        self.processes, self.loader, self.validation = processes, loader, validation

    def on_train_batch_begin(self, batch, logs=None):
        self.processes.rows = self.loader.rows_in(self.loader.first_batch + batch)

    def on_test_begin(self, logs=None):
        self.processes.rows = None
        self.trained = self._metrics(self.loader)  # Keras resets them now

    def on_test_end(self, logs=None):
        self.validated = self._metrics(self.validation)

    def on_epoch_end(self, epoch, logs=None):
        logs.update(self.trained)
        logs.update({f"val_{name}": value for name, value in self.validated.items()})

    def _metrics(self, loader):
        """Metrics of all processes at the end of an epoch."""
        with whole_metrics(self.model, self.processes, len(loader.split)):
            return {name: float(value) for name, value in self.model.get_metrics_result().items()}


@contextlib.contextmanager
def whole_metrics(model, processes, images):
    """During the block, the metrics have the values of one process.

    Args:
        model: Compiled model.
        processes: `Processes`. On torch, the metrics of all of them are added up.
        images: int. Number of images so far. Keras divides the sum of the losses by all rows, with padding.
    """
    variables = model.metrics_variables
    own = [np.array(ops.convert_to_numpy(variable)) for variable in variables]
    if processes.sums_metrics:
        sums = processes.gather(np.concatenate([array.ravel() for array in own])).sum(axis=0)
        for variable, value in zip(
            variables, np.split(sums, np.cumsum([a.size for a in own])[:-1]), strict=True
        ):
            variable.assign(value.reshape(variable.shape))
    (loss,) = (metric for metric in model.metrics if metric.name == "loss")
    loss.count.assign(images)
    try:
        yield
    finally:
        for variable, value in zip(variables, own, strict=True):
            variable.assign(value)


class RunRecorder(keras.callbacks.Callback):
    """Write the files from which a run resumes after a crash.

    Each epoch writes, in this order: the best weights so far, a snapshot, history.csv, and curves.png (at
    most every ten seconds). Within an epoch, a snapshot is written every ten minutes.

    Args:
        directory: `pathlib.Path`. Run directory.
        loader: `Loader` of the training images. Its `epoch` is set at the start of each epoch.
        task: Task, which chooses the best epoch.
        schedule: function from a step to its learning rate.
        averaged: bool. Whether `best.npz` stores the averages of the optimizer.
        snapshot: `Snapshot` or None. State to resume from. Defaults to `None`.
        max_minutes: float or None. Raise `OutOfTime` after this time and a snapshot. Defaults to `None`.
        signals: `HeldSignals` or None. A held signal is delivered after a snapshot. Defaults to `None`.
        processes: `Processes` or None. All of them call the recorder, and process 0 writes. Defaults to
            `None`, a run of one process.
    """

    def __init__(
        self,
        directory,
        loader,
        task,
        schedule,
        averaged,
        snapshot=None,
        max_minutes=None,
        signals=None,
        processes=None,
    ):
        super().__init__()
        self.directory = directory
        self.loader = loader
        self.task = task
        self.schedule = schedule
        self.averaged = averaged
        self.resumed = snapshot
        self.rows = [] if snapshot is None else list(snapshot.rows)
        self.minutes_before = 0.0 if snapshot is None else snapshot.minutes
        self.max_minutes = max_minutes
        self.signals = signals
        self.processes = processes
        self.writes = processes is None or processes.rank == 0
        self.agree_every = 1
        self.started = self.last_snapshot = time.monotonic()
        self.drawn = -math.inf  # time of the last curves.png; the trainer draws it once more at the end

    @property
    def minutes(self):
        """Minutes of training, over all sessions."""
        return self.minutes_before + (time.monotonic() - self.started) / 60

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.first_batch = epoch, 0
        if self.resumed is not None and self.resumed.batch:
            # Keras has just reset the metrics: restore their state for the rest of the epoch.
            self.first_batch = self.resumed.batch
            count = len(self.model.metrics_variables)
            for variable, value in zip(
                self.model.metrics_variables, self.resumed.arrays[-count:], strict=True
            ):
                apart = self.processes is not None and self.processes.sums_metrics
                variable.assign(value * 0 if apart and not self.writes else value)
        self.resumed = None
        self.loader.epoch = epoch
        self.agree_every = 1
        self.epoch_started = time.perf_counter()

    @property
    def _out_of_time(self):
        return self.max_minutes is not None and time.monotonic() - self.started > 60 * self.max_minutes

    def _agreed(self):
        """(received a signal, out of time, snapshot is due), in any process."""
        signaled = self.signals is not None and self.signals.received is not None
        due = time.monotonic() - self.last_snapshot >= 60 * SNAPSHOT_MINUTES
        found = [signaled, self._out_of_time, due]
        return found if self.processes is None else self.processes.gather(found).any(axis=0)

    def _stop(self, signaled, out_of_time):
        if self.signals is not None:
            self.signals.deliver()  # raises KeyboardInterrupt, unless a handler of the user does not
        if signaled and self.processes is not None:
            raise KeyboardInterrupt("Another process of the run received a signal.")
        if out_of_time:
            raise OutOfTime

    def on_train_batch_end(self, batch, logs=None):
        if batch % self.agree_every:
            return
        signaled, out_of_time, due = self._agreed()
        if self.processes is not None and batch == AGREED_BATCHES:
            seconds = (time.perf_counter() - self.epoch_started) / batch
            self.agree_every = round(
                np.clip(AGREEMENT_SECONDS / self.processes.gather([seconds]).max(), 1, 64)
            )
        if not (signaled or out_of_time or due):
            return
        done = self.first_batch + batch + 1
        if done < self.loader.batches:  # `on_epoch_end` writes the snapshot after the last batch
            self._snapshot(self.epoch, done)
            if signaled or out_of_time:
                self._stop(signaled, out_of_time)

    def on_test_begin(self, logs=None):
        self.trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.trained - self.epoch_started  # validation is not included
        images = len(self.loader.split) - self.first_batch * self.loader.batch_size
        row = {
            "epoch": epoch + 1,
            **{name: float(value) for name, value in logs.items()},
            "learning_rate": self._rate((epoch + 1) * self.loader.batches - 1),
            "seconds": round(seconds, 3),
            "images_per_second": round(images / seconds, 1),
            "minutes": round(self.minutes, 3),
        }
        self.rows.append(row)
        if self.task.best_row(self.rows) is row:
            weights = self._weights()
            if self.writes:
                write_weights(self.directory / "best.npz", weights)
        signaled, out_of_time, _ = self._agreed()
        self._snapshot(epoch + 1, 0)
        stop = signaled or out_of_time
        if self.writes:
            write_history(self.directory / "history.csv", self.rows)
            if stop or time.monotonic() - self.drawn > CURVES_SECONDS:
                draw_curves(self.directory / "curves.png", self.rows)
                self.drawn = time.monotonic()
        if stop:
            self._stop(signaled, out_of_time)

    def _weights(self):
        chosen = self.model.optimizer.averages if self.averaged else self.model.trainable_variables
        return fetch(chosen, everywhere=False)

    def _snapshot(self, epoch, batch):
        if hasattr(self.model, "jax_state_sync"):  # on JAX, the variables are stale within an epoch
            self.model.jax_state_sync()
        whole = contextlib.nullcontext()
        if self.processes is not None and batch:  # at the end of an epoch, they are no longer needed
            images = min(batch * self.loader.batch_size, len(self.loader.split))
            whole = whole_metrics(self.model, self.processes, images)
        with whole:
            snapshot = take_snapshot(self.model, epoch, batch, self.rows, self.minutes)
        if self.writes:
            write_snapshot(self.directory / "last.npz", snapshot)
        self.last_snapshot = time.monotonic()

    def _rate(self, step):
        return float(ops.convert_to_numpy(self.schedule(step)))


def write_history(path, rows):
    """Replace history.csv atomically, so that each epoch occurs once."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with writing(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")
