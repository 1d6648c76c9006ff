"""The networks equal the float64 reference for every combination of flags, on whichever backend runs.

All parameters are random of order 1, inputs odd-sized and not square, and errors are taken block by
block and stage by stage. Deliberate mistakes in the reference have to show.
"""

import itertools

import keras
import numpy as np
import pytest
from reference import BREAKS, Reference, randomize, relative_error

from focalnets import FocalNetBackbone, FocalNetClassifier, ImageConverter
from focalnets.explain.modulation import modulation_model

pytestmark = pytest.mark.core

FLAGS = {
    "normalize_modulator": (False, True),
    "norm_after_modulation": (False, True),
    "norm_placement": ("pre", "post", "mlp_only"),
    "layer_scale_init": (None, 1e-4),
    "overlap_embed": (False, True),
}
COMBINATIONS = [dict(zip(FLAGS, values, strict=True)) for values in itertools.product(*FLAGS.values())]
TOLERANCE = 1e-5


def make_net(flags):
    backbone = FocalNetBackbone(
        embed_dim=8, depths=(1, 2), focal_levels=(2, 3), patch_size=4, focal_window=3, seed=0, **flags
    )
    net = FocalNetClassifier(backbone, num_classes=5, image_converter=ImageConverter())
    randomize(net, seed=1)
    return net


def images():
    return np.random.default_rng(2).integers(0, 256, size=(2, 27, 38, 3)).astype("uint8")


def computed(net, x):
    """Everything that the reference computes, from the network itself."""
    outputs = modulation_model(net).predict(x, verbose=0)
    values = {f"gates {name}": gates for name, gates in outputs["gates"].items()}
    values |= {f"modulator {name}": value for name, value in outputs["modulators"].items()}
    pyramid = keras.Model(net.backbone.inputs, net.backbone.pyramid_outputs)
    normalised = keras.ops.convert_to_numpy(net.image_converter(x))
    values |= pyramid.predict(normalised, verbose=0)
    values["output"] = net.backbone.predict(normalised, verbose=0)
    return outputs["logits"], values


def errors(net, x, broken=""):
    """Relative error of the logits and of each value, by name."""
    expected_logits, expected = Reference(broken).classifier(net, x)
    logits, values = computed(net, x)
    assert set(values) == set(expected)
    found = {name: relative_error(values[name], expected[name]) for name in expected}
    return {"logits": relative_error(logits, expected_logits), **found}


@pytest.mark.parametrize("flags", COMBINATIONS, ids=lambda f: "-".join(str(v) for v in f.values()))
def test_equals_float64_reference(flags):
    found = errors(make_net(flags), images())
    worst = max(found, key=found.get)
    assert found[worst] <= TOLERANCE, f"{worst}: {found[worst]:.1e}"


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_variant_is_noticed(broken):
    net = make_net({"norm_placement": "pre", "layer_scale_init": 1e-4})
    found = errors(net, images(), broken)
    assert max(found.values()) > 10 * TOLERANCE, f"{broken} went unnoticed"
