"""Limits of the JSON, HDF5 and NumPy files that can come from an untrusted source."""

import contextlib
import inspect
import json
import os
import pathlib
import shutil
import zipfile

import h5py
import msgspec
import numpy as np
import pytest

from focalnets import FocalNetBackbone, FocalNetImageClassifier, FocalNetImageConverter, open_dataset
from focalnets.cli import main
from focalnets.data.cache import open_cache
from focalnets.npz import read_npz
from focalnets.presets import files
from focalnets.presets.hdf5 import check_hdf5
from focalnets.presets.load import _load_weights
from focalnets.schema import parse_json, read_json
from focalnets.training.checkpoint import read_snapshot

WEIGHTS = files.WEIGHTS


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Directory of a small preset with all files."""
    directory = tmp_path_factory.mktemp("schema") / "preset"
    backbone = FocalNetBackbone(8, (1, 1), image_shape=(None, None, 3), seed=0)
    net = FocalNetImageClassifier(backbone, 3, FocalNetImageConverter((16, 16)), class_names=("a", "b", "c"))
    net.save_to_preset(directory)
    return directory


@pytest.fixture
def preset(whole, tmp_path):
    return pathlib.Path(shutil.copytree(whole, tmp_path / "preset"))


def change(path, **changes):
    """Change values of a JSON file. Two underscores in a name separate the keys of a path."""
    content = json.loads(path.read_text())
    for name, value in changes.items():
        *outer, last = name.split("__")
        inner = content
        for key in outer:
            inner = inner[key]
        inner[last] = value
    path.write_text(json.dumps(content))


# Limits of single values


def test_records_have_arguments_of_constructors():
    not_stored = {"self", "name", "dtype", "kwargs"}
    for record, constructor in (
        (files.Backbone, FocalNetBackbone),
        (files.Preprocessing, FocalNetImageConverter),
    ):
        arguments = set(inspect.signature(constructor.__init__).parameters) - not_stored
        assert set(record.__struct_fields__) == arguments


def test_limits_allow_every_published_architecture():
    from focalnets import ARCHITECTURES

    for row in ARCHITECTURES.values():
        shape = [None, None, row.channels]
        values = json.loads(json.dumps({**row.backbone, "image_shape": shape}))
        msgspec.convert(values, files.Backbone)
        assert files.check_size(values, row.num_classes, "config.json") < 0.5 * files.MOST_PARAMETERS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"backbone__embed_dim": 10**9},
            "`backbone.embed_dim` is 1000000000, expected an integer from 1 to 8192",
        ),
        ({"backbone__embed_dim": "96"}, '`backbone.embed_dim` is "96", expected an integer from 1 to 8192'),
        ({"backbone__embed_dim": True}, "`backbone.embed_dim` is true, expected an integer"),
        (
            {"backbone__focal_levels": 10**6},
            "`backbone.focal_levels` is 1000000, expected an integer from 1 to 16 or",
        ),
        ({"backbone__depths": [1, -1]}, r"`backbone.depths\[1\]` is -1, expected an integer from 1 to 128"),
        (
            {"backbone__depths": []},
            "`backbone.depths` is an empty list, expected a list of 1 to 8, each an integer",
        ),
        (
            {"backbone__image_shape": [None, None, None]},
            r"image_shape\[2\]` is null, expected the number of ch",
        ),
        (
            {"backbone__norm_placement": "none"},
            '`backbone.norm_placement` is "none", expected one of mlp_only, post',
        ),
        ({"backbone__colour": 1}, "`backbone.colour` is not a known field. It was written by focalnets "),
        ({"backbone": None}, "`backbone` is null, expected an object"),
        ({"backbone": []}, "`backbone` is an empty list, expected an object"),
        ({"num_classes": 0}, "`num_classes` is 0, expected an integer from 1 to 10000000 or null"),
        ({"backbone__embed_dim": 8192}, "describes a network of .* parameters, more than the limit"),
        (
            {"backbone__embed_dim": 512},
            "h5 is damaged, or does not belong to the network .*: it holds .* numbers",
        ),
        ({"backbone__kernel_initializer": "no\x1b[31m"}, "cannot be built"),
        ({"backbone__focal_window": 2}, "cannot be built: Kernel sizes"),
        ({"backbone__focal_levels": [1, 2, 3]}, "focal_levels has 3 values for 2 stages"),
    ],
    ids=str,
)
def test_from_preset_names_config_field_out_of_limits(preset, changes, words):
    change(preset / "config.json", **changes)
    with pytest.raises(ValueError, match=words) as caught:
        FocalNetImageClassifier.from_preset(preset)
    assert str(preset) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": [16, 10**6]}, r"`image_size\[1\]` is 1000000, expected an integer from 1 to 8192"),
        (
            {"image_size": [16, 16, 3]},
            "`image_size` is a list of 3, expected .* a list of 2, each an integer",
        ),
        ({"mean": 0.5}, "`mean` is 0.5, expected a list of 1 to 1024, each a number"),
        ({"std": [1, 1, 0]}, "preprocessing.json: std must be positive"),
        ({"crop_fraction": 1e-300}, "`crop_fraction` is 1e-300, expected a number from 0.01 to 1"),
    ],
    ids=str,
)
def test_from_preset_names_preprocessing_field_out_of_limits(preset, changes, words):
    change(preset / "preprocessing.json", **changes)
    with pytest.raises(ValueError, match=words):
        FocalNetImageClassifier.from_preset(preset)


def test_environment_variable_sets_limit_of_parameters(preset, monkeypatch):
    monkeypatch.setenv("FOCALNETS_MAX_PARAMETERS", "1000")
    with pytest.raises(ValueError, match=r"more than the limit of 1,000\. .* FOCALNETS_MAX_PARAMETERS"):
        FocalNetImageClassifier.from_preset(preset, load_weights=False)
    monkeypatch.setenv("FOCALNETS_MAX_PARAMETERS", "100000")
    assert FocalNetImageClassifier.from_preset(preset, load_weights=False).num_classes == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "levels deep"),
        ("[" * 40 + "]" * 40, "more than 32 levels deep"),
        ("[NaN]", "NaN is NaN or infinite"),
        ("[1e999]", "1e999 is NaN or infinite"),
        ("1" * 5000, "a number of 5000 digits"),
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ('{"a": 1', "is not valid JSON"),
        ("", "is not valid JSON"),
    ],
    ids=lambda text: text[:12],
)
def test_parse_json_is_strict(text, words):
    with pytest.raises(ValueError, match=words):
        parse_json(text, "x.json")


def test_read_json_accepts_only_regular_files_of_limited_size(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf[1]")  # the byte order mark of editors on Windows
    assert read_json(path) == [1]
    with pytest.raises(ValueError, match="larger than 4 bytes"):
        read_json(path, limit=4)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="byte 0 is not UTF-8"):
        read_json(path)
    path.unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)
        with pytest.raises(ValueError, match="not a regular file"):
            read_json(path)
    with pytest.raises(ValueError, match="not a regular file"):
        read_json(tmp_path)


# Weights in HDF5


def _external(root, name, secret):
    root.create_dataset(name, (8,), "float32", external=[(str(secret), 0, 32)])


def _virtual(root, name, secret):
    layout = h5py.VirtualLayout((8,), "float32")
    layout[:] = h5py.VirtualSource(str(secret), "x", (8,))
    root.create_virtual_dataset(name, layout)


def _external_link(root, name, secret):
    root[name] = h5py.ExternalLink(str(secret), "/x")


def _soft_link(root, name, secret):
    root[name] = h5py.SoftLink("/layers")


def _cycle(root, name, secret):
    root[name] = root


def _terabytes(root, name, secret):
    root.create_dataset(name, (10**12,), "float32", chunks=(1024,))


def _bomb(root, name, secret):
    root.create_dataset(name, data=np.zeros(10**7, "float32"), compression="gzip")


def _words(root, name, secret):
    root.create_dataset(name, data=["a", "b"])


HOSTILE = {
    _external: "are in another file .external storage",
    _virtual: "are in another file .virtual storage",
    _external_link: "is a link to another object or file .ExternalLink",
    _soft_link: "is a link to another object or file .SoftLink",
    _cycle: "contains itself",
    _terabytes: "declares 4000000000000 bytes|declares 40000",
    _bomb: "declares 4",
    _words: "expected numbers",
}


@pytest.mark.slow
@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
@pytest.mark.parametrize("deep", [False, True])
def test_verbs_refuse_hdf5_that_reads_other_files(preset, tmp_path, capsys, make, deep):
    secret = tmp_path / "secret"
    secret.write_bytes(b"PRIVATE!" * 4)
    with h5py.File(preset / WEIGHTS, "a") as root:
        make(next(iter(root.values())) if deep else root, "planted", secret)
    with pytest.raises(ValueError, match=HOSTILE[make]):
        FocalNetImageClassifier.from_preset(preset)
    image = str(pathlib.Path(__file__).parents[2] / "docs" / "seven.png")
    out = str(tmp_path / "out")
    for verb in (
        ["predict", str(preset), image],
        ["explain", str(preset), image, "--out", out],
        ["convert", str(preset), out],
        ["convert", str(preset), out, "--half"],
        ["convert", str(preset), out, "--levels", "3"],
        ["convert", str(preset), f"{out}.safetensors", "--to", "timm"],
    ):
        assert main(verb) == 2, verb
        assert str(preset) in capsys.readouterr().err
    assert not pathlib.Path(out).exists()


@pytest.mark.slow
def test_check_hdf5_refuses_truncated_and_flipped_files(preset):
    """A flipped bit in a value cannot be detected. All other errors must be of the type ValueError."""
    path = preset / WEIGHTS
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = 0
    for position in generator.integers(0, len(content), 30):
        path.write_bytes(content[:position])
        with pytest.raises(ValueError, match="is damaged"):
            check_hdf5(path)
    net = FocalNetImageClassifier.from_preset(preset, load_weights=False)
    for number, position in enumerate([*range(0, 96, 3), *generator.integers(0, len(content), 90)]):
        flipped = bytearray(content)
        flipped[position] ^= 1 << generator.integers(8)
        path.write_bytes(flipped)
        with contextlib.suppress(ValueError):
            check_hdf5(path)
            if number % 20 == 0:  # Keras takes 0.14 s for each file
                _load_weights(net, path)
            continue
        refused += 1
    assert refused > 15


# Arrays


def _npz(path, header, content=b""):
    """Write an .npz file whose only member has this header of NumPy's format."""
    text = repr(header).encode().ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("00000.npy", b"\x93NUMPY\x01\x00v\x00" + text + content)


