"""Scale of `Rescaling` layers that precede a network in a functional graph."""

import math

import keras
import numpy as np


def scale_in_front(tensor):
    """Product of the scales of all `Rescaling` layers that lead to a symbolic tensor, or 1.0.

    >>> import keras
    >>> from focalnets.models.layers_in_front import scale_in_front
    >>> images = keras.Input((None, None, 3))
    >>> round(1 / scale_in_front(keras.layers.Rescaling(1 / 255)(images)))
    255
    """
    scale = 1.0
    while (history := getattr(tensor, "_keras_history", None)) is not None:
        scale *= _scale(history.operation)
        tensors = history.operation._inbound_nodes[history.node_index].input_tensors
        if len(tensors) != 1:
            break
        tensor = tensors[0]
    return scale


def _scale(layer):
    if isinstance(layer, keras.layers.Rescaling):
        return float(np.mean(layer.scale))
    if isinstance(layer, keras.Model):
        return math.prod(_scale(inner) for inner in layer.layers)
    return 1.0
