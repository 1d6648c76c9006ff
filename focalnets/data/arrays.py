"""Data sets that come as arrays."""

import os
import pathlib
from dataclasses import dataclass

import numpy as np

from focalnets.data.left_out import OTHER_SPLITS, LeftOut, count
from focalnets.data.names import KERAS_DATASETS
from focalnets.data.naming import named_splits, split_for
from focalnets.data.splits import stratified_draw
from focalnets.names import plural
from focalnets.npz import read_npz

# Classes of an .npz without class names: each costs a name, a row of the head and one of the figures.
MAX_CLASSES = 100_000

# One of these words, beside that of the split, is the name of an array in an .npz.
_IMAGES, _LABELS = {"x", "image", "images"}, {"y", "label", "labels"}

# Compressed images are a tenth of their size, masks a hundredth; a bomb is a thousandth.
_MOST_EXPANSION, _ALLOWANCE = 200, 2**28  # times the file's size; bytes that are allowed in any case


@dataclass(frozen=True)
class ArraySource:
    """Attributes:
    parts: dict split -> (images, labels).
    class_names: list of str, which the labels index.
    left_out: tuple of `LeftOut`.
    """

    parts: dict[str, tuple]
    class_names: list[str]
    left_out: tuple[LeftOut, ...] = ()


def digits():
    """scikit-learn's, bundled with it."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("The digits come with scikit-learn: pip install 'focalnets[digits]'.") from error
    found = load_digits()
    images = np.round(found.images * (255 / 16)).astype("uint8")  # pixels are 0..16
    # The data come in order of writers, so that a plain cut would test on writers never seen; this
    # stratified draw is fixed for ever, whatever the seed of a run.
    test = stratified_draw(found.target, fraction=0.2, seed=0)
    train = np.setdiff1d(np.arange(len(images)), test)
    parts = {"train": (images[train], found.target[train]), "test": (images[test], found.target[test])}
    return ArraySource(parts, [str(digit) for digit in range(10)])


def keras_dataset(name):
    """One of `KERAS_DATASETS`, downloaded by Keras if it is not in its cache."""
    import keras

    try:
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception where a download fails
        folder = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")) / "datasets"
        raise OSError(
            f"{name} could not be downloaded or read ({first_line(error)}). Connect to the internet and try "
            f"again; if it fails again, remove what an earlier download left in {folder}."
        ) from error
    names = KERAS_DATASETS[name] or [f"class {label:02}" for label in range(100)]
    return ArraySource({"train": train, "test": test}, names)


def first_line(error):
    """The first line of an error's text, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def npz(path):
    """Arrays x_train, y_train and so on of a file; plain arrays only, nothing is unpickled.

    The names of splits follow `naming.split_for`: x_valid and x_validation are the split val. The arrays may
    also be called train_images and train_labels.
    """
    try:
        arrays = read_npz(path, _MOST_EXPANSION, _ALLOWANCE)
    except ValueError as error:
        reason = str(error.__cause__ or error)
        if "holds objects" in reason:
            raise ValueError(f"{path} holds objects, not plain arrays; save it anew without them.") from error
        raise ValueError(f"{path} is no .npz file, or a damaged one ({reason}): write it anew.") from error
    parts, left_out = _named_parts(path, arrays)
    if "train" not in parts:
        raise ValueError(f"{path} holds {', '.join(sorted(arrays))}; it needs x_train and y_train.")
    if len(parts["train"][1]) == 0:
        raise ValueError(f"{path} has no images in x_train.")
    classes = 1 + int(np.max(parts["train"][1], initial=0))
    if "class_names" not in arrays and classes > MAX_CLASSES:
        raise ValueError(
            f"{path} has the label {classes - 1:,} in y_train, which would make {classes:,} classes: labels "
            f"number the classes from 0. Without class_names, the limit is {MAX_CLASSES:,} classes. Number "
            "them from 0 without gaps."
        )
    names = [str(name) for name in arrays.get("class_names", [f"class {label}" for label in range(classes)])]
    return ArraySource(parts, names, left_out)


def _named_parts(path, arrays):
    """({split: (images, labels)}, tuple of `LeftOut`)."""
    images, labels = _named_like(path, arrays, _IMAGES), _named_like(path, arrays, _LABELS)
    for split, name in images.items():
        found = arrays.get(labels.get(split))
        if np.ndim(arrays[name]) < 3 or np.shape(found)[:1] != arrays[name].shape[:1]:
            expected = labels.get(split, f"y_{split}" if name == f"x_{split}" else f"{split}_labels")
            raise ValueError(
                f"{path} needs images {name} (N, H, W, C) and as many labels {expected}; it has "
                + ", ".join(f"{key} {value.shape}" for key, value in sorted(arrays.items()))
            )
        checked_labels(split, found, len(found), np.inf)
    found, others = named_splits(images, path)
    parts = {split: (arrays[images[name]], arrays[labels[name]]) for split, name in found.items()}
    return parts, count(OTHER_SPLITS, [images[name] for name in others])


def _named_like(path, arrays, words):
    """The arrays of splits with one of `words` in their name: name of the split -> name."""
    found = {}
    for name in arrays:
        split = "_".join(part for part in name.split("_") if part.casefold() not in words)
        if split == name or (split_for(split) is None and not name.startswith(("x_", "y_"))):
            continue
        if split in found:
            raise ValueError(
                f"{path} has {found[split]} and {name}. Expected one array of images and one of labels per "
                "split. Leave one of them out."
            )
        found[split] = name
    return found


def checked_labels(split, labels, images, classes):
    """Labels as int32 (images,); ValueError if they are not one integer in 0..classes - 1 an image."""
    labels = np.asarray(labels)
    if labels.shape not in ((images,), (images, 1)) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"Labels must be one integer an image; the split {split} has {images} "
            f"{plural(images, 'image')} and labels of shape {labels.shape}, {labels.dtype}."
        )
    if images and not 0 <= labels.min() <= labels.max() < classes:
        if labels.min() < 0:
            raise ValueError(f"Labels must not be negative; the split {split} has {labels.min()}.")
        raise ValueError(
            f"Labels of the split {split} run from {labels.min()} to {labels.max()}; with {classes} "
            f"{plural(classes, 'class', 'classes')} they must be in 0..{classes - 1}."
        )
    return labels.reshape(-1).astype("int32")


def checked_images(split, images, channels):
    """uint8 (N, H, W, channels); ValueError if they are no such images."""
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise ValueError(f"Images must be uint8, 0..255; got {images.dtype} in the split {split}.")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise ValueError(f"Images must be (N, H, W, C); got {images.shape} in the split {split}.")
    if images.shape[-1] == channels:
        return images
    if images.shape[-1] == 1 and channels == 3:
        return np.repeat(images, channels, axis=-1)
    if channels == 1 and images.shape[-1] == 3:  # ITU-R 601, as Pillow
        return np.round(images @ np.array([0.299, 0.587, 0.114])).astype("uint8")[..., None]
    found = images.shape[-1]
    raise ValueError(f"Images have {found} {plural(found, 'channel')}; the network takes {channels}.")
