"""Comparison of an export with its classifier, on real or made images."""

import time
from dataclasses import dataclass

import numpy as np

from focalnets.data.datasets import open_dataset
from focalnets.models.evidence import evidence_model, target_vector
from focalnets.models.modulation import modulation_model

TOLERANCE = 1e-4  # difference of logits, relative to the largest logit
_MOST_IMAGES = 1000
_BATCH = 32
_ANY_SIZE = (64, 80)  # of made images, if images of any size are possible


@dataclass(frozen=True)
class Comparison:
    """Difference between an export and its classifier.

    Attributes:
        largest: float. Largest difference of a logit, relative to the largest logit.
        mean: float. Mean absolute difference, relative to the largest logit.
        agreement: float. Fraction of images with the same most probable class.
        images: int. Number of compared images.
        made: bool. Whether the images are made (noise of several scales).
        images_per_second: float. Speed of the export in batches of 32.
    """

    largest: float
    mean: float
    agreement: float
    images: int
    made: bool
    images_per_second: float


def compare(classifier, run, shape, data=None, made=16):
    """Compare an export with its classifier.

    Args:
        classifier: `FocalNetImageClassifier`.
        run: Function from images to a dict with "logits".
        shape: (height, width, channels) of the images, where height and width may be None.
        data: str or None. Data set, as for `open_dataset`, of which up to 1,000 test images are used.
            Defaults to `None`, made images.
        made: int. Number of made images. Defaults to 16.

    Returns:
        `Comparison`.

    Raises:
        ValueError: if the data has no images, or the network has no preprocessing.
    """
    batches = [made_images(classifier, shape, made)] if data is None else _images(classifier, data)
    expected, found, seconds = [], [], 0.0
    for place, images in enumerate(batches):
        expected.append(np.float64(classifier.predict_on_batch(images)))
        if place == 0:
            run(images)  # a first call may compile
        start = time.perf_counter()
        found.append(run(images)["logits"])
        seconds += time.perf_counter() - start
    expected, found = np.concatenate(expected), np.concatenate(found)
    differences, scale = np.abs(found - expected), np.abs(expected).max()
    return Comparison(
        largest=float(differences.max() / scale),
        mean=float(differences.mean() / scale),
        agreement=float(np.mean(found.argmax(axis=-1) == expected.argmax(axis=-1))),
        images=len(found),
        made=data is None,
        images_per_second=len(found) / seconds,
    )


def _images(classifier, data):
    converter = classifier.image_converter
    if converter is None:
        raise ValueError("A network without preprocessing is compared on made images; got data.")
    dataset = open_dataset(data, classifier.backbone.image_shape[-1], converter.prepare)
    split = dataset.splits.get("test") or dataset.everything()
    count = min(len(split), _MOST_IMAGES)
    places = np.linspace(0, len(split) - 1, count).astype(int)  # of all classes, if they are in order
    for start in range(0, count, _BATCH):
        yield split.batch(places[start : start + _BATCH])


def made_images(classifier, shape, count):
    """Images (count, height, width, channels) of noise of several scales, as photographs have."""
    height, width, channels = (one or size for one, size in zip(shape, (*_ANY_SIZE, 3), strict=True))
    generator, images = np.random.default_rng(0), np.zeros((count, height, width, channels))
    for scale in (1, 2, 4, 8, 16):
        rows, columns = -(-height // scale), -(-width // scale)
        noise = generator.normal(size=(count, rows, columns, channels))
        images += np.sqrt(scale) * noise.repeat(scale, 1).repeat(scale, 2)[:, :height, :width]
    images = (images - images.min()) / (images.max() - images.min())
    if classifier.image_converter is None:
        return np.float32(4 * images - 2)
    return np.rint(255 * images).astype("uint8")


def evidence_difference(classifier, run, shape):
    """Largest difference of evidence and gates between `run` and Keras, relative to each largest value."""
    images, classes = made_images(classifier, shape, 2), classifier.num_classes
    targets = np.stack([target_vector(classes, one) for one in (0, classes - 1)])
    inputs = {"images": images, "targets": targets}
    expected = evidence_model(classifier, levels=True).predict_on_batch(inputs)
    gates = modulation_model(classifier).predict_on_batch(images)["gates"]
    expected = {
        **{f"evidence_{tap}": one for tap, one in expected["evidence"].items()},
        **{f"levels_{block}": one for block, one in expected["levels"].items()},
        **{f"gates_{block}": one for block, one in gates.items()},
    }
    found = run(inputs)
    return max(float(np.abs(found[name] - one).max() / np.abs(one).max()) for name, one in expected.items())


def check(value, what, unit):
    """Raise a ValueError if a relative difference is above the tolerance, or NaN."""
    if not value <= TOLERANCE:
        raise ValueError(
            f"The {what} differs from that of Keras by {value:.1e} times the largest {unit}; expected at "
            f"most {TOLERANCE}. Use the network with Keras (--engine keras), and please report this problem."
        )
