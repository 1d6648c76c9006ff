"""Shards of images: every image is one row, also when the work is divided or repeated."""

import io
import json
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
from focalnets.prediction.bulk import (
    embed_shards,
    evaluate_shards,
    merge_evaluations,
    merge_shards,
    predict_shards,
)
from focalnets.prediction.predictor import softmax

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
    for index, one in zip(good, softmax(logits), strict=True):
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
from focalnets.prediction.shard_jobs import ShardWorker
original = ShardWorker._rows
def slowly(*arguments):
    for row in original(*arguments):
        time.sleep(0.02)
        yield row
ShardWorker._rows = slowly
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


@pytest.fixture(scope="module")
def other_preset(tiny_preset, tmp_path_factory):
    """The network of `tiny_preset` with other weights."""
    network = focalnets.FocalNetImageClassifier.from_preset(tiny_preset)
    network.head.kernel.assign(network.head.kernel * 50)
    directory = tmp_path_factory.mktemp("other") / "preset"
    network.save_to_preset(directory)
    return str(directory)


@pytest.mark.slow
def test_merge_refuses_results_of_two_networks(shards, tiny_preset, other_preset, tmp_path):
    predict_shards(tiny_preset, shards, tmp_path / "out", shard=(0, 2), engine="keras")
    predict_shards(other_preset, shards, tmp_path / "out", shard=(1, 2), engine="keras")
    with pytest.raises(ValueError, match=r"shard-000001\.parquet has results for preset"):
        merge_shards(shards, tmp_path / "out", tmp_path / "all.parquet")
    assert not (tmp_path / "all.parquet").exists()


@pytest.mark.slow
def test_jobs_refuse_results_of_other_jobs(shards, tiny_preset, tmp_path):
    predict_shards(tiny_preset, shards, tmp_path / "out", shard=(0, 4), engine="keras")
    with pytest.raises(ValueError, match="has results for job 'predict'; expected 'embed'"):
        embed_shards(tiny_preset, shards, tmp_path / "out", engine="keras")
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["keras", "onnxruntime", "openvino"])
def test_embeddings_are_the_input_of_the_head(shards, other_preset, tmp_path, engine):
    for package in () if engine == "keras" else ("onnx", engine):
        pytest.importorskip(package)
    for part in range(2):
        embed_shards(other_preset, shards, tmp_path / "out", shard=(part, 2), engine=engine)
    merged = merge_shards(shards, tmp_path / "out", tmp_path / "all.parquet")
    assert (merged.images, merged.unreadable, merged.accuracy) == (100, 10, None)
    table = parquet.read_table(tmp_path / "all.parquet")
    assert table.column_names == ["shard", "row", "key", "embedding", "label", "problem"]
    assert table.schema.field("embedding").type == pyarrow.list_(pyarrow.float32(), 32)
    rows = table.to_pylist()
    assert [row["embedding"] is None for row in rows] == [row["problem"] is not None for row in rows]
    good = [index for index in range(75) if index % 10 != 7]
    network = focalnets.FocalNetImageClassifier.from_preset(other_preset)
    kernel, bias = network.head.get_weights()
    found = np.array([rows[index]["embedding"] for index in good]) @ kernel + bias
    expected = focalnets.Predictor(network).logits([DIGITS.images[index] for index in good])
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.ptp(found[:, 0]) > 0.01 * np.abs(expected).max(), "images must differ"


@pytest.mark.slow
def test_embed_refuses_exports_without_features(shards, tiny_preset, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    focalnets.export(tiny_preset, tmp_path / "export")
    embed_shards(tmp_path / "export", shards, tmp_path / "out", engine="onnxruntime")
    graph = onnx.load(tmp_path / "export" / "model.onnx")  # as earlier versions wrote it
    del graph.graph.output[2]
    onnx.save(graph, tmp_path / "export" / "model.onnx")
    with pytest.raises(ValueError, match=r"has no output 'features'.* Export the network again"):
        embed_shards(tmp_path / "export", shards, tmp_path / "other", engine="onnxruntime")


@pytest.mark.slow
def test_metrics_of_shards_are_those_of_evaluate(shards, other_preset, tmp_path):
    more = tmp_path / "more.parquet"
    images = [{"bytes": png(index), "path": f"{index}.png"} for index in range(100, 130)]
    labels = [("zebra", "-1", str(DIGITS.labels[index]))[index % 3] for index in range(100, 130)]
    parquet.write_table(pyarrow.table({"image": images, "label": labels}), more)
    manifest = tmp_path / "shards.txt"
    manifest.write_text("\n".join([*read_manifest(shards), str(more)]))
    good = [index for index in range(75) if index % 10 != 7] + [i for i in range(100, 130) if i % 3 == 2]
    for index in good:
        path = tmp_path / "folder" / str(DIGITS.labels[index]) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(index))
    expected = focalnets.evaluate(other_preset, str(tmp_path / "folder"), split="all")
    out = tmp_path / "out"
    parts = [evaluate_shards(other_preset, manifest, out, shard=(n, 2), engine="keras") for n in range(2)]
    assert sum(part.evaluation.images for part in parts) == len(good)
    merged = merge_evaluations(other_preset, manifest, out)
    assert (merged.images, merged.unreadable, merged.unlabeled) == (130, 10, 22)
    assert merged.unknown == {"zebra": 10, "-1": 10}
    found = merged.evaluation
    assert found.images == expected.images == len(good)
    assert 0 < found.top1 < 1
    assert found.top5 < 1
    for name in ("top1", "top5", "loss", "ece"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-5), name
    assert found.per_class == expected.per_class
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    np.testing.assert_allclose(found.bins, expected.bins, rtol=1e-5)
    assert merged.accuracy == found.top1
    with pytest.raises(ValueError, match="has results for preset"):
        merge_evaluations("focalnet_nano_cifar10", manifest, out)


