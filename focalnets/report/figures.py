"""Figures of gates, modulators and training curves."""

import matplotlib.cm
import matplotlib.colors
import matplotlib.figure
import matplotlib.image
import matplotlib.ticker
import numpy as np

from focalnets.output.files import writing

# Gates have either sign, so their color scale is diverging, with white at 0. The scale of norms starts at 0.
_GATES, _NORMS = "RdBu_r", "viridis"
_IMAGE = {"norm": matplotlib.colors.Normalize(0, 255), "cmap": "gray"}


def draw_panels(path, images, block_maps, titles, heading, windows=None):
    """Write a PNG with one row per image: input, gate of each level, global gate, modulator norm.

    All gates share one diverging scale around 0, so that levels and images are comparable. All norms share a
    scale that starts at 0, so that small differences look small. The title of a level is its receptive field
    in positions of the feature map. Maps are not blended with the image, so that colors match the color bars.

    Args:
        path: Path of the file to write.
        images: uint8 array of shape (N, H, W, 1 or 3).
        block_maps: `maps.BlockMaps` of the images.
        titles: list of N str. Titles of the rows.
        heading: str. Title of the figure.
        windows: list of str or None. Receptive fields of the levels in pixels of the image. Defaults to
            `None`, which names them in positions of the feature map.
    """
    levels = len(block_maps.receptive_fields)
    windows = [f"{k} x {k}" for k in block_maps.receptive_fields] if windows is None else windows
    columns = [
        "input",
        *(f"gate {level + 1}: {windows[level]}" for level in range(levels)),
        "global gate",
        "modulator norm",
    ]
    gates = {"norm": _scale(block_maps.gates, signed=True), "cmap": _GATES}
    norms = {"norm": _scale(block_maps.modulator_norm), "cmap": _NORMS}

    aspect = images.shape[1] / images.shape[2]
    left, top, pitch = 1.2, 0.75, 1.6  # inches
    width, height = pitch * len(columns) + 2.4, top + 1.55 * aspect * len(images) + 0.15
    figure, canvas = _canvas(width, height, heading)
    for row, image in enumerate(images):
        y = top + 1.55 * aspect * row
        canvas.text(
            left - 0.1, y + 0.75 * aspect, label(titles[row], 14), fontsize=9, ha="right", va="center"
        )
        maps = [(block_maps.gates[row, ..., level], gates) for level in range(levels + 1)]
        tiles = [(image.squeeze(), _IMAGE), *maps, (block_maps.modulator_norm[row], norms)]
        for column, (values, colors) in enumerate(tiles):
            _tile(canvas, left + pitch * column, y, 1.5, 1.5 * aspect, values, **colors)
    for column, title in enumerate(columns):
        canvas.text(left + pitch * column + 0.75, top - 0.08, title, fontsize=9, ha="center")
    right = left + pitch * len(columns)
    for x, colors, name in ((right + 0.05, gates, "gate"), (right + 0.7, norms, "norm")):
        axis = figure.add_axes((x / width, 0.15 / height, 0.12 / width, 1 - (top + 0.2) / height))
        mappable = matplotlib.cm.ScalarMappable(**colors)
        figure.colorbar(mappable, cax=axis).ax.tick_params(labelsize=7)
        axis.set_title(name, fontsize=7)
    save_figure(figure, path)


