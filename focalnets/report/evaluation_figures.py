"""Figures of an evaluation: confusion, calibration, corruptions and errors."""

import matplotlib.figure
import numpy as np

from focalnets.names import plural
from focalnets.report.figures import label, save_figure


def draw_confusion(path, evaluation):
    """Write a PNG of the confusion matrix as fractions of each true class, with counts if they fit."""
    names = [label(name, 24) for name in evaluation.per_class]
    totals = evaluation.confusion.sum(axis=1, keepdims=True).clip(1)
    fractions = np.divide(evaluation.confusion, totals, dtype="float32")
    side = float(np.clip(0.45 * len(names) + 2.0, 4.5, 16.0))
    figure = matplotlib.figure.Figure(figsize=(side + 0.8, side), dpi=100, layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(fractions, cmap="viridis", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, label="fraction of the true class", shrink=0.8)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    if len(names) <= 40:
        axis.set_xticks(range(len(names)), names, rotation=90)
        axis.set_yticks(range(len(names)), names)
    if len(names) <= 20:
        for (row, column), count in np.ndenumerate(evaluation.confusion):
            if count:
                color = "black" if fractions[row, column] > 0.6 else "white"
                axis.text(column, row, count, ha="center", va="center", fontsize=7, color=color)
    images = f"{evaluation.images:,} {plural(evaluation.images, 'image')}"
    axis.set_title(f"top-1 {evaluation.top1:.2%} of {images}")
    save_figure(figure, path)


def draw_reliability(path, evaluation):
    """Write a reliability diagram as a PNG: accuracy and fraction of images by confidence."""
    confidence, accuracy, images = evaluation.bins.T
    edges = np.linspace(0, 1, len(images) + 1)
    figure = matplotlib.figure.Figure(figsize=(5.2, 5.6), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot((0, 1), (0, 1), color="gray", linestyle="--", label="perfect calibration")
    filled = images > 0
    bars = {"width": 1 / len(images), "align": "edge", "edgecolor": "white"}
    upper.bar(edges[:-1][filled], accuracy[filled], label="accuracy", **bars)
    upper.plot(confidence[filled], accuracy[filled], "o", color="black", markersize=3)
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    upper.legend(loc="upper left")
    upper.set_title(f"expected calibration error {evaluation.ece:.2%}")
    lower.bar(edges[:-1], images / images.sum(), **bars)
    lower.set(xlabel="confidence", ylabel="fraction of images")
    save_figure(figure, path)


def draw_corruptions(path, accuracies, clean):
    """Write a PNG of the accuracy for each corruption and severity.

    Args:
        path: Path of the file to write.
        accuracies: dict. Name of a corruption -> accuracies (0 to 1) of its five severities.
        clean: float. Accuracy on the images without corruptions.
    """
    figure = matplotlib.figure.Figure(
        figsize=(7.2, 0.42 * len(accuracies) + 1.6), dpi=100, layout="constrained"
    )
    axis = figure.subplots()
    table = np.array(list(accuracies.values()))
    image = axis.imshow(table, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(image, ax=axis, label="top-1 accuracy")
    axis.set_yticks(range(len(accuracies)), [name.replace("_", " ") for name in accuracies])
    axis.set_xticks(range(table.shape[1]), range(1, table.shape[1] + 1))
    axis.set_xlabel("severity")
    for (row, column), value in np.ndenumerate(table):
        color = "black" if value > 0.6 else "white"
        axis.text(column, row, f"{value:.1%}", ha="center", va="center", fontsize=8, color=color)
    axis.set_title(f"mean accuracy {table.mean():.1%} with corruptions, {clean:.1%} without")
    save_figure(figure, path)


def draw_mistakes(path, images, titles, columns=6):
    """Write a PNG of a grid of images, uint8 (N, H, W, C), with one title per image."""
    rows = -(-len(images) // columns)
    figure = matplotlib.figure.Figure(figsize=(1.7 * columns, 2.2 * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=8)
    save_figure(figure, path)
