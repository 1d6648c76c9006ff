"""Equality of the networks and the float64 reference for every combination of flags, on each backend.

All parameters are random values of order 1. Image sizes are odd and not square. Errors are computed for each
block and stage. Deliberate errors in the reference must be detected.
"""

import itertools

import keras
import numpy as np
import pytest
from reference import BREAKS, Reference, randomize, relative_error

from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter, modulation_model

pytestmark = pytest.mark.all_backends

FLAGS = {
    "normalize_modulator": (False, True),
    "norm_after_modulation": (False, True),
    "norm_placement": ("pre", "post", "mlp_only"),
    "layer_scale_init": (None, 1e-4),
    "overlap_embed": (False, True),
}
COMBINATIONS = [dict(zip(FLAGS, values, strict=True)) for values in itertools.product(*FLAGS.values())]
# On JAX and TensorFlow, which compile each network, ten combinations contain every pair of values.
TESTED = COMBINATIONS if keras.backend.backend() == "torch" else COMBINATIONS[::5]
TOLERANCE = 1e-5


def make_net(flags):
    backbone = FocalNetBackbone(
        embed_dim=8, depths=(1, 2), focal_levels=(2, 3), patch_size=4, focal_window=3, seed=0, **flags
    )
    net = FocalNetImageClassifier(backbone, num_classes=5, image_converter=FocalNetImageConverter())
    randomize(net, seed=1)
    return net


def images():
    return np.random.default_rng(2).integers(0, 256, size=(2, 27, 38, 3)).astype("uint8")


def computed(net, x):
    """Logits and all intermediate values of the network, by the names of the reference."""
    backbone = net.backbone
    pyramid = keras.Model(backbone.inputs, {"output": backbone.output, **backbone.pyramid_outputs})
    normalized = keras.ops.convert_to_numpy(net.image_converter(x))
    values = pyramid.predict(normalized, verbose=0)
    observed = modulation_model(net).predict(x, verbose=0)
    values |= {f"gates {name}": gates for name, gates in observed["gates"].items()}
    values |= {f"modulator {name}": value for name, value in observed["modulators"].items()}
    return {"logits": observed["logits"], **values}


def errors(found, net, x, broken=""):
    """Dict of name -> relative error of each value."""
    logits, values = Reference(broken).classifier(net, x)
    expected = {"logits": logits, **values}
    assert set(found) == set(expected)
    return {name: relative_error(found[name], expected[name]) for name in expected}


@pytest.mark.slow
@pytest.mark.parametrize("flags", TESTED, ids=lambda f: "-".join(str(v) for v in f.values()))
def test_network_equals_float64_reference(flags):
    net, x = make_net(flags), images()
    found = errors(computed(net, x), net, x)
    worst = max(found, key=found.get)
    assert found[worst] <= TOLERANCE, f"{worst}: {found[worst]:.1e}"


def test_network_with_other_epsilons_equals_reference():
    net = make_net({"norm_epsilon": 1e-2, "embedding_norm_epsilon": 0.3, "norm_after_modulation": True})
    x = images()
    assert max(errors(computed(net, x), net, x).values()) <= TOLERANCE
    for block in net.backbone.blocks:  # the reference reads epsilons from the layers
        assert block.norm1.epsilon == block.norm2.epsilon == block.modulation.norm.epsilon == 1e-2
    assert net.backbone.get_layer("stem").norm.epsilon == net.backbone.get_layer("norm").epsilon == 0.3


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["gelu_tanh", "relu", "silu"])
def test_network_with_other_activations_equals_reference(activation):
    net, x = make_net({"activation": activation}), images()
    values = computed(net, x)
    assert max(errors(values, net, x).values()) <= TOLERANCE
    for block in net.backbone.blocks:
        block.activation = "gelu"  # changes only the reference, because the values are computed
    assert max(errors(values, net, x).values()) > 5 * TOLERANCE  # the tanh GELU is close to the exact one


@pytest.fixture(scope="module", params=["pre", "post"])
def one_net(request):
    net, x = make_net({"norm_placement": request.param, "layer_scale_init": 1e-4}), images()
    return net, x, computed(net, x)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="breaks the reference, which has no backend")
@pytest.mark.slow
@pytest.mark.parametrize("broken", BREAKS)
def test_errors_detect_broken_reference(broken, one_net):
    net, x, values = one_net
    assert max(errors(values, net, x, broken).values()) > 10 * TOLERANCE


def test_classifier_equals_float64_reference():
    net, x = make_net({"norm_placement": "mlp_only"}), images()
    logits, _ = Reference().classifier(net, x)
    assert relative_error(net.predict(x, verbose=0), logits) <= TOLERANCE
