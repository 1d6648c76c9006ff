"""Callbacks of `train` itself: they keep the run directory such that a run survives a crash at any moment."""

import csv
import io
import time

import keras
import numpy as np
from keras import ops

from focalnets.output.files import writing
from focalnets.report.figures import draw_curves
from focalnets.training.checkpoint import take_snapshot, write_snapshot, write_weights

# A run that is killed in a long epoch loses no more than this.
SNAPSHOT_MINUTES = 10.0


class OutOfTime(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """Training reached its time limit; everything is saved."""


class Averages(keras.callbacks.Callback):
    """Validation with the averaged weights; training goes on with its own."""

    def on_test_begin(self, logs=None):
        self.model.optimizer.swap_averages(self.model.trainable_variables)

    def on_test_end(self, logs=None):
        self.model.optimizer.swap_averages(self.model.trainable_variables)


class RunRecorder(keras.callbacks.Callback):
    """Keep the run directory such that the run can be taken up after a crash at any moment.

    At the end of each epoch, in this order: the best weights so far, a snapshot, history.csv, curves.png.
    Within long epochs a snapshot every ten minutes.

    Args:
        directory: run directory.
        loader: training `Loader`, which is told the epoch.
        task: The task, which chooses the best epoch.
        schedule: learning rate by step.
        averaged: whether the weights to keep are the optimizer's averages.
        snapshot: `Snapshot` the run starts from, or None.
        max_minutes: stop by raising `OutOfTime`, after a snapshot; None for no limit.
        signals: `HeldSignals`. A signal that it holds is delivered after a snapshot. None for no signals.
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
        self.started = self.last_snapshot = time.monotonic()

    @property
    def minutes(self):
        """Of training, over all sessions."""
        return self.minutes_before + (time.monotonic() - self.started) / 60

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.first_batch = epoch, 0
        if self.resumed is not None and self.resumed.batch:
            # Keras has just reset the metrics; the rest of an epoch goes on from where they were.
            self.first_batch = self.resumed.batch
            count = len(self.model.metrics_variables)
            for variable, value in zip(
                self.model.metrics_variables, self.resumed.arrays[-count:], strict=True
            ):
                variable.assign(value)
        self.resumed = None
        self.loader.epoch = epoch
        self.epoch_started = time.perf_counter()

    @property
    def _out_of_time(self):
        return self.max_minutes is not None and time.monotonic() - self.started > 60 * self.max_minutes

    @property
    def _is_to_stop(self):
        return self._out_of_time or (self.signals is not None and self.signals.received is not None)

    def _stop(self):
        if self.signals is not None:
            self.signals.deliver()  # which raises KeyboardInterrupt, unless a handler of the user's does not
        if self._out_of_time:
            raise OutOfTime

    def on_train_batch_end(self, batch, logs=None):
        stop = self._is_to_stop
        if not stop and time.monotonic() - self.last_snapshot < 60 * SNAPSHOT_MINUTES:
            return
        done = self.first_batch + batch + 1
        if done < self.loader.batches:  # the end of the epoch sees to itself
            self._snapshot(self.epoch, done)
            if stop:
                self._stop()

    def on_test_begin(self, logs=None):
        self.trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = self.trained - self.epoch_started  # without validation
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
            write_weights(self.directory / "best.npz", self._weights())
        self._snapshot(epoch + 1, 0)
        write_history(self.directory / "history.csv", self.rows)
        draw_curves(self.directory / "curves.png", self.rows)
        if self._is_to_stop:
            self._stop()

    def _weights(self):
        chosen = self.model.optimizer.averages if self.averaged else self.model.trainable_variables
        return [np.array(ops.convert_to_numpy(variable)) for variable in chosen]

    def _snapshot(self, epoch, batch):
        if hasattr(self.model, "jax_state_sync"):  # on JAX, the variables lag behind within an epoch
            self.model.jax_state_sync()
        snapshot = take_snapshot(self.model, epoch, batch, self.rows, self.minutes)
        write_snapshot(self.directory / "last.npz", snapshot)
        self.last_snapshot = time.monotonic()

    def _rate(self, step):
        return float(ops.convert_to_numpy(self.schedule(step)))


def write_history(path, rows):
    """Write history.csv anew, by write-then-rename, so that each epoch is in it once."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with writing(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")
