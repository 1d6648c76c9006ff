"""Images that are decoded on demand: batches, damaged files, resized caches and memory."""

import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

import focalnets.data.datasets
from focalnets import FocalNetImageConverter, open_dataset
from focalnets.cli import main
from focalnets.data.cache import square, write_cache
from focalnets.data.loader import Loader
from focalnets.images.augment import Augmentation
from focalnets.images.decode import as_pixels, check_image, open_image, read_image
from focalnets.threads import parallel_map
from focalnets.training.task import ImageClassification


def photo(height, width, seed):
    """Smooth image that, like a photo, JPEG and scaling hardly change."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3)).astype("uint8")
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folder of 30 JPEGs in two classes and many sizes."""
    folder = tmp_path_factory.mktemp("photos")
    for label in ("day", "night"):
        (folder / label).mkdir()
        for i in range(15):
            photo(40 + 3 * i, 90 - 2 * i, i).save(folder / label / f"{i:02}.jpg", quality=95)
    return folder


def batches(loader, epoch):
    loader.epoch = epoch
    return [loader[index] for index in range(len(loader))]


def assert_equal_batches(found, expected):
    for (images, targets), (other_images, other_targets) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(targets, other_targets)


EVERYTHING = Augmentation(
    pad_crop=2, color_jitter=0.3, randaugment=2, flip=True, erasing=0.5, mixup=0.4, cutmix=1.0
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        EVERYTHING,
        Augmentation(random_resized_crop=(0.3, 1.0), randaugment=1),
        Augmentation(resize_crop=28, flip=True),
    ],
    ids=["none", "everything", "random resized crop", "resize crop"],
)
def test_loader_batches_do_not_depend_on_threads(photos, augmentation):
    dataset = open_dataset(
        str(photos), prepare=FocalNetImageConverter((24, 24)).prepare, cache_images="stream"
    )
    training = dataset.splits["train"]
    assert not training.in_memory

    def loader(threads, seed=3):
        return Loader(training, ImageClassification(2), 7, True, augmentation, (24, 24), seed, threads)

    expected = batches(loader(0), epoch=5)
    assert expected[0][0].shape == (7, 24, 24, 3)
    assert expected[0][0].dtype == np.uint8
    for threads in (1, 2, 5):
        several = loader(threads)
        first = batches(several, epoch=4)
        assert_equal_batches(batches(several, epoch=5), expected)  # directly after another epoch
        assert np.any(first[0][0] != expected[0][0])
    resumed = loader(2)
    resumed.epoch = 5
    assert_equal_batches([resumed[2]], expected[2:3])  # without the batches before it
    assert np.any(batches(loader(0, seed=4), epoch=5)[0][0] != expected[0][0])


def test_loader_batches_are_equal_in_memory_and_streamed(photos, monkeypatch):
    prepare = FocalNetImageConverter((24, 24)).prepare
    loaders = []
    for cache_images in ("memory", "stream"):
        dataset = open_dataset(str(photos), prepare=prepare, cache_images=cache_images)
        loaders.append(Loader(dataset.splits["train"], ImageClassification(2), 8, True, EVERYTHING))
        assert dataset.splits["test"].images.shape == (6, 24, 24, 3)
    assert_equal_batches(batches(loaders[0], 1), batches(loaders[1], 1))
    assert open_dataset(str(photos), prepare=prepare).splits["train"].in_memory
    monkeypatch.setattr(focalnets.data.datasets, "IN_MEMORY_BYTES", 30 * 24 * 24 * 3 - 1)
    assert not open_dataset(str(photos), prepare=prepare).splits["train"].in_memory


def test_parallel_map_preserves_order_and_bounds_pending_results():
    read = []

    def items():
        for i in range(50):
            read.append(i)
            yield i

    found = parallel_map(lambda i: (time.sleep(0.001 * (i % 3)), i)[1], items(), workers=3, ahead=4)
    assert [next(found) for _ in range(10)] == list(range(10))
    assert len(read) <= 14
    assert list(found) == list(range(10, 50))

    def fails(i):
        if i == 2:
            raise ValueError("two")
        return i

    found = parallel_map(fails, range(9), workers=2)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(found)
    before = threading.active_count()
    unfinished = parallel_map(str, range(100), workers=4)
    next(unfinished)
    unfinished.close()
    assert threading.active_count() <= before  # threads of other tests may also end