def draw_filmstrip(path, images, gates, norms, titles, heading, most_images=3, most_frames=8):
    """Write a PNG of gates and modulator norms over epochs: one row per image and map, one column per epoch.

    Args:
        path: Path of the file to write.
        images: uint8 array of shape (N, H, W, 1 or 3).
        gates: dict. Epoch -> float array of shape (N, H, W, L + 1), where the last gate is the global one.
        norms: dict. Epoch -> float array of shape (N, H, W).
        titles: list of N str. Titles of the images.
        heading: str. Title of the figure.
        most_images: int. Maximum number of images. Defaults to 3.
        most_frames: int. Maximum number of epochs, evenly spaced from the first to the last. Defaults to 8.
    """
    epochs = sorted(gates)
    if len(epochs) > most_frames:
        epochs = [epochs[i] for i in np.linspace(0, len(epochs) - 1, most_frames).round().astype(int)]
    count, levels = min(len(images), most_images), gates[epochs[0]].shape[-1]
    gate_colors = {"norm": _scale([gates[epoch][:count] for epoch in epochs], signed=True), "cmap": _GATES}
    norm_colors = {"norm": _scale([norms[epoch][:count] for epoch in epochs]), "cmap": _NORMS}
    names = [*(f"gate {level + 1}" for level in range(levels - 1)), "global gate", "norm"]
    aspect = images.shape[1] / images.shape[2]
    left, top, pitch, side = 1.1, 0.65, 1.1, 1.04  # inches
    block = 1.05 * aspect * len(names) + 0.2  # height of an image with its title and maps
    width, height = left + pitch * (len(epochs) + 1) + 0.1, top + block * count
    figure, canvas = _canvas(width, height, f"{heading}, by epoch")
    for image in range(count):
        y = top + block * image
        canvas.text(left + side / 2, y - 0.04, label(titles[image], 14), fontsize=8, ha="center")
        _tile(canvas, left, y, side, side * aspect, images[image].squeeze(), **_IMAGE)
        for place, name in enumerate(names):
            row = y + 1.05 * aspect * place
            canvas.text(left - 0.1, row + side * aspect / 2, name, fontsize=8, ha="right", va="center")
            for column, epoch in enumerate(epochs, 1):
                is_gate = place < levels
                values = gates[epoch][image, ..., place] if is_gate else norms[epoch][image]
                colors = gate_colors if is_gate else norm_colors
                _tile(canvas, left + pitch * column, row, side, side * aspect, values, **colors)
    for column, epoch in enumerate(epochs, 1):
        canvas.text(left + pitch * column + side / 2, top - 0.04, f"epoch {epoch}", fontsize=8, ha="center")
    save_figure(figure, path)


def draw_curves(path, history):
    """Write a PNG of loss and accuracy over epochs.

    Args:
        path: Path of the file to write.
        history: list of dicts with "epoch", "loss", "accuracy", "val_loss" and "val_accuracy".
    """
    figure = matplotlib.figure.Figure(figsize=(10, 4), dpi=100)
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.12, top=0.92, wspace=0.15)
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) < 3 else None  # a line of one point is invisible
    for axis, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for key, what in ((name, "training"), (f"val_{name}", "validation")):
            axis.plot(epochs, [row[key] for row in history], label=what, marker=marker)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axis.set_title(name)
        axis.grid(alpha=0.3)
        axis.legend()
    save_figure(figure, path)


def _canvas(width, height, heading):
    """Figure of `width` by `height` inches, and one axis that covers it, in inches from the upper left.

    One axis per tile, with ticks and labels, would take matplotlib ten times as long.
    """
    figure = matplotlib.figure.Figure(figsize=(width, height), dpi=100)
    figure.suptitle(label(heading, 80), y=1 - 0.2 / height)
    canvas = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    canvas.set_axis_off()
    return figure, canvas


def _tile(canvas, left, top, width, height, values, **colors):
    """Draw an image or map on the canvas. Positions and sizes are in inches."""
    extent = (left, left + width, top + height, top)
    canvas.add_image(matplotlib.image.AxesImage(canvas, data=values, extent=extent, **colors))


def save_figure(figure, path):
    """Write a figure as a PNG, atomically."""
    with writing(path) as partial:
        figure.savefig(partial)


def label(text, most):
    """Prepare text of a user for a figure: shorten it to `most` characters, and escape dollar signs (which
    start mathematics in matplotlib) and undecodable bytes.

    >>> from focalnets.report.figures import label
    >>> label("$5 and $6", 6)
    '\\\\$5 an…'
    """
    text = text if len(text) <= most else f"{text[: most - 1]}…"
    text = text.encode(errors="backslashreplace").decode()
    return text.replace("$", r"\$")


def _scale(values, signed=False):
    """Color scale from 0 to the largest absolute value, symmetric around 0 if `signed`.

    A scale that starts at the smallest value would make noise look like a pattern.
    """
    largest = float(np.max(np.abs(values))) or 1.0
    return matplotlib.colors.Normalize(-largest if signed else 0.0, largest)
