"""Fixtures of all tests. focalnets is imported first, so that it chooses the backend."""

import os

# Most of the time of the tests on JAX is compilation, and half of that optimization of what runs once.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import focalnets  # isort: skip
import pathlib
import signal

import keras
import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

matplotlib.use("Agg")

# `nohup` and a shell's `&` hand down ignored signals, also to the processes that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

pytest.register_assert_rewrite("contract", "reference")


# Files that take longest. They run first, so that two workers end at the same time.
_LONGEST = ("test_docs.py", "test_resume.py", "test_benchmarks.py", "test_triton.py", "test_convert.py")


def pytest_collection_modifyitems(items):
    """Move the longest files to the front."""
    items.sort(key=lambda item: item.path.name not in _LONGEST)


@pytest.fixture(autouse=True)
def _fresh_state():
    keras.utils.set_random_seed(0)
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Exports and downloads of a session go to an empty cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOCALNETS_CACHE", str(tmp_path_factory.mktemp("cache")))
        if keras.backend.backend() == "jax":  # a resumed training is not compiled again
            import jax

            jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
            jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        yield


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory):
    """Folder of 250 training and 50 test images of the digits, for a training of few steps."""
    folder = tmp_path_factory.mktemp("few_digits")
    splits = focalnets.open_dataset("digits", channels=1).splits
    for name, count in (("train", 250), ("test", 50)):
        for number, (image, label) in enumerate(zip(splits[name].images, splits[name].labels, strict=True)):
            if number < count:
                path = folder / name / str(label) / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image[..., 0]).save(path)
    return folder


@pytest.fixture(scope="session")
def tiny_preset(tmp_path_factory):
    """Preset of a network with two blocks for the digits, which JAX and TensorFlow compile in seconds."""
    backbone = focalnets.FocalNetBackbone(
        16, (1, 1), focal_levels=(2, 2), patch_size=1, seed=0, image_shape=(8, 8, 1)
    )
    converter = focalnets.FocalNetImageConverter(8, mean=(0.3,), std=(0.37,))
    network = focalnets.FocalNetImageClassifier(
        backbone, 10, converter, class_names=[str(digit) for digit in range(10)]
    )
    directory = tmp_path_factory.mktemp("tiny") / "preset"
    network.save_to_preset(directory)
    return str(directory)


@pytest.fixture
def figures(monkeypatch):
    """Dict of all drawn matplotlib figures by file name."""
    found, save = {}, matplotlib.figure.Figure.savefig

    def keep(self, path, *arguments, **keywords):
        found[pathlib.Path(path).name] = self
        return save(self, path, *arguments, **keywords)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    return found


@pytest.fixture
def fixture_preset():
    """(directory, expected values) of a preset that gives the same numbers on every backend."""
    directory = pathlib.Path(__file__).parent / "fixtures" / "parity"
    with np.load(directory / "expected.npz") as expected:
        return directory, dict(expected)
