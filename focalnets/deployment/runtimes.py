"""Runtimes for exported networks: ONNX Runtime and OpenVINO, in float32 on a CPU."""

import contextlib
import importlib.util
import sys
import threading

from focalnets.deployment.cached_files import checked_files
from focalnets.threads import cores


def missing_packages(runtime):
    """Names of the missing packages of a runtime, joined by " and ", or "" if it is installed.

    >>> from focalnets.deployment.runtimes import missing_packages
    >>> missing_packages("no_such_runtime").split()[0]
    'no_such_runtime'
    """
    return " and ".join(name for name in (runtime, "onnx") if importlib.util.find_spec(name) is None)


def _onnxruntime(path, cached, streams=None):
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # builds for Windows send telemetry
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if streams else cores()
    # Spinning threads slow down other work on the same cores (benchmarks/README.md).
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def _openvino(path, cached, streams=None):
    openvino = _import_openvino()
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": streams or cores(),
        # A server outlives its files: a mapped file that is overwritten would change the weights.
        **({"NUM_STREAMS": streams, "ENABLE_MMAP": False} if streams else {"PERFORMANCE_HINT": "LATENCY"}),
        # Bound threads of several processes would share the first cores, at half the speed for two processes.
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 on some processors
    }
    compiled = path.parent / "compiled"
    if cached:
        settings["CACHE_DIR"] = str(compiled)
    # OpenVINO does not detect damaged files.
    with checked_files(compiled) if cached else contextlib.nullcontext():
        compiled_model = core.compile_model(path, "CPU", settings)
    of_thread = threading.local()

    def run(inputs):
        if not hasattr(of_thread, "request"):
            of_thread.request = compiled_model.create_infer_request()
        found = of_thread.request.infer(inputs)
        # The next call overwrites the arrays.
        return {name: array.copy() for output, array in found.items() for name in output.get_names()}

    return run


def write_openvino(onnx_path, path):
    """Convert an ONNX graph to the files of OpenVINO, in float32: `path` (.xml) and its weights (.bin)."""
    openvino = _import_openvino()
    openvino.save_model(openvino.convert_model(onnx_path), path, compress_to_fp16=False)


def _import_openvino():
    with hidden_telemetry():
        import openvino
    return openvino


@contextlib.contextmanager
def hidden_telemetry():
    """Imports of OpenVINO and NNCF without their telemetry, which would write an identifier into the home
    directory. Both have a substitute for the case that the package `openvino_telemetry` is not installed."""
    name = "openvino_telemetry"
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None
    try:
        yield
    finally:
        if hidden:
            del sys.modules[name]


# Name -> function(path of the graph, whether files may be added to its directory in the cache, streams). It
# returns a function from a dict of inputs to a dict of outputs, which several threads may call. A call uses
# all cores. If `streams` is given, the number of calls at the same time, each uses one core.
RUNTIMES = {"onnxruntime": _onnxruntime, "openvino": _openvino}

NO_RUNTIME = "Exporting needs onnx and a runtime to verify it: pip install 'focalnets[onnxruntime]'."

# Fastest first on CPUs (benchmarks/README.md).
BY_SPEED = ("openvino", "onnxruntime")


def usable_runtimes():
    """Names of the installed runtimes, fastest first."""
    return [runtime for runtime in BY_SPEED if not missing_packages(runtime)]
