"""`focalnets serve` as a process, with real clients."""

import base64
import concurrent.futures
import contextlib
import http.client
import io
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

import keras
import numpy as np
import pytest
from PIL import Image

import focalnets
from focalnets.cli import main

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
if keras.backend.backend() != "torch":
    pytest.skip("does not depend on the backend", allow_module_level=True)

PHOTOS = pathlib.Path(__file__).parents[2] / "docs" / "cifar10"
CAT = (PHOTOS / "cat.jpg").read_bytes()
JPEG = {"Content-Type": "image/jpeg"}
POST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    directory = tmp_path_factory.mktemp("exported") / "micro"
    focalnets.export("focalnet_micro_cifar10", directory, explain=True)
    return directory


class Server:
    """A server process. `log` has the rows of its log."""

    def __init__(self, *words):
        command = [sys.executable, "-m", "focalnets", "serve", *map(str, words), "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.log, self._is_ready = [], threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self._is_ready.wait(60), self.log
        address = next(row["address"] for row in self.log if row["event"] == "starting")
        host, _, port = address.removeprefix("http://").rpartition(":")
        self.address = (host, int(port))

    def _read(self):
        for line in self.process.stderr:
            self.log.append(json.loads(line) if line.startswith("{") else {"event": line})
            if self.log[-1]["event"] == "ready":
                self._is_ready.set()
        self._is_ready.set()  # the process has ended

    def events(self, name):
        return [row for row in self.log if row["event"] == name]

    def ask(self, path, body=None, headers=None, method=None):
        """(status, JSON, headers) of a request."""
        with contextlib.closing(http.client.HTTPConnection(*self.address, timeout=30)) as connection:
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
            is_json = response.headers["Content-Type"] == "application/json"
            return response.status, json.loads(content) if is_json else content, response.headers

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        self._thread.join()
        self.process.stderr.close()
        return code


@contextlib.contextmanager
def serving(*words):
    server = Server(*words)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(exported):
    words = ("--lame-duck", "0", "--timeout", "2", "--max-body", "1", "--reload", "0")
    with serving(exported, f"other={exported}", *words) as server:
        yield server


def form(*files):
    """Body and headers of multipart/form-data."""
    parts = [
        b'--limit\r\nContent-Disposition: form-data; name="images"; filename="%s"\r\n\r\n%s\r\n'
        % (name.encode(), content)
        for name, content in files
    ]
    return b"".join([*parts, b"--limit--\r\n"]), {"Content-Type": "multipart/form-data; boundary=limit"}


# === Predictions ===


@pytest.mark.slow
def test_predict_gives_the_same_as_the_function(server, exported):
    names = ["cat.jpg", "horse.jpg", "ship.jpg"]
    expected = focalnets.predict(exported, [str(PHOTOS / name) for name in names], top=10)
    status, found, _ = server.ask("/predict?top=10", *form(*((n, (PHOTOS / n).read_bytes()) for n in names)))
    assert (status, found["model"]) == (200, "micro")
    for row, right, name in zip(found["predictions"], expected, names, strict=True):
        assert (row["name"], row["classes"]) == (name, list(right.classes))
        np.testing.assert_allclose(row["probabilities"], right.probabilities, atol=1e-6)
    status, alone, _ = server.ask("/predict", CAT, JPEG)
    assert status == 200
    assert alone["predictions"][0]["classes"] == list(expected[0].classes[:5])
    _, png, _ = server.ask("/predict?model=other&top=1", as_png(CAT), {"Content-Type": "image/png"})
    assert (png["model"], png["predictions"][0]["classes"]) == ("other", ["cat"])


def as_png(content):
    stream = io.BytesIO()
    Image.open(io.BytesIO(content)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.slow
def test_predict_explains_like_the_function(server):
    (expected,) = focalnets.explain("focalnet_micro_cifar10", str(PHOTOS / "cat.jpg"))
    status, found, _ = server.ask("/predict?explain=1", CAT, JPEG)
    assert status == 200
    row = found["predictions"][0]["evidence"]
    assert row["class"] == expected.target
    evidence = np.frombuffer(base64.b64decode(row["data"]), "<f4").reshape(row["shape"])
    scale = np.abs(expected.evidence).max()
    np.testing.assert_allclose(evidence, expected.evidence, atol=1e-4 * scale)
    totals = dict(expected.level_totals())
    assert list(row["levels"]) == list(totals)
    for block, values in row["levels"].items():
        np.testing.assert_allclose(values["totals"], [value for _, value in totals[block]], atol=1e-4)
        assert len(values["windows"]) == len(values["totals"])


@pytest.mark.slow
def test_page_explains_like_the_explorer(server):
    status, content, headers = server.ask("/")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert b"explainFile" in content
    assert not re.findall(rb"(?:src|href)=.https?:", content), "the page loads nothing from elsewhere"
    status, found, _ = server.ask("/explore?name=cat.jpg", CAT, JPEG)
    assert status == 200
    explained = focalnets.explain("focalnet_micro_cifar10", str(PHOTOS / "cat.jpg"))
    (right,) = explained[0].explainer.explorer_images(list(explained))
    assert set(found) == set(right)
    same = ("size", "target", "versus")
    assert [found[key] for key in same] == [right[key] for key in same]
    assert [index for index, _ in found["top"]] == [index for index, _ in right["top"]]
    for index, maps in right["evidence"].items():
        if str(index) in found["evidence"]:
            assert list(found["evidence"][str(index)]) == list(maps)
            np.testing.assert_allclose(found["logits"][str(index)], right["logits"][index], atol=1e-3)
            for tap, values in maps.items():
                ours = found["evidence"][str(index)][tap]
                assert ours["size"] == values["size"]
                assert ours["scale"] == pytest.approx(values["scale"], rel=1e-3), (index, tap)
    assert str(right["target"]) in found["evidence"]
    for block, values in right["totals"].items():
        np.testing.assert_allclose(found["totals"][block], values, atol=1e-3)
    assert server.ask("/explore", b"no", JPEG)[0] == 400


# === The Open Inference Protocol ===


@pytest.fixture(scope="module")
def pixels():
    return np.asarray(Image.open(io.BytesIO(CAT)))[None]


def request(pixels, **changes):
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.tolist()}
    return {"inputs": [{**tensor, **changes}]}


@pytest.mark.slow
def test_infer_speaks_json_and_binary(server, pixels):
    _, about, _ = server.ask("/v2/models/micro")
    assert about["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}]
    (version,) = about["versions"]
    _, right, _ = server.ask("/predict?top=10", CAT, JPEG)
    right = dict(zip(*(right["predictions"][0][key] for key in ("classes", "probabilities")), strict=True))
    asked = {**request(pixels), "id": "seven"}
    for path in ("/v2/models/micro/infer", f"/v2/models/micro/versions/{version}/infer"):
        status, found, _ = server.ask(path, json.dumps(asked))
        assert (status, found["id"], found["model_version"]) == (200, "seven", version)
        probabilities, logits = found["outputs"]
        assert (probabilities["name"], logits["name"]) == ("probabilities", "logits")
        assert probabilities["shape"] == [1, 10]
        np.testing.assert_allclose(sorted(probabilities["data"]), sorted(right.values()), atol=1e-6)
    flat = request(pixels, data=pixels.ravel().tolist())
    assert server.ask("/v2/models/micro/infer", json.dumps(flat))[1]["outputs"] == found["outputs"]

    tensor = {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape)}
    tensor["parameters"] = {"binary_data_size": pixels.nbytes}
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}, {"name": "probabilities"}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    status, content, answered = server.ask("/v2/models/micro/infer", head + pixels.tobytes(), headers)
    length = int(answered["Inference-Header-Content-Length"])
    rows = json.loads(content[:length])["outputs"]
    assert [row["name"] for row in rows] == ["logits", "probabilities"]
    found = np.frombuffer(content[length:], "<f4")
    np.testing.assert_allclose(found, logits["data"], rtol=1e-6)
    assert rows[0]["parameters"] == {"binary_data_size": found.nbytes}


