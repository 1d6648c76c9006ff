"""Downloads from local test servers. A script defines the responses of each server."""

import hashlib
import http.server
import json
import os
import pathlib
import random
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from reference import randomize

import focalnets
from focalnets.cli import main
from focalnets.commands import presets
from focalnets.files import locked
from focalnets.hub import cache_directory, download, fetch_hugging_face, hugging_face, local_file, urls

CONTENT = random.Random(0).randbytes(600_001)
OTHER = random.Random(1).randbytes(600_001)


class Server(http.server.ThreadingHTTPServer):
    """A server that answers requests with the functions of `script`, in order. The last one is repeated.

    `asked` holds the requests as (path, headers). A waiting answer continues after `proceed.set()`.
    """

    def __init__(self, *script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.asked, self.proceed = list(script), [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/weights.pth"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, *_):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the client may close the connection
            super().handle_error(*_)

    def stop(self):
        self.proceed.set()
        self.shutdown()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, self.headers))
        script = self.server.script
        answer = script.pop(0) if len(script) > 1 else script[0]
        answer(self)

    do_HEAD = do_GET  # noqa: N815

    def send(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def log_message(self, *_):
        pass


def file(content=CONTENT, cut=None, wait=False, length=True):
    """A function that sends one file.

    Args:
        cut: int. Number of bytes after which the connection is closed, or waits if `wait`.
        length: bool or int. Whether the size of the file is sent, or a wrong size to send.
    """

    def answer(handler):
        size = len(content) if length is True else length or None
        handler.send(200, {"Content-Length": size}, content[:cut])
        if wait:
            handler.server.proceed.wait(10)
            handler.wfile.write(content[cut:])

    return answer


def status(code, **headers):
    return lambda handler: handler.send(code, {"Content-Length": 0, **headers})


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """`serve(*script)` -> Server. The cache is the empty tmp_path / "cache". Proxies are off."""
    monkeypatch.setenv("FOCALNETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    for name in ("FOCALNETS_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    servers = []

    def start(*script):
        servers.append(Server(*script))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def files(folder):
    """Names of all files below a folder, without lock files."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def raised(kind, function, *arguments, **options):
    """The message of the expected error, which must be one printable line."""
    with pytest.raises(kind) as caught:
        function(*arguments, **options)
    text = str(caught.value)
    assert text.isprintable()
    assert "Errno" not in text
    return text


def child(code, *arguments):
    """Run `code` in another process, under the program name focalnets, so that Keras is not imported."""
    start = "import sys; sys.argv[0] = 'focalnets'; from focalnets.hub import download; "
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(focalnets.__file__).parents[1])}
    command = [sys.executable, "-c", start + code, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


# URLs


def test_download_fetches_a_file_once(serve, tmp_path):
    server = serve(file())
    path = download(server.url)
    assert path.read_bytes() == CONTENT
    assert path.name == "weights.pth"
    assert path.is_relative_to(tmp_path / "cache")
    assert download(server.url) == path
    assert files(tmp_path / "cache") == ["weights.pth"]
    assert len(server.asked) == 1
    assert server.asked[0][1]["User-Agent"] == f"focalnets/{focalnets.__version__}"
    assert download(serve(file(b"")).url).read_bytes() == b""


def test_download_separates_equal_names_of_different_urls(serve):
    first, second = serve(file()), serve(file(OTHER))
    paths = [download(first.url), download(second.url), download(first.url + "?v=2")]
    assert len(set(paths)) == 3
    assert [path.read_bytes() for path in paths] == [CONTENT, OTHER, CONTENT]


def test_download_removes_file_of_broken_connection(serve, tmp_path):
    server = serve(file(cut=250_000), file())
    assert "could not be downloaded" in raised(OSError, download, server.url)
    assert files(tmp_path) == []
    assert download(server.url).read_bytes() == CONTENT


@pytest.mark.slow
def test_download_gives_up_on_a_server_that_stalls(serve, monkeypatch, tmp_path):
    monkeypatch.setattr(urls, "STALL", 0.2)
    start = time.monotonic()
    for answer in (file(cut=250_000, wait=True), lambda handler: handler.server.proceed.wait(10)):
        assert "no data received for 0.2 s" in raised(OSError, download, serve(answer).url)
    assert time.monotonic() - start < 5
    assert files(tmp_path) == []


@pytest.mark.slow
def test_download_removes_partial_file_of_killed_process(serve, tmp_path):
    server = serve(file(cut=300_000, wait=True), file())
    killed = child("download(sys.argv[1])", server.url)
    while not (part := next((tmp_path / "cache").rglob("tmp*"), None)) or not part.stat().st_size:
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert len(files(tmp_path)) == 1
    assert download(server.url).read_bytes() == CONTENT
    assert files(tmp_path) == ["weights.pth"]


@pytest.mark.slow
def test_download_by_two_processes_sends_one_request(serve):
    server = serve(file(cut=300_000, wait=True))
    code = "print('here', flush=True); print(download(sys.argv[1]))"
    both = [child(code, server.url), child(code, server.url)]
    assert [process.stdout.readline() for process in both] == ["here\n"] * 2
    time.sleep(0.5)  # enough for the second to reach the lock
    server.proceed.set()
    paths = {process.communicate()[0].strip() for process in both}
    assert len(paths) == 1
    assert pathlib.Path(paths.pop()).read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.slow
def test_locked_logs_activity_of_the_other_process(tmp_path, caplog):
    entered = threading.Event()

    def wait():
        with locked(tmp_path / "lock", "downloading x"):
            entered.set()

    with locked(tmp_path / "lock", "downloading x"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        while not caplog.messages:
            time.sleep(0.05)
        assert not entered.is_set()
    waiting.join()
    assert caplog.messages == ["waiting for another process that is downloading x"]
    assert entered.is_set()


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (404, "answered 404 Not Found. Check the address"),
        (403, "answered 403 Forbidden. It may require a login"),
        (500, "answered 500 Internal Server Error. Try again later"),
    ],
)
def test_download_reports_the_status_of_a_refusal(serve, code, hint):
    server = serve(status(code))
    text = raised(OSError, download, server.url)
    assert hint in text
    assert server.url in text
    assert len(server.asked) == 1
    assert "status 204" in raised(ValueError, download, serve(status(204)).url)


def test_download_error_contains_no_text_of_the_server(serve):
    def answer(handler):
        handler.wfile.write(b"HTTP/1.0 404 \x1b[31mcrimson\r\n\r\n")

    def nonsense(handler):
        handler.wfile.write(b"\x1b[31mcrimson\r\n\r\n")

    assert "crimson" not in raised(OSError, download, serve(answer).url)
    raised(OSError, download, serve(nonsense).url)


def test_download_reports_a_server_that_does_not_exist(serve, monkeypatch):
    server = serve(file())
    server.stop()
    assert "refused" in raised(OSError, download, server.url).lower()

    def unknown(*_, **__):  # so that it does not depend on this machine's own network
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "Name or service not known" in raised(OSError, download, "http://no-such-host.invalid/weights.pth")


def test_download_follows_redirects(serve):
    server = serve(status(302, Location="/other.pth"), file())
    path = download(server.url)
    assert path.read_bytes() == CONTENT
    assert path.name == "weights.pth"
    assert "redirects" in raised(OSError, download, serve(status(301, Location="/weights.pth")).url)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/weights.pth"])
def test_download_refuses_redirects_to_other_schemes(serve, tmp_path, target):
    assert "could not be downloaded" in raised(OSError, download, serve(status(302, Location=target)).url)
    assert files(tmp_path) == []


def test_download_refuses_redirects_from_https_to_http(tmp_path):
    requests = pytest.importorskip("requests")
    response = requests.Response()
    response.status_code, response.url, response.raw = 302, "https://a.example/x", open(os.devnull, "rb")  # noqa: SIM115
    response.headers["location"] = "https://b.example/x"
    urls._check(response, tmp_path)
    response.headers["location"] = "http://b.example/x"
    with pytest.raises(ValueError, match=r"https://a.example/x redirects to 'http://b.example/x'"):
        urls._check(response, tmp_path)
    response.raw.close()


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "file:///etc/passwd", "host/x", "http:///x", "http://h:99999/x", "http://a b/x"]
)
def test_download_refuses_other_addresses(serve, url):
    assert repr(url) in raised(ValueError, download, url)


def test_download_error_does_not_show_passwords():
    assert "secret" not in raised(ValueError, download, "https://me:secret@host/x")


def test_download_quotes_urls(serve):
    server = serve(file())
    path = download(server.url + "/mein Gewicht ü.pth?a=b c\r\nX: y#part")
    assert path.name == "mein_Gewicht__.pth"
    assert server.asked[0][0] == "/weights.pth/mein%20Gewicht%20%C3%BC.pth?a=b%20cX:%20y"
    assert "X" not in server.asked[0][1]


@pytest.mark.parametrize(
    "path",
    ["", "/", "/..", "/%2e%2e", "/a/%2e%2e%2f%2e%2e%2fb", "/..%5cb", "/.bashrc", "/%00", "/" + "x" * 999],
)
def test_download_stays_in_the_directory_of_the_url(serve, tmp_path, path):
    server = serve(file(b"x"))
    found = download(server.url.removesuffix("/weights.pth") + path)
    assert found.resolve().parents[1] == tmp_path / "cache" / "downloads"
    assert not found.name.startswith(".")
    assert len(found.name) <= 100


@pytest.mark.parametrize("name", ["con", "NUL.pth", "com1.tar.gz"])
def test_download_avoids_reserved_names_of_windows(serve, name):
    url = serve(file(b"x")).url
    first, *rest = name.split(".")
    assert download(url.replace("weights.pth", name)).name == ".".join([f"{first}_", *rest])
    assert download(url.replace("weights.pth", "console.pth")).name == "console.pth"


def test_download_ignores_the_name_that_a_server_proposes(serve):
    def answer(handler):
        headers = {"Content-Disposition": 'attachment; filename="../../evil"', "Content-Length": 1}
        handler.send(200, headers, b"x")

    assert download(serve(answer).url).name == "weights.pth"


# The cache


def test_cache_directory_follows_the_system(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FOCALNETS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory().is_relative_to(tmp_path)
    monkeypatch.setenv("FOCALNETS_CACHE", "~/own")
    assert cache_directory() == tmp_path / "own"
    monkeypatch.setenv("FOCALNETS_CACHE", "~nobody-of-that-name/own")
    assert "Set FOCALNETS_CACHE" in raised(OSError, cache_directory)


def test_download_reports_a_cache_that_cannot_be_written(serve, tmp_path):
    (tmp_path / "cache").write_text("a file")
    text = raised(OSError, download, serve(file()).url)
    assert "Set FOCALNETS_CACHE" in text


def test_download_does_not_write_through_links(serve, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    server = serve(file())
    path = download(server.url)
    path.unlink()
    path.with_name(".lock").unlink(missing_ok=True)
    path.with_name(".lock").symlink_to(victim)
    assert "cannot be written" in raised(OSError, download, server.url)
    path.with_name(".lock").unlink()
    path.symlink_to(tmp_path / "dangling")
    assert download(server.url).read_bytes() == CONTENT
    assert victim.read_text() == "precious"
    assert not (tmp_path / "dangling").exists()


@pytest.mark.slow
def test_download_reports_a_full_disk(serve, tmp_path):
    server = serve(file(length=10**17))
    assert "Free disk space" in raised(OSError, download, server.url)
    assert files(tmp_path) == []
    resource = pytest.importorskip("resource")
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, {resource.RLIM_INFINITY}))"
    code = f"{limit}\ntry: download(sys.argv[1])\nexcept OSError as error: print(error)"
    server = serve(file())
    assert "(File too large). Free disk space" in child(code, server.url).communicate()[0]
    assert files(tmp_path) == []


@pytest.mark.parametrize("variable", ["FOCALNETS_OFFLINE", "HF_HUB_OFFLINE"])
def test_download_offline_uses_the_cache(serve, monkeypatch, variable):
    server = serve(file())
    path = download(server.url)
    monkeypatch.setenv(variable, "1")
    assert download(server.url) == path
    text = raised(OSError, download, server.url + "?other")
    for part in ("weights.pth", str(cache_directory()), f"{variable} forbids", "copy the file to "):
        assert part in text
    assert len(server.asked) == 1
    monkeypatch.setenv(variable, "0")
    assert download(server.url + "?other").read_bytes() == CONTENT


def test_download_uses_file_copied_to_the_reported_path(serve, monkeypatch):
    monkeypatch.setenv("FOCALNETS_OFFLINE", "1")
    url = "https://example.org/weights.pth"
    place = pathlib.Path(raised(OSError, download, url).rpartition("copy the file to ")[2].removesuffix("."))
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert download(url) == place


# The hub


def hub(contents, commit="c" * 40):
    """The part of the hub's interface that its client uses: the listing, and the files of "main"."""

    def answer(handler):
        path, _, _ = handler.path.partition("?")
        if path.startswith("/gated/"):
            handler.send(403, {"X-Error-Code": "GatedRepo", "Content-Length": 0})
        elif not path.startswith(("/timm/focalnet/", "/api/models/timm/focalnet/")):
            handler.send(404, {"X-Error-Code": "RepoNotFound", "Content-Length": 0})
        elif "/main" not in path:
            handler.send(404, {"X-Error-Code": "RevisionNotFound", "Content-Length": 0})
        elif path == "/api/models/timm/focalnet/tree/main":
            rows = [{"type": "file", "path": name, "size": 9, "oid": "0" * 40} for name in contents]
            handler.send(200, {"Content-Type": "application/json"}, json.dumps(rows).encode())
        elif (name := path.removeprefix("/timm/focalnet/resolve/main/")) in contents:
            etag = f'"{hashlib.sha1(contents[name]).hexdigest()}"'
            size = len(contents[name])
            headers = {"X-Repo-Commit": commit, "ETag": etag, "Content-Length": size}
            handler.send(200, headers, contents[name])
        else:
            handler.send(404, {"X-Error-Code": "EntryNotFound", "Content-Length": 0})

    return answer


@pytest.fixture
def serve_hub(serve, monkeypatch):
    """`serve_hub(contents)` -> Server that HF_ENDPOINT points at."""
    pytest.importorskip("huggingface_hub")

    def start(contents):
        server = serve(hub(contents))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        return server

    return start


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["pytorch_model.bin", "model.safetensors", "x.pth"], "model.safetensors"),
        (["pytorch_model.bin", "x.pth"], "pytorch_model.bin"),
        (["README.md", "deep/x.pth"], "deep/x.pth"),
    ],
)
def test_hub_chooses_the_weights_of_a_repository(serve_hub, names, chosen, tmp_path):
    serve_hub({name: name.encode() for name in names})
    path = local_file("hf://timm/focalnet")
    assert path.read_text() == chosen
    assert path.is_relative_to(tmp_path / "cache" / "huggingface")


