"""Default recipe of a data set, and warnings when a recipe does not suit the images."""

import csv
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

import focalnets
from focalnets.cli import main
from focalnets.data.survey import Survey
from focalnets.models.image_converter import FocalNetImageConverter
from focalnets.presets.checkpoints import DEFAULT
from focalnets.training.recipe import load_recipe
from focalnets.training.suitability import describe_misfits, recipe_for

QUIET = {"verbose": 0, "monitor_every": 0, "max_minutes": 1e-9}  # one batch


def write_images(directory, width, height, color, classes=("cat", "dog")):
    generator = np.random.default_rng(0)
    for name in classes:
        (directory / name).mkdir(parents=True)
        for index in range(6):
            shape = (height, width, 3) if color else (height, width)
            image = Image.fromarray(generator.integers(0, 256, shape, "uint8"))
            image.save(directory / name / f"{index}.png")
    return directory


def write_zip(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
    return path


def write_csv(folder, path):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        rows.writerows([image, image.parent.name] for image in sorted(folder.rglob("*.png")))
    return path


def write_npz(folder, path):
    files = sorted(folder.rglob("*.png"))
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    labels = [int(file.parent.name == "dog") for file in files]
    np.savez(path, x_train=images, y_train=labels, x_test=images[:1], y_test=labels[:1])
    return path


def write(form, tmp_path, width, height, color):
    folder = write_images(tmp_path / "images", width, height, color)
    if form == "folder":
        return folder
    return {"zip": write_zip, "csv": write_csv, "npz": write_npz}[form](folder, tmp_path / f"data.{form}")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["folder", "zip", "csv", "npz"])
@pytest.mark.parametrize(("width", "height", "color"), [(50, 40, True), (6, 7, False), (400, 300, False)])
def test_survey_finds_size_and_color_in_all_layouts(width, height, color, form, tmp_path):
    data = write(form, tmp_path, width, height, color)
    for channels in (1, 3):
        dataset = focalnets.open_dataset(data, channels, prepare=FocalNetImageConverter(8).prepare)
        assert dataset.survey() == Survey(12, height, width, color)


def test_survey_applies_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (300, 200), (200, 0, 0))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "photo.jpg", exif=exif)
        image.convert("L").convert("RGB").save(tmp_path / name / "gray.jpg", exif=exif)
    survey = focalnets.open_dataset(tmp_path, prepare=FocalNetImageConverter(8).prepare).survey()
    assert survey == Survey(4, 300, 200, color=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "width", "height", "color", "words"),
    [
        ("csv", 50, 40, True, []),
        ("npz", 50, 40, False, []),
        ("zip", 6, 7, False, ["6 x 7 pixels (median)", "enlarges them to 32 x 32"]),
        ("folder", 400, 300, True, ["400 x 300 pixels", "reduces them to 32 x 32"]),
    ],
)
def test_train_finetunes_own_images_in_color_at_32_pixels(
    form, width, height, color, words, tmp_path, caplog
):
    data = write(form, tmp_path, width, height, color)
    result = focalnets.train(data=data, out=tmp_path / "run", **QUIET)
    recipe = json.loads((result.directory / "recipe.json").read_text())
    assert (recipe["name"], recipe["preset"], recipe["image_size"]) == ("finetune", DEFAULT, None)
    texts = [record.getMessage() for record in caplog.records]
    assert f"No recipe given. Using 'finetune', which fine-tunes {DEFAULT}" in texts[0]
    misfits = [text for text in texts if "(median)" in text or "grayscale." in text]
    assert len(misfits) == bool(words)
    for word in words:
        assert word in misfits[0]


@pytest.mark.slow
def test_train_without_recipe_logs_choice_and_writes_color_network(tmp_path, capsys, caplog):
    data = write_images(tmp_path / "images", 300, 200, color=True)
    command = ["train", "--data", str(data), "--epochs", "1", "--monitor-every", "0"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert "No recipe given. Using 'finetune'" in caplog.text
    assert "--preset focalnet_tiny_srf_imagenet1k" in caplog.text
    assert "Of 12 images, 2 are for testing (a fifth of each class" in caplog.text
    network = focalnets.FocalNetImageClassifier.from_preset(tmp_path / "run")
    assert network.image_converter.image_size == (32, 32)
    assert len(network.image_converter.mean) == 3
    assert network.class_names == ("cat", "dog")


@pytest.mark.slow
def test_train_warns_of_digits_recipe_on_color_photographs(tmp_path, caplog):
    data = write_images(tmp_path / "images", 500, 375, color=True)
    focalnets.train("digits", data, tmp_path / "run", **QUIET)
    assert (
        "The images have color, but recipe 'digits' reads them as grayscale. Use --recipe finet"
        in caplog.text
    )
    assert "500 x 375 pixels (median), but recipe 'digits' reduces them to 8 x 8" in caplog.text
    assert "Details smaller than 47 pixels are lost" in caplog.text
    assert "--recipe finetune --set image_size=96" in caplog.text


@pytest.mark.parametrize(
    ("data", "preset", "name"),
    [
        (None, None, "digits"),
        ("digits", None, "digits"),
        ("cifar10", None, "cifar10_small"),
        ("cifar100", None, "finetune"),
        ("my_images", None, "finetune"),
        ("digits", "runs/other", "finetune"),
        (None, "runs/other", "finetune"),
    ],
)
def test_recipe_for_chooses_by_data_and_preset(data, preset, name):
    recipe = recipe_for(data, preset)
    assert recipe.name == name
    assert preset is None or recipe.preset == preset


@pytest.mark.slow
def test_preset_option_replaces_starting_weights(tmp_path, capsys, caplog):
    data = write_images(tmp_path / "images", 40, 40, color=True)
    command = ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--max-minutes", "1e-9"]
    assert main([*command, "--preset", "focalnet_nano_cifar10"]) == 0
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["preset"] == "focalnet_nano_cifar10"
    assert "No recipe given. Using 'finetune', which fine-tunes focalnet_nano_cifar10." in caplog.text
    assert main([*command, "--recipe", "digits", "--preset", DEFAULT]) == 2
    assert "Recipe 'digits' trains focalnet_pico from random weights" in capsys.readouterr().err


def test_describe_misfits_ignores_usual_reductions():
    converter = FocalNetImageConverter(224)
    recipe = load_recipe("imagenet_tiny_srf")
    assert describe_misfits(recipe, converter, Survey(16, 3000, 4000, True)) == []
    assert describe_misfits(recipe, FocalNetImageConverter(None), Survey(16, 3000, 4000, True)) == []
    assert describe_misfits(recipe, converter, None) == []
    small = describe_misfits(recipe, converter, Survey(16, 28, 28, False))
    assert "enlarges them to 224 x 224. This takes 64 times the computation" in small[0]
    assert describe_misfits(load_recipe("digits"), FocalNetImageConverter(8), Survey(16, 8, 8, False)) == []
