"""Gates and modulators as outputs of a second functional graph over the same layers.

The layers store nothing when they are called. Both graphs share the weights, and can be compiled, exported
and called from several threads.
"""

import keras

from focalnets.layers.focal_block import FocalBlock
from focalnets.models.classifier import FocalNetImageClassifier
from focalnets.models.guarded import GuardedModel


def modulation_model(classifier):
    """Build a Keras model that returns logits, gates and modulators.

    Args:
        classifier: `FocalNetImageClassifier`. The model shares its layers.

    Returns:
        Keras model. It takes the images of the classifier, (B, H, W, channels), and returns the dict
        {"logits": (B, num_classes),
         "gates": {block name: (B, H', W', L + 1)}, where the last gate is the global one,
         "modulators": {block name: (B, H', W', C')}}.

    Raises:
        TypeError: if `classifier` is not a `FocalNetImageClassifier`.

    >>> import numpy as np
    >>> from focalnets import FocalNetImageClassifier, modulation_model
    >>> net = FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
    >>> outputs = modulation_model(net).predict(np.zeros((1, 8, 8, 1), "uint8"), verbose=0)
    >>> outputs["gates"]["stage2_block2"].shape
    (1, 4, 4, 3)
    """
    if not isinstance(classifier, FocalNetImageClassifier):
        raise TypeError(
            f"modulation_model takes a FocalNetImageClassifier; got {type(classifier).__name__}. Build a "
            "FocalNetImageClassifier from a backbone first."
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
    graph.check_first_batch = (
        classifier.check_range
    )  # without the check of sizes, because images are not cropped
    return graph


@keras.saving.register_keras_serializable(package="focalnets")
class _Observed(keras.layers.Layer):
    """Layer that calls a block with `return_modulation=True`.

    Keras 3.15 assumes that all calls of a layer have the same number of outputs, so the block itself cannot
    have one output in the first graph and three in the second.
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
