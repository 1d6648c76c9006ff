"""`Evaluation`: metrics from logits and labels, with their files and table."""

import csv
from dataclasses import dataclass

import numpy as np

from focalnets.names import csv_cell
from focalnets.output.directories import new_output_directory
from focalnets.output.files import filling, write_json, writing
from focalnets.prediction.predictor import NOT_FINITE, softmax
from focalnets.report.evaluation_figures import (
    draw_confusion,
    draw_corruptions,
    draw_mistakes,
    draw_reliability,
)
from focalnets.report.evaluation_page import class_table, write_evaluation_page
from focalnets.report.html import pairs

BINS = 15
_MATRIX_CLASSES = 100  # with more, a matrix in JSON would be larger than all other files of a run


@dataclass(frozen=True)
class ConfidentErrors:
    """Misclassified images, most confident first.

    Attributes:
        images: uint8 array (N, H, W, channels).
        titles: tuple of str. True class, predicted class and its probability for each image.
    """

    images: np.ndarray
    titles: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Metrics of a classifier on one split. Fractions are 0 to 1.

    Attributes:
        images: int. Number of images.
        top1: float. Fraction of images whose class has the highest probability.
        top5: float or None. Fraction of images whose class is among the five most probable ones. None for
            five classes or fewer.
        loss: float. Mean negative log-likelihood (NLL) in nats.
        ece: float. Expected calibration error: mean absolute difference between confidence and accuracy over
            15 equal-width bins, weighted by bin count (Guo et al., 2017).
        bins: array (15, 3). Mean confidence, accuracy (both 0 in an empty bin) and number of images.
        per_class: dict. Accuracy of each class by name. None for a class without images.
        confusion: int array (classes, classes). Rows are true classes, columns are predicted classes.
        data: str. Data set. Defaults to "".
        split: str. Split of the data set. Defaults to "".
        tta: dict or None. "views" (str), "top1", "loss" and "ece" with test-time augmentation. Defaults to
            None.
        corruptions: dict or None. Top-1 accuracy at severities 1 to 5 for each corruption. Defaults to None.
        errors: `ConfidentErrors` or None. Most confident errors. Defaults to None.
        unreadable: tuple of str. Skipped images, with the reason. Defaults to `()`.
    """

    images: int
    top1: float
    top5: float | None
    loss: float
    ece: float
    bins: np.ndarray
    per_class: dict[str, float | None]
    confusion: np.ndarray
    data: str = ""
    split: str = ""
    tta: dict | None = None
    corruptions: dict | None = None
    errors: ConfidentErrors | None = None
    unreadable: tuple[str, ...] = ()

    def __repr__(self):
        lines = [f"{name:<28}{value}" for name, value in self.facts().items()]
        return "\n".join([f"Evaluation of {self.data}, {self.split}", *(f"  {line}" for line in lines)])

    def _repr_html_(self):
        return pairs(self.facts().items()) + class_table(self)

    def facts(self):
        """Dict of the metrics of the split as text, by label."""
        facts = {"images": f"{self.images:,}", "top-1 accuracy": f"{self.top1:.2%}"}
        if self.top5 is not None:
            facts["top-5 accuracy"] = f"{self.top5:.2%}"
        facts["negative log-likelihood"] = f"{self.loss:.4f} nats"
        facts["expected calibration error"] = f"{self.ece:.2%}"
        if self.tta is not None:
            facts[f"test-time augmentation ({self.tta['views']})"] = (
                f"top-1 {self.tta['top1']:.2%}, negative log-likelihood {self.tta['loss']:.4f}, "
                f"calibration error {self.tta['ece']:.2%}"
            )
        if self.corruptions is not None:
            mean = np.mean(list(self.corruptions.values()))
            facts["top-1 accuracy, corrupted"] = f"{mean:.2%}, mean over corruptions and severities"
        return facts

    def record(self):
        """Dict of the metrics as JSON values, without the confusion matrix."""
        record = {
            "data": self.data,
            "split": self.split,
            "images": self.images,
            "top1": self.top1,
            "top5": self.top5,
            "loss": self.loss,
            "ece": self.ece,
            "per_class": self.per_class,
        }
        more = {"tta": self.tta, "corruptions": self.corruptions}
        return {**record, **{name: value for name, value in more.items() if value is not None}}

    def save(self, directory, force=False, html=False):
        """Write evaluation.json and figures to a directory, and optionally a page.

        Args:
            directory: str or path. Directory to create.
            force: bool. Write into a directory that is not empty. Files of an earlier evaluation are
                replaced, all other files are kept. Defaults to `False`.
            html: bool. Also write evaluation.html, one page with all results. Defaults to `False`.

        Raises:
            FileExistsError: if the directory is not empty and `force` is `False`.
        """
        with new_output_directory(directory, "evaluation", force) as directory:
            fill(directory, self, html)


def fill(directory, evaluation, html=False):
    """Write an `Evaluation` into a directory opened by `new_output_directory`."""
    with filling(directory, "evaluation") as partial:
        write_evaluation(partial, evaluation)
        if html:
            if evaluation.errors is not None:
                draw_mistakes(partial / "mistakes.png", evaluation.errors.images, evaluation.errors.titles)
            write_evaluation_page(partial / "evaluation.html", evaluation)


def evaluate_logits(logits, labels, class_names, **facts):
    """Compute an `Evaluation` from logits and labels.

    Args:
        logits: float array (N, classes).
        labels: int array (N,).
        class_names: sequence of str. One per class.
        facts: Further attributes of the `Evaluation`.

    Raises:
        ValueError: if there are no images, class names repeat, shapes differ, or a logit is not finite.

    >>> import numpy as np
    >>> from focalnets.prediction.evaluation import evaluate_logits
    >>> evaluate_logits(np.array([[2.0, 0.0], [1.0, 0.0]]), np.array([0, 1]), ("a", "b")).top1
    0.5
    """
    totals, classes = Totals(class_names), len(class_names)
    if len(labels) == 0:
        raise ValueError("No images to evaluate.")
    if logits.shape != (len(labels), classes) or labels.max() >= classes:
        raise ValueError(
            f"Logits of shape {logits.shape} do not fit {len(labels)} labels of {classes} classes."
        )
    totals.add(labels, **scores(logits, labels))
    return totals.evaluation(**facts)


def scores(logits, labels):
    """Scores of images, from which `Totals` computes metrics.

    Args:
        logits: float array (N, classes).
        labels: int array (N,).

    Returns:
        dict of arrays (N,): `predicted` (int, index of the class), `confidence` (float, probability of that
        class), `probability` (float, that of the label) and `rank` (int, position of the label among the
        classes, 1 for the most probable one).

    Raises:
        ValueError: if a logit is not finite.
    """
    if not np.isfinite(logits).all():
        raise ValueError(NOT_FINITE)
    rows = np.arange(len(labels))
    probabilities = softmax(logits)
    return {
        "predicted": logits.argmax(axis=-1),
        "confidence": probabilities.max(axis=-1),
        "probability": probabilities[rows, labels],
        "rank": 1 + np.sum(logits > logits[rows, labels][:, None], axis=-1),
    }


class Totals:
    """Sums over images, from which an `Evaluation` is computed. Their size does not depend on the images.

    Args:
        class_names: sequence of str. One per class.

    Raises:
        ValueError: if class names repeat.

    >>> import numpy as np
    >>> from focalnets.prediction.evaluation import Totals, scores
    >>> totals = Totals(("a", "b"))
    >>> for logits, label in ([2.0, 0.0], 0), ([1.0, 0.0], 1):
    ...     totals.add(np.array([label]), **scores(np.array([logits]), np.array([label])))
    >>> totals.evaluation().top1
    0.5
    """

    def __init__(self, class_names):
        self.class_names, classes = tuple(class_names), len(class_names)
        if len(set(class_names)) < classes:
            raise ValueError(
                f"The {classes} classes have only {len(set(class_names))} different names. Expected one name "
                "per class, because results are listed by name."
            )
        self.images = self._in_top5 = 0
        self._loss = 0.0
        self._confusion = np.zeros((classes, classes), "int32")
        self._bins = np.zeros((3, BINS))  # sums of confidence and of correct images, number of images

    def add(self, labels, predicted, confidence, probability, rank):
        """Add images: their labels (N,), and their `scores`."""
        self.images += len(labels)
        self._in_top5 += int(np.sum(rank <= 5))
        self._loss -= float(np.sum(np.log(probability.clip(1e-300))))
        np.add.at(self._confusion, (labels, predicted), 1)
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        for row, values in enumerate((confidence, predicted == labels, np.ones(len(labels)))):
            self._bins[row] += np.bincount(bins, values, minlength=BINS)

    def evaluation(self, **facts):
        """`Evaluation` of all images. `facts` are further attributes. There must be an image."""
        confidence, right, counts = self._bins
        bins = np.stack([confidence / counts.clip(1), right / counts.clip(1), counts], axis=1)
        of_class = self._confusion.sum(axis=1)
        return Evaluation(
            images=self.images,
            top1=float(np.trace(self._confusion) / self.images),
            top5=self._in_top5 / self.images if len(self.class_names) > 5 else None,
            loss=self._loss / self.images,
            ece=float(np.sum(np.abs(bins[:, 0] - bins[:, 1]) * counts) / self.images),
            bins=bins,
            per_class={
                name: float(self._confusion[index, index] / of_class[index]) if of_class[index] else None
                for index, name in enumerate(self.class_names)
            },
            confusion=self._confusion,
            **facts,
        )


def write_evaluation(directory, evaluation):
    """Write evaluation.json and figures into an existing directory.

    With more than 100 classes, confusion.csv has the nonzero entries of the matrix instead of the JSON.
    """
    arrays = {"reliability": evaluation.bins.tolist()}
    if len(evaluation.confusion) <= _MATRIX_CLASSES:
        arrays["confusion"] = evaluation.confusion.tolist()
    else:
        _write_pairs(directory / "confusion.csv", evaluation)
    write_json(directory / "evaluation.json", {**evaluation.record(), **arrays})
    draw_confusion(directory / "confusion.png", evaluation)
    draw_reliability(directory / "reliability.png", evaluation)
    if evaluation.corruptions is not None:
        draw_corruptions(directory / "corruptions.png", evaluation.corruptions, evaluation.top1)


def _write_pairs(path, evaluation):
    names = [csv_cell(name) for name in evaluation.per_class]
    with (
        writing(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("true", "predicted", "images"))
        for true, predicted in np.argwhere(evaluation.confusion):
            rows.writerow((names[true], names[predicted], evaluation.confusion[true, predicted]))
