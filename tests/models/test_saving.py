"""Models in Keras' files, loaded in the same and in a new process."""

import ast
import os
import pathlib
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import focalnets
from focalnets import (
    AdamW,
    FocalNetBackbone,
    FocalNetImageClassifier,
    FocalNetImageConverter,
    Muon,
    modulation_model,
)

ROOT = pathlib.Path(focalnets.__file__).parent
SCHEDULE = keras.optimizers.schedules.CosineDecay(1e-3, 20, warmup_target=2e-3, warmup_steps=3)


def classifier():
    backbone = FocalNetBackbone(4, (1, 1), 1, patch_size=2, seed=0)
    return FocalNetImageClassifier(backbone, 2, FocalNetImageConverter(8), class_names=("a", "b"))


OPTIMIZERS = {
    "default": lambda net: "auto",
    "adamw": lambda net: AdamW(
        SCHEDULE,
        ema_decay=0.9,
        learning_rate_multipliers={"stem": 0.5, "block": 0.7},
        global_clipnorm=1.0,
    ),
    "muon": lambda net: Muon(SCHEDULE, ema_decay=0.9),
    "ema": lambda net: keras.optimizers.AdamW(SCHEDULE, use_ema=True),
}

LOAD = """
import sys
import focalnets, keras, numpy as np

with np.load("data.npz") as data:
    x, y = data["x"], data["y"]
for name in sys.argv[1:]:
    model = keras.saving.load_model(name)
    optimizer = model.optimizer
    kind = type(optimizer).__name__, type(optimizer._learning_rate).__name__, int(optimizer.iterations)
    logits = model.predict(x, verbose=0)
    loss = model.fit(x, y, epochs=2, shuffle=False, verbose=0).history["loss"]
    np.savez(name + ".npz", logits=logits, loss=loss, kind=kind, labels=model.class_names)
"""


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype("uint8")
    return x, np.arange(16) % 2


@pytest.mark.slow
def test_saved_models_continue_training_in_new_process(data, tmp_path):
    """Both formats restore the logits. A .keras file also gives the losses of an uninterrupted training.

    Keras 3.15 does not restore the state of the optimizer from an .h5 file.
    """
    np.savez(tmp_path / "data.npz", x=data[0], y=data[1])
    expected = {}
    for name, optimizer in OPTIMIZERS.items():
        net = classifier()
        net.compile(optimizer(net))
        net.fit(*data, epochs=2, shuffle=False, verbose=0)
        for ending in ("h5", "keras"):  # .h5 first, because Keras omits the optimizer from it
            net.save(tmp_path / f"{name}.{ending}")
        kind = [type(net.optimizer).__name__, type(net.optimizer._learning_rate).__name__, "2"]
        logits = net.predict(data[0], verbose=0)
        loss = net.fit(*data, epochs=2, shuffle=False, verbose=0).history["loss"]
        expected[name] = kind, logits, loss
    files = [f"{name}.{ending}" for name in OPTIMIZERS for ending in ("h5", "keras")]
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    ran = subprocess.run(
        [sys.executable, "-c", LOAD, *files], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    for file in files:
        kind, logits, loss = expected[file.split(".")[0]]
        with np.load(tmp_path / f"{file}.npz") as found:
            stored = 3 if file.endswith(".keras") else 2
            assert found["kind"].tolist()[:stored] == kind[:stored], file
            assert found["labels"].tolist() == ["a", "b"], file
            np.testing.assert_allclose(found["logits"], logits, rtol=1e-5, atol=1e-6, err_msg=file)
            if file.endswith(".keras"):
                np.testing.assert_allclose(found["loss"], loss, rtol=1e-4, err_msg=file)
            assert np.isfinite(found["loss"]).all(), file


@pytest.mark.slow
@pytest.mark.parametrize("ending", [pytest.param("keras", marks=pytest.mark.all_backends), "h5"])
@pytest.mark.parametrize("kind", ["classifier", "backbone", "modulation", "sequential", "functional"])
def test_every_kind_of_model_can_be_saved_and_loaded(data, tmp_path, kind, ending):
    net = classifier()
    images = keras.Input((8, 8, 3))
    model = {
        "classifier": lambda: net,
        "backbone": lambda: net.backbone,
        "modulation": lambda: modulation_model(net),
        "sequential": lambda: keras.Sequential([keras.Input((8, 8, 3)), net, keras.layers.Softmax()]),
        "functional": lambda: keras.Model(images, net.backbone(FocalNetImageConverter()(images))),
    }[kind]()
    model.save(tmp_path / f"model.{ending}")
    again = keras.saving.load_model(tmp_path / f"model.{ending}")
    x = data[0].astype("float32")
    found, expected = (keras.tree.flatten(one.predict(x, verbose=0)) for one in (again, model))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.all_backends
def test_default_optimizer_is_saved_independently_of_backend(data, tmp_path):
    """On torch, Keras saves its AdamW as keras.src.backend.torch.optimizers, which JAX cannot load."""
    net = classifier()
    net.compile()
    net.fit(*data, epochs=1, verbose=0)
    net.save(tmp_path / "net.keras")
    with zipfile.ZipFile(tmp_path / "net.keras") as archive:
        config = archive.read("config.json").decode()
    assert "focalnets>AdamW" in config
    assert "keras.src" not in config
    again = keras.saving.load_model(tmp_path / "net.keras")
    for one, other in zip(again.optimizer.variables, net.optimizer.variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)))


