"""Training from shards: order, memory, hosts, resumption, addresses and damage."""

import collections
import contextlib
import functools
import http.server
import io
import itertools
import json
import re
import tarfile
import threading

import keras
import numpy as np
import pytest
from PIL import Image

import focalnets
from focalnets.data.batch_part import BatchPart
from focalnets.data.loader import Loader
from focalnets.data.shards import images as shard_images
from focalnets.data.shards import listing, rows
from focalnets.data.shards.manifest import read_manifest, splits_of_shards
from focalnets.data.shards.order import lane_order
from focalnets.images.augment import Augmentation
from focalnets.training.task import ImageClassification

if keras.backend.backend() != "torch":
    pytest.skip("reading shards does not depend on the backend", allow_module_level=True)

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

NAMES = tuple(f"class {index}" for index in range(10))
COUNT, TRAIN, EACH = 600, 480, 60  # images in all, of them for training, and per shard


def pixels(index):
    """Image with a number that every test can read: one color per image."""
    return np.full((8, 8, 3), (index % 256, index // 256, 7), "uint8")


def number(image):
    """Number of an image of `pixels`."""
    return int(image[0, 0, 0]) + 256 * int(image[0, 0, 1])


def png(index):
    stream = io.BytesIO()
    Image.fromarray(pixels(index)).save(stream, "PNG")
    return stream.getvalue()


def label(index):
    return (index * 7) % 10


def write_tar(path, numbers, mode="w", labels=True, damaged=()):
    with tarfile.open(path, mode) as archive:
        for index in numbers:
            name = f"{index:05}" if labels else f"{NAMES[label(index)]}/{index:05}"
            files = {"png": png(index)[: 50 if index in damaged else None]}
            files |= {"cls": str(label(index)).encode(), "json": b"{}"} if labels else {}
            for kind, data in files.items():
                member = tarfile.TarInfo(f"{name}.{kind}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


def write_parquet(path, numbers, group=10, names=NAMES, missing=()):
    images = [None if i in missing else {"bytes": png(i), "path": None} for i in numbers]
    table = pyarrow.table({"image": images, "label": [label(index) for index in numbers]})
    if names:
        features = {"label": {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path, row_group_size=group)


@pytest.fixture(scope="module", params=["tar", "parquet"])
def folder(request, tmp_path_factory):
    """Folder of shards of 480 images for training and 120 for testing, in ten classes."""
    folder = tmp_path_factory.mktemp(request.param)
    for shard, start in enumerate(range(0, COUNT, EACH)):
        split = "train" if start < TRAIN else "test"
        path, numbers = folder / f"{split}-{shard:03}.{request.param}", range(start, start + EACH)
        write_tar(path, numbers) if request.param == "tar" else write_parquet(path, numbers)
    if request.param == "tar":
        (folder / "class_names.txt").write_text("\n".join(NAMES))
    return folder


def opened(folder, **settings):
    return focalnets.open_dataset(folder, cache_images="stream", **settings)


def loader(split, **settings):
    return Loader(split, ImageClassification(len(NAMES)), 64, shuffle=True, **settings)


def batches(loader, epoch=0, start=0):
    loader.epoch, loader.first_batch = epoch, start
    return [loader[index] for index in range(len(loader))]


def numbers(batches):
    return [number(image) for images, *_ in batches for image in images]


# === The data ===


def test_shards_have_the_images_and_labels_that_were_written(folder):
    for settings in ({"cache_images": "stream"}, {"cache_images": "memory"}):
        dataset = focalnets.open_dataset(folder, **settings)
        assert dataset.class_names == NAMES
        assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 480, "test": 120}
        for first, split in ((0, dataset.splits["train"]), (480, dataset.splits["test"])):
            found = [number(image) for image in split.images]
            assert found == list(range(first, first + len(split)))
            np.testing.assert_array_equal(split.labels, [label(index) for index in found])


def test_shards_only_of_a_split(folder):
    assert list(opened(folder, only=["test"]).splits) == ["test"]
    with pytest.raises(ValueError, match="no split 'val'"):
        opened(folder, only=["val"])


def test_tar_files_of_class_folders(tmp_path):
    write_tar(tmp_path / "photos-0.tar", range(100), labels=False)
    dataset = opened(tmp_path)
    assert dataset.class_names == NAMES
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 80, "test": 20}
    everything = [number(image) for split in dataset.splits.values() for image in split.images]
    assert sorted(everything) == list(range(100))


def test_numbers_without_names_are_sorted_as_numbers(tmp_path):
    with tarfile.open(tmp_path / "train.tar", "w") as archive:
        for index, text in enumerate(("10", "9", "100")):
            for kind, data in (("png", png(index)), ("cls", text.encode())):
                member = tarfile.TarInfo(f"{index}.{kind}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    assert opened(tmp_path).class_names == ("9", "10", "100")


def test_fingerprint_does_not_depend_on_the_place_but_on_the_content(folder, tmp_path):
    first = opened(folder).splits["train"].fingerprint()
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert opened(copy).splits["train"].fingerprint() == first
    write = write_parquet if (copy / "train-000.parquet").exists() else write_tar
    write(copy / f"train-000{'.parquet' if write is write_parquet else '.tar'}", range(1, 61))
    assert opened(copy).splits["train"].fingerprint() != first


# === Epochs ===


def test_every_epoch_has_every_image_once_in_another_order(folder):
    split = opened(folder).splits["train"]
    first, second = (numbers(batches(loader(split), epoch)) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(480))
    assert first != second
    assert first == numbers(batches(loader(split, threads=0), 0))
    assert first != numbers(batches(loader(split, seed=1), 0))
    for images, targets in batches(loader(split)):
        assert targets.argmax(axis=1).tolist() == [label(number(image)) for image in images]


def test_epoch_resumed_in_the_middle_has_the_same_batches(folder):
    split = opened(folder).splits["train"]
    changes = Augmentation(flip=True, pad_crop=1, erasing=0.5, mixup=0.4, cutmix=1.0)
    whole = batches(loader(split, augmentation=changes), 3)
    rest = batches(loader(opened(folder).splits["train"], augmentation=changes), 3, start=5)
    assert (len(whole), len(rest)) == (8, 3)
    for one, other in zip(whole[5:], rest, strict=True):
        for array, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, same)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_batches_of_one_without_reading_an_image_twice(folder, hosts, monkeypatch):
    read = collections.Counter()
    original = shard_images.ShardImages._read_chunk
    monkeypatch.setattr(shard_images, "SHUFFLE_BYTES", 16_000)
    monkeypatch.setattr(shard_images, "_CHUNK_IMAGES", 10)

    def counted(self, chunk):
        images = original(self, chunk)
        read[host] += len(images)
        return images

    monkeypatch.setattr(shard_images.ShardImages, "_read_chunk", counted)
    host = "one"
    whole = batches(loader(opened(folder).splits["train"]))
    parts = []
    for host in range(hosts):
        parts.append(batches(loader(opened(folder).splits["train"], part=BatchPart(host, hosts))))
    seen = [numbers(part) for part in parts]
    assert sorted(itertools.chain.from_iterable(seen)) == list(range(480))
    for index, (images, targets) in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([part[index][0] for part in parts]), images)
        np.testing.assert_array_equal(np.concatenate([part[index][1] for part in parts]), targets)
    # Opening the data reads a chunk, and lanes share a chunk where they meet.
    assert read["one"] < 480 + 3 * 10
    assert max(read[host] for host in range(hosts)) < 480 / hosts + 4 * 10


def test_memory_is_bounded_by_the_window(folder, monkeypatch):
    monkeypatch.setattr(shard_images, "SHUFFLE_BYTES", 8000)
    monkeypatch.setattr(shard_images, "_AHEAD_BYTES", 2000)
    split = opened(folder).splits["train"]
    found = loader(split, threads=0)
    found.epoch = 0
    held = []
    for index in range(len(found)):
        _ = found[index]
        chunks = {chunk for chunk in split.source._chunks if chunk not in split.source._recent}
        held.append(int(split.source._chunk_sizes[list(chunks)].sum()))
    total = int(split.source._chunk_sizes.sum())
    assert 0 < max(held) < 8000 + 2000 + 64 * len(png(0)) < total / 3
    found.epoch = 1
    assert not set(split.source._chunks) - set(split.source._recent)


def test_lane_order_moves_images_within_the_window():
    chunks = np.arange(6400) // 10
    order = lane_order(chunks, 64, 8, np.random.default_rng(0), 320)
    assert sorted(order) == list(range(6400))
    for lane in range(8):
        own = order.reshape(100, 64)[:, lane * 8 : lane * 8 + 8].ravel()
        used = collections.defaultdict(list)
        for place, chunk in enumerate(chunks[own]):
            used[chunk].append(place)
        assert max(max(places) - min(places) for places in used.values()) <= 2 * 40 + 10
        shared = set(chunks[own]) & set(chunks[np.setdiff1d(order, own)])
        assert len(shared) <= 2  # the first and the last chunk
    neighbors = np.abs(np.diff(chunks[order])) < 1
    assert neighbors.mean() < 0.3


# === Files ===


def test_addresses_give_the_same_batches(folder, tmp_path):
    class Ranges(http.server.SimpleHTTPRequestHandler):
        """Serves ranges of bytes, as object stores do."""

        def do_GET(self):
            data = (folder / self.path.lstrip("/")).read_bytes()
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
            start, end = (int(found[1]), int(found[2] or len(data) - 1)) if found else (0, len(data) - 1)
            part = data[start : end + 1]
            asked.append(len(part))
            self.send_response(206 if found else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part)

        def log_message(self, *_):
            pass

    pytest.importorskip("aiohttp")
    asked = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Ranges, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with contextlib.closing(server.socket):
        kind = next(folder.glob("train-*")).suffix
        manifest = tmp_path / "remote.txt"
        manifest.write_text(f"http://127.0.0.1:{server.server_port}/train-{{000..007}}{kind}\n")
        names = tmp_path / "class_names.txt"
        names.write_text("\n".join(NAMES))
        remote = opened(manifest)
        local = opened(folder)
        assert {name: len(split) for name, split in remote.splits.items()} == {"train": 480}
        whole = batches(loader(local.splits["train"]))
        found = batches(loader(remote.splits["train"]))
        for (images, _), (others, _) in zip(whole, found, strict=True):
            np.testing.assert_array_equal(images, others)
        server.shutdown()
    assert asked


def test_manifests_have_braces_and_patterns(folder, tmp_path):
    kind = next(folder.glob("train-*")).suffix
    manifest = tmp_path / "data.txt"
    manifest.write_text(f"{folder}/train-{{000..003}}{kind}\n{folder}/test-*{kind}\n")
    shards = read_manifest(manifest)
    assert [len(part) for part in (shards, [one for one in shards if "train" in one])] == [6, 4]
    manifest.write_text(f"{folder}/nothing-*{kind}\n")
    with pytest.raises(ValueError, match="no file matches"):
        read_manifest(manifest)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train-00000-of-00257.parquet", "validation-00000-of-00014.parquet"], ["train", "val"]),
        (["default/train/0000.parquet", "default/test/0000.parquet"], ["train", "test"]),
        (["s3://b/imagenet1k-train-{0}.tar", "s3://b/imagenet1k-validation-0.tar"], [None, None]),
        (["s3://b/imagenet1k-train-0001.tar", "s3://b/imagenet1k-validation-0.tar"], ["train", "val"]),
        (["photos/0000.tar", "photos/0001.tar"], [None, None]),
        (["/home/test/0000.tar", "/home/test/0001.tar"], [None, None]),
    ],
)
def test_splits_are_read_from_the_names_of_shards(names, expected):
    assert splits_of_shards(names) == expected


