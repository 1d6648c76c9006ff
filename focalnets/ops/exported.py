"""Files that a backend writes for other programs, opened as functions from images to a dict of arrays.

Each function imports its library, which need not be the active backend.
"""

import numpy as np


def dynamic_batch():
    """Axis of any size, for `torch.export`."""
    import torch

    return {0: torch.export.Dim("batch", min=1, max=2**16)}


def open_torch(path):
    """Open a `.pt2` file of `torch.export`."""
    import torch

    module = torch.export.load(str(path)).module()

    def run(images):
        with torch.no_grad():
            found = module(torch.from_numpy(np.ascontiguousarray(images)))
        return {name: value.numpy() for name, value in found.items()}

    return run


def open_saved_model(path):
    """Open a SavedModel of TensorFlow."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))

    def run(images):
        # `loaded` is named here so that its variables live as long as the function.
        return {name: value.numpy() for name, value in loaded.serve(images).items()}

    return run


def open_litert(path):
    """Open a LiteRT (`.tflite`) file."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    return lambda images: runner(images=images)
