"""Exact evidence: its sums, its definition, and deliberate mistakes in each rule."""

import itertools

import keras
import numpy as np
import pytest
from naive_evidence import naive_evidence
from reference import randomize

from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter
from focalnets.explanation import attribution
from focalnets.explanation.attribution import evidence, scalars, switch_off
from focalnets.layers import evidence as rules
from focalnets.maps import spread
from focalnets.models.evidence import chain, evidence_model, taps, target_vector

FLAGS = {
    "norm_placement": ("pre", "post", "mlp_only"),
    "normalize_modulator": (False, True),
    "norm_after_modulation": (False, True),
    "layer_scale_init": (None, 1e-4),
    "overlap_embed": (False, True),
}
COMBINATIONS = [dict(zip(FLAGS, values, strict=True)) for values in itertools.product(*FLAGS.values())]
IS_TORCH = keras.backend.backend() == "torch"
# The others compile each network for half a minute. The last combination has every option but a placement.
TESTED = COMBINATIONS if IS_TORCH else [{**COMBINATIONS[-1], "norm_placement": "pre"}]
TARGETS = np.stack(
    [
        target_vector(4, 1),
        target_vector(4, 2, versus=0),
        target_vector(4, 3, scalar="log_probability"),
    ]
)


def make_net(dtype="float32", activation="gelu", **flags):
    backbone = FocalNetBackbone(
        4, (1, 1), focal_levels=(2, 3), patch_size=4, seed=0, activation=activation, dtype=dtype, **flags
    )
    net = FocalNetImageClassifier(backbone, 4, FocalNetImageConverter())
    randomize(net, seed=1)
    return net


def images(height=9, width=14):
    return np.random.default_rng(2).integers(0, 256, (3, height, width, 3)).astype("uint8")


def largest_error(found):
    """Largest error of the sums at any tap, relative to the largest logit, whose rounding it contains."""
    sums = [one.sum(axis=(1, 2), dtype="float64") for one in found.taps.values()]
    return max(np.abs(one - found.total).max() for one in sums) / np.abs(found.logits).max()


@pytest.mark.slow
@pytest.mark.all_backends
@pytest.mark.parametrize("flags", TESTED, ids=lambda f: "-".join(str(v) for v in f.values()))
def test_evidence_sums_to_the_difference_at_every_tap(flags):
    net = make_net(**flags)
    found = evidence(net, images(), TARGETS, levels=True)
    assert list(found.taps) == taps(net)
    assert largest_error(found) <= 2e-6
    np.testing.assert_allclose(found.logits, net.predict(images(), verbose=0), rtol=1e-4, atol=1e-5)
    for name, levels in found.levels.items():
        lost = logits_without_context(net, images(), name)
        lost = scalars(found.logits, TARGETS) - scalars(lost, TARGETS)
        assert np.abs(levels.sum(axis=(1, 2, 3)) - lost).max() <= 2e-6 * np.abs(found.logits).max(), name


def logits_without_context(net, x, name):
    """Logits with the gated levels of one block replaced by those of the mean color."""
    x = keras.ops.convert_to_tensor(net.image_converter(x))
    reference = keras.ops.zeros_like(x[:1])
    for layer in chain(net.backbone):
        if layer.name == name:
            x = block_with_context_of(layer, x, reference)
        else:
            x, reference = layer(x), layer(reference)
    return keras.ops.convert_to_numpy(net.classify(x))


def block_with_context_of(block, x, reference):
    """Output of a block whose aggregated context is that of the reference."""
    from focalnets.layers import focal_modulation

    kept, original = [], focal_modulation.focal_context

    def record(*arguments):
        kept.append(original(*arguments))
        return kept[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(focal_modulation, "focal_context", record)
        block(reference)
        patch.setattr(focal_modulation, "focal_context", lambda context, *_: kept[0] + 0 * context)
        return block(x)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "silu"])