def test_headers_are_read_once_until_the_shard_changes(tmp_path, monkeypatch):
    write_tar(tmp_path / "train.tar", range(20))
    opened_first = opened(tmp_path)
    monkeypatch.setattr(listing, "rows_of_tar", lambda _: pytest.fail("read again"))
    assert len(opened(tmp_path).splits["train"]) == len(opened_first.splits["train"])
    monkeypatch.undo()
    write_tar(tmp_path / "train.tar", range(30))
    assert len(opened(tmp_path).splits["train"]) == 30
    (cached,) = [
        path
        for path in (rows.private_directory("shards")).glob("*.npz")
        if len(rows.ShardRows(**rows.read_npz(path))) == 30
    ]
    cached.write_bytes(b"damaged")
    assert len(opened(tmp_path).splits["train"]) == 30


# === Damage ===


def test_unreadable_images_are_named_or_left_out(tmp_path):
    write_tar(tmp_path / "train.tar", range(40), damaged=(3, 30))
    with pytest.raises(ValueError, match=r"train\.tar, image 3: .*--on-bad-image skip"):
        batches(loader(opened(tmp_path).splits["train"]))
    dataset = opened(tmp_path, on_bad_image="skip")
    assert len(dataset.unreadable) == 2
    assert sorted(numbers(batches(loader(dataset.splits["train"])))) == [
        index for index in range(40) if index not in (3, 30)
    ]


