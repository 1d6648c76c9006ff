"""Predictor: a preset or run directory -> predictions for pictures of any size."""

from dataclasses import dataclass

import numpy as np

from focalnets._io import progress
from focalnets.presets.store import load_preset


@dataclass(frozen=True)
class Prediction:
    """What one picture is taken for.

    Attributes:
        name: the picture's.
        classes: names of the likeliest classes, likeliest first.
        probabilities: theirs, 0 to 1.
    """

    name: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


class Predictor:
    """A classifier with the preprocessing and labels of its preset.

    Args:
        preset: preset or run directory.
        batch_size: pictures at a time.

    >>> import tempfile
    >>> import numpy as np
    >>> from focalnets import FocalNetClassifier, ImageConverter
    >>> from focalnets.inference.predictor import Predictor
    >>> net = FocalNetClassifier.from_preset("focalnet_pico", load_weights=False)
    >>> folder = tempfile.mkdtemp() + "/preset"
    >>> net.save_to_preset(folder)
    >>> Predictor(folder).logits([np.zeros((8, 8, 1), "uint8")] * 3).shape
    (3, 10)
    """

    def __init__(self, preset, batch_size=64):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
        self.classifier = load_preset(preset)
        self.batch_size = batch_size

    @property
    def channels(self):
        """Channels of the pictures that the net takes."""
        return self.classifier.backbone.image_shape[-1]

    @property
    def class_names(self):
        """The preset's labels, or "class 0", "class 1", ... if it has none."""
        names = self.classifier.class_names
        return names or tuple(f"class {index}" for index in range(self.classifier.num_classes))

    def prepare(self, pixels, crop=True):
        """One uint8 image (H, W, channels) as the preset wants it; see `ImageConverter.prepare`."""
        converter = self.classifier.image_converter
        return pixels if converter is None else converter.prepare(pixels, crop=crop)

    def logits(self, images):
        """Logits (N, classes) of uint8 images (H, W, channels), each of any size."""
        prepared = [self.prepare(image) for image in images]
        rows = np.zeros((len(prepared), self.classifier.num_classes), "float32")
        batches = list(_batches_of_one_size(prepared, self.batch_size))
        for indices in progress(batches, "classifying"):
            batch = np.stack([prepared[index] for index in indices])
            rows[indices] = self.classifier.predict_on_batch(batch)
        return rows

    def predict(self, pictures, top=5):
        """A `Prediction` for each `data.pictures.Picture`, with its `top` likeliest classes."""
        probabilities = softmax(self.logits([picture.pixels for picture in pictures]))
        predictions = []
        for picture, row in zip(pictures, probabilities, strict=True):
            best = np.argsort(-row, kind="stable")[:top]
            names = tuple(self.class_names[index] for index in best)
            predictions.append(Prediction(picture.name, names, tuple(float(row[i]) for i in best)))
        return predictions


def softmax(logits):
    """Probabilities (N, classes) from logits, in float64.

    >>> import numpy as np
    >>> from focalnets.inference.predictor import softmax
    >>> softmax(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    shifted = np.float64(logits) - np.max(logits, axis=-1, keepdims=True)
    return np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True)


def _batches_of_one_size(images, batch_size):
    """Lists of indices, all images of a list having one shape."""
    by_shape = {}
    for index, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(index)
    for indices in by_shape.values():
        for start in range(0, len(indices), batch_size):
            yield indices[start : start + batch_size]
