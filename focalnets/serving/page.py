"""The page at `/`, on which a reader sees what the network looked at in images of his own."""

import importlib.resources

import numpy as np

from focalnets.report.explorer import explorer_page, packed, photo_address, smaller

CLASSES = 3  # the most probable ones, which the reader can compare


def page(name, network):
    """HTML of the page of a network, bytes."""
    script = importlib.resources.files("focalnets.serving").joinpath("page.js").read_text(encoding="utf-8")
    title = f"What {name} looks at"
    text = explorer_page(title, network.class_names, network.taps, network.windows, [], script)
    return text.encode(errors="backslashreplace")


def explored(file, network, image, answer):
    """Data of an image for the page, see `report.explorer.explorer_image`.

    Args:
        file: str. Name of the file.
        network: `ServedNetwork`.
        image: uint8 array (H, W, channels), prepared.
        answer: Result of `ServedNetwork.explore`.
    """
    probabilities, logits, maps, levels = answer
    order = np.argsort(-probabilities, kind="stable")[:5].tolist()
    return {
        "name": file,
        "photo": photo_address(image),
        "size": list(image.shape[:2]),
        "top": [[index, round(float(probabilities[index]), 5)] for index in order],
        "label": None,
        "target": order[0],
        "versus": -1,
        "logits": {
            index: [float(logits[index]), float(logits[index] - one["mean"].sum())]
            for index, one in maps.items()
        },
        "evidence": {
            index: {tap: packed(smaller(values)) for tap, values in one.items()}
            for index, one in maps.items()
        },
        "levels": {block: packed(values) for block, values in levels.items()},
        "totals": {block: values.sum((0, 1)).tolist() for block, values in levels.items()},
        "gates": {},
        "norms": {},
    }
