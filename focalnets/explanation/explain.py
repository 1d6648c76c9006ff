"""explain: exact evidence, gates and modulators of a classifier on images."""

import pathlib
from typing import NamedTuple

import numpy as np

from focalnets.conversion.open import as_classifier
from focalnets.data.find import NO_PREPROCESSING, describe_unreadable
from focalnets.explanation.attribution import EvidenceModels, evidence
from focalnets.explanation.blocks import chosen_blocks
from focalnets.explanation.explanations import Explanation, Explanations
from focalnets.layers.geometry import receptive_fields
from focalnets.maps import channel_norm
from focalnets.models.evidence import taps, target_vector
from focalnets.models.modulation import modulation_model
from focalnets.names import listed, unknown_name
from focalnets.prediction.images import list_images, read_image_like
from focalnets.prediction.predictor import softmax
from focalnets.report.explorer import explorer_image, write_explorer

_PHOTO_SIDE = 640  # pixels of the longer side of the photograph under the evidence
_BATCH = 16


class Prepared(NamedTuple):
    """An image as input of the network, and the same view at a higher resolution."""

    pixels: np.ndarray
    photo: np.ndarray


class Explainer:
    """Classifier with the graphs that explain it. See `explain` for the arguments."""

    def __init__(
        self,
        preset,
        block=None,
        stage=None,
        crop=True,
        target=None,
        versus=None,
        reference="mean",
        levels=True,
    ):
        self.classifier = as_classifier(preset)
        self.title = "the network" if self.classifier is preset else str(preset)
        backbone = self.classifier.backbone
        stages = [[one.name for one in blocks] for blocks in backbone.stages]
        self.blocks = chosen_blocks(stages, block, stage)
        self.draws_blocks = block is not None or stage is not None
        self.channels = backbone.image_shape[-1]
        self.crop, self.reference, self.levels = crop, reference, levels
        if self.classifier.image_converter is None:
            raise ValueError(NO_PREPROCESSING)
        count = self.classifier.num_classes
        self.class_names = tuple(self.classifier.class_names or (f"class {i}" for i in range(count)))
        self.target, self.versus = (self._index(one) for one in (target, versus))
        if target is not None and self.target == self.versus:
            raise ValueError(f"target and versus are the same class, {self.class_names[self.target]}.")
        self.geometry = {
            block.name: (stride, receptive_fields(block.modulation.kernel_sizes))
            for blocks, stride in zip(backbone.stages, backbone.strides, strict=True)
            for block in blocks
        }
        self.windows = {
            name: (*(f"{side * stride} px" for side in fields), "global")
            for name, (stride, fields) in self.geometry.items()
        }
        self._graph, self._models = None, EvidenceModels(self.classifier)

    def _index(self, name):
        """Index of a class that is given by its name or index. None for None."""
        if name is None:
            return None
        names = self.class_names
        if isinstance(name, str) and name in names:
            return names.index(name)
        if isinstance(name, int) or (isinstance(name, str) and name.isdecimal()):
            if 0 <= int(name) < len(names):
                return int(name)
            raise ValueError(f"Class {name} does not exist. Expected a class from 0 to {len(names) - 1}.")
        known = f"Available classes: {listed(names, most=20)}."
        raise ValueError(unknown_name("class", str(name), names, known))

    def vector(self, target, versus):
        """Target vector of the difference of two classes, given by their names."""
        versus = None if versus is None else self.class_names.index(versus)
        return target_vector(len(self.class_names), self.class_names.index(target), versus)

    def files(self, stem):
        """List of the names of the files that `Explanation.write` writes."""
        blocks = self.blocks if self.draws_blocks else ()
        return [f"{stem}.npz", f"{stem}.evidence.png", *(f"{stem}.{name}.png" for name in blocks)]

    def prepare(self, image):
        """Convert a PIL image to `Prepared`."""
        converter = self.classifier.image_converter
        pixels = converter.prepare(image, crop=self.crop)
        zoom = min(_PHOTO_SIDE / max(pixels.shape[:2]), min(image.size) / min(pixels.shape[:2]))
        if converter.image_size is None or zoom < 2:
            return Prepared(pixels, pixels)
        larger = tuple(int(zoom) * side for side in converter.image_size)
        return Prepared(pixels, converter.prepare(image, crop=self.crop, image_size=larger))

    def explain(self, names, images):
        """List of `Explanation` for names and `Prepared` images. Images of equal size form one batch.

        The label of an image is the name of its folder, if this is the name of a class.
        """
        found = [None] * len(names)
        sizes = {}
        for place, image in enumerate(images):
            sizes.setdefault(image.pixels.shape, []).append(place)
        for places in sizes.values():
            for one, place in zip(self._batch([images[place] for place in places]), places, strict=True):
                folder = pathlib.PurePath(names[place]).parent.name
                label = folder if folder in self.class_names else None
                found[place] = Explanation(name=names[place], label=label, **one)
        return found

    def explorer_images(self, explanations):
        """Data of the page `explorer.html` for explanations: maps of the classes that a reader compares."""
        found, sizes = {}, {}
        for place, one in enumerate(explanations):
            sizes.setdefault(one.image.shape, []).append(place)
        for places in sizes.values():
            ones = [explanations[place] for place in places]
            pixels = np.stack([one.image for one in ones])
            chosen = [self._compared(one) for one in ones]
            maps = [({}, {}) for _ in ones]
            for turn in range(max(map(len, chosen))):
                classes = [names[turn % len(names)] for names in chosen]
                targets = np.stack([target_vector(len(self.class_names), one) for one in classes])
                exact = evidence(self.classifier, pixels, targets, self.reference, models=self._models)
                means = exact.map()
                for row, index in enumerate(classes):
                    logit = exact.logits[row, index]
                    maps[row][0][index] = {"mean": means[row], **{t: v[row] for t, v in exact.taps.items()}}
                    maps[row][1][index] = (logit, logit - exact.total[row])
            for place, one, (drawn, logits) in zip(places, ones, maps, strict=True):
                found[place] = explorer_image(one, drawn, logits)
        return [found[place] for place in range(len(explanations))]

    def _compared(self, one):
        """Indices of the classes on the page: explained, most probable, and true."""
        names = [one.target, one.versus, *(name for name, _ in one.top(3)), one.label]
        return list(dict.fromkeys(self.class_names.index(name) for name in names if name is not None))

    def write_page(self, path, images):
        """Write `explorer.html` from the results of `explorer_images`."""
        title = f"What {self.title} looked at"
        write_explorer(path, title, self.class_names, taps(self.classifier), self.windows, images)

    def _batch(self, images):
        """Yield the arguments of `Explanation` for images of one size."""
        pixels = np.stack([image.pixels for image in images])
        if self._graph is None:
            self._graph = modulation_model(self.classifier)
        modulation = self._graph.predict(pixels, batch_size=_BATCH, verbose=0)
        ranked = np.argsort(-modulation["logits"], axis=-1, kind="stable")
        pairs = []
        for best in ranked:
            target = best[0] if self.target is None else self.target
            # "Why not X" about an image that is X: the runner-up takes the place of X.
            pairs.append((target, best[1] if target == self.versus else self.versus))
        targets = np.stack([target_vector(len(self.class_names), *pair) for pair in pairs])
        exact = evidence(self.classifier, pixels, targets, self.reference, self.levels, models=self._models)
        maps, probabilities = exact.map(), softmax(exact.logits)
        scalar = np.sum(exact.logits * targets[:, :-1], axis=-1)
        for row, (target, versus) in enumerate(pairs):
            yield {
                "image": images[row].pixels,
                "photo": images[row].photo,
                "class_names": self.class_names,
                "probabilities": probabilities[row],
                "target": self.class_names[target],
                "versus": None if versus is None else self.class_names[versus],
                "scalar": float(scalar[row]),
                "reference_scalar": float(scalar[row] - exact.total[row]),
                "evidence": maps[row],
                "taps": {name: values[row] for name, values in exact.taps.items()},
                "levels": {name: values[row] for name, values in exact.levels.items()},
                "windows": self.windows,
                "gates": {name: modulation["gates"][name][row] for name in self.blocks},
                "norms": {name: channel_norm(modulation["modulators"][name][row]) for name in self.blocks},
                "explainer": self,
            }