@pytest.mark.slow
def test_from_preset_builds_the_network_of_a_repository(serve_hub, tmp_path):
    pytest.importorskip("safetensors")
    backbone = focalnets.FocalNetBackbone(
        embed_dim=8,
        depths=(1, 1),
        norm_placement="post",
        layer_scale_init=0.1,
        normalize_modulator=True,
        norm_epsilon=1e-3,
        image_shape=(None, None, 3),
    )
    converter = focalnets.FocalNetImageConverter((25, 25), 25 / 29, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    net = focalnets.FocalNetImageClassifier(backbone, 3, converter, class_names=("ant", "bee", "cat"))
    randomize(net)
    net.save_to_preset(tmp_path / "net")
    assert main(["convert", str(tmp_path / "net"), str(tmp_path / "exported"), "--to", "transformers"]) == 0
    serve_hub({path.name: path.read_bytes() for path in (tmp_path / "exported").iterdir()})
    again = focalnets.FocalNetImageClassifier.from_preset("hf://timm/focalnet")
    assert again.class_names == ("ant", "bee", "cat")
    assert (again.image_converter.mean, again.image_converter.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype("uint8")
    x = again.image_converter.prepare(image)[None]
    np.testing.assert_array_equal(x[0], converter.prepare(image))
    np.testing.assert_allclose(again.predict(x, verbose=0), net.predict(x, verbose=0), rtol=1e-5, atol=1e-5)


def test_local_file_returns_a_file_of_a_repository(serve_hub):
    serve_hub({"model.safetensors": b"1", "deep/config.json": b"2"})
    for source in ("hf://timm/focalnet/deep/config.json", "hf://timm/focalnet@main/deep/config.json"):
        assert local_file(source).read_bytes() == b"2"


def test_hub_errors_state_the_cause(serve_hub):
    serve_hub({"b.pth": b"", "a.bin": b"", "\x1b[31m.pth": b""})
    text = raised(ValueError, fetch_hugging_face, "timm/focalnet")
    assert "Its files: \\x1b[31m.pth, a.bin, b.pth." in text
    for source, expected in (
        ("hf://timm/other", "hf://timm/other does not exist or is private"),
        ("hf://gated/focalnet/x.bin", "is gated. Accept its conditions"),
        ("hf://timm/focalnet@v9", "has no revision 'v9'"),
        ("hf://timm/focalnet/no.bin", "has no file 'no.bin'"),
    ):
        assert expected in raised(OSError, local_file, source)


def test_hub_refuses_names_outside_its_cache(serve_hub, tmp_path):
    server = serve_hub({"../../../evil.pth": b"evil"})
    assert "is not a file or revision" in raised(ValueError, fetch_hugging_face, "timm/focalnet")
    server.asked.clear()
    for name in ("../evil.pth", "/etc/passwd", "a\\..\\b", "C:/x", "a//b", ""):
        assert "is not a file or revision" in raised(ValueError, fetch_hugging_face, "timm/focalnet", name)
        assert "is not a file or revision" in raised(
            ValueError, fetch_hugging_face, "timm/focalnet", "x", name
        )
    for name in ("../focalnet", "timm/..", "timm", "timm/a/b", "timm/--x--"):
        assert "is not a repository" in raised(ValueError, fetch_hugging_face, name, "x.bin")
    assert server.asked == []
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["ETag", "X-Linked-ETag", "X-Repo-Commit"])
@pytest.mark.parametrize("first", [0, 1])
def test_hub_refuses_headers_that_name_files_outside_its_cache(serve, monkeypatch, tmp_path, name, first):
    """The client uses these headers as paths. A mirror may send valid ones at first."""
    pytest.importorskip("huggingface_hub")
    asked = []

    def answer(handler):
        headers = {"X-Repo-Commit": "c" * 40, "ETag": '"abc"', "Content-Length": 4}
        if handler.command == "HEAD":
            asked.append(name)
        if len(asked) > first or handler.command == "GET":
            headers[name] = '"../../../../evil"' if "ETag" in name else "../../../evil"
        handler.send(200, headers, b"evil")

    server = serve(answer)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    for _ in range(2):
        text = raised(OSError, fetch_hugging_face, "timm/focalnet", "x.bin")
        assert "which is not a safe file name" in text
    assert not list(tmp_path.rglob("*evil*"))


def _endless(handler, path="/"):
    handler.send_response(200)
    for key, value in {"X-Repo-Commit": "c" * 40, "ETag": '"abc"', "Transfer-Encoding": "chunked"}.items():
        handler.send_header(key, value)
    handler.end_headers()
    while handler.command == "GET" and not handler.server.proceed.is_set():
        handler.wfile.write(b"10000\r\n" + b"[" * 0x10000 + b"\r\n")


def test_downloads_refuse_endless_bodies(serve, monkeypatch, tmp_path):
    monkeypatch.setattr(Handler, "protocol_version", "HTTP/1.1")
    server = serve(_endless)
    text = raised(ValueError, download, server.url)
    assert "does not state the size of a file" in text
    assert files(tmp_path) == []
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hugging_face, "_LARGEST_LISTING", 1_000_000)
    monkeypatch.setenv("HF_ENDPOINT", server.url.removesuffix("/weights.pth"))
    text = raised(OSError, fetch_hugging_face, "timm/focalnet", "x.bin")
    assert "does not state the size of the file" in text
    assert "more than 1000000 bytes of text" in raised(OSError, fetch_hugging_face, "timm/focalnet")
    assert not [path for path in files(tmp_path) if "abc" in path and not path.endswith(".lock")]


