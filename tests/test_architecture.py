"""Who may import whom. The package is parsed, not imported."""

import ast
import pathlib

import focalnets

ROOT = pathlib.Path(focalnets.__file__).parent

# Each part may import the parts named, and itself. `lazily` are the declared exceptions: imports inside
# a function that would run against the order if they stood on top.
ALLOWED = {
    "_io": {"names", "schema"},
    "arguments": set(),
    "config": set(),
    "names": set(),
    "npz": set(),
    "process": {"names"},
    "pixel_range": set(),
    "resizing": set(),
    "schema": set(),
    "output": {"_io", "names", "schema"},
    "hub": {"_io", "schema", "output"},
    "ops": {"config"},
    "layers": {"ops"},
    "models": {"names", "pixel_range", "resizing", "ops", "layers"},
    "presets": {"_io", "output", "names", "schema", "resizing", "ops", "layers", "models"},
    "convert": {"_io", "output", "schema", "names", "hub", "ops", "layers", "models", "presets"},
    "export": {"_io", "output", "schema", "models", "presets"},
    "data": {"_io", "output", "schema", "npz", "names"},
    "explain": {"_io", "output", "names", "ops", "layers", "models", "presets", "convert", "data"},
    "inference": {
        "_io",
        "output",
        "pixel_range",
        "schema",
        "names",
        "resizing",
        "hub",
        "presets",
        "convert",
        "data",
        "explain",
        "export",
    },
    "training": {
        "_io",
        "output",
        "schema",
        "names",
        "npz",
        "ops",
        "layers",
        "models",
        "presets",
        "convert",
        "data",
        "explain",
        "inference",
    },
    "checks": {"_io", "output", "names", "presets", "convert", "data", "explain", "training"},
    "completion": {"arguments", "presets", "data", "training", "cli"},
    "cli": {"arguments", "config", "names", "process", "checks"},
    "__main__": {"cli"},
    "__init__": set(),
}
LAZILY = {
    ("models", "presets"),  # save_to_preset
    ("models", "convert"),  # from_preset
    ("models", "inference"),  # preprocess
    ("models", "training"),  # compile
}
ANYWHERE = {"__version__"}
BACKEND_FILES = {
    "torch": {"torch_ops.py", "torch_cpu.py", "triton_kernels.py"},
    "triton": {"triton_kernels.py"},
    "jax": {"jax_ops.py"},
    "tensorflow": {"tensorflow_ops.py"},
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


def test_parts_import_only_what_stands_before_them():
    files = list(ROOT.rglob("*.py"))
    assert {part(path) for path in files} == set(ALLOWED), "a new part needs a row in ALLOWED"
    for path in files:
        for name, at_top in imports(path):
            first, *rest = name.split(".")
            if first != "focalnets" or not rest or rest[0] in ANYWHERE:
                continue
            own = part(path)
            fine = rest[0] == own or rest[0] in ALLOWED[own]
            fine = fine or (not at_top and (own, rest[0]) in LAZILY)
            assert fine, f"{path.relative_to(ROOT)} imports {name}"


def test_foreign_modules_stay_where_they_belong():
    free_of_keras = {
        "_io",
        "schema",
        "npz",
        "names",
        "process",
        "checks",
        "completion",
        "config",
        "resizing",
        "hub",
        "arguments",
        "cli",
        "__main__",
        "__init__",
    }
    for path in ROOT.rglob("*.py"):
        for name, at_top in imports(path):
            first = name.split(".")[0]
            assert not name.startswith("keras.src"), f"{path} uses Keras' insides"
            reads_pickles = first == "torch" and part(path) == "convert" and not at_top
            if first in BACKEND_FILES and not reads_pickles:
                own = part(path) == "ops" and path.name in BACKEND_FILES[first]
                assert own, f"{path} imports a backend"
            if first == "keras":
                assert part(path) not in free_of_keras, path
            if first in ("sklearn", "huggingface_hub", "safetensors", "onnx", "onnxruntime", "openvino"):
                assert not at_top, f"{path}: optional packages are imported where they are used"


def test_maps_are_numpy_only():
    assert {name for name, _ in imports(ROOT / "explain" / "maps.py")} == {"dataclasses", "numpy"}