def test_rows_without_an_image_are_unreadable(tmp_path):
    write_parquet(tmp_path / "train.parquet", range(40), missing=(5,))
    with pytest.raises(ValueError, match=r"train\.parquet, image 5: the row has no image"):
        batches(loader(opened(tmp_path).splits["train"]))
    assert len(opened(tmp_path, on_bad_image="skip").splits["train"]) == 39


def test_large_row_groups_are_reported(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shard_images, "SHUFFLE_BYTES", 1000)
    write_parquet(tmp_path / "train-0.parquet", range(40), group=10)
    write_parquet(tmp_path / "train-1.parquet", range(40, 80), group=40)
    split = opened(tmp_path).splits["train"]
    assert [line for line in caplog.messages if "train-1.parquet" in line and "read at once" in line]
    assert sorted(numbers(batches(loader(split)))) == list(range(80))


def test_images_without_a_label_are_left_out_and_reported(tmp_path, caplog):
    write_tar(tmp_path / "train.tar", range(20))
    with tarfile.open(tmp_path / "train.tar", "a") as archive:
        member = tarfile.TarInfo("extra.png")
        member.size = len(png(77))
        archive.addfile(member, io.BytesIO(png(77)))
    dataset = opened(tmp_path)
    assert sorted(numbers(batches(loader(dataset.splits["train"])))) == list(range(20))
    assert "1 image without a label" in caplog.text


