"""ONNX Runtime Web: its files, which npm downloads once, and its use under Node for the verification."""

import base64
import gzip
import hashlib
import json
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import weakref

import numpy as np

from focalnets.files import locked
from focalnets.hub import offline, private_directory
from focalnets.output.files import writing

VERSION = "1.30.0"
# Of the package. Another build of this version would not have been tested.
_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
_SCRIPT, _LOADER, _BINARY = "ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
_SECONDS = 600  # after which a call of Node or npm has failed


def missing_programs():
    """Names of the missing programs that write and verify a web page, joined by " and "."""
    return " and ".join(name for name in ("node", "npm") if shutil.which(name) is None)


def runtime_script():
    """Text of runtime.js: ONNX Runtime Web, and its WebAssembly as base64.

    npm downloads the package from the registry that it is configured for, into the cache.

    Raises:
        OSError: if npm fails, or FOCALNETS_OFFLINE=1 forbids the download.
        ValueError: if the package is not the expected one.
    """
    path = private_directory("web") / f"onnxruntime-web-{VERSION}.js"
    with locked(path.with_suffix(".lock"), f"downloading onnxruntime-web {VERSION}"):
        if not path.is_file():
            text = _script_from(_download())
            with writing(path, own=False) as partial:
                partial.write_text(text, encoding="utf-8")
    return path.read_text(encoding="utf-8")


def _download():
    """Bytes of the three files of the package, by name."""
    if variable := offline():
        raise OSError(
            f"onnxruntime-web {VERSION} is not in the cache, and {variable} forbids downloading it. Unset "
            f"{variable}."
        )
    with tempfile.TemporaryDirectory(prefix="focalnets-") as folder:
        command = [shutil.which("npm"), "pack", f"onnxruntime-web@{VERSION}", "--silent"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS)
        packages = list(pathlib.Path(folder).glob("*.tgz"))
        if done.returncode or not packages:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
            raise OSError(f"npm cannot download onnxruntime-web {VERSION}: {lines[-1]}")
        found = hashlib.sha256(packages[0].read_bytes()).hexdigest()
        if found != _SHA256:
            raise ValueError(
                f"npm downloaded another onnxruntime-web {VERSION} than expected: SHA-256 is {found}, "
                f"expected {_SHA256}. Check the registry that npm uses."
            )
        with tarfile.open(packages[0]) as package:
            names = (_SCRIPT, _LOADER, _BINARY)
            return {name: package.extractfile(f"package/dist/{name}").read() for name in names}


def _script_from(files):
    source = files[_SCRIPT].decode().split("//# sourceMappingURL")[0]
    packed = {"loader": base64.b64encode(files[_LOADER]).decode(), "binary": packed_text(files[_BINARY])}
    return f"{source}var packedRuntime = {json.dumps(packed)};\n"


def packed_text(content):
    """Compressed bytes as base64, a str."""
    return base64.b64encode(gzip.compress(content, compresslevel=6, mtime=0)).decode()


class Node:
    """Node, which runs the graphs of a folder as its page does, until this object is deleted.

    Args:
        folder: path. Folder with runtime.js and network.js.
    """

    def __init__(self, folder):
        here = pathlib.Path(__file__).parent
        self._directory = pathlib.Path(tempfile.mkdtemp(prefix="focalnets-"))
        command = [shutil.which("node"), here / "check.mjs", folder, here / "inference.js"]
        self._process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.milliseconds = []  # of each call, in ONNX Runtime Web alone
        weakref.finalize(self, _end, self._process, self._directory)

    def run(self, graph, inputs):
        """Outputs of a graph, "classify" or "explain": dict of name -> array."""
        described = {
            name: {"type": str(one.dtype), "dims": list(one.shape), "file": self._save(name, one)}
            for name, one in inputs.items()
        }
        out = self._path("outputs")
        answer = self._ask({"graph": graph, "inputs": described, "out": out})
        self.milliseconds.append(answer["milliseconds"])
        values, found, start = np.fromfile(out, "float32"), {}, 0
        for name, shape in answer["outputs"]:
            end = start + int(np.prod(shape))
            found[name], start = values[start:end].reshape(shape), end
        return found

    def prepare(self, pixels, shape):
        """Prepared image, uint8 of `shape`, from RGBA pixels (H, W, 4)."""
        height, width = pixels.shape[:2]
        image = {"width": width, "height": height, "file": self._save("image", pixels)}
        self._ask({"image": image, "out": self._path("outputs")})
        return np.fromfile(self._path("outputs"), "uint8").reshape(shape)

    def _path(self, name):
        return str(self._directory / name)

    def _save(self, name, array):
        np.ascontiguousarray(array).tofile(self._path(name))
        return self._path(name)

    def _ask(self, request):
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except OSError:
            answer = ""
        if not answer:
            raise OSError("Node cannot run the exported network. Its message is above.")
        return json.loads(answer)


def _end(process, directory):
    process.stdin.close()
    process.stdout.close()
    process.wait(timeout=_SECONDS)
    shutil.rmtree(directory)
