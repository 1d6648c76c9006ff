"""Import rules of the package, which is parsed, not imported."""

import ast
import pathlib

import pytest

import focalnets

ROOT = pathlib.Path(focalnets.__file__).parent

# Modules at the top of the package, which import nothing else of the package but `names`. Every part may
# import them.
BASE = {"files", "maps", "names", "npz", "pixel_range", "process"}
BASE |= {"progress", "resizing", "schema", "threads"}

# Each part may import these parts, the base and itself. LAZILY are the declared exceptions: imports inside a
# function that would run against the order at the top of a file.
ALLOWED = {
    **{part: set() for part in BASE},
    "output": set(),
    "report": {"output"},
    "hub": set(),
    "ops": set(),
    "layers": {"ops"},
    "models": {"ops", "layers"},
    "presets": {"output", "ops", "layers", "models"},
    "conversion": {"output", "hub", "ops", "layers", "models", "presets"},
    "web": {"output", "report", "hub"},
    "deployment": {"output", "ops", "layers", "models", "presets", "conversion", "images", "data", "web"},
    "images": set(),
    "data": {"output", "hub", "images"},
    "prediction": {"output", "report", "hub", "presets", "conversion", "deployment", "images", "data"},
    "serving": {"output", "report", "deployment", "images", "prediction"},
    "explanation": {
        *("output", "report", "ops", "layers", "models", "conversion", "images", "data", "prediction"),
    },
    "training": {
        *("output", "report", "ops", "layers", "models", "presets", "conversion", "images", "data"),
        *("prediction", "explanation"),
    },
    "commands": {
        *("output", "presets", "conversion", "deployment", "data", "prediction", "explanation", "training"),
        *("serving", "cli"),
    },
    "cli": {"commands"},
    "__main__": {"cli"},
    "__init__": set(),
}
LAZILY = {
    ("models", "presets"),  # save_to_preset
    ("models", "conversion"),  # from_preset
    ("models", "prediction"),  # preprocess
    ("models", "training"),  # compile
}
ANYWHERE = {"__version__"}
BACKEND_FILES = {
    "torch": {"torch_ops.py", "torch_cpu.py", "torch_processes.py", "triton_kernels.py", "exported.py"},
    "triton": {"triton_kernels.py"},
    "jax": {"jax_ops.py", "jax_processes.py"},
    "tensorflow": {"tensorflow_ops.py", "exported.py"},
}


def part(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """(part of focalnets or name of a foreign module, whether at the top of the file)."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [
                f"{node.module}.{alias.name}" if node.module == "focalnets" else node.module
                for alias in node.names
            ]
        for name in names:
            yield name, node in tree.body


@pytest.mark.slow
def test_parts_import_only_earlier_parts():
    files = list(ROOT.rglob("*.py"))
    assert {part(path) for path in files} == set(ALLOWED), "a new part needs a row in ALLOWED"
    for path in files:
        for name, at_top in imports(path):
            first, *rest = name.split(".")
            if first != "focalnets" or not rest or rest[0] in ANYWHERE:
                continue
            own = part(path)
            fine = (
                rest[0] == own
                or rest[0] in ALLOWED[own]
                or rest[0] in (BASE if own not in BASE else {"names"})
            )
            fine = fine or (not at_top and (own, rest[0]) in LAZILY)
            assert fine, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.slow
def test_foreign_modules_are_imported_only_in_their_parts():
    free_of_keras = {*BASE, "hub", "cli", "__main__", "__init__"}
    for path in ROOT.rglob("*.py"):
        for name, at_top in imports(path):
            first = name.split(".")[0]
            assert not name.startswith("keras.src"), f"{path} uses Keras' insides"
            reads_pickles = first == "torch" and part(path) == "conversion" and not at_top
            if first in BACKEND_FILES and not reads_pickles:
                own = part(path) == "ops" and path.name in BACKEND_FILES[first]
                assert own, f"{path} imports a backend"
            if first == "keras":
                assert part(path) not in free_of_keras, path
            if first in ("huggingface_hub", "safetensors", "onnx", "onnxruntime", "openvino"):
                assert not at_top, f"{path}: optional packages are imported where they are used"


def test_maps_import_only_numpy():
    assert {name for name, _ in imports(ROOT / "maps.py")} == {"numpy"}
