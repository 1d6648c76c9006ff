"""Data sets, splits and batches."""

import io
import os
import shutil
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from focalnets import FocalNetImageConverter, open_dataset
from focalnets.data.find import describe_unreadable, find_images
from focalnets.data.loader import Loader
from focalnets.data.splits import Split, split_validation
from focalnets.images.augment import Augmentation
from focalnets.images.decode import read_image
from focalnets.training.task import ImageClassification


@pytest.fixture
def folder(tmp_path):
    """Folder of three classes, each with images of one color and several sizes."""
    for split, count in (("train", 4), ("test", 2)):
        for label, color in (("blue", (0, 0, 255)), ("green", (0, 255, 0)), ("red", (255, 0, 0))):
            (tmp_path / "images" / split / label).mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", (12 + i, 10), color)
                image.save(tmp_path / "images" / split / label / f"{i}.png")
    return tmp_path / "images"


def test_open_dataset_digits_split_is_fixed_and_stratified():
    splits = open_dataset("digits", channels=1).splits
    assert (len(splits["train"]), len(splits["test"])) == (1438, 359)
    assert splits["test"].images.max() == 255
    labels = np.concatenate([split.labels for split in splits.values()])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.bincount(splits["test"].labels).min() >= 34
    assert splits["test"].labels[:12].tolist() == [5, 9, 2, 4, 6, 7, 9, 3, 4, 6, 8, 5]


def test_open_dataset_reads_folder_and_zip_equally(folder, tmp_path):
    prepare = FocalNetImageConverter((8, 8)).prepare
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*.png"):
            file.write(path, path.relative_to(folder.parent))
    for source in (folder, archive):
        dataset = open_dataset(str(source), prepare=prepare)
        assert dataset.class_names == ("blue", "green", "red")
        assert dataset.splits["train"].images.shape == (12, 8, 8, 3)
        assert dataset.splits["test"].labels.tolist() == [0, 0, 1, 1, 2, 2]
        test = dataset.splits["test"]
        for image, label in zip(test.images, test.labels, strict=True):
            assert image[0, 0, 2 - label] == 255


def test_open_dataset_rejects_invalid_folders(folder, tmp_path):
    with pytest.raises(ValueError, match="differ in size"):
        open_dataset(str(folder))
    with pytest.raises(ValueError, match="is not a data set"):
        open_dataset(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images of the form"):
        open_dataset(str(tmp_path / "empty"))
    (folder / "train" / "red" / "bad.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"bad\.jpg: not a supported image: its content"):
        open_dataset(str(folder), prepare=FocalNetImageConverter((8, 8)).prepare)
    (folder / "train" / "red" / "bad.jpg").unlink()
    (folder / "test" / "pink").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "test" / "pink" / "0.png")
    with pytest.raises(ValueError, match="classes without training images: pink"):
        open_dataset(str(folder))


def test_read_image_converts_common_modes_to_uint8(tmp_path, monkeypatch):
    def saved(image, name, **options):
        image.save(tmp_path / name, **options)
        return read_image(tmp_path / name)

    grey16 = Image.fromarray(np.full((2, 3), 256 * 77, "uint16"))
    assert saved(grey16, "grey16.png")[0, 0].tolist() == [77] * 3
    half = Image.new("RGBA", (3, 2), (255, 0, 0, 0))
    assert saved(half, "clear.png")[0, 0].tolist() == [255] * 3
    assert saved(Image.new("P", (3, 2)), "palette.png").shape == (2, 3, 3)
    assert saved(Image.new("CMYK", (3, 2)), "cmyk.jpg").shape == (2, 3, 3)
    assert read_image(tmp_path / "cmyk.jpg", channels=1).shape == (2, 3, 1)
    Image.fromarray(np.zeros((2, 3), "float32")).save(tmp_path / "float.tiff")
    with pytest.raises(ValueError, match="32-bit pixels"):
        read_image(tmp_path / "float.tiff")
    turned = Image.Exif()
    turned[0x0112] = 6
    assert saved(Image.new("RGB", (3, 2)), "turned.jpg", exif=turned).shape == (3, 2, 3)
    monkeypatch.setattr("focalnets.images.decode.MAX_PIXELS", 5)
    with pytest.raises(ValueError, match="pixels exceed the limit"):
        read_image(tmp_path / "palette.png")


def test_open_dataset_ignores_system_files_and_skips_outer_folder(folder, tmp_path):
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "train" / ".ipynb_checkpoints" / "0.png").write_text("not an image")
    (folder / "train" / "red" / "._0.png").write_text("not an image")
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*.png"):
            file.write(path, path.relative_to(folder.parent))
        file.writestr("__MACOSX/images/train/red/._0.png", "not an image")
    for source in (folder, folder.parent, archive):
        dataset = open_dataset(str(source), prepare=FocalNetImageConverter((8, 8)).prepare)
        assert len(dataset.splits["train"]) == 12


