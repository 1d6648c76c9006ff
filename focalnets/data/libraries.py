"""Data sets of other libraries' hubs: which pictures they hold, and how to open each."""

import collections
import io
import logging
import pathlib

import numpy as np

from focalnets.data.files import SPLIT_NAMES, Listing

_log = logging.getLogger("focalnets")


def list_hugging_face(spec):
    """ "hf://<name>" or "hf://<name>:<configuration>": the first column of images, the first of labels.

    The name is one on the hub, or a directory that `datasets.load_dataset` takes.

    Raises:
        ImportError: if `datasets` is not installed.
        ValueError: if there is no column of images, or none of labels.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("hf:// needs Hugging Face's datasets: pip install 'focalnets[hf]'.") from error
    name, _, configuration = spec.removeprefix("hf://").partition(":")
    found = datasets.load_dataset(name, configuration or None)
    parts = {SPLIT_NAMES[split]: part for split, part in found.items() if split in SPLIT_NAMES}
    if not parts:
        raise ValueError(f"{spec} has no split train, validation or test; it has: {', '.join(found)}.")
    features = next(iter(parts.values())).features
    images = _first(spec, features, "images", lambda _, feature: isinstance(feature, datasets.Image))
    labels = _first(
        spec,
        features,
        "labels",
        lambda column, feature: isinstance(feature, datasets.ClassLabel) or column == "label",
    )
    names = tuple(getattr(features[labels], "names", ()))
    rows = []
    for split, part in parts.items():
        parts[split] = part.cast_column(images, datasets.Image(decode=False))
        rows += [(split, label, f"{split}/{index}") for index, label in enumerate(part[labels])]

    def opener(row):
        split, index = row.split("/")
        stored = parts[split][int(index)][images]
        return open(stored["path"], "rb") if stored["bytes"] is None else io.BytesIO(stored["bytes"])

    return Listing(_labelled(spec, rows, names), opener, names or None)


def list_tensorflow_datasets(spec):
    """ "tfds:<name>" or "tfds:<name>/<configuration>", below $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Downloaded and prepared there if it is not yet, in the format that can be read without TensorFlow.

    Raises:
        ImportError: if `tensorflow_datasets` is not installed.
        ValueError: if the data set is unknown, or has no feature of images, or none of labels.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError("tfds: needs TensorFlow Datasets: pip install 'focalnets[tfds]'.") from error
    name = spec.removeprefix("tfds:")
    try:
        builder = tfds.builder(name, try_gcs=False)
    except tfds.core.DatasetNotFoundError as error:  # its text lists all of them, some hundred lines
        raise ValueError(f"TensorFlow Datasets has no {name!r}.") from error
    if not pathlib.Path(builder.data_path).exists():
        builder.download_and_prepare(file_format="array_record")
    features = builder.info.features
    images = _first(spec, features, "images", lambda _, feature: isinstance(feature, tfds.features.Image))
    labels = _first(
        spec, features, "labels", lambda _, feature: isinstance(feature, tfds.features.ClassLabel)
    )
    sources = builder.as_data_source(decoders={images: tfds.decode.SkipDecoding()})
    parts = {SPLIT_NAMES[split]: source for split, source in sources.items() if split in SPLIT_NAMES}
    names = tuple(features[labels].names)
    rows = []
    for split, part in parts.items():
        for index in range(len(part)):
            rows.append((split, int(np.asarray(part[index][labels])), f"{split}/{index}"))

    def opener(row):
        split, index = row.split("/")
        return io.BytesIO(parts[split][int(index)][images])

    return Listing(_labelled(spec, rows, names), opener, names)


def _labelled(spec, rows, names):
    """Rows with the class's name for its number; those without a label, None or no number of a class, are
    left out."""
    unlabelled, found = collections.Counter(), []
    for split, label, name in rows:
        if label is None or (names and label < 0):
            unlabelled[split] += 1
        else:
            found.append((split, names[label] if names else str(label), name))
    for split, count in unlabelled.items():
        _log.warning("%s: %d images of the split %s have no label and are left out", spec, count, split)
    if not found:
        raise ValueError(f"None of the images of {spec} has a label.")
    return found


def _first(spec, features, what, fits):
    for column, feature in features.items():
        if fits(column, feature):
            return column
    raise ValueError(f"{spec} has no column of {what}; its columns: {', '.join(features)}.")
