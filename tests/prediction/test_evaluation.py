"""Corruptions, test-time augmentation, the page and `--limit` of `evaluate`."""

import colorsys
import dataclasses
import io
import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image

from focalnets import open_dataset, train
from focalnets.cli import main
from focalnets.images.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corruptions_for
from focalnets.output.directories import new_output_directory
from focalnets.output.files import filling
from focalnets.prediction.evaluate import _some
from focalnets.prediction.evaluation import evaluate_logits, write_evaluation
from focalnets.prediction.predictor import Predictor, softmax
from focalnets.prediction.tta import VIEWS, mirrored, shifted
from focalnets.training.recipe import load_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = dataclasses.replace(load_recipe("digits"), epochs=3)
    return train(recipe, out=tmp_path_factory.mktemp("runs") / "digits", monitor_every=0, verbose=0).directory


@pytest.fixture(scope="module")
def photographs():
    """Eight smooth color images with one edge each, uint8 (8, 32, 32, 3)."""
    generator = np.random.default_rng(0)
    small = generator.integers(30, 220, (8, 4, 4, 3), "uint8")
    images = [np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BICUBIC)) for one in small]
    images = np.stack(images).copy()
    images[:, 16:, :8] = 250
    return images


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_corrupt_grows_with_severity_and_does_not_depend_on_batch(name, photographs):
    distances = []
    for severity in SEVERITIES:
        changed = corrupt(photographs, name, severity)
        assert changed.dtype == np.uint8
        assert changed.shape == photographs.shape
        alone = corrupt(photographs[5:6], name, severity, first=5)
        np.testing.assert_array_equal(alone[0], changed[5])
        distances.append(np.abs(changed.astype(float) - photographs).mean())
    assert distances[0] > 0
    if name == "saturation":  # severities 1 and 2 remove color, 3 to 5 add it
        assert distances[0] < distances[1]
        distances = distances[2:]
    assert distances[-1] > distances[0]
    if name != "pixelate":  # resizing to 30 of 32 pixels changes an image more than to 28
        # Tolerance: the direction of motion blur is random for each severity.
        assert all(after > 0.95 * before for before, after in itertools.pairwise(distances))
    gray = corrupt(photographs[..., :1], name, 3)
    assert gray.shape == (8, 32, 32, 1)
    if name != "saturation":
        assert (gray != photographs[..., :1]).any()


def test_corrupt_matches_definitions(photographs):
    image = photographs[:1]
    plain = image[0] / 255
    noise = corrupt(np.full((1, 200, 200, 3), 128, "uint8"), "gaussian_noise", 5)
    assert noise.std() / 255 == pytest.approx(0.10, rel=0.02)
    shot = corrupt(np.full((1, 200, 200, 3), 128, "uint8"), "shot_noise", 3)
    assert shot.std() / 255 == pytest.approx(np.sqrt(128 / 255 / 100), rel=0.02)
    impulses = corrupt(np.full((1, 200, 200, 3), 128, "uint8"), "impulse_noise", 5)
    assert np.mean(impulses != 128) == pytest.approx(0.07, rel=0.1)
    assert set(np.unique(impulses)) == {0, 128, 255}
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "JPEG", quality=58)
    np.testing.assert_array_equal(corrupt(image, "jpeg", 3)[0], np.asarray(Image.open(file)))
    faded = (plain - plain.mean((0, 1))) * 0.3 + plain.mean((0, 1))
    np.testing.assert_allclose(corrupt(image, "contrast", 4)[0] / 255, faded, atol=0.5 / 255 + 1e-6)
    hue, saturation, value = colorsys.rgb_to_hsv(*plain[3, 20])
    brighter = colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.3))
    np.testing.assert_allclose(corrupt(image, "brightness", 5)[0, 3, 20] / 255, brighter, atol=3e-3)
    paler = colorsys.hsv_to_rgb(hue, saturation * 0.1, value)
    np.testing.assert_allclose(corrupt(image, "saturation", 2)[0, 3, 20] / 255, paler, atol=3e-3)
    for blur in ("gaussian_blur", "defocus_blur", "motion_blur"):  # a blur does not change a flat image
        flat = np.full((1, 32, 32, 3), 77, "uint8")
        np.testing.assert_array_equal(corrupt(flat, blur, 5), flat)
    small = Image.fromarray(image[0]).resize((20, 20), Image.Resampling.BOX)
    blocks = np.asarray(small.resize((32, 32), Image.Resampling.NEAREST))
    np.testing.assert_allclose(corrupt(image, "pixelate", 5)[0].astype(int), blocks, atol=1)


