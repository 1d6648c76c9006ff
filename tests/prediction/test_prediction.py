"""Prediction, evaluation and explanation with a trained network, from Python and the command line."""

import csv
import dataclasses
import io
import json
import os
import resource
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter, open_dataset, train
from focalnets.cli import main
from focalnets.data.find import FoundImage
from focalnets.data.splits import Split
from focalnets.explanation import explanations
from focalnets.explanation.blocks import chosen_blocks
from focalnets.prediction.evaluation import evaluate_logits
from focalnets.prediction.predictor import Predictor, softmax
from focalnets.report.evaluation_figures import draw_confusion
from focalnets.report.figures import draw_curves
from focalnets.resizing import resize_and_crop
from focalnets.training.recipe import load_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = dataclasses.replace(load_recipe("digits"), epochs=3)
    return train(recipe, out=tmp_path_factory.mktemp("runs") / "digits", verbose=0)


@pytest.fixture
def images(tmp_path):
    """Three image files: one of them is in a subfolder, and one is twice as wide."""
    digits = open_dataset("digits", channels=1).splits["test"].images[:3, ..., 0]
    (tmp_path / "images" / "more").mkdir(parents=True)
    Image.fromarray(digits[0]).save(tmp_path / "images" / "a.png")
    Image.fromarray(digits[1]).save(tmp_path / "images" / "more" / "b.png")
    Image.fromarray(np.repeat(digits[2], 2, axis=1)).save(tmp_path / "images" / "wide.png")
    return tmp_path / "images"


def test_evaluate_logits_matches_reference():
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(200, 7)), generator.integers(0, 6, 200)
    found = evaluate_logits(logits, labels, tuple("abcdefg"))
    order = np.argsort(-logits, axis=1)
    assert found.top1 == np.mean(order[:, 0] == labels)
    assert found.top5 == np.mean([label in row[:5] for row, label in zip(order, labels, strict=True)])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found.loss == pytest.approx(-np.mean(np.log(probabilities[np.arange(200), labels])))
    assert found.confusion.sum() == 200
    assert found.confusion[2, 3] == np.sum((labels == 2) & (order[:, 0] == 3))
    assert found.per_class["b"] == np.mean(order[labels == 1, 0] == 1)
    assert found.per_class["g"] is None
    confidence, right = probabilities.max(1), order[:, 0] == labels
    gaps = []
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        gaps += [abs(confidence[inside].mean() - right[inside].mean()) * inside.sum()] if inside.any() else []
    assert found.ece == pytest.approx(sum(gaps) / 200)
    assert found.bins[:, 2].sum() == 200
    sure = evaluate_logits(np.array([[100.0, 0.0], [100.0, 0.0]]), np.array([0, 1]), ("a", "b"))
    assert sure.ece == pytest.approx(0.5), "confidence 1, accuracy 0.5"
    assert evaluate_logits(logits[:, :5], labels.clip(0, 4), tuple("abcde")).top5 is None
    with pytest.raises(ValueError, match="No images to evaluate"):
        evaluate_logits(logits[:0], labels[:0], tuple("abcdefg"))
    with pytest.raises(ValueError, match="do not fit"):
        evaluate_logits(logits, labels + 5, tuple("abcdefg"))


def test_draw_confusion_handles_special_characters_in_names(tmp_path):
    names = ("cost_$x_$", "$a^^b$", "a very long name of a flower that grows where nobody goes")
    draw_confusion(tmp_path / "c.png", evaluate_logits(np.eye(3), np.arange(3), names))
    assert np.asarray(Image.open(tmp_path / "c.png").convert("L")).std() > 10


@pytest.mark.slow
def test_figures_show_numbers_of_evaluation_and_history(tmp_path, figures):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 60)
    found = evaluate_logits(generator.normal(size=(60, 3)) + 2 * np.eye(3)[labels], labels, ("a", "b", "c"))
    draw_confusion(tmp_path / "c.png", found)
    axis = figures["c.png"].axes[0]
    fractions = found.confusion / found.confusion.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(axis.images[0].get_array(), fractions)
    written = {text.get_position()[::-1]: text.get_text() for text in axis.texts}
    assert written[0, 1] == str(found.confusion[0, 1]), "rows are the true classes"
    draw_curves(
        tmp_path / "l.png",
        [
            {"epoch": e, "loss": 3 - e, "accuracy": e / 9, "val_loss": 4 - e, "val_accuracy": e / 8}
            for e in (1, 2)
        ],
    )
    drawn = {
        (axis.get_title(), line.get_label()): list(line.get_ydata())
        for axis in figures["l.png"].axes
        for line in axis.lines
    }
    assert drawn["loss", "training"] == [2, 1]
    assert drawn["loss", "validation"] == [3, 2]
    assert drawn["accuracy", "training"] == [1 / 9, 2 / 9]
    assert drawn["accuracy", "validation"] == [1 / 8, 2 / 8]


