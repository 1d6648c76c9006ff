"""Evidence of the same images over the epochs of a run, from the arrays of `TrainMonitor`."""

import matplotlib.figure
import numpy as np

from focalnets.explanation.attribution import evidence
from focalnets.models.evidence import target_vector
from focalnets.prediction.predictor import softmax
from focalnets.report.explanation_figure import draw_evidence_grid, evidence_grid, write_animation
from focalnets.report.figures import save_figure

_MOST_EPOCHS = 8  # columns of the filmstrip


def epoch_arrays(classifier, images, classes, models, levels=True):
    """Arrays of an epoch: evidence, explained classes with their probabilities, and evidence of the levels.

    Args:
        classifier: `FocalNetImageClassifier`.
        images: array of shape (N, H, W, channels). Inputs of the classifier.
        classes: int array of shape (N,). Explained classes.
        models: `EvidenceModels` of the classifier.
        levels: bool. Whether to compute the evidence of the levels. Defaults to `True`.

    Returns:
        dict of "evidence" (N, H, W), "explained" (N,), "probability" (N,), and "<block>.levels" (N, L + 1).
    """
    targets = np.stack([target_vector(classifier.num_classes, int(one)) for one in classes])
    found = evidence(classifier, images, targets, levels=levels, models=models)
    arrays = {
        "evidence": found.map(),
        "explained": np.asarray(classes, "int64"),
        "probability": softmax(found.logits)[np.arange(len(targets)), classes],
    }
    return arrays | {f"{block}.levels": one.sum(axis=(1, 2)) for block, one in found.levels.items()}


def read_epochs(directory):
    """Arrays of each drawn epoch of a run: dict of epoch -> dict of arrays, in order.

    Args:
        directory: Path of the folder `monitor` of a run, or of the directory of a `TrainMonitor`.

    Raises:
        ValueError: if there is no epoch with evidence.
    """
    files = {int(path.stem.removeprefix("epoch")): path for path in directory.glob("epoch*.npz")}
    frames = {}
    for epoch, path in sorted(files.items()):
        with np.load(path) as arrays:
            frames[epoch] = dict(arrays)
    frames = {epoch: arrays for epoch, arrays in frames.items() if "evidence" in arrays}
    if not frames:
        raise ValueError(
            f"{directory} holds no evidence of any epoch; expected a run that was trained with "
            "--monitor-every above 0. Train with this option, or use TrainMonitor in fit."
        )
    return frames


def draw_evidence_filmstrip(path, frames, titles=None):
    """Write a PNG: one row per image, one column for each of up to eight epochs, with one scale per row."""
    columns, texts = _columns(frames)
    chosen = np.linspace(0, len(columns) - 1, min(len(columns), _MOST_EPOCHS)).round().astype(int)
    columns = {name: columns[name] for name in np.array(list(columns))[chosen]}
    texts |= {} if titles is None else {"image": titles}
    draw_evidence_grid(path, _images(frames), columns, texts, "Evidence for the class, by epoch")


def draw_epochs(directory, frames):
    """Write epochs.evidence.png, epochs.gif, and epochs.levels.png if the arrays have levels; yield paths."""
    draw_evidence_filmstrip(directory / "epochs.evidence.png", frames)
    yield directory / "epochs.evidence.png"
    if any(name.endswith(".levels") for name in next(iter(frames.values()))):
        _draw_levels(directory / "epochs.levels.png", frames)
        yield directory / "epochs.levels.png"
    columns, texts = _columns(frames)
    pages = [
        evidence_grid(_images(frames), columns, texts, "Evidence for the class", [name]) for name in columns
    ]
    write_animation(directory / "epochs.gif", pages, milliseconds=max(200, 6000 // len(pages)))
    yield directory / "epochs.gif"


def _draw_levels(path, frames):
    """Mean evidence of each level over the images, by epoch, one axis per block."""
    epochs, first = list(frames), next(iter(frames.values()))
    blocks = [name.removesuffix(".levels") for name in first if name.endswith(".levels")]
    columns = min(4, len(blocks))
    rows = -(-len(blocks) // columns)
    figure = matplotlib.figure.Figure(
        figsize=(3.2 * columns, 2.4 * rows + 0.6), dpi=100, layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis in axes.flat[len(blocks) :]:
        axis.set_axis_off()
    for axis, block in zip(axes.flat, blocks, strict=False):
        means = np.stack([frames[epoch][f"{block}.levels"].mean(axis=0) for epoch in epochs])
        for level in range(means.shape[1]):
            is_global = level == means.shape[1] - 1
            axis.plot(
                epochs,
                means[:, level],
                marker="o",
                markersize=3,
                color="gray" if is_global else None,
                label="global" if is_global else f"level {level + 1}",
            )
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set(title=block, xlabel="epoch")
        axis.title.set_fontsize(10)
    axes[0, 0].set_ylabel("evidence (logit)")
    axes[0, 0].legend(fontsize=8)
    figure.suptitle("Logit that each focal level adds, mean over the images")
    save_figure(figure, path)


def _images(frames):
    return next(iter(frames.values()))["images"]


def _columns(frames):
    """Evidence and probabilities of each epoch, by the heading of its column."""
    columns = {f"epoch {epoch}": arrays["evidence"] for epoch, arrays in frames.items()}
    texts = {
        f"epoch {epoch}": [f"{value:.0%}" for value in arrays["probability"]]
        for epoch, arrays in frames.items()
    }
    return columns, texts
