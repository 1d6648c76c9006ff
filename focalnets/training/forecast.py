"""`Forecast`: estimates the duration of a training from its first steps."""

import logging
import time

import keras
from keras import ops

from focalnets.names import plural

LONG_MINUTES = 10.0

_WARM_UP = 3  # number of first steps, which compile
_STEPS, _SECONDS = 20, 10.0  # the measurement ends at the first of these limits

_log = logging.getLogger("focalnets")


class Forecast(keras.callbacks.Callback):
    """Log the estimated duration of a training of more than ten minutes, once.

    Args:
        images: int. Number of training images.
        epochs: int. Number of epochs.
        total_steps: int. Number of batches in all epochs.
        first_step: int. Number of batches that earlier sessions completed. Defaults to 0.

    >>> from focalnets.training.forecast import in_words
    >>> in_words(25.2), in_words(200.0)
    ('25 minutes', '3.3 hours')
    """

    def __init__(self, images, epochs, total_steps, first_step=0):
        super().__init__()
        self.images, self.epochs = images, epochs
        self.total_steps, self.step = total_steps, first_step
        self._measured = -_WARM_UP
        self._logged = False

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        self._measured += 1
        if self._logged or self._measured < 0:
            return
        if self._measured == 0:
            self._started = _now(logs)
        elif self._measured >= _STEPS or time.monotonic() - self._started > _SECONDS:
            self._logged = True
            self._log_estimate((_now(logs) - self._started) / self._measured)

    def _log_estimate(self, seconds):
        remaining = self.total_steps - self.step
        minutes = remaining * seconds / 60
        if minutes > LONG_MINUTES:
            _log.warning(
                "Training on %s images for %d %s takes about %s (%s batches remain, %.2g s each). To shorten "
                "it, use fewer epochs (--epochs) or smaller images (--set image_size=...). To train in "
                "parts, use --max-minutes and --resume.",
                f"{self.images:,}",
                self.epochs,
                plural(self.epochs, "epoch"),
                in_words(minutes),
                f"{remaining:,}",
                seconds,
            )


def in_words(minutes):
    """A rounded duration in minutes or hours."""
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _now(logs):
    """Time at which the step is complete. Reading the loss waits for the device."""
    ops.convert_to_numpy(logs["loss"])
    return time.monotonic()
