"""`convert`: checkpoints of other libraries to presets, and presets to such checkpoints."""

import pathlib
import tempfile
from dataclasses import dataclass

from focalnets.conversion.architecture import is_doubtful
from focalnets.conversion.convert import convert_checkpoint, export_checkpoint
from focalnets.conversion.expand import expand_focal_windows
from focalnets.conversion.open import local_checkpoint
from focalnets.conversion.options import check_combinations, checked_out
from focalnets.output.inputs import paths_among
from focalnets.output.replace import new_directory
from focalnets.presets.files import read_preset_files
from focalnets.presets.labels import read_labels
from focalnets.presets.load import load_any, make_converter
from focalnets.presets.resolve import resolve_weights
from focalnets.presets.store import copy_preset, halve, save_preset


@dataclass(frozen=True)
class Conversion:
    """Result of `convert`.

    Attributes:
        path: `pathlib.Path`. The preset directory, checkpoint file, or directory for transformers.
        notes: tuple of str. What was recognized, chosen, assumed and verified.
    """

    path: pathlib.Path
    notes: tuple[str, ...]

    @property
    def assumptions(self):
        """Notes on settings that weights do not determine. A wrong setting silently gives wrong outputs."""
        return tuple(note for note in self.notes if is_doubtful(note))

    def __str__(self):
        return "\n".join((*self.notes, f"written: {self.path}"))


def convert(
    source,
    out,
    to=None,
    variant=None,
    config_overrides=None,
    entry=None,
    labels=None,
    focal_window=None,
    focal_levels=None,
    half=False,
    force=False,
):
    """Convert a checkpoint of microsoft/FocalNet, timm or transformers to a preset, or a preset to one.

    This is the function behind `focalnets convert`. Outputs are read back and compared before they are kept.

    Args:
        source: str or path. A .pth or .safetensors file, a directory with one, a URL, hf://owner/name, or a
            preset.
        out: str or path. Preset directory to create. With `to`, a .pth or .safetensors file, or a directory
            for transformers.
        to: str or None. Library whose format is written: "official", "timm" or "transformers". Defaults to
            None, which writes a preset.
        variant: str or None. Name in `ARCHITECTURES`. Defaults to None, recognized from the weights.
        config_overrides: dict or None. Settings that weights do not determine, such as
            `{"norm_placement": "post"}`. Defaults to None.
        entry: str or None. Name of the weights to convert if a file holds several, such as "ema". Defaults to
            None, the trained weights.
        labels: str, path or None. Text file of class names. Defaults to None, the names in the checkpoint.
        focal_window: int or None. Enlarge the first focal window of every stage to this size. Defaults to
            None, unchanged.
        focal_levels: int or None. Add focal levels to every stage, up to this number. Defaults to None,
            unchanged.
        half: bool. Write the weights of a preset as float16. Defaults to `False`.
        force: bool. Replace an existing preset or file. Defaults to `False`.

    Returns:
        `Conversion`.

    Raises:
        ValueError: if the source is damaged or not a FocalNet, or the format `to` cannot represent it.
        FileExistsError: if `out` exists, unless `force`.

    >>> import tempfile
    >>> import focalnets
    >>> folder = tempfile.mkdtemp()
    >>> done = focalnets.convert("focalnet_nano_cifar10", folder + "/nano", half=True)
    >>> done.path.name
    'nano'
    """
    job = _Job(source, variant, config_overrides or {}, entry, labels)
    check_combinations(half, to, focal_window, focal_levels)
    out = checked_out(source, out, to)
    sizes = {"focal_window": focal_window, "focal_levels": focal_levels}
    sizes = {name: size for name, size in sizes.items() if size is not None}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        if not sizes and not half and to is None:
            return Conversion(out, tuple(job.to_preset(out, force)))
        preset = job.as_preset(folder / "preset")
        if sizes:
            preset = _expanded(preset, folder / "expanded", sizes)
        if to is not None:
            notes = export_checkpoint(preset, out, to, force, job.inputs)
        else:
            with new_directory(out, "preset", force, job.inputs) as partial:
                (halve if half else copy_preset)(preset, partial)
            notes = [f"expanded: {name} = {size}" for name, size in sizes.items()]
            notes += ["weights written as float16"] if half else []
    return Conversion(out, tuple(notes))


@dataclass(frozen=True)
class _Job:
    """A source, with the arguments that describe a checkpoint."""

    source: str
    variant: str | None
    config_overrides: dict
    entry: str | None
    labels: str | None

    @property
    def inputs(self):
        """Paths that `force` must not replace."""
        return paths_among([self.source, self.labels])

    def to_preset(self, out, force):
        """Write the preset directory and return the notes."""
        if (ready := self._ready()) is not None:
            with new_directory(out, "preset", force, self.inputs) as partial:
                copy_preset(ready, partial)
            return ["copied: the source is already a preset"]
        source = resolve_weights(self.source)
        with local_checkpoint(source) as file:
            return convert_checkpoint(
                file,
                out,
                self.variant or source.architecture,
                self.config_overrides,
                None if self.labels is None else lambda num_classes: read_labels(self.labels, num_classes),
                force,
                self.entry,
                source.architecture is not None,
                self.inputs,
            )

    def as_preset(self, folder):
        """The source if it is a preset directory, otherwise `folder`, where it is converted to one."""
        if (ready := self._ready()) is not None:
            return ready
        self.to_preset(folder, force=False)
        return folder

    def _ready(self):
        """The path of the source if it is a preset, otherwise None."""
        source = resolve_weights(self.source)
        ready = source.place if source.kind == "preset" else None
        if ready is not None and (self.config_overrides or self.labels or self.variant or self.entry):
            raise ValueError(
                f"{self.source} is already a preset. --set, --labels, --variant and --entry apply only to "
                "checkpoints of other libraries: remove them."
            )
        return ready


def _expanded(preset, folder, sizes):
    """The directory `folder` with the expanded network of a preset."""
    _, preprocessing, _ = read_preset_files(preset)
    network = expand_focal_windows(load_any(preset), **sizes)
    save_preset(network, folder, image_converter=make_converter(preprocessing, preset))
    return folder
