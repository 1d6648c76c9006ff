"""From maps and images to pictures."""

import matplotlib.cm
import matplotlib.colors
import matplotlib.figure
import numpy as np


def draw_panels(path, images, block_maps, titles, heading):
    """Write a PNG with one row an image: input, the gate of every level, the global gate, modulator norm.

    All gates share one scale, so that levels and images can be compared; the norms share another. A level is
    titled with what it sees, in positions of the block's own map (its convolutions are chained). Colours
    are the values themselves, not blended with the image, so that the colour bars can be read.

    Args:
        path: file to write.
        images: uint8 (N, H, W, 1 or 3).
        block_maps: `maps.BlockMaps` of those images.
        titles: N texts, one a row.
        heading: text above all.
    """
    levels = len(block_maps.receptive_fields)
    columns = [
        "input",
        *(f"gate {level + 1}: {k} x {k}" for level, k in enumerate(block_maps.receptive_fields)),
        "global gate",
        "modulator norm",
    ]
    gate_scale = _scale(block_maps.gates)
    norm_scale = _scale(block_maps.modulator_norm)

    count = len(images)
    aspect = images.shape[1] / images.shape[2]
    height = 1.55 * aspect * count + 0.9
    figure = matplotlib.figure.Figure(figsize=(1.6 * len(columns) + 2.4, height), dpi=100)
    figure.suptitle(heading, y=1 - 0.2 / height)
    grid = figure.subplots(
        count,
        len(columns),
        squeeze=False,
        gridspec_kw={
            "left": 0.09,
            "right": 0.84,
            "bottom": 0.02,
            "top": 1 - 0.75 / height,
            "wspace": 0.06,
            "hspace": 0.06,
        },
    )
    for row in range(count):
        grid[row, 0].imshow(images[row].squeeze(), cmap="gray", vmin=0, vmax=255)
        grid[row, 0].set_ylabel(titles[row], rotation=0, ha="right", va="center")
        for level in range(levels + 1):
            grid[row, level + 1].imshow(block_maps.gates[row, ..., level], norm=gate_scale, cmap="inferno")
        grid[row, -1].imshow(block_maps.modulator_norm[row], norm=norm_scale, cmap="viridis")
    for title, axis in zip(columns, grid[0], strict=True):
        axis.set_title(title, fontsize=9)
    for axis in grid.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for left, scale, colours, label in (
        (0.86, gate_scale, "inferno", "gate value"),
        (0.93, norm_scale, "viridis", "modulator norm"),
    ):
        axis = figure.add_axes((left, 0.02, 0.012, 0.96 - 0.75 / height))
        mappable = matplotlib.cm.ScalarMappable(scale, colours)
        figure.colorbar(mappable, cax=axis).ax.tick_params(labelsize=7)
        axis.set_title(label, fontsize=7)
    figure.savefig(path)


def draw_curves(path, history):
    """Write a PNG of loss and accuracy over epochs.

    Args:
        path: file to write.
        history: list of dicts with "epoch", "loss", "accuracy", "val_loss", "val_accuracy".
    """
    figure = matplotlib.figure.Figure(figsize=(10, 4), dpi=100, layout="constrained")
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) < 3 else None  # a line of one point cannot be seen
    for axis, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            axis.plot(epochs, [row[key] for row in history], label=label, marker=marker)
        axis.set_xlabel("epoch")
        axis.set_title(name)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path)


def _scale(values):
    return matplotlib.colors.Normalize(float(np.min(values)), float(np.max(values)))