def explain(
    preset,
    images,
    target=None,
    versus=None,
    reference="mean",
    levels=True,
    block=None,
    stage=None,
    crop=True,
):
    """Explain the decisions of a classifier on images, as `focalnets explain` does.

    The evidence of a pixel is its part of the logit of a class, above the logit of a gray image. The sum over
    the pixels is exact (`explanation/attribution.py`). The explained decision is that of `focalnets.predict`.

    Args:
        preset: Path of a preset or run directory, a name in `CHECKPOINTS`, any other source that
            `FocalNetImageClassifier.from_preset` accepts, or a `FocalNetImageClassifier`.
        images: Paths, folders, patterns, PIL images, arrays, or a list of these, as in `focalnets.predict`.
        target: str or int. Explained class. Defaults to the predicted class of each image.
        versus: str or int. Explain the logit of the target minus that of this class. Defaults to `None`.
        reference: "mean" for the mean color, "blur" for the blurred image, or an array of shape (H, W,
            channels) or (R, H, W, channels). Defaults to "mean".
        levels: bool. Also compute the evidence of each focal level, which takes most of the time. Defaults to
            `True`.
        block: str. Block whose gates and modulators are drawn, such as "stage2_block1". Defaults to `None`:
            those of the last block of each stage are saved and none is drawn.
        stage: int. Stage whose blocks are all drawn, counted from 1. Defaults to `None`.
        crop: bool. Crop the center as for predictions. `False` explains the whole image, which is another
            decision than that of `predict`. Defaults to `True`.

    Returns:
        `Explanations`, a sequence of `Explanation`. `save(directory)` writes figures and arrays.

    Raises:
        TypeError: if `preset` is another model.
        ValueError: if the preset has no preprocessing, the class, block or stage does not exist, or an image
            is unreadable.

    >>> import numpy as np
    >>> import focalnets
    >>> gray = np.full((40, 50), 128, "uint8")
    >>> found = focalnets.explain("focalnet_nano_cifar10", gray, target="cat")
    >>> found[0].target, found[0].evidence.shape, found[0].gates["stage2_block3"].shape
    ('cat', (32, 32), (8, 8, 3))
    """
    explainer = Explainer(preset, block, stage, crop, target, versus, reference, levels)
    names, prepared, unreadable = [], [], []
    for name, image in list_images(images):
        try:
            prepared.append(explainer.prepare(read_image_like(image, explainer.channels, name)))
            names.append(name)
        except ValueError as error:
            unreadable.append(str(error))
    if unreadable:  # reported before any image is explained
        raise ValueError(describe_unreadable(unreadable, "a list of the other images"))
    return Explanations(tuple(explainer.explain(names, prepared)))