@pytest.mark.parametrize(("name", "split"), [("test", "test"), ("validation", "val")])
def test_open_dataset_reads_archive_with_one_split(name, split, folder, tmp_path):
    archive = tmp_path / "one.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (folder / "train").rglob("*.png"):
            file.write(path, f"{name}/{path.parent.name}/{path.name}")
    dataset = open_dataset(str(archive), prepare=FocalNetImageConverter((8, 8)).prepare)
    assert {one: len(found) for one, found in dataset.splits.items()} == {split: 12}


def test_open_dataset_leaves_out_images_beside_split_folders(folder, tmp_path, caplog):
    archive = tmp_path / "beside.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in (folder / "train").rglob("*.png"):
            file.write(path, f"train/{path.parent.name}/{path.name}")
        for i in range(30):
            file.write(path, f"more/all/{i}.stray.png")
    dataset = open_dataset(str(archive), prepare=FocalNetImageConverter((8, 8)).prepare)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 12}
    line = "Left out 30 images outside the split folders: more/all/0.stray.png, more/all/1.stray.png, "
    assert caplog.messages == [line + "more/all/10.stray.png and 27 more."]
    assert [str(entry) for entry in dataset.left_out] == caplog.messages


def test_open_dataset_prefers_names_to_folders_and_rejects_run_directories(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / "digits")
    assert len(open_dataset("digits", channels=1).splits["test"]) == 359
    assert len(open_dataset("./digits", prepare=FocalNetImageConverter((8, 8)).prepare).splits["train"]) == 12
    (tmp_path / "digits" / "run.json").write_text("{}")
    with pytest.raises(ValueError, match="is a run directory of `focalnets train`, not a data set"):
        open_dataset("./digits")


def test_open_dataset_omits_empty_splits_of_arrays(tmp_path):
    images, labels = np.zeros((4, 8, 8, 3), "uint8"), np.array([0, 1, 0, 1])
    arrays = {"x_train": images, "y_train": labels, "x_test": images[:0], "y_test": labels[:0]}
    np.savez(tmp_path / "a.npz", **arrays)
    for cache_images in ("auto", "memory", "stream"):
        found = open_dataset(
            str(tmp_path / "a.npz"), prepare=FocalNetImageConverter((8, 8)).prepare, cache_images=cache_images
        )
        assert set(found.splits) == {"train"}
    with pytest.raises(ValueError, match="The split test is empty"):
        open_dataset(str(tmp_path / "a.npz"), only=("test",))


def test_split_fingerprint_depends_on_labels_order_and_images(folder):
    images, labels = np.arange(300 * 4, dtype="uint8").reshape(300, 2, 2, 1), np.arange(300) % 3
    split = Split(images, labels)
    of_files = open_dataset(
        str(folder), prepare=FocalNetImageConverter((8, 8)).prepare, cache_images="stream"
    ).splits["train"]
    for one in (split, of_files):
        prints = {
            one.fingerprint(),
            one.take(np.arange(len(one))[::-1]).fingerprint(),
            one.take([0]).fingerprint(),
        }
        assert len(prints) == 3
        assert one.take(np.arange(len(one))).fingerprint() == one.fingerprint()
    assert Split(np.roll(images, 1, 0), labels).fingerprint() != split.fingerprint()
    path = next((folder / "train" / "red").iterdir())
    path.rename(path.with_name("another.png"))
    again = open_dataset(
        str(folder), prepare=FocalNetImageConverter((8, 8)).prepare, cache_images="stream"
    ).splits["train"]
    assert again.fingerprint() != of_files.fingerprint()


