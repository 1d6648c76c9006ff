"""Figure of an explanation: image, evidence over the image, probabilities, and evidence by level.

Drawn with Pillow, which takes a hundredth of the time of a figure of matplotlib.
"""

import functools
import pathlib

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from focalnets.output.files import writing

# Red for, blue against: the ends of ColorBrewer's RdBu, which color-blind readers can tell apart.
FOR, AGAINST = (178, 24, 43), (33, 102, 172)
LEVELS = ((68, 1, 84), (49, 104, 142), (53, 183, 121), (180, 200, 40), (253, 141, 60), (120, 120, 120))
OPACITY = 0.9  # of the strongest color
_INK, _FAINT, _BAR = (30, 30, 30), (120, 120, 120), (90, 110, 140)
_MARGIN, _SIDE, _RIGHT = 20, 320, 420
# The strongest color belongs to this quantile of the absolute values, so that one pixel does not set it.
_QUANTILE = 0.995


def overlay(photo, evidence, scale=None):
    """Evidence over a gray photograph, at the resolution of the photograph.

    Red is evidence for, blue is evidence against, and zero is transparent.

    Args:
        photo: uint8 array of shape (H, W, 1 or 3).
        evidence: float array of shape (h, w). Evidence of each pixel of the network's input.
        scale: float. Absolute evidence with the strongest color. Defaults to `color_scale(evidence)`.

    Returns:
        uint8 array of shape (H, W, 3).

    >>> import numpy as np
    >>> from focalnets.report.explanation_figure import overlay
    >>> overlay(np.full((2, 2, 1), 128, "uint8"), np.zeros((2, 2)))[0, 0].tolist()
    [192, 192, 192]
    """
    height, width = photo.shape[:2]
    gray = np.asarray(_pil(photo).convert("L"), "float32")[..., None]
    gray = 255 - 0.5 * (255 - gray)  # lighter, so that the colors are visible on dark photographs
    scale = color_scale(evidence) if scale is None else scale
    strength = Image.fromarray(np.float32(evidence / scale)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    strength = np.asarray(strength).clip(-1, 1)[..., None]
    color = np.where(strength > 0, np.float32(FOR), np.float32(AGAINST))
    alpha = 0.85 * np.sqrt(np.abs(strength))
    return np.rint(gray * (1 - alpha) + color * alpha).astype("uint8")


def color_scale(evidence):
    """Absolute evidence with the strongest color."""
    return float(np.quantile(np.abs(evidence), _QUANTILE)) or 1.0


def draw_explanation(path, explanation):
    """Write a PNG of an `Explanation`.

    Args:
        path: Path of the file to write.
        explanation: `explanation.explanations.Explanation`.
    """
    image = explanation_figure(explanation)
    with writing(path) as partial:
        image.save(partial, "PNG", compress_level=1)  # twice as fast as the default, and 15 % larger


def explanation_figure(explanation):
    """The figure of an `Explanation` as a PIL image."""
    one = explanation
    groups = one.level_totals()
    bars = sum(len(levels) for _, levels in groups)
    pitch = 14 if bars <= 24 else 10
    chart = 60 + bars * pitch + 6 * len(groups) if groups else 0
    tall, wide = one.photo.shape[:2]
    zoom = _SIDE / max(tall, wide)
    width = 2 * (_MARGIN + _SIDE) + 2 * _MARGIN + _RIGHT
    height = max(150 + _SIDE, 250 + chart)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    _text(draw, (_MARGIN, 14), one.headline(), 20, most=width - 2 * _MARGIN)
    _text(draw, (_MARGIN, 44), one.sentence(), 15, _FAINT, most=width - 2 * _MARGIN)

    size = (max(1, round(wide * zoom)), max(1, round(tall * zoom)))
    resampling = Image.Resampling.NEAREST if zoom > 2 else Image.Resampling.LANCZOS
    top = 80
    shown = _pil(one.photo).convert("RGB").resize(size, resampling)
    canvas.paste(shown, (_MARGIN, top))
    canvas.paste(Image.fromarray(overlay(np.asarray(shown), one.evidence)), (2 * _MARGIN + _SIDE, top))
    below = top + size[1] + 8
    _text(draw, (_MARGIN, below), one.caption(), 13, _FAINT, most=_SIDE)
    _scale_bar(draw, 2 * _MARGIN + _SIDE, below, one)

    left = 3 * _MARGIN + 2 * _SIDE
    _top_classes(draw, left, top, one)
    if groups:
        _level_bars(draw, left, top + 165, groups, pitch)
    return canvas


def _top_classes(draw, left, top, one):
    _text(draw, (left, top - 2), "Probability", 15)
    for place, (name, probability) in enumerate(one.top(5)):
        y = top + 26 + 24 * place
        _text(draw, (left, y), name, 14, most=150)
        color = FOR if name == one.target else AGAINST if name == one.versus else _BAR
        draw.rectangle((left + 160, y + 2, left + 160 + round(190 * probability), y + 15), fill=color)
        _text(draw, (left + 166 + round(190 * probability), y), f"{probability:.1%}", 13)


def _level_bars(draw, left, top, groups, pitch):
    _text(draw, (left, top), "Logit that each focal level adds", 15)
    names = [f"level {i + 1}" for i in range(max(len(levels) for _, levels in groups) - 1)] + ["global"]
    x = left
    for name, color in zip(names, _level_colors(len(names)), strict=True):
        draw.rectangle((x, top + 27, x + 10, top + 37), fill=color)
        _text(draw, (x + 14, top + 24), name, 12)
        x += 24 + round(draw.textlength(name, font=_font(12)))
    largest = max(abs(value) for _, levels in groups for _, value in levels) or 1.0
    zero, half = left + 265, 60
    y = top + 50
    size = min(12, pitch + 1)
    for block, levels in groups:
        _text(draw, (left, y - 1), block, size, most=120)
        for place, (window, value) in enumerate(levels):
            is_global = place == len(levels) - 1
            color = _level_colors(len(names))[-1 if is_global else place]
            end = zero + round(half * value / largest)
            draw.rectangle((min(zero, end), y + 2, max(zero, end), y + pitch - 2), fill=color)
            _text(draw, (left + 122, y - 1), window, size, _FAINT, most=80)
            _text(draw, (left + 340, y - 1), f"{value:+.2f}", size)
            y += pitch
        y += 6
    draw.line((zero, top + 48, zero, y - 6), fill=_FAINT)


def _level_colors(count):
    """Colors of the levels, the global one last."""
    return [*(LEVELS[i % (len(LEVELS) - 1)] for i in range(count - 1)), LEVELS[-1]]


def _scale_bar(draw, left, top, one):
    width = 120
    for x in range(width):
        value = 2 * x / (width - 1) - 1
        alpha = OPACITY * abs(value)
        color = tuple(round(255 * (1 - alpha) + c * alpha) for c in (FOR if value > 0 else AGAINST))
        draw.line((left + 62 + x, top + 2, left + 62 + x, top + 14), fill=color)
    _text(draw, (left, top), "against", 13, _FAINT)
    _text(draw, (left + 190, top), f"for {one.target}", 13, _FAINT, most=_SIDE - 190)


@functools.cache
def _font(size):
    folder = pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf")
    return ImageFont.truetype(str(folder / "DejaVuSans.ttf"), size)


def _text(draw, place, text, size, color=_INK, most=None):
    """Draw text, shortened to `most` pixels."""
    text, font = text.encode(errors="backslashreplace").decode().replace("\n", " "), _font(size)
    if most is not None and draw.textlength(text, font=font) > most:
        while text and draw.textlength(f"{text}…", font=font) > most:
            text = text[:-1]
        text = f"{text}…"
    draw.text(place, text, fill=color, font=font)


def _pil(array):
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


_TILE = 128  # pixels of the longer side of an image in a grid


def draw_evidence_grid(path, images, evidence, titles, heading):
    """Write a PNG with one row per image: the image, and the evidence over it.

    Args:
        path: Path of the file to write.
        images: uint8 array of shape (N, H, W, 1 or 3).
        evidence: dict of str -> float array of shape (N, H, W). Heading of a column -> evidence. All columns
            of a row share one scale.
        titles: dict of str -> list of N str. Heading of a column -> text below each image. A column without
            texts has none.
        heading: str. Title of the figure.
    """
    frame = evidence_grid(images, evidence, titles, heading)
    with writing(path) as partial:
        frame.save(partial, "PNG")


def evidence_grid(images, evidence, titles, heading, columns=None):
    """The figure of `draw_evidence_grid` as a PIL image, with some `columns` only. Defaults to all."""
    columns = list(evidence) if columns is None else columns
    height, width = images.shape[1:3]
    zoom = _TILE / max(height, width)
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    step, row = size[0] + 12, size[1] + 30
    resampling = Image.Resampling.NEAREST if zoom > 1 else Image.Resampling.LANCZOS
    canvas = Image.new("RGB", (2 * _MARGIN + step * (len(columns) + 1), 70 + row * len(images)), "white")
    draw = ImageDraw.Draw(canvas)
    _text(draw, (_MARGIN, 10), heading, 16, most=canvas.width - 2 * _MARGIN)
    for place, column in enumerate(["image", *columns]):
        _text(draw, (_MARGIN + step * place, 40), column, 13, most=step)
    for index, image in enumerate(images):
        top = 62 + row * index
        shown = _pil(image).convert("RGB").resize(size, resampling)
        scale = max(color_scale(values[index]) for values in evidence.values())
        tiles = [shown, *(overlay(np.asarray(shown), evidence[one][index], scale) for one in columns)]
        for place, (column, tile) in enumerate(zip(["image", *columns], tiles, strict=True)):
            left = _MARGIN + step * place
            canvas.paste(Image.fromarray(np.asarray(tile)), (left, top))
            if column in titles:
                _text(draw, (left, top + size[1] + 3), titles[column][index], 12, _FAINT, most=step - 4)
    return canvas


def write_animation(path, frames, milliseconds):
    """Write an animated GIF from PIL images of one size."""
    frames = [frame.quantize(128, dither=Image.Dither.NONE) for frame in frames]
    with writing(path) as partial:
        frames[0].save(partial, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
