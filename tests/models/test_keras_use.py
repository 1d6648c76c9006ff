"""Use as plain Keras models: arrays, data loaders, other heads, saving and tracing."""

import keras
import numpy as np
import pytest

from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter
from focalnets.data.loader import Loader
from focalnets.data.splits import Split
from focalnets.training.task import ImageClassification

pytestmark = pytest.mark.all_backends


@pytest.fixture
def classifier():
    backbone = FocalNetBackbone(8, (1, 1), patch_size=2, seed=0)
    net = FocalNetImageClassifier(backbone, 2, FocalNetImageConverter(mean=(0.5,) * 3, std=(0.25,) * 3))
    net.compile(
        keras.optimizers.AdamW(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return net


@pytest.fixture
def data():
    """Dark and bright noise: uint8 (48, 8, 8, 3), and labels (48,)."""
    generator = np.random.default_rng(0)
    y = np.arange(48) % 2
    x = generator.integers(0, 128, (48, 8, 8, 3)) + 127 * y[:, None, None, None]
    return x.astype("uint8"), y


@pytest.mark.slow
def test_fit_learns_from_arrays(classifier, data):
    history = classifier.fit(*data, epochs=5, batch_size=16, validation_split=0.25, verbose=0).history
    assert history["val_accuracy"][-1] > 0.9
    floats = data[0].astype("float32")
    np.testing.assert_allclose(
        classifier.predict(floats, verbose=0), classifier.predict(data[0], verbose=0), rtol=1e-5
    )


@pytest.mark.slow
def test_fit_learns_from_data_loader_of_backend(classifier, data):
    backend = keras.backend.backend()
    if backend == "torch":
        from torch.utils.data import DataLoader

        batches = DataLoader(list(zip(*data, strict=True)), batch_size=16)
    elif backend == "tensorflow":
        import tensorflow

        batches = tensorflow.data.Dataset.from_tensor_slices(data).batch(16)
    else:  # JAX has no data loader
        batches = Loader(Split(*data), ImageClassification(2), batch_size=16)
        classifier.compile(
            keras.optimizers.AdamW(1e-2),
            keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    history = classifier.fit(batches, epochs=5, shuffle=False, verbose=0).history
    assert history["accuracy"][-1] > 0.9


def test_fit_trains_only_head_with_frozen_backbone(classifier, data):
    classifier.backbone.trainable = False
    classifier.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = classifier.backbone.get_weights()
    head = classifier.head.get_weights()
    classifier.fit(*data, epochs=1, verbose=0)
    for a, b in zip(classifier.backbone.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(classifier.head.get_weights()[0] != head[0])


@pytest.mark.slow
def test_pyramid_trains_segmentation_head(data):
    backbone = FocalNetBackbone(8, (1, 1), patch_size=2, image_shape=(8, 8, 3))
    levels = backbone.pyramid_outputs
    small = keras.layers.UpSampling2D(2)(levels["P2"])
    mask = keras.layers.Conv2D(1, 1)(keras.layers.Concatenate()([levels["P1"], small]))
    segmenter = keras.Model(backbone.inputs, mask)
    x = data[0].astype("float32") / 255
    target = x[:, ::2, ::2, :1]
    segmenter.compile(keras.optimizers.Adam(1e-2), "mse")
    losses = segmenter.fit(x, target, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
def test_keras_file_restores_optimizer(classifier, data, tmp_path):
    classifier.fit(*data, epochs=1, verbose=0)
    classifier.save(tmp_path / "net.keras")
    again = keras.saving.load_model(tmp_path / "net.keras")
    expected = classifier.fit(*data, epochs=1, shuffle=False, verbose=0).history["loss"]
    assert again.fit(*data, epochs=1, shuffle=False, verbose=0).history["loss"] == pytest.approx(
        expected, rel=1e-4
    )


def test_from_config_creates_separate_weights(classifier):
    clone = type(classifier).from_config(classifier.get_config())
    assert [w.shape for w in clone.weights] == [w.shape for w in classifier.weights]
    assert not {id(w) for w in clone.weights} & {id(w) for w in classifier.weights}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow traces for any size")
def test_traced_classifier_accepts_any_size(classifier):
    import tensorflow as tf

    traced = tf.function(classifier, input_signature=[tf.TensorSpec((None, None, None, 3), tf.float32)])
    for size in ((8, 8), (7, 13), (33, 2)):
        x = np.random.default_rng(0).random((2, *size, 3)).astype("float32")
        np.testing.assert_allclose(traced(x), classifier(x), rtol=1e-4, atol=1e-5)