def test_split_validation_draws_seeded_fraction_of_each_class():
    split = Split(np.arange(40).reshape(40, 1, 1, 1).astype("uint8"), np.arange(40) % 4)
    train, validation = split_validation(split, 0.2, seed=1)
    assert np.bincount(validation.labels).tolist() == [2] * 4
    rows = np.concatenate([train.images, validation.images]).ravel()
    assert sorted(rows) == list(range(40))
    np.testing.assert_array_equal(split_validation(split, 0.2, seed=1)[1].images, validation.images)
    assert np.any(split_validation(split, 0.2, seed=2)[1].images != validation.images)


def test_split_validation_draws_one_image_of_small_classes():
    split = Split(np.zeros((7, 1, 1, 1), "uint8"), np.array([0, 0, 0, 1, 1, 1, 2]))
    train, validation = split_validation(split, 0.1, seed=0)
    assert validation.labels.tolist() == [0, 1]
    assert np.bincount(train.labels).tolist() == [2, 2, 1]


def test_loader_batches_depend_on_seed_and_epoch():
    dataset = open_dataset("digits", channels=1)

    def batches(seed, epoch):
        changes = Augmentation(pad_crop=1, flip=True)
        loader = Loader(
            dataset.splits["train"],
            ImageClassification(10),
            100,
            shuffle=True,
            augmentation=changes,
            seed=seed,
        )
        loader.epoch = epoch
        return [loader[i] for i in range(len(loader))]

    first, same = batches(0, 3), batches(0, 3)
    assert [len(x) for x, _ in first] == [100] * 14 + [38]
    for (x, y), (x2, y2) in zip(first, same, strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)
        assert x.dtype == "uint8"
        assert np.all(y.sum(axis=1) == 1)
    assert (
        np.sum(np.concatenate([y for _, y in first]), axis=0).tolist()
        == np.bincount(dataset.splits["train"].labels).tolist()
    ), "an image is missing or repeated"
    for other in (batches(0, 4), batches(1, 3)):
        assert np.any(other[0][0] != first[0][0])


def test_open_dataset_draws_fixed_stratified_test_split(folder):
    prepare = FocalNetImageConverter((8, 8)).prepare
    dataset = open_dataset(str(folder / "train"), prepare=prepare)
    assert dataset.class_names == ("blue", "green", "red")
    assert np.bincount(dataset.splits["train"].labels).tolist() == [3, 3, 3]
    assert np.bincount(dataset.splits["test"].labels).tolist() == [1, 1, 1]
    again = open_dataset(str(folder / "train"), prepare=prepare)
    np.testing.assert_array_equal(again.splits["test"].images, dataset.splits["test"].images)


def test_open_dataset_test_split_is_stable_when_images_are_added(tmp_path):
    def split_of(count):
        for label in ("cat", "dog"):
            (tmp_path / "all" / label).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                color = (i, 0, 255 * (label == "dog"))
                Image.new("RGB", (4, 4), color).save(tmp_path / "all" / label / f"{count - i:03}.png")
        splits = open_dataset(str(tmp_path / "all")).splits
        return [{tuple(pixel) for pixel in splits[name].images[:, 0, 0]} for name in ("train", "test")]

    train, test = split_of(20)
    assert (len(train), len(test)) == (32, 8)
    for label in ("cat", "dog"):  # the new files come first by name
        Image.new("RGB", (4, 4), (99, 0, 255 * (label == "dog"))).save(tmp_path / "all" / label / "000.png")
    splits = open_dataset(str(tmp_path / "all")).splits
    assert len(splits["test"]) == 8
    later = {tuple(pixel) for pixel in splits["test"].images[:, 0, 0]}
    assert len(later & train) == 0
    assert len(later & test) >= 6


