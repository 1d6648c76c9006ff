"""explain: exact evidence, gates and modulators of a classifier on images."""

import pathlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from focalnets.conversion.open import as_classifier
from focalnets.data.find import NO_PREPROCESSING, describe_unreadable
from focalnets.explanation.attribution import evidence, switch_off
from focalnets.explanation.blocks import chosen_blocks
from focalnets.explanation.file_names import free_name
from focalnets.explanation.modulation import BlockMaps, modulation_model
from focalnets.files import expanded
from focalnets.layers.geometry import receptive_fields
from focalnets.maps import channel_norm, upsample
from focalnets.models.evidence import taps, target_vector
from focalnets.names import listed, unknown_name
from focalnets.output.directories import new_output_directory
from focalnets.output.files import writing
from focalnets.output.manifest import Manifest
from focalnets.prediction.images import list_images, read_image_like
from focalnets.prediction.predictor import softmax
from focalnets.report.explanation_figure import draw_explanation, explanation_figure
from focalnets.report.explorer import explorer_image, write_explorer
from focalnets.report.figures import draw_panels
from focalnets.report.html import heading, pil_image

_PHOTO_SIDE = 640  # pixels of the longer side of the photograph under the evidence
_BATCH = 16


class Prepared(NamedTuple):
    """An image as input of the network, and the same view at a higher resolution."""

    pixels: np.ndarray
    photo: np.ndarray


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why a classifier decided as it did for one image.

    Attributes:
        name: str. Name of the image.
        image: uint8 array of shape (H, W, channels). Input of the network.
        photo: uint8 array of shape (kH, kW, channels). The same view at a higher resolution.
        class_names: tuple of str.
        probabilities: float array of shape (classes,).
        target: str. Explained class.
        versus: str or None. The explained scalar is the logit of `target`, minus that of `versus` if given.
        scalar: float. The explained scalar of the image.
        reference_scalar: float. The explained scalar of the reference, a gray image by default.
        evidence: float32 array of shape (H, W). Evidence of each pixel, in units of the logit. Its sum is
            `total`.
        taps: dict of tap -> float32 array of shape (H', W'). Evidence at each depth, with the same sum.
        levels: dict of block -> float32 array of shape (H', W', L + 1). Evidence of the focal levels and of
            the global level. Its sum is the loss of the scalar without the context of this block.
        windows: dict of block -> tuple of str. Receptive field of each level in pixels of the image.
        gates: dict of block -> float32 array of shape (H', W', L + 1). Raw gates, the global one last.
        norms: dict of block -> float32 array of shape (H', W'). Norm of the modulator.
        label: str or None. True class, which is the name of the folder of the image if a class has it.
    """

    name: str
    image: np.ndarray
    photo: np.ndarray
    class_names: tuple[str, ...]
    probabilities: np.ndarray
    target: str
    versus: str | None
    scalar: float
    reference_scalar: float
    evidence: np.ndarray
    taps: dict[str, np.ndarray]
    levels: dict[str, np.ndarray]
    windows: dict[str, tuple[str, ...]]
    gates: dict[str, np.ndarray]
    norms: dict[str, np.ndarray]
    label: str | None = None
    explainer: Any = field(default=None, compare=False)

    @property
    def blocks(self):
        """Dict of block -> `BlockMaps` of this image (N = 1): gates and norms at the size of the image."""
        size, found = self.image.shape[:2], {}
        for name, gates in self.gates.items():
            stride, fields = self.explainer.geometry[name]
            norm = upsample(self.norms[name][None, ..., None], size, stride)[..., 0]
            found[name] = BlockMaps(upsample(gates[None], size, stride), norm, fields)
        return found

    @property
    def total(self):
        """Difference of the explained scalar between the image and its reference."""
        return self.scalar - self.reference_scalar

    def top(self, count=5):
        """List of (class, probability), most probable first."""
        best = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.class_names[index], float(self.probabilities[index])) for index in best]

    def level_totals(self):
        """List of (block, list of (receptive field, evidence)), the global level last."""
        totals = {block: values.sum(axis=(0, 1)) for block, values in self.levels.items()}
        return [
            (block, [(w, float(v)) for w, v in zip(self.windows[block], one, strict=True)])
            for block, one in totals.items()
        ]

    def switch_off(self, block, level):
        """Loss of the explained scalar when one level of a block is replaced by that of a gray image.

        Args:
            block: str. Name of a block, such as "stage2_block1".
            level: int or "global". Focal level, counted from 1.

        Raises:
            ValueError: if the block or level does not exist.
        """
        if block not in self.windows:
            raise ValueError(unknown_name("block", block, list(self.windows)))
        last = len(self.windows[block])
        index = last - 1 if level == "global" else level - 1 if isinstance(level, int) else -1
        if index < 0 or (level != "global" and index >= last - 1):
            raise ValueError(f'level must be from 1 to {last - 1}, or "global"; got {level!r}.')
        target = self.explainer.vector(self.target, self.versus)[None]
        return float(switch_off(self.explainer.classifier, self.image[None], target, block, [index])[0])

    def headline(self):
        """Predicted class with its probability, and the true class where it is known."""
        name, probability = self.top(1)[0]
        text = f"{name} {probability:.1%}"
        if self.label is not None:
            text += ", correct" if self.label == name else f", wrong: labeled {self.label}"
        return text

    def sentence(self):
        """One sentence with the total of the evidence."""
        what = self.target if self.versus is None else f"{self.target} rather than {self.versus}"
        scalar = "logit" if self.versus is None else "difference of the logits"
        return (
            f"Evidence for {what}: {self.total:+.2f}. The {scalar} is {self.scalar:.2f}; that of the "
            f"reference image is {self.reference_scalar:.2f}."
        )

    def caption(self):
        """File name of the image, and its size as the network sees it."""
        height, width = self.image.shape[:2]
        return f"{height} x {width} pixels, {pathlib.PurePath(self.name).name}"

    def arrays(self):
        """Arrays to save, by name. docs/explanation.md lists them."""
        arrays = {"image": self.image, "evidence": self.evidence, "probabilities": self.probabilities}
        arrays |= {f"{name}.evidence": one for name, one in self.taps.items()}
        arrays |= {f"{name}.levels": one for name, one in self.levels.items()}
        arrays |= {f"{name}.gates": one for name, one in self.gates.items()}
        return arrays | {f"{name}.modulator_norm": one for name, one in self.norms.items()}

    def write(self, directory, stem):
        """Write the figure, the figures of chosen blocks and the arrays, and yield each path.

        Args:
            directory: Path. Existing directory.
            stem: str. Prefix of the names of the files.
        """
        path = directory / f"{stem}.evidence.png"
        draw_explanation(path, self)
        yield path
        blocks = self.blocks if self.explainer.draws_blocks else {}
        for name, maps in blocks.items():
            path = directory / f"{stem}.{name}.png"
            draw_panels(path, self.image[None], maps, [""], f"{stem}, {name}", self.windows[name])
            yield path
        path = directory / f"{stem}.npz"
        with writing(path) as partial:
            np.savez_compressed(partial, **self.arrays())
        yield path

    def to_html(self, path):
        """Write a page with this image, see `Explanations.to_html`."""
        Explanations((self,)).to_html(path)

    def show(self):
        """The figure, as a PIL image, which a notebook displays."""
        return explanation_figure(self)

    def __repr__(self):
        height, width = self.image.shape[:2]
        return f"Explanation of {self.name} ({height} x {width}): {self.headline()}. {self.sentence()}"

    def _repr_html_(self):
        return pil_image(self.show(), self.sentence())


@dataclass(frozen=True, repr=False)
class Explanations:
    """Sequence of one `Explanation` per image, in the order of the images.

    Attributes:
        explanations: tuple of `Explanation`.
    """

    explanations: tuple[Explanation, ...]

    def __len__(self):
        return len(self.explanations)

    def __getitem__(self, index):
        return self.explanations[index]

    def __repr__(self):
        return "\n".join(map(repr, self.explanations))

    def _repr_html_(self):
        shown = "".join(one._repr_html_() for one in self.explanations[:_SHOWN])
        more = f"<p>and {len(self) - _SHOWN} more</p>" if len(self) > _SHOWN else ""
        return heading("Explanations") + shown + more

    def to_html(self, path):
        """Write one page with all images, which works without a connection.

        Args:
            path: str or path. HTML file to write. An existing file is replaced.
        """
        if self.explanations:
            explainer = self.explanations[0].explainer
            explainer.write_page(expanded(path), explainer.explorer_images(self.explanations))

    def save(self, directory, force=False):
        """Write the figures and arrays of all images to a directory.

        Args:
            directory: str or path. Directory to create.
            force: bool. Write into a directory that is not empty. Defaults to `False`.

        Raises:
            FileExistsError: if the directory is not empty, unless `force`.
        """
        used = set()
        stems = [free_name(one.name, used) for one in self.explanations]
        names = [name for one, stem in zip(self, stems, strict=True) for name in one.explainer.files(stem)]
        with new_output_directory(directory, "explanation", force, names=names) as directory:
            for one, stem in zip(self.explanations, stems, strict=True):
                for _ in one.write(directory, stem):
                    pass
            Manifest(directory).seal()


_SHOWN = 10  # figures of a display


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
        self._graph, self._models = None, {}

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