@pytest.mark.slow
@pytest.mark.all_backends
def test_stream_lists_all_unreadable_images_at_first_failure(tmp_path, capsys):
    (tmp_path / "thing").mkdir()
    for i in range(6):
        photo(40, 40, i).save(tmp_path / "thing" / f"{i}.png")
    for i in (1, 4):  # damaged in the middle, which only decoding finds
        content = bytearray((tmp_path / "thing" / f"{i}.png").read_bytes())
        content[60:-60] = bytes(len(content) - 120)
        (tmp_path / "thing" / f"{i}.png").write_bytes(content)
    prepare = FocalNetImageConverter((16, 16)).prepare
    splits = open_dataset(str(tmp_path), prepare=prepare, cache_images="stream").splits
    with pytest.raises(ValueError, match="2 unreadable images:") as caught:
        assert [len(split.images) for split in splits.values()]
    assert "1.png" in str(caught.value)
    assert "4.png" in str(caught.value)
    capsys.readouterr()
    (tmp_path / "other").mkdir()
    for i in range(30):  # so that no damaged image is in the batch whose shape Keras reads first
        photo(40, 40, i).save(tmp_path / "other" / f"{i}.jpg")
    command = ["train", "--data", str(tmp_path), "--cache-images", "stream", "--out", str(tmp_path) + "-run"]
    command += ["--epochs", "1", "--batch-size", "1", "--set", "image_size=16", "--monitor-every", "0"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "2 unreadable images:" in error  # backends wrap errors of the data in their own errors
    assert "4.png" in error
    shutil.rmtree(tmp_path / "other")
    skipped = open_dataset(str(tmp_path), prepare=prepare, cache_images="stream", on_bad_image="skip")
    assert len(skipped.unreadable) == 2
    assert sum(len(split.images) for split in skipped.splits.values()) == 4


def test_check_image_finds_truncated_files(tmp_path):
    for suffix in ("jpg", "png", "gif"):
        path = tmp_path / f"whole.{suffix}"
        photo(60, 60, 0).save(path)
        check_image(path)
        (tmp_path / f"cut.{suffix}").write_bytes(path.read_bytes()[:-100])
        with pytest.raises(ValueError, match=rf"cut\.{suffix}: the file is truncated"):
            check_image(tmp_path / f"cut.{suffix}")
    exif = Image.Exif()
    thumbnail = (tmp_path / "whole.jpg").read_bytes()
    exif[0x9286] = b"ASCII\0\0\0" + thumbnail[:2000] + b"\xff\xd9"  # a JPEG inside the metadata
    photo(90, 90, 1).save(tmp_path / "camera.jpg", exif=exif)
    check_image(tmp_path / "camera.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "camera.jpg").read_bytes()[:-300])
    with pytest.raises(ValueError, match="the file is truncated"):
        check_image(tmp_path / "half.jpg")
    (tmp_path / "more.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes() + b"camera notes" * 50)
    check_image(tmp_path / "more.jpg")


@pytest.mark.parametrize("turned", [False, True])
def test_open_image_reduces_large_jpeg(tmp_path, turned):
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    image = photo(800, 1200, 0)
    image.save(tmp_path / "large.jpg", quality=95, exif=exif)
    sizes = []

    def smallest(height, width):
        sizes.append((height, width))
        return (height // 4, width // 4)

    small = open_image(tmp_path / "large.jpg", smallest=smallest)
    assert sizes == [(1200, 800) if turned else (800, 1200)]
    assert (small.height, small.width) == ((300, 200) if turned else (200, 300))
    whole = Image.fromarray(read_image(tmp_path / "large.jpg"))
    difference = np.int16(as_pixels(small)) - np.int16(as_pixels(whole.resize(small.size)))
    assert np.abs(difference).mean() < 2


def test_cache_stores_resized_images(photos, tmp_path, capsys):
    dataset = open_dataset(str(photos), prepare=square(20), cache_images="stream")
    write_cache(dataset, tmp_path / "cache", photos)
    stored = open_dataset(str(tmp_path / "cache"))
    assert stored.class_names == ("day", "night")
    for name, split in dataset.splits.items():
        np.testing.assert_array_equal(stored.splits[name].images, split.images)
        np.testing.assert_array_equal(stored.splits[name].labels, split.labels)
    train = stored.splits["train"].take([3, 5])
    np.testing.assert_array_equal(train.images, dataset.splits["train"].images[[3, 5]])

    crops = Augmentation(random_resized_crop=(0.2, 1.0))
    raw = open_dataset(
        str(tmp_path / "cache"), prepare=FocalNetImageConverter((12, 12)).prepare, cache_images="stream"
    )
    loader = Loader(raw.splits["train"], ImageClassification(2), 8, augmentation=crops, image_size=(12, 12))
    assert loader[0][0].shape == (8, 12, 12, 3)

    command = ["cache", str(photos), "--out", str(tmp_path / "again"), "--image-size", "20"]
    assert main(command) == 0
    assert "train: 24 images" in capsys.readouterr().out
    assert main(command) == 2
    assert "replace the cache with --force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    for text in ("5", "{}", '{"focalnets_cache": 1}'):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "cache.json").write_text(text)
        assert main(["cache", str(tmp_path / "other"), "--out", str(tmp_path / "x")]) == 2
        assert "holds no images" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("hello")
    assert main(["cache", str(photos), "--out", str(tmp_path / "mine"), "--force"]) == 2
    assert (tmp_path / "mine" / "letter.txt").exists()
    np.testing.assert_array_equal(
        open_dataset(str(tmp_path / "again")).splits["test"].images, dataset.splits["test"].images
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the test reads /proc/self/statm, which only Linux has")
def test_loader_streams_with_little_memory(tmp_path):
    """Decoding 400 images of 3 MB in an epoch needs less than a tenth of their total size.

    A separate process is needed, because memory that earlier tests released would hide a leak.
    """
    (tmp_path / "thing").mkdir()
    photo(1000, 1000, 0).save(tmp_path / "thing" / "0.jpg")
    for i in range(1, 400):
        os.link(tmp_path / "thing" / "0.jpg", tmp_path / "thing" / f"{i}.jpg")
    code = """
import os, sys
import focalnets
from focalnets.data.loader import Loader
from focalnets.training.task import ImageClassification

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

prepare = focalnets.FocalNetImageConverter((64, 64)).prepare
dataset = focalnets.open_dataset(sys.argv[1], prepare=prepare, cache_images="stream")
loader = Loader(dataset.splits["train"], ImageClassification(1), 16, threads=2)
loader[0]
before, most = resident(), 0
for index in range(len(loader)):
    loader[index]
    most = max(most, resident())
print(most - before)
"""
    ran = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 0.1 * 400 * 3e6
