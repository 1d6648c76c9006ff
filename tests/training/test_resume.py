"""Resumed runs end with the weights of an uninterrupted run, bit for bit."""

import csv
import dataclasses
import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest
from PIL import Image

from focalnets import FocalNetImageClassifier, open_dataset, resume, train
from focalnets.cli import main
from focalnets.images.augment import Augmentation
from focalnets.ops.backend import bfloat16_supported
from focalnets.output.manifest import Manifest
from focalnets.output.paths import PREFIX
from focalnets.training import checkpoint, run_recorder, signals
from focalnets.training.recipe import load_recipe
from focalnets.training.signals import HeldSignals

QUIET = {"verbose": 0, "monitor_every": 0}


@pytest.fixture(scope="module")
def everything(few_digits, tiny_preset):
    """Every kind of state is in use: dropout, drop path, averages, mixup, and accumulation across epochs."""
    return dataclasses.replace(
        load_recipe("digits"),
        data=str(few_digits),
        architecture="",
        preset=tiny_preset,
        epochs=3,
        batch_size=50,
        accumulation=2,
        ema_decay=0.9,
        drop_path_rate=0.2,
        dropout_rate=0.1,
        augmentation=Augmentation(pad_crop=1, mixup=0.4, erasing=0.2),
        keep_weights="last",
    )


def weights(directory):
    return FocalNetImageClassifier.from_preset(directory).get_weights()


@pytest.fixture(scope="module")
def whole(everything, tmp_path_factory):
    """Uninterrupted run."""
    return train(everything, out=tmp_path_factory.mktemp("whole") / "run", **QUIET)


def assert_same_run(directory, whole):
    for found, expected in zip(weights(directory), weights(whole.directory), strict=True):
        np.testing.assert_array_equal(found, expected)
    with (directory / "history.csv").open() as file, (whole.directory / "history.csv").open() as other:
        rows, expected = list(csv.DictReader(file)), list(csv.DictReader(other))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    for row, right in zip(rows, expected, strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
            assert row[name] == right[name], name


class KilledError(Exception):
    """Simulates a crash in a process that continues, so that the test can inspect the files."""


@pytest.mark.slow
@pytest.mark.parametrize("last", [2, 10])
def test_resume_after_crash_within_epoch(everything, whole, tmp_path, monkeypatch, last):
    """An epoch has 5 batches: the crash is in the first epoch, and in the last batch of the second."""
    seen = []
    original = run_recorder.RunRecorder.on_train_batch_end

    def crashes(self, batch, logs=None):
        seen.append(1)
        if len(seen) == last:
            raise KilledError
        return original(self, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(run_recorder.RunRecorder, "on_train_batch_end", crashes)
        with pytest.raises(KilledError):
            train(everything, out=tmp_path / "run", **QUIET)
    assert not (tmp_path / "run" / "config.json").exists(), "an incomplete run must not be a preset"
    resume(tmp_path / "run", verbose=0)
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.slow
@pytest.mark.all_backends
def test_resume_after_time_limit_within_epoch(everything, whole, tmp_path, monkeypatch):
    """Snapshots within an epoch include metrics, accumulated gradients and the batch."""
    monkeypatch.setattr(run_recorder, "SNAPSHOT_MINUTES", 0.0)  # after every batch
    result = train(everything, out=tmp_path / "run", max_minutes=1e-9, **QUIET)
    interrupted = 2 if keras.backend.backend() == "torch" else 1  # the others compile in each session
    sessions = 1
    while not result.complete:
        snapshot = checkpoint.read_snapshot(tmp_path / "run" / "last.npz")
        assert (snapshot.epoch, snapshot.batch) == (0, sessions), "one batch per session"
        limit = 1e-9 if sessions < interrupted else None
        result = resume(tmp_path / "run", max_minutes=limit, verbose=0)
        sessions += 1
    assert sessions == interrupted + 1
    assert_same_run(tmp_path / "run", whole)


class TerminatedError(KeyboardInterrupt):
    """Raised on SIGTERM, as by the command line."""


@pytest.fixture
def handlers():
    """Install signal handlers that raise, as the command line does: {number: (handler, error)}."""
    raising = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: TerminatedError}

    def handler(number, _):
        raise raising[number]

    before = {number: signal.signal(number, handler) for number in raising}
    yield {number: (handler, error) for number, error in raising.items()}
    for number, old in before.items():
        signal.signal(number, old)


def send_in_batch(patch, last, *numbers):
    """Send signals to this process during batch `last`, counted from 1 over all epochs."""
    seen = []

    def begin(self, batch, logs=None):
        seen.append(1)
        if len(seen) == last:
            for number in numbers:
                signal.raise_signal(number)

    patch.setattr(run_recorder.RunRecorder, "on_train_batch_begin", begin)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "last", "max_minutes", "state"),
    [
        (signal.SIGINT, 2, None, (0, 2)),
        (signal.SIGTERM, 8, 60, (1, 3)),
        (signal.SIGTERM, 10, None, (2, 0)),  # last batch of an epoch: takes effect after validation
    ],
)
def test_train_writes_snapshot_on_signal(
    everything, whole, tmp_path, monkeypatch, capfd, handlers, number, last, max_minutes, state
):
    handler, error = handlers[number]
    with monkeypatch.context() as patch:
        send_in_batch(patch, last, number)
        with pytest.raises(error):
            train(everything, out=tmp_path / "run", max_minutes=max_minutes, **QUIET)
    assert "writing a snapshot, then stopping" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) == signal.getsignal(signal.SIGTERM) == handler
    snapshot = checkpoint.read_snapshot(tmp_path / "run" / "last.npz")
    assert (snapshot.epoch, snapshot.batch) == state
    resume(tmp_path / "run", verbose=0)
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.slow
def test_train_stops_at_once_on_second_signal(everything, tmp_path, monkeypatch, handlers):
    with monkeypatch.context() as patch:
        patch.setattr(signals, "_REPEATED_SECONDS", 0.0)
        send_in_batch(patch, 8, signal.SIGTERM, signal.SIGTERM)
        with pytest.raises(TerminatedError):
            train(everything, out=tmp_path / "run", **QUIET)
    snapshot = checkpoint.read_snapshot(tmp_path / "run" / "last.npz")
    assert (snapshot.epoch, snapshot.batch) == (1, 0), "expected the snapshot of the last epoch"


