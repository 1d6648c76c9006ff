"""Data sets that come as arrays: each source gives ({split: (images, labels)}, class names)."""

import zipfile

import numpy as np

from focalnets.data.files import SPLITS
from focalnets.data.names import KERAS_DATASETS
from focalnets.data.splits import stratified_draw


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
    return parts, [str(digit) for digit in range(10)]


def keras_dataset(name):
    """One of `KERAS_DATASETS`, downloaded by Keras if it is not in its cache."""
    import keras

    train, test = getattr(keras.datasets, name).load_data()
    names = KERAS_DATASETS[name] or [f"class {label:02}" for label in range(100)]
    return {"train": train, "test": test}, names


def npz(path):
    """Arrays x_train, y_train and so on of a file; plain arrays only, nothing is unpickled."""
    try:
        # Opened here: where the file is no zip, NumPy leaves it open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = dict(file)
    except (ValueError, OSError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        if "allow_pickle=False" in str(error) and zipfile.is_zipfile(path):
            raise ValueError(f"{path} holds objects, not plain arrays; save it anew without them.") from error
        raise ValueError(f"{path} is no .npz file, or a damaged one: write it anew.") from error
    for name in [name for name in arrays if name.startswith("x_")]:
        labels = arrays.get(f"y_{name[2:]}")
        if labels is None or np.ndim(arrays[name]) < 3 or len(labels) != len(arrays[name]):
            raise ValueError(
                f"{path} needs images {name} (N, H, W, C) and as many labels y_{name[2:]}; it has "
                + ", ".join(f"{key} {value.shape}" for key, value in sorted(arrays.items()))
            )
        checked_labels(name[2:], labels, len(labels), np.inf)
    parts = {
        split: (arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in SPLITS if f"x_{split}" in arrays
    }
    if "train" not in parts:
        raise ValueError(f"{path} holds {', '.join(sorted(arrays))}; it needs x_train and y_train.")
    if len(parts["train"][1]) == 0:
        raise ValueError(f"{path} has no images in x_train.")
    classes = 1 + int(np.max(parts["train"][1], initial=0))
    names = [str(name) for name in arrays.get("class_names", [f"class {label}" for label in range(classes)])]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} has a name twice among its class_names: {', '.join(names)}.")
    return parts, names


def checked_labels(split, labels, images, classes):
    """Labels as int32 (images,); ValueError if they are not one integer in 0..classes - 1 an image."""
    labels = np.asarray(labels)
    if labels.shape not in ((images,), (images, 1)) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"Labels must be one integer an image; the split {split} has {images} images and labels of "
            f"shape {labels.shape}, {labels.dtype}."
        )
    if images and not 0 <= labels.min() <= labels.max() < classes:
        if labels.min() < 0:
            raise ValueError(f"Labels must not be negative; the split {split} has {labels.min()}.")
        raise ValueError(
            f"Labels of the split {split} run from {labels.min()} to {labels.max()}; with {classes} classes "
            f"they must be in 0..{classes - 1}."
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
    raise ValueError(f"Images have {images.shape[-1]} channels; the network takes {channels}.")
