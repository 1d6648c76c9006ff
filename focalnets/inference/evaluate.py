"""evaluate: a predictor and labelled images -> figures that a user can trust."""

from dataclasses import dataclass

import matplotlib.figure
import numpy as np

from focalnets._io import write_json
from focalnets.explain.render import label
from focalnets.inference.predictor import softmax


@dataclass(frozen=True)
class Evaluation:
    """Figures of one classifier on one split; shares are 0 to 1.

    Attributes:
        images: how many were classified.
        top1, top5: share whose class is the likeliest, among the five likeliest (None below 6 classes).
        loss: mean negative log-likelihood, nats.
        per_class: class name -> share of its images that were recognised (None without images).
        confusion: int (classes, classes), rows the true class, columns the predicted one.
    """

    images: int
    top1: float
    top5: float | None
    loss: float
    per_class: dict[str, float | None]
    confusion: np.ndarray


def evaluate(logits, labels, class_names):
    """Compare logits with labels.

    Args:
        logits: (N, classes).
        labels: (N,) integers.
        class_names: one a class.

    Raises:
        ValueError: if there are no images, or a label has no logit.

    >>> import numpy as np
    >>> from focalnets.inference.evaluate import evaluate
    >>> evaluate(np.array([[2.0, 0.0], [1.0, 0.0]]), np.array([0, 1]), ("a", "b")).top1
    0.5
    """
    classes = len(class_names)
    if len(labels) == 0:
        raise ValueError("There are no images to evaluate.")
    if logits.shape != (len(labels), classes) or labels.max() >= classes:
        raise ValueError(
            f"Logits of shape {logits.shape} do not fit {len(labels)} labels of {classes} classes."
        )
    rows = np.arange(len(labels))
    predicted = logits.argmax(axis=-1)
    rank = np.sum(logits > logits[rows, labels][:, None], axis=-1)
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, predicted), 1)
    totals = confusion.sum(axis=1)
    return Evaluation(
        images=len(labels),
        top1=float(np.mean(predicted == labels)),
        top5=float(np.mean(rank < 5)) if classes > 5 else None,
        loss=float(-np.mean(np.log(softmax(logits)[rows, labels].clip(1e-300)))),
        per_class={
            name: float(confusion[index, index] / totals[index]) if totals[index] else None
            for index, name in enumerate(class_names)
        },
        confusion=confusion,
    )


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
        "per_class": evaluation.per_class,
    }


def write_evaluation(directory, evaluation, data, split):
    """Write evaluation.json and confusion.png into a directory that is there; arguments as in `figures`."""
    record = {**figures(evaluation, data, split), "confusion": evaluation.confusion.tolist()}
    write_json(directory / "evaluation.json", record)
    draw_confusion(directory / "confusion.png", evaluation)


def draw_confusion(path, evaluation):
    """Write a PNG of the confusion matrix: shares of each true class, with counts where they fit."""
    names = [label(name, 24) for name in evaluation.per_class]
    shares = evaluation.confusion / evaluation.confusion.sum(axis=1, keepdims=True).clip(1)
    side = float(np.clip(0.45 * len(names) + 2.0, 4.5, 16.0))
    figure = matplotlib.figure.Figure(figsize=(side + 0.8, side), dpi=100, layout="constrained")
    axis = figure.subplots()
    picture = axis.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axis, label="share of the true class", shrink=0.8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if len(names) <= 40:
        axis.set_xticks(range(len(names)), names, rotation=90)
        axis.set_yticks(range(len(names)), names)
    if len(names) <= 20:
        for (row, column), count in np.ndenumerate(evaluation.confusion):
            if count:
                colour = "black" if shares[row, column] > 0.6 else "white"
                axis.text(column, row, count, ha="center", va="center", fontsize=7, color=colour)
    axis.set_title(f"top-1 {evaluation.top1:.2%} of {evaluation.images:,} images")
    figure.savefig(path)
