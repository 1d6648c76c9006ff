"""Backbone, classifier and image converter: sizes, configuration, saving, training, gradients."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from contract import check_config
from PIL import Image
from reference import randomize

from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter

pytestmark = pytest.mark.all_backends

BACKBONE = {
    "embed_dim": 8,
    "depths": (1, 2),
    "focal_levels": (2, 3),
    "focal_window": (3, 5),
    "focal_factor": 4,
    "normalize_modulator": True,
    "norm_after_modulation": True,
    "patch_size": 2,
    "overlap_embed": True,
    "stem_padding": 1,
    "mlp_ratio": 2.0,
    "norm_placement": "post",
    "layer_scale_init": 0.1,
    "dropout_rate": 0.1,
    "mlp_hidden_dropout_rate": 0.2,
    "drop_path_rate": 0.3,
    "norm_epsilon": 1e-4,
    "pyramid_norm": True,
    "embedding_norm_epsilon": 1e-7,
    "rematerialize": True,
    "kernel_initializer": "glorot_uniform",
    "seed": 5,
    "image_shape": (24, None, 4),
    "activation": "gelu_tanh",
    "name": "spine",
}
CONVERTER = {
    "image_size": (20, 30),
    "crop_fraction": 0.9,
    "interpolation": "bilinear",
    "mean": (0.1, 0.2),
    "std": (0.3, 0.4),
}


def small_classifier(channels=3, **arguments):
    backbone = FocalNetBackbone(
        embed_dim=8, depths=(1, 1), image_shape=(None, None, channels), seed=0, **arguments
    )
    converter = FocalNetImageConverter(mean=(0.5,) * channels, std=(0.25,) * channels)
    return FocalNetImageClassifier(backbone, 4, converter, class_names=("a", "b", "c", "d"))


def random_images(*shape):
    return np.random.default_rng(0).integers(0, 256, size=shape).astype("uint8")


@pytest.mark.slow
def test_config_restores_every_argument():
    check_config(FocalNetBackbone, {**BACKBONE, "dtype": "mixed_bfloat16"})
    check_config(FocalNetImageConverter, CONVERTER)
    first = small_classifier().get_config()
    again = FocalNetImageClassifier.from_config(first)
    assert again.get_config() == first
    assert again.class_names == ("a", "b", "c", "d")
    assert again.image_converter.mean == (0.5,) * 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depths": ()}, "at least one block"),
        ({"depths": (2, 0)}, "at least one block"),
        ({"image_shape": (32, 32)}, "height, width, channels"),
        ({"image_shape": (None, None, None)}, "height, width, channels"),
    ],
)
def test_backbone_rejects_invalid_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        FocalNetBackbone(embed_dim=8, **arguments)


def test_models_reject_images_with_wrong_channels_or_dtype():
    with pytest.raises(ValueError, match="channels"):
        small_classifier().predict(random_images(2, 8, 8, 1), verbose=0)
    with pytest.raises(ValueError, match="Images have 1 channels"):
        FocalNetImageConverter()(random_images(2, 8, 8, 1))
    with pytest.raises(ValueError, match="prepare takes one image"):
        FocalNetImageConverter(16).prepare(np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match="std must be positive"):
        FocalNetImageConverter(std=(0, 1, 1))


def test_models_reject_sequences_of_wrong_length():
    with pytest.raises(ValueError, match="focal_levels has 3 values for 2 stages"):
        FocalNetBackbone(depths=(1, 1), focal_levels=(2, 2, 2))
    with pytest.raises(ValueError, match="3 names for 4 classes"):
        FocalNetImageClassifier(FocalNetBackbone(8, (1,)), 4, class_names=("a", "b", "c"))


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "channels"), [(32, 32, 3), (37, 50, 1), (9, 4, 5)])
def test_models_accept_any_size_and_number_of_channels(height, width, channels):
    net = small_classifier(channels)
    x = random_images(2, height, width, channels)
    assert net.predict(x, verbose=0).shape == (2, 4)
    pyramid = keras.Model(net.backbone.inputs, net.backbone.pyramid_outputs)
    shapes = {name: value.shape for name, value in pyramid.predict(x, verbose=0).items()}
    first = (-(-height // 4), -(-width // 4))
    second = (-(-first[0] // 2), -(-first[1] // 2))
    assert shapes == {"P2": (2, *first, 8), "P3": (2, *second, 16)}


def test_backbone_increases_drop_path_rate_linearly():
    net = FocalNetBackbone(embed_dim=8, depths=(2, 1, 2), drop_path_rate=0.4)
    np.testing.assert_allclose([b.drop_path_rate for b in net.blocks], [0, 0.1, 0.2, 0.3, 0.4])


def test_equal_seeds_give_equal_weights():
    def weights():
        keras.utils.set_random_seed(3)
        return small_classifier().get_weights()

    for a, b in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_seed_gives_same_weights_on_every_backend():
    def sums(seed):
        keras.utils.set_random_seed(seed)
        weights = FocalNetBackbone(embed_dim=8, depths=(1, 1)).get_weights()
        return [float(np.abs(weights[index]).sum()) for index in (0, 4, 6, -6)]

    # Kernels of the stem, a focal level, f, and the first layer of an MLP, equal on all three backends.
    expected = [28.573683, 10.902603, 2.358015, 16.276329]
    np.testing.assert_allclose(sums(7), expected, rtol=1e-5)
    assert np.abs(np.subtract(sums(8), expected)).min() > 1e-3


def test_backbone_passes_epsilons_to_its_layers():
    arguments = {"embed_dim": 8, "depths": (1, 1), "norm_after_modulation": True, "pyramid_norm": True}
    for given, blocks, embeddings in (
        ({"norm_epsilon": 0.01, "embedding_norm_epsilon": 0.3}, 0.01, 0.3),
        ({"norm_epsilon": 0.02}, 0.02, 0.02),
    ):
        net = FocalNetBackbone(**arguments, **given)
        found = {id(layer): layer.epsilon for layer in net._flatten_layers() if hasattr(layer, "epsilon")}
        inside = [norm for b in net.blocks for norm in (b.norm1, b.norm2, b.modulation.norm)]
        assert [found.pop(id(norm)) for norm in inside] == [blocks] * 6
        assert list(found.values()) == [embeddings] * 4  # stem, downsampling, pyramid, final


def test_initial_kernels_differ():
    for initializer in (None, "glorot_uniform"):
        net = small_classifier(kernel_initializer=initializer)
        kernels = [keras.ops.convert_to_numpy(w) for w in net.trainable_weights if len(w.shape) > 1]
        for i, a in enumerate(kernels):
            assert a.std() > 0
            assert not any(a.shape == b.shape and np.allclose(a, b) for b in kernels[:i])


def test_initial_values_follow_original_code():
    net = FocalNetBackbone(embed_dim=64, depths=(1,), focal_window=5)
    block = net.get_layer("stage1_block1")
    for dense in (block.modulation.f, block.modulation.proj, block.fc1, block.fc2):
        assert abs(np.std(dense.kernel.numpy()) - 0.02) < 0.002
        assert not np.any(dense.bias.numpy())
    for kernel, fan_in in (
        (block.modulation.kernels[0], 25),
        (block.modulation.kernels[1], 49),
        (block.modulation.h.kernel, 64),
        (net.get_layer("stem").proj.kernel, 48),
    ):
        values = np.abs(kernel.numpy())
        assert values.max() <= fan_in**-0.5
        assert values.max() > 0.95 * fan_in**-0.5


@pytest.mark.slow
def test_keras_file_loads_without_custom_objects_in_new_process(tmp_path):
    net = small_classifier()
    randomize(net)
    x = random_images(1, 21, 34, 3)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", net.predict(x, verbose=0))
    net.save(tmp_path / "model.keras")
    code = (
        "import focalnets, keras, numpy as np\n"
        "model = keras.saving.load_model('model.keras')\n"
        "y = model.predict(np.load('x.npy'), verbose=0)\n"
        "np.testing.assert_allclose(y, np.load('y.npy'), rtol=1e-6)\n"
        "print(type(model).__name__, model.class_names)"
    )
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ran.stdout == "FocalNetImageClassifier ('a', 'b', 'c', 'd')\n", ran.stderr


def test_every_weight_has_a_gradient():
    net = small_classifier(norm_after_modulation=True, normalize_modulator=True, layer_scale_init=1e-4)
    randomize(net)
    before = [keras.ops.convert_to_numpy(w) for w in net.trainable_weights]
    net.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    net.train_on_batch(random_images(8, 16, 16, 3), np.arange(8) % 4)
    for weight, old in zip(net.trainable_weights, before, strict=True):
        assert np.any(keras.ops.convert_to_numpy(weight) != old), weight.path


@pytest.mark.slow
def test_classifier_learns_in_mixed_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    net = small_classifier(drop_path_rate=0.1, dropout_rate=0.1, layer_scale_init=0.1)
    assert net.backbone.compute_dtype == "bfloat16"
    assert net.output.dtype == "float32"
    x, y = random_images(32, 8, 8, 3), np.arange(32) % 2
    x[y == 1] //= 4
    net.compile(keras.optimizers.AdamW(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = net.fit(x, y, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    assert all(w.dtype == "float32" for w in net.trainable_weights)


@pytest.mark.slow
def test_keras_file_restores_frozen_backbone(tmp_path):
    net = small_classifier()
    net.backbone.trainable = False
    net.save(tmp_path / "model.keras")
    for model in (net, keras.saving.load_model(tmp_path / "model.keras")):
        assert [w.path.split("/")[-2] for w in model.trainable_weights] == ["head", "head"]


@pytest.mark.slow
def test_classifier_ignores_channels_first_setting():
    x = random_images(2, 21, 30, 3)
    net = small_classifier()
    before = net.predict(x, verbose=0)
    keras.config.set_image_data_format("channels_first")
    try:
        again = small_classifier()
        again.set_weights(net.get_weights())
        np.testing.assert_allclose(again.predict(x, verbose=0), before, rtol=1e-6)
    finally:
        keras.config.set_image_data_format("channels_last")


def test_config_restores_initializer_objects():
    net = FocalNetBackbone(8, (1,), kernel_initializer=keras.initializers.HeNormal())
    again = FocalNetBackbone.from_config(json.loads(json.dumps(net.get_config())))
    assert isinstance(again.blocks[0].modulation.kernel_initializer, keras.initializers.HeNormal)


def test_image_converter_resizes_as_pillow_and_normalizes_exactly():
    image = random_images(40, 70, 3)
    converter = FocalNetImageConverter((20, 24), crop_fraction=0.8)
    # 20 / 0.8 = 25 rows, and floor(25 / 40 * 70) = 43 columns, of which the center of 20 x 24 remains.
    resized = np.asarray(Image.fromarray(image).resize((43, 25), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(converter.prepare(image), resized[2:22, 10:34])
    # The shorter side of the published networks for 224 pixels is floor(224 / 0.9) = 248.
    tall = FocalNetImageConverter((224, 224), crop_fraction=0.9).prepare(random_images(600, 300, 3))
    resized = Image.fromarray(random_images(600, 300, 3)).resize((248, 496), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(tall, np.asarray(resized)[136:360, 12:236])

    x = converter(random_images(2, 5, 7, 3))
    expected = (np.float64(random_images(2, 5, 7, 3)) / 255 - converter.mean) / converter.std
    np.testing.assert_allclose(keras.ops.convert_to_numpy(x), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="interpolation must be one of"):
        FocalNetImageConverter(interpolation="cubic")
    with pytest.raises(ValueError, match="crop_fraction must be"):
        FocalNetImageConverter(crop_fraction=0)
    with pytest.raises(ValueError, match="mean has 3 values and std has 1"):
        FocalNetImageConverter(std=(0.5,))
    with pytest.raises(ValueError, match="Images have 4 channels"):
        converter(keras.Input((8, 8, 4)))