def test_open_dataset_accepts_folder_named_valid_and_class_named_train(folder, tmp_path, caplog):
    prepare = FocalNetImageConverter((8, 8)).prepare
    (folder / "test").rename(folder / "valid")
    shutil.copytree(folder / "valid", folder / "extra")
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*.png"):
            file.write(path, path.relative_to(folder.parent))
    for source in (folder, archive):
        caplog.clear()
        splits = open_dataset(str(source), prepare=prepare).splits
        assert {name: len(split) for name, split in splits.items()} == {"train": 12, "val": 6}
        assert "Left out 6 images outside the split folders" in caplog.text
        assert "extra/blue/0.png" in caplog.text
    vehicles = tmp_path / "vehicles"
    for name in ("train", "car"):
        shutil.copytree(folder / "train" / "red", vehicles / name)
    assert open_dataset(str(vehicles), prepare=prepare).class_names == ("car", "train")


def test_open_dataset_reads_and_validates_tables_and_arrays(folder, tmp_path):
    prepare = FocalNetImageConverter((8, 8)).prepare
    table = tmp_path / "list.csv"
    lines = ["label,path,split"]
    for split in ("train", "test"):
        lines += [
            f"{path.parent.name},{path.relative_to(tmp_path)},{split}"
            for path in (folder / split).rglob("*.png")
        ]
    table.write_text("\n".join(lines))
    listed = open_dataset(str(table), prepare=prepare)
    assert listed.class_names == ("blue", "green", "red")
    assert (len(listed.splits["train"]), len(listed.splits["test"])) == (12, 6)

    split = listed.splits["train"]
    np.savez(tmp_path / "a.npz", x_train=split.images, y_train=split.labels[:, None], class_names=list("bgr"))
    stored = open_dataset(str(tmp_path / "a.npz"))
    np.testing.assert_array_equal(stored.splits["train"].images, split.images)
    assert stored.class_names == ("b", "g", "r")
    gray = open_dataset(str(tmp_path / "a.npz"), channels=1).splits["train"].images
    np.testing.assert_array_equal(gray[0, ..., 0], np.asarray(Image.fromarray(split.images[0]).convert("L")))

    table.write_text("name,label\n")
    with pytest.raises(ValueError, match="columns path and label"):
        open_dataset(str(table))
    np.savez(tmp_path / "b.npz", images=split.images)
    with pytest.raises(ValueError, match="holds images; expected x_train"):
        open_dataset(str(tmp_path / "b.npz"))
    np.savez(tmp_path / "c.npz", x_train=np.zeros((1, 2, 2, 3)), y_train=np.zeros(1, int))
    with pytest.raises(ValueError, match="must be uint8"):
        open_dataset(str(tmp_path / "c.npz"))
    for labels, words in (
        (split.labels[:5], "and N labels y_train"),
        (np.eye(3)[split.labels], "one integer per image"),
        (split.labels - 1, "must not be negative"),
    ):
        np.savez(tmp_path / "e.npz", x_train=split.images, y_train=labels)
        with pytest.raises(ValueError, match=words):
            open_dataset(str(tmp_path / "e.npz"))
    np.savez(
        tmp_path / "e.npz", x_train=split.images, y_train=split.labels, x_test=split.images[:1], y_test=[7]
    )
    with pytest.raises(ValueError, match="range from 7 to 7; expected 0 to 2 for 3 classes"):
        open_dataset(str(tmp_path / "e.npz"))
    table.write_text("path,label\nimages/test/red/0.png\n")
    with pytest.raises(ValueError, match="line 2: path or label is missing"):
        open_dataset(str(table))
    np.savez(tmp_path / "d.npz", x_train=np.array([{}]), y_train=np.zeros(1))
    with pytest.raises(ValueError, match="holds objects"):
        open_dataset(str(tmp_path / "d.npz"))