@pytest.mark.parametrize("kind", ["compressed", "cut", "text", "unlabeled", "mixed", "unknown"])
def test_errors_say_what_is_wrong(tmp_path, kind):
    write_tar(tmp_path / "train.tar", range(20))
    whole = (tmp_path / "train.tar").read_bytes()
    if kind == "compressed":
        write_tar(tmp_path / "train-1.tar.gz", range(20), "w:gz")
    elif kind == "cut":
        (tmp_path / "train.tar").write_bytes(whole[:20_100])
    elif kind == "text":
        (tmp_path / "train.tar").write_text("no archive")
    elif kind == "unlabeled":
        with tarfile.open(tmp_path / "train.tar", "w") as archive:
            member = tarfile.TarInfo("1.png")
            member.size = len(png(1))
            archive.addfile(member, io.BytesIO(png(1)))
    elif kind == "mixed":
        write_tar(tmp_path / "photos.tar", range(20))
    else:
        (tmp_path / "class_names.txt").write_text("a\nb\n")
    expected = {
        "compressed": "train-1.tar.gz: it is not a tar file, or compressed.*unpack",
        "cut": "train.tar: .*(ends after|unexpected end)",
        "text": "train.tar: it is not a tar file",
        "unlabeled": "None of the images .* has a label",
        "mixed": "photos.tar. Name all of them",
        "unknown": "has the label '.', which is not one of the 2 class names",
    }
    with pytest.raises(ValueError, match=expected[kind]):
        opened(tmp_path)


def test_shards_that_shrink_after_they_were_opened(tmp_path):
    write_tar(tmp_path / "train.tar", range(200))
    split = opened(tmp_path).splits["train"]
    (tmp_path / "train.tar").write_bytes((tmp_path / "train.tar").read_bytes()[:30_000])
    with pytest.raises(ValueError, match=r"the file ends after .* bytes; expected"):
        batches(loader(split))
