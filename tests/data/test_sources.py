"""Unusual sources of data sets: small classes, labels, tables, arrays, mistyped names, hostile archives."""

import io
import os
import pathlib
import tarfile
import tracemalloc
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter, open_dataset
from focalnets.cli import main
from focalnets.data import archives
from focalnets.data.find import find_images
from focalnets.prediction.evaluation import evaluate_logits

COLORS = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}


def png(color=(9, 9, 9), size=(4, 4)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def classes(tmp_path):
    """Folder `<class>/<image>` with three classes of 10, 5 and 1 images."""
    for (name, color), count in zip(COLORS.items(), (10, 5, 1), strict=True):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "classes" / name / f"{i}.png").write_bytes(png(color))
    return tmp_path / "classes"


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    backbone = FocalNetBackbone(8, (1,), image_shape=(None, None, 3))
    network = FocalNetImageClassifier(backbone, 3, FocalNetImageConverter((8, 8)), class_names=tuple(COLORS))
    directory = tmp_path_factory.mktemp("presets") / "colors"
    network.save_to_preset(directory)
    return str(directory)


# === One class, one image, an empty split ===


@pytest.mark.parametrize("form", ["folder", "zip", "csv"])
def test_open_dataset_reads_class_with_one_image(form, classes, tmp_path):
    source = classes
    if form == "zip":
        source = tmp_path / "classes.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for path in classes.rglob("*.png"):
                archive.write(path, path.relative_to(classes))
    if form == "csv":
        source = tmp_path / "classes.csv"
        rows = [
            f"{path.relative_to(tmp_path)},{path.parent.name}\n" for path in sorted(classes.rglob("*.png"))
        ]
        source.write_text("path,label\n" + "".join(rows))
    dataset = open_dataset(str(source))
    assert np.bincount(dataset.splits["train"].labels).tolist() == [8, 4, 1]
    assert np.bincount(dataset.splits["test"].labels).tolist() == [2, 1]
    assert len(dataset.everything()) == dataset.drawn_from == 16


def test_open_dataset_keeps_class_with_one_readable_image(classes):
    for i in range(4):
        (classes / "green" / f"{i}.png").write_bytes(b"no image")
    dataset = open_dataset(str(classes), on_bad_image="skip")
    assert len(dataset.unreadable) == 4
    assert np.bincount(dataset.everything().labels).tolist() == [10, 1, 1]


def test_open_dataset_reads_single_image(tmp_path):
    (tmp_path / "one" / "cat").mkdir(parents=True)
    (tmp_path / "one" / "cat" / "1.png").write_bytes(png())
    for cache_images in ("memory", "stream"):
        dataset = open_dataset(str(tmp_path / "one"), cache_images=cache_images)
        assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 1}
        assert repr(dataset) == "ImageDataset(train: 1 image; 1 class: cat)"
        assert repr(dataset.splits["train"]).startswith("Split(1 image, ")
    with pytest.raises(ValueError, match=r"because no class has a second image\. Use --split all"):
        open_dataset(str(tmp_path / "one"), only=("test",))


@pytest.mark.parametrize("verb", ["cache", "train", "evaluate"])
def test_commands_accept_classes_with_one_image(verb, classes, preset, tmp_path, capsys):
    for path in (*classes.glob("blue/[1-9].png"), *classes.glob("green/[2-9].png")):
        path.unlink()
    # One blue, two green and one red image remain. The second green image is the test split.
    command = {
        "cache": ["cache", str(classes), "--out", str(tmp_path / "cache"), "--image-size", "8"],
        "train": [
            *("train", "--data", str(classes), "--recipe", "digits", "--out", str(tmp_path / "run")),
            *("--epochs", "1", "--set", "image_size=8", "validation_fraction=0.5", "--monitor-every", "0"),
        ],
        "evaluate": ["evaluate", preset, "--data", str(classes)],
    }[verb]
    code = main(command)
    captured = capsys.readouterr()
    if verb == "train":  # no class can give an image to validation
        assert code == 2
        assert "Each class has only one training image" in captured.err
    else:
        assert code == 0, captured.err


