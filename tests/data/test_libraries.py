"""Small data sets of Hugging Face and TensorFlow Datasets, read by these libraries without a download."""

import socket
import time

import numpy as np
import pytest
from PIL import Image

from focalnets import FocalNetImageConverter, open_dataset

pytestmark = pytest.mark.all_backends


@pytest.fixture
def images(tmp_path):
    """Folder `<split>/<class>/<image>`, in which each class has a color."""
    for split, count in (("train", 3), ("test", 2)):
        for label, color in (("zebra", 250), ("ape", 10)):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (12 + i, 10), (color, i, 0)).save(folder / f"{i}.png")
    return tmp_path / "images"


def assert_apes_are_dark(dataset):
    assert set(dataset.splits) == {"train", "test"}
    assert len(dataset.splits["train"]) == 6
    test = dataset.splits["test"]
    assert test.images.shape == (4, 8, 8, 3)
    red = test.images[:, 4, 4, 0]
    assert [dataset.class_names[label] for label in test.labels] == [
        "ape" if r < 99 else "zebra" for r in red
    ]
    assert sorted(red) == [10, 10, 250, 250]


@pytest.mark.slow
def test_hugging_face_reads_images_and_drops_rows_without_label(images, tmp_path, monkeypatch, caplog):
    datasets = pytest.importorskip("datasets")
    made = datasets.load_dataset("imagefolder", data_dir=str(images), cache_dir=str(tmp_path / "cache"))
    for split in made:
        made[split].to_parquet(str(tmp_path / "hub" / f"{split}.parquet"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    spec = f"hf://{tmp_path / 'hub'}"
    for cache_images in ("memory", "stream"):
        assert_apes_are_dark(
            open_dataset(spec, prepare=FocalNetImageConverter((8, 8)).prepare, cache_images=cache_images)
        )
    made["test"] = made["test"].map(lambda row: {"label": -1 if row["label"] else 0})  # -1 is a missing label
    made["test"].to_parquet(str(tmp_path / "partly" / "test.parquet"))
    made["train"].to_parquet(str(tmp_path / "partly" / "train.parquet"))
    partly = open_dataset(f"hf://{tmp_path / 'partly'}", prepare=FocalNetImageConverter((8, 8)).prepare)
    assert partly.splits["test"].labels.tolist() == [0, 0]
    assert "Left out 2 images without a label: test/" in caplog.text
    words = datasets.Dataset.from_dict({"text": ["no", "images"], "label": [0, 1]})
    (tmp_path / "words").mkdir()
    words.to_parquet(str(tmp_path / "words" / "train.parquet"))
    with pytest.raises(ValueError, match=r"has no column of images\. Its columns: text, label"):
        open_dataset(f"hf://{tmp_path / 'words'}")


@pytest.mark.slow
def test_hugging_face_reports_failed_connection_in_one_line(monkeypatch, tmp_path, capfd):
    datasets = pytest.importorskip("datasets")
    with socket.socket() as free:  # a port without a server
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(
        OSError, match=r"hf://some/animals could not be downloaded \(.*\)\. Check the"
    ) as caught:
        open_dataset("hf://some/animals")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_hugging_face_reports_missing_data_sets(tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="Got 'hf://' without a name"):
        open_dataset("hf://")
    with pytest.raises(OSError, match=r"empty was not found \("):
        open_dataset(f"hf://{tmp_path / 'empty'}")
    (tmp_path / "two").mkdir()
    datasets.Dataset.from_dict({"label": [0]}).to_parquet(str(tmp_path / "two" / "train.parquet"))
    with pytest.raises(ValueError, match="two:nothing cannot be read: BuilderConfig 'nothing' not found"):
        open_dataset(f"hf://{tmp_path / 'two'}:nothing")


def test_hugging_face_drops_rows_without_image_and_refuses_untrusted_paths(
    images, tmp_path, monkeypatch, caplog
):
    """Data sets on the hub may contain such rows. Here they come from a local table."""
    datasets, pyarrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    png = (images / "train" / "ape" / "0.png").read_bytes()
    rows = [{"bytes": png, "path": None}, None, {"bytes": None, "path": None}]
    rows += [{"bytes": None, "path": str(images / "train" / "ape" / "1.png")}]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ape", "bee"])}
    )
    labels = [0, 1, 0, 1]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array(rows, kind), "label": pyarrow.array(labels)})
    made = datasets.Dataset(datasets.table.InMemoryTable(table), datasets.DatasetInfo(features=features))
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_: {"train": made, "extra": made, "validation": made}
    )
    dataset = open_dataset(
        "hf://somebody/animals", on_bad_image="skip", prepare=FocalNetImageConverter((8, 8)).prepare
    )
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 1, "val": 1}
    assert [problem.split(" to ")[0] for problem in dataset.unreadable] == [
        "train/3: the data set refers",
        "val/3: the data set refers",
    ]
    assert caplog.messages == [
        "Left out 1 split other than train, val and test: extra.",
        "Left out 4 rows without an image: train/1, train/2, val/1 and 1 more.",
    ]


@pytest.mark.slow
def test_tensorflow_datasets_reads_images_and_reports_unknown_names(images, tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")

    class BlackAndRed(tfds.core.GeneratorBasedBuilder):
        """Data set of this test."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["zebra", "ape"]),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, _):
            return {split: self._generate_examples(split) for split in ("train", "test")}

        def _generate_examples(self, split):
            for path in (images / split).rglob("*.png"):
                name = f"{path.parent.name}-{path.name}"
                yield name, {"image": str(path), "label": path.parent.name}

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "tfds"))
    for cache_images in ("memory", "stream"):  # the first iteration prepares the data set
        dataset = open_dataset(
            "tfds:black_and_red", prepare=FocalNetImageConverter((8, 8)).prepare, cache_images=cache_images
        )
        assert_apes_are_dark(dataset)
        assert dataset.class_names == ("zebra", "ape"), "not the order of the source"
    for spec, words in {
        "tfds:black_and_blue": "TensorFlow Datasets has no data set 'black_and_blue'",
        "tfds:": "failed",
    }.items():
        with pytest.raises(ValueError, match=rf"^{spec} cannot be read: [^\n]*{words}\.$"):
            open_dataset(spec)


def test_open_dataset_names_missing_packages(monkeypatch):
    import sys

    for module in ("datasets", "tensorflow_datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'focalnets\[hf\]'"):
        open_dataset("hf://somebody/something")
    with pytest.raises(ImportError, match=r"pip install 'focalnets\[tfds\]'"):
        open_dataset("tfds:something")


def test_open_dataset_reads_folder_of_these_tests(images):
    """Check the images that the other tests convert to data sets of the libraries."""
    assert_apes_are_dark(open_dataset(str(images), prepare=FocalNetImageConverter((8, 8)).prepare))
    assert np.bincount(
        open_dataset(str(images), prepare=FocalNetImageConverter((8, 8)).prepare).splits["train"].labels
    ).tolist() == [3, 3]
