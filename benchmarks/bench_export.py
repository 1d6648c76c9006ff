"""Exports of a network in every format that this backend can write, compared with Keras on real images.

    python benchmarks/bench_export.py DATA [--preset focalnet_micro_cifar10]

Each row has the largest and mean difference of the logits relative to the largest logit, the fraction of up
to 1,000 test images of DATA with the same predicted class, images per second in batches of 32, and the size
of the files. A format that the environment cannot write has a row with the reason. Run it in the environment
of each backend, on an idle machine.
"""

import argparse
import os
import pathlib
import tempfile
import time

import focalnets  # before keras: it chooses the backend  # isort: skip
import keras
import measure

from focalnets.conversion.open import as_classifier
from focalnets.deployment.formats import FORMATS


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    parser.add_argument("--preset", default="focalnet_micro_cifar10")
    arguments = parser.parse_args()
    classifier, rows = as_classifier(arguments.preset), []
    for name in FORMATS:
        row = {
            "backend": keras.backend.backend(),
            "format": name,
            "preset": arguments.preset,
            "largest": "",
            "mean": "",
            "agreement": "",
            "images": "",
            "images_per_second": "",
            "megabytes": "",
            "seconds": "",
            "reason": "",
        }
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            try:
                done = focalnets.export(classifier, f"{folder}/out", format=name, data=arguments.data)
            except (ImportError, ValueError) as error:
                row["reason"] = str(error)
            else:
                found = done.comparison
                files = [path for path in pathlib.Path(folder, "out").rglob("*") if path.is_file()]
                row |= {
                    "largest": f"{found.largest:.1e}",
                    "mean": f"{found.mean:.1e}",
                    "agreement": found.agreement,
                    "images": found.images,
                    "images_per_second": round(found.images_per_second),
                    "megabytes": round(sum(os.path.getsize(path) for path in files) / 1e6, 2),
                    "seconds": round(time.perf_counter() - start, 1),
                }
        print({key: value for key, value in row.items() if value != ""})
        rows.append(row)
    measure.write_rows(f"export_{measure.machine()}", rows)


if __name__ == "__main__":
    main()
