"""Which of the tensors in a checkpoint are a FocalNet's: under any wrapper, nested in any order.

Nothing here knows the names of wrappers. What a file holds becomes one flat dict with dotted keys, and a
FocalNet stands wherever the keys of a block begin: under "", "model." or "state_dict.module.backbone.0.".
"""

import collections
import re
from dataclasses import dataclass

from focalnets.names import listed

# A key of a block, after its prefix: official and timm, timm's features_only, transformers.
_BLOCK = re.compile(
    r"(?P<prefix>(?:.*?\.)??)(?:layers[._]\d+\.blocks|(?P<theirs>encoder\.stages)\.\d+\.layers)\.\d+\.modulation\..+"
)
# Words in the names of weights that are an average over training, or a copy that follows slowly.
_AVERAGES = {"ema", "teacher", "averaged", "average", "swa", "shadow", "momentum", "target"}
_DEEPEST = 24
_TORCH_MODULE = {"_modules", "_parameters", "_buffers"}  # of a model that was pickled whole


@dataclass(frozen=True)
class Chosen:
    """The tensors of one FocalNet.

    Attributes:
        tensors: dict. Key without the prefix -> tensor.
        prefix: str. What stood before each key, "" or ending in ".".
        left: list of str. Names of what else the checkpoint holds.
        notes: list of str. Lines for the report.
    """

    tensors: dict
    prefix: str
    left: list[str]
    notes: list[str]


def flattened(content):
    """Dotted key -> value for everything in nested dicts, and in the attributes of stored objects.

    >>> from focalnets.conversion.wrappers import flattened
    >>> sorted(flattened({"state_dict": {"norm.weight": 1}, "epoch": 3}))
    ['epoch', 'state_dict.norm.weight']
    """
    flat, waiting = {}, collections.deque([("", content, ())])
    while waiting:
        prefix, value, above = waiting.popleft()
        inner = members(value)
        if inner is None or len(above) > _DEEPEST or id(value) in above:
            flat[prefix[:-1]] = value
            continue
        for key, one in inner.items():
            name = "" if key in _TORCH_MODULE and set(inner) >= _TORCH_MODULE else f"{key}."
            waiting.append((prefix + name, one, (*above, id(value))))
    return flat


def members(value):
    """The entries of a dict, or the attributes of a stored object; None for any other value."""
    if not isinstance(value, dict):
        return None
    return value or vars(value) if hasattr(value, "__dict__") else value


def is_tensor(value):
    """Whether it is an array or a tensor of any kind; asks the type, since some tensors refuse to answer."""
    return hasattr(type(value), "dtype") and hasattr(type(value), "shape")


def chosen_tensors(flat, entry=None):
    """The tensors of the FocalNet in a flat dict; trained weights go before their moving average.

    Args:
        flat: dict. Dotted key -> tensor or array; other values are passed over.
        entry: str. Name of the weights to take where there are several, such as "state_dict_ema" or "ema".
            Defaults to the weights that are no average.

    Returns:
        A `Chosen`; its `tensors` are empty if there is no FocalNet.

    Raises:
        ValueError: if `entry` does not exist or is ambiguous, or it is not clear which weights are meant.
    """
    prefixes = {}
    for key in flat:
        if found := _BLOCK.fullmatch(key):
            prefix = found["prefix"]
            if found["theirs"] and (prefix == "focalnet." or prefix.endswith(".focalnet.")):
                prefix = prefix.removesuffix("focalnet.")  # the classifier stands beside it
            prefixes.setdefault(prefix, None)
    names = list(prefixes)
    if not names:
        return Chosen({}, "", [], [])
    prefix = _named(names, entry) if entry is not None else _plain(names)
    others = [name for name in names if name != prefix]
    inside = tuple(name for name in others if name.startswith(prefix))
    tensors, left = {}, {}
    for key, value in flat.items():
        if key.startswith(prefix) and not key.startswith(inside) and is_tensor(value):
            tensors[key.removeprefix(prefix)] = value
        else:
            left.setdefault(_beside(key, prefix))
    notes = []
    if prefix:
        notes = [f"took what stands under {prefix!r}" + (f", left {listed(list(left))}" if left else "")]
    if others:
        notes.append(
            f"other weights in the file: {', '.join(map(_shown, others))}; --entry NAME takes them instead"
        )
    if _is_average(prefix):
        notes.append("these weights are a moving average over the training")
    return Chosen(tensors, prefix, list(left), notes)


def _plain(names):
    plain = [name for name in names if not _is_average(name)] or names
    if len(plain) > 1:
        raise ValueError(
            f"The checkpoint holds several sets of weights: {', '.join(map(_shown, plain))}. Choose one: "
            "focalnets convert FILE OUT --entry NAME."
        )
    return plain[0]


def _named(names, entry):
    wanted = entry.strip(".")
    for fits in (
        lambda name: name == wanted,
        lambda name: name.startswith(f"{wanted}.") or name.endswith(f".{wanted}"),
        lambda name: wanted in re.split(r"[._]", name),
    ):
        found = [name for name in names if fits(name[:-1])]
        if len(found) == 1:
            return found[0]
        if found:
            break
    raise ValueError(
        f"The entry {entry!r} {'is ambiguous' if found else 'does not exist'} in the checkpoint. It holds "
        f"the weights of a FocalNet under {', '.join(map(_shown, names))}."
    )


def _is_average(prefix):
    return not _AVERAGES.isdisjoint(re.split(r"[._]", prefix.lower()))


def _shown(prefix):
    return repr(prefix[:-1]) if prefix else "'' (the top level)"


def _beside(key, prefix):
    """The name of a key up to where it differs from the prefix."""
    parts, same = key.split("."), 0
    for part, other in zip(parts, prefix.split("."), strict=False):
        if part != other:
            break
        same += 1
    return ".".join(parts[: same + 1])