@pytest.mark.slow
def test_infer_serves_the_client_of_triton(server, pixels):
    triton = pytest.importorskip("tritonclient.http")
    with contextlib.closing(triton.InferenceServerClient(":".join(map(str, server.address)))) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("micro")
        assert client.get_model_metadata("micro")["name"] == "micro"
        answers = []
        for binary in (True, False):
            given = triton.InferInput("images", pixels.shape, "UINT8")
            given.set_data_from_numpy(pixels, binary_data=binary)
            wanted = [triton.InferRequestedOutput("logits", binary_data=binary)]
            answers.append(client.infer("micro", [given], outputs=wanted).as_numpy("logits"))
        np.testing.assert_allclose(answers[0], answers[1], rtol=1e-6)
        assert answers[0].argmax() == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"datatype": "FP32"}, "must have the datatype UINT8"),
        ({"shape": [1, 32, 32, 1]}, "must have the shape [1 to 64, 32, 32, 3]"),
        ({"shape": [65, 32, 32, 3]}, "must have the shape"),
        ({"shape": [-1, 32, 32, 3]}, "must have the shape"),
        ({"shape": [32, 32, 3]}, "must have the shape"),
        ({"data": [[1, 2], [3]]}, "nested unevenly"),
        ({"data": [0.5] * 3072}, "whole numbers from 0 to 255"),
        ({"data": [256] * 3072}, "whole numbers from 0 to 255"),
        ({"data": ["a"] * 3072}, "whole numbers from 0 to 255"),
        ({"data": [1, 2, 3]}, "has 3072 numbers; got 3"),
        ({"data": None}, "neither data nor binary_data_size"),
        ({"data": None, "parameters": {"binary_data_size": 3072}}, "and 0 bytes after the JSON"),
        ({"name": "pixels"}, "one input, 'images'"),
    ],
)
def test_infer_refuses_wrong_tensors(server, pixels, change, words):
    status, found, _ = server.ask("/v2/models/micro/infer", json.dumps(request(pixels, **change)))
    assert status == 400
    assert words in found["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b"{", {}, "not valid JSON"),
        (b"[" * 100_000, {}, "not valid JSON"),
        (b"\xff\xfe", {}, "not valid JSON"),
        (b"{}", {}, "missing required field `inputs`"),
        (b'{"inputs": []}', {"Inference-Header-Content-Length": "1000"}, "must be a number of bytes"),
        (b'{"inputs": []}', {"Inference-Header-Content-Length": "x"}, "must be a number of bytes"),
    ],
)
def test_infer_refuses_wrong_bodies(server, body, headers, words):
    status, found, _ = server.ask("/v2/models/micro/infer", body, headers)
    assert status == 400
    assert words in found["error"]


