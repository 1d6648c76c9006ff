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


def test_import_without_backend_reports_what_to_install(tmp_path):
    hide = (
        "import importlib.util as u, sys\nfind = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n in ('torch', 'jax', 'tensorflow') else find(n, *a)\n"
        "import focalnets"
    )
    ran = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True)
    assert "pip install 'focalnets[torch]'" in ran.stderr


@pytest.mark.slow
def test_keras_uses_first_installed_backend_after_import(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    environment["KERAS_HOME"] = str(tmp_path)
    code = "import focalnets, keras; print(keras.backend.backend())"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == INSTALLED[0]
