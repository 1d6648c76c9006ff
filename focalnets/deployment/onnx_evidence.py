"""Conversion of the exact evidence and the gates of a classifier to an ONNX graph."""

import keras
import numpy as np
from keras import ops

from focalnets.deployment.onnx_graph import Graph
from focalnets.deployment.onnx_operations import add_operations
from focalnets.layers.evidence import Pair
from focalnets.maps import spreading_weights
from focalnets.models.evidence import check_explainable, evidence_of, strides, taps

PER_BLOCK = ("levels", "gates")  # also the first words of the names of outputs


def onnx_evidence_model(classifier, height, width, levels=True):
    """Build an ONNX model that returns logits and the exact evidence, for images of one size.

    The reference is the mean color. The runtime computes it once, when it loads the graph.

    Args:
        classifier: `FocalNetImageClassifier`.
        height: int. Height of the images in pixels.
        width: int. Width of the images in pixels.
        levels: bool. Also return the evidence of the levels, which takes about three times as long, and the
            gates. Defaults to `True`.

    Returns:
        `onnx.ModelProto`. Its inputs are "images", as in `onnx_model`, and "targets" (B, num_classes + 1), as
        of `models.evidence.target_vector`. Its outputs are "logits" and "reference_logits" (B, num_classes),
        "evidence" (B, height, width), the mean over all taps per pixel, "evidence_<tap>" (B, H', W') for each
        tap, and for each block "levels_<block>" and "gates_<block>" (B, H', W', L + 1).

    Raises:
        ImportError: if the package `onnx` is not installed.
        ValueError: if a layer of the classifier is quantized.

    >>> from focalnets import FocalNetImageClassifier
    >>> from focalnets.deployment.onnx_evidence import onnx_evidence_model
    >>> net = FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
    >>> model = onnx_evidence_model(net, 8, 8, levels=False)
    >>> [output.name for output in model.graph.output][:4]
    ['logits', 'reference_logits', 'evidence', 'evidence_pixels']
    """
    check_explainable(classifier)
    channels, classes = classifier.backbone.image_shape[-1], classifier.num_classes
    graph = Graph()
    names = {
        "images": graph.images(classifier, height, width),
        "reference": graph.constant(np.zeros((1, 1, height, width, channels))),
        "targets": graph.input("targets", ("batch", classes + 1)),
    }
    # Not a `keras.Input`, because the taps of the pixels may be outputs without an operation between.
    symbols = {
        "images": keras.KerasTensor((None, height, width, channels), name="images"),
        "reference": keras.KerasTensor((1, 1, height, width, channels), name="reference"),
        "targets": keras.KerasTensor((None, classes + 1), name="targets"),
    }
    blocks = [block.name for block in classifier.backbone.blocks] if levels else []
    found = evidence_of(classifier, Pair(symbols["images"], symbols["reference"]), symbols["targets"], blocks)
    outputs = {
        "logits": found["logits"],
        "reference_logits": found["reference_logits"],
        "evidence": _map(classifier, found["evidence"], (height, width)),
        **{f"evidence_{tap}": found["evidence"][tap] for tap in taps(classifier)},
        **{f"{kind}_{block}": one for kind in PER_BLOCK for block, one in found.get(kind, {}).items()},
    }
    add_operations(graph, {names[name]: symbol for name, symbol in symbols.items()}, outputs)
    return graph.model({name: ("batch", *one.shape[1:]) for name, one in outputs.items()})


def _map(classifier, evidence, size):
    """Mean over all taps of the evidence per pixel: dict of tap -> (B, H', W') to (B, H, W)."""
    found = []
    for tap, stride in zip(taps(classifier), strides(classifier.backbone), strict=True):
        rows, columns = (
            spreading_weights(pixels, positions, stride)
            for pixels, positions in zip(size, evidence[tap].shape[1:], strict=True)
        )
        spread = evidence[tap] if stride == 1 else ops.matmul(rows, ops.matmul(evidence[tap], columns.T))
        found.append(spread)
    return sum(found[1:], found[0]) / len(found)
