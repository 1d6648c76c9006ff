"""Overview of explanations for the documentation: each image, and the exact evidence over it.

    python benchmarks/draw_explanations.py OUT.jpg IMAGES... [--preset NAME] [--columns 5]

Those of docs/explanation.md show the images of `docs/cifar10` with 5 columns, and six photographs of
scikit-image (see NOTICE) with 3 columns.
"""

import argparse

import focalnets  # before keras: it chooses the backend  # isort: skip
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from focalnets.report.explanation_figure import overlay

_GAP = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--preset", default="focalnet_micro_cifar10")
    parser.add_argument("--columns", type=int, default=5)
    parser.add_argument("--side", type=int, default=112)
    arguments = parser.parse_args()
    found = focalnets.explain(arguments.preset, arguments.images, levels=False)
    side, columns = arguments.side, arguments.columns
    wide, tall = 2 * side + _GAP, side + 26
    canvas = Image.new("RGB", (columns * wide + _GAP, -(-len(found) // columns) * tall + _GAP), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", 13)
    for place, one in enumerate(found):
        left, top = _GAP + place % columns * wide, _GAP + place // columns * tall
        photo = one.photo[..., 0] if one.photo.shape[-1] == 1 else one.photo
        resampling = Image.Resampling.NEAREST if len(photo) < side else Image.Resampling.LANCZOS
        shown = Image.fromarray(photo).convert("RGB").resize((side, side), resampling)
        canvas.paste(shown, (left, top))
        canvas.paste(Image.fromarray(overlay(np.asarray(shown), one.evidence)), (left + side, top))
        name, probability = one.top(1)[0]
        draw.text((left, top + side + 3), f"{name} {probability:.0%}", fill=(60, 60, 60), font=font)
    canvas.save(arguments.out, quality=88)
    print(f"{arguments.out}: {canvas.width} x {canvas.height}")


if __name__ == "__main__":
    main()
