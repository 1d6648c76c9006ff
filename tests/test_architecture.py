"""Who may import whom. The package is parsed, not imported."""

import ast
import pathlib

import focalnets

ROOT = pathlib.Path(focalnets.__file__).parent

# Each part may import the parts named, and itself. `lazily` are the declared exceptions: imports inside
# a function that would run against the order if they stood on top.
ALLOWED = {
    "_io": {"names", "schema"},
    "names": set(),
    "npz": set(),
    "process": {"names"},
    "pixel_range": set(),
    "resizing": set(),
    "schema": set(),
    "output": {"_io", "names", "schema"},
    "report": {"_io", "output"},
    "hub": {"_io", "schema", "output"},
    "ops": set(),
    "layers": {"ops"},
    "models": {"names", "pixel_range", "resizing", "ops", "layers"},
    "presets": {"_io", "output", "names", "schema", "resizing", "ops", "layers", "models"},
    "conversion": {"_io", "output", "schema", "names", "hub", "ops", "layers", "models", "presets"},
    "deployment": {"_io", "output", "schema", "models", "presets", "conversion"},
    "images": {"_io", "names", "schema"},
    "data": {"_io", "output", "schema", "npz", "names", "images"},
    "prediction": {
        *("_io", "output", "report", "pixel_range", "schema", "names", "resizing", "hub", "presets"),
        *("conversion", "deployment", "images", "data"),
    },
    "explanation": {
        *("output", "report", "names", "layers", "models", "conversion", "data", "prediction"),
    },
    "training": {
        *("_io", "output", "report", "schema", "names", "npz", "ops", "layers", "models", "presets"),
        *("conversion", "images", "data", "prediction", "explanation"),
    },
    "commands": {
        *("_io", "output", "names", "presets", "conversion", "deployment", "data", "prediction"),
        *("explanation", "training", "cli"),
    },
    "cli": {"names", "process", "commands"},
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
        "resizing",
        "hub",
        "cli",
        "__main__",
        "__init__",
    }
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
            if first in ("sklearn", "huggingface_hub", "safetensors", "onnx", "onnxruntime", "openvino"):
                assert not at_top, f"{path}: optional packages are imported where they are used"


def test_maps_are_numpy_only():
    assert {name for name, _ in imports(ROOT / "explanation" / "maps.py")} == {"dataclasses", "numpy"}
