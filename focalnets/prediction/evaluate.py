"""`evaluate`: measures a classifier on labeled images."""

import functools
import logging
from dataclasses import replace

import numpy as np

from focalnets.data.datasets import open_dataset
from focalnets.data.naming import ALL, distinct_class_names, split_for
from focalnets.images.corruptions import SEVERITIES, corrupt, corruptions_for
from focalnets.names import listed
from focalnets.prediction.evaluation import ConfidentErrors, evaluate_logits
from focalnets.prediction.predictor import Predictor, softmax
from focalnets.prediction.tta import VIEWS
from focalnets.presets.labels import in_words
from focalnets.report.figures import label as short

MOST_ERRORS = 24  # images on the page of an evaluation

_log = logging.getLogger("focalnets")


def evaluate(
    preset,
    data,
    split="test",
    restrict=False,
    tta="none",
    corruptions=False,
    limit=None,
    batch_size=64,
    on_bad_image="error",
    cache_images="auto",
):
    """Measure accuracy, loss, calibration and confusion of a classifier on labeled images.

    Args:
        preset: Path of a preset or run directory, name in `CHECKPOINTS`, any other preset of
            `FocalNetImageClassifier.from_preset`, or a `FocalNetImageClassifier`.
        data: str. Name of a data set such as "digits", or path of a folder, .zip, .tar, .csv or .npz file,
            see `open_dataset`.
        split: str. "test", "val", "train", or "all" for the images of all splits. Defaults to "test".
        restrict: bool. Predict only classes that occur in the data. Defaults to `False`.
        tta: str. Test-time augmentation: "none", "flip" (2 images) or "shift" (6 images). Defaults to "none".
        corruptions: bool. Also measure accuracy on corrupted images (Hendrycks and Dietterich, 2019).
            Defaults to `False`.
        limit: int. Evaluate this many images, the same fraction of each class. Defaults to all images.
        batch_size: int. Number of images per batch. Defaults to 64.
        on_bad_image: str. "error" raises an error that lists unreadable images. "skip" leaves them out.
            Defaults to "error".
        cache_images: str. "memory", "stream" or "auto", see `open_dataset`. Defaults to "auto".

    Returns:
        `Evaluation`. It prints as a table, is displayed in a notebook, and saves itself with
        `save(directory)`.

    Raises:
        ValueError: if the data set has no such split or has a class that the preset lacks, or a logit is not
            finite.

    >>> import pathlib, tempfile
    >>> import focalnets
    >>> from PIL import Image
    >>> folder = pathlib.Path(tempfile.mkdtemp(), "cat")  # one folder per class
    >>> folder.mkdir()
    >>> Image.new("RGB", (32, 32)).save(folder / "1.png")
    >>> focalnets.evaluate("focalnet_nano_cifar10", str(folder.parent), split="all").images
    1
    """
    if tta not in VIEWS:
        raise ValueError(f"tta must be one of {', '.join(VIEWS)}; got {tta!r}.")
    predictor = Predictor(preset, batch_size)
    chosen = split_for(split) or split
    only = None if chosen == ALL else (chosen,)
    dataset = open_dataset(data, predictor.channels, predictor.prepare, on_bad_image, cache_images, only=only)
    names, places = _matched(predictor.class_names, dataset.class_names)
    images = dataset.everything() if chosen == ALL else dataset.splits[chosen]
    if limit is not None:
        images = _some(images, limit)
    if dataset.drawn_from is not None and chosen != ALL:
        part = {"test": "a fifth", "train": "four fifths"}[chosen]
        _log.warning(
            "Evaluating %s of %s images (the %s split, %s of each class, drawn by file name). Use --split "
            "all to evaluate every image.",
            f"{len(images):,}",
            f"{dataset.drawn_from:,}",
            chosen,
            part,
        )
    kept = np.sort(places) if restrict else np.arange(len(names))
    names = tuple(names[place] for place in kept)
    labels = np.searchsorted(kept, places)[images.labels]
    run = functools.partial(predictor.logits_of_split, images, kept if restrict else None)
    logits = run()
    more = {}
    if tta != "none":
        views = VIEWS[tta]
        text = f"classifying {len(views)} variants of each image"
        averaged = evaluate_logits(run(views=views, text=text), labels, names)
        more["tta"] = {"views": tta, "top1": averaged.top1, "loss": averaged.loss, "ece": averaged.ece}
    plain = evaluate_logits(logits, labels, names)  # errors come before the slow corruptions
    if corruptions:
        more["corruptions"] = _corruptions(run, labels, predictor.channels)
    return replace(
        plain,
        data=str(data),
        split=split,
        errors=_confident_errors(images, logits, labels, names),
        unreadable=tuple(dataset.unreadable),
        **more,
    )


def _matched(names, data_names):
    """Class names of the preset, and the index in them of each class of the data."""
    # ImageNet folders are named by WordNet identifiers.
    names, data_names = (distinct_class_names(in_words(one)) for one in (names, data_names))
    unknown = sorted(set(data_names) - set(names))
    if unknown:
        raise ValueError(
            f"The data have classes that the preset lacks: {listed(unknown)}. It has: {listed(names)}."
        )
    return names, np.array([names.index(name) for name in data_names])


def _confident_errors(images, logits, labels, class_names):
    """The most confident errors as `ConfidentErrors`, or None without errors."""
    probabilities = softmax(logits)
    predicted = probabilities.argmax(axis=-1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:MOST_ERRORS]
    if not len(wrong):
        return None
    names = [short(name, 16) for name in class_names]
    titles = (f"{names[labels[i]]}\nas {names[predicted[i]]} {probabilities[i].max():.0%}" for i in wrong)
    return ConfidentErrors(images.batch(wrong), tuple(titles))


def _some(split, limit):
    """Choose `limit` images of a split, the same fraction of each class."""
    if limit >= len(split):
        return split
    generator = np.random.default_rng(0)
    places = np.empty(len(split))  # the images of each class are spread evenly over 0..1
    for label in np.unique(split.labels):
        rows = generator.permutation(np.flatnonzero(split.labels == label))
        places[rows] = (np.arange(len(rows)) + generator.random()) / len(rows)
    return split.take(np.sort(np.argsort(places, kind="stable")[:limit]))


def _corruptions(logits, labels, channels):
    """Dict of top-1 accuracies at all severities, by corruption."""
    found, names = {}, corruptions_for(channels)
    for number, name in enumerate(names, start=1):
        found[name] = []
        for severity in SEVERITIES:
            changed = logits(
                change=functools.partial(corrupt, name=name, severity=severity),
                text=f"corruption {number} of {len(names)}, {name}, severity {severity}",
            )
            found[name].append(float(np.mean(changed.argmax(axis=-1) == labels)))
    return found
