"""Gates and modulators as outputs of a second functional graph over the same layers.

Nothing is stored on a layer while it runs: the same weights serve two graphs, one that classifies and
one that also returns what it modulated with. Both can be compiled, exported and called from threads.
"""

import keras

from focalnets.explain import maps


def modulation_model(classifier):
    """A Keras model that returns logits, gates and modulators.

    Args:
        classifier: a `FocalNetClassifier`; its layers are shared, not copied.

    Returns:
        Model from images (B, H, W, channels), as the classifier takes them, to the dict
        {"logits": (B, num_classes),
         "gates": {block name: (B, H', W', L + 1)}, the last gate being the global one,
         "modulators": {block name: (B, H', W', C')}}.

    >>> import numpy as np
    >>> from focalnets import FocalNetClassifier, modulation_model
    >>> net = FocalNetClassifier.from_preset("focalnet_pico", load_weights=False)
    >>> outputs = modulation_model(net).predict(np.zeros((1, 8, 8, 1), "uint8"), verbose=0)
    >>> outputs["gates"]["stage2_block2"].shape
    (1, 4, 4, 3)
    """
    backbone = classifier.backbone
    values = keras.Model(
        backbone.inputs,
        {"features": backbone.output, "gates": backbone.gates, "modulators": backbone.modulators},
    )
    inputs = keras.Input(backbone.image_shape, name="images")
    x = inputs if classifier.image_converter is None else classifier.image_converter(inputs)
    outputs = values(x)
    outputs["logits"] = classifier.classify(outputs.pop("features"))
    return keras.Model(inputs, outputs)


def modulation_maps(classifier, images, batch_size=64):
    """Gates and modulator norms of every block, brought to the size of the images.

    Args:
        classifier: a `FocalNetClassifier`.
        images: (N, H, W, channels), as the classifier takes them.
        batch_size: images at a time.

    Returns:
        Dict from block name to a `maps.BlockMaps`.

    >>> import numpy as np
    >>> from focalnets import FocalNetClassifier
    >>> from focalnets.explain.modulation import modulation_maps
    >>> net = FocalNetClassifier.from_preset("focalnet_pico", load_weights=False)
    >>> modulation_maps(net, np.zeros((1, 9, 9, 1), "uint8"))["stage2_block1"].gates.shape
    (1, 9, 9, 3)
    """
    outputs = modulation_model(classifier).predict(images, batch_size=batch_size, verbose=0)
    backbone = classifier.backbone
    size = images.shape[1:3]
    found = {}
    for block in backbone.blocks:
        stage = int(block.name.removeprefix("stage").split("_")[0])
        stride = backbone.patch_size * 2 ** (stage - 1)
        norm = maps.channel_norm(outputs["modulators"][block.name])
        found[block.name] = maps.BlockMaps(
            gates=maps.upsample(outputs["gates"][block.name], size, stride),
            modulator_norm=maps.upsample(norm[..., None], size, stride)[..., 0],
            kernel_sizes=block.modulation.kernel_sizes,
        )
    return found
