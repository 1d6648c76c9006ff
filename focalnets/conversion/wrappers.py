"""Search for the tensors of a FocalNet in a checkpoint, under any wrappers in any order.

The content of a file is flattened to one dict with dotted keys. A FocalNet is found by the prefix before the
keys of a block, such as "", "model." or "state_dict.module.backbone.0.". No names of wrappers are needed.
"""

import collections
import re
from dataclasses import dataclass

from focalnets.names import listed

# A prefix and a key of a block: official and timm, timm's features_only, transformers.
_BLOCK = re.compile(
    r"(?P<prefix>(?:.*?\.)??)(?:layers[._]\d+\.blocks|(?P<transformers>encoder\.stages)\.\d+\.layers)\.\d+\.modulation\..+"
)
# Words in the names of weights that are a moving average of the trained weights.
_AVERAGES = {"ema", "teacher", "averaged", "average", "swa", "shadow", "momentum", "target"}
_DEEPEST = 24
_TORCH_MODULE = {"_modules", "_parameters", "_buffers"}  # attributes of a pickled model


@dataclass(frozen=True)
class Chosen:
    """The tensors of one FocalNet.

    Attributes:
        tensors: dict of key without prefix -> tensor.
        prefix: str. Prefix of the keys in the checkpoint, "" or ending in ".".
        left: list of str. Names of the other contents of the checkpoint.
        notes: list of str. Lines of the report.
    """

    tensors: dict
    prefix: str
    left: list[str]
    notes: list[str]


def flattened(content):
    """Values in nested dicts and in attributes of stored objects, by dotted keys.

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
    """Entries of a dict, or attributes of a stored object. None for other values."""
    if not isinstance(value, dict):
        return None
    return value or vars(value) if hasattr(value, "__dict__") else value


def is_tensor(value):
    """Whether a value is an array or tensor. Reads the type, because some attributes raise errors."""
    return hasattr(type(value), "dtype") and hasattr(type(value), "shape")


def chosen_tensors(flat, entry=None):
    """Tensors of the FocalNet in a flat dict.

    Args:
        flat: dict of dotted key -> value. Values that are not tensors are ignored.
        entry: str or None. Name of the weights to select if there are several, such as "state_dict_ema" or
            "ema". Defaults to None, the weights that are not a moving average.

    Returns:
        `Chosen`. Its `tensors` are empty if there is no FocalNet.

    Raises:
        ValueError: if `entry` does not exist or is ambiguous, or if `entry` is required to choose.
    """
    prefixes = {}
    for key in flat:
        if found := _BLOCK.fullmatch(key):
            prefix = found["prefix"]
            if found["transformers"] and (prefix == "focalnet." or prefix.endswith(".focalnet.")):
                prefix = prefix.removesuffix("focalnet.")  # the head is beside "focalnet."
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
        notes = [f"weights found under {prefix!r}" + (f"; ignored: {listed(list(left))}" if left else "")]
    if others:
        notes.append(
            f"other weights in the file: {', '.join(map(_shown, others))}; --entry NAME selects them"
        )
    if _is_average(prefix):
        notes.append("these weights are a moving average of the trained weights")
    return Chosen(tensors, prefix, list(left), notes)


def _plain(names):
    plain = [name for name in names if not _is_average(name)] or names
    if len(plain) > 1:
        raise ValueError(
            f"The checkpoint holds several sets of weights: {', '.join(map(_shown, plain))}. Select one with "
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
        f"The entry {entry!r} {'is ambiguous' if found else 'does not exist'} in the checkpoint. Available "
        f"entries: {', '.join(map(_shown, names))}."
    )


def _is_average(prefix):
    return not _AVERAGES.isdisjoint(re.split(r"[._]", prefix.lower()))


def _shown(prefix):
    return repr(prefix[:-1]) if prefix else "'' (the top level)"


def _beside(key, prefix):
    """The start of a key, up to the first part that differs from the prefix."""
    parts, same = key.split("."), 0
    for part, other in zip(parts, prefix.split("."), strict=False):
        if part != other:
            break
        same += 1
    return ".".join(parts[: same + 1])
