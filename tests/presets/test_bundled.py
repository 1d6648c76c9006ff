"""The weights that ship with the package: size, accuracy, model card, and use as default preset."""

import json
import pathlib
import re

import keras
import numpy as np
import pytest

import focalnets
from focalnets import CHECKPOINTS, FocalNetImageClassifier
from focalnets.cli import main
from focalnets.commands.words import preset_and_images
from focalnets.presets.checkpoints import DEFAULT, bundled_directory

IMAGES = pathlib.Path(__file__).parents[2] / "docs" / "cifar10"

NAMES = [name for name in CHECKPOINTS if bundled_directory(name)]

pytestmark = pytest.mark.all_backends


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("FOCALNETS_OFFLINE", "1")
    monkeypatch.setenv("FOCALNETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_bundled_weights_are_in_package_and_small(name):
    directory = bundled_directory(name)
    assert directory.is_relative_to(pathlib.Path(focalnets.__file__).parent)
    assert sum(path.stat().st_size for path in directory.iterdir()) < 8e6
    net = FocalNetImageClassifier.from_preset(name)
    assert net.class_names[3] == "cat"
    assert net.image_converter.image_size == (32, 32)
    architecture = focalnets.ARCHITECTURES[CHECKPOINTS[name].architecture]
    assert net.count_params() == focalnets.count_parameters(architecture)
    assert bundled_directory("../checkpoints.py") is None


@pytest.mark.parametrize("name", NAMES)
def test_model_card_and_table_equal_evaluation(name):
    directory = bundled_directory(name)
    record = json.loads((directory / "evaluation.json").read_text())
    assert record["split"] == "test"
    assert record["images"] == 10_000
    assert CHECKPOINTS[name].measured_top1 == round(100 * record["top1"], 2)
    card = (directory / "README.md").read_text()
    assert f"**{record['top1']:.2%}**" in card
    assert f"{record['ece']:.2%}" in card
    for label, accuracy in record["per_class"].items():
        assert re.search(rf"\| {label} \| {accuracy:.1%} \|", card), label
    for corruption, accuracies in record["corruptions"].items():
        assert (
            f"| {corruption.replace('_', ' ')} | {' | '.join(f'{one:.1%}' for one in accuracies)} |" in card
        )
    confusion = np.array(record["confusion"])
    assert np.trace(confusion) == round(record["top1"] * 10_000)


def test_default_preset_is_bundled():
    assert DEFAULT in NAMES


@pytest.mark.slow
def test_predict_uses_default_preset(capsys, caplog):
    """Classifies the first test image of each class."""
    assert main(["predict", str(IMAGES), "--json", "--engine", "keras"]) == 0
    rows = json.loads(capsys.readouterr().out)
    found = {pathlib.Path(row["image"]).stem: row["classes"][0]["name"] for row in rows}
    assert len(found) == 10
    assert sum(name == best for name, best in found.items()) >= 8
    assert f"No preset given. Using {DEFAULT}, trained on CIFAR-10." in caplog.text


def test_preset_and_images_distinguishes_preset_from_image(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    (tmp_path / "run" / "confusion.png").touch()
    for first in ("cat.jpg", "-", "*.png", str(tmp_path / "photos")):
        assert preset_and_images(first, ("more.png",)) == (DEFAULT, (first, "more.png"))
    for first in (str(tmp_path / "run"), "focalnet_tiny_srf_imagenet1k", "model.pth", "hf://timm/x", "typo"):
        assert preset_and_images(first, ("more.png",)) == (first, ("more.png",))


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "torch",
    reason="compiles on other backends, where other tests train",
)
def test_explain_and_finetune_use_default_preset(tmp_path, capsys):
    assert main(["explain", str(IMAGES / "cat.jpg"), "--out", str(tmp_path / "explained")]) == 0
    assert list((tmp_path / "explained").glob("cat.evidence.png"))
    digits = focalnets.open_dataset("digits", channels=1)
    few = {}
    for name in ("train", "test"):
        split = digits.splits[name].take(range(64))
        few |= {f"x_{name}": split.images, f"y_{name}": split.labels}
    np.savez(tmp_path / "few.npz", **few)
    command = ["train", "--recipe", "finetune", "--data", str(tmp_path / "few.npz"), "--epochs", "1"]
    assert main([*command, "--set", "unfreeze_epochs=0.5", "--out", str(tmp_path / "run")]) == 0
    tuned = FocalNetImageClassifier.from_preset(tmp_path / "run")
    assert tuned.num_classes == 10
    assert tuned.class_names[0] == "class 0"
    start = FocalNetImageClassifier.from_preset(DEFAULT)
    stem, other = (net.backbone.get_layer("stem").get_weights()[0] for net in (start, tuned))
    np.testing.assert_array_equal(stem, other, "the stem stays frozen in the only epoch")
