"""What `fit`, `evaluate` and `predict` say of the first batch, and what a mistake leaves behind."""

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
    """All cases for torch, those in `chosen` for JAX and TensorFlow, too: each compiles for seconds there."""
    return [pytest.param(*case, marks=[pytest.mark.all_backends] * (case in chosen)) for case in cases]


@pytest.fixture(scope="module")
def net():
    return build()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype("uint8")


LABELS = np.arange(40) % 2


def said(call):
    """Texts of the warnings of a call."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in record if one.category is UserWarning]


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
        (lambda x: x * 1.06 - 4, None, ""),  # what bicubic resizing of floats gives
        (lambda x: x * 1.3 - 40, None, ""),  # and Lanczos
        (lambda x: x * 0.0, None, ""),  # black
        (lambda x: x.astype("uint8"), None, ""),
        (lambda x: (x / 255).astype("uint8"), None, ""),
        (lambda x: (x * 257).astype("int32"), "from 0 to 65535;", "look like 16 bits: divide by 257."),
        (lambda x: x * 4, "from 0 to 1020;", "Scale them to 8 bits."),
    ],
)
def test_range_is_told_from_values(net, change, range_, advice, images):
    x = change(images.astype("float32"))
    texts = said(lambda: net.predict(x, verbose=0))
    assert [range_] * (range_ is not None) == [
        re.search(r"from \S+ to \S+;", text).group() for text in texts if "expected pixels" in text
    ]
    if range_:
        assert advice in texts[0]


@pytest.mark.parametrize(
    "verb", ["fit", "evaluate", pytest.param("predict", marks=pytest.mark.all_backends), "predict_on_batch"]
)
def test_each_verb_warns_once_per_call(net, images, verb):
    x = images.astype("float32") / 255
    arguments = {"fit": (x, LABELS), "evaluate": (x, LABELS)}.get(verb, (x,))
    keywords = {} if verb == "predict_on_batch" else {"verbose": 0, "batch_size": 8}
    if verb == "fit":
        keywords.update(epochs=3, validation_data=(x, LABELS))
    for _ in range(2):
        (text,) = said(lambda: getattr(net, verb)(*arguments, **keywords))
        assert "The images have values from 0 to 1" in text


def test_numbers_are_never_changed(net, images):
    x = images.astype("float32") / 255
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = net.predict(x, verbose=0)
    expected = keras.ops.convert_to_numpy(net(x))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


class Batches(keras.utils.PyDataset):
    """Batches of 8; it counts how often each is read."""

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


@pytest.mark.parametrize(
    ("source", "verb"),
    some_on_all_backends(
        itertools.product([Batches, generator, backends_own], ["fit", "evaluate", "predict"]),
        [(Batches, "fit"), (backends_own, "predict")],
    ),
)
def test_data_of_every_kind_are_looked_at(net, images, source, verb):
    if keras.backend.backend() == "tensorflow" and verb != "predict":
        pytest.skip("TensorFlow's fit and evaluate hide the batches of a data set: said in models/guarded.py")
    arrays = (images / np.float32(255), LABELS)[: 1 if verb == "predict" else 2]
    data = source(*arrays)
    keywords = {"shuffle": False} if verb == "fit" else {}
    (text,) = (
        text
        for text in said(lambda: getattr(net, verb)(data, verbose=0, **keywords))
        if "ran out" not in text
    )
    assert "The images have values from 0 to 1" in text
    if source is Batches and verb == "predict" and keras.backend.backend() != "tensorflow":
        assert sorted(data.reads) == list(range(5)), "no batch is read for the look"


@pytest.mark.all_backends
def test_a_look_consumes_no_batch(net, images):
    batches = generator(images)
    found = net.predict(batches, verbose=0, steps=3)
    np.testing.assert_allclose(found, net.predict(images[:24], verbose=0), rtol=1e-5, atol=1e-6)


def test_other_sizes_are_warned_of_in_predict_and_evaluate(net, images):
    large = np.repeat(np.repeat(images, 2, 1), 2, 2)
    for call in (
        lambda: net.predict(large, verbose=0),
        lambda: net.evaluate(large, LABELS, verbose=0),
        lambda: net.predict_on_batch(large),
    ):
        (text,) = said(call)
        assert text == (
            "The images have 16 x 16 pixels; the classifier was trained with 8 x 8, and recognizes less at "
            "other sizes. Resize and crop them with classifier.preprocess(images)."
        )
    assert said(lambda: build(image_size=None).predict(large, verbose=0)) == []
    assert said(lambda: modulation_model(net).predict(large, verbose=0)) == [], "explained whole"


def test_warnings_point_at_the_users_line(net, images):
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        net.predict(images / 255, verbose=0)
    assert [one.filename for one in record if one.category is UserWarning] == [__file__]


def test_a_classifier_without_preprocessing_does_not_guess(images):
    net = build(converter=False)
    assert said(lambda: net.predict(images, verbose=0)) == []
    assert said(lambda: net.predict(images / 255, verbose=0)) == []


def test_explanations_look_at_the_range(net, images):
    (text,) = said(lambda: modulation_model(net).predict(images / 255, verbose=0))
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
def test_a_rescaling_in_front_is_seen_in_the_graph(net, layers, warned):
    texts = said(lambda: keras.Sequential([keras.Input((8, 8, 3)), *layers, net]))
    assert [text.startswith("A Rescaling by 0.00") for text in texts] == [True] * warned


def test_fit_records_the_size_it_trained_with(images, tmp_path):
    net = build(image_size=(8, 8))
    large = np.repeat(np.repeat(images, 2, 1), 3, 2)
    assert said(lambda: net.fit(large, LABELS, verbose=0)) == []
    assert net.image_converter.image_size == (16, 24)
    assert said(lambda: net.predict(large, verbose=0)) == []
    net.class_names = ("dark", "bright")
    net.save_to_preset(tmp_path / "preset")
    again = FocalNetImageClassifier.from_preset(tmp_path / "preset")
    assert (again.image_converter.image_size, again.class_names) == ((16, 24), ("dark", "bright"))
    assert again.preprocess(images[0]).shape == (1, 16, 24, 3)
    net.train_on_batch(images, LABELS)
    assert net.image_converter.image_size == (8, 8)
    with pytest.raises(ValueError, match=r"incompatible|channels"):
        net.fit(np.zeros((4, 9, 9, 5), "uint8"), LABELS[:4], verbose=0)
    assert net.image_converter.image_size == (8, 8), "a fit that made no step"


def test_parts_of_the_graph_cannot_be_replaced(net):
    for name in ("image_converter", "backbone", "head", "num_classes"):
        with pytest.raises(AttributeError, match=f"{name} is part of the graph"):
            setattr(net, name, getattr(net, name))
    with pytest.raises(ValueError, match="3 names for 2 classes"):
        net.class_names = ("a", "b", "c")


@pytest.mark.all_backends
def test_no_images_give_no_results(net, images):
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
            f"an array of shape (8, 8, 3){EXPECTED}. This looks like one image: give images[None].",
        ),
        (
            lambda x: np.moveaxis(x, -1, 1),
            f"an array of shape (40, 3, 8, 8){EXPECTED}. Move the channels to the end: np.moveaxis("
            "images, 1, -1).",
        ),
        (
            lambda x: x[..., :1],
            f"an array of shape (40, 8, 8, 1){EXPECTED}. Convert the channels, with "
            "classifier.preprocess(images) or np.repeat(images, 3, axis=-1).",
        ),
        (lambda x: x[:, :0], f"an array of shape (40, 0, 8, 3){EXPECTED}. The images have no pixels."),
        (lambda x: x[0, 0], f"an array of shape (8, 3){EXPECTED}."),
        (lambda x: x.astype(object), "an array with dtype object; expected numbers. If its entries are"),
        (list, f"a list of 40 arrays{EXPECTED}, one array. Give np.stack(images), or"),
        (lambda x: None, f"None{ARRAY}. For paths and PIL images: focalnets.predict(cl"),
        (lambda x: "cat.jpg", f"'cat.jpg'{ARRAY}. For paths"),
        (lambda x: Image.fromarray(x[0]), f"an object of type Image{ARRAY}. For paths"),
    ],
)
def test_images_that_are_no_batch_are_described_not_printed(net, images, change, words):
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


def test_one_gray_image_is_not_a_batch_of_rows(images):
    gray = build(channels=1)
    one = images[0, ..., :1]
    for call in (lambda: gray.predict(one, verbose=0), lambda: gray(one)):
        with pytest.raises(ValueError, match=r"of shape \(8, 8, 1\).*one image: give images\[None\]"):
            call()
    with pytest.raises(ValueError, match=r"one image: give images\[None, \.\.\., None\]"):
        gray.predict(one[..., 0], verbose=0)
    with pytest.raises(Exception, match=r"one image: give images\[None\]"):
        gray.predict(((one,) for _ in range(2)), verbose=0)  # a data set that nobody has batched
    assert gray.predict(images[..., 0], verbose=0).shape == (40, 2), "Keras adds the axis"


@pytest.mark.parametrize(
    ("loss", "labels", "words"),
    [
        (
            "auto",
            LABELS + 1,
            "labels from 1 to 2; expected 0 to 1 for 2 classes. Count from 0: give labels - 1.",
        ),
        ("auto", LABELS - 1, "labels from -1 to 0; expected 0 to 1 for 2 classes. Leave out images without"),
        (
            "auto",
            LABELS * 7,
            "labels from 0 to 7; expected 0 to 1 for 2 classes. Give the classifier as many",
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
            "labels that are names; expected integers. Give [class_names.",
        ),
        (
            keras.losses.CategoricalCrossentropy(from_logits=True),
            LABELS,
            "labels of shape (40,); CategoricalCrossentropy expects one-hot labels, (N, 2). Give keras.",
        ),
    ],
)
def test_labels_that_do_not_fit_the_loss_are_described(images, loss, labels, words):
    """JAX computes with labels out of range; torch ends with an IndexError without words."""
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
def test_labels_are_looked_at_in_data_of_every_kind(images):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow's fit hides the batches of a data set: said in models/guarded.py")
    net = build()
    for source in (Batches, backends_own):
        with pytest.raises(ValueError, match="fit got labels from 1 to 2; expected 0 to 1"):
            net.fit(source(images, LABELS + 1), shuffle=False, verbose=0)
    with pytest.raises(ValueError, match=r"predict got .* Move the channels to the end"):
        net.predict(Batches(np.moveaxis(images, -1, 1)), verbose=0)
    assert np.isfinite(net.predict(images, verbose=0)).all()


def test_labels_that_the_loss_ignores_are_no_mistake(images):
    net = build()
    net.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255))
    assert np.isfinite(net.evaluate(images, np.where(LABELS, 255, 0), verbose=0)[0])


class Broken(keras.callbacks.Callback):
    def broken(self, batch, logs=None):
        raise KeyError("broken callback")

    on_train_batch_end = on_test_batch_end = on_predict_batch_end = broken


def state(net):
    return [keras.ops.convert_to_numpy(v) for v in (*net.variables, *net.optimizer.variables)]


@pytest.mark.parametrize(
    ("verb", "place"),
    some_on_all_backends(
        itertools.product(["evaluate", "predict", "fit"], ["first batch", "later batch", "data", "callback"]),
        [("fit", "later batch"), ("evaluate", "data")],
    ),
)
def test_a_model_survives_an_error_in(net, images, verb, place):
    """On JAX, Keras 3.15 loses all weights: "'NoneType' object is not callable" ever after."""
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
            if verb == "predict" or one.ndim:  # scalars: metrics, which a new call resets
                np.testing.assert_array_equal(one, other)
    else:  # a step was taken before
        assert np.isfinite(found).all()
        if place == "callback":  # data may be read ahead of the first step
            assert not np.array_equal(found, expected)
    assert np.isfinite(net.evaluate(images, LABELS, verbose=0)).all()


def around(form, net):
    """What users build around a network: layers before it, a head of their own behind it."""
    flip = keras.layers.RandomFlip(seed=0)
    if form == "sequential":
        return keras.Sequential([keras.Input((8, 8, 3)), flip, net])
    inputs = keras.Input((8, 8, 3))
    features = net.backbone(net.image_converter(flip(inputs)))
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(features)))


@pytest.mark.parametrize(
    ("form", "verb", "place"),
    some_on_all_backends(
        itertools.product(["sequential", "head"], ["evaluate", "predict", "fit"], ["first", "later"]),
        [("sequential", "predict", "first"), ("head", "evaluate", "later")],
    ),
)
def test_a_model_around_a_network_survives_an_error_in(form, verb, place, images):
    """Keras has a class of its own for these, so that no method of our models sees the error."""
    model = around(form, build())
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


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras' trainer for JAX")
@pytest.mark.all_backends
def test_models_without_a_network_of_ours_are_left_alone():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    with pytest.raises(Exception, match="expected"):
        model.predict(np.zeros((2, 3)), verbose=0)
    assert model.layers[0].kernel._value is None, "Keras repaired it: models/jax_weights.py can go"


def test_the_trainings_own_loader_is_left_alone(images):
    net = build()
    net.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    loader = Loader(Split(images, LABELS), ImageClassification(2), batch_size=8)
    assert said(lambda: net.fit(loader, shuffle=False, verbose=0)) == []


def test_black_and_gray_images():
    assert range_problem(np.zeros((2, 3))) is None
    assert range_problem(np.full((2, 3), 0.5)) is not None
    assert range_problem(np.ones((2, 3), bool)) is not None
    assert range_problem(np.array([np.nan, 1.0])) is None
