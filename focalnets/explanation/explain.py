"""explain: gates and modulators of a classifier on images."""

from dataclasses import dataclass

import numpy as np

from focalnets.conversion.open import open_classifier
from focalnets.data.find import NO_PREPROCESSING, describe_unreadable
from focalnets.explanation.blocks import chosen_blocks
from focalnets.explanation.file_names import free_name
from focalnets.explanation.maps import BlockMaps
from focalnets.explanation.modulation import modulation_maps, modulation_model
from focalnets.output.directories import new_output_directory
from focalnets.output.files import writing
from focalnets.output.manifest import Manifest
from focalnets.prediction.images import list_images, read_image_like
from focalnets.report.figures import draw_panels
from focalnets.report.html import heading, pairs


@dataclass(frozen=True, repr=False)
class Explanation:
    """Gates and modulators of one image.

    Attributes:
        name: str. Name of the image.
        image: uint8 array of shape (H, W, channels). Input of the network.
        blocks: dict. Name of a block -> `BlockMaps` of this image (N = 1), at the size of the image.
    """

    name: str
    image: np.ndarray
    blocks: dict[str, BlockMaps]

    def arrays(self):
        """Arrays to save: "image", "<block>.gates" (H, W, L + 1) and "<block>.modulator_norm" (H, W)."""
        arrays = {"image": self.image}
        for name, maps in self.blocks.items():
            arrays[f"{name}.gates"] = maps.gates[0]
            arrays[f"{name}.modulator_norm"] = maps.modulator_norm[0]
        return arrays

    def files(self, stem):
        """List of the names of the files of `write`."""
        return [f"{stem}.npz", *(f"{stem}.{name}.png" for name in self.blocks)]

    def write(self, directory, stem):
        """Write one figure per block and the arrays into an existing directory, and yield each path.

        Args:
            directory: Path. Existing directory.
            stem: str. Prefix of the names of the files.
        """
        for name, maps in self.blocks.items():
            path = directory / f"{stem}.{name}.png"
            draw_panels(path, self.image[None], maps, [""], heading=f"{stem}, {name}")
            yield path
        path = directory / f"{stem}.npz"
        with writing(path) as partial:
            np.savez_compressed(partial, **self.arrays())
        yield path

    def __repr__(self):
        height, width = self.image.shape[:2]
        return f"Explanation of {self.name} ({height} x {width}): {', '.join(self.blocks)}"


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
        rows = [(one.name, ", ".join(one.blocks)) for one in self.explanations]
        return heading("Explanations") + pairs(rows)

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
        names = [name for one, stem in zip(self.explanations, stems, strict=True) for name in one.files(stem)]
        with new_output_directory(directory, "explanation", force, names=names) as directory:
            for one, stem in zip(self.explanations, stems, strict=True):
                for _ in one.write(directory, stem):
                    pass
            Manifest(directory).seal()


class Explainer:
    """Classifier with a second graph that also returns gates and modulators. See `explain`."""

    def __init__(self, preset, block=None, stage=None, crop=False):
        self.classifier = preset if hasattr(preset, "classify") else open_classifier(preset)
        stages = [[one.name for one in blocks] for blocks in self.classifier.backbone.stages]
        self.blocks = chosen_blocks(stages, block, stage)
        self.channels = self.classifier.backbone.image_shape[-1]
        self.crop = crop
        if self.classifier.image_converter is None:
            raise ValueError(NO_PREPROCESSING)
        self._graph = None

    def prepare(self, image):
        """Convert a PIL image to an input of the network, uint8 (H, W, channels)."""
        return self.classifier.image_converter.prepare(image, crop=self.crop)

    def explain(self, name, pixels):
        """`Explanation` of a prepared image."""
        if self._graph is None:
            self._graph = modulation_model(self.classifier)
        found = modulation_maps(self.classifier, pixels[None], graph=self._graph, blocks=self.blocks)
        return Explanation(name, pixels, {block: found[block] for block in self.blocks})


def explain(preset, images, block=None, stage=None, crop=False):
    """Compute the gates and modulators of a classifier on images, as `focalnets explain` does.

    Args:
        preset: Path of a preset or run directory, a name in `CHECKPOINTS`, any other source that
            `FocalNetImageClassifier.from_preset` accepts, or a `FocalNetImageClassifier`.
        images: Paths, folders, patterns, PIL images, arrays, or a list of these, as in `focalnets.predict`.
        block: str. Block to explain, such as "stage2_block1". Defaults to the last block of each stage.
        stage: int. Stage whose blocks are all explained, counted from 1. Defaults to the last block of each
            stage.
        crop: bool. Crop the center as for predictions. Defaults to `False`, which keeps the whole image and
            its aspect ratio.

    Returns:
        `Explanations`, a sequence of `Explanation`. `save(directory)` writes figures and arrays.

    Raises:
        ValueError: if the preset has no preprocessing, the block or stage does not exist, or an image is
            unreadable.

    >>> import numpy as np
    >>> import focalnets
    >>> gray = np.full((40, 50), 128, "uint8")
    >>> found = focalnets.explain("focalnet_nano_cifar10", gray)
    >>> found[0].blocks["stage2_block3"].gates.shape
    (1, 32, 40, 3)
    """
    explainer = Explainer(preset, block, stage, crop)
    prepared, unreadable = [], []
    for name, image in list_images(images):
        try:
            pixels = explainer.prepare(read_image_like(image, explainer.channels, name))
            prepared.append((name, pixels))
        except ValueError as error:
            unreadable.append(str(error))
    if unreadable:  # reported before any image is explained
        raise ValueError(describe_unreadable(unreadable, "a list of the other images"))
    return Explanations(tuple(explainer.explain(name, pixels) for name, pixels in prepared))
