"""Layers: configuration, saving, arguments, masks and padding."""

import keras
import numpy as np
import pytest
from contract import check_layer, check_saving
from reference import Reference, randomize, relative_error

from focalnets import DropPath, FocalBlock, FocalModulation, FocalNetBackbone, LayerScale, PatchEmbedding

pytestmark = pytest.mark.all_backends

MODULATION = {
    "focal_levels": 3,
    "focal_window": 5,
    "focal_factor": 4,
    "normalize_modulator": True,
    "norm_after_modulation": True,
    "norm_epsilon": 1e-3,
    "kernel_initializer": "glorot_uniform",
}
BLOCK = {
    **MODULATION,
    "mlp_ratio": 3.0,
    "norm_placement": "post",
    "layer_scale_init": 0.5,
    "dropout_rate": 0.2,
    "mlp_hidden_dropout_rate": 0.3,
    "drop_path_rate": 0.4,
    "rematerialize": True,
    "seed": 3,
    "activation": "silu",
}
EMBEDDING = {
    "embed_dim": 6,
    "patch_size": 2,
    "kernel_size": 3,
    "padding": 1,
    "norm_epsilon": 1e-3,
    "kernel_initializer": "glorot_uniform",
}
DEPTHWISE = 8 * (5**2 + 9**2 + 13**2)
MODULATION_PARAMETERS = 8 * 20 + 20 + 2 * (8 * 8 + 8) + DEPTHWISE + 16
BLOCK_PARAMETERS = MODULATION_PARAMETERS + 8 * 24 + 24 + 24 * 8 + 8 + 2 * 16 + 2 * 8
SHAPE = (2, 5, 7, 8)

CASES = [
    (LayerScale, {"init_value": 0.3}, SHAPE, SHAPE, 8),
    (DropPath, {"rate": 0.4, "seed": 3}, SHAPE, SHAPE, 0),
    (FocalModulation, MODULATION, SHAPE, SHAPE, MODULATION_PARAMETERS),
    (FocalBlock, BLOCK, SHAPE, SHAPE, BLOCK_PARAMETERS),
    (PatchEmbedding, EMBEDDING, SHAPE, (2, 3, 4, 6), 9 * 8 * 6 + 3 * 6),
]


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "arguments", "inputs", "outputs", "parameters"), CASES)
def test_layer_fulfills_keras_contract(cls, arguments, inputs, outputs, parameters, tmp_path):
    layer = check_layer(cls, arguments, inputs, outputs, parameters)
    if parameters:
        # Without dropout, because the weights of a dropped branch have no gradient.
        layer = cls(**{n: 0.0 if n.endswith("_rate") else v for n, v in arguments.items()})
        layer.build(inputs)
        randomize(layer)
        check_saving(layer, inputs, tmp_path / "model.keras")


@pytest.mark.parametrize(
    ("cls", "arguments", "words"),
    [
        (DropPath, {"rate": 1.0}, "rate must be in"),
        (FocalBlock, {"activation": "tanh"}, "Unknown activation 'tanh'. Expected one of gelu, gelu_tanh"),
        (FocalModulation, {"focal_levels": 0}, "at least 1"),
        (FocalModulation, {"focal_window": 4}, "must be odd"),
        (FocalModulation, {"focal_factor": 1}, "must be odd"),
        (FocalBlock, {"norm_placement": "none"}, "norm_placement must be one of"),
        (PatchEmbedding, {"embed_dim": 4, "patch_size": 4, "kernel_size": 2}, "at least patch_size"),
        (PatchEmbedding, {"embed_dim": 4, "patch_size": 4, "kernel_size": 7, "padding": 0}, "padding=None"),
    ],
)
def test_layer_rejects_invalid_arguments(cls, arguments, words):
    with pytest.raises(ValueError, match=words):
        cls(**arguments)


def test_layer_rejects_seeded_initializer():
    layer = FocalModulation(kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    with pytest.raises(ValueError, match=r"has the seed 1, which .* Leave out the seed"):
        layer.build(SHAPE)


def test_drop_path_drops_whole_images_and_preserves_mean():
    x = np.ones((4000, 2, 2, 1), "float32")
    y = keras.ops.convert_to_numpy(DropPath(0.25, seed=1)(x, training=True))
    per_image = y.reshape(4000, -1)
    assert np.all(per_image == per_image[:, :1])
    assert set(np.unique(per_image.round(4))) == {0.0, np.float32(1 / 0.75).round(4)}
    assert abs(y.mean() - 1) < 0.05


def test_drop_path_accepts_rank_3_input():
    y = keras.ops.convert_to_numpy(DropPath(0.5, seed=0)(np.ones((64, 3, 2), "float32"), training=True))
    assert y.shape == (64, 3, 2)
    assert all(len(np.unique(one)) == 1 for one in y)
    assert len(np.unique(y)) == 2


def test_focal_modulation_returns_separate_outputs_in_functional_model():
    layer, inputs = FocalModulation(), keras.Input((7, 7, 8))
    model = keras.Model(inputs, layer(inputs, return_modulation=True))
    randomize(layer)
    x = np.random.default_rng(0).normal(size=(2, 7, 7, 8)).astype("float32")
    for found, expected in zip(model(x), layer(x, return_modulation=True), strict=True):
        found, expected = map(keras.ops.convert_to_numpy, (found, expected))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (None, None)])
