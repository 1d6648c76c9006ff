"""Errors in arguments are reported before Keras is imported, with the closest name."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import focalnets
from focalnets.cli import main
from focalnets.names import did_you_mean
from focalnets.output.locks import only_writer
from focalnets.training.recipe import change, load_recipe

CAT = str(pathlib.Path(__file__).parents[2] / "docs" / "cifar10" / "cat.jpg")

# Runs each command line, and prints exit code, standard error and imported heavy modules.
ALL_IN_ONE = """
import contextlib, io, json, sys
sys.argv = ["focalnets"]
from focalnets.cli import main
heavy = {"keras", "torch", "jax", "tensorflow", "matplotlib"}
for line in sys.stdin.read().splitlines():
    before = set(sys.modules)
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        code = main(json.loads(line))
    print(json.dumps([code, error.getvalue(), sorted(heavy & (set(sys.modules) - before))]))
"""

# (command line, parts of the error message).
MISTAKES = [
    ("trian --out r", "Unknown verb 'trian'. Available verbs: train, recipes,", "Did you mean 'train'?"),
    (
        "train --out r --recipe digts",
        "Unknown recipe 'digts'. Available recipes: cifar",
        "Did you mean 'digits'?",
    ),
    ("train --out r --recipe mime.py", "Recipe file not found: 'mime.py'.", "Did you mean 'mine.py'?"),
    ("train --out r --recipe digits --epochs 0", "--epochs: expected a whole number of at least 1, got '0'"),
    (
        "train --out r --recipe digits --learning-rate -1",
        "--learning-rate: expected a number above 0, got '-1'",
    ),
    ("train --out r --recipe digits --max-minutes 0", "--max-minutes: expected a number above 0"),
    (
        "train --out r --recipe digits --set epoch=3",
        "Unknown recipe field 'epoch'. Available recipe fields: name",
        "Did you mean 'epochs'?",
    ),
    ("train --out r --recipe digits --set ema_decay=2", "ema_decay must be in [0, 1)"),
    ("train --out r --recipe digits --set architecture=focalnet_pikco", "Did you mean 'focalnet_pico'"),
    (
        "train --out r --recipe finetune --preset runs/mien",
        "Preset directory not found",
        "Did you mean 'runs/mine'?",
    ),
    ("train --out r --recipe digits --preset runs/mine", "--preset cannot be used with it"),
    ("train --out r --data imgaes", "'imgaes' is not a data set", "Did you mean 'images'?"),
    ("train --out r --data cifra10", "'cifra10' is not a data set", "Did you mean 'cifar10'"),
    (
        "train --out r --data cat.jpg",
        "'cat.jpg' is a single image, not a data set",
        "predict PRESET cat.jpg.",
    ),
    ("train --out r --data table.csv", "table.csv needs a first line with the column"),
    (
        "train --out r --recipe cifar10_small",
        "Recipe 'cifar10_small' does not set data. Give a folder or zip with --data",
    ),
    ("train --out full --recipe digits", "full is not empty"),
    ("train --out cat.jpg --recipe digits", "cat.jpg"),
    ("train --out busy/run --recipe digits", "busy/run is being written by process {process} on "),
    ("train --out busy/run --recipe digits --force", "busy/run is being written by process {process} on "),
    ("train --out busy/cache --recipe digits", "busy/cache is being written by process {process} on "),
    ("train --resume busy/run", "busy/run is being written by process {process} on "),
    ("train --out images/a/r --data images", "images/a/r lies inside images, which is searched for images"),
    ("train --recipe digits", "Give either --out for a new run, or --resume"),
    ("train --out r --resume full", "Give either --out"),
    ("train --resume runs/mien", "has no run.json. Did you mean 'runs/mine'?"),
    ("train --resume full", "full is not a run that can be resumed"),
    (
        "train --resume old",
        "do not exist: /nowhere/photos. If they were moved, use focalnets train --resume",
    ),
    ("train --resume old --data digits --backend torch", "started on jax, and the current backend is torch"),
    ("train --out r --data twice.npz", "Duplicate class names: cat."),
    ("train --out r --backnd torch", "--backend"),
    ("evaluate runs/mine", "--data"),
    ("evaluate runs/mien --data digits", "Did you mean 'runs/mine'?"),
    ("evaluate nosuch.pth --data digits", "File not found: 'nosuch.pth'. Check the path."),
    ("evaluate weihgts.pth --data digits", "File not found: 'weihgts.pth'.", "Did you mean 'weights.pth'?"),
    ("evaluate runs/x.keras --data digits", "File not found: 'runs/x.keras'. Check the path."),
    ("evaluate focalnet_micro_cifar10 --data digits --split tets", "Unknown split 'tets'", "mean 'test'?"),
    ("evaluate focalnet_tinny_srf --data digits", "Did you mean 'focalnet_tiny_srf'"),
    ("evaluate focalnet_micro_cifar10 --data cifra10", "is not a data set"),
    ("evaluate focalnet_micro_cifar10 --data digits --out full", "full is not empty"),
    ("evaluate focalnet_micro_cifar10 --data digits --out busy/run --force", "busy/run is being written"),
    ("evaluate focalnet_micro_cifar10 --data images --out images/r", "images/r lies inside images"),
    ("evaluate focalnet_micro_cifar10 --data digits --html", "Give one with --out"),
    (
        "evaluate focalnet_micro_cifar10 --data digits --limit 0",
        "--limit: expected a whole number of at least 1",
    ),
    ("predict", "No image given"),
    ("predict runs/mine", "No image given"),
    ("predict cat.jpg trained", "'trained' is a preset, not an image.", "first: trained IMAGE..."),
    ("predict runs/mine cat.jpg weights.pth", "'weights.pth' is a preset, not an image."),
    ("predict table.csv", "table.csv is a table, not an image.", "evaluate PRESET --data table.csv."),
    ("predict runs/mine photos.zip", "photos.zip is an archive, not an image.", "Unpack it to classify"),
    ("predict runs/mien cat.jpg", "Did you mean 'runs/mine'?"),
    (
        "predict focalnet_tinny_srf cat.jpg",
        "Unknown preset 'focalnet_tinny_srf'.",
        "Did you mean 'focalnet_tiny_srf'",
    ),
    ("predict focalnet_tiny_srf cat.jpg", "is an architecture", "such as focalnet_tiny_srf_imagenet1k"),
    ("predict cta.jpg", "No image found at: cta.jpg.", "Did you mean 'cat.jpg'?"),
    ("predict focalnet_micro_cifar10 cta.jpg", "No image found at: cta.jpg."),
    ("predict cat.jpg --json --csv", "either --json or --csv"),
    ("predict cat.jpg --top 0", "--top: expected a whole number of at least 1"),
    ("predict cat.jpg --engine onnxruntime --backend torch", "Give only one of them"),
    ("explain cat.jpg", "--out"),
    ("explain cat.jpg --out full", "full is not empty"),
    ("explain runs/mine photos.zip --out r", "photos.zip is an archive, not an image."),
    ("explain cat.jpg --out busy/run --force", "busy/run is being written"),
    ("explain cta.jpg --out r", "No image found at: cta.jpg."),
    ("explain cat.jpg --out r --block stage1_blok2", "Unknown block", "Did you mean 'stage1_block2'"),
    ("explain cat.jpg --out r --stage 3", "Stage 3 does not exist. Expected a stage from 1 to 2."),
    (
        "explain focalnet_tiny_srf_imagenet1k cat.jpg --out r --stage 5",
        "Stage 5 does not exist. Expected a stage from 1 to 4.",
    ),
    ("convert weihgts.pth r", "Did you mean 'weights.pth'?"),
    ("convert weights.pth full", "full exists already. Choose another name, or replace it with --force"),
    ("convert weights.pth busy/run", "busy/run is being written by process {process} on "),
    ("convert weights.pth busy/run --force", "busy/run is being written by process {process} on "),
    ("convert weights.pth r --half --window 5", "(--half) only changes the weights to float16"),
    ("convert weights.pth r.onnx", "'r.onnx' is the name of a .onnx file"),
    ("convert weights.pth r --variant focalnet_tini_srf", "Did you mean 'focalnet_tiny_srf'"),
    ("convert weights.pth r --labels lables.txt", "Did you mean 'labels.txt'?"),
    ("convert weights.pth r --set norm_placment=post", "--set", "Did you mean 'norm_placement'?"),
    ("convert weights.pth r --set norm_placement=posst", "norm_placement"),
    ("convert nosuch.pth r", "File not found: 'nosuch.pth'. Check the path."),
    ("cache pictrues --out r", "'pictrues' is not a data set"),
    ("cache digits --out full", "full exists already. Choose another --out."),
    (
        "cache digits --out full --force",
        "full cannot be replaced: it has no .focalnets-files.json",
        "--force replaces only what",
    ),
    ("cache digits --out busy/run --force", "busy/run is being written by process {process} on "),
    ("cache digits --out busy/cache", "busy/cache is being written by process {process} on "),
    ("cache images --out images/r", "images/r lies inside images, which is searched for images"),
    ("cache digits --out r --image-size 0", "--image-size: expected a whole number of at least 1"),
    ("recipes show digts", "Did you mean 'digits'?"),
    ("recipes copy digits", "No file given. Use focalnets recipes copy RECIPE FILE.py"),
]

FILES = ("cat.jpg", "weights.pth", "labels.txt", "mine.py", "photos.zip")

# run.json of a run whose data do not exist.
MOVED = {
    **{"backend": "jax", "data": "/nowhere/photos", "on_bad_image": "error", "cache_images": "auto"},
    **{
        "monitor_every": None,
        "tensorboard": False,
        "fingerprint": "",
        "images": {"train": 1, "validation": 1},
    },
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Dict of (exit code, message in one line, imported heavy modules) by command line."""
    folder = tmp_path_factory.mktemp("work")
    for name in ("runs/mine", "trained", "old", "full", "images/a", "busy/run"):
        (folder / name).mkdir(parents=True)
    (folder / "runs/mine/config.json").write_text("{}")
    (folder / "trained/config.json").write_text("{}")
    (folder / "trained/model.weights.h5").write_text("")
    for name in (*FILES, "full/file", "images/a/1.png"):
        (folder / name).write_text("")
    (folder / "table.csv").write_text("name,class\n")
    (folder / "old/run.json").write_text(json.dumps(MOVED))
    images, labels = np.zeros((2, 4, 4, 3), "uint8"), np.arange(2)
    np.savez(folder / "twice.npz", x_train=images, y_train=labels, class_names=["cat", "cat "])
    (folder / "busy/run/run.json").write_text("")
    lines = "\n".join(json.dumps(words.split()) for words, *_ in MISTAKES)
    with only_writer(folder / "busy/run", in_place=True), only_writer(folder / "busy/cache", in_place=False):
        ran = subprocess.run(
            [sys.executable, "-c", ALL_IN_ONE],
            input=lines,
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=300,
        )
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["runs", "trained", "old", "full", "images", "busy", *FILES, "table.csv", "twice.npz"]
    ), "a failed command left files"
    one_line = [(code, re.sub(r"[\s│╭╮╰╯─|+-]*\n[\s│|]*", " ", error), heavy) for code, error, heavy in found]
    return dict(zip((words for words, *_ in MISTAKES), one_line, strict=True))


