"""Class names that belong to published checkpoints.

`imagenet1k.txt` has a line a class of ImageNet-1k: WordNet's identifier and its first name.

The 22k heads have 21,842 logits: the classes of ImageNet-1k first, in their order, so that such a net can be
evaluated on ImageNet-1k as it is; then the others by identifier. Number 850, the teddy bear, is not in
ImageNet-22k: its logit was never trained. Upstream's file of labels therefore has 21,841 lines, each with its
own number (upstream issue 27, timm 2140).
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
    """WordNet identifier -> name, for the 1,000 classes of ImageNet-1k in their order.

    >>> from focalnets.presets.labels import imagenet_names
    >>> imagenet_names()["n01440764"]
    'tench'
    """
    lines = pathlib.Path(__file__).with_name("imagenet1k.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def class_names_for(num_classes, config):
    """Names for the logits of a checkpoint.

    Args:
        num_classes: how many logits.
        config: the checkpoint's config.json, or {}.

    Returns:
        (tuple of names or None, where they are from).
    """
    names = config.get("id2label")
    if isinstance(names, dict) and len(names) == num_classes:
        ordered = [str(names.get(str(i), names.get(i))) for i in range(num_classes)]
        if len(set(ordered)) == num_classes and not all(re.fullmatch(r"LABEL_\d+", n) for n in ordered):
            return tuple(ordered), "labels: from the checkpoint's config.json"
    if num_classes == IMAGENET_1K:
        return tuple(imagenet_names().values()), "labels: ImageNet-1k's, ASSUMED from the 1,000 logits"
    if num_classes == IMAGENET_22K:
        first = tuple(imagenet_names().values())
        rest = tuple(f"ImageNet-22k class {index}" for index in range(IMAGENET_1K, IMAGENET_22K))
        return (
            first + rest,
            "labels: ImageNet-1k's for the first 1,000 of 21,842 logits (number 850, the teddy bear, was "
            "never trained), numbers for the others: --labels takes upstream's labelmap_22k_reorder.txt",
        )
    return None, "labels: none; --labels takes a file with a name a line"


def read_labels(path, num_classes):
    """Class names from a text file: a name a line, or, as in upstream's, a name and its number.

    Args:
        path: of the file. WordNet identifiers of ImageNet-1k become names.
        num_classes: how many names are wanted.

    Raises:
        ValueError: if lines and classes do not fit.
    """
    lines = [line.strip() for line in expanded(path).read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line]
    numbered = [re.fullmatch(r"(.*?)[\t ]+(\d+)", line) for line in lines]
    if lines and all(numbered):
        by_number = {int(found[2]): found[1] for found in numbered}
        if max(by_number) >= num_classes:
            raise ValueError(f"{path} numbers a class {max(by_number)}; there are {num_classes}.")
        names = [by_number.get(index, f"class {index}, without a name") for index in range(num_classes)]
    else:
        names = lines
    if len(names) != num_classes:
        found = f"{len(names)} {plural(len(names), 'name')}"
        raise ValueError(f"{path} has {found} for {num_classes} {plural(num_classes, 'class', 'classes')}.")
    return tuple(in_words(names))


def in_words(names):
    """The names, WordNet's identifiers of ImageNet-1k's classes replaced by theirs.

    >>> from focalnets.presets.labels import in_words
    >>> in_words(["n01440764", "cat"])
    ['tench', 'cat']
    """
    return [imagenet_names().get(name, name) if _WORDNET.fullmatch(name) else name for name in names]
