"""Closed pipes, signals, untrusted names and unexpected errors on the command line."""

import csv
import io
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from focalnets.cli import main
from focalnets.commands import presets
from focalnets.prediction.evaluation import evaluate_logits, write_evaluation
from focalnets.process import Terminated, stopping_in_order

CAT = str(pathlib.Path(__file__).parents[2] / "docs" / "cifar10" / "cat.jpg")
HOSTILE = ["=1+2.jpg", "\x1b[2Jcat.jpg", "new\nline.jpg", "\u202egpj.cat.jpg", "b\udcffytes.jpg"]


def focalnets(*argv):
    return [sys.executable, "-m", "focalnets", *argv]


def run_into_closed_pipe(*argv, stderr=subprocess.PIPE):
    """Run a command whose standard output is a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            focalnets(*argv), stdout=writer, stderr=stderr or writer, text=True, timeout=300
        )
    finally:
        os.close(writer)


@pytest.mark.slow
@pytest.mark.parametrize(
    "argv",
    [["presets"], ["recipes", "list"], ["predict", CAT, "--csv"], ["train", "--help"], ["--help"]],
    ids=lambda argv: argv[0],
)
def test_printing_verbs_exit_quietly_on_closed_pipe(argv):
    ran = run_into_closed_pipe(*argv)
    assert ran.returncode == 141, ran.stderr
    assert "pipe" not in ran.stderr.lower()
    assert "Exception" not in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("both", [False, True], ids=["stdout", "stdout and stderr"])
def test_cache_completes_on_closed_pipe(both, tmp_path):
    argv = ["cache", "digits", "--grayscale", "--image-size", "8", "--out", str(tmp_path / "cache")]
    ran = run_into_closed_pipe(*argv, stderr=None if both else subprocess.PIPE)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "cache" / "cache.json").is_file()


@pytest.mark.slow
def test_train_completes_on_closed_pipe(few_digits, tmp_path):
    options = ["--recipe", "digits", "--data", str(few_digits), "--epochs", "1", "--monitor-every", "0"]
    ran = run_into_closed_pipe("train", *options, "--out", str(tmp_path / "run"), stderr=None)
    assert ran.returncode == 0
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "code"),
    [(["presets"], 0), (["predict", "-"], 2), (["train", "--help"], 0), (["train", "--epochs", "0"], 2)],
)
def test_main_works_with_closed_standard_streams(argv, code):
    ran = subprocess.run(["bash", "-c", f"exec {shlex.join(focalnets(*argv))} <&- >&- 2>&-"], timeout=60)
    assert ran.returncode == code


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
def test_main_reports_full_disk_on_standard_output():
    with open("/dev/full", "w") as full:
        ran = subprocess.run(focalnets("presets"), stdout=full, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 1
    assert ran.stderr == "focalnets: No space left on device.\n"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signal_stops_verb_with_exit_code_of_shell(name, code):
    command = focalnets("predict", "-")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stderr.readline()  # "No preset given": the process waits for names
        process.send_signal(getattr(signal, name))
        _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert error == "focalnets: stopped.\n"


@pytest.mark.slow
def test_cache_removes_partial_files_on_sigterm(tmp_path):
    command = focalnets(
        "cache", "digits", "--grayscale", "--image-size", "400", "--out", str(tmp_path / "cache")
    )
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob(".*/new/*")) and process.poll() is None:
            time.sleep(0.01)
        process.terminate()
        _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    assert error == "focalnets: stopped.\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ignored_sighup_stays_ignored():
    """`nohup focalnets ... &` ignores SIGHUP."""
    command = focalnets("predict", "-", "--json")
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    with subprocess.Popen(command, preexec_fn=ignore, text=True, **streams) as process:
        process.stderr.readline()
        process.send_signal(signal.SIGHUP)
        out, error = process.communicate(CAT, timeout=60)
    assert process.returncode == 0, error
    assert json.loads(out)[0]["classes"]


def test_second_sigterm_does_not_interrupt_cleanup():
    saved = False
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as caught, stopping_in_order():  # noqa: PT012
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            saved = True
    assert saved
    assert caught.value.number == signal.SIGTERM
    assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture(scope="module")
def hostile_preset(tmp_path_factory):
    """Untrained network for the digits, with control characters and formulas in its class names."""
    import focalnets

    network = focalnets.FocalNetImageClassifier.from_preset("focalnet_pico", load_weights=False)
    names = ("@sum", "\x1b[31mred", "a\tb", *"3456789")
    converter = focalnets.FocalNetImageConverter((8, 8), mean=(0.3,), std=(0.37,))
    network = focalnets.FocalNetImageClassifier(network.backbone, 10, converter, names)
    network.save_to_preset(directory := tmp_path_factory.mktemp("presets") / "hostile")
    return directory


@pytest.fixture
def hostile_folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name in HOSTILE:
        Image.new("L", (8, 8)).save(os.fsencode(tmp_path / "images" / name), format="PNG")
    return tmp_path / "images"


def control_characters(text):
    return [
        character
        for character in text
        if character in "\x1b\x9b\u202e\r" or "\ud800" <= character <= "\udfff"
    ]


@pytest.mark.slow
def test_predict_escapes_control_characters(hostile_preset, hostile_folder, capfd, monkeypatch):
    monkeypatch.chdir(hostile_folder)
    assert main(["predict", str(hostile_preset), ".", "--top", "10"]) == 0
    out = capfd.readouterr().out
    assert not control_characters(out)
    assert len(out.splitlines()) == len(HOSTILE)
    for name in (
        r"\x1b[2Jcat.jpg",
        r"new\nline.jpg",
        r"\u202egpj.cat.jpg",
        r"b\udcffytes.jpg",
        r"\x1b[31mred",
        r"a\tb",
    ):
        assert name in out


def test_predict_csv_escapes_formulas(hostile_preset, hostile_folder, capfd, monkeypatch):
    monkeypatch.chdir(hostile_folder)
    names = [name for name in HOSTILE if name.isascii()]
    assert main(["predict", str(hostile_preset), *names, "--top", "10", "--csv"]) == 0
    rows = list(csv.reader(io.StringIO(capfd.readouterr().out)))
    assert {row[0] for row in rows[1:]} == {"'=1+2.jpg", "\x1b[2Jcat.jpg", "new\nline.jpg"}
    assert {"'@sum", "a\tb"} < {row[2] for row in rows}


def test_predict_json_is_exact_and_escapes_control_characters(hostile_preset, hostile_folder, capfd):
    assert main(["predict", str(hostile_preset), str(hostile_folder), "--top", "10", "--json"]) == 0
    out = capfd.readouterr().out
    assert not control_characters(out)
    found = json.loads(out)
    assert {os.path.basename(row["image"]) for row in found} == set(HOSTILE)
    assert {"@sum", "\x1b[31mred", "a\tb"} < {one["name"] for one in found[0]["classes"]}


def test_errors_escape_control_characters(hostile_preset, hostile_folder, capfd):
    for name in HOSTILE:
        (hostile_folder / name).write_text("words")
    assert main(["predict", str(hostile_preset), str(hostile_folder)]) == 2
    assert main(["predict", str(hostile_preset), str(hostile_folder / "\x1b[2Jmissing.jpg")]) == 2
    assert main(["predict", str(hostile_folder / "\x1b[2Jpreset"), CAT]) == 2
    assert main(["predict", CAT, "--\x1b[2Jname.jpg"]) == 2
    assert main(["presets", "\x1b[2Jname.jpg"]) == 2
    error = capfd.readouterr().err
    assert not control_characters(error)
    assert error.count(r"\x1b[2J") >= 5
    assert r"new\nline.jpg" in error


@pytest.mark.slow
def test_warnings_escape_control_characters(tmp_path):
    for folder in ("train/a", "test/a", "train/b", "test/b", "\x1b[2Jother/b"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (8, 8)).save(tmp_path / "data" / folder / f"{number}.png")
    argv = ["cache", str(tmp_path / "data"), "--image-size", "8", "--out", str(tmp_path / "cache")]
    ran = subprocess.run(focalnets(*argv), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert r"\x1b[2Jother" in ran.stderr
    assert not control_characters(ran.stderr)


@pytest.mark.slow
def test_confusion_csv_escapes_formulas(tmp_path):
    names = ["=1+2", "-x", *(f"class {index}" for index in range(99))]
    write_evaluation(tmp_path, evaluate_logits(np.eye(101), np.arange(101), names))
    rows = list(csv.reader(io.StringIO((tmp_path / "confusion.csv").read_text())))
    assert rows[1] == ["'=1+2", "'=1+2", "1"]
    assert rows[2][0] == "'-x"


def recurse(_):
    return recurse(_)


def allocate(_):
    np.empty(2**60, "uint8")


def key_error(_):
    {}["missing"]


def two_lines(_):
    raise RuntimeError("\n  first line \x1b[2J\nsecond line")


def torch_memory(_):
    raise RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    )


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (recurse, "unexpected error (RecursionError: maximum recursion depth exceeded"),
        (key_error, "unexpected error (KeyError: 'missing'). This is probably a bug in focalnets. Run the"),
        (two_lines, r"unexpected error (RuntimeError: first line \x1b[2J)."),
        (allocate, "out of memory ("),
        (torch_memory, "out of memory ("),
    ],
)
def test_main_reports_unexpected_error_in_one_line(function, words, monkeypatch, capsys):
    monkeypatch.setattr(presets, "run", function)
    assert main(["presets"]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert "Traceback" not in error
    with pytest.raises((RecursionError, KeyError, RuntimeError, MemoryError)):
        main(["presets", "--debug"])
