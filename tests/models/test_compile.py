"""`compile` of a classifier: defaults, and warnings about losses and metrics that expect probabilities."""

import functools
import re
import warnings

import keras
import numpy as np
import pytest

from focalnets import AdamW, FocalNetBackbone, FocalNetImageClassifier, open_dataset
from focalnets.models.compiling import probability_problem

losses, metrics = keras.losses, keras.metrics


def small(classes=2):
    return FocalNetImageClassifier(FocalNetBackbone(4, (1,), 1, patch_size=2), classes)


@pytest.mark.slow
def test_compile_defaults_learn_digits():
    """With a loss on probabilities, the accuracy is 12.8 % after the same number of epochs."""
    keras.utils.set_random_seed(0)
    digits = open_dataset("digits", channels=1).splits["train"].take(range(600))
    net = FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False, seed=0)
    net.compile()
    assert isinstance(net.optimizer, AdamW)
    assert (float(net.optimizer.learning_rate), net.optimizer.decay) == (pytest.approx(5e-4), 0.05)
    assert net.loss.get_config()["from_logits"] is True
    history = net.fit(digits.images.astype("float32") / 16, digits.labels, epochs=6, verbose=0).history
    assert history["accuracy"][-1] > 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "labels", "names"),
    [
        ("auto", np.arange(4) % 2, ["loss", "accuracy"]),
        (losses.SparseCategoricalCrossentropy(from_logits=True), np.arange(4) % 2, ["loss", "accuracy"]),
        (losses.CategoricalCrossentropy(from_logits=True), np.eye(2)[[0, 1, 0, 1]], ["loss", "accuracy"]),
        ("mse", np.eye(2)[[0, 1, 0, 1]], ["loss"]),
    ],
)
def test_default_metric_fits_labels_of_loss(loss, labels, names):
    net = small()
    net.compile("sgd", loss)
    found = net.evaluate(np.zeros((4, 4, 4, 3), "float32"), labels, return_dict=True, verbose=0)
    assert sorted(found) == sorted(names)


def test_compile_accepts_positional_arguments_of_keras():
    net = small()
    net.compile("sgd", "mse", None, ["mae"], jit_compile=False)
    assert sorted(net.evaluate(np.zeros((2, 4, 4, 3)), np.eye(2), return_dict=True, verbose=0)) == [
        "loss",
        "mae",
    ]


WRONG_LOSSES = [
    "sparse_categorical_crossentropy",
    "categorical_crossentropy",
    "binary_crossentropy",
    "categorical_focal_crossentropy",
    "binary_focal_crossentropy",
    "kl_divergence",
    "KLD",
    "poisson",
    "SparseCategoricalCrossentropy",
    losses.sparse_categorical_crossentropy,
    losses.SparseCategoricalCrossentropy(),
    losses.CategoricalCrossentropy(label_smoothing=0.1),
    losses.BinaryCrossentropy(),
    losses.CategoricalGeneralizedCrossEntropy(),
    losses.KLDivergence(),
    ["categorical_crossentropy"],
    {"logits": losses.CategoricalCrossentropy()},
]
RIGHT_LOSSES = [
    "mse",
    "categorical_hinge",
    losses.SparseCategoricalCrossentropy(from_logits=True),
    losses.BinaryCrossentropy(from_logits=True),
    functools.partial(losses.sparse_categorical_crossentropy, from_logits=True),
    lambda y, p: losses.sparse_categorical_crossentropy(y, p, from_logits=True),
    {"logits": losses.CategoricalCrossentropy(from_logits=True)},
    None,
]
WRONG_METRICS = [
    ["AUC"],
    ["accuracy", "Precision"],
    ["crossentropy"],
    [metrics.AUC()],
    [metrics.Recall()],
    [metrics.Precision(thresholds=[0.2, 0.8])],
    [metrics.F1Score(threshold=0.5)],
    [metrics.SparseCategoricalCrossentropy()],
    [metrics.BinaryAccuracy()],
    [metrics.TruePositives()],
    [metrics.PrecisionAtRecall(0.5)],
    [metrics.MeanMetricWrapper(losses.categorical_crossentropy)],
    {"logits": [metrics.AUC()]},
]
RIGHT_METRICS = [
    ["accuracy"],
    ["sparse_top_k_categorical_accuracy"],
    [metrics.AUC(from_logits=True)],
    [metrics.Precision(top_k=1)],
    [metrics.Recall(thresholds=0)],
    [metrics.F1Score()],  # by the largest logit
    [metrics.MeanMetricWrapper(losses.categorical_crossentropy, from_logits=True)],
    [metrics.MeanMetricWrapper(metrics.categorical_accuracy)],
    [metrics.SparseCategoricalCrossentropy(from_logits=True)],
    None,
]


def without_addresses(value):
    """Text without memory addresses, because pytest-xdist needs the same test names in each process."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@pytest.mark.parametrize("loss", WRONG_LOSSES, ids=without_addresses)
def test_probability_problem_reports_losses_on_probabilities(loss):
    assert "which expects probabilities, but the classifier returns logits" in probability_problem(loss, None)


@pytest.mark.parametrize("loss", RIGHT_LOSSES, ids=without_addresses)
def test_probability_problem_accepts_losses_on_logits(loss):
    assert probability_problem(loss, None) is None


@pytest.mark.parametrize("chosen", WRONG_METRICS, ids=without_addresses)
def test_probability_problem_reports_metrics_on_probabilities(chosen):
    assert "expects probabilities" in probability_problem(None, chosen)


@pytest.mark.parametrize("chosen", RIGHT_METRICS, ids=without_addresses)
def test_probability_problem_accepts_metrics_on_logits(chosen):
    assert probability_problem(None, chosen) is None


def compile_warnings(call):
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        call()
    return [(str(one.message), one.filename) for one in record if "probabilities" in str(one.message)]


def test_compile_warns_once_at_line_of_user():
    ((text, place),) = compile_warnings(
        lambda: small().compile(
            "sgd", "categorical_crossentropy", metrics=["AUC"], weighted_metrics=["Recall"]
        )
    )
    assert place == __file__
    assert text == (
        "compile() got categorical_crossentropy and AUC and Recall, which expect probabilities, but the "
        "classifier returns logits. Use keras.losses.CategoricalCrossentropy(from_logits=True), or omit the "
        "loss. For probabilities, compile keras.Sequential([classifier, keras.layers.Softmax()])."
    )


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_load_model_warns_once_about_loss(tmp_path, ending):
    net, path = small(), tmp_path / f"net.{ending}"
    assert len(compile_warnings(lambda: net.compile("sgd", "sparse_categorical_crossentropy"))) == 1
    assert compile_warnings(lambda: net.save(path)) == []
    assert len(compile_warnings(lambda: keras.saving.load_model(path))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("after", "verb", "warned"),
    [
        pytest.param([], "fit", 1, marks=pytest.mark.all_backends),
        ([], "evaluate", 1),
        ([keras.layers.Softmax()], "fit", 0),
    ],
)
def test_outer_model_warns_about_loss_when_it_starts(after, verb, warned):
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.RandomFlip(seed=0), small(), *after])

    def start():
        model.compile("sgd", "sparse_categorical_crossentropy")
        for _ in range(2):
            getattr(model, verb)(np.zeros((4, 4, 4, 3)), np.arange(4) % 2, verbose=0)

    found = compile_warnings(start)
    assert [place for _, place in found] == [__file__] * warned