@pytest.mark.slow
@pytest.mark.all_backends
def test_weights_can_be_saved_and_loaded_separately(data, tmp_path):
    first, second = classifier(), classifier()
    first.save_weights(tmp_path / "net.weights.h5")
    second.load_weights(tmp_path / "net.weights.h5")
    np.testing.assert_array_equal(*(net.predict(data[0], verbose=0) for net in (first, second)))


@pytest.mark.slow
def test_import_registers_every_serializable_class():
    """`import focalnets` alone registers every class that uses `register_keras_serializable`."""
    names = {
        node.name
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and any("register_keras_serializable" in ast.unparse(one) for one in node.decorator_list)
    }
    assert {"AdamW", "Muon", "FocalNetImageClassifier", "FocalBlock"} <= names
    code = (
        "import focalnets, keras\n"
        "print(*(name for name in keras.saving.get_custom_objects() if name.startswith('focalnets>')))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name.removeprefix("focalnets>") for name in ran.stdout.split()} == names


@pytest.mark.slow
@pytest.mark.all_backends
@pytest.mark.parametrize("name", ["first_names.keras", "first_names.h5", "first_names_inside.keras"])
def test_load_model_accepts_former_class_names(name, tmp_path):
    """The files come from the last commit in which FocalNetImageClassifier was named FocalNetClassifier."""
    if name.endswith("h5") and keras.backend.backend() != "torch":
        pytest.skip("the .h5 file is tested on torch")
    model = keras.saving.load_model(pathlib.Path(__file__).parents[1] / "fixtures" / name)
    logits = [
        [-0.024424104019999504, 0.016089513897895813],
        [-0.0032330190297216177, 0.03102060593664646],
    ]
    probabilities = np.exp(logits) / np.sum(np.exp(logits), axis=-1, keepdims=True)
    expected = probabilities if "inside" in name else logits
    images = np.arange(128).reshape(2, 8, 8, 1).astype("uint8")
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-6)
    classifier = model.layers[-2] if "inside" in name else model
    assert isinstance(classifier, focalnets.FocalNetImageClassifier)
    assert classifier.class_names == ("a", "b")
    model.save(tmp_path / "again.keras")
    again = keras.saving.load_model(tmp_path / "again.keras")
    np.testing.assert_allclose(again.predict(images, verbose=0), expected, atol=1e-6)


def test_load_model_accepts_former_arguments_of_optimizer():
    """The file has AdamW(average_decay=0.9, rate_scales=[0.5, ...]) after one step."""
    model = keras.saving.load_model(
        pathlib.Path(__file__).parents[1] / "fixtures" / "first_names_compiled.keras"
    )
    optimizer = model.optimizer
    assert optimizer.ema_decay == 0.9
    assert optimizer.learning_rate_multipliers == [0.5] * len(model.trainable_variables)
    found = [float(np.abs(keras.ops.convert_to_numpy(one)).sum()) for one in optimizer.averages[:2]]
    np.testing.assert_allclose(found, [8.36848258972168, 0.4803527891635895], rtol=1e-6)
