"""Results of `explain`, which notebooks display, and which are saved as figures, arrays and pages."""

import pathlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from focalnets.explanation.attribution import switch_off
from focalnets.explanation.file_names import free_name
from focalnets.explanation.modulation import BlockMaps
from focalnets.files import expanded
from focalnets.maps import upsample
from focalnets.names import unknown_name
from focalnets.output.directories import new_output_directory
from focalnets.output.files import writing
from focalnets.output.manifest import Manifest
from focalnets.report.explanation_figure import draw_explanation, explanation_figure
from focalnets.report.figures import draw_panels
from focalnets.report.html import heading, pil_image

_SHOWN = 10  # figures of a display


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
        """Loss of the explained scalar when one level of a block is replaced by that of the reference.

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
        explainer = self.explainer
        chosen = (block, [index], explainer.reference)
        return float(switch_off(explainer.classifier, self.image[None], target, *chosen)[0])

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
