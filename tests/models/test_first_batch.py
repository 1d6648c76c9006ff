"""Checks of the first batch in `fit`, `evaluate` and `predict`, and weights after an exception."""

import itertools
import re
import warnings

import keras
import numpy as np
import pytest
from PIL import Image

import focalnets
from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter, modulation_model
from focalnets.data.loader import Loader
from focalnets.data.splits import Split
from focalnets.explanation.modulation import modulation_maps
from focalnets.pixel_range import range_problem
from focalnets.prediction.predictor import Predictor
from focalnets.training.task import ImageClassification

IMAGENET = focalnets.models.image_converter.IMAGENET_MEAN, focalnets.models.image_converter.IMAGENET_STD


def build(image_size=(8, 8), channels=3, converter=True):
    backbone = FocalNetBackbone(4, (1, 1), 1, patch_size=2, seed=0, image_shape=(None, None, channels))
    converter = (
        FocalNetImageConverter(image_size, mean=(0.5,) * channels, std=(0.25,) * channels)
        if converter
        else None
    )
    net = FocalNetImageClassifier(backbone, 2, converter, class_names=("a", "b"))
    net.compile()
    return net


def some_on_all_backends(cases, chosen):
    """Mark the cases in `chosen` for all backends. JAX and TensorFlow compile each case for seconds."""
    return [pytest.param(*case, marks=[pytest.mark.all_backends] * (case in chosen)) for case in cases]


@pytest.fixture(scope="module")
def net():
    return build()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype("uint8")


LABELS = np.arange(40) % 2


