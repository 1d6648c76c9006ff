"""Random weights for checkpoints of other libraries, equal on every machine and backend."""

import json
import pathlib

import keras
import numpy as np

FIXTURES = pathlib.Path(__file__).parent / "fixtures"


def drawn(shapes, seed=0):
    """Dict of key -> random float32 array of order 1. Kernels are divided by the root of their fan-in."""
    generator, arrays = np.random.default_rng(seed), {}
    for key in sorted(shapes):
        values = generator.standard_normal(shapes[key])
        fan_in = np.prod(shapes[key][1:]) if len(shapes[key]) > 1 else 1.0
        arrays[key] = (values / np.sqrt(fan_in)).astype("float32")
    return arrays


def known_shapes(name):
    """Dict of key -> shape of a small network of another library, from `keys.json`."""
    return {
        key: tuple(shape) for key, shape in json.loads((FIXTURES / "keys.json").read_text())[name].items()
    }


def our_flags(flags):
    """The values of `config_overrides` for flags of transformers."""
    return {
        "norm_placement": "post" if flags["use_post_layernorm"] else "pre",
        "normalize_modulator": flags["normalize_modulator"],
    }


def our_outputs(classifier, image):
    """Logits and maps for normalized images, with the names of `their_outputs`."""
    net = classifier.backbone
    outputs = {"logits": classifier.classify(net.output), "stage 0": net.get_layer("stem").output}
    for stage in range(1, len(net.depths)):
        outputs[f"stage {stage}"] = net.get_layer(f"stage{stage}_downsample").output
    # The last map of transformers comes before the final norm.
    outputs[f"stage {len(net.depths)}"] = net.blocks[-1].output
    return keras.Model(net.inputs, outputs).predict(image, verbose=0)