@pytest.mark.parametrize("flags", COMBINATIONS[::5], ids=lambda f: "-".join(str(v) for v in f.values()))
def test_evidence_equals_definition_in_float64(flags, activation):
    net, x = make_net("float64", activation, **flags), images()
    found = evidence(net, x, TARGETS)
    assert largest_error(found) <= 1e-12
    normalized = keras.ops.convert_to_numpy(net.image_converter(x[:1]))[0]
    expected = naive_evidence(net, normalized, np.zeros_like(normalized), TARGETS[0, :-1])
    assert set(expected) == set(found.taps)
    for tap, right in expected.items():
        error = np.abs(found.taps[tap][0] - right).max() / np.abs(right).max()
        assert error <= 1e-10, (tap, error)


def _slope_of_the_image(function, x):
    y = x.map(function)
    h = 1e-2
    slope = (function(x.value + h) - function(x.value - h)) / (2 * h)
    return y, lambda m: m * slope


def _factors_of_the_image(u, v):
    product = rules.Pair(u.value * v.value, u.reference * v.reference)
    return product, lambda m: (m * v.value, m * u.value)


def _constant_scale(layer, x):
    y, _ = RIGHT["norm_rule"](layer, x)
    centered = x.value - keras.ops.mean(x.value, axis=-1, keepdims=True)
    scale = keras.ops.rsqrt(
        keras.ops.mean(keras.ops.square(centered), axis=-1, keepdims=True) + layer.epsilon
    )

    def pull_back(m):
        m = m * layer.gamma * scale
        return m - keras.ops.mean(m, axis=-1, keepdims=True)

    return y, pull_back


def _kernel_not_turned(kernel, context):
    y, _ = RIGHT["_level_rule"](kernel, context)
    turned_twice = keras.ops.flip(kernel, axis=(0, 1))
    return y, RIGHT["_level_rule"](turned_twice, context)[1]


RIGHT = {"norm_rule": rules.norm_rule, "_level_rule": rules._level_rule}
MISTAKES = {
    "function_rule": _slope_of_the_image,
    "product_rule": _factors_of_the_image,
    "norm_rule": _constant_scale,
    "_level_rule": _kernel_not_turned,
}


@pytest.mark.parametrize("rule", MISTAKES)
def test_sums_detect_a_mistake_in_each_rule(rule, monkeypatch):
    monkeypatch.setattr(rules, rule, MISTAKES[rule])
    assert largest_error(evidence(make_net(), images(), TARGETS)) > 2e-5


@pytest.mark.all_backends
def test_evidence_of_trained_network_sums_to_the_difference():
    net = FocalNetImageClassifier.from_preset("focalnet_nano_cifar10")
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("uint8")
    x[1, 8:24, 8:24] = 255
    x[2] = np.round(
        255 * np.array(net.image_converter.mean)
    )  # nearly the reference: all differences are small
    targets = np.stack([target_vector(10, k) for k in range(4)])
    found = evidence(net, x, targets)
    assert largest_error(found) <= 2e-6
    assert abs(found.total[2]) < 0.1
    np.testing.assert_allclose(found.map().sum(axis=(1, 2)), found.total, atol=1e-4)


def test_evidence_is_linear_in_the_target_and_additive_over_references():
    net, x = make_net(), images()
    one, two = (evidence(net, x, np.stack([target_vector(4, k)] * 3)) for k in (1, 2))
    difference = evidence(net, x, np.stack([target_vector(4, 1, versus=2)] * 3))
    references = np.random.default_rng(3).integers(0, 256, (2, *x.shape[1:])).astype("float32")
    means = evidence(net, x, TARGETS, reference=references)
    alone = [evidence(net, x, TARGETS, reference=reference) for reference in references]
    for tap in taps(net):
        np.testing.assert_allclose(one.taps[tap] - two.taps[tap], difference.taps[tap], atol=1e-4)
        mean = (alone[0].taps[tap] + alone[1].taps[tap]) / 2
        np.testing.assert_allclose(means.taps[tap], mean, atol=1e-4)
    assert largest_error(means) <= 2e-6
    assert np.abs(evidence(net, x, TARGETS, reference=x[0]).taps["pixels"][0]).max() < 1e-9, (
        "image = reference"
    )
    assert largest_error(evidence(net, x, TARGETS, reference="blur")) <= 2e-6