@pytest.mark.slow
def test_open_dataset_reads_keras_cache(tmp_path):
    """The file is in Keras' cache, so the code of Keras runs without a download."""
    code = (
        "import numpy as np, os\n"
        "home = os.environ['KERAS_HOME']; os.makedirs(home + '/datasets', exist_ok=True)\n"
        "x = np.arange(6 * 28 * 28, dtype='uint8').reshape(6, 28, 28); y = np.arange(6, dtype='uint8')\n"
        "np.savez(home + '/datasets/mnist.npz', x_train=x[:4], y_train=y[:4], x_test=x[4:], y_test=y[4:])\n"
        "import focalnets, keras\n"
        "keras.utils.get_file = None\n"
        "import keras.src.datasets.mnist as m; m.get_file = lambda fname, **_: home + '/datasets/' + fname\n"
        "d = focalnets.open_dataset('mnist', channels=1)\n"
        "print(d.splits['test'].images.shape, d.splits['test'].labels.tolist(), d.class_names[9])"
    )
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": keras.backend.backend()}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.stdout.strip() == "(2, 28, 28, 1) [4, 5] 9", ran.stderr


def test_open_dataset_rejects_damaged_archives_and_tables(folder, tmp_path):
    archive = tmp_path / "deflated.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*.png")):
            other = tmp_path / "same.bmp"
            Image.open(path).save(other)
            file.write(other, path.relative_to(folder).with_suffix(".bmp"))
        damaged = file.infolist()[2]
    content = bytearray(archive.read_bytes())
    start = damaged.header_offset + 30 + len(damaged.filename)
    content[start : start + 20] = b"\xff" * 20
    archive.write_bytes(content)
    for cache_images in ("memory", "stream"):
        with pytest.raises(ValueError, match="1 unreadable image:"):
            open_dataset(
                str(archive), prepare=FocalNetImageConverter((8, 8)).prepare, cache_images=cache_images
            )
        found = open_dataset(
            str(archive),
            prepare=FocalNetImageConverter((8, 8)).prepare,
            cache_images=cache_images,
            on_bad_image="skip",
        )
        assert damaged.filename in found.unreadable[0]
        for split in found.splits.values():  # labels still belong to their images
            assert [2 - image[0, 0].argmax() for image in split.images] == split.labels.tolist()
    archive.write_bytes(content[:200])
    with pytest.raises(ValueError, match="not a zip file, or incomplete"):
        open_dataset(str(archive))
    (tmp_path / "excel.csv").write_bytes("path,label\nä.png,katze\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"excel\.csv is not UTF-8"):
        open_dataset(str(tmp_path / "excel.csv"))
    paths = [path.relative_to(tmp_path) for path in (folder / "train").rglob("0.png")]
    rows = "".join(f"{path},{path.parent.name}\n" for path in paths)
    (tmp_path / "one.csv").write_text(f"path,label\n{rows}")
    with pytest.raises(ValueError, match=r"The split test of .* because no class has a second image"):
        open_dataset(
            str(tmp_path / "one.csv"), prepare=FocalNetImageConverter((8, 8)).prepare, only=("test",)
        )


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x_train": np.zeros((4, 2, 2, 3), "uint8")}, "needs images x_train"),
        ({"x_train": np.zeros((4, 2, 2, 3), "uint8"), "y_train": np.zeros(3, int)}, "and N labels y_train"),
        (
            {"x_train": np.zeros((4, 2, 2, 3), "uint8"), "y_train": np.array(list("abcd"))},
            "one integer per image",
        ),
        ({"x_train": np.uint8(3), "y_train": np.zeros(1, int)}, "needs images x_train"),
        ({"x_train": np.zeros((0, 2, 2, 3), "uint8"), "y_train": np.zeros(0, int)}, "no images in x_train"),
        (
            {
                "x_train": np.zeros((2, 2, 2, 3), "uint8"),
                "y_train": np.arange(2),
                "class_names": np.array(["a", "a"]),
            },
            "Duplicate class names",
        ),
    ],
)
def test_open_dataset_rejects_invalid_arrays(arrays, words, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=words):
        open_dataset(str(tmp_path / "a.npz"))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"is not an \.npz file, or damaged"):
        open_dataset(str(tmp_path / "a.npz"))


