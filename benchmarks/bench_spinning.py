"""Images per second of ONNX Runtime with waiting threads that spin or sleep, alone and with a busy process.

The configurations take turns in each round. Each row has the load average of the machine.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import measure
import numpy as np

BATCH, SECONDS = 16, 1.2


def sessions(path):
    """Dict of (threads, spinning) to a session of ONNX Runtime."""
    import onnxruntime

    found = {}
    for threads in (1, 2):
        for spinning in (True, False):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
            found[threads, spinning] = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )
    return found


def images_per_second(session, images):
    session.run(None, {"images": images})
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        session.run(None, {"images": images})
        count += len(images)
    return count / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="focalnet_micro_cifar10")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    from focalnets import FocalNetImageClassifier
    from focalnets.deployment.export import image_shape, write_export

    classifier = FocalNetImageClassifier.from_preset(arguments.preset)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *image_shape(classifier))).astype("uint8")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_export(classifier, folder)
        contenders = sessions(pathlib.Path(folder) / "model.onnx")
        for neighbors in (0, 1):
            found = {key: [] for key in contenders}
            busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbors)]
            try:
                for round_ in range(arguments.rounds):
                    for key in list(contenders)[:: 1 if round_ % 2 else -1]:
                        found[key].append(images_per_second(contenders[key], images))
            finally:
                for process in busy:
                    process.kill()
                    process.wait()
            for (threads, spinning), values in found.items():
                row = {"threads": threads, "spinning": spinning, "busy_neighbors": neighbors}
                numbers = [statistics.median(values), min(values), max(values)]
                names = ("median_images_per_s", "min_images_per_s", "max_images_per_s")
                row |= {name: round(number, 1) for name, number in zip(names, numbers, strict=True)}
                rows.append({**row, "rounds": len(values), "load_average": round(os.getloadavg()[0], 1)})
    measure.write_rows(f"spinning_onnxruntime_float32_{measure.machine()}", rows)


if __name__ == "__main__":
    main()