@pytest.mark.slow
def test_evaluate_reports_drawn_test_split(classes, preset, tmp_path, capsys, caplog):
    assert main(["evaluate", preset, "--data", str(classes), "--json"]) == 0
    captured = capsys.readouterr()
    assert caplog.messages == [
        "Evaluating 3 of 16 images (the test split, a fifth of each class, drawn by file name). Use --split "
        "all to evaluate every image."
    ]
    assert '"images": 3' in captured.out
    assert main(["evaluate", preset, "--data", str(classes), "--split", "all", "--json"]) == 0
    captured = capsys.readouterr()
    assert len(caplog.messages) == 1
    assert '"images": 16' in captured.out
    # A cache stores each split separately and gives the same result.
    assert main(["cache", str(classes), "--out", str(tmp_path / "cache"), "--image-size", "8"]) == 0
    capsys.readouterr()
    assert main(["evaluate", preset, "--data", str(tmp_path / "cache"), "--split", "all", "--json"]) == 0
    cached = capsys.readouterr().out
    assert '"images": 16' in cached
    assert cached.split('"top1"')[1] == captured.out.split('"top1"')[1]


def test_dataset_everything_concatenates_splits(classes, tmp_path):
    dataset = open_dataset(str(classes))
    arrays = {}
    for name, split in dataset.splits.items():
        arrays |= {f"x_{name}": split.images, f"y_{name}": split.labels}
    np.savez(tmp_path / "classes.npz", **arrays, class_names=dataset.class_names)
    stored = open_dataset(str(tmp_path / "classes.npz"))
    for one in (dataset, stored):
        both = [
            np.concatenate([getattr(s, what) for s in one.splits.values()]) for what in ("images", "labels")
        ]
        everything = one.everything()
        np.testing.assert_array_equal(everything.images, both[0])
        np.testing.assert_array_equal(everything.labels, both[1])
        np.testing.assert_array_equal(everything.take([15, 2]).images, both[0][[15, 2]])
        assert everything.image(15).getpixel((0, 0)) == tuple(both[0][15, 0, 0])
        assert len(everything.fingerprint()) == 64


# === Labels and names of splits ===


def test_table_normalizes_labels_and_splits(classes, tmp_path, caplog):
    table = tmp_path / "table.csv"
    rows = [
        "classes/blue/0.png, cat,train",
        "classes/blue/1.png,cat ,Training",
        "classes/blue/2.png,Cat, train",
    ]
    rows += ["classes/blue/3.png,cafe\u0301,TEST", "classes/blue/4.png,caf\u00e9,validation"]
    table.write_text("Path, Label ,split\n" + "\n".join(rows), encoding="utf-8")
    with pytest.raises(ValueError, match="classes without training images: caf\u00e9"):
        open_dataset(str(table))
    caplog.clear()
    table.write_text("Path, Label ,split\n" + "\n".join([*rows, "classes/blue/5.png,caf\u00e9,train"]))
    dataset = open_dataset(str(table))
    assert dataset.class_names == ("Cat", "caf\u00e9", "cat")
    assert dataset.splits["train"].labels.tolist() == [2, 2, 0, 1]
    assert set(dataset.splits) == {"train", "val", "test"}
    assert caplog.messages == [
        "Class names that differ only in case or white space are separate classes: 'Cat' and 'cat'."
    ]
    table.write_text("path,label,split\nclasses/blue/0.png,cat,holdout\n")
    with pytest.raises(ValueError, match="line 2: the split is 'holdout'; expected train, val, test"):
        open_dataset(str(table))
    table.write_text("label,path\ncat\n")
    with pytest.raises(ValueError, match="line 2: path or label is missing"):
        open_dataset(str(table))
    table.write_text("path\nclasses/blue/no\0thing\nclasses/blue/0.png\nclasses/red/0.png\n")
    assert open_dataset(str(table)).class_names == ("blue", "red")
    table.write_text("path,label\nclasses/blue/no\0thing.png,cat\n")
    with pytest.raises(ValueError, match="1 unreadable image:"):
        open_dataset(str(table))
    table.write_text("path,label,split\nclasses/blue/0.png, ,train\n")
    with pytest.raises(ValueError, match="line 2: path or label is missing"):
        open_dataset(str(table))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    ("heading", "row"),
    [
        ("path,label,split", "{0},{1},{2}"),
        ("split,class,file_name", "{2}, {1} , {0} "),
        ("Image Path,Category,Set", "{0},{1},{2}"),
        ("image,path,subset,class,label", "7,{0},{2},9,{1}"),
    ],
)
def test_table_accepts_delimiters_and_column_names(heading, row, separator, classes, tmp_path):
    rows = [
        ("classes/blue/0.png", "a", "train"),
        ("classes\\red\\0.png", "b", "train"),  # a path from Windows
        ("classes/green/0.png", "b", "test"),
    ]
    lines = [heading, *(row.format(*cells) for cells in rows)]
    table = tmp_path / ("table.tsv" if separator == "\t" else "table.csv")
    table.write_text("\n".join(lines).replace(",", separator))
    dataset = open_dataset(str(table))
    assert dataset.class_names == ("a", "b")
    train, test = dataset.splits["train"], dataset.splits["test"]
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1], [1])
    assert train.images[:, 0, 0].tolist() == [[0, 0, 255], [255, 0, 0]]


