"""Backend that `import focalnets` chooses. Each case runs in a new process."""

import importlib.util
import json
import os
import subprocess
import sys

import keras
import pytest

pytestmark = pytest.mark.all_backends

INSTALLED = [b for b in ("torch", "jax", "tensorflow") if importlib.util.find_spec(b) is not None]


def chosen(home, keras_json=None, variable=None, first=""):
    if keras_json is not None:
        (home / "keras.json").write_text(keras_json)
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    environment["KERAS_HOME"] = str(home)
    if variable:
        environment["KERAS_BACKEND"] = variable
    # Read before Keras is imported, which is fast and works for backends that are not installed.
    code = (
        "import os, sys; sys.argv = ['focalnets']\n"
        f"{first}\nimport focalnets; print(os.environ.get('KERAS_BACKEND'))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return ran.stdout.strip()


def config(**changes):
    defaults = {
        "floatx": "float32",
        "epsilon": 1e-07,
        "backend": "tensorflow",
        "image_data_format": "channels_last",
    }
    return json.dumps({**defaults, **changes})


def test_import_chooses_first_installed_backend(tmp_path):
    assert chosen(tmp_path) == INSTALLED[0]


def test_import_keeps_backend_of_user(tmp_path):
    assert chosen(tmp_path, variable="jax") == "jax"
    assert chosen(tmp_path, keras_json=config(backend="jax")) == "None"
    expected = "None" if "tensorflow" in INSTALLED else INSTALLED[0]
    assert chosen(tmp_path, keras_json=config(epsilon=1e-6)) == expected


def test_import_ignores_keras_json_with_default_values(tmp_path):
    assert chosen(tmp_path, keras_json=config()) == INSTALLED[0]
    assert chosen(tmp_path, keras_json="{") == INSTALLED[0]


@pytest.mark.slow
def test_keras_writes_keras_json_with_default_values(tmp_path):
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": keras.backend.backend()}
    code = "import keras"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert json.loads((tmp_path / "keras.json").read_text()) == json.loads(config())


@pytest.mark.slow
def test_keras_uses_first_installed_backend_after_import(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    environment["KERAS_HOME"] = str(tmp_path)
    code = "import focalnets, keras; print(keras.backend.backend())"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == INSTALLED[0]


@pytest.mark.slow
def test_import_without_a_backend_serves_and_reports_what_to_install():
    """A container that serves exports has Keras, but no backend."""
    code = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in BACKENDS else find(name, *more)
BACKENDS = ("torch", "jax", "tensorflow")
sys.modules.update(dict.fromkeys(BACKENDS))
import focalnets.serving.network
assert "keras" not in sys.modules
try:
    focalnets.FocalNetBackbone
except ImportError as error:
    print(error)
"""
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "needs a Keras backend, and none is installed: pip install 'focalnets[torch]'" in ran.stdout
