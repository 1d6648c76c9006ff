"""Class names of published checkpoints.

`imagenet1k.txt` has one line per class of ImageNet-1k: the WordNet identifier and the first name.

Heads for ImageNet-22k have 21,842 logits. The classes of ImageNet-1k come first, in their usual order, so the
network can be evaluated on ImageNet-1k. The other classes follow by identifier. Class 850, the teddy bear, is
not in ImageNet-22k, so its logit was never trained. Upstream's file of labels has 21,841 lines, each
with a class number (upstream issue 27, timm issue 2140).
"""

import functools
import pathlib
import re

from focalnets.files import expanded
from focalnets.names import plural

IMAGENET_1K, IMAGENET_22K = 1000, 21842

_WORDNET = re.compile(r"n\d{8}")


@functools.cache
def imagenet_names():
    """Dict of WordNet identifier -> name of the 1,000 classes of ImageNet-1k, in their usual order.

    >>> from focalnets.presets.labels import imagenet_names
    >>> imagenet_names()["n01440764"]
    'tench'
    """
    lines = pathlib.Path(__file__).with_name("imagenet1k.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def class_names_for(num_classes, config):
    """Class names of a checkpoint.

    Args:
        num_classes: int. Number of logits.
        config: dict. Content of config.json of the checkpoint, or {}.

    Returns:
        (tuple of str or None, note). The note is a line of the report.
    """
    names = config.get("id2label")
    if isinstance(names, dict) and len(names) == num_classes:
        ordered = [str(names.get(str(i), names.get(i))) for i in range(num_classes)]
        if len(set(ordered)) == num_classes and not all(re.fullmatch(r"LABEL_\d+", n) for n in ordered):
            return tuple(ordered), "labels: from the checkpoint's config.json"
    if num_classes == IMAGENET_1K:
        return tuple(imagenet_names().values()), "labels: those of ImageNet-1k, ASSUMED from the 1,000 logits"
    if num_classes == IMAGENET_22K:
        first = tuple(imagenet_names().values())
        rest = tuple(f"ImageNet-22k class {index}" for index in range(IMAGENET_1K, IMAGENET_22K))
        return (
            first + rest,
            "labels: those of ImageNet-1k for the first 1,000 of 21,842 logits (850, teddy bear, was never "
            "trained), numbers for the others; --labels labelmap_22k_reorder.txt (upstream's file) names all",
        )
    return None, "labels: none; --labels FILE sets them, with one name per line"


def read_labels(path, num_classes):
    """Class names from a text file with one name, or one name and class number, per line.

    Args:
        path: str or path. Path of the file. WordNet identifiers of ImageNet-1k are replaced by names.
        num_classes: int. Number of classes.

    Returns:
        tuple of str.

    Raises:
        ValueError: if the lines do not name `num_classes` classes.
    """
    lines = [line.strip() for line in expanded(path).read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line]
    numbered = [re.fullmatch(r"(.*?)[\t ]+(\d+)", line) for line in lines]
    if lines and all(numbered):
        by_number = {int(found[2]): found[1] for found in numbered}
        if max(by_number) >= num_classes:
            raise ValueError(f"{path} has class {max(by_number)}; expected numbers below {num_classes}.")
        names = [by_number.get(index, f"class {index}, without a name") for index in range(num_classes)]
    else:
        names = lines
    if len(names) != num_classes:
        found = f"{len(names)} {plural(len(names), 'name')}"
        classes = f"{num_classes} {plural(num_classes, 'class', 'classes')}"
        raise ValueError(f"{path} has {found} for {classes}. Write one name per line.")
    return tuple(in_words(names))


def in_words(names):
    """List of names in which WordNet identifiers of ImageNet-1k are replaced by class names.

    >>> from focalnets.presets.labels import in_words
    >>> in_words(["n01440764", "cat"])
    ['tench', 'cat']
    """
    return [imagenet_names().get(name, name) if _WORDNET.fullmatch(name) else name for name in names]
