"""Gates and norms of the modulators at the size of the images."""

from dataclasses import dataclass

import numpy as np

from focalnets.layers.geometry import receptive_fields
from focalnets.maps import channel_norm, upsample
from focalnets.models.modulation import modulation_model


@dataclass(frozen=True)
class BlockMaps:
    """Gates and modulator norms of one block for N images, at the size of the images (H x W pixels).

    Attributes:
        gates: float32 array of shape (N, H, W, L + 1). Raw values of either sign. The last is the global
            gate.
        modulator_norm: float32 array of shape (N, H, W). Euclidean norm of the modulator over channels.
        receptive_fields: tuple of L int. Sides of the receptive fields, in positions of the feature map.
    """

    gates: np.ndarray
    modulator_norm: np.ndarray
    receptive_fields: tuple[int, ...]


def modulation_maps(classifier, images, batch_size=64, graph=None, blocks=None):
    """Compute gates and modulator norms of blocks at the size of the images.

    Args:
        classifier: `FocalNetImageClassifier`.
        images: array of shape (N, H, W, channels). Inputs of the classifier.
        batch_size: int. Number of images per batch. Defaults to 64.
        graph: Existing `modulation_model` of the classifier. Defaults to a new one.
        blocks: list of str. Names of the blocks to return. Defaults to all blocks.

    Returns:
        dict. Name of a block -> `BlockMaps`.

    >>> import numpy as np
    >>> from focalnets import FocalNetImageClassifier
    >>> from focalnets.explanation.modulation import modulation_maps
    >>> net = FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
    >>> modulation_maps(net, np.zeros((1, 9, 9, 1), "uint8"))["stage2_block1"].gates.shape
    (1, 9, 9, 3)
    """
    graph = modulation_model(classifier) if graph is None else graph
    outputs = graph.predict(images, batch_size=batch_size, verbose=0)
    backbone = classifier.backbone
    size = images.shape[1:3]
    found = {}
    strides = zip(backbone.stages, backbone.strides, strict=True)
    for block, stride in ((block, stride) for stage, stride in strides for block in stage):
        if blocks is not None and block.name not in blocks:
            continue
        norm = channel_norm(outputs["modulators"][block.name])
        found[block.name] = BlockMaps(
            gates=upsample(outputs["gates"][block.name], size, stride),
            modulator_norm=upsample(norm[..., None], size, stride)[..., 0],
            receptive_fields=receptive_fields(block.modulation.kernel_sizes),
        )
    return found
