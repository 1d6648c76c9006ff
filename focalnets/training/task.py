"""Training task: targets, loss, metrics, and the choice of the best epoch.

`Trainer`, `Loader` and `RunRecorder` use only this interface. Another task, such as one label per pixel, is
another class.
"""

from dataclasses import dataclass

import keras
import numpy as np

from focalnets.presets.files import IMAGE_CLASSIFICATION


@dataclass(frozen=True)
class ImageClassification:
    """Classification with one label per image.

    Args:
        num_classes: int. Number of classes.
        class_weights: array (num_classes,) or None. Factors on the loss of each class. Defaults to `None`.
        label_smoothing: float. Fraction of each target that is spread over all classes. Defaults to 0.

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
        """Convert labels (B,) to one-hot targets (B, num_classes), float32."""
        targets = np.zeros((len(labels), self.num_classes), "float32")
        targets[np.arange(len(labels)), labels] = 1
        return targets

    def sample_weights(self, targets):
        """Factors on the loss of each image, float32 (B,), or None without class weights."""
        return None if self.class_weights is None else targets @ np.asarray(self.class_weights, "float32")

    def loss(self):
        """Keras loss on logits."""
        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=self.label_smoothing)

    def metrics(self):
        """Keras metrics."""
        return ["accuracy"]

    def best_row(self, rows):
        """History row of the best epoch: the highest validation accuracy, and among equals the lowest loss.

        With class weights, it is the lowest validation loss, which has the same weights. Accuracy can be
        highest where rare classes are never predicted.

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
