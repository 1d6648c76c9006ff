"""From maps and images to pictures."""

import matplotlib.cm
import matplotlib.colors
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from focalnets.output.files import writing

# Gates have either sign: white is 0, and equal colors mean equal amounts. Norms start at 0.
_GATES, _NORMS = "RdBu_r", "viridis"


def draw_panels(path, images, block_maps, titles, heading):
    """Write a PNG with one row an image: input, the gate of every level, the global gate, modulator norm.

    All gates share one diverging scale with 0 in its middle, so that levels and images can be compared. The
    norms share another one, which starts at 0, so that small differences look small. A level is titled with
    what it sees, in positions of the block's own map (its convolutions are chained). Colors are the values
    themselves, not blended with the image, so that the color bars can be read.

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
    gate_scale = _scale(block_maps.gates, signed=True)
    norm_scale = _scale(block_maps.modulator_norm)

    count = len(images)
    aspect = images.shape[1] / images.shape[2]
    height = 1.55 * aspect * count + 0.9
    figure = matplotlib.figure.Figure(figsize=(1.6 * len(columns) + 2.4, height), dpi=100)
    figure.suptitle(label(heading, 80), y=1 - 0.2 / height)
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
        grid[row, 0].set_ylabel(label(titles[row], 14), rotation=0, ha="right", va="center")
        for level in range(levels + 1):
            grid[row, level + 1].imshow(block_maps.gates[row, ..., level], norm=gate_scale, cmap=_GATES)
        grid[row, -1].imshow(block_maps.modulator_norm[row], norm=norm_scale, cmap=_NORMS)
    for title, axis in zip(columns, grid[0], strict=True):
        axis.set_title(title, fontsize=9)
    for axis in grid.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for left, scale, colours, name in (
        (0.86, gate_scale, _GATES, "gate value"),
        (0.93, norm_scale, _NORMS, "modulator norm"),
    ):
        axis = figure.add_axes((left, 0.02, 0.012, 0.96 - 0.75 / height))
        mappable = matplotlib.cm.ScalarMappable(scale, colours)
        figure.colorbar(mappable, cax=axis).ax.tick_params(labelsize=7)
        axis.set_title(name, fontsize=7)
    save_figure(figure, path)


def draw_filmstrip(path, images, gates, norms, titles, heading, most_images=3, most_frames=8):
    """Write a PNG of how gates and modulator norms changed: one column a frame, one row an image and map.

    Args:
        path: file to write.
        images: uint8 (N, H, W, 1 or 3).
        gates: epoch -> float (N, H, W, L + 1); the last gate is the global one.
        norms: epoch -> float (N, H, W).
        titles: N texts.
        heading: text above all.
        most_images: the first so many images are shown.
        most_frames: so many epochs, evenly chosen, first and last among them.
    """
    epochs = sorted(gates)
    if len(epochs) > most_frames:
        epochs = [epochs[i] for i in np.linspace(0, len(epochs) - 1, most_frames).round().astype(int)]
    count, levels = min(len(images), most_images), gates[epochs[0]].shape[-1]
    rows, columns = count * (levels + 1), len(epochs) + 1
    gate_scale = _scale([gates[epoch][:count] for epoch in epochs], signed=True)
    norm_scale = _scale([norms[epoch][:count] for epoch in epochs])
    height = 1.05 * rows * images.shape[1] / images.shape[2] + 0.8
    figure = matplotlib.figure.Figure(figsize=(1.1 * columns + 1.8, height), dpi=100)
    figure.suptitle(label(f"{heading}, by epoch", 80), y=1 - 0.2 / height)
    grid = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": 0.14,
            "right": 0.98,
            "bottom": 0.01,
            "top": 1 - 0.65 / height,
            "wspace": 0.05,
            "hspace": 0.05,
        },
    )
    for axis in grid.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_frame_on(False)
    names = [*(f"gate {level + 1}" for level in range(levels - 1)), "global gate", "norm"]
    for image in range(count):
        for place, name in enumerate(names):
            row = grid[image * len(names) + place]
            row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
            if place == 0:
                row[0].imshow(images[image].squeeze(), cmap="gray", vmin=0, vmax=255)
                row[0].set_title(label(titles[image], 14), fontsize=8, pad=2)
            for axis, epoch in zip(row[1:], epochs, strict=True):
                if name == "norm":
                    axis.imshow(norms[epoch][image], norm=norm_scale, cmap=_NORMS)
                else:
                    axis.imshow(gates[epoch][image, ..., place], norm=gate_scale, cmap=_GATES)
                if image == place == 0:
                    axis.set_title(f"epoch {epoch}", fontsize=8, pad=2)
    save_figure(figure, path)


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
        for key, what in ((name, "training"), (f"val_{name}", "validation")):
            axis.plot(epochs, [row[key] for row in history], label=what, marker=marker)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axis.set_title(name)
        axis.grid(alpha=0.3)
        axis.legend()
    save_figure(figure, path)


def save_figure(figure, path):
    """Write a figure as a PNG that gets its name when it is complete."""
    with writing(path) as partial:
        figure.savefig(partial)


def label(text, most):
    """A user's text for a figure: shortened to `most` characters, no mathematics between dollar signs, and
    whatever bytes a name has.

    >>> from focalnets.explain.render import label
    >>> label("$5 and $6", 6)
    '\\\\$5 an…'
    """
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    text = text.encode(errors="backslashreplace").decode()
    return text.replace("$", r"\$")


def _scale(values, signed=False):
    """A color scale from 0 to the largest value, or from as far below 0 as above it.

    It does not start at the smallest value, which would turn noise into a pattern.
    """
    largest = float(np.max(np.abs(values))) or 1.0
    return matplotlib.colors.Normalize(-largest if signed else 0.0, largest)
