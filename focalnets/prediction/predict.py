"""`predict`: classifies images in one call."""

from dataclasses import dataclass

from focalnets.data.find import NO_PREPROCESSING, describe_unreadable, report_skipped
from focalnets.names import printable
from focalnets.prediction.images import list_images, read_image_like
from focalnets.prediction.predictor import Prediction, Predictor, check_count
from focalnets.report.html import pairs
from focalnets.threads import cores, parallel_map


@dataclass(frozen=True, repr=False)
class Predictions:
    """Sequence with one `Prediction` per image, in the order of the images.

    Attributes:
        predictions: tuple of `Prediction`.
    """

    predictions: tuple[Prediction, ...]

    def __len__(self):
        return len(self.predictions)

    def __iter__(self):
        return iter(self.predictions)

    def __getitem__(self, index):
        return self.predictions[index]

    def __repr__(self):
        shown = self.predictions[:_SHOWN]
        names = [printable(prediction.name) for prediction in shown]
        width = max(map(len, names), default=0)
        lines = [f"{name:<{width}}  {one.in_words()}" for name, one in zip(names, shown, strict=True)]
        if len(self) > _SHOWN:
            lines.append(f"and {len(self) - _SHOWN} more")
        return "\n".join(lines)

    def _repr_html_(self):
        return pairs((one.name, one.in_words()) for one in self.predictions[:_SHOWN])


_SHOWN = 20  # lines of a repr


def predict(preset, images, top=5, batch_size=64, engine="auto", on_bad_image="error"):
    """Classify images, with the same result as `focalnets predict`.

    Args:
        preset: Path of a preset, run or export directory, name in `CHECKPOINTS`, any other preset of
            `FocalNetImageClassifier.from_preset`, or a `FocalNetImageClassifier`. To call `predict` many
            times, load a classifier once.
        images: Path of an image or folder, pattern such as "photos/*.jpg", PIL image, array (H, W), (H, W, C)
            or (N, H, W, C) with values 0..255, or a list of these. Images can have any size.
        top: int. Number of classes per image. Defaults to 5.
        batch_size: int. Number of images per batch. Defaults to 64.
        engine: str. "keras", "onnxruntime", "openvino", or "auto" for the fastest installed engine. A
            `FocalNetImageClassifier` always uses Keras. Defaults to "auto".
        on_bad_image: str. "error" raises an error that lists unreadable images. "skip" leaves them out and
            logs them. Defaults to "error".

    Returns:
        `Predictions`, a sequence of `Prediction` with `name`, `classes` and `probabilities`.

    Raises:
        ValueError: if the preset has no preprocessing, an image is unreadable, no image is found, or a logit
            is not finite.

    >>> import numpy as np
    >>> import focalnets
    >>> gray = np.full((2, 40, 50), 128, "uint8")
    >>> found = focalnets.predict("focalnet_nano_cifar10", list(gray), top=2, engine="keras")
    >>> len(found), found[0].name, len(found[0].classes)
    (2, 'image 0', 2)
    """
    check_count("top", top)
    if on_bad_image not in ("error", "skip"):
        raise ValueError(f'on_bad_image must be "error" or "skip"; got {on_bad_image!r}.')
    predictor = Predictor(preset, batch_size, engine)
    if not predictor.engine.takes_images:
        raise ValueError(NO_PREPROCESSING)
    found, names, unreadable = list_images(images), [], []

    def read(named):
        try:
            return predictor.prepare(read_image_like(named[1], predictor.channels, named[0])), None
        except ValueError as error:
            return None, str(error)

    def good():
        threads = cores() if len(found) > 1 else 0
        for (name, _), (pixels, problem) in zip(found, parallel_map(read, found, threads), strict=True):
            if problem is None:
                names.append(name)
                yield pixels
            else:
                unreadable.append(problem)

    predictions = predictor.rank(names, good(), top)
    if unreadable and on_bad_image == "error":
        raise ValueError(describe_unreadable(unreadable, 'on_bad_image="skip"'))
    report_skipped(unreadable)
    return Predictions(tuple(predictions))
