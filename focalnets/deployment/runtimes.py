"""The runtimes that compute an exported network: ONNX Runtime and OpenVINO, in float32 on the CPU."""

import contextlib
import importlib.util
import sys

from focalnets.deployment.cached_files import checked_files
from focalnets.threads import cores


def missing_packages(runtime):
    """Packages that a runtime lacks, in words; "" if it can be used.

    >>> from focalnets.deployment.runtimes import missing_packages
    >>> missing_packages("no_such_runtime").split()[0]
    'no_such_runtime'
    """
    return " and ".join(name for name in (runtime, "onnx") if importlib.util.find_spec(name) is None)


def _onnxruntime(path, cached):
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # on Windows, its builds send some
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    # Threads that wait by spinning take the cores from whatever else runs: benchmarks/README.md.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def _openvino(path, cached):
    openvino = _import_openvino()
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": cores(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # it takes bfloat16 where the processor has it
    }
    compiled = path.parent / "compiled"
    if cached:
        settings["CACHE_DIR"] = str(compiled)
    # OpenVINO reads a damaged file without noticing.
    with checked_files(compiled) if cached else contextlib.nullcontext():
        request = core.compile_model(path, "CPU", settings).create_infer_request()
    return lambda images: request.infer({0: images})[0].copy()  # the array is the next call's, too


def _import_openvino():
    """OpenVINO without its telemetry, which writes an identifier into the home directory when it is imported.

    OpenVINO itself has a stand-in for where the package `openvino_telemetry` is not installed.
    """
    name = "openvino_telemetry"
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None
    try:
        import openvino
    finally:
        if hidden:
            del sys.modules[name]
    return openvino


# Name -> function (path of the graph, whether its directory is one of the cache, and may get files). It
# returns a function images -> logits.
RUNTIMES = {"onnxruntime": _onnxruntime, "openvino": _openvino}

NO_RUNTIME = "An export needs onnx, and a runtime to verify it: pip install 'focalnets[onnxruntime]'."

# Fastest first, on CPUs: benchmarks/README.md.
BY_SPEED = ("openvino", "onnxruntime")


def usable_runtimes():
    """Names of the runtimes that are installed, fastest first."""
    return [runtime for runtime in BY_SPEED if not missing_packages(runtime)]
