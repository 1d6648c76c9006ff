"""Data sets that consist of arrays: the digits, Keras' data sets and `.npz` files."""

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

# Limit for an .npz without class names. Each class adds a name, a row of the head and a row of the figures.
MAX_CLASSES = 100_000

# The name of an array in an .npz consists of the name of a split and one of these words.
_IMAGES, _LABELS = {"x", "image", "images"}, {"y", "label", "labels"}

# Limits of the unpacked size: a multiple of the file size, and bytes that are always allowed. Images compress
# to a tenth, masks to a hundredth, and a zip bomb to a thousandth of their size.
_MAX_EXPANSION, _ALLOWANCE = 200, 2**28


@dataclass(frozen=True)
class ArraySource:
    """Arrays of a source.

    Attributes:
        parts: dict. Split -> (images, labels).
        class_names: list of str, one per label.
        left_out: tuple of `LeftOut`. Defaults to `()`.
    """

    parts: dict[str, tuple]
    class_names: list[str]
    left_out: tuple[LeftOut, ...] = ()


def digits():
    """Handwritten digits of Alpaydin and Kaynak (1998), as an `ArraySource`.

    The file is the test part of "Optical Recognition of Handwritten Digits" of the UCI repository, which
    scikit-learn's `load_digits` also has: importing scikit-learn takes longer than everything else here.
    """
    with np.load(pathlib.Path(__file__).with_name("digits.npz")) as found:
        images, labels = found["images"], found["labels"].astype("int64")
    images = np.round(images * (255 / 16)).astype("uint8")  # pixels are 0..16
    # The images are sorted by writer, so the last fifth would only have writers without training images. The
    # random split does not depend on the seed of a run.
    test = stratified_draw(labels, fraction=0.2, seed=0)
    train = np.setdiff1d(np.arange(len(images)), test)
    parts = {"train": (images[train], labels[train]), "test": (images[test], labels[test])}
    return ArraySource(parts, [str(digit) for digit in range(10)])


def keras_dataset(name):
    """Data set in `KERAS_DATASETS` as an `ArraySource`. Keras downloads it once."""
    import keras

    try:
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises Exception if a download fails
        folder = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")) / "datasets"
        raise OSError(
            f"{name} could not be downloaded or read ({first_line(error)}). Connect to the internet and try "
            f"again. If this fails, remove incomplete downloads from {folder}."
        ) from error
    names = KERAS_DATASETS[name] or [f"class {label:02}" for label in range(100)]
    return ArraySource({"train": train, "test": test}, names)


def first_line(error):
    """First line of the text of an error, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def npz(path):
    """Arrays x_train, y_train and so on of an .npz file, as an `ArraySource`. Nothing is unpickled.

    Names of splits follow `naming.split_for`, so x_valid and x_validation are the split val. train_images and
    train_labels mean the same as x_train and y_train.
    """
    try:
        arrays = read_npz(path, _MAX_EXPANSION, _ALLOWANCE)
    except ValueError as error:
        reason = str(error.__cause__ or error)
        if "holds objects" in reason:
            raise ValueError(
                f"{path} holds objects; expected plain arrays. Save it without objects."
            ) from error
        raise ValueError(f"{path} is not an .npz file, or damaged ({reason}). Save it again.") from error
    parts, left_out = _named_parts(path, arrays)
    if "train" not in parts:
        raise ValueError(f"{path} holds {', '.join(sorted(arrays))}; expected x_train and y_train.")
    if len(parts["train"][1]) == 0:
        raise ValueError(f"{path} has no images in x_train.")
    classes = 1 + int(np.max(parts["train"][1], initial=0))
    if "class_names" not in arrays and classes > MAX_CLASSES:
        raise ValueError(
            f"{path} has the label {classes - 1:,} in y_train, which means {classes:,} classes. Without "
            f"class_names, the limit is {MAX_CLASSES:,} classes. Number the classes from 0 without gaps."
        )
    names = [str(name) for name in arrays.get("class_names", [f"class {label}" for label in range(classes)])]
    return ArraySource(parts, names, left_out)


def _named_parts(path, arrays):
    """Tuple ({split: (images, labels)}, tuple of `LeftOut`)."""
    images, labels = _named_like(path, arrays, _IMAGES), _named_like(path, arrays, _LABELS)
    for split, name in images.items():
        found = arrays.get(labels.get(split))
        if np.ndim(arrays[name]) < 3 or np.shape(found)[:1] != arrays[name].shape[:1]:
            expected = labels.get(split, f"y_{split}" if name == f"x_{split}" else f"{split}_labels")
            raise ValueError(
                f"{path} needs images {name} (N, H, W, C) and N labels {expected}; it has "
                + ", ".join(f"{key} {value.shape}" for key, value in sorted(arrays.items()))
            )
        checked_labels(split, found, len(found), np.inf)
    found, others = named_splits(images, path)
    parts = {split: (arrays[images[name]], arrays[labels[name]]) for split, name in found.items()}
    return parts, count(OTHER_SPLITS, [images[name] for name in others])


def _named_like(path, arrays, words):
    """Arrays whose name is the name of a split and one of `words`: name of the split -> name of the array."""
    found = {}
    for name in arrays:
        split = "_".join(part for part in name.split("_") if part.casefold() not in words)
        if split == name or (split_for(split) is None and not name.startswith(("x_", "y_"))):
            continue
        if split in found:
            raise ValueError(
                f"{path} has {found[split]} and {name}. Expected one array of images and one of labels per "
                "split. Remove one of them."
            )
        found[split] = name
    return found


def checked_labels(split, labels, images, classes):
    """Labels as int32 (images,). ValueError if they are not one integer in 0..classes - 1 per image."""
    labels = np.asarray(labels)
    if labels.shape not in ((images,), (images, 1)) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"Labels must be one integer per image; the split {split} has {images} "
            f"{plural(images, 'image')} and labels of shape {labels.shape}, {labels.dtype}."
        )
    if images and not 0 <= labels.min() <= labels.max() < classes:
        if labels.min() < 0:
            raise ValueError(f"Labels must not be negative; the split {split} has {labels.min()}.")
        raise ValueError(
            f"Labels of the split {split} range from {labels.min()} to {labels.max()}; expected 0 to "
            f"{classes - 1} for {classes} {plural(classes, 'class', 'classes')}."
        )
    return labels.reshape(-1).astype("int32")


def checked_images(split, images, channels):
    """Images as uint8 (N, H, W, channels). ValueError for another type, shape or number of channels."""
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise ValueError(f"Images must be uint8, from 0 to 255; got {images.dtype} in the split {split}.")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4:
        raise ValueError(f"Images must be (N, H, W, C); got shape {images.shape} in the split {split}.")
    if images.shape[-1] == channels:
        return images
    if images.shape[-1] == 1 and channels == 3:
        return np.repeat(images, channels, axis=-1)
    if channels == 1 and images.shape[-1] == 3:  # ITU-R 601, as in Pillow
        return np.round(images @ np.array([0.299, 0.587, 0.114])).astype("uint8")[..., None]
    found = images.shape[-1]
    raise ValueError(f"Images have {found} {plural(found, 'channel')}; the network expects {channels}.")