def test_softmax_is_stable_for_large_logits():
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0], [-1000.0, 0.0]])), [[0.5, 0.5], [0, 1]])


def test_predictor_keeps_order_of_images_of_different_sizes(tmp_path):
    net = FocalNetImageClassifier(FocalNetBackbone(8, (1,)), 3, FocalNetImageConverter(image_size=None))
    net.save_to_preset(tmp_path / "preset")
    generator = np.random.default_rng(0)
    sizes = [(20, 30), (16, 16), (20, 30), (9, 5)]
    images = [generator.integers(0, 256, (*size, 3)).astype("uint8") for size in sizes]
    predictor = Predictor(tmp_path / "preset", batch_size=2)
    rows = predictor.logits(images)
    for image, row in zip(images, rows, strict=True):
        np.testing.assert_allclose(net.predict(image[None], verbose=0)[0], row, rtol=1e-4, atol=1e-6)
    predictions = predictor.predict([FoundImage("x", images[0])], top=2)
    assert predictions[0].name == "x"
    assert predictions[0].probabilities[0] >= predictions[0].probabilities[1] > 0
    assert set(predictions[0].classes) < {"class 0", "class 1", "class 2"}


@pytest.mark.slow
def test_predict_prints_table_json_and_csv(run, images, capsys, monkeypatch):
    command = ["predict", str(run.directory), str(images), "--top", "2"]
    assert main(command) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0].rsplit("/", 1)[1] for line in table] == ["a.png", "b.png", "wide.png"]
    assert main([*command, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [len(row["classes"]) for row in rows] == [2, 2, 2]
    assert table[0].split()[1] == rows[0]["classes"][0]["name"]
    assert main([*command, "--csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["rank"] for line in lines] == ["1", "2"] * 3
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{images}/a.png\n"))
    assert main(["predict", str(run.directory), "-"]) == 0
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.slow
def test_evaluate_matches_accuracy_of_training(run, tmp_path, capsys):
    command = ["evaluate", str(run.directory), "--data", "digits"]
    assert main([*command, "--json", "--out", str(tmp_path / "out")]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["top1"] == pytest.approx(run.test_accuracy)
    assert figures["images"] == 359
    stored = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert np.trace(stored["confusion"]) == round(359 * run.test_accuracy)
    assert np.asarray(Image.open(tmp_path / "out" / "confusion.png").convert("L")).std() > 10
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "out"), "--force"]) == 0
    assert f"top-1 accuracy: {run.test_accuracy:.4f}" in capsys.readouterr().out.splitlines()
    assert main([*command, "--split", "val"]) == 2
    assert "Available splits: train, test" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_rejects_unknown_classes(run, tmp_path, capsys):
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (8, 8), i).save(tmp_path / "pets" / label / f"{i}.png")
    assert main(["evaluate", str(run.directory), "--data", str(tmp_path / "pets")]) == 2
    assert "The data have classes that the preset lacks: cat, dog. It has: 0, 1, 2" in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_accepts_subset_of_classes(run, tmp_path, capsys):
    digits = open_dataset("digits", channels=1).splits["test"]
    logits = Predictor(run.directory).logits(digits.images)
    chosen = np.isin(digits.labels, (3, 7))
    for split in ("train", "test"):
        for label in (3, 7):
            (tmp_path / "some" / split / str(label)).mkdir(parents=True)
            for i in np.flatnonzero(digits.labels == label):
                image = Image.fromarray(digits.images[i, ..., 0])
                image.save(tmp_path / "some" / split / str(label) / f"{i}.png")
    assert main(["evaluate", str(run.directory), "--data", str(tmp_path / "some"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    expected = np.mean(logits.argmax(-1)[chosen] == digits.labels[chosen])
    assert figures["top1"] == pytest.approx(expected)
    assert figures["per_class"]["4"] is None


@pytest.mark.slow
def test_explain_writes_figures_and_arrays(run, images, tmp_path, capsys):
    command = ["explain", str(run.directory), str(images / "wide.png"), str(images / "a.png")]
    out = tmp_path / "out"
    assert main([*command, "--out", str(out)]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        ".focalnets-files.json",
        *(f"{name}.{end}" for name in ("wide", "a") for end in ("npz", "evidence.png")),
    }
    with np.load(out / "wide.npz") as arrays:
        assert arrays["image"].shape == (8, 8, 1), "the crop of predict"
        assert arrays["stage1_block2.gates"].shape == (8, 8, 3)
        assert arrays["stage2_block2.modulator_norm"].shape == (4, 4)
        assert arrays["stage1_block2.gates"].std() > 1e-3
        total = arrays["pixels.evidence"].sum()
        for name in ("evidence", "stem.evidence", "stage2_block1.evidence", "norm.evidence"):
            np.testing.assert_allclose(arrays[name].sum(), total, atol=1e-4)
        assert arrays["stage2_block1.levels"].shape == (4, 4, 3)
    capsys.readouterr()
    assert main([*command, "--out", str(tmp_path / "one"), "--block", "stage1_block1", "--whole"]) == 0
    assert (tmp_path / "one" / "a.stage1_block1.png").is_file()
    with np.load(tmp_path / "one" / "wide.npz") as arrays:
        assert "stage1_block1.gates" in arrays
        assert "stage2_block2.gates" not in arrays
        assert arrays["image"].shape == (8, 16, 1)
    assert main([*command, "--out", str(tmp_path / "x"), "--block", "stage9"]) == 2
    assert "Available blocks: stage1_block1" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_explain_lists_file_hashes_while_it_writes(run, images, tmp_path, monkeypatch):
    """If `explain` is killed, files that are edited later do not match their hashes."""
    found, draw = [], explanations.draw_explanation

    def read_record(path, *arguments, **keywords):
        record = json.loads((path.parent / ".focalnets-files.json").read_text())
        found.append({name for name, entry in record["files"].items() if entry["sha256"]})
        return draw(path, *arguments, **keywords)

    monkeypatch.setattr(explanations, "draw_explanation", read_record)
    command = ["explain", str(run.directory), str(images)]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert found[:2] == [set(), {"a.npz", "a.evidence.png"}]


def test_chosen_blocks_selects_by_stage():
    stages = [["stage1_block1", "stage1_block2"], ["stage2_block1"]]
    assert chosen_blocks(stages, stage=1) == stages[0]
    with pytest.raises(ValueError, match=r"Stage 3 does not exist\. Expected a stage from 1 to 2"):
        chosen_blocks(stages, stage=3)


def test_progress_shows_bar_after_two_seconds(monkeypatch):
    from focalnets import progress

    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    clock = iter([0.0, 1.0, 3.0, 3.1, 3.2])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock, 4.0))
    assert list(progress.progress([1, 2, 3], "counting")) == [1, 2, 3]
    assert "counting" in terminal.getvalue()
    short = io.StringIO()
    short.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", short)
    assert list(progress.progress([1, 2, 3], "counting")) == [1, 2, 3]
    assert short.getvalue() == ""


@pytest.mark.slow
def test_predict_stops_with_message_on_ctrl_c(run, images, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("focalnets.commands.predict.find_images", interrupted)
    assert main(["predict", str(run.directory), str(images)]) == 130
    assert capsys.readouterr().err == "focalnets: stopped.\n"


@pytest.mark.slow
def test_predict_fails_on_or_skips_unreadable_images(run, images, capsys, caplog):
    (images / "bad.png").write_text("words")
    command = ["predict", str(run.directory), str(images)]
    assert main(command) == 2
    assert "1 unreadable image:" in capsys.readouterr().err
    assert main([*command, "--on-bad-image", "skip"]) == 0
    assert capsys.readouterr().out.count("\n") == 3
    assert "Skipped 1 unreadable image:" in caplog.text


@pytest.mark.slow
def test_commands_reject_presets_without_preprocessing(images, tmp_path, capsys):
    net = FocalNetImageClassifier(FocalNetBackbone(8, (1, 1)), 2, class_names=("black", "white"))
    net.save_to_preset(tmp_path / "bare")
    bare, image = str(tmp_path / "bare"), str(next(iter(images.rglob("*.png"))))
    for label in ("black", "white"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / label / f"{i}.png")
    for command in (
        ["predict", bare, image],
        ["explain", bare, image, "--out", str(tmp_path / "explained")],
        ["evaluate", bare, "--data", str(tmp_path / "data")],
    ):
        assert main(command) == 2
        assert "The preset has no preprocessing" in capsys.readouterr().err
    assert Predictor(bare).logits([np.zeros((9, 8, 3), "float32")] * 2).shape == (2, 2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_commands_accept_non_utf8_names_and_leading_tilde(run, images, capfd, monkeypatch):
    """Latin-1 names are not valid UTF-8. `~draft.png` is a file, not a home directory."""
    monkeypatch.chdir(images)
    odd = os.fsdecode(b"caf\xe9.png")
    shutil.copy("a.png", odd)
    shutil.copy("a.png", "~draft.png")
    for option in ([], ["--json"], ["--csv"]):
        assert main(["predict", str(run.directory), odd, "~draft.png", *option]) == 0
        text = capfd.readouterr().out
        assert r"caf\udce9.png" in text
        assert "~draft.png" in text
        assert "\r" not in text
    names = [
        one["image"] for one in json.loads(_output(capfd, ["predict", str(run.directory), odd, "--json"]))
    ]
    assert names == [odd]
    for label in ("0", "1"):
        (images / "classes" / label).mkdir(parents=True)
        for name in ("a.png", "b.png", "c.png", odd):
            shutil.copy(odd, images / "classes" / label / name)
    command = ["evaluate", str(run.directory), "--data", "classes", "--split", "test"]
    assert main([*command, "--out", "out", "--html"]) == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(os.fsencode(odd))))
    assert r"caf\udce9.png" in _output(capfd, ["predict", str(run.directory), "-"])
    place = images / os.fsdecode(b"\xe9")
    (images / "classes").rename(place)
    (place / "0").rename(place / odd)
    assert main(["train", "--data", str(place), "--epochs", "1", "--out", "trained"]) == 0


def _output(capfd, command):
    assert main(command) == 0
    return capfd.readouterr().out


@pytest.mark.slow
def test_resize_and_crop_handles_thin_images(run, tmp_path, capsys):
    strip = np.tile(np.arange(200, dtype="uint8").repeat(100), (1, 1))  # (1, 20000)
    Image.fromarray(strip).save(tmp_path / "strip.png")
    whole = resize_and_crop(strip[..., None], (8, 8))
    assert whole.shape == (8, 8, 1)
    big = resize_and_crop(strip[..., None], (128, 128))  # would be 128 x 2,560,000
    assert big.shape == (128, 128, 1)
    assert np.ptp(big) <= 1  # all pixels come from one pixel in the middle
    assert big[64, 64, 0] in (99, 100)
    with pytest.raises(ValueError, match="20000 x 1 pixels are too narrow to resize without a crop"):
        resize_and_crop(strip[..., None], (128, 128), crop=False)
    assert resize_and_crop(np.zeros((20, 320, 1), "uint8"), (32, 32), crop=False).shape == (32, 512, 1)
    with pytest.raises(
        ValueError, match=r"320 x 19 pixels are too narrow to resize without a crop.*16 times"
    ):
        resize_and_crop(np.zeros((19, 320, 1), "uint8"), (32, 32), crop=False)
    assert resize_and_crop(np.zeros((1024, 2048, 1), "uint8"), None).shape == (1024, 2048, 1)
    for shape in ((1025, 2048, 1), (1, 8193, 1)):
        with pytest.raises(ValueError, match="too many for a network without resizing"):
            resize_and_crop(np.zeros(shape, "uint8"), None)


@pytest.mark.slow
def test_explain_uses_little_memory_for_thin_images(tmp_path, caplog):
    Image.new("1", (20_000, 20)).save(tmp_path / "strip.png")  # 128 bytes
    Image.effect_noise((320, 20), 60).save(tmp_path / "long.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    command = ["explain", "focalnet_micro_cifar10", str(tmp_path), "--whole", "--out", str(tmp_path / "out")]
    assert main([*command, "--on-bad-image", "skip"]) == 0
    assert "strip.png: 20000 x 20 pixels are too narrow to resize" in caplog.text
    assert (tmp_path / "out" / "long.npz").is_file()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 * 1024  # KiB
    assert main(["predict", "focalnet_micro_cifar10", str(tmp_path / "strip.png")]) == 0


@pytest.mark.slow
def test_predictor_uses_smaller_batches_for_large_images(run, monkeypatch):
    predictor = Predictor(run.directory)
    monkeypatch.setattr("focalnets.prediction.predictor._MOST_PIXELS", 3 * 8 * 8)
    sizes, compute = [], predictor.engine.run
    monkeypatch.setattr(predictor.engine, "run", lambda batch: sizes.append(len(batch)) or compute(batch))
    images = [np.full((8, 8, 1), value, "uint8") for value in range(7)]
    assert predictor.logits(images).shape[0] == 7
    assert sizes == [3, 3, 1]


@pytest.mark.slow
def test_predict_rejects_non_finite_logits(run, images, tmp_path, capsys):
    net = FocalNetImageClassifier.from_preset(run.directory)
    net.head.bias.assign(np.full(10, np.nan))
    net.save_to_preset(tmp_path / "broken")
    assert main(["predict", str(tmp_path / "broken"), str(images), "--engine", "keras"]) == 2
    assert "Some logits are NaN or infinite" in capsys.readouterr().err


def test_tta_averages_probabilities_over_restricted_classes():
    class Engine:
        """Two variants of one image, with different probabilities of the first two classes."""

        probabilities = iter([[[0.009, 0.001, 0.99]], [[0.2, 0.79, 0.01]]])

        def run(self, images):
            return np.log(next(self.probabilities))

    predictor = Predictor.__new__(Predictor)
    predictor.engine, predictor.batch_size = Engine(), 1
    split = Split(np.zeros((1, 2, 2, 1), "uint8"), np.zeros(1, int))
    found = predictor.logits_of_split(split, classes=[0, 1], views=[np.copy, np.copy])
    expected = np.mean([[0.9, 0.1], [0.2 / 0.99, 0.79 / 0.99]], axis=0)
    np.testing.assert_allclose(np.exp(found[0]), expected)


@pytest.mark.slow
def test_evaluate_force_removes_earlier_files(run, tmp_path):
    command = [
        "evaluate",
        str(run.directory),
        "--data",
        "digits",
        "--limit",
        "200",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*command, "--html"]) == 0
    assert (tmp_path / "out" / "mistakes.png").is_file()
    assert main([*command, "--force"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".focalnets-files.json",
        "evaluation.json",
        "confusion.png",
        "reliability.png",
    }


@pytest.mark.slow
def test_predict_result_does_not_depend_on_skipped_images(run, images, capsys):
    command = ["predict", str(run.directory), str(images), "--json", "--top", "10"]
    alone = json.loads(_output(capsys, command))
    (images / "aa.png").write_text("words")  # between the first and the second
    assert json.loads(_output(capsys, [*command, "--on-bad-image", "skip"])) == alone
    net = FocalNetImageClassifier.from_preset(run.directory)
    image = np.asarray(Image.open(images / "more" / "b.png"))[None, ..., None]
    expected = softmax(net.predict(image, verbose=0))[0]
    (row,) = (row for row in alone if row["image"].endswith("b.png"))
    found = {one["name"]: one["probability"] for one in row["classes"]}
    np.testing.assert_allclose([found[str(digit)] for digit in range(10)], expected, atol=1e-4)


@pytest.mark.slow
def test_predict_prints_readable_images_before_error(run, images, capsys):
    (images / "bad.png").write_text("words")
    assert main(["predict", str(run.directory), str(images)]) == 2
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 3
    assert "1 unreadable image:" in captured.err


@pytest.mark.slow
def test_explain_writes_separate_files_for_equal_names(run, images, tmp_path, capsys):
    (images / "most").mkdir()
    names = [images / "a.png", images / "more" / "a.png", images / "most" / "A.png"]
    (images / "more" / "b.png").rename(names[1])
    (images / "wide.png").rename(names[2])
    out = tmp_path / "explained"
    command = ["explain", str(run.directory), *map(str, names), "--block", "stage1_block1", "--out", str(out)]
    assert main(command) == 0
    stored = [np.load(path)["image"] for path in sorted(out.glob("*.npz"))]
    assert (len(stored), len(list(out.glob("*.png")))) == (3, 6)
    assert len({one.tobytes() for one in stored}) == 3
    assert main(command) == 2
    assert "is not empty" in capsys.readouterr().err