@pytest.mark.parametrize(("words", "expected"), [(words, parts) for words, *parts in MISTAKES], ids=str)
def test_check_reports_errors_before_keras_is_imported(words, expected, answers):
    code, error, heavy = answers[words]
    assert code == 2
    for text in expected:
        assert text.format(process=os.getpid()) in error
    assert heavy == []


@pytest.mark.slow
def test_load_recipe_executes_each_version_of_file_once(tmp_path, capsys):
    path = tmp_path / "mine.py"
    text = "import dataclasses, focalnets.training.recipe as r\nprint('hello')\n"
    text += "RECIPE = dataclasses.replace(r.load_recipe('digits'), name='mine', epochs={})\n"
    path.write_text(text.format(1))
    command = ["train", "--recipe", str(path), "--out", str(tmp_path / "run"), "--max-minutes", "1e-9"]
    assert main(command) == 0
    assert capsys.readouterr().out.count("hello") == 1
    path.write_text(text.format(22))
    assert load_recipe(path).epochs == 22


@pytest.mark.parametrize("by", ["option", "environment"])
def test_check_reports_missing_backend_first(by, tmp_path, monkeypatch, capsys):
    missing = [name for name in ("jax", "tensorflow", "torch") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("all three backends are installed")
    argv = ["train", "--recipe", "digits", "--out", str(tmp_path / "run")]
    if by == "environment":
        monkeypatch.setenv("KERAS_BACKEND", missing[0])
    assert main([*argv, *(["--backend", missing[0]] if by == "option" else [])]) == 1
    message = f"Keras backend {missing[0]} is not installed: pip install 'focalnets[{missing[0]}]'."
    assert capsys.readouterr().err == f"focalnets: {message}\n"
    assert not (tmp_path / "run").exists()


def test_did_you_mean_ignores_case_and_distant_names():
    assert did_you_mean("Digits", ["digits", "mnist"]) == " Did you mean 'digits'?"
    assert did_you_mean("photographs", ["digits", "mnist"]) == ""


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            lambda: focalnets.FocalNetImageClassifier.from_preset("focalnet_tinny_srf"),
            "Did you mean 'focalnet_tiny_srf'",
        ),
        (
            lambda: focalnets.FocalNetBackbone.from_preset("focalnet_picco", load_weights=False),
            "'focalnet_pico'",
        ),
        (lambda: focalnets.open_dataset("cifar"), "'cifar10'"),
        (lambda: focalnets.train("digts"), "Did you mean 'digits'?"),
        (
            lambda: change(load_recipe("digits"), ["augmentation.flp=true"]),
            "Did you mean 'augmentation.flip'",
        ),
    ],
)
def test_python_errors_suggest_names(function, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        function()
