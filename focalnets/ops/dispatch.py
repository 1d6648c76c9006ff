"""The choice between the definition of an operation and a backend's fused versions of it."""

from focalnets import config
from focalnets.ops.backend import backend_ops


def fused(operation, *arguments, required=False):
    """The result of the first fused version of `operation` that takes these arguments, or None.

    The backend's table `IMPLEMENTATIONS` maps an operation to rows (name, unsupported, function), best first.
    `unsupported(*arguments)` gives the declared reason why the version cannot take the arguments, or
    None. Only declared cases fall back: whatever else goes wrong in a version is an error.

    Args:
        operation: its name in the table.
        arguments: the operation's.
        required: whether `focalnets.config.set_fused(True)` means this operation.

    Raises:
        RuntimeError: if a fused version is required and there is none.
    """
    setting = config.fused()
    if setting is False:
        config.count_dispatch(operation, "plain")
        return None
    reasons = []
    for name, unsupported, function in getattr(backend_ops(), "IMPLEMENTATIONS", {}).get(operation, ()):
        reason = unsupported(*arguments)
        if reason is None:
            config.count_dispatch(operation, name)
            return function(*arguments)
        reasons.append(f"{name}: {reason}")
    if setting is True and required:
        raise RuntimeError(
            f"No fused version of {operation} can be used here: "
            f"{'; '.join(reasons) or 'this backend has none'}. Allow the plain one with "
            "focalnets.config.set_fused(None) or FOCALNETS_FUSED=auto."
        )
    config.count_dispatch(operation, "plain")
    return None


def map_chunks(function, images):
    """function(images), for a few images (B, H, W, C) at a time where that is faster.

    Args:
        function: takes images and returns a tensor of their shape; each image for itself.
        images: tensor (B, H, W, C).

    >>> import numpy as np
    >>> from focalnets.ops.dispatch import map_chunks
    >>> map_chunks(lambda x: x + 1, np.zeros((2, 1, 1, 1), "float32")).sum().item()
    2.0
    """
    y = fused("map_chunks", function, images)
    return function(images) if y is None else y