def test_read_npz_refuses_arrays_larger_than_file(tmp_path, monkeypatch):
    path = tmp_path / "last.npz"
    _npz(path, {"descr": "<f4", "fortran_order": False, "shape": (2,)}, bytes(8))
    assert read_npz(path)["00000"].tolist() == [0, 0]
    for shape, kind, words in (
        ((10**12,), "<f4", r"declares \(1000000000000,\) float32, more than the file has"),
        ((2, 10**6), "<f4", r"declares \(2, 1000000\) float32, more"),
        ((2,), "|O", "holds objects, not plain arrays"),
    ):
        _npz(path, {"descr": kind, "fortran_order": False, "shape": shape}, bytes(8))
        with pytest.raises(ValueError, match=rf"last\.npz is damaged: 00000\.npy {words}"):
            read_npz(path)
    np.savez_compressed(path, x_train=np.zeros((1000, 100, 100, 3), "uint8"), y_train=np.arange(1000) % 2)
    with pytest.raises(ValueError, match=r"it declares 3000\d+ bytes of arrays, more than the limit of"):
        read_npz(path)
    assert len(open_dataset(str(path)).splits["train"]) > 0
    monkeypatch.setattr("focalnets.data.arrays._ALLOWANCE", 0)
    with pytest.raises(ValueError, match=r"or damaged \(it declares 3000\d+ bytes of arrays"):
        open_dataset(str(path))


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": -1}, {"epoch": "1"}, {"rows": [{"epoch": 1}]}, {"rows": [{"epoch": None}]}, {"rows": None},
        {"minutes": "x"}, {"names": [1]}, {"x": 1},
    ],
    ids=str,
)  # fmt: skip
def test_read_snapshot_refuses_tampered_metadata(tmp_path, change):
    path = tmp_path / "last.npz"
    row = {"epoch": 1, "val_loss": float("nan"), "val_accuracy": 0.5}
    meta = {"epoch": 1, "batch": 0, "rows": [row], "minutes": 0.1, "names": ["a"]}
    np.savez(path, meta=np.array(json.dumps(meta)), **{"00000": np.zeros(2)})
    assert read_snapshot(path).epoch == 1
    np.savez(path, meta=np.array(json.dumps({**meta, **change})), **{"00000": np.zeros(2)})
    with pytest.raises(ValueError, match=r"last\.npz"):
        read_snapshot(path)