def test_levels_are_equal_in_one_pass_and_in_one_pass_per_block(monkeypatch):
    net, x = make_net(), images()
    together = evidence(net, x, TARGETS, levels=True)
    monkeypatch.setattr("focalnets.explanation.attribution._IMAGE_BYTES", 1)
    models = attribution.EvidenceModels(net)
    apart = evidence(net, x, TARGETS, levels=True, models=models)
    assert [blocks for blocks, _ in models._models] == [("stage1_block1",), ("stage2_block1",)]
    assert list(apart.levels) == list(together.levels)
    for name, levels in together.levels.items():
        np.testing.assert_allclose(apart.levels[name], levels, atol=1e-5 * np.abs(levels).max())
    with pytest.raises(ValueError, match=r"Unknown block 'stage3_block1'"):
        evidence_model(net, levels=["stage3_block1"])


def test_switch_off_of_all_levels_equals_their_evidence_for_any_reference():
    net, x = make_net(), images()
    references = np.random.default_rng(3).integers(0, 256, (2, *x.shape[1:])).astype("float32")
    for reference in ("mean", "blur", references):
        found = evidence(net, x, TARGETS, reference, levels=True)
        lost = switch_off(net, x, TARGETS, "stage2_block1", [0, 1, 2, 3], reference)
        np.testing.assert_allclose(found.levels["stage2_block1"].sum(axis=(1, 2, 3)), lost, atol=1e-4)


def test_spread_keeps_sums():
    values = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    found = spread(values, (19, 13), stride=4)
    assert found.shape == (2, 19, 13)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), values.sum(axis=(1, 2)), rtol=1e-4)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("gray", "reference must be 'mean' or 'blur', or an array; got 'gray'"),
        (np.zeros((4, 4, 3)), r"reference has the shape \(4, 4, 3\); expected \(9, 14, 3\)"),
    ],
)
def test_evidence_rejects_unknown_reference(reference, message):
    with pytest.raises(ValueError, match=message):
        evidence(make_net(), images(), TARGETS, reference=reference)


def test_evidence_rejects_images_larger_than_memory():
    net = FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
    huge = np.broadcast_to(np.uint8(0), (1, 2**17, 2**17, 1))
    with pytest.raises(ValueError, match=r"131072 x 131072 pixels needs about \d+ GiB; this machine has"):
        evidence(net, huge, target_vector(10, 0)[None])


def test_evidence_model_rejects_other_models():
    net = make_net()
    with pytest.raises(TypeError, match="takes a FocalNetImageClassifier; got FocalNetBackbone"):
        evidence_model(net.backbone)
    with pytest.raises(ValueError, match="scalar must be one of logit, log_probability; got 'probability'"):
        target_vector(4, 0, scalar="probability")


def test_evidence_model_rejects_quantized_layers_and_unknown_taps():
    net = make_net()
    found = evidence(net, images(), TARGETS)
    with pytest.raises(ValueError, match=r"Unknown tap 'stage1_blok1'.*Did you mean 'stage1_block1'"):
        found.at("stage1_blok1")
    net.head.quantize("int8")
    with pytest.raises(ValueError, match=r"head is quantized .int8.; expected exact weights"):
        evidence_model(net)


@pytest.mark.slow
def test_evidence_model_is_saved_with_its_classifier(tmp_path):
    model = evidence_model(make_net(), levels=True)
    inputs = {"images": images(), "targets": TARGETS}
    model.save(tmp_path / "evidence.keras")
    again = keras.saving.load_model(tmp_path / "evidence.keras")
    expected, found = (one.predict(inputs, verbose=0) for one in (model, again))
    keras.tree.map_structure(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), expected, found)
