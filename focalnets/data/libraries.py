"""Listings of data sets of Hugging Face and TensorFlow Datasets."""

import contextlib
import io
import logging
import os
import pathlib

import numpy as np

from focalnets.data.arrays import first_line
from focalnets.data.files import Listing
from focalnets.data.left_out import NO_CONTENT, NO_LABEL, OTHER_SPLITS, LeftOutCounter, count
from focalnets.data.naming import class_name, named_splits
from focalnets.files import open_regular


def list_hugging_face(spec):
    """`Listing` of the first column of images and the first column of labels of a Hugging Face data set.

    Args:
        spec: str. "hf://<name>" or "hf://<name>:<configuration>". The name is a repository on the hub, or a
            directory that `datasets.load_dataset` reads.

    Raises:
        ImportError: if `datasets` is not installed.
        OSError: if the hub does not have the data set, or cannot be reached.
        ValueError: if the data set cannot be read, or has no column of images or labels.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("hf:// needs Hugging Face's datasets: pip install 'focalnets[hf]'.") from error
    name, _, configuration = spec.removeprefix("hf://").partition(":")
    if not name:
        raise ValueError("Got 'hf://' without a name; expected hf://<name>, such as hf://uoft-cs/cifar10.")
    with _explained(spec, "HF_ENDPOINT"):
        found = datasets.load_dataset(name, configuration or None)
    splits, others = named_splits(found, spec)
    parts = {split: found[name] for split, name in splits.items()}
    if not parts:
        raise ValueError(f"{spec} has the splits {', '.join(found)}; expected train, validation or test.")
    features = next(iter(parts.values())).features
    images = _first(spec, features, "images", lambda _, feature: isinstance(feature, datasets.Image))

    def holds_labels(column, feature):
        return isinstance(feature, datasets.ClassLabel) or column == "label"

    labels = _first(spec, features, "labels", holds_labels)
    names = tuple(getattr(features[labels], "names", ()))
    rows, left_out = [], LeftOutCounter()
    for split, part in parts.items():
        parts[split] = part = part.cast_column(images, datasets.Image(decode=False))
        missing = _null_rows(part, images)
        for index, label in enumerate(part[labels]):
            if index in missing:
                left_out.add(NO_CONTENT, f"{split}/{index}")
            else:
                rows.append((split, label, f"{split}/{index}"))
    caches = datasets.config.HF_CACHE_HOME, datasets.config.HF_DATASETS_CACHE
    trusted = ("/",) if os.path.isdir(name) else caches  # the user trusts local data sets

    def opener(row):
        split, index = row.split("/")
        stored = parts[split][int(index)][images]
        if stored["bytes"] is not None:
            return io.BytesIO(stored["bytes"])
        return open_regular(_inside(stored["path"], trusted))

    rows = _labeled(spec, rows, names, left_out)
    left_out = count(OTHER_SPLITS, others) + left_out.result()
    return Listing(rows, opener, tuple(map(class_name, names)) or None, left_out)


@contextlib.contextmanager
def _explained(spec, setting):
    """Convert errors of a library into one line with advice, and hide its log of retries."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    except FileNotFoundError as error:  # the hub reports private data sets as missing
        raise OSError(
            f"{spec} was not found ({first_line(error)}). Check the name. If it is private or gated, log in "
            "with `hf auth login` or HF_TOKEN."
        ) from error
    except OSError as error:
        raise OSError(
            f"{spec} could not be downloaded ({first_line(error)}). Check the connection and {setting}, and "
            "try again. Data sets in the cache need no connection."
        ) from error
    except Exception as error:
        raise ValueError(f"{spec} cannot be read: {first_line(error)}") from error
    finally:
        logger.setLevel(level)


def _null_rows(part, column):
    """Indices of the rows of a `datasets.Dataset` without bytes and path in a column of undecoded images."""
    stored = part.with_format("arrow")[:][column].combine_chunks()
    empty = stored.field("bytes").is_null().to_numpy(zero_copy_only=False)
    empty &= stored.field("path").is_null().to_numpy(zero_copy_only=False)
    empty |= stored.is_null().to_numpy(zero_copy_only=False)
    return set(np.flatnonzero(empty).tolist())


def _inside(path, trusted):
    """Resolve a path from a data set. OSError if it is outside of the trusted folders."""
    resolved = pathlib.Path(path).resolve()
    folders = [pathlib.Path(folder).expanduser().resolve() for folder in trusted]
    if not any(map(resolved.is_relative_to, folders)):
        raise OSError(f"the data set refers to {path}, a file outside of the data set")
    return resolved


def list_tensorflow_datasets(spec):
    """`Listing` of the first feature of images and the first feature of labels in TensorFlow Datasets.

    The data set is stored below $TFDS_DATA_DIR or ~/tensorflow_datasets. If it does not exist there, it is
    downloaded and prepared in a format that can be read without TensorFlow.

    Args:
        spec: str. "tfds:<name>" or "tfds:<name>/<configuration>".

    Raises:
        ImportError: if `tensorflow_datasets` is not installed.
        OSError: if the data set cannot be downloaded.
        ValueError: if the data set is unknown, cannot be prepared, or has no feature of images or labels.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError("tfds: needs TensorFlow Datasets: pip install 'focalnets[tfds]'.") from error
    name = spec.removeprefix("tfds:")
    with _explained(spec, "the proxy"):
        try:
            builder = tfds.builder(name, try_gcs=False)
        except tfds.core.DatasetNotFoundError as error:  # its text lists all names in hundreds of lines
            raise ValueError(f"TensorFlow Datasets has no data set {name!r}.") from error
        if not pathlib.Path(builder.data_path).exists():
            builder.download_and_prepare(file_format="array_record")
    features = builder.info.features
    images = _first(spec, features, "images", lambda _, feature: isinstance(feature, tfds.features.Image))
    labels = _first(spec, features, "labels", lambda _, found: isinstance(found, tfds.features.ClassLabel))
    sources = builder.as_data_source(decoders={images: tfds.decode.SkipDecoding()})
    splits, others = named_splits(sources, spec)
    parts = {split: sources[name] for split, name in splits.items()}
    names = tuple(features[labels].names)
    rows = []
    for split, part in parts.items():
        for index in range(len(part)):
            rows.append((split, int(np.asarray(part[index][labels])), f"{split}/{index}"))

    def opener(row):
        split, index = row.split("/")
        return io.BytesIO(parts[split][int(index)][images])

    left_out = LeftOutCounter()
    rows = _labeled(spec, rows, names, left_out)
    left_out = count(OTHER_SPLITS, others) + left_out.result()
    return Listing(rows, opener, tuple(map(class_name, names)), left_out)


def _labeled(spec, rows, names, left_out):
    """Rows with names of classes instead of numbers. Labels that are None or negative are missing."""
    found = []
    for split, label, name in rows:
        if label is None or (names and label < 0):
            left_out.add(NO_LABEL, name)
        else:
            found.append((split, class_name(names[label] if names else label), name))
    if not found:
        raise ValueError(f"None of the images of {spec} has a label.")
    return found


def _first(spec, features, what, fits):
    for column, feature in features.items():
        if fits(column, feature):
            return column
    raise ValueError(f"{spec} has no column of {what}. Its columns: {', '.join(features)}.")