def test_open_cache_refuses_damaged_arrays(tmp_path):
    directory = tmp_path / "cache"
    directory.mkdir()
    index = {"focalnets_cache": 1, "class_names": ["a"], "images": {"train": 2}}
    (directory / "cache.json").write_text(json.dumps(index))
    np.save(directory / "train.images.npy", np.zeros((2, 4, 4, 1), "uint8"))
    np.save(directory / "train.labels.npy", np.zeros(2, "int32"))
    assert len(open_cache(directory)[0]["train"][1]) == 2
    for name in ("train.images.npy", "train.labels.npy"):
        whole = (directory / name).read_bytes()
        (directory / name).write_bytes(whole.replace(b"(2,", b"(9**9,").replace(b"9**9", b"99999"))
        with pytest.raises(ValueError, match=r"train\.\*\.npy is damaged"):
            open_cache(directory)
        (directory / name).unlink()
        with pytest.raises(ValueError, match=r"train\.\*\.npy is damaged"):
            open_cache(directory)
        (directory / name).write_bytes(whole)
    change(directory / "cache.json", images={"../../x": 2})
    with pytest.raises(ValueError, match=r"cache\.json"):
        open_cache(directory)
    change(directory / "cache.json", images={"train": 3})
    with pytest.raises(ValueError, match=r"declares 3 images of train, but the files hold \(2, 4, 4, 1\)"):
        open_cache(directory)


def test_recipes_have_limits_from_every_source():
    from focalnets.images.augment import Augmentation
    from focalnets.training.recipe import Recipe, change, load_recipe, recipe_from_json

    words = r"randaugment must be an integer at most 100; got 1000000000\."
    with pytest.raises(ValueError, match=words):
        Augmentation(randaugment=10**9)
    with pytest.raises(ValueError, match=words):
        change(load_recipe("digits"), ["augmentation.randaugment=1000000000"])
    with pytest.raises(ValueError, match=words):
        recipe_from_json({"name": "x", "augmentation": {"randaugment": 10**9}})
    with pytest.raises(ValueError, match="epochs must be an integer at most 1000000; got a list of 1"):
        Recipe("x", epochs=[1])
    with pytest.raises(ValueError, match="learning_rate must be a number"):
        Recipe("x", learning_rate=float("nan"))
    assert Recipe("x", learning_rate=np.float64(0.1), mean=[0.5], image_size=8).learning_rate == 0.1
