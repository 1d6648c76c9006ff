"""The command line: help without a backend, straight answers, exit codes."""

import json
import os
import subprocess
import sys

import pytest

from focalnets.cli import VERBS, main
from focalnets.presets.architectures import ARCHITECTURES


def run(*argv):
    return subprocess.run(
        [sys.executable, "-m", "focalnets", *argv], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("argv", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_imports_no_backend(argv):
    code = (
        "import sys; sys.argv = ['focalnets', *sys.argv[1:]]\n"
        "from focalnets.cli import main\n"
        "try: code = main()\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'keras', 'torch', 'jax', 'tensorflow', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "focalnets" in ran.stdout
    if len(argv) == 2:
        assert "Example: focalnets" in ran.stdout


def test_presets_lists_every_architecture(capsys):
    assert main(["presets", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(ARCHITECTURES)
    assert rows["tutorial"]["parameters"] == 39_023_903
    assert rows["focalnet_tiny_srf"]["macs"] == 4_409_055_744
    assert main(["presets"]) == 0
    assert "39,023,903" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["trian"], 2, "there is no verb 'trian'; there are: train, presets"),
        (["train"], 2, "--out"),
        (["train", "--out", "{tmp}/r", "--recipe", "digit"], 2, "no recipe 'digit'; there are:"),
        (["train", "--out", "{tmp}/r", "--epochs", "many"], 2, "many"),
        (["train", "--out", "{tmp}/r", "--epochs", "0"], 2, "epochs must be positive"),
        (["train", "--out", "{tmp}/r", "--recipe", "cifar10_small"], 2, "name a folder or zip"),
        (["train", "--out", "{tmp}/r", "--data", "{tmp}/none"], 2, "is not a data set"),
        (["train", "--out", "{tmp}", "--data", "digits"], 2, "is not empty"),
        (["train", "--out", "{tmp}", "--force"], 2, "does not look like a run"),
    ],
)
def test_misuse_gets_one_sentence_and_code_2(argv, code, words, tmp_path, capfd):
    (tmp_path / "file").write_text("")
    try:
        found = main([word.format(tmp=tmp_path) for word in argv])
    except SystemExit as end:
        found = end.code
    captured = capfd.readouterr()
    assert found == code
    assert words in captured.err + captured.out
    assert "Traceback" not in captured.err


def test_debug_shows_the_traceback(tmp_path):
    ran = run("train", "--out", str(tmp_path / "run"), "--recipe", "digit", "--debug")
    assert "Traceback" in ran.stderr


def test_train_prints_the_accuracy_last(tmp_path):
    ran = run("train", "--out", str(tmp_path / "run"), "--epochs", "1")
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[-1].startswith("test accuracy: 0.")
    paths = [line.split(": ", 1)[1] for line in lines if line.startswith(("run", "curves", "panels"))]
    assert len(paths) == 4
    assert all(os.path.exists(path) for path in paths)
