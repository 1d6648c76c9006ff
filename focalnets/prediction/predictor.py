"""Predictor: a preset or run directory -> predictions for images of any size."""

import itertools
import numbers
from dataclasses import dataclass

import numpy as np

from focalnets.data.find import NO_PREPROCESSING, read_images
from focalnets.names import printable
from focalnets.prediction.engines import open_engine
from focalnets.prediction.tta import VIEWS
from focalnets.progress import progress
from focalnets.threads import cores, parallel_map

# Pixels of a batch: as many as 64 images of 512 x 512.
_MOST_PIXELS = 2**24

NOT_FINITE = "Some logits are not finite: the weights are damaged, or training has diverged."


@dataclass(frozen=True)
class Prediction:
    """What one image is taken for.

    Attributes:
        name: the image's.
        classes: names of the likeliest classes, likeliest first.
        probabilities: theirs, 0 to 1.
    """

    name: str
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    def in_words(self):
        """Classes with their probabilities on one line."""
        ranked = zip(self.classes, self.probabilities, strict=True)
        return "  ".join(f"{printable(name)} {probability:6.1%}" for name, probability in ranked)


class Predictor:
    """A classifier with the preprocessing and labels of its preset.

    Args:
        preset: preset or run directory, or whatever else `FocalNetImageClassifier.from_preset` takes; or a
            `FocalNetImageClassifier`.
        batch_size: images at a time.
        engine: what computes: "keras", "onnxruntime", "openvino" or "auto"; see `inference/engines.py`.

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
        """Channels of the images that the net takes."""
        return self.engine.channels

    @property
    def class_names(self):
        """The preset's labels, or "class 0", "class 1", ... if it has none."""
        names = self.engine.class_names
        return tuple(names or (f"class {index}" for index in range(self.engine.num_classes)))

    def prepare(self, pixels, crop=True):
        """One uint8 image (H, W, channels) as the preset wants it; see `FocalNetImageConverter.prepare`."""
        return self.engine.prepare(pixels, crop=crop)

    def logits(self, images):
        """Logits (N, classes) of uint8 images (H, W, channels), each of any size."""
        none = np.zeros((0, self.engine.num_classes), "float32")
        return np.concatenate([none, *self._batches_of_logits(self.prepare(image) for image in images)])

    def logits_of_split(self, split, classes=None, views=VIEWS["none"], change=None, text="classifying"):
        """Logits (N, classes) of a `Split` that was opened with `prepare`, read as needed.

        Args:
            split: the `Split`.
            classes: indices of the classes to choose among; None for all.
            views: functions uint8 images -> uint8 images; see `views.py`. With several, what is returned are
                the logarithms of the mean of their probabilities.
            change: function of images and `first`, the number of the first of them, before anything else.
            text: what to say while it lasts.
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
        """A `Prediction` for each `data.find.FoundImage`, with its `top` likeliest classes.

        Raises:
            ValueError: if a logit is not finite.
        """
        pixels = (self.prepare(image.pixels) for image in images)
        return self.rank([image.name for image in images], pixels, top)

    def predict_files(self, paths, top=5):
        """The same for files, read a few ahead of their turn, so that a folder of any size is taken.

        Returns:
            (list of `Prediction`, list of texts that say what was wrong with each unreadable image).

        Raises:
            ValueError: if the preset has no preprocessing, or a logit is not finite.
        """
        if not self.engine.takes_images:
            raise ValueError(NO_PREPROCESSING)
        names, bad = [], []

        def good():
            for image in read_images(paths, self.channels, self.prepare):
                if image.problem is None:
                    names.append(image.name)
                    yield image.pixels
                else:
                    bad.append(image.problem)

        return self.rank(names, good(), top), bad

    def _batches_of_logits(self, images):
        """Logits of prepared images, of as many neighbors of one size as make a batch."""
        for (height, width, _), group in itertools.groupby(images, key=np.shape):
            most = max(1, min(self.batch_size, _MOST_PIXELS // (height * width)))
            while batch := list(itertools.islice(group, most)):
                yield self.engine.run(np.stack(batch))

    def rank(self, names, images, top):
        """Predictions for prepared images.

        Args:
            names: list. Names of the images; it may grow while the images are drawn.
            images: iterable of uint8 (H, W, channels). They and their logits are not stored.
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
                shares = tuple(float(row[index]) for index in best)
                classes = tuple(class_names[index] for index in best)
                predictions.append(Prediction(names[len(predictions)], classes, shares))
        return predictions


def check_count(name, value):
    """ValueError unless the value of an argument is a whole number of at least 1."""
    if not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name} must be at least 1; got {value!r}.")


def softmax(logits):
    """Probabilities (N, classes) from logits, in float64.

    >>> import numpy as np
    >>> from focalnets.prediction.predictor import softmax
    >>> softmax(np.array([[0.0, 0.0]])).tolist()
    [[0.5, 0.5]]
    """
    shares = np.exp(np.float64(logits) - np.max(logits, axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)