def test_held_signals_counts_repeated_signal_once(handlers):
    """`timeout` sends each signal twice."""
    reached = []

    def hold():
        with HeldSignals():
            for _ in range(2):
                signal.raise_signal(signal.SIGTERM)
                reached.append(signal.SIGTERM)

    with pytest.raises(TerminatedError):
        hold()
    assert len(reached) == 2


def test_held_signals_leaves_other_threads_and_ignored_signals_alone(handlers):
    handler, _ = handlers[signal.SIGTERM]
    found = []

    def hold():
        with HeldSignals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    assert found == [handler]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with HeldSignals() as held:
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    assert held.received is None


@pytest.mark.slow
def test_train_continues_if_signal_handler_does_not_raise(everything, tmp_path, monkeypatch, handlers):
    seen = []
    signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    recipe = dataclasses.replace(everything, epochs=1)
    send_in_batch(monkeypatch, 2, signal.SIGTERM)
    assert train(recipe, out=tmp_path / "run", **QUIET).complete
    assert seen == [signal.SIGTERM]


@pytest.mark.slow
@pytest.mark.skipif(not bfloat16_supported(), reason="150 times slower on this processor")
def test_resume_in_mixed_precision(everything, tmp_path):
    recipe = dataclasses.replace(everything, epochs=2, precision="bfloat16", batch_size=120)
    whole = train(recipe, out=tmp_path / "whole", **QUIET)
    stopped = train(recipe, out=tmp_path / "run", max_minutes=1e-9, **QUIET)
    assert not stopped.complete
    resume(stopped.directory, verbose=0)
    for found, expected in zip(weights(stopped.directory), weights(whole.directory), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_resume_after_crash_while_writing_snapshot(everything, whole, tmp_path, monkeypatch):
    replaced = os.replace

    def crashes(source, target):
        if pathlib.Path(target).name == "last.npz" and (tmp_path / "run" / "last.npz").exists():
            pathlib.Path(source).write_bytes(b"half")
            raise KilledError
        replaced(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crashes)
        with pytest.raises(KilledError):
            train(everything, out=tmp_path / "run", **QUIET)
    assert checkpoint.read_snapshot(tmp_path / "run" / "last.npz").epoch == 1
    left = tmp_path / "run" / ".focalnets-work-killed"  # a real crash leaves this directory
    left.mkdir(mode=0o700)
    (left / "lock").write_bytes(b"")
    (left / "last.npz").write_bytes(b"half")
    resume(tmp_path / "run", verbose=0)
    assert_same_run(tmp_path / "run", whole)
    assert not list((tmp_path / "run").glob(".focalnets-work-*"))


@pytest.mark.slow
def test_train_keeps_last_snapshot_on_full_disk(tmp_path, monkeypatch, capsys):
    saved = np.savez

    def full(file, **arrays):
        if "last" in file.name and (tmp_path / "run" / "last.npz").exists():
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        saved(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    assert main(["train", "--out", str(tmp_path / "run"), "--epochs", "3", "--monitor-every", "0"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert checkpoint.read_snapshot(tmp_path / "run" / "last.npz").epoch == 1
    assert not list((tmp_path / "run").glob(f"{PREFIX}*"))


@pytest.mark.slow
def test_resume_after_sigterm_and_sigkill_of_real_processes(tmp_path, capsys):
    """The first process gets SIGTERM, the second resumes and gets SIGKILL, the third resumes to the end."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "focalnets", "train", "--backend", keras.backend.backend()]
    begin = ["--out", str(run), "--epochs", "2000", "--monitor-every", "0", "--set", "batch_size=500"]

    def interrupted(options, number):
        """Start a process, wait for an epoch, send a signal, and return (exit code, standard error)."""
        before = len((run / "history.csv").read_bytes()) if (run / "history.csv").exists() else 0
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        running = subprocess.Popen([*command, *options], **pipes, text=True)
        for _ in range(1200):
            if (run / "history.csv").exists() and len((run / "history.csv").read_bytes()) > before:
                break
            time.sleep(0.1)
        for words in (["--out", str(run), "--force"], ["--resume", str(run)]):
            assert main(["train", *words]) == 2
            assert f"{run} is being written by process {running.pid} on " in capsys.readouterr().err
        running.send_signal(number)
        return running.wait(), running.communicate()[1]

    code, text = interrupted(begin, signal.SIGTERM)
    assert code == 143
    assert "writing a snapshot, then stopping" in text
    assert f"resume with: focalnets train --resume {run}\nfocalnets: stopped.\n" in text
    first = checkpoint.read_snapshot(run / "last.npz").epoch
    assert interrupted(["--resume", str(run)], signal.SIGKILL)[0] == -signal.SIGKILL
    assert all(entry.sha256 for entry in Manifest(run).files.values()), (
        "every file must have a hash after SIGKILL"
    )
    done = checkpoint.read_snapshot(run / "last.npz").epoch
    assert 1 <= first < done < 2000
    record = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps({**record, "epochs": done + 1}))
    ran = subprocess.run([*command, "--resume", str(run)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    with (run / "history.csv").open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(1, done + 2))


@pytest.mark.slow
def test_resume_rejects_invalid_and_changed_runs(whole, tmp_path, capsys, monkeypatch):
    with pytest.raises(ValueError, match="not a run that can be resumed"):
        resume(tmp_path)
    record = json.loads((whole.directory / "run.json").read_text())
    (tmp_path / "run").mkdir()
    for name in ("recipe.json", "last.npz", "best.npz"):
        (tmp_path / "run" / name).write_bytes((whole.directory / name).read_bytes())
    for change, words in (
        ({"backend": "theano"}, "was started on theano"),
        ({"fingerprint": "other"}, "changed since the run started"),
    ):
        (tmp_path / "run" / "run.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(ValueError, match=words):
            resume(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    (tmp_path / "run" / "last.npz").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"last\.npz is damaged"):
        resume(tmp_path / "run")
    assert main(["train", "--out", "a", "--resume", "b"]) == 2
    assert "either --out for a new run, or --resume" in capsys.readouterr().err
    assert main(["train", "--resume", "b", "--epochs", "9", "--data", "digits", "--out", "c"]) == 2
    assert "either --out for a new run, or --resume" in capsys.readouterr().err
    assert main(["train", "--resume", "b", "--epochs", "9", "--data", "digits"]) == 2
    assert "--epochs cannot be combined with --resume" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "cache_images"),
    [("folder", "memory"), ("folder", "stream"), ("zip", "stream"), ("csv", "stream")],
)
def test_resume_takes_moved_data_and_rejects_changed_data(form, cache_images, tmp_path, capsys):
    generator = np.random.default_rng(0)
    old = tmp_path / "old"
    for name in ("cat", "dog"):
        (old / "images" / name).mkdir(parents=True)
        for index in range(8):
            image = Image.fromarray(generator.integers(0, 256, (8, 8), "uint8"))
            image.save(old / "images" / name / f"{index}.png")
    rows = [
        f"images/{file.parent.name}/{file.name},{file.parent.name}" for file in sorted(old.rglob("*.png"))
    ]
    (old / "data.csv").write_text("\n".join(["path,label", *rows]))
    shutil.make_archive(old / "data", "zip", old / "images")
    data = {"folder": "images", "zip": "data.zip", "csv": "data.csv"}[form]
    recipe = dataclasses.replace(load_recipe("digits"), epochs=1, batch_size=5)
    run = tmp_path / "a run"
    train(recipe, old / data, run, max_minutes=1e-9, cache_images=cache_images, **QUIET)
    old.rename(tmp_path / "new")
    assert main(["train", "--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert f"The data of this run do not exist: {old / data}" in error
    assert f"focalnets train --resume '{run}' --data NEW_PATH" in error
    changed = shutil.copytree(tmp_path / "new", tmp_path / "changed") / "images"
    files = sorted(changed.rglob("*.png"))
    files[0].write_bytes(files[1].read_bytes())
    assert main(["train", "--resume", str(run), "--data", str(changed)]) == 2
    assert "the number of images is the same, but files, labels or contents differ" in capsys.readouterr().err
    for file in files[:3]:
        file.unlink()
    assert main(["train", "--resume", str(run), "--data", str(changed)]) == 2
    assert "10 training and 2 validation images at the start, 8 and 2 now" in capsys.readouterr().err
    moved = tmp_path / "new" / data
    assert main(["train", "--resume", str(run), "--data", str(moved)]) == 0
    for name in ("run.json", "recipe.json"):
        assert json.loads((run / name).read_text())["data"] == str(moved)
    assert main(["train", "--resume", str(run)]) == 0


@pytest.mark.slow
def test_train_fails_when_loss_is_nan_or_infinite(tmp_path, capsys):
    command = ["train", "--out", str(tmp_path / "run"), "--learning-rate", "1e30"]
    command += ["--set", "warmup_fraction=0", "clip_norm=0", "--monitor-every", "0"]
    assert main(command) == 1
    text = capsys.readouterr().err
    assert "became nan in epoch 1" in text or "became inf in epoch 1" in text
    assert "lower learning rate" in text


@pytest.mark.slow
def test_tensorboard_has_metrics_of_every_epoch(everything, tmp_path):
    """Includes the epoch at the time limit. With one batch per epoch, every epoch ends at a time limit."""
    from tensorboardX.proto import event_pb2

    recipe = dataclasses.replace(load_recipe("digits"), epochs=2, batch_size=2000)
    stopped = train(recipe, out=tmp_path / "run", tensorboard=True, max_minutes=1e-9, **QUIET)
    assert len(stopped.history) == 1
    result = resume(tmp_path / "run", verbose=0)
    found = {}
    for file in (result.directory / "tensorboard").iterdir():
        data, place = file.read_bytes(), 0
        while place < len(data):  # TFRecord: length, checksum, event, checksum
            length = int.from_bytes(data[place : place + 8], "little")
            event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            place += length + 16
    assert len(result.history) == 2
    for row in result.history:
        for name in ("loss", "val_accuracy"):
            assert found[name, row["epoch"]] == pytest.approx(row[name])


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [1, 2])
def test_finetuning_starts_from_preset_weights(whole, tmp_path, frozen):
    """With other classes, the backbone has the weights of the preset, and the head is new."""
    digits = open_dataset("digits", channels=1)
    arrays = {}
    for name, split in digits.splits.items():
        few = split.take(np.flatnonzero(split.labels < 3))
        arrays |= {f"x_{name}": few.images, f"y_{name}": few.labels}
    np.savez(tmp_path / "three.npz", **arrays, class_names=["zero", "one", "two"])
    augmentation = Augmentation(pad_crop=1)
    recipe = dataclasses.replace(
        load_recipe("finetune"),
        preset=str(whole.directory),
        epochs=1,
        frozen_stages=frozen,
        augmentation=augmentation,
    )
    result = train(recipe, data=str(tmp_path / "three.npz"), out=tmp_path / "run", **QUIET)
    tuned = FocalNetImageClassifier.from_preset(result.directory)
    start = FocalNetImageClassifier.from_preset(whole.directory)
    assert tuned.class_names == ("zero", "one", "two")
    changed = {
        old.path: bool(np.any(np.asarray(a) != np.asarray(b)))
        for old, a, b in zip(
            start.backbone.weights, start.backbone.get_weights(), tuned.backbone.get_weights(), strict=True
        )
    }
    learning = {path for path in changed if ("stage2" in path and frozen == 1) or path.startswith("norm")}
    assert len(changed) - len(learning) > 20
    assert not any(changed[path] for path in set(changed) - learning)
    assert all(changed[path] for path in learning if "kernel" in path or "norm" in path)
    with pytest.raises(ValueError, match="is the preset to start from"):
        train(recipe, data=str(tmp_path / "three.npz"), out=whole.directory, **QUIET)
    with pytest.raises(ValueError, match="frozen_stages must be at most 2"):
        train(
            dataclasses.replace(recipe, frozen_stages=5),
            data=str(tmp_path / "three.npz"),
            out=tmp_path / "r",
            **QUIET,
        )
    assert tuned.backbone.get_config()["embed_dim"] == start.backbone.get_config()["embed_dim"]
