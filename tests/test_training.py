"""Training: the schedule, the optimiser, and a real run from start to end."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest
from PIL import Image
from reference import Reference

from focalnets import FocalNetClassifier, modulation_model, open_dataset, train
from focalnets.data.loader import Loader
from focalnets.explain.modulation import modulation_maps
from focalnets.presets.architectures import find_architecture
from focalnets.presets.store import build_architecture
from focalnets.training.optimizer import learning_rate_schedule, make_optimizer
from focalnets.training.recipe import load_recipe, recipe_names

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = dataclasses.replace(load_recipe("digits"), epochs=2)
    return train(recipe, out=tmp_path_factory.mktemp("runs") / "digits", verbose=0)


def test_a_run_leaves_everything(run):
    names = {path.name for path in run.directory.iterdir()}
    assert names == {
        "config.json",
        "model.weights.h5",
        "preprocessing.json",
        "labels.json",
        "recipe.json",
        "history.csv",
        "curves.png",
        "panels",
    }
    assert [path.name for path in run.panels] == ["stage1_block2.png", "stage2_block2.png"]
    for path in (run.curves, *run.panels):
        assert np.asarray(Image.open(path).convert("L")).std() > 10
    with (run.directory / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["loss"]) < float(rows[0]["loss"])
    assert 0 < float(rows[1]["learning_rate"]) < 1e-5
    recipe = json.loads((run.directory / "recipe.json").read_text())
    assert (recipe["name"], recipe["epochs"], recipe["data"]) == ("digits", 2, "digits")


def test_the_run_is_a_preset_with_the_reported_accuracy(run):
    net = FocalNetClassifier.from_preset(run.directory)
    test = open_dataset("digits", channels=1).splits["test"]
    logits = net.predict(test.images, verbose=0)
    assert np.mean(logits.argmax(-1) == test.labels) == run.test_accuracy
    assert net.class_names == tuple("0123456789")


def test_gates_of_the_trained_net_equal_a_computation_from_the_weights(run):
    """What the panels of a run show, recomputed by hand in float64."""
    net = FocalNetClassifier.from_preset(run.directory)
    images = open_dataset("digits", channels=1).splits["test"].images[:3]
    _, values = Reference().classifier(net, images)
    block = modulation_maps(net, images)["stage1_block2"]  # stride 1: no up-sampling between
    np.testing.assert_allclose(block.gates, values["gates stage1_block2"], atol=1e-4)
    norm = np.linalg.norm(values["modulator stage1_block2"], axis=-1)
    np.testing.assert_allclose(block.modulator_norm, norm, atol=1e-4)
    assert block.gates.std(axis=(1, 2)).min() > 1e-3, "the maps do not vary over the image"
    assert set(modulation_model(net).output) == {"logits", "gates", "modulators"}


def test_fit_keeps_the_order_of_the_loader(tmp_path, monkeypatch):
    asked, batch = [], Loader.__getitem__
    monkeypatch.setattr(Loader, "__getitem__", lambda self, i: asked.append((self, i)) or batch(self, i))
    train(dataclasses.replace(load_recipe("digits"), epochs=1), out=tmp_path / "run", verbose=0)
    first = asked[0][0]
    order = [index for loader, index in asked if loader is first]
    assert order[-len(first) :] == list(range(len(first)))


def test_a_run_is_never_overwritten_by_accident(run, tmp_path):
    recipe = dataclasses.replace(load_recipe("digits"), epochs=1)
    with pytest.raises(FileExistsError, match="--force"):
        train(recipe, out=run.directory)
    (tmp_path / "config.json").write_text('{"mine": true}')
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="does not look like a run"):
        train(recipe, out=tmp_path, force=True)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("name", recipe_names())
def test_learning_rate_at_first_peak_and_last_step(name):
    recipe = load_recipe(name)
    total = 1000
    schedule = learning_rate_schedule(recipe, total)
    rates = [float(keras.ops.convert_to_numpy(schedule(step))) for step in range(total + 1)]
    warmup = round(recipe.warmup_fraction * total)
    assert 0 < rates[0] < 2 * recipe.learning_rate / warmup, "the first step is no dead one"
    assert np.argmax(rates) == warmup
    assert rates[warmup] == pytest.approx(recipe.learning_rate)
    assert 0 < rates[total - 1] < 1e-4 * recipe.learning_rate
    assert rates[total] == pytest.approx(0.0, abs=1e-9)


def test_only_kernels_decay():
    recipe = load_recipe("digits")
    net = build_architecture(find_architecture("focalnet_pico"))
    optimizer = make_optimizer(recipe, net, 100)
    optimizer.build(net.trainable_variables)
    decayed = {v.path for v in net.trainable_variables if optimizer._use_weight_decay(v)}
    assert decayed == {v.path for v in net.trainable_variables if len(v.shape) > 1}
    assert 0 < len(decayed) < len(net.trainable_variables)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="there are: cifar10_small, digits"):
        load_recipe("digit")
    with pytest.raises(ValueError, match="name a folder or zip"):
        train("cifar10_small")
    with pytest.raises(ValueError, match="epochs must be positive"):
        dataclasses.replace(load_recipe("digits"), epochs=0)
    with pytest.raises(ValueError, match="seed must be in"):
        dataclasses.replace(load_recipe("digits"), seed=-1)
