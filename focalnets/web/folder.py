"""Files of a web page with a network: index.html, runtime.js and network.js.

The page works from a disk, where a browser reads scripts only. So WebAssembly and graphs are texts in
scripts.
"""

import importlib.resources
import json

from focalnets.output.files import write_text
from focalnets.report.explorer import explorer_page
from focalnets.web.runtime import packed_text, runtime_script

# The page can load what is beside it, and can send nothing anywhere. Scripts on a disk have the scheme file.
_POLICY = (
    "default-src 'none'; script-src 'self' file: blob: 'unsafe-inline' 'wasm-unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:"
)
_TITLE = "What a focal modulation network looks at"


def write_folder(directory, graphs, settings, class_names):
    """Write the files of the page into an existing directory.

    Args:
        directory: `pathlib.Path`.
        graphs: dict of "classify" and "explain" -> bytes of an ONNX model.
        settings: dict of "shape" (height, width, channels), "preprocessing" (as in export.json), "taps" (list
            of str) and "windows" (dict of block -> list of str).
        class_names: list of str.

    Raises:
        OSError: if npm cannot download ONNX Runtime Web.
    """
    packed = {**settings, "classes": len(class_names)}
    packed["graphs"] = {name: packed_text(graph) for name, graph in graphs.items()}
    write_text(directory / "runtime.js", runtime_script())
    write_text(directory / "network.js", f"var packedNetwork = {json.dumps(packed)};\n")
    files = importlib.resources.files("focalnets.web")
    script = "\n".join(
        files.joinpath(name).read_text(encoding="utf-8") for name in ("inference.js", "page.js")
    )
    page = explorer_page(_TITLE, class_names, settings["taps"], settings["windows"], [], script, _POLICY)
    write_text(directory / "index.html", page)
