"""deploy/ray_application.py with Ray, in a process of its own."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest

import focalnets

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = """
import json, socket, sys, urllib.error, urllib.request
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
from ray import serve
import ray_application
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
serve.start(http_options={"port": port})
serve.run(ray_application.application, route_prefix="/")
address = f"http://127.0.0.1:{port}"
def answer(path, data=None):
    request = urllib.request.Request(address + path, data, {"Content-Type": "image/jpeg"} if data else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as found:
            return found.status, json.loads(found.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
image = open(sys.argv[1], "rb").read()
explained, ready = answer("/predict?explain=1", image), answer("/v2/health/ready")
print(json.dumps([explained, ready, answer("/predict", b"junk")]))
serve.shutdown()
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no Ray")
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the replicas have no backend")
def test_ray_application_answers_like_the_server(tmp_path):
    focalnets.export("focalnet_micro_cifar10", tmp_path / "micro", explain=True)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'deploy'}:{ROOT}"}
    environment["FOCALNETS_EXPORTS"] = f"micro={tmp_path / 'micro'}"
    command = [sys.executable, "-c", SCRIPT, str(ROOT / "docs" / "cifar10" / "cat.jpg")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    (code, found), ready, (wrong, error) = json.loads(ran.stdout[ran.stdout.index("[[200") :].splitlines()[0])
    assert (code, found["predictions"][0]["classes"][0]) == (200, "cat")
    assert found["predictions"][0]["evidence"]["class"] == "cat"
    assert ready == [200, {"ready": True}]
    assert wrong == 400
    assert "not a supported image" in error["error"]