# === Wrong requests ===


def bomb():
    """A PNG of a few bytes that declares 10,000 x 10,000 pixels."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        ("/predict", CAT[:500], JPEG, 400, "image: the file is truncated"),
        ("/predict", b"hello", JPEG, 400, "image: "),
        ("/predict", bomb(), {"Content-Type": "image/png"}, 400, "exceed the limit of 64 million"),
        ("/predict", b"", JPEG, 400, "The body is empty"),
        ("/predict", b"a=1", {"Content-Type": "text/plain"}, 415, "got 'text/plain'"),
        ("/predict", CAT, {}, 415, "got ''"),
        ("/predict", b"x", {"Content-Type": "multipart/form-data"}, 400, ""),
        ("/predict", b"x", {"Content-Type": "multipart/form-data; boundary=limit"}, 400, ""),
        ("/predict", *form(("a.jpg", b"no")), 400, "a.jpg: "),
        ("/predict", *form(*[("a", b"")] * 65), 400, "Too many files"),
        ("/predict?top=0", CAT, JPEG, 400, "top must be a whole number from 1 to 10; got '0'"),
        ("/predict?top=11", CAT, JPEG, 400, "got '11'"),
        ("/predict?explain=yes", CAT, JPEG, 400, "explain must be a whole number from 0 to 1"),
        ("/predict?model=mirco", CAT, JPEG, 404, "Unknown network 'mirco'"),
        ("/v2/models/../../etc", None, {}, 404, ""),
        ("/v2/models/micro/versions/7", None, {}, 404, "micro has the version"),
        ("/predict", None, {}, 405, ""),
        ("/none", b"x", {}, 404, ""),
    ],
)
def test_wrong_requests_get_an_error_that_helps(server, path, body, headers, status, words):
    found, content, _ = server.ask(path, body, headers)
    assert found == status
    assert words in content["error"]


@pytest.mark.slow
def test_large_body_is_refused_before_it_is_read(server):
    with socket.create_connection(server.address, timeout=10) as client:
        client.sendall(POST + b"Content-Length: 200000000\r\n\r\n")
        answer = client.recv(4096)
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in answer.lower()
    with socket.create_connection(server.address, timeout=10) as client:  # of unknown length
        client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(40):
                client.sendall(b"10000\r\n" + bytes(65_536) + b"\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 413")


@pytest.mark.slow
def test_slow_clients_are_disconnected(server):
    """After 2 seconds: in the headers, and in the body."""
    started = time.monotonic()
    with socket.create_connection(server.address, timeout=10) as client:
        client.sendall(b"GET /v2 HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(4096) == b""
    assert 1.5 < time.monotonic() - started < 6
    with socket.create_connection(server.address, timeout=10) as client:
        client.sendall(POST + b"Content-Length: 100\r\n\r\nab")
        assert client.recv(4096).startswith(b"HTTP/1.1 408")
    with socket.create_connection(server.address, timeout=10) as client, contextlib.suppress(OSError):
        client.sendall(b"GET /v2 HTTP/1.1\r\n" + b"X: " + b"y" * 100_000)
        assert client.recv(4096).startswith(b"HTTP/1.1 400")
    assert server.ask("/v2/health/ready")[0] == 200


# === Life ===


@pytest.mark.slow
def test_full_queue_refuses_and_answers_the_others(exported):
    words = ("--queue", "2", "--threads", "1", "--lame-duck", "0", "--no-access-log")
    with serving(exported, *words) as server, concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: server.ask("/predict?explain=1", CAT, JPEG), range(72)))
        statuses = [status for status, *_ in answers]
        assert set(statuses) == {200, 503}
        assert all(headers["Retry-After"] == "1" for status, _, headers in answers if status == 503)
        assert server.ask("/predict", CAT, JPEG)[0] == 200
        text = server.ask("/metrics")[1].decode()
        refused = statuses.count(503)
        counted = [line for line in text.splitlines() if "_total{" in line and 'status="503"' in line]
        assert sum(float(line.split()[-1]) for line in counted) == refused
        assert f'focalnets_images_total{{model="{exported.name}"}} {73 - refused}.0' in text
    assert not server.events("request")


def test_a_connection_opened_before_the_end_is_answered(exported):
    """Its request may arrive after the port is closed. Later clients find the port closed."""
    server = Server(exported, "--lame-duck", "0.5")
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    with contextlib.closing(connection):
        connection.connect()
        time.sleep(0.8)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.address, 10)
        connection.request("POST", "/predict", CAT, JPEG)
        assert connection.getresponse().status == 200
    assert server.process.wait(60) == 0
    server.stop()


@pytest.mark.slow
def test_sigterm_answers_every_request_that_was_sent(exported):
    """Clients that turn away when the server closes their connection lose no request."""
    server, answered, failed = Server(exported, "--lame-duck", "1"), [], []

    def client():
        while True:
            try:
                connection = http.client.HTTPConnection(*server.address, timeout=30)
                connection.connect()
            except ConnectionRefusedError:
                return  # no request was sent
            with contextlib.closing(connection):
                while True:
                    try:
                        connection.request("POST", "/predict", CAT, JPEG)
                        response = connection.getresponse()
                        response.read()
                    except OSError as error:
                        failed.append(error)
                        return
                    answered.append(response.status)
                    if response.headers["Connection"] == "close":
                        time.sleep(0.2)
                        break

    clients = [threading.Thread(target=client) for _ in range(8)]
    for one in clients:
        one.start()
    time.sleep(1)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert server.ask("/v2/health/ready")[0] == 503
    assert server.ask("/v2/health/live")[0] == 200
    for one in clients:
        one.join()
    assert server.process.wait(60) == 0
    server.stop()
    assert (failed, set(answered)) == ([], {200})
    assert len(answered) > 50
    assert [row["event"] for row in server.log if row["event"] != "request"] == [
        *("starting", "ready", "draining", "stopped"),
    ]


@pytest.mark.slow
def test_changed_export_is_loaded_without_an_error(exported, tmp_path):
    served, other = tmp_path / "served", tmp_path / "other"
    shutil.copytree(exported, served)
    focalnets.export("focalnet_nano_cifar10", other)
    with serving(served, "--reload", "0.2", "--lame-duck", "0") as server:
        before = server.ask("/predict", CAT, JPEG)[1]["version"]
        (served / "model.onnx").write_bytes((other / "model.onnx").read_bytes()[:1_000_000])  # half-copied
        wait_for(lambda: server.events("reload failed"))
        assert "incomplete or was changed: model.onnx" in server.events("reload failed")[0]["error"]
        assert server.ask("/predict", CAT, JPEG)[1]["version"] == before
        (served / "explain.onnx").unlink()
        for path in other.iterdir():
            shutil.copy(path, served)
            assert server.ask("/predict", CAT, JPEG)[0] == 200
        wait_for(lambda: server.ask("/predict", CAT, JPEG)[1]["version"] != before)
        assert main(["export", "focalnet_micro_cifar10", str(served), "--force"]) == 0
        wait_for(lambda: len(server.events("reloaded")) == 2)
        assert server.ask("/predict", CAT, JPEG)[0] == 200
        assert {row["status"] for row in server.events("request")} == {200}


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_of_replaced_networks_is_returned(exported, tmp_path):
    served, found = tmp_path / "served", []
    shutil.copytree(exported, served)
    with serving(served, "--reload", "0.2", "--lame-duck", "0") as server:
        for count in range(1, 8):
            assert server.ask("/predict?explain=1", CAT, JPEG)[0] == 200
            (served / "model.onnx").touch()
            wait_for(lambda count=count: len(server.events("reloaded")) == count)
            time.sleep(0.5)
            found.append(memory_mb(server.process.pid))
    assert found[-1] - found[1] < 40, found  # 60 or more without `return_memory`


def memory_mb(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_process_is_replaced(exported):
    with serving(exported, "--workers", "2", "--lame-duck", "0.5") as server:
        wait_for(lambda: len(server.events("ready")) == 2)
        first = server.events("ready")[0]["process"]
        for _ in range(20):
            assert server.ask("/predict", CAT, JPEG)[0] == 200
        assert 'focalnets_images_total{model="micro"} 20.0' in server.ask("/metrics")[1].decode()
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: len(server.events("ready")) == 3)
        assert server.events("a process ended")[0]["ended"] == first
        assert server.ask("/predict", CAT, JPEG)[0] == 200
        assert server.stop() == 0
    assert len(server.events("stopped")) == 2


@pytest.mark.slow
def test_token_protects_everything_but_health(exported, tmp_path):
    (tmp_path / "token").write_text("s3cret\n")
    with serving(exported, "--token-file", tmp_path / "token", "--lame-duck", "0") as server:
        assert server.ask("/v2/health/ready")[0] == 200
        for path, body in (
            ("/predict", CAT),
            ("/metrics", None),
            ("/v2/models/micro", None),
            ("/none", None),
        ):
            status, found, headers = server.ask(path, body, JPEG)
            assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
            assert "needs a token" in found["error"]
            wrong = {**JPEG, "Authorization": "Bearer s3cre"}
            assert server.ask(path, body, wrong)[0] == 401
        right = {**JPEG, "Authorization": "Bearer s3cret"}
        assert server.ask("/predict", CAT, right)[0] == 200


@pytest.mark.slow
def test_openapi_lists_every_endpoint(server):
    document = server.ask("/openapi.json")[1]
    assert document["openapi"] == "3.1.0"
    for path, item in document["paths"].items():
        if "get" not in item:
            continue
        version = server.ask("/v2/models/micro")[1]["versions"][0]
        assert server.ask(path.format(name="micro", version=version))[0] == 200, path


@pytest.mark.slow
def test_serve_needs_an_export(tmp_path, exported, capsys):
    for words, text in (
        ([], "Give at least one export directory"),
        ([tmp_path / "none"], "is not an export directory: it has no export.json"),
        ([exported, f"micro={exported}"], "Two exports have the name 'micro'"),
        ([f"../x={exported}"], "cannot be the name of a network in an address"),
    ):
        assert main(["serve", *map(str, words)]) == 2
        assert text in capsys.readouterr().err
    busy = socket.create_server(("127.0.0.1", 0))
    with busy:
        assert main(["serve", str(exported), "--port", str(busy.getsockname()[1])]) == 1
    assert "Address already in use" in capsys.readouterr().err


@pytest.mark.slow
def test_serve_does_not_import_keras():
    code = """
import sys
sys.argv = ["focalnets"]
import focalnets.commands.serve
print([name for name in ("keras", "torch") if name in sys.modules])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
