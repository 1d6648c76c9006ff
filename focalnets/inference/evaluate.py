"""evaluate: a predictor and labelled images -> figures that a user can trust."""

import csv
from dataclasses import dataclass

import numpy as np

from focalnets.inference.pictures import draw_confusion, draw_reliability
from focalnets.inference.predictor import NOT_FINITE, softmax
from focalnets.names import csv_cell
from focalnets.output.files import write_json, writing

BINS = 15
_MATRIX_CLASSES = 100  # of more, the matrix as JSON would be larger than everything else of a run


@dataclass(frozen=True)
class Evaluation:
    """Figures of one classifier on one split; shares are 0 to 1.

    Attributes:
        images: how many were classified.
        top1, top5: share whose class is the likeliest, among the five likeliest (None below 6 classes).
        loss: mean negative log-likelihood (NLL), nats.
        ece: expected calibration error (Guo et al., 2017): how far the probability of the likeliest class is
            from the share that is right, in the mean over 15 bins of equal width, weighted by their images.
        bins: (15, 3) of those: mean probability, share that is right (both 0 in an empty bin), images.
        per_class: class name -> share of its images that were recognised (None without images).
        confusion: int (classes, classes), rows the true class, columns the predicted one.
    """

    images: int
    top1: float
    top5: float | None
    loss: float
    ece: float
    bins: np.ndarray
    per_class: dict[str, float | None]
    confusion: np.ndarray


def evaluate(logits, labels, class_names):
    """Compare logits with labels.

    Args:
        logits: (N, classes).
        labels: (N,) integers.
        class_names: one a class.

    Raises:
        ValueError: if there are no images, two classes have one name, a label has no logit, or a logit is not
            finite.

    >>> import numpy as np
    >>> from focalnets.inference.evaluate import evaluate
    >>> evaluate(np.array([[2.0, 0.0], [1.0, 0.0]]), np.array([0, 1]), ("a", "b")).top1
    0.5
    """
    classes = len(class_names)
    if len(set(class_names)) < classes:
        raise ValueError(
            f"The {classes} classes have only {len(set(class_names))} different names. Expected one name per "
            "class: figures are given by name."
        )
    if len(labels) == 0:
        raise ValueError("There are no images to evaluate.")
    if logits.shape != (len(labels), classes) or labels.max() >= classes:
        raise ValueError(
            f"Logits of shape {logits.shape} do not fit {len(labels)} labels of {classes} classes."
        )
    if not np.isfinite(logits).all():
        raise ValueError(NOT_FINITE)
    rows = np.arange(len(labels))
    predicted = logits.argmax(axis=-1)
    rank = np.sum(logits > logits[rows, labels][:, None], axis=-1)
    confusion = np.zeros((classes, classes), "int32")
    np.add.at(confusion, (labels, predicted), 1)
    totals = confusion.sum(axis=1)
    probabilities = softmax(logits)
    bins = _reliability(probabilities.max(axis=-1), predicted == labels)
    return Evaluation(
        images=len(labels),
        top1=float(np.mean(predicted == labels)),
        top5=float(np.mean(rank < 5)) if classes > 5 else None,
        loss=float(-np.mean(np.log(probabilities[rows, labels].clip(1e-300)))),
        ece=float(np.sum(np.abs(bins[:, 0] - bins[:, 1]) * bins[:, 2]) / len(labels)),
        bins=bins,
        per_class={
            name: float(confusion[index, index] / totals[index]) if totals[index] else None
            for index, name in enumerate(class_names)
        },
        confusion=confusion,
    )


def _reliability(confidence, right):
    """(BINS, 3): mean confidence, share that is right, images."""
    places = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    sums = [np.bincount(places, values, minlength=BINS) for values in (confidence, right)]
    return np.stack([*(total / counts.clip(1) for total in sums), counts], axis=1)


def figures(evaluation, data, split):
    """The record of an evaluation, without its confusion matrix.

    Args:
        evaluation: an `Evaluation`.
        data: what was classified, as the user named it.
        split: name of the split.
    """
    return {
        "data": str(data),
        "split": split,
        "images": evaluation.images,
        "top1": evaluation.top1,
        "top5": evaluation.top5,
        "loss": evaluation.loss,
        "ece": evaluation.ece,
        "per_class": evaluation.per_class,
    }


def write_evaluation(directory, evaluation, data, split, more=None):
    """Write evaluation.json, confusion.png and reliability.png into a directory that is there.

    Above 100 classes, the matrix is in confusion.csv instead of the JSON, without its zeros.

    Args:
        directory: its path.
        evaluation, data, split: as in `figures`.
        more: entries to add to evaluation.json.
    """
    arrays = {"reliability": evaluation.bins.tolist()}
    if len(evaluation.confusion) <= _MATRIX_CLASSES:
        arrays["confusion"] = evaluation.confusion.tolist()
    else:
        _write_pairs(directory / "confusion.csv", evaluation)
    write_json(directory / "evaluation.json", {**figures(evaluation, data, split), **arrays, **(more or {})})
    draw_confusion(directory / "confusion.png", evaluation)
    draw_reliability(directory / "reliability.png", evaluation)


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
