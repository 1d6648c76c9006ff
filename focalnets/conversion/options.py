"""Options of `focalnets convert`. Free of Keras."""

from typing import Literal

from focalnets.conversion.architecture import CONFIG_OVERRIDES
from focalnets.conversion.foreign import THEIR_ACTIVATION
from focalnets.files import expanded
from focalnets.output.paths import file_suffix, output_path
from focalnets.schema import read_changes

# How to write files that `convert` does not write, by suffix.
_ELSEWHERE = {
    ".keras": "In Python: focalnets.FocalNetImageClassifier.from_preset({source!r}).save({name!r}).",
    ".h5": "The preset directory holds the weights as model.weights.h5.",
    ".onnx": "focalnets export {source} DIRECTORY writes model.onnx, its preprocessing and its labels.",
}
# Names of `--set`, a type each.
_KINDS = {
    **dict.fromkeys(CONFIG_OVERRIDES, float),
    "stem_padding": int,
    "normalize_modulator": bool,
    "norm_placement": Literal["pre", "post", "mlp_only"],
    "activation": Literal[tuple(THEIR_ACTIVATION)],
}
_CHECKPOINTS = (".pth", ".safetensors", ".pt", ".bin", ".ckpt", ".tar")


def check_combinations(half, to, focal_window, focal_levels):
    """Raise a ValueError if these arguments of `convert` exclude each other."""
    if half and (to, focal_window, focal_levels) != (None, None, None):
        raise ValueError(
            "half (--half) only changes the weights to float16. It cannot be combined with to, focal_window "
            "or focal_levels (--to, --window, --levels)."
        )


def read_config_overrides(texts):
    """Values of `--set`.

    Args:
        texts: iterable of str. Texts of the form NAME=VALUE.

    Returns:
        dict of str -> value, with names in `CONFIG_OVERRIDES`.

    Raises:
        ValueError: if a name is unknown, or a value is not valid for its name.

    >>> from focalnets.conversion.options import read_config_overrides
    >>> read_config_overrides(["normalize_modulator=true", "norm_placement=post"])
    {'normalize_modulator': True, 'norm_placement': 'post'}
    """
    return read_changes(texts, _KINDS, "--set name")


def checked_out(source, out, to):
    """Path of the output. Raises a ValueError for the name of a file that `convert` does not write.

    Args:
        source: str. Source of the conversion, for the error message.
        out: str or path. Path to write.
        to: str or None. Library whose format is written. None for a preset.

    >>> from focalnets.conversion.options import checked_out
    >>> checked_out("runs/mine", "mine.pth", "official").name
    'mine.pth'
    """
    out = expanded(out)
    suffix = out.suffix.lower()
    if to is not None and suffix in (".pth", ".safetensors"):
        return out
    try:
        return output_path(out)
    except ValueError:
        if suffix in _CHECKPOINTS:
            name = out.with_name(out.name.removesuffix(out.suffix).removesuffix(".pth"))
            file = out if suffix == ".safetensors" else f"{name}.pth"
            hint = (
                f"To write a checkpoint, run: focalnets convert {source} {file} --to official (or timm, or "
                "transformers)."
            )
        else:
            hint = _ELSEWHERE.get(suffix, f"focalnets does not write {file_suffix(out)} files.")
            hint = hint.format(source=source, name=out.name)
        raise ValueError(
            f"{str(out)!r} is the name of a {file_suffix(out)} file, but convert writes a preset directory, "
            f"or with --to a .pth or .safetensors file. {hint}"
        ) from None
