"""Which backend `import focalnets` chooses. Each case is a fresh process."""

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
    # What the package decides, read before keras is imported: fast, and also true for a backend
    # that is not installed here.
    code = (
        "import os, sys; sys.argv = ['focalnets']\n"
        f"{first}\nimport focalnets; print(os.environ.get('KERAS_BACKEND'))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return ran.stdout.strip()


def config(**changes):
    untouched = {
        "floatx": "float32",
        "epsilon": 1e-07,
        "backend": "tensorflow",
        "image_data_format": "channels_last",
    }
    return json.dumps({**untouched, **changes})


def test_the_first_installed_backend_is_chosen(tmp_path):
    assert chosen(tmp_path) == INSTALLED[0]


def test_a_choice_of_the_user_stands(tmp_path):
    assert chosen(tmp_path, variable="jax") == "jax"
    assert chosen(tmp_path, keras_json=config(backend="jax")) == "None"
    expected = "None" if "tensorflow" in INSTALLED else INSTALLED[0]
    assert chosen(tmp_path, keras_json=config(epsilon=1e-6)) == expected


def test_the_keras_json_that_keras_writes_by_itself_is_no_choice(tmp_path):
    assert chosen(tmp_path, keras_json=config()) == INSTALLED[0]
    assert chosen(tmp_path, keras_json="{") == INSTALLED[0]


def test_keras_still_writes_the_file_that_we_ignore(tmp_path):
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": keras.backend.backend()}
    code = "import keras"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert json.loads((tmp_path / "keras.json").read_text()) == json.loads(config())


def test_a_machine_without_a_backend_is_told_what_to_install(tmp_path):
    hide = (
        "import importlib.util as u, sys\nfind = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n in ('torch', 'jax', 'tensorflow') else find(n, *a)\n"
        "import focalnets"
    )
    ran = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True)
    assert "pip install 'focalnets[torch]'" in ran.stderr


def test_import_focalnets_works_in_an_environment_of_one_backend(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    environment["KERAS_HOME"] = str(tmp_path)
    code = "import focalnets, keras; print(keras.backend.backend())"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == INSTALLED[0]