def test_table_rejects_ambiguous_columns(classes, tmp_path):
    table = tmp_path / "table.csv"
    for heading, words in {
        "file,image,label": "the columns file and image. Expected one column for the path",
        "path,class,category": "the columns class and category. Expected one column for the label",
        "name,label": "first line with the columns path and label .* it has: name,label",
    }.items():
        table.write_text(f"{heading}\nclasses/blue/0.png,a,b\n")
        with pytest.raises(ValueError, match=words):
            open_dataset(str(table))
    # A column `set` without names of splits is ignored.
    table.write_text("path,label,set\nclasses/blue/0.png,a,1\nclasses/red/0.png,b,2\n")
    assert open_dataset(str(table)).drawn_from == 2


def test_table_rejects_conflicting_lines_and_drops_repeated_lines(classes, tmp_path, caplog):
    table = tmp_path / "table.csv"
    rows = "path,label,split\nclasses/blue/0.png,a,train\nclasses/red/0.png,b,train\n"
    for again, words in {
        "classes/red/0.png,a,train": "line 3 as the class 'b' of the split train, in line 4 as the class 'a'",
        "classes/./red//0.png,b,test": "of the split train, in line 4 as the class 'b' of the split test",
    }.items():
        table.write_text(rows + again)
        with pytest.raises(ValueError, match=words):
            open_dataset(str(table))
    table.write_text("path\n" + "classes/blue/0.png\nclasses/red/0.png\nclasses/blue/1.png\n" * 2)
    assert open_dataset(str(table)).drawn_from == 3
    table.write_text(rows + "classes/red/0.png,b,Training")
    caplog.clear()
    assert len(open_dataset(str(table)).splits["train"]) == 2
    assert caplog.messages == ["Left out 1 line that repeats an image: classes/red/0.png."]


def test_open_dataset_suggests_classes_that_differ_in_case(tmp_path):
    for name in ("train/Cat", "test/cat"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.png").write_bytes(png())
    with pytest.raises(ValueError, match=r"training images: cat\. Give them the same name: 'Cat' and 'cat'"):
        open_dataset(str(tmp_path / "data"))


def test_npz_accepts_split_names_of_folders(tmp_path, caplog):
    images, labels = np.zeros((3, 4, 4, 3), "uint8"), np.array([0, 1, 0])
    arrays = {"x_train": images, "y_train": labels, "x_valid": images[:2], "y_valid": labels[:2]}
    np.savez(tmp_path / "a.npz", **arrays, x_extra=images, y_extra=labels)
    dataset = open_dataset(str(tmp_path / "a.npz"))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 3, "val": 2}
    assert [str(entry) for entry in dataset.left_out] == caplog.messages
    assert caplog.messages == ["Left out 1 split other than train, val and test: x_extra."]
    np.savez(tmp_path / "b.npz", **arrays, x_val=images, y_val=labels)
    with pytest.raises(ValueError, match="two names for the split val: valid and val"):
        open_dataset(str(tmp_path / "b.npz"))


