"""Gates and modulators as outputs of a second functional graph over the same layers.

Nothing is stored on a layer while it runs: the same weights serve two graphs, one that classifies and
one that also returns what it modulated with. Both can be compiled, exported and called from threads.
"""

import keras

from focalnets.explanation import maps
from focalnets.layers.focal_block import FocalBlock
from focalnets.layers.geometry import receptive_fields
from focalnets.models.classifier import FocalNetImageClassifier
from focalnets.models.guarded import GuardedModel


def modulation_model(classifier):
    """A Keras model that returns logits, gates and modulators.

    Args:
        classifier: a `FocalNetImageClassifier`; its layers are shared, not copied.

    Returns:
        Model from images (B, H, W, channels), as the classifier takes them, to the dict
        {"logits": (B, num_classes),
         "gates": {block name: (B, H', W', L + 1)}, the last gate being the global one,
         "modulators": {block name: (B, H', W', C')}}.

    Raises:
        TypeError: if it is something else, such as a backbone without a head.

    >>> import numpy as np
    >>> from focalnets import FocalNetImageClassifier, modulation_model
    >>> net = FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
    >>> outputs = modulation_model(net).predict(np.zeros((1, 8, 8, 1), "uint8"), verbose=0)
    >>> outputs["gates"]["stage2_block2"].shape
    (1, 4, 4, 3)
    """
    if not isinstance(classifier, FocalNetImageClassifier):
        raise TypeError(
            f"modulation_model takes a FocalNetImageClassifier; got {type(classifier).__name__}. Put a "
            "backbone under a FocalNetImageClassifier first."
        )
    backbone = classifier.backbone
    inputs = keras.Input(backbone.image_shape, name="images")
    x = inputs if classifier.image_converter is None else classifier.image_converter(inputs)
    gates, modulators = {}, {}
    for layer in backbone.layers:
        if isinstance(layer, FocalBlock):
            x, gates[layer.name], modulators[layer.name] = _Observed(layer)(x)
        elif not isinstance(layer, keras.layers.InputLayer):
            x = layer(x)
    outputs = {"logits": classifier.classify(x), "gates": gates, "modulators": modulators}
    graph = GuardedModel(inputs, outputs)
    graph.check_first_batch = classifier.check_range  # whole images are explained, of any size
    return graph


@keras.saving.register_keras_serializable(package="focalnets")
class _Observed(keras.layers.Layer):
    """A block with `return_modulation=True`, as a layer of its own.

    Keras 3.15 takes every call of a layer to have as many outputs as its first one, so the block itself
    cannot stand in two graphs with one output here and three there.
    """

    def __init__(self, block, **kwargs):
        super().__init__(**{"name": f"{block.name}_observed", "dtype": block.dtype_policy, **kwargs})
        self.block = block
        self.built = True

    def call(self, x):
        return self.block(x, return_modulation=True)

    def compute_output_spec(self, x):
        return self.block.compute_output_spec(x, return_modulation=True)

    def get_config(self):
        return {**super().get_config(), "block": keras.saving.serialize_keras_object(self.block)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "block": keras.saving.deserialize_keras_object(config["block"])})


def modulation_maps(classifier, images, batch_size=64, graph=None, blocks=None):
    """Gates and modulator norms of every block, brought to the size of the images.

    Args:
        classifier: a `FocalNetImageClassifier`.
        images: (N, H, W, channels), as the classifier takes them.
        batch_size: images at a time.
        graph: its `modulation_model`, if there is one already.
        blocks: names of the blocks that are wanted. Defaults to all of them.

    Returns:
        Dict from block name to a `maps.BlockMaps`.

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
        norm = maps.channel_norm(outputs["modulators"][block.name])
        found[block.name] = maps.BlockMaps(
            gates=maps.upsample(outputs["gates"][block.name], size, stride),
            modulator_norm=maps.upsample(norm[..., None], size, stride)[..., 0],
            receptive_fields=receptive_fields(block.modulation.kernel_sizes),
        )
    return found
