"""`Predictor`: a classifier with preprocessing and labels, for images of any size."""

import itertools
import numbers
from dataclasses import dataclass

import numpy as np

from focalnets.data.find import NO_PREPROCESSING, read_images
from focalnets.names import printable
from focalnets.prediction.engines import named_classes, open_engine
from focalnets.prediction.tta import VIEWS
from focalnets.progress import progress
from focalnets.threads import cores, parallel_map

# Largest number of pixels in a batch: 64 images of 512 x 512.
_MOST_PIXELS = 2**24

NOT_FINITE = "Some logits are NaN or infinite: the weights are damaged, or training diverged."


@dataclass(frozen=True)
class Prediction:
    """Predicted classes of one image.

    Attributes:
        name: str. Name of the image.
        classes: tuple of str. Most probable classes, in descending order.
        probabilities: tuple of float, 0 to 1. Probabilities of these classes.
    """

    name: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    def in_words(self):
        """One line with the classes and their probabilities."""
        ranked = zip(self.classes, self.probabilities, strict=True)
        return "  ".join(f"{printable(name)} {probability:6.1%}" for name, probability in ranked)


class Predictor:
    """A classifier with the preprocessing and labels of its preset.

    Args:
        preset: Preset, run or export directory, any other preset of `FocalNetImageClassifier.from_preset`, or
            a `FocalNetImageClassifier`.
        batch_size: int. Number of images per batch. Defaults to 64.
        engine: str. "keras", "onnxruntime", "openvino" or "auto", see `open_engine`. Defaults to "keras".

    >>> import tempfile
    >>> import numpy as np
    >>> from focalnets import FocalNetImageClassifier, FocalNetImageConverter
    >>> from focalnets.prediction.predictor import Predictor
    >>> net = FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
    >>> folder = tempfile.mkdtemp() + "/preset"
    >>> net.save_to_preset(folder)
    >>> Predictor(folder).logits([np.zeros((8, 8, 1), "uint8")] * 3).shape
    (3, 10)
    """

    def __init__(self, preset, batch_size=64, engine="keras"):
        check_count("batch_size", batch_size)
        self.engine = open_engine(preset, engine)
        self.batch_size = batch_size

    @property
    def channels(self):
        """Number of channels of the images."""
        return self.engine.channels

    @property
    def class_names(self):
        """Class names of the preset, or "class 0", "class 1", ... if it has none."""
        return named_classes(self.engine.class_names, self.engine.num_classes)

    def prepare(self, pixels, crop=True):
        """Preprocess one uint8 image (H, W, channels), see `FocalNetImageConverter.prepare`."""
        return self.engine.prepare(pixels, crop=crop)

    def logits(self, images):
        """Logits (N, classes) of uint8 images (H, W, channels) of any size."""
        none = np.zeros((0, self.engine.num_classes), "float32")
        return np.concatenate([none, *self._batches_of_logits(self.prepare(image) for image in images)])

    def logits_of_split(self, split, classes=None, views=VIEWS["none"], change=None, text="classifying"):
        """Logits (N, classes) of a `Split`. Batches are read when they are needed.

        Args:
            split: `Split` that was opened with `prepare`.
            classes: sequence of int or None. Indices of the possible classes. Defaults to `None`, all.
            views: tuple of functions on uint8 images, see `tta.py`. With several, the result is the logarithm
                of the mean of their probabilities. Defaults to the unchanged images.
            change: function of images and `first`, the index of the first one, or None. It is applied before
                `views`. Defaults to `None`.
            text: str. Text of the progress bar. Defaults to "classifying".
        """
        starts = range(0, len(split), self.batch_size)
        rows = [np.arange(start, min(start + self.batch_size, len(split))) for start in starts]

        def images(batch_rows):
            batch = split.batch(batch_rows)
            return batch if change is None else change(batch, first=int(batch_rows[0]))

        plain = split.in_memory and change is None
        batches = parallel_map(images, rows, workers=0 if plain else cores())
        batches = progress(batches, text, len(rows))
        none = np.zeros((0, self.engine.num_classes if classes is None else len(classes)), "float32")
        return np.concatenate([none, *(self._over_views(batch, views, classes) for batch in batches)])

    def _over_views(self, images, views, classes):
        logits = [self.engine.run(view(images)) for view in views]
        if classes is not None:
            logits = [one[:, classes] for one in logits]
        if len(logits) == 1:
            return logits[0]
        return np.log(np.mean([softmax(one) for one in logits], axis=0).clip(1e-300))

    def predict(self, images, top=5):
        """List of `Prediction` for a list of `data.find.FoundImage`. ValueError if a logit is not finite."""
        pixels = (self.prepare(image.pixels) for image in images)
        return self.rank([image.name for image in images], pixels, top)

    def predict_files(self, paths, top=5):
        """Classify image files. Only a few images are in memory at a time.

        Returns:
            Tuple: list of `Prediction`, and list of str with the reason for each unreadable image.

        Raises:
            ValueError: if the preset has no preprocessing, or a logit is not finite.
        """
        if not self.engine.takes_images:
            raise ValueError(NO_PREPROCESSING)
        names, unreadable = [], []

        def good():
            for image in read_images(paths, self.channels, self.prepare):
                if image.problem is None:
                    names.append(image.name)
                    yield image.pixels
                else:
                    unreadable.append(image.problem)

        return self.rank(names, good(), top), unreadable

    def _batches_of_logits(self, images):
        """Yield logits of prepared images. A batch has consecutive images of equal size."""
        for (height, width, _), group in itertools.groupby(images, key=np.shape):
            most = max(1, min(self.batch_size, _MOST_PIXELS // (height * width)))
            while batch := list(itertools.islice(group, most)):
                yield self.engine.run(np.stack(batch))

    def rank(self, names, images, top):
        """List of `Prediction` for prepared images.

        Args:
            names: list of str. Names of the images. It may grow while the images are read.
            images: iterable of uint8 (H, W, channels). Images and logits are not stored.
            top: int. Number of classes per image.

        Raises:
            ValueError: if a logit is not finite.
        """
        class_names, predictions = self.class_names, []
        for logits in self._batches_of_logits(images):
            if not np.isfinite(logits).all():
                raise ValueError(NOT_FINITE)
            for row in softmax(logits):
                best = np.argsort(-row, kind="stable")[:top]
                probabilities = tuple(float(row[index]) for index in best)
                classes = tuple(class_names[index] for index in best)
                predictions.append(Prediction(names[len(predictions)], classes, probabilities))
        return predictions


def check_count(name, value):
    """Raise ValueError unless an argument is a whole number of at least 1."""
    if not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name} must be at least 1; got {value!r}.")


def softmax(logits):
    """Probabilities (N, classes) from logits, in float64.

    >>> import numpy as np
    >>> from focalnets.prediction.predictor import softmax
    >>> softmax(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    exponentials = np.exp(np.float64(logits) - np.max(logits, axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