def test_npz_accepts_array_names_of_medmnist(tmp_path):
    images, labels = np.arange(48, dtype="uint8").reshape(3, 4, 4), np.array([[0], [1], [0]], "uint8")
    arrays = {
        "train_images": images,
        "train_labels": labels,
        "val_images": images[:2],
        "val_labels": labels[:2],
    }
    arrays |= {
        "X_test": images[1:],
        "Y_test": labels[1:],
        "image_mean": np.zeros(3),
        "label_names": np.zeros(2),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    dataset = open_dataset(str(tmp_path / "a.npz"), channels=1)
    assert {name: split.labels.tolist() for name, split in dataset.splits.items()} == {
        "train": [0, 1, 0],
        "val": [0, 1],
        "test": [1, 0],
    }
    np.testing.assert_array_equal(dataset.splits["test"].images[..., 0], images[1:])
    np.savez(tmp_path / "b.npz", **arrays, x_train=images)
    with pytest.raises(ValueError, match=r"has train_images and x_train\. Expected one array of images"):
        open_dataset(str(tmp_path / "b.npz"))
    np.savez(tmp_path / "c.npz", train_images=images)
    with pytest.raises(ValueError, match=r"needs images train_images .* and N labels train_labels"):
        open_dataset(str(tmp_path / "c.npz"))


def test_npz_rejects_huge_labels_and_duplicate_class_names(tmp_path):
    images = np.zeros((2, 4, 4, 3), "uint8")
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.array([0, 2_000_000_000]))
    with pytest.raises(ValueError, match="has the label 2,000,000,000 in y_train"):
        open_dataset(str(tmp_path / "a.npz"))
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.array([0, 1]), class_names=["cat", " cat"])
    with pytest.raises(ValueError, match="Duplicate class names: cat"):
        open_dataset(str(tmp_path / "a.npz"))
    with pytest.raises(ValueError, match="2 classes have only 1 different names"):
        evaluate_logits(np.eye(2), np.arange(2), ("cat", "cat"))


# === Mistyped names ===


def test_open_dataset_and_find_images_suggest_similar_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos.zip").write_bytes(b"")
    (tmp_path / "photos.rar").write_bytes(b"Rar!")
    (tmp_path / "cat.JPEG").write_bytes(png())
    (tmp_path / "empty").mkdir()
    for spec, words in {
        "photo.zip": "set: file or folder not found. Did you mean 'photos.zip'",
        "cifar-10": "file or folder not found. Did you mean 'cifar10'",
        "Digits": "Did you mean 'digits'?",
        "nowhere/photos/cats": "the folder 'nowhere' does not exist.",
        "photos.rar": "files of this type are not supported. Unpack it",
        "photos.ra": "file or folder not found. Did you mean 'photos.zip'? Check the path",
        "https://somewhere.example/photos.zip": "URLs are not supported. Download the file first",
    }.items():
        with pytest.raises(ValueError, match="is not a data set") as caught:
            open_dataset(spec)
        assert words in str(caught.value)
    with pytest.raises(
        ValueError, match=r"'cat.JPEG' is a single image, .* focalnets predict PRESET cat.JPEG"
    ):
        open_dataset("cat.JPEG")
    for name, words in {
        "cat.jpg": r"Did you mean 'cat.JPEG'",
        "photos.png": r"or patterns\.$",
        "empty": r"or patterns\.$",
    }.items():
        with pytest.raises(ValueError, match=words):
            find_images([name])
    with pytest.raises(TypeError, match=r"Got ndarray of shape \(9, 8, 8, 3\); expected the name") as caught:
        open_dataset(np.zeros((9, 8, 8, 3), "uint8"))
    assert len(str(caught.value)) < 300


def test_open_dataset_ignores_case_of_suffixes(classes, tmp_path):
    images = np.zeros((2, 4, 4, 3), "uint8")
    np.savez(tmp_path / "a.npz", x_train=images, y_train=np.arange(2))
    (tmp_path / "a.npz").rename(tmp_path / "A.NPZ")
    (tmp_path / "A.CSV").write_text("path,label\nclasses/red/0.png,red\nclasses/blue/0.png,blue\n")
    with zipfile.ZipFile(tmp_path / "A.ZIP", "w") as archive, tarfile.open(tmp_path / "A.TGZ", "w:gz") as tar:
        for name in ("red", "blue"):
            archive.write(classes / name / "0.png", f"{name}/0.png")
            tar.add(classes / name / "0.png", f"{name}/0.png")
    for name in ("A.NPZ", "A.CSV", "A.ZIP", "A.TGZ"):
        assert len(open_dataset(str(tmp_path / name)).splits["train"]) == 2


