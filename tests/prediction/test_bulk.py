"""Shards of images: every image is one row, also when the work is divided or repeated."""

import io
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import time

import keras
import numpy as np
import pytest
from PIL import Image

import focalnets
from focalnets.cli import main
from focalnets.data.shards.manifest import read_manifest
from focalnets.data.shards.read import read_shard
from focalnets.prediction import bulk
from focalnets.prediction.bulk import merge_shards, predict_shards

pytest.importorskip("pyarrow")
import pyarrow
from pyarrow import parquet

if keras.backend.backend() != "torch":
    pytest.skip("reading shards does not depend on the backend", allow_module_level=True)

DIGITS = focalnets.open_dataset("digits", channels=1).splits["test"]


def png(index):
    stream = io.BytesIO()
    Image.fromarray(DIGITS.images[index][..., 0]).save(stream, "PNG")
    return stream.getvalue()


def write_tar(path, rows, suffix=""):
    with tarfile.open(path, f"w{suffix}") as archive:
        for index in rows:
            files = {"png": png(index), "cls": str(DIGITS.labels[index]).encode(), "json": b"{}"}
            if index % 10 == 7:
                files["png"] = files["png"][:60]
            for kind, data in files.items():
                member = tarfile.TarInfo(f"sub/{index:05}.{kind}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Manifest of four shards of 100 images: tar, compressed tar, Parquet, folder. Every tenth is damaged."""
    folder = tmp_path_factory.mktemp("shards")
    write_tar(folder / "a.tar", range(25))
    write_tar(folder / "b.tar.gz", range(25, 50), ":gz")
    images = [{"bytes": png(i)[: 60 if i % 10 == 7 else None], "path": f"{i}.png"} for i in range(50, 75)]
    labels = [int(DIGITS.labels[index]) for index in range(50, 75)]
    parquet.write_table(pyarrow.table({"image": images, "label": labels}), folder / "c.parquet")
    (folder / "d").mkdir()
    for index in range(75, 100):
        (folder / "d" / f"{index}.png").write_bytes(png(index)[: 60 if index % 10 == 7 else None])
    manifest = folder / "shards.txt"
    manifest.write_text("# digits\na.tar\nb.tar.gz\n\nc.parquet\nd\n")
    return manifest


def rows_of(path):
    return parquet.read_table(path).to_pylist()


def test_shards_are_read_in_order(shards):
    a, b, c, d = (list(read_shard(one)) for one in read_manifest(shards))
    assert [image.key for image in a] == [f"sub/{index:05}" for index in range(25)]
    assert [image.key for image in c] == [f"{index}.png" for index in range(50, 75)]
    assert [image.key for image in d] == sorted(f"{index}.png" for index in range(75, 100))
    assert a[3].data == png(3)
    assert [image.label for image in (*a, *b, *c)] == [str(label) for label in DIGITS.labels[:75]]
    assert {image.label for image in d} == {None}


def test_large_files_are_one_row_with_their_label(shards, monkeypatch):
    monkeypatch.setattr("focalnets.data.shards.tars._MOST_BYTES", 10)
    (a, *_) = read_manifest(shards)
    found = list(read_shard(a))
    assert [image.label for image in found] == [str(label) for label in DIGITS.labels[:25]]
    assert all("expected at most 10" in image.problem and image.data is None for image in found)


def test_shards_at_addresses(shards, tmp_path):
    import fsspec

    (a, *_) = read_manifest(shards)
    with fsspec.open("memory://bucket/a.tar", "wb") as file:
        file.write(pathlib.Path(a).read_bytes())
    manifest = tmp_path / "addresses.txt"
    manifest.write_text(f"memory://bucket/a.tar\nfile://{pathlib.Path(a).parent}/c.parquet\n")
    remote, table = (list(read_shard(one)) for one in read_manifest(manifest))
    assert remote == list(read_shard(a))
    assert len(table) == 25


@pytest.mark.slow
def test_every_image_is_one_row(shards, tiny_preset, tmp_path, caplog):
    out = tmp_path / "out"
    first = predict_shards(tiny_preset, shards, out, shard=(1, 2), top=3, engine="keras")
    assert sorted(path.name for path in out.iterdir()) == ["shard-000001.parquet", "shard-000003.parquet"]
    assert (first.images, first.unreadable, first.skipped) == (50, 6, 0)
    with pytest.raises(ValueError, match="2 of 4 shards are not done: shard-000000"):
        merge_shards(shards, out, tmp_path / "all.parquet")
    whole = predict_shards(tiny_preset, shards, out, top=3, engine="keras")
    assert (whole.images, whole.unreadable, whole.skipped) == (100, 10, 2)
    merged = merge_shards(shards, out, tmp_path / "all.parquet")
    assert merged.images == 100
    rows = rows_of(tmp_path / "all.parquet")
    assert [(row["shard"], row["row"]) for row in rows] == [(n // 25, n % 25) for n in range(100)]
    assert [index for index, row in enumerate(rows[:75]) if row["problem"]] == [7, 17, 27, 37, 47, 57, 67]
    assert all("cannot" in row["problem"] or "truncated" in row["problem"] for row in rows if row["problem"])
    predictor = focalnets.Predictor(tiny_preset)
    good = [index for index in range(75) if index % 10 != 7]
    logits = predictor.logits([DIGITS.images[index] for index in good])
    for index, one in zip(good, bulk.softmax(logits), strict=True):
        best = np.argsort(-one, kind="stable")[:3]
        assert rows[index]["classes"] == [predictor.class_names[place] for place in best]
        np.testing.assert_allclose(rows[index]["probabilities"], one[best], rtol=1e-4)
    right = [rows[index]["classes"][0] == str(DIGITS.labels[index]) for index in good]
    assert merged.accuracy == pytest.approx(np.mean(right))
    with pytest.raises(FileExistsError):
        merge_shards(shards, out, tmp_path / "all.parquet")
    with pytest.raises(ValueError, match="has results for top 3; expected 5"):
        predict_shards(tiny_preset, shards, out, engine="keras")


@pytest.mark.slow
def test_a_damaged_shard_does_not_stop_the_others(shards, tiny_preset, tmp_path):
    broken = tmp_path / "broken.tar"
    broken.write_bytes(pathlib.Path(read_manifest(shards)[0]).read_bytes()[:20_000])
    manifest = tmp_path / "shards.txt"
    manifest.write_text(f"broken.tar\n{read_manifest(shards)[2]}\nnowhere.tar\n{tmp_path / 'text.csv'}\n")
    (tmp_path / "text.csv").write_text("a,b")
    with pytest.raises(ValueError, match="3 of 4 shards failed") as caught:
        predict_shards(tiny_preset, manifest, tmp_path / "out", engine="keras")
    text = str(caught.value)
    assert "broken.tar: " in text
    assert "nowhere.tar: " in text
    assert "text.csv: expected a .tar" in text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["shard-000001.parquet"]


@pytest.mark.slow
def test_killed_process_leaves_only_complete_files(shards, tiny_preset, tmp_path):
    code = f"""
import time
from focalnets.prediction import bulk
original = bulk._predicted
def slowly(*arguments):
    for row in original(*arguments):
        time.sleep(0.02)
        yield row
bulk._predicted = slowly
bulk.predict_shards({str(tiny_preset)!r}, {str(shards)!r}, {str(tmp_path / "out")!r}, engine="keras")
"""
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "KERAS_BACKEND": "torch"})
    while not list((tmp_path / "out").glob("shard-000001.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = predict_shards(tiny_preset, shards, tmp_path / "out", engine="keras")
    assert (result.images, result.skipped) == (100, 2)


@pytest.mark.slow
def test_command_line(shards, tiny_preset, tmp_path, capsys):
    arguments = ["predict", tiny_preset, "--manifest", str(shards), "--out", str(tmp_path / "out")]
    arguments += ["--engine", "keras"]
    for part in ("0/3", "1/3", "2/3"):
        assert main([*arguments, "--shard", part]) == 0
    assert main([*arguments, "--merge", str(tmp_path / "all.parquet")]) == 0
    output = capsys.readouterr().out
    assert "50 images in 2 shards; 5 unreadable; accuracy 0." in output
    assert "100 images in 4 shards, 4 done before; 10 unreadable" in output
    assert len(rows_of(tmp_path / "all.parquet")) == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--manifest", "x.txt"], "--manifest needs --out"),
        (["--manifest", "x.txt", "--out", "o"], "Manifest not found: "),
        (["--out", "o"], "--out needs --manifest"),
        (["--manifest", "x.txt", "--out", "o", "--json"], "Leave out --json and --csv"),
        (["--manifest", "x.txt", "--out", "o", "--shard", "3/3"], "I/N with I from 0 to N - 1"),
        (
            ["--manifest", "x.txt", "--out", "o", "--shard", "0/3", "--merge", "m"],
            "either --shard or --merge",
        ),
    ],
)
def test_contradicting_options(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "focalnet_nano_cifar10", *arguments]) != 0
    assert message in capsys.readouterr().err


def test_manifests(tmp_path):
    path = tmp_path / "m.txt"
    for text, message in (("# nothing\n", "lists no shards"), ("a.tar\na.tar\n", "lists a shard twice")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_manifest(path)
    path.write_text("a.tar\n")
    with pytest.raises(ValueError, match=r"shard must be \(i, n\)"):
        predict_shards("focalnet_nano_cifar10", path, tmp_path / "out", shard=(2, 2))
