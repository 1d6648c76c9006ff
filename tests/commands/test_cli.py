"""Help, error messages and exit codes of the command line."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from focalnets.cli import VERBS, main
from focalnets.presets.architectures import ARCHITECTURES


def run(*argv):
    return subprocess.run(
        [sys.executable, "-m", "focalnets", *argv], capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """Untrained network for the digits."""
    import focalnets

    directory = tmp_path_factory.mktemp("presets") / "digits"
    backbone = focalnets.FocalNetBackbone.from_preset("focalnet_pico", load_weights=False)
    converter = focalnets.FocalNetImageConverter((8, 8), mean=(0.3,), std=(0.37,))
    net = focalnets.FocalNetImageClassifier(backbone, 10, converter, class_names=tuple("0123456789"))
    net.save_to_preset(directory)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("argv", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_imports_no_backend(argv):
    code = (
        "import sys; sys.argv = ['focalnets', *sys.argv[1:]]\n"
        "from focalnets.cli import main\n"
        "try: code = main()\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'keras', 'torch', 'jax', 'tensorflow', 'numpy', 'matplotlib', 'typeguard'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "focalnets" in ran.stdout
    if len(argv) == 2:
        assert "Example: focalnets" in ran.stdout
    assert "{None}" not in ran.stdout, "an option in arguments.py lacks _value"


def test_presets_lists_every_architecture(capsys):
    assert main(["presets", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(ARCHITECTURES)
    assert rows["tutorial"]["parameters"] == 39_023_903
    assert rows["focalnet_tiny_srf"]["macs"] == 4_409_055_744
    assert main(["presets"]) == 0
    assert "39,023,903" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["trian"], 2, "Unknown verb 'trian'. Available verbs: train, recipes, evaluate"),
        (["train"], 2, "--out"),
        (
            ["train", "--out", "{tmp}/r", "--recipe", "digit"],
            2,
            "Unknown recipe 'digit'. Available recipes: cifar",
        ),
        (["train", "--out", "{tmp}/r", "--epochs", "many"], 2, "many"),
        (
            ["train", "--out", "{tmp}/r", "--epochs", "0"],
            2,
            "--epochs: expected a whole number of at least 1, got '0'",
        ),
        (["train", "--out", "{tmp}/r", "--recipe", "cifar10_small"], 2, "Give a folder or zip"),
        (["train", "--out", "{tmp}/r", "--data", "{tmp}/none"], 2, "is not a data set"),
        (["train", "--out", "{tmp}", "--data", "digits"], 2, "is not empty"),
        (["train", "--out", "{tmp}", "--force"], 2, "cannot be replaced: it has no .focalnets-files.json"),
        (
            ["train", "--out", "{tmp}/r", "--seed", "-1"],
            2,
            "--seed: expected a whole number from 0 to 2**32 - 1",
        ),
        (["train", "--out", "{tmp}/r", "--batch-size", "0"], 2, "--batch-size: expected a whole"),
        (["train", "--out", "{tmp}/r", "--learning-rate", "fast"], 2, "fast"),
        (["train", "--out", "{tmp}/r", "--backend", "theano"], 2, "theano"),
        (["train", "--out", "{tmp}/r", "--epoch", "3"], 2, "--epoch"),
        (["train", "--out", "{tmp}/file"], 2, "exists and is a file"),
        (["presets", "--yaml"], 2, "--yaml"),
        (["completion", "fish"], 2, "fish"),
        (["cache", "digits", "--grayscale"], 2, "--out"),
        (["cache", "digit", "--out", "{tmp}/c"], 2, "is not a data set"),
        (["cache", "digits", "--grayscale", "--out", "{tmp}"], 2, "exists already. Choose another --out."),
        (["cache", "digits", "--out", "{tmp}/c", "--image-size", "0"], 2, "--image-size: expected a whole"),
        (["train", "--out", "{tmp}/r", "--cache-images", "disk"], 2, "disk"),
        (["train", "--out", "{tmp}/r", "--data", "hf:/x"], 2, "is not a data set"),
        (["presets", "tiny"], 2, "tiny"),
        (["predict"], 2, "No image given"),
        (["predict", "{tmp}/none", "{tmp}/file"], 2, "Preset directory not found"),
        (["predict", "{tmp}", "{tmp}/file"], 2, "holds no config.json"),
        (["predict", "focalnet_tiny_srf", "{tmp}/file"], 2, "no trained weights"),
        (["predict", "focalnet_tiny_sfr", "{tmp}/file"], 2, "Did you mean 'focalnet_tiny_srf'"),
        (["predict", "{preset}"], 2, "No image given"),
        (["predict", "{preset}", "{tmp}/none.jpg"], 2, "No image found at"),
        (["predict", "{preset}", "{tmp}/file"], 2, "an empty file"),
        (
            ["predict", "{preset}", "{tmp}/file", "--top", "0"],
            2,
            "--top: expected a whole number of at least 1",
        ),
        (["predict", "{preset}", "{tmp}/file", "--json", "--csv"], 2, "either --json or --csv"),
        (["evaluate", "{preset}"], 2, "--data"),
        (["evaluate", "{preset}", "--data", "digit"], 2, "is not a data set"),
        (
            ["evaluate", "{preset}", "--data", "digits", "--split", "dev"],
            2,
            "no split 'val'. Available splits: train, test",
        ),
        (
            ["evaluate", "{preset}", "--data", "digits", "--batch-size", "0"],
            2,
            "--batch-size: expected a whole",
        ),
        (["explain", "{preset}", "{tmp}/file"], 2, "--out"),
        (
            ["explain", "{preset}", "{tmp}/file", "--out", "{tmp}/e", "--stage", "7"],
            2,
            "Stage 7 does not exist",
        ),
        (
            ["explain", "{preset}", "{tmp}/file", "--out", "{tmp}/e", "--block", "b"],
            2,
            "Unknown block 'b'. Available blocks: stage1_block1",
        ),
    ],
)
def test_main_reports_invalid_arguments_with_exit_code(argv, code, words, tmp_path, capfd, preset):
    (tmp_path / "file").write_text("")
    try:
        found = main([word.format(tmp=tmp_path, preset=preset) for word in argv])
    except SystemExit as end:
        found = end.code
    captured = capfd.readouterr()
    assert found == code
    assert words in captured.err + captured.out
    assert "Traceback" not in captured.err


def test_main_debug_raises_error(tmp_path):
    with pytest.raises(ValueError, match="Unknown recipe 'digit'"):
        main(["train", "--out", str(tmp_path / "run"), "--recipe", "digit", "--debug"])


def test_recipes_copy_does_not_overwrite_files(tmp_path, capsys):
    mine = tmp_path / "mine.py"
    assert main(["recipes", "copy", "digits", str(mine)]) == 0
    with mine.open("a") as file:
        file.write("# what I tried\n")
    assert main(["recipes", "copy", "digits", str(mine)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert mine.read_text().endswith("# what I tried\n")
    assert main(["recipes", "copy", "digits", str(tmp_path / "mine.txt")]) == 2


@pytest.mark.slow
def test_train_prints_test_accuracy_last(few_digits, tmp_path):
    data = ("--recipe", "digits", "--data", str(few_digits))
    ran = run("train", *data, "--out", str(tmp_path / "run"), "--epochs", "1")
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[-1].startswith("test accuracy: 0.")
    paths = [line.split(": ", 1)[1] for line in lines if line.startswith(("run", "curves", "panels"))]
    assert len(paths) == 5
    assert all(os.path.exists(path) for path in paths)


@pytest.mark.parametrize("folder", ["", "{tmp}/"])
def test_train_reports_line_of_error_in_recipe_file(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = pathlib.Path(folder.format(tmp=tmp_path) + "mine.py")
    for text, words in (
        ("import focalnets\nRECIPE = focalnets.Recipee()", "line 2: AttributeError"),
        ("1 +", "line 1"),
    ):
        recipe.write_text(text)
        assert main(["train", "--recipe", str(recipe), "--out", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert f"{recipe}" in error
        assert words in error


def test_train_prints_resume_command_only_for_own_snapshot(tmp_path, capsys):
    (tmp_path / "last.npz").write_text("snapshot of an earlier run")
    assert main(["train", "--data", "digits", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "is not empty" in error
    assert "resume with" not in error