def test_blurs_have_expected_width():
    """Measured on an edge, on one white pixel, and on a ramp."""
    edge = np.zeros((1, 32, 32, 1), "uint8")
    edge[0, :, 16:] = 255
    for severity, deviation in ((3, 0.7), (5, 1.0)):
        for image, axis in ((edge, 1), (edge.transpose(0, 2, 1, 3), 0)):
            blurred = corrupt(image, "gaussian_blur", severity)[0, ..., 0] / 255
            steps = np.diff(blurred, axis=axis).mean(axis=1 - axis)
            assert steps @ (np.arange(31) - 15.0) ** 2 == pytest.approx(deviation**2, rel=0.05)
    point = np.zeros((1, 32, 32, 1), "uint8")
    point[0, 16, 16] = 255
    away = np.arange(32) - 16
    disk = corrupt(point, "defocus_blur", 5)[0, ..., 0]
    assert disk[15:18, 15:18].min() == disk.max() == round(255 / 9)
    assert (disk > 0).sum() == 9
    for severity, deviation in ((1, 1.0), (5, 2.5)):  # half a Gaussian: its mean is not the point
        trail = corrupt(point, "motion_blur", severity)[0, ..., 0] / 255
        trail /= trail.sum()
        down, right = trail.sum(axis=1) @ away, trail.sum(axis=0) @ away
        assert np.hypot(down, right) == pytest.approx(deviation * np.sqrt(2 / np.pi), rel=0.15)
        assert abs(down) <= abs(right), "expected at most 45 degrees from the horizontal"
    slope = np.tile(np.arange(64, dtype="uint8") * 4, (64, 1))[None, ..., None]
    for severity, largest in ((1, 1.06), (5, 1.26)):
        zooms = np.arange(1, largest, 0.01)
        expected = 4 * (1 + np.sum(1 / zooms)) / (len(zooms) + 1)
        row = corrupt(slope, "zoom_blur", severity)[0, 32, :, 0].astype(float)
        assert np.polyfit(np.arange(16, 48), row[16:48], 1)[0] == pytest.approx(expected, rel=0.01)


def test_blur_width_scales_with_image_size(photographs):
    large = np.stack([np.asarray(Image.fromarray(one).resize((128, 128))) for one in photographs])
    small_blur = corrupt(photographs, "defocus_blur", 5).astype(float)
    large_blur = corrupt(large, "defocus_blur", 5)
    back = np.stack(
        [np.asarray(Image.fromarray(one).resize((32, 32), Image.Resampling.BOX)) for one in large_blur]
    )
    assert np.abs(back - small_blur).mean() < 0.5 * np.abs(photographs - small_blur).mean()


def test_corrupt_rejects_unknown_name_and_severity(photographs):
    with pytest.raises(ValueError, match=r"Unknown corruption 'rain'\. .*corruptions: gaussian_noise"):
        corrupt(photographs, "rain", 1)
    with pytest.raises(ValueError, match="severity must be an integer from 1 to 5; got 6"):
        corrupt(photographs, "jpeg", 6)