def warning_texts(call):
    """List of the texts of all warnings of a call."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in record if one.category is UserWarning]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "range_", "advice"),
    [
        (lambda x: x / 255, "from 0 to 1;", "remove Rescaling(1 / 255)"),
        (lambda x: x / 127.5 - 1, "from -1 to 1;", "remove Rescaling(1 / 255)"),
        (
            lambda x: (x / 255 - IMAGENET[0]) / IMAGENET[1],
            "from -2.101 to 2.64;",
            "remove Rescaling(1 / 255)",
        ),
        (lambda x: x - 128, "from -128 to 127;", "remove the subtraction of a mean"),
        (
            keras.applications.resnet.preprocess_input,
            "from -122.7 to 151.06;",
            "remove the subtraction of a mean",
        ),
        (lambda x: (x - 128).astype("int16"), "from -128 to 127;", "remove the subtraction of a mean"),
        (lambda x: x.astype("uint8").view("int8"), "from -128 to 127;", "images.view('uint8')"),
        (lambda x: x * 1.0, None, ""),
        (lambda x: x * 1.06 - 4, None, ""),  # bicubic resizing of floats
        (lambda x: x * 1.3 - 40, None, ""),  # Lanczos resizing of floats
        (lambda x: x * 0.0, None, ""),  # black
        (lambda x: x.astype("uint8"), None, ""),
        (lambda x: (x / 255).astype("uint8"), None, ""),
        (lambda x: (x * 257).astype("int32"), "from 0 to 65535;", "16-bit images: divide them by 257."),
        (lambda x: x * 4, "from 0 to 1020;", "Scale them to 8 bits."),
    ],
)
def test_predict_warns_about_range_of_values(net, change, range_, advice, images):
    x = change(images.astype("float32"))
    texts = warning_texts(lambda: net.predict(x, verbose=0))
    assert [range_] * (range_ is not None) == [
        re.search(r"from \S+ to \S+;", text).group() for text in texts if "expected pixels" in text
    ]
    if range_:
        assert advice in texts[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "verb", ["fit", "evaluate", pytest.param("predict", marks=pytest.mark.all_backends), "predict_on_batch"]
)
def test_classifier_warns_once_per_call(net, images, verb):
    x = images.astype("float32") / 255
    arguments = {"fit": (x, LABELS), "evaluate": (x, LABELS)}.get(verb, (x,))
    keywords = {} if verb == "predict_on_batch" else {"verbose": 0, "batch_size": 8}
    if verb == "fit":
        keywords.update(epochs=3, validation_data=(x, LABELS))
    for _ in range(2):
        (text,) = warning_texts(lambda: getattr(net, verb)(*arguments, **keywords))
        assert "The images have values from 0 to 1" in text


def test_predict_does_not_change_values(net, images):
    x = images.astype("float32") / 255
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = net.predict(x, verbose=0)
    expected = keras.ops.convert_to_numpy(net(x))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


class Batches(keras.utils.PyDataset):
    """Data set with batches of 8 that records which batches are read."""

    def __init__(self, x, y=None):
        super().__init__()
        self.x, self.y, self.reads = x, y, []

    def __len__(self):
        return len(self.x) // 8

    def __getitem__(self, index):
        self.reads.append(index)
        x = self.x[8 * index : 8 * index + 8]
        return (x,) if self.y is None else (x, self.y[8 * index : 8 * index + 8])


def generator(x, y=None):
    for start in range(0, len(x), 8):
        yield (x[start : start + 8],) if y is None else (x[start : start + 8], y[start : start + 8])


def backends_own(x, y=None):
    arrays = (x,) if y is None else (x, y)
    if keras.backend.backend() == "torch":
        from torch.utils.data import DataLoader

        return DataLoader(list(zip(*arrays, strict=True)), batch_size=8)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        return tensorflow.data.Dataset.from_tensor_slices(arrays).batch(8)
    return Batches(*arrays)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "verb"),
    some_on_all_backends(
        itertools.product([Batches, generator, backends_own], ["fit", "evaluate", "predict"]),
        [(Batches, "fit"), (backends_own, "predict")],
    ),
)
def test_classifier_checks_first_batch_of_every_data_type(net, images, source, verb):
    if keras.backend.backend() == "tensorflow" and verb != "predict":
        pytest.skip("TensorFlow's fit and evaluate do not expose the batches of a data set")
    arrays = (images / np.float32(255), LABELS)[: 1 if verb == "predict" else 2]
    data = source(*arrays)
    keywords = {"shuffle": False} if verb == "fit" else {}
    (text,) = (
        text
        for text in warning_texts(lambda: getattr(net, verb)(data, verbose=0, **keywords))
        if "ran out" not in text
    )
    assert "The images have values from 0 to 1" in text
    if source is Batches and verb == "predict" and keras.backend.backend() != "tensorflow":
        assert sorted(data.reads) == list(range(5)), "the check reads a batch twice"


@pytest.mark.all_backends
def test_check_does_not_consume_a_batch(net, images):
    batches = generator(images)
    found = net.predict(batches, verbose=0, steps=3)
    np.testing.assert_allclose(found, net.predict(images[:24], verbose=0), rtol=1e-5, atol=1e-6)


def test_predict_and_evaluate_warn_about_other_image_sizes(net, images):
    large = np.repeat(np.repeat(images, 2, 1), 2, 2)
    for call in (
        lambda: net.predict(large, verbose=0),
        lambda: net.evaluate(large, LABELS, verbose=0),
        lambda: net.predict_on_batch(large),
    ):
        (text,) = warning_texts(call)
        assert text == (
            "The images have 16 x 16 pixels; the classifier was trained with 8 x 8 pixels and is less "
            "accurate at other sizes. Resize and crop images with classifier.preprocess(images)."
        )
    assert warning_texts(lambda: build(image_size=None).predict(large, verbose=0)) == []
    assert warning_texts(lambda: modulation_model(net).predict(large, verbose=0)) == [], (
        "explanations use whole images"
    )


def test_warning_points_at_line_of_user(net, images):
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        net.predict(images / 255, verbose=0)
    assert [one.filename for one in record if one.category is UserWarning] == [__file__]


def test_classifier_without_image_converter_does_not_warn(images):
    net = build(converter=False)
    assert warning_texts(lambda: net.predict(images, verbose=0)) == []
    assert warning_texts(lambda: net.predict(images / 255, verbose=0)) == []


def test_modulation_model_warns_about_range_of_values(net, images):
    (text,) = warning_texts(lambda: modulation_model(net).predict(images / 255, verbose=0))
    assert "expected pixels" in text


@pytest.mark.parametrize(
    ("layers", "warned"),
    [
        ([keras.layers.Rescaling(1 / 255)], True),
        ([keras.layers.Rescaling(1 / 127.5, offset=-1), keras.layers.RandomFlip(seed=0)], True),
        ([keras.Sequential([keras.layers.Rescaling(1 / 255)])], True),
        ([keras.layers.RandomFlip(seed=0)], False),
        ([keras.layers.Rescaling(1 / 255), keras.layers.Rescaling(255.0)], False),
    ],
)
def test_classifier_warns_about_preceding_rescaling(net, layers, warned):
    texts = warning_texts(lambda: keras.Sequential([keras.Input((8, 8, 3)), *layers, net]))
    assert [re.match(r"A Rescaling layer multiplies .* by 0\.00", text) is not None for text in texts] == [
        True
    ] * warned


@pytest.mark.slow
def test_fit_stores_image_size(images, tmp_path):
    net = build(image_size=(8, 8))
    large = np.repeat(np.repeat(images, 2, 1), 3, 2)
    assert warning_texts(lambda: net.fit(large, LABELS, verbose=0)) == []
    assert net.image_converter.image_size == (16, 24)
    assert warning_texts(lambda: net.predict(large, verbose=0)) == []
    net.class_names = ("dark", "bright")
    net.save_to_preset(tmp_path / "preset")
    again = FocalNetImageClassifier.from_preset(tmp_path / "preset")
    assert (again.image_converter.image_size, again.class_names) == ((16, 24), ("dark", "bright"))
    assert again.preprocess(images[0]).shape == (1, 16, 24, 3)
    net.train_on_batch(images, LABELS)
    assert net.image_converter.image_size == (8, 8)
    with pytest.raises(ValueError, match=r"incompatible|channels"):
        net.fit(np.zeros((4, 9, 9, 5), "uint8"), LABELS[:4], verbose=0)
    assert net.image_converter.image_size == (8, 8), "a fit without a step changed the size"


def test_classifier_rejects_assignment_to_parts_of_graph(net):
    for name in ("image_converter", "backbone", "head", "num_classes"):
        with pytest.raises(AttributeError, match=f"{name} is part of the graph"):
            setattr(net, name, getattr(net, name))
    with pytest.raises(ValueError, match="3 names for 2 classes"):
        net.class_names = ("a", "b", "c")


@pytest.mark.all_backends
def test_predict_returns_empty_outputs_for_no_images(net, images):
    for none in (images[:0], images[:0].astype("float32")):
        assert net.predict(none, verbose=0).shape == (0, 2)
        assert net.predict_on_batch(none).shape == (0, 2)
    assert net.predict(Batches(images[:0]), verbose=0).shape == (0, 2)
    assert net.backbone.predict(images[:0], verbose=0).shape == (0, 2, 2, 8)
    outputs = modulation_model(net).predict(images[:0], verbose=0)
    assert outputs["logits"].shape == (0, 2)
    assert outputs["gates"]["stage1_block1"].shape == (0, 4, 4, 2)
    assert outputs["modulators"]["stage2_block1"].shape == (0, 2, 2, 8)
    assert modulation_maps(net, images[:0])["stage1_block1"].gates.shape == (0, 8, 8, 2)
    predictor = Predictor(net)
    assert predictor.logits([]).shape == (0, 2)
    assert predictor.logits_of_split(Split(images[:0], LABELS[:0])).shape == (0, 2)
    assert len(focalnets.predict(net, [])) == 0
    assert net.predict(images[:0], verbose=0).dtype == net.predict(images[:1], verbose=0).dtype
    for verb in (net.evaluate, net.fit):
        with pytest.raises(ValueError, match=r"got an array of shape \(0, 8, 8, 3\); expected at least one"):
            verb(images[:0], LABELS[:0], verbose=0)
        with pytest.raises(ValueError, match="got no batch; expected at least one image"):
            verb(Batches(images[:0], LABELS[:0]), verbose=0)


EXPECTED = "; expected (N, height, width, 3)"
ARRAY = "; expected an array (N, height, width, 3)"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda x: x[0],
            f"an array of shape (8, 8, 3){EXPECTED}. This looks like one image: use images[None].",
        ),
        (
            lambda x: np.moveaxis(x, -1, 1),
            f"an array of shape (40, 3, 8, 8){EXPECTED}. Move the channels to the end: np.moveaxis("
            "images, 1, -1).",
        ),
        (
            lambda x: x[..., :1],
            f"an array of shape (40, 8, 8, 1){EXPECTED}. Convert the channels with "
            "classifier.preprocess(images) or np.repeat(images, 3, axis=-1).",
        ),
        (lambda x: x[:, :0], f"an array of shape (40, 0, 8, 3){EXPECTED}. The images have no pixels."),
        (lambda x: x[0, 0], f"an array of shape (8, 3){EXPECTED}."),
        (
            lambda x: x.astype(object),
            "an array of dtype object; expected numbers. If it holds images or paths,",
        ),
        (list, "a list of 40 arrays; expected one array (N, height, width, 3). Use np.stack(images), or"),
        (lambda x: None, f"None{ARRAY}. For paths and PIL images, use focalnets.predict(cl"),
        (lambda x: "cat.jpg", f"'cat.jpg'{ARRAY}. For paths"),
        (lambda x: Image.fromarray(x[0]), f"an object of type Image{ARRAY}. For paths"),
    ],
)
def test_classifier_describes_invalid_images(net, images, change, words):
    x = change(images)
    for name, call in {
        "predict": lambda: net.predict(x, verbose=0),
        "predict_on_batch": lambda: net.predict_on_batch(x),
        "fit": lambda: net.fit(x, LABELS, verbose=0),
        "evaluate": lambda: net.evaluate(x, LABELS, verbose=0),
        "fit, in validation_data,": lambda: net.fit(images, LABELS, validation_data=(x, LABELS), verbose=0),
        "train_on_batch": lambda: net.train_on_batch(x, LABELS),
        "FocalNetImageClassifier": lambda: net(x),
        "FocalNetBackbone": lambda: net.backbone(x),
        "predict ": lambda: net.backbone.predict(x, verbose=0),
    }.items():
        with pytest.raises(ValueError, match=" got ") as caught:
            call()
        assert str(caught.value).startswith(f"{name.strip()} got {words}")


def test_classifier_rejects_single_gray_image(images):
    gray = build(channels=1)
    one = images[0, ..., :1]
    for call in (lambda: gray.predict(one, verbose=0), lambda: gray(one)):
        with pytest.raises(ValueError, match=r"of shape \(8, 8, 1\).*one image: use images\[None\]"):
            call()
    with pytest.raises(ValueError, match=r"one image: use images\[None, \.\.\., None\]"):
        gray.predict(one[..., 0], verbose=0)
    with pytest.raises(Exception, match=r"one image: use images\[None\]"):
        gray.predict(((one,) for _ in range(2)), verbose=0)  # a data set without batches
    assert gray.predict(images[..., 0], verbose=0).shape == (40, 2), "Keras adds the channel axis"


@pytest.mark.parametrize(
    ("loss", "labels", "words"),
    [
        (
            "auto",
            LABELS + 1,
            "labels from 1 to 2; expected 0 to 1 for 2 classes. Classes are counted from 0: use labels - 1.",
        ),
        ("auto", LABELS - 1, "labels from -1 to 0; expected 0 to 1 for 2 classes. Remove images without"),
        (
            "auto",
            LABELS * 7,
            "labels from 0 to 7; expected 0 to 1 for 2 classes. Increase num_classes, or",
        ),
        ("auto", LABELS * np.nan, "labels from nan to nan; expected 0 to 1"),
        (
            "auto",
            np.eye(2)[LABELS],
            "labels of shape (40, 2); SparseCategoricalCrossentropy expects integers",
        ),
        (
            "auto",
            np.array(["a", "b"])[LABELS],
            "labels of dtype <U1; expected integers. Convert names with [class_names.",
        ),
        (
            keras.losses.CategoricalCrossentropy(from_logits=True),
            LABELS,
            "labels of shape (40,); CategoricalCrossentropy expects one-hot labels (N, 2). Use keras.",
        ),
    ],
)
def test_classifier_describes_labels_that_do_not_fit_loss(images, loss, labels, words):
    """JAX computes with labels out of range, and torch raises an IndexError without a message."""
    net = build()
    net.compile(loss=loss)
    good = LABELS if loss == "auto" else np.eye(2)[LABELS]
    for verb, call in {
        "fit": lambda: net.fit(images, labels, verbose=0),
        "evaluate": lambda: net.evaluate(images, labels, verbose=0),
        "fit, in validation_data,": lambda: net.fit(
            images, good, validation_data=(images, labels), verbose=0
        ),
        "train_on_batch": lambda: net.train_on_batch(images, labels),
    }.items():
        with pytest.raises(ValueError, match="labels") as caught:
            call()
        assert str(caught.value).startswith(f"{verb} got {words}")


@pytest.mark.all_backends
def test_fit_checks_labels_of_every_data_type(images):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow's fit does not expose the batches of a data set")
    net = build()
    for source in (Batches, backends_own):
        with pytest.raises(ValueError, match="fit got labels from 1 to 2; expected 0 to 1"):
            net.fit(source(images, LABELS + 1), shuffle=False, verbose=0)
    with pytest.raises(ValueError, match=r"predict got .* Move the channels to the end"):
        net.predict(Batches(np.moveaxis(images, -1, 1)), verbose=0)
    assert np.isfinite(net.predict(images, verbose=0)).all()


def test_evaluate_accepts_ignored_labels(images):
    net = build()
    net.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255))
    assert np.isfinite(net.evaluate(images, np.where(LABELS, 255, 0), verbose=0)[0])


class Broken(keras.callbacks.Callback):
    def broken(self, batch, logs=None):
        raise KeyError("broken callback")

    on_train_batch_end = on_test_batch_end = on_predict_batch_end = broken


def state(net):
    return [keras.ops.convert_to_numpy(v) for v in (*net.variables, *net.optimizer.variables)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "place"),
    some_on_all_backends(
        itertools.product(["evaluate", "predict", "fit"], ["first batch", "later batch", "data", "callback"]),
        [("fit", "later batch"), ("evaluate", "data")],
    ),
)
def test_classifier_keeps_weights_after_exception(net, images, verb, place):
    """On JAX, Keras 3.15 loses all weights, and later calls fail with "'NoneType' object is not callable"."""
    net.fit(images, LABELS, verbose=0)
    targets = () if verb == "predict" else (LABELS,)
    expected, before = net.predict(images, verbose=0), state(net)
    bad = images[..., :1]

    def broken():
        yield (images[:8], *(y[:8] for y in targets))
        if place == "later batch":
            yield (bad[:8], *(y[:8] for y in targets))
        raise KeyError("broken data")

    arguments = {"first batch": (bad, *targets), "callback": (images, *targets)}.get(place) or (broken(),)
    keywords = {"callbacks": [Broken()] if place == "callback" else [], "verbose": 0}
    if verb == "fit":
        keywords["shuffle"] = False
    with pytest.raises(Exception, match=r"channels|incompatible|broken"):
        getattr(net, verb)(*arguments, **keywords)
    found = net.predict(images, verbose=0)
    if verb != "fit" or place == "first batch":
        np.testing.assert_array_equal(found, expected)
        for one, other in zip(state(net), before, strict=True):
            if verb == "predict" or one.ndim:  # scalars are metrics, which a new call resets
                np.testing.assert_array_equal(one, other)
    else:  # after at least one step
        assert np.isfinite(found).all()
        if place == "callback":  # data may be read ahead of the first step
            assert not np.array_equal(found, expected)
    assert np.isfinite(net.evaluate(images, LABELS, verbose=0)).all()


def outer_model(form, net):
    """Model of a user that contains a network: with layers before it, or with another head."""
    flip = keras.layers.RandomFlip(seed=0)
    if form == "sequential":
        return keras.Sequential([keras.Input((8, 8, 3)), flip, net])
    inputs = keras.Input((8, 8, 3))
    features = net.backbone(net.image_converter(flip(inputs)))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(features)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "verb", "place"),
    some_on_all_backends(
        itertools.product(["sequential", "head"], ["evaluate", "predict", "fit"], ["first", "later"]),
        [("sequential", "predict", "first"), ("head", "evaluate", "later")],
    ),
)
def test_outer_model_keeps_weights_after_exception(form, verb, place, images):
    """The outer model has a class of Keras, so no method of `GuardedModel` runs."""
    model = outer_model(form, build())
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    expected = model.predict(images, verbose=0)
    targets = () if verb == "predict" else (LABELS[:8],)

    def broken():
        if place == "later":
            yield (images[:8], *targets)
        yield (images[:8, ..., :1], *targets)

    with pytest.raises(Exception, match=r"channels|incompatible|expected"):
        getattr(model, verb)(broken(), verbose=0)
    found = model.predict(images, verbose=0)
    if (verb, place) == ("fit", "later"):
        assert np.isfinite(found).all()
    else:
        np.testing.assert_array_equal(found, expected)
    assert np.isfinite(model.fit(images, LABELS, verbose=0).history["loss"]).all()


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="tests Keras' trainer for JAX")
@pytest.mark.all_backends
def test_models_without_focalnets_layers_behave_as_in_keras():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    with pytest.raises(Exception, match="expected"):
        model.predict(np.zeros((2, 3)), verbose=0)
    assert model.layers[0].kernel._value is None, (
        "Keras restores the weights now: remove models/jax_weights.py"
    )


def test_fit_does_not_warn_about_loader(images):
    net = build()
    net.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    loader = Loader(Split(images, LABELS), ImageClassification(2), batch_size=8)
    assert warning_texts(lambda: net.fit(loader, shuffle=False, verbose=0)) == []


def test_range_problem_accepts_black_images_and_reports_gray_images():
    assert range_problem(np.zeros((2, 3))) is None
    assert range_problem(np.full((2, 3), 0.5)) is not None
    assert range_problem(np.ones((2, 3), bool)) is not None
    assert range_problem(np.array([np.nan, 1.0])) is None
