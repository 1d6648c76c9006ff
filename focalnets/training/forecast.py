"""Say how long a training will take, once its first steps show how fast they are."""

import logging
import time

import keras
from keras import ops

from focalnets.names import plural

WORTH_SAYING_MINUTES = 10.0

_WARM_UP = 3  # steps: the first ones compile
_STEPS, _SECONDS = 20, 10.0  # measure until one of them is reached

_log = logging.getLogger("focalnets")


class Forecast(keras.callbacks.Callback):
    """Log an estimate of the time that a training of more than ten minutes takes, once.

    Args:
        images: int. Number of training images.
        epochs: int. Epochs of the whole training.
        total_steps: int. Batches of all epochs.
        first_step: int. Batches that an earlier session has trained on. Defaults to 0.

    >>> from focalnets.training.forecast import in_words
    >>> in_words(25.2), in_words(200.0)
    ('25 minutes', '3.3 hours')
    """

    def __init__(self, images, epochs, total_steps, first_step=0):
        super().__init__()
        self.images, self.epochs = images, epochs
        self.total_steps, self.step = total_steps, first_step
        self._measured = -_WARM_UP
        self._said = False

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        self._measured += 1
        if self._said or self._measured < 0:
            return
        if self._measured == 0:
            self._started = _now(logs)
        elif self._measured >= _STEPS or time.monotonic() - self._started > _SECONDS:
            self._said = True
            self._say((_now(logs) - self._started) / self._measured)

    def _say(self, seconds):
        remaining = self.total_steps - self.step
        minutes = remaining * seconds / 60
        if minutes > WORTH_SAYING_MINUTES:
            _log.warning(
                "Training on %s images for %d %s takes about %s (%s batches left, %.2g s each). For "
                "less, use fewer epochs (--epochs) or smaller images (--set image_size=...). To train in "
                "parts, use --max-minutes and --resume.",
                f"{self.images:,}",
                self.epochs,
                plural(self.epochs, "epoch"),
                in_words(minutes),
                f"{remaining:,}",
                seconds,
            )


def in_words(minutes):
    """A time of some minutes or hours, rounded."""
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _now(logs):
    """The time when the step is really done: a GPU's loss is there only then."""
    ops.convert_to_numpy(logs["loss"])
    return time.monotonic()