@pytest.mark.slow
def test_tta_averages_probabilities(run):
    test = open_dataset("digits", channels=1).splits["test"].take(range(50))
    predictor = Predictor(run)
    images = test.batch(np.arange(50))
    found = softmax(predictor.logits_of_split(test, views=VIEWS["shift"]))
    views = [images, shifted(images, -1), shifted(images, 1)]
    views += [mirrored(one) for one in views]
    expected = np.mean([softmax(predictor.engine.run(one)) for one in views], axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (VIEWS["none"][0](images) == images).all()
    assert shifted(images, 1)[0, 1:, 1:].tolist() == images[0, :-1, :-1].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("limit", [3, 10, 17, 358])
def test_evaluate_limit_takes_same_fraction_of_each_class(run, limit, capsys):
    assert main(["evaluate", str(run), "--data", "digits", "--limit", str(limit), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["images"] == limit
    classes = [accuracy for accuracy in record["per_class"].values() if accuracy is not None]
    assert len(classes) == min(limit, 10)


@pytest.mark.slow
def test_confusion_csv_of_many_classes_has_no_zeros(tmp_path):
    names = tuple(f"class {i}" for i in range(150))
    logits = np.eye(150)[[0, 7, 7]]
    write_evaluation(tmp_path, evaluate_logits(logits, np.array([0, 7, 9]), names))
    assert "confusion" not in json.loads((tmp_path / "evaluation.json").read_text())
    lines = (tmp_path / "confusion.csv").read_text().split()
    assert " ".join(lines) == ("true,predicted,images class 0,class 0,1 class 7,class 7,1 class 9,class 7,1")


def test_evaluate_logits_rejects_nan():
    with pytest.raises(ValueError, match="logits are NaN or infinite"):
        evaluate_logits(np.array([[np.nan, 0.0]]), np.array([0]), ("a", "b"))


@pytest.mark.slow
def test_evaluate_force_replaces_earlier_figures(run, tmp_path):
    out = tmp_path / "out"
    with new_output_directory(out, "evaluation") as directory, filling(directory, "evaluation") as partial:
        for name in ("mistakes.png", "corruptions.png"):
            (partial / name).write_bytes(b"old")
    command = ["evaluate", str(run), "--data", "digits", "--limit", "1", "--html", "--force"]
    assert main([*command, "--out", str(out)]) == 0
    assert not (out / "corruptions.png").exists()
    assert not (out / "mistakes.png").exists() or (out / "mistakes.png").read_bytes() != b"old"


@pytest.mark.slow
def test_evaluate_html_page_has_all_results(run, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["evaluate", str(run), "--data", "digits", "--out", str(out), "--limit", "60"]
    assert main([*command, "--tta", "flip", "--corruptions", "--html"]) == 0
    printed = capsys.readouterr().out
    record = json.loads((out / "evaluation.json").read_text())
    assert record["images"] == 60
    assert list(record["corruptions"]) == corruptions_for(1)
    assert all(len(accuracies) == 5 for accuracies in record["corruptions"].values())
    split = _some(open_dataset("digits", channels=1).splits["test"], 60)
    for name, severity in (("gaussian_noise", 5), ("contrast", 4)):
        logits = Predictor(run).logits(list(corrupt(split.images, name, severity)))
        accuracy = np.mean(logits.argmax(axis=1) == split.labels)
        assert record["corruptions"][name][severity - 1] == accuracy
    assert accuracy < record["top1"], "low contrast must lower the accuracy"
    assert f"top-1 accuracy with test-time augmentation (flip): {record['tta']['top1']:.4f}" in printed
    assert f"expected calibration error: {record['ece']:.4f}" in printed
    assert sum(row[2] for row in record["reliability"]) == 60
    page = (out / "evaluation.html").read_text()
    headings = ("Classes", "Confusion", "Calibration", "Corruptions", "Most confident errors")
    for text in (*headings, "most often confused"):
        assert text in page
    assert not re.search(r"(src|href)=[\"'](?!data:)", page), "the page must not load other files"
    for image in ("confusion", "reliability", "corruptions", "mistakes"):
        assert np.asarray(Image.open(out / f"{image}.png").convert("L")).std() > 10
    assert main(["evaluate", str(run), "--data", "digits", "--html"]) == 2
    assert "--out" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--data", "digits", "--limit", "0"]) == 2
    assert "--limit: expected a whole number of at least 1, got '0'" in capsys.readouterr().err