@pytest.mark.slow
def test_labels_are_names_identifiers_or_indices(tiny_preset, tmp_path):
    network = focalnets.FocalNetImageClassifier.from_preset(tiny_preset)
    network.class_names = ["tench", "3", *(f"class {index}" for index in range(8))]
    network.save_to_preset(tmp_path / "preset")
    labels = ["tench", "n01440764", "0", "3", "1", "009", "10", "n99999999", None]
    images = [{"bytes": png(0), "path": str(index)} for index in range(len(labels))]
    parquet.write_table(pyarrow.table({"image": images, "label": labels}), tmp_path / "a.parquet")
    (tmp_path / "shards.txt").write_text("a.parquet")
    result = evaluate_shards(tmp_path / "preset", tmp_path / "shards.txt", tmp_path / "out", engine="keras")
    expected = ["tench", "tench", "tench", "3", "3", "class 7", "10", "n99999999", None]
    rows = rows_of(result.files[0])
    assert [row["label"] for row in rows] == expected
    assert [row["rank"] is None for row in rows] == [False] * 6 + [True] * 3
    assert (result.unlabeled, result.unknown) == (1, {"10": 1, "n99999999": 1})


@pytest.mark.slow
def test_not_finite_logits_stop_the_job(shards, tiny_preset, tmp_path):
    network = focalnets.FocalNetImageClassifier.from_preset(tiny_preset)
    network.head.bias.assign(network.head.bias * np.nan)
    network.save_to_preset(tmp_path / "preset")
    with pytest.raises(ValueError, match=r"^Some logits are NaN or infinite"):
        predict_shards(tmp_path / "preset", shards, tmp_path / "out", engine="keras")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_command_line_of_evaluate_and_embed(shards, other_preset, tmp_path, capsys):
    options = ["--manifest", str(shards), "--engine", "keras", "--out"]
    evaluate = ["evaluate", other_preset, *options, str(tmp_path / "scores")]
    for part in ("0/2", "1/2"):
        assert main([*evaluate, "--shard", part]) == 0
    assert "Not evaluated: 6 unreadable, 22 without a label." in capsys.readouterr().out
    assert main([*evaluate, "--merge", str(tmp_path / "merged"), "--html"]) == 0
    output = capsys.readouterr().out
    assert "images: 68" in output
    assert "100 images in 4 shards, 4 done before; 10 unreadable; accuracy 0." in output
    assert "Not evaluated: 10 unreadable, 22 without a label." in output
    written = json.loads((tmp_path / "merged" / "evaluation.json").read_text())
    assert written["images"] == 68
    assert (tmp_path / "merged" / "evaluation.html").is_file()
    assert main([*evaluate, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["top1"] == written["top1"]
    assert (found["rows"], found["unlabeled"], found["unknown_labels"]) == (100, 22, {})
    embed = ["embed", other_preset, *options, str(tmp_path / "features")]
    assert main(embed) == 0
    assert main([*embed, "--merge", str(tmp_path / "features.parquet")]) == 0
    assert "100 images in 4 shards, 4 done before; 10 unreadable\n" in capsys.readouterr().out
    assert len(rows_of(tmp_path / "features.parquet")) == 100


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
        (["evaluate", "--out", "o"], "Give either --data, a data set, or --manifest"),
        (["evaluate", "--data", "digits", "--manifest", "x.txt"], "Give either --data, a data set, or"),
        (["evaluate", "--manifest", "x.txt", "--out", "o", "--tta", "flip"], "--tta needs --data"),
        (["evaluate", "--manifest", "x.txt", "--out", "o", "--html"], "--html needs --merge"),
        (["evaluate", "--manifest", "x.txt", "--out", "o"], "Manifest not found"),
        (["evaluate", "--data", "digits", "--shard", "0/2"], "--shard needs --manifest"),
        (["evaluate", "--data", "digits", "--engine", "openvino"], "--engine openvino needs --manifest"),
        (["embed", "--out", "o"], "--manifest"),
        (["embed", "--manifest", "x.txt", "--out", "o"], "Manifest not found"),
        (["embed", "--manifest", "x.txt", "--out", "o", "--shard", "5/4"], "I/N with I from 0 to N - 1"),
        (
            ["embed", "--manifest", "x.txt", "--out", "o", "--ray", "auto", "--merge", "m"],
            "either --ray or --merge",
        ),
        (["embed", "--manifest", "x.txt", "--out", "o", "--ray-cpus", "2"], "--ray-cpus needs --ray"),
        (["embed", "--manifest", "x.txt", "--out", "o", "--ray", "a", "--ray-gpus", "-1"], "at least 0"),
    ],
)
def test_contradicting_options_of_evaluate_and_embed(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verb, *options = arguments
    assert main([verb, "focalnet_nano_cifar10", *options]) != 0
    assert message in capsys.readouterr().err


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
