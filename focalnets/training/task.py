"""The task that a network is trained for: targets, loss, metrics, and the choice of the best epoch.

`Trainer`, `Loader` and `RunRecorder` know a task only by this interface, so that another task, such as one
label per pixel, is another class.
"""

from dataclasses import dataclass

import keras
import numpy as np

from focalnets.presets.files import IMAGE_CLASSIFICATION


@dataclass(frozen=True)
class ImageClassification:
    """One label per image, out of `num_classes`.

    Args:
        num_classes: int. Number of classes.
        class_weights: Array of shape (classes,). Factors on the loss of an image by its class. Defaults to
            None.
        label_smoothing: float from 0 to 1. Fraction of each target that is spread over all classes. Defaults
            to 0.

    >>> import numpy as np
    >>> from focalnets.training.task import ImageClassification
    >>> ImageClassification(3).targets(np.array([2, 0])).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """

    num_classes: int
    class_weights: np.ndarray | None = None
    label_smoothing: float = 0.0

    name = IMAGE_CLASSIFICATION
    monitored = ("val_loss", "val_accuracy")  # columns of the history that choose the best epoch

    def targets(self, labels):
        """One-hot targets (B, classes), float32, of labels (B,)."""
        targets = np.zeros((len(labels), self.num_classes), "float32")
        targets[np.arange(len(labels)), labels] = 1
        return targets

    def sample_weights(self, targets):
        """Factors on the loss of each image, (B,) float32, or None."""
        return None if self.class_weights is None else targets @ np.asarray(self.class_weights, "float32")

    def loss(self):
        """The loss, of logits."""
        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=self.label_smoothing)

    def metrics(self):
        """Metrics, by their names in Keras."""
        return ["accuracy"]

    def best_row(self, rows):
        """The row of the history with the highest validation accuracy; of these, the one with the lowest
        loss.

        With class weights, which the validation loss has then, the row with the lowest loss: accuracy may be
        highest where rare classes are found least.

        >>> from focalnets.training.task import ImageClassification
        >>> rows = [{"epoch": 1, "val_accuracy": 0.9, "val_loss": 0.5}]
        >>> rows += [{"epoch": 2, "val_accuracy": 0.9, "val_loss": 0.4}]
        >>> ImageClassification(2).best_row(rows)["epoch"]
        2
        >>> rows += [{"epoch": 3, "val_accuracy": 0.1, "val_loss": 0.3}]
        >>> ImageClassification(2, class_weights=[1, 2]).best_row(rows)["epoch"]
        3
        """
        if self.class_weights is not None:
            return min(rows, key=lambda row: row["val_loss"])
        return max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
