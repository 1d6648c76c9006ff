"""The options of `focalnets convert`, read without Keras."""

from focalnets.convert.architecture import FLAGS
from focalnets.names import did_you_mean


def read_flags(texts):
    """The values of `--set`.

    Args:
        texts: iterable of str, each NAME=VALUE.

    Returns:
        dict. Values by name, a name of `FLAGS`.

    Raises:
        ValueError: if there is no such name, or it does not take the value.

    >>> from focalnets.convert.options import read_flags
    >>> read_flags(["normalize_modulator=true", "norm_placement=post"])
    {'normalize_modulator': True, 'norm_placement': 'post'}
    """
    flags = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in FLAGS:
            raise ValueError(f"--set takes {', '.join(FLAGS)}; got {text!r}.{did_you_mean(name, FLAGS)}")
        if name == "norm_placement":
            if value not in ("pre", "post", "mlp_only"):
                raise ValueError(f"norm_placement is pre, post or mlp_only; got {value!r}.")
            flags[name] = value
        elif name == "normalize_modulator":
            if value.lower() not in ("true", "false"):
                raise ValueError(f"normalize_modulator is true or false; got {value!r}.")
            flags[name] = value.lower() == "true"
        else:
            try:
                flags[name] = int(value) if name == "stem_padding" else float(value)
            except ValueError:
                raise ValueError(f"{name} takes a number; got {value!r}.") from None
    return flags