def test_download_refuses_a_chunked_body(serve, monkeypatch, tmp_path):
    def cut(handler):
        handler.send(200, {"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n5\r\nhe")
        handler.close_connection = True

    monkeypatch.setattr(Handler, "protocol_version", "HTTP/1.1")
    assert "does not state the size" in raised(ValueError, download, serve(cut).url)
    assert not list(tmp_path.rglob("weights.pth"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["url", "hub"])
@pytest.mark.parametrize("verb", ["predict", "convert"])
def test_cli_removes_damaged_download_from_the_cache(serve, monkeypatch, tmp_path, capsys, kind, verb):
    numpy_format = pytest.importorskip("safetensors.numpy")
    pytest.importorskip("huggingface_hub")
    from focalnets import FocalNetBackbone, FocalNetImageClassifier
    from focalnets.conversion.tensors import to_tensors

    numpy_format.save_file(
        to_tensors(FocalNetImageClassifier(FocalNetBackbone(8, (1, 1)), 5), "timm"),
        tmp_path / "model.safetensors",
    )
    whole = (tmp_path / "model.safetensors").read_bytes()
    contents = [whole[: len(whole) // 2]]

    def answer(handler):
        if "model.safetensors" in handler.path:
            handler.send(200, headers | {"Content-Length": len(contents[0])}, contents[0])
        else:
            handler.send(404, {"X-Error-Code": "EntryNotFound", "Content-Length": 0})

    headers = {"X-Repo-Commit": "c" * 40, "ETag": '"abc"'}
    server = serve(answer)
    address = server.url.replace("weights.pth", "model.safetensors")
    if kind == "hub":
        monkeypatch.setenv("HF_ENDPOINT", server.url.removesuffix("/weights.pth"))
        address = "hf://timm/focalnet/model.safetensors"
    line = ["convert", address, str(tmp_path / "out")]
    line = line if verb == "convert" else ["predict", address, "docs/seven.png"]
    assert main(line) == 2
    assert "It was removed from the cache: run again" in capsys.readouterr().err
    contents[0] = whole
    assert main(line) == 0, capsys.readouterr().err
    broken = tmp_path / "mine.safetensors"
    broken.write_bytes(whole[: len(whole) // 2])
    assert main(["convert", str(broken), str(tmp_path / "mine")]) == 2
    assert broken.exists(), "a file of the user stays"


def test_hub_quotes_slashes_in_revisions(serve_hub, caplog):
    server = serve_hub({"model.safetensors": b""})
    with pytest.raises(OSError, match="has no revision 'refs/pr/3'"):
        focalnets.FocalNetImageClassifier.from_preset("hf://timm/focalnet@refs/pr/3/model.safetensors")
    paths = [path for path, _ in server.asked if "resolve" in path]
    assert paths
    assert all("/resolve/refs%2Fpr%2F3/" in path for path in paths)


def test_hub_reports_a_failed_download_in_one_line(serve, monkeypatch, capsys, caplog):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_ENDPOINT", serve(status(500)).url.removesuffix("/weights.pth"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert main(["predict", "hf://timm/focalnet/model.safetensors", "docs/seven.png"]) == 1
    text = capsys.readouterr().err + caplog.text
    assert len(text.strip().splitlines()) == 1, text


def test_hub_offline_uses_the_cache(serve_hub, monkeypatch):
    server = serve_hub({"x.pth": b"weights", "config.json": b""})
    path = local_file("hf://timm/focalnet")
    server.asked.clear()
    monkeypatch.setenv("FOCALNETS_OFFLINE", "1")
    assert local_file("hf://timm/focalnet") == path
    assert local_file("hf://timm/focalnet/x.pth") == path
    for source in ("hf://timm/other", "hf://timm/focalnet/config.json"):
        text = raised(OSError, local_file, source)
        assert "FOCALNETS_OFFLINE forbids" in text
        assert str(cache_directory()) in text
    assert server.asked == []


@pytest.mark.slow
def test_hub_offline_in_a_new_process(tmp_path):
    """In this process, the client may be imported already, which reads its variable when it is imported."""
    variable = "HF_HUB_OFFLINE"
    command = [sys.executable, "-m", "focalnets", "predict", "hf://foo/bar", "docs/seven.png"]
    root = pathlib.Path(focalnets.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HOME": str(tmp_path), variable: "1"}
    environment.pop("FOCALNETS_CACHE", None)
    ran = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert f"No weights of hf://foo/bar in the cache {tmp_path / 'hub'}, and {variable} forbids" in line


@pytest.mark.slow
def test_hub_reports_a_server_that_does_not_exist(serve_hub, monkeypatch):
    serve_hub({}).stop()
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client waits half a minute in all
    for source in ("hf://timm/focalnet", "hf://timm/focalnet/x.bin"):
        text = raised(OSError, local_file, source)
        assert "could not be downloaded" in text
        assert "HF_ENDPOINT" in text


def test_hub_reports_the_package_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'focalnets\[hub\]'"):
        local_file("hf://timm/focalnet")


def test_local_file_returns_existing_paths(serve, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"x")
    assert local_file(tmp_path / "weights.pth") == tmp_path / "weights.pth"
    assert local_file(str(tmp_path)) == tmp_path
    assert local_file(serve(file()).url).read_bytes() == CONTENT
    for source in ("", "no-such-file.pth", "ftp://host/x", "hf://timm", "x\0y", "a" * 9999):
        text = raised(ValueError, local_file, source)
        for form in ("path of a file", "hf://organization/name", "https://", "http://"):
            assert form in text


@pytest.mark.parametrize(("answer", "code"), [(status(404), 1), (file(length=False), 2)])
def test_cli_prints_download_error_on_one_line(serve, monkeypatch, capsys, answer, code):
    url = serve(answer).url
    monkeypatch.setattr(presets, "run", lambda _: download(url))
    assert main(["presets"]) == code
    printed = capsys.readouterr()
    assert printed.err.startswith(f"focalnets: {url}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.slow
def test_hub_import_loads_no_heavy_modules():
    code = "print([name for name in ('keras', 'torch', 'huggingface_hub', 'rich') if name in sys.modules])"
    assert child(code).communicate()[0] == "[]\n"
    assert "huggingface_hub" not in vars(hugging_face)