def test_patch_embedding_with_padding_gives_same_values_for_fixed_and_free_sizes(size):
    """Each image is embedded independently of the other images of the batch."""
    inputs = keras.Input((*size, 3))
    layer = PatchEmbedding(8, patch_size=4, padding=1)
    model = keras.Model(inputs, layer(inputs))
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
    found = model.predict(images, verbose=0)
    assert found.shape == (16, 2, 2, 8)
    alone = model.predict(images[3:4], verbose=0)
    np.testing.assert_allclose(found[3:4], alone, atol=1e-5)
    shifted = np.pad(images, ((0, 0), (1, 0), (1, 0), (0, 0)))[:, :8, :8]
    plain = PatchEmbedding(8, patch_size=4)
    plain.build((None, 8, 8, 3))
    plain.set_weights(layer.get_weights())
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(plain(shifted)), atol=1e-4)


def test_patch_embedding_accepts_images_smaller_than_kernel():
    for shape, patch, kernel in (((3, 3), 4, None), ((2, 2), 2, 3), ((1, 5), 4, 7)):
        layer = PatchEmbedding(6, patch_size=patch, kernel_size=kernel)
        y = layer(np.ones((1, *shape, 3), "float32"))
        assert tuple(y.shape) == (1, *(-(-side // patch) for side in shape), 6)


def test_drop_path_streams_differ_between_layers_and_calls():
    x = np.ones((256, 1, 1, 1), "float32")
    block = FocalBlock(drop_path_rate=0.5, seed=0)
    masks = [
        keras.ops.convert_to_numpy(layer(x, training=True)).ravel()
        for _ in range(3)
        for layer in (block.drop_path1, block.drop_path2)
    ]
    agreement = [np.mean(a == b) for i, a in enumerate(masks) for b in masks[:i]]
    assert max(agreement) < 0.7, "a layer repeats the masks of another layer"


@pytest.mark.parametrize("placement", ["pre", "post", "mlp_only"])
def test_focal_block_applies_each_mask_in_its_place(placement, monkeypatch):
    """Replaces the masks by different constants, which the reference applies by name."""
    factors = {"modulation": 0.5, "hidden": 3.0, "output": -0.7, "path1": 1.5, "path2": 0.3}
    block = FocalBlock(
        norm_placement=placement,
        layer_scale_init=0.5,
        dropout_rate=0.2,
        mlp_hidden_dropout_rate=0.1,
        drop_path_rate=0.4,
    )
    x = np.random.default_rng(0).normal(size=SHAPE).astype("float32")
    block.build(SHAPE)
    randomize(block)
    of_layer = {id(getattr(block, f"{name}_dropout")): name for name in ("modulation", "hidden", "output")}
    paths = {id(block.drop_path1): "path1", id(block.drop_path2): "path2"}
    monkeypatch.setattr(
        "focalnets.layers.focal_block.dropout_mask",
        lambda dropout, shape, x: keras.ops.full(shape, factors[of_layer[id(dropout)]], x.dtype),
    )
    monkeypatch.setattr(DropPath, "mask", lambda self, x, training: factors[paths[id(self)]])
    found = block(x, training=True)
    for given in (factors, {**factors, "hidden": 1.0}, {**factors, "path1": 1.0}):
        expected, _, _ = Reference(factors=given).block(block, np.float64(x))
        assert (relative_error(found, expected) < 1e-5) == (given is factors)


def test_mlp_hidden_dropout_rate_defaults_to_dropout_rate():
    for given, rate in ((None, 0.2), (0.0, 0.0), (0.3, 0.3)):
        block = FocalBlock(dropout_rate=0.2, mlp_hidden_dropout_rate=given)
        assert block.hidden_dropout.rate == rate
        assert block.modulation_dropout.rate == block.output_dropout.rate == 0.2
    assert FocalNetBackbone(8, (1,), dropout_rate=0.2).get_layer("stem_dropout").rate == 0.2


def test_patch_embedding_pads_with_zeros_at_bottom_and_right():
    layer = PatchEmbedding(embed_dim=6, patch_size=4)
    x = np.random.default_rng(0).normal(size=(1, 9, 6, 3)).astype("float32")
    padded = np.zeros((1, 12, 8, 3), "float32")
    padded[:, :9, :6] = x
    y, expected = (keras.ops.convert_to_numpy(layer(v)) for v in (x, padded))
    assert y.shape == (1, 3, 2, 6)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def _step(rematerialize, rates, dtype="float32"):
    """Change of each weight of a block in one SGD step."""
    keras.utils.set_random_seed(0)
    layer = FocalBlock(layer_scale_init=0.1, seed=5, rematerialize=rematerialize, dtype=dtype, **rates)
    inputs = keras.Input(SHAPE[1:])
    model = keras.Model(inputs, layer(inputs))
    randomize(layer)
    model.compile(keras.optimizers.SGD(1e-2), "mse")
    generator = np.random.default_rng(0)
    x, y = (generator.normal(size=(8, *SHAPE[1:])).astype("float32") for _ in range(2))
    before = model.get_weights()
    model.train_on_batch(x, y)
    return [after - old for after, old in zip(model.get_weights(), before, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-3), ("mixed_bfloat16", 3e-2)])
def test_rematerialize_preserves_gradients_with_dropout_and_drop_path(dtype, tolerance, monkeypatch):
    rates = {"drop_path_rate": 0.5, "dropout_rate": 0.3}
    calls, remat = [], keras.remat
    monkeypatch.setattr(keras, "remat", lambda function: calls.append(function) or remat(function))
    plain = _step(False, rates, dtype)
    assert not calls
    again = _step(True, rates, dtype)
    assert calls, "nothing was rematerialized"
    without = _step(False, {}, dtype)
    for one, other, unmasked in zip(plain, again, without, strict=True):
        limit = tolerance * max(np.abs(one).max(), np.abs(other).max())
        assert np.abs(one - other).max() <= limit
        assert np.abs(one - unmasked).max() > 5 * limit, "the masks have no visible effect"
