"""Training task: targets, loss, metrics, and the choice of the best epoch.

`Trainer`, `Loader` and `RunRecorder` use only this interface. Another task, such as one label per pixel, is
another class.
"""

from dataclasses import dataclass

import keras
import numpy as np

from focalnets.presets.files import IMAGE_CLASSIFICATION


class _PaddedAccuracy(keras.metrics.CategoricalAccuracy):
    """Accuracy without the padding of the batch, whose targets are zeros."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        counted = keras.ops.cast(keras.ops.any(y_true > 0, axis=-1), "float32")
        return super().update_state(y_true, y_pred, counted if sample_weight is None else sample_weight)


class _PaddedCrossentropy(keras.losses.CategoricalCrossentropy):
    """Cross-entropy whose gradient is that of the mean over the images, without the padding of the batch.

    Its value is the mean over all rows, because Keras counts rows in its running average.
    """

    def __init__(self, processes, **arguments):
        super().__init__(**arguments)
        self.processes = processes

    def __call__(self, y_true, y_pred, sample_weight=None):
        loss = super().__call__(y_true, y_pred, sample_weight)
        rows = y_true.shape[0]
        if self.processes.sums_metrics:  # only a part of the batch is here
            images, rows = self.processes.rows, rows * self.processes.count
        else:
            images = keras.ops.sum(keras.ops.cast(keras.ops.any(y_true > 0, axis=-1), "float32"))
        if images is None or rows is None:  # validation, or a symbolic call
            return loss
        scaled = loss * (rows / images)
        return scaled + keras.ops.stop_gradient(loss - scaled)


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

    def loss(self, processes=None):
        """Keras loss on logits.

        Args:
            processes: `Processes` that share each batch, or None. Defaults to `None`.
        """
        arguments = {"from_logits": True, "label_smoothing": self.label_smoothing}
        if processes is None:
            return keras.losses.CategoricalCrossentropy(**arguments)
        return _PaddedCrossentropy(processes, **arguments)

    def metrics(self, processes=None):
        """Keras metrics. `processes` as in `loss`."""
        return ["accuracy"] if processes is None else [_PaddedAccuracy(name="accuracy")]

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
