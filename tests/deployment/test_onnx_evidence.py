"""The exact evidence as an ONNX graph, compared with Keras in each runtime."""

import itertools
import json

import numpy as np
import pytest
from reference import randomize

from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter, evidence, export
from focalnets.deployment.export import image_shape, write_export
from focalnets.deployment.onnx_operations import add_operations
from focalnets.deployment.runtimes import RUNTIMES, usable_runtimes
from focalnets.deployment.verify import evidence_difference
from focalnets.models.evidence import target_vector

pytest.importorskip("onnx", reason="exports need onnx")
pytestmark = pytest.mark.skipif(not usable_runtimes(), reason="no runtime is installed")
FLAGS = {
    "norm_placement": ("pre", "post", "mlp_only"),
    "normalize_modulator": (False, True),
    "norm_after_modulation": (False, True),
    "layer_scale_init": (None, 0.5),
    "overlap_embed": (False, True),
}
COMBINATIONS = [dict(zip(FLAGS, one, strict=True)) for one in itertools.product(*FLAGS.values())]
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu")
TESTED = [{**one, "activation": name} for one, name in zip(COMBINATIONS[3::13], ACTIVATIONS, strict=True)]


def make_net(converter=True, **flags):
    shape = (None, None, 3) if converter else (13, 22, 3)
    backbone = FocalNetBackbone(4, (1, 2), (2, 3), patch_size=4, image_shape=shape, seed=0, **flags)
    converter = FocalNetImageConverter(image_size=(13, 22)) if converter else None
    net = FocalNetImageClassifier(backbone, 5, converter)
    randomize(net, seed=1)
    return net


@pytest.mark.slow
@pytest.mark.parametrize("flags", TESTED, ids=lambda f: "-".join(map(str, f.values())))
def test_exported_evidence_equals_keras(tmp_path, flags):
    net = make_net(**flags)
    write_export(net, tmp_path, explain=True)
    graphs = [RUNTIMES[name](tmp_path / "explain.onnx", False) for name in usable_runtimes()]
    shape = image_shape(net)
    for graph in graphs:
        assert evidence_difference(net, graph, shape) < 5e-5
    block = net.backbone.blocks[0].modulation
    block.kernels[0].assign(1.1 * block.kernels[0])
    assert all(
        evidence_difference(net, graph, image_shape(net)) > 1e-3 for graph in graphs
    )  # the comparison can fail


def test_exported_evidence_sums_to_the_difference_of_logits(tmp_path):
    net = make_net(converter=False)
    write_export(net, tmp_path, explain=True)
    images = np.random.default_rng(0).normal(size=(3, 13, 22, 3)).astype("float32")
    targets = np.stack(
        [
            target_vector(5, 1, versus=0),
            target_vector(5, 2),
            target_vector(5, 3, scalar="log_probability"),
        ]
    )
    expected = evidence(net, images, targets, levels=True)
    for name in usable_runtimes():
        found = RUNTIMES[name](tmp_path / "explain.onnx", False)({"images": images, "targets": targets})
        np.testing.assert_allclose(
            found["evidence"], expected.map(), atol=1e-5 * np.abs(expected.map()).max()
        )
        for output in ["evidence", *(f"evidence_{tap}" for tap in expected.taps)]:
            sums = found[output].sum(axis=(1, 2))
            np.testing.assert_allclose(sums, expected.total, atol=2e-5 * np.abs(found["logits"]).max())


def test_export_with_explain_describes_taps_and_levels(tmp_path):
    done = export(make_net(), tmp_path / "out", explain=True)
    assert done.evidence_difference < 1e-4
    record = json.loads((tmp_path / "out" / "export.json").read_text())["explain"]
    assert list(record["taps"].items())[:3] == [("pixels", 1), ("stem", 4), ("stage1_block1", 4)]
    assert record["levels"] == {
        "stage1_block1": [3, 7],
        "stage2_block1": [3, 7, 13],
        "stage2_block2": [3, 7, 13],
    }
    assert export(make_net(), tmp_path / "plain").evidence_difference is None
    assert not (tmp_path / "plain" / "explain.onnx").exists()


def test_operation_without_conversion_is_refused():
    import keras

    from focalnets.deployment.onnx_graph import Graph

    x = keras.KerasTensor((2, 3))
    with pytest.raises(NotImplementedError, match="The operation Cos has no conversion to ONNX"):
        add_operations(Graph(), {"x": x}, {"y": keras.ops.cos(x)})
