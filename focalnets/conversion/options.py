"""The options of `focalnets convert`, read without Keras."""

from focalnets.conversion.architecture import CONFIG_OVERRIDES
from focalnets.conversion.foreign import THEIR_ACTIVATION
from focalnets.files import expanded
from focalnets.names import did_you_mean
from focalnets.output.paths import file_suffix, output_path

# How to write a file of each kind, where `convert` itself does not.
_ELSEWHERE = {
    ".keras": "In Python: focalnets.FocalNetImageClassifier.from_preset({source!r}).save({name!r}).",
    ".h5": "The preset directory holds the weights as model.weights.h5.",
    ".onnx": "focalnets export {source} DIRECTORY writes model.onnx, its preprocessing and its labels.",
}
_CHECKPOINTS = (".pth", ".safetensors", ".pt", ".bin", ".ckpt", ".tar")


def check_combinations(arguments):
    """ValueError if options of `focalnets convert` exclude each other.

    Args:
        arguments: a `ConvertArguments`.
    """
    growing = arguments.window is not None or arguments.levels is not None
    if arguments.half and (arguments.to is not None or growing):
        raise ValueError("--half writes a preset as it is, in float16: without --to, --window and --levels.")


def read_config_overrides(texts):
    """The values of `--set`.

    Args:
        texts: iterable of str, each NAME=VALUE.

    Returns:
        dict. Values by name, a name of `CONFIG_OVERRIDES`.

    Raises:
        ValueError: if there is no such name, or it does not take the value.

    >>> from focalnets.conversion.options import read_config_overrides
    >>> read_config_overrides(["normalize_modulator=true", "norm_placement=post"])
    {'normalize_modulator': True, 'norm_placement': 'post'}
    """
    config_overrides = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in CONFIG_OVERRIDES:
            raise ValueError(
                f"--set takes {', '.join(CONFIG_OVERRIDES)}; got {text!r}."
                f"{did_you_mean(name, CONFIG_OVERRIDES)}"
            )
        if name == "norm_placement":
            if value not in ("pre", "post", "mlp_only"):
                raise ValueError(f"norm_placement is pre, post or mlp_only; got {value!r}.")
            config_overrides[name] = value
        elif name == "activation":
            if value not in THEIR_ACTIVATION:
                raise ValueError(f"activation is one of {', '.join(THEIR_ACTIVATION)}; got {value!r}.")
            config_overrides[name] = value
        elif name == "normalize_modulator":
            if value.lower() not in ("true", "false"):
                raise ValueError(f"normalize_modulator is true or false; got {value!r}.")
            config_overrides[name] = value.lower() == "true"
        else:
            try:
                config_overrides[name] = int(value) if name == "stem_padding" else float(value)
            except ValueError:
                raise ValueError(f"{name} takes a number; got {value!r}.") from None
    return config_overrides


def checked_out(source, out, to):
    """The path of OUT; ValueError if it is the name of a file that `convert` does not write.

    Args:
        source: str. LoadedCheckpoint of the conversion, for the message.
        out: str. Path to write.
        to: str. Library whose format is written. None for a preset.

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
                "For a checkpoint of another library: focalnets convert "
                f"{source} {file} --to official (or timm, or transformers)."
            )
        else:
            hint = _ELSEWHERE.get(suffix, f"focalnets writes no {file_suffix(out)} files.")
            hint = hint.format(source=source, name=out.name)
        raise ValueError(
            f"{str(out)!r} is the name of a {file_suffix(out)} file, but convert writes a preset directory, "
            f"or with --to a .pth or .safetensors file. {hint}"
        ) from None
