"""Data sets and batches."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from focalnets import ImageConverter, open_dataset
from focalnets._io import read_image
from focalnets.data.datasets import Split, split_validation
from focalnets.data.loader import Loader


@pytest.fixture
def folder(tmp_path):
    """Three classes, pictures of one colour each, of two sizes."""
    for split, count in (("train", 4), ("test", 2)):
        for label, colour in (("blue", (0, 0, 255)), ("green", (0, 255, 0)), ("red", (255, 0, 0))):
            (tmp_path / "pictures" / split / label).mkdir(parents=True)
            for i in range(count):
                picture = Image.new("RGB", (12 + i, 10), colour)
                picture.save(tmp_path / "pictures" / split / label / f"{i}.png")
    return tmp_path / "pictures"


def test_digits_split_is_fixed_stratified_and_disjoint():
    splits = open_dataset("digits", channels=1).splits
    assert (len(splits["train"]), len(splits["test"])) == (1438, 359)
    assert splits["test"].images.max() == 255
    assert np.bincount(splits["test"].labels).min() >= 34
    assert splits["test"].labels[:12].tolist() == [5, 9, 2, 4, 6, 7, 9, 3, 4, 6, 8, 5]


def test_folder_and_zip_are_read_alike(folder, tmp_path):
    prepare = ImageConverter((8, 8)).prepare
    archive = tmp_path / "pictures.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*.png"):
            file.write(path, path.relative_to(folder.parent))
    for source in (folder, archive):
        dataset = open_dataset(str(source), prepare=prepare)
        assert dataset.class_names == ("blue", "green", "red")
        assert dataset.splits["train"].images.shape == (12, 8, 8, 3)
        assert dataset.splits["test"].labels.tolist() == [0, 0, 1, 1, 2, 2]
        for image, label in zip(*vars(dataset.splits["test"]).values(), strict=True):
            assert image[0, 0, 2 - label] == 255


def test_wrong_data_sets_are_explained(folder, tmp_path):
    with pytest.raises(ValueError, match="differ in size"):
        open_dataset(str(folder))
    with pytest.raises(ValueError, match="is not a data set"):
        open_dataset(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="holds no images of the form"):
        open_dataset(str(folder / "train"))
    (folder / "train" / "red" / "bad.jpg").write_text("no picture")
    with pytest.raises(ValueError, match=r"bad\.jpg: not a readable picture"):
        open_dataset(str(folder), prepare=ImageConverter((8, 8)).prepare)
    (folder / "train" / "red" / "bad.jpg").unlink()
    (folder / "test" / "pink").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "test" / "pink" / "0.png")
    with pytest.raises(ValueError, match="classes without training images: pink"):
        open_dataset(str(folder))


def test_pictures_of_every_kind_become_uint8(tmp_path, monkeypatch):
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
    monkeypatch.setattr("focalnets._io.MAX_PIXELS", 5)
    with pytest.raises(ValueError, match="more than the limit"):
        read_image(tmp_path / "palette.png")


def test_leftovers_beside_pictures_are_ignored_and_one_folder_may_stand_around(folder, tmp_path):
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "train" / ".ipynb_checkpoints" / "0.png").write_text("not a picture")
    (folder / "train" / "red" / "._0.png").write_text("not a picture")
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*.png"):
            file.write(path, path.relative_to(folder.parent))
        file.writestr("__MACOSX/pictures/train/red/._0.png", "not a picture")
    for source in (folder, folder.parent, archive):
        dataset = open_dataset(str(source), prepare=ImageConverter((8, 8)).prepare)
        assert len(dataset.splits["train"]) == 12


def test_validation_is_a_seeded_share_of_every_class():
    split = Split(np.arange(40).reshape(40, 1, 1, 1).astype("uint8"), np.arange(40) % 4)
    train, validation = split_validation(split, 0.2, seed=1)
    assert np.bincount(validation.labels).tolist() == [2] * 4
    rows = np.concatenate([train.images, validation.images]).ravel()
    assert sorted(rows) == list(range(40))
    np.testing.assert_array_equal(split_validation(split, 0.2, seed=1)[1].images, validation.images)
    assert np.any(split_validation(split, 0.2, seed=2)[1].images != validation.images)


def test_batches_are_functions_of_seed_and_epoch():
    dataset = open_dataset("digits", channels=1)

    def batches(seed, epoch):
        loader = Loader(dataset.splits["train"], 10, 100, shuffle=True, crop_padding=1, flip=True, seed=seed)
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
    ), "every image once"
    for other in (batches(0, 4), batches(1, 3)):
        assert np.any(other[0][0] != first[0][0])