def test_keras_dataset_reports_failed_download_in_one_line(tmp_path, monkeypatch, capsys):
    def fails():
        raise Exception("URL fetch failure on https://x.example: None -- no network")  # as Keras does

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", fails)
    assert main(["cache", "cifar10", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cifar10 could not be downloaded or read (URL fetch failure on https://x.example" in error


def test_dataset_and_split_have_short_repr():
    dataset = open_dataset("digits", channels=1)
    assert repr(dataset) == (
        "ImageDataset(train: 1438 images, test: 359 images; 10 classes: 0, 1, 2, 3, 4 and 5 more)"
    )
    assert repr(dataset.splits["test"]) == "Split(359 images, in memory)"


# === Archives ===


def zip_of(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return str(path)


@pytest.mark.slow
def test_archive_rejects_oversized_members(tmp_path, monkeypatch):
    """120 MB exceed a limit of 50 MB, even if zip declares less, and in members and headers of a tar."""
    for name, method in (("deflate", 8), ("bz2", 12), ("lzma", 14)):
        path = tmp_path / f"{name}.zip"
        with (
            zipfile.ZipFile(path, "w", method) as archive,
            archive.open("cat/bomb.png", "w", force_zip64=True) as member,
        ):
            for _ in range(12):
                member.write(bytes(10_000_000))
        whole = path.read_bytes()
        for width in (8, 4):  # in the header of the member, and in the directory
            whole = whole.replace((120_000_000).to_bytes(width, "little"), (1000).to_bytes(width, "little"))
        (tmp_path / f"understated-{name}.zip").write_bytes(whole)
    for name, kind in (("head", tarfile.GNUTYPE_LONGNAME), ("member", tarfile.REGTYPE)):
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz", compresslevel=1) as archive:
            info = tarfile.TarInfo("cat/bomb.png")
            info.size, info.type = 120_000_000, kind
            archive.fileobj.write(info.tobuf(tarfile.GNU_FORMAT))
            for _ in range(12):
                archive.fileobj.write(bytes(10_000_000))
            archive.offset = archive.fileobj.tell()
    monkeypatch.setattr("focalnets.data.archives.MAX_MEMBER", 50_000_000)
    names = [f"{kind}{method}.zip" for kind in ("", "understated-") for method in ("deflate", "bz2", "lzma")]
    errors = []
    for name in (*names, "head.tar.gz", "member.tar.gz"):
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"bomb|tar") as caught:
            open_dataset(str(tmp_path / name))
        assert tracemalloc.get_traced_memory()[1] < 80_000_000, name
        tracemalloc.stop()
        errors.append(str(caught.value))
    for error in (*errors[:3], errors[7]):
        assert "cat/bomb.png: unpacks to 120 MB; the limit is 50 MB" in error
    for error in errors[3:6]:
        assert "cat/bomb.png: Bad CRC-32 for file 'cat/bomb.png'" in error
    assert "head.tar.gz is not a tar file" in errors[6]


def test_zip_rejects_overlapping_members(tmp_path, monkeypatch):
    """Many entries of the directory point to one member (Fifield, 2019)."""
    path = tmp_path / "overlap.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/0.png", png())
        first = archive.infolist()[0]
        for i in range(1, 500):
            info = zipfile.ZipInfo(f"cat/{i}.png")
            for name in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(info, name, getattr(first, name))
            archive.filelist.append(info)
            archive.NameToInfo[info.filename] = info
    dataset = open_dataset(str(path), on_bad_image="skip")
    assert len(dataset.everything()) == 1
    assert len(dataset.unreadable) == 499


@pytest.mark.parametrize("name", ["/cat/1.png", "../../cat/1.png", "C:\\pets\\cat\\1.png", "./cat//1.png"])
def test_archive_does_not_write_to_member_paths(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zip_of(tmp_path / "a.zip", {name: png((7, 7, 7)), name.replace("cat", "dog"): png()})
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for member in (name, name.replace("cat", "dog")):
            info = tarfile.TarInfo(member)
            content = png((7, 7, 7)) if "cat" in member else png()
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    before = sorted(pathlib.Path(tmp_path).rglob("*"))
    for archive in ("a.zip", "a.tar.gz"):
        dataset = open_dataset(archive)
        assert dataset.class_names == ("cat", "dog")
        assert dataset.splits["train"].images[:, 0, 0, 0].tolist() == [7, 9]
    assert sorted(pathlib.Path(tmp_path).rglob("*")) == before


def test_tar_links_refer_to_members_only(tmp_path):
    (tmp_path / "secret.png").write_bytes(png())
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("cat/1.png")
        info.size = len(png())
        archive.addfile(info, io.BytesIO(png((7, 7, 7))))
        for name, kind, target in (
            ("cat/2.png", tarfile.LNKTYPE, "cat/1.png"),
            ("cat/3.png", tarfile.SYMTYPE, "1.png"),
            ("dog", tarfile.SYMTYPE, "cat"),
            ("cat/4.png", tarfile.SYMTYPE, str(tmp_path / "secret.png")),
            ("cat/5.png", tarfile.SYMTYPE, "../../cat/1.png"),
            ("cat/6.png", tarfile.LNKTYPE, "nothing.png"),
            ("cat/all", tarfile.SYMTYPE, ".."),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    dataset = open_dataset(str(tmp_path / "a.tar"))
    assert np.bincount(dataset.everything().labels).tolist() == [3, 1]  # dog has the regular file of cat
    assert set(dataset.everything().images[:, 0, 0, 0]) == {7}
    assert "Left out 4 broken or circular links: cat/4.png" in str(dataset.left_out[0])


def test_tar_limits_chains_and_circles_of_links(tmp_path, monkeypatch):
    def write(links):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            info = tarfile.TarInfo("cat/0.png")
            info.size = len(png())
            archive.addfile(info, io.BytesIO(png()))
            for name, target in links:
                info = tarfile.TarInfo(name)
                info.type, info.linkname = tarfile.SYMTYPE, target
                archive.addfile(info)
        return open_dataset(str(tmp_path / "a.tar"))

    dataset = write([(f"cat/{i + 1}.png", f"{i}.png") for i in range(60)])
    assert len(dataset.everything()) == 42
    assert write([("cat/1.png", "2.png"), ("cat/2.png", "1.png")]).left_out[0].count == 2
    monkeypatch.setattr("focalnets.data.archives._MAX_LINKED", 9)
    with pytest.raises(ValueError, match="refer to more than 9 members"):
        write([(f"class{i}", "cat") for i in range(10)])


def test_tar_rejects_archive_without_files(tmp_path):
    for name in (".", "cat"):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        with pytest.raises(ValueError, match="holds no images of the form"):
            open_dataset(str(tmp_path / "a.tar"))


def test_tar_rejects_damaged_files(tmp_path):
    for suffix, mode in ((".tar", "w"), (".tar.gz", "w:gz"), (".tar.bz2", "w:bz2"), (".tar.xz", "w:xz")):
        path = tmp_path / f"a{suffix}"
        with tarfile.open(path, mode) as archive:
            for i in range(20):
                info = tarfile.TarInfo(f"cat/{i}.png")
                content = png((i, 0, 0)) + np.random.default_rng(i).bytes(3000)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        whole = path.read_bytes()
        assert len(open_dataset(str(path)).everything()) == 20
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r"is not a tar file, or incomplete|is damaged"):
            open_dataset(str(path))
        path.write_bytes(b"words")
        with pytest.raises(ValueError, match="is not a tar file"):
            open_dataset(str(path))


# === Folders ===


def test_open_dataset_and_find_images_follow_links(classes, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "blue").symlink_to(classes / "blue")
    (tmp_path / "linked" / "red").symlink_to(classes / "red")
    (tmp_path / "linked" / "red" / "again").symlink_to(tmp_path / "linked")
    dataset = open_dataset(str(tmp_path / "linked"))
    # The circular link in the class folder is left out.
    assert dataset.class_names == ("blue", "red")
    assert len(find_images([str(tmp_path / "linked")])) >= 11
    assert any("circular link" in str(entry) for entry in dataset.left_out)


def test_open_dataset_reports_unreadable_folders(classes, monkeypatch, caplog):
    allowed = os.access  # replaced because tests often run as a superuser, who can read every folder
    monkeypatch.setattr(os, "access", lambda path, mode: "green" not in path and allowed(path, mode))
    assert open_dataset(str(classes)).class_names == ("blue", "red")
    assert caplog.messages == ["Left out 1 folder that cannot be read: green."]


def test_find_images_recognizes_images_and_reports_other_files(tmp_path, caplog):
    for name in ("a.jfif", "b.TIF", "noname", "c.ppm", "@eaDir/a.jpg", ".thumbnails/b.jpg", "x/y/d.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "LICENSE").write_text("no image")
    os.mkfifo(tmp_path / "pipe")
    found = [str(path.relative_to(tmp_path)) for path in find_images([str(tmp_path)])]
    assert found == ["a.jfif", "b.TIF", "c.ppm", "noname", "x/y/d.webp"]
    assert caplog.messages == [
        "Left out 2 hidden or system files and folders: .thumbnails, @eaDir.",
        "Left out 3 files that are not images: LICENSE, notes.txt, pipe.",
    ]
    assert archives.MAX_MEMBER == 512 * 2**20
