"""The page of explanations: explorer.html of `explain`, and the page of `serve`.

The page needs no connection and no server. Photographs are JPEG or PNG, and maps are int8 with one scale
each, all in one JSON text inside the page.
"""

import base64
import html
import importlib.resources
import io
import json

import numpy as np
from PIL import Image

from focalnets.output.files import writing

_PHOTO_SIDE = 320  # pixels of the longer side of a photograph on the page
_LARGEST_MAP = 96  # pixels: larger maps of pixels are halved

_BODY = """<header><h1>{title}</h1>
<p class="faint">Red pixels speak for the class, blue pixels speak against it. All evidence adds up to the
difference of the logit from that of the reference image.{gates}</p></header>
<main>
<section id="side" aria-label="Images">{add}<label>Show <select id="filter"></select></label>
<p id="count" class="faint"></p><div id="list"></div></section>
<section aria-label="Explanation"><h2 id="headline" aria-live="polite"></h2><p id="sentence"></p>
<div class="controls"><label>Class <select id="target"></select></label>
<label>rather than <select id="versus"></select></label><label>Map <select id="view"></select></label>
<label>Opacity <input id="opacity" type="range" min="0" max="100" value="90"></label></div>
<canvas id="canvas" role="img" tabindex="0"></canvas>
<div id="legend" class="legend"></div><div class="ends"><span id="low"></span><span id="high"></span></div>
<p id="number" class="faint">Point at the image for numbers.</p>
<p id="name" class="faint"></p><p class="faint"><kbd>&larr;</kbd> <kbd>&rarr;</kbd> previous and next image,
<kbd>o</kbd> overlay on and off</p></section>
<section aria-label="Numbers"><h2>Probability</h2><div id="top"></div>
<h2 id="levels-title"></h2><p class="faint">by the size of the window that a level looks at, in pixels of the
image</p><div id="levels"></div></section>
</main>"""


_GATES = " Gates and modulators show what the network computed, not what it decided by."

# The field for images of the reader. It needs a script that defines `explainFile`, see explorer.js.
_ADD = """<label class="add">Explain images of yours: choose, drop or paste them
<input id="files" type="file" accept="image/*" multiple></label>
<button id="camera" type="button" hidden>Use the camera</button>
<video id="video" autoplay muted playsinline hidden aria-label="What the camera sees"></video>
<p id="problem" class="faint" role="status"></p>"""


def write_explorer(path, *contents):
    """Write the page. `contents` are the arguments of `explorer_page`."""
    with writing(path) as partial:
        partial.write_text(explorer_page(*contents), encoding="utf-8", errors="backslashreplace")


def explorer_page(title, classes, taps, windows, images, script=None, policy=None):
    """HTML of the page, a str.

    Args:
        title: str.
        classes: list of str. All class names.
        taps: list of str. Names of the taps.
        windows: dict of block -> list of str. Receptive fields of its levels.
        images: list of dicts from `explorer_image`.
        script: str. JavaScript that defines `explainFile(file, say)`, which resolves to a dict as from
            `explorer_image`, and may call `say` with a message meanwhile. The page then takes images of the
            reader. Defaults to `None`.
        policy: str. Content-Security-Policy of the page. Defaults to `None`.
    """
    first = images[0] if images else {"levels": windows if script else {}, "gates": {}}
    data = {
        "classes": list(classes),
        "taps": taps,
        "windows": windows,
        "levelBlocks": list(first["levels"]),
        "gateBlocks": list(first["gates"]),
        "images": images,
    }
    # "<" cannot end the script element or start a comment in it.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    files = importlib.resources.files("focalnets.report")
    style, explorer = (files.joinpath(f"explorer.{end}").read_text(encoding="utf-8") for end in ("css", "js"))
    page = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">' if policy else "",
        f"<title>{html.escape(title)}</title><style>{style}</style></head><body>",
        _BODY.format(
            title=html.escape(title), add=_ADD if script else "", gates=_GATES if first["gates"] else ""
        ),
        f'<script type="application/json" id="data">{text}</script>',
        f"<script>{script}</script>" if script else "",
        f"<script>{explorer}</script></body></html>\n",
    ]
    return "\n".join(page)


def explorer_image(explanation, evidence, logits):
    """Data of an image for the page, ready for JSON.

    Args:
        explanation: `Explanation`.
        evidence: dict of class index -> dict of tap, or "mean" -> float array (H', W').
        logits: dict of class index -> (logit of the image, logit of the reference).
    """
    one = explanation
    names = one.class_names
    return {
        "name": one.name.encode(errors="backslashreplace").decode(),
        "photo": photo_address(one.photo),
        "size": list(one.image.shape[:2]),
        "top": [[names.index(name), round(value, 5)] for name, value in one.top(5)],
        "label": None if one.label is None else names.index(one.label),
        "target": names.index(one.target),
        "versus": -1 if one.versus is None else names.index(one.versus),
        "logits": {index: [round(float(value), 4) for value in pair] for index, pair in logits.items()},
        "evidence": {
            index: {tap: packed(smaller(values)) for tap, values in maps.items()}
            for index, maps in evidence.items()
        },
        "levels": {block: packed(values) for block, values in one.levels.items()},
        "totals": {block: [round(value, 4) for _, value in rows] for block, rows in one.level_totals()},
        "gates": {block: packed(values) for block, values in one.gates.items()},
        "norms": {block: packed(values) for block, values in one.norms.items()},
    }


def packed(values):
    """Map as a dict for the page: int8 with a scale."""
    scale = float(np.abs(values).max()) or 1.0
    small = np.rint(np.float32(values) / scale * 127).astype("int8")
    data = base64.b64encode(small.tobytes()).decode()
    return {"size": list(values.shape), "scale": float(f"{scale:.5g}"), "data": data}


def smaller(values):
    """Halve the sides of a large map, with the sums of 2 x 2 pixels as its values."""
    while max(values.shape) > _LARGEST_MAP and not any(side % 2 for side in values.shape):
        values = values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]
    return values


def photo_address(pixels):
    """Photograph as a data address: PNG if it is small, else JPEG."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    stream = io.BytesIO()
    if max(image.size) <= 64:
        image.save(stream, "PNG")
        kind = "png"
    else:
        image.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE), Image.Resampling.LANCZOS)
        image.save(stream, "JPEG", quality=82)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
