"""Choice between the definition of an operation and the optimized implementations of a backend.

An optimized implementation gives the same numbers (1e-5 in float32) in less time: it fuses operations, or
works in chunks that stay in the cache. The environment variable FOCALNETS_OPTIMIZED (auto, 1 or 0) sets the
initial choice. `set_optimized` overrides it.
"""

import collections
import os

import keras

from focalnets.ops.backend import backend_ops

_SETTINGS = {"auto": None, "1": True, "0": False}
_setting = "unread"

# (operation, implementation) -> number of times it was chosen. Under a compiler, while tracing.
_dispatches = collections.Counter()


def set_optimized(setting):
    """Choose between the definitions of operations and their optimized implementations.

    Args:
        setting: bool or None. `None` uses an optimized implementation where it was measured to be faster.
            `True` uses any optimized implementation, and raises an error where `focal_context` has none.
            `False` uses the definitions only.

    Raises:
        ValueError: for any other value.

    >>> from focalnets.ops.dispatch import optimized_setting, set_optimized
    >>> set_optimized(False)
    >>> optimized_setting()
    False
    >>> set_optimized(None)
    """
    global _setting
    if setting is not None and not isinstance(setting, bool):
        raise ValueError(f"set_optimized takes None, True or False; got {setting!r}.")
    _setting = setting


def optimized_setting():
    """The current choice: `None`, `True` or `False`, see `set_optimized`."""
    if _setting == "unread":
        word = os.environ.get("FOCALNETS_OPTIMIZED", "auto")
        if word not in _SETTINGS:
            raise ValueError(f"FOCALNETS_OPTIMIZED must be auto, 1 or 0; got {word!r}.")
        set_optimized(_SETTINGS[word])
    return _setting


def dispatches():
    """Number of times that each implementation of each operation was chosen.

    A benchmark or test of an optimized implementation that finds none here has measured something else.

    Returns:
        dict of (operation, implementation) -> int.

    >>> from focalnets.ops.dispatch import dispatches
    >>> isinstance(dispatches(), dict)
    True
    """
    return dict(_dispatches)


def optimized(operation, *arguments, required=False):
    """Result of the first optimized implementation of an operation that takes these arguments, or None.

    The backend's table `IMPLEMENTATIONS` maps an operation to rows (name, unsupported, function), best first.
    The rows of its table `UNMEASURED` come after them, and only with `set_optimized(True)`.
    `unsupported(*arguments)` returns the declared reason why the implementation cannot take the arguments, or
    None. Only declared cases fall back to the definition. Any other failure is an error.

    Args:
        operation: str. Name of the operation in the table.
        arguments: Arguments of the operation.
        required: bool. Whether `set_optimized(True)` requires an optimized implementation of this operation.
            Defaults to `False`.

    Raises:
        RuntimeError: if an optimized implementation is required and none can be used.
    """
    setting = optimized_setting()
    if any(isinstance(one, keras.KerasTensor) for one in arguments):
        return None  # symbolic tensors take the operations of Keras
    if setting is False:
        _dispatches[operation, "plain"] += 1
        return None
    rows = getattr(backend_ops(), "IMPLEMENTATIONS", {}).get(operation, ())
    if setting is True:
        rows = (*rows, *getattr(backend_ops(), "UNMEASURED", {}).get(operation, ()))
    reasons = []
    for name, unsupported, function in rows:
        reason = unsupported(*arguments)
        if reason is None:
            _dispatches[operation, name] += 1
            return function(*arguments)
        reasons.append(f"{name}: {reason}")
    if setting is True and required:
        raise RuntimeError(
            f"No optimized implementation of {operation} can be used here: "
            f"{'; '.join(reasons) or 'this backend has none'}. Allow the definition with "
            "focalnets.ops.dispatch.set_optimized(None) or FOCALNETS_OPTIMIZED=auto."
        )
    _dispatches[operation, "plain"] += 1
    return None


def map_chunks(function, images):
    """Apply a function to images, a few at a time where that is faster.

    Args:
        function: Function that takes images and returns a tensor of the same shape. It must treat each image
            independently.
        images: Tensor of shape (B, H, W, C).

    Returns:
        Tensor of shape (B, H, W, C).

    >>> import numpy as np
    >>> from focalnets.ops.dispatch import map_chunks
    >>> map_chunks(lambda x: x + 1, np.zeros((2, 1, 1, 1), "float32")).sum().item()
    2.0
    """
    y = optimized("map_chunks", function, images)
    return function(images) if y is None else y