@pytest.fixture
def strange_folder(tmp_path):
    """Folder of one class with readable and unreadable images of many kinds."""
    folder = tmp_path / "strange" / "thing"
    folder.mkdir(parents=True)
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype("uint8"))
    turned = Image.Exif()
    turned[0x0112] = 6
    photo.save(folder / "photo.jpg")
    photo.save(folder / "turned.jpg", exif=turned)
    photo.convert("L").save(folder / "gray.png")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.convert("P").save(folder / "palette.gif")
    photo.convert("RGBA").save(folder / "alpha.webp")
    Image.fromarray(np.full((20, 20), 30000, "uint16")).save(folder / "deep.png")
    photo.save(folder / "moving.gif", save_all=True, append_images=[photo.rotate(90)])
    photo.save(folder / "bitmap.bmp")
    photo.save(folder / "scan.tiff")
    photo.save(folder / "写真.jpg")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")

    whole = (folder / "photo.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "words.jpg").write_text("these are words")
    Image.new("1", (12_000, 12_000)).save(folder / "bomb.png")
    (folder / "folder.jpg").mkdir()
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    return folder.parent


BAD = {
    "bomb.png": "12000 x 12000 pixels exceed the limit of 64 million",
    "cut.jpg": "truncated",
    "empty.png": "an empty file",
    "folder.jpg": "a folder, not a file",
    "gone.png": "no such file, or a broken link",
    "words.jpg": "not a supported image: its content has no known image format",
}


def test_open_dataset_lists_or_skips_unreadable_images(strange_folder):
    prepare = FocalNetImageConverter((16, 16)).prepare
    with pytest.raises(ValueError, match="6 unreadable images:") as caught:
        open_dataset(str(strange_folder), prepare=prepare)
    for name, reason in BAD.items():
        assert any(name in line and reason in line for line in str(caught.value).splitlines()), name
    assert "--on-bad-image skip" in str(caught.value)

    dataset = open_dataset(str(strange_folder), prepare=prepare, on_bad_image="skip")
    assert len(dataset.unreadable) == 6
    assert sum(len(split) for split in dataset.splits.values()) == 12


def test_open_dataset_lists_unreadable_images_of_archive(strange_folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "strange.zip", "w") as archive:
        for path in sorted((strange_folder / "thing").iterdir()):
            if path.is_file():
                archive.write(path, f"thing/{path.name}")
    with pytest.raises(ValueError, match="4 unreadable images:") as caught:
        open_dataset(str(tmp_path / "strange.zip"), prepare=FocalNetImageConverter((16, 16)).prepare)
    for name in ("bomb.png", "cut.jpg", "empty.png", "words.jpg"):
        assert BAD[name] in str(caught.value)


def test_describe_unreadable_shortens_long_lists():
    text = describe_unreadable([f"{i}.jpg: no" for i in range(50)])
    assert "50 unreadable images" in text
    assert "19.jpg" in text
    assert "20.jpg" not in text
    assert "and 30 more" in text


def test_find_images_accepts_files_folders_patterns_and_lists(folder):
    red = folder / "test" / "red"
    everything = sorted(red.glob("*.png"))
    assert find_images([str(red)]) == everything
    assert find_images([str(red / "*.png")]) == everything
    assert find_images([str(everything[1]), str(everything[0])]) == everything[::-1]
    assert find_images(["-"], stdin=io.StringIO(f"{everything[0]}\n\n")) == everything[:1]
    with pytest.raises(ValueError, match=r"No image found at: .*nothing\.jpg, .*none\*"):
        find_images([str(red / "nothing.jpg"), str(red), str(red / "none*")])
    with pytest.raises(ValueError, match="No image given"):
        find_images([])


def test_split_one_of_each_takes_first_image_of_each_class():
    images = np.arange(5, dtype="uint8").reshape(5, 1, 1, 1)
    split = Split(images, np.array([2, 0, 2, 1, 0]))
    assert split.one_of_each(3).images.ravel().tolist() == [1, 3, 0]
    assert split.take([4, 2, 0]).one_of_each(1).images.ravel().tolist() == [4]
