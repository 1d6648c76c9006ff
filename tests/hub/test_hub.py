"""Downloads from real servers on this machine, each with a script of what it does wrong."""

import functools
import hashlib
import http.server
import io
import itertools
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest
from reference import randomize

import focalnets
from focalnets import _io
from focalnets.cli import main
from focalnets.commands import presets
from focalnets.hub import (
    addresses,
    cache_directory,
    download,
    fetch_hugging_face,
    hugging_face,
    local_file,
    transfer,
)
from focalnets.output.files import write_json

CONTENT = random.Random(0).randbytes(600_001)
OTHER = random.Random(1).randbytes(600_001)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
DAY = "Sat, 01 Mar 2025"


class Server(http.server.ThreadingHTTPServer):
    """Answers the first request as the first of `script` says, and so on; the last of it stays.

    `asked` are the requests, as (path, headers). An answer that waits goes on after `go_on.set()`.
    """

    def __init__(self, *script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.asked, self.go_on = list(script), [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/weights.pth"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def ranges(self):
        return [headers.get("Range") for _, headers in self.asked]

    def handle_error(self, *_):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the client went away, as is its right
            super().handle_error(*_)

    def stop(self):
        self.go_on.set()
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


def file(content=CONTENT, version='"one"', ranges=True, if_range=True, cut=None, wait=False, length=True):
    """A server of one file.

    Args:
        version: its ETag, or the date of its last change.
        ranges: whether Range is obeyed.
        if_range: whether If-Range is.
        cut: bytes after which it closes the connection, or waits with it open if `wait`.
        length: whether it says how long the file is; or a lie about that.
    """

    def answer(handler):
        asked, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        start = 0
        if asked and ranges and (condition == version or not if_range):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(content):
            handler.send(416, {"Content-Length": 0})
            return
        body = content[start:]
        claimed = len(content) if length is True else length
        word = "Last-Modified" if (version or "").endswith("GMT") else "ETag"
        headers = {word: version, "Content-Length": None if length is False else claimed - start}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{claimed or '*'}"
        handler.send(206 if start else 200, headers, body[:cut])
        if wait:
            handler.server.go_on.wait(10)
            handler.wfile.write(body[cut:])

    return answer


def status(code, **headers):
    return lambda handler: handler.send(code, {"Content-Length": 0, **headers})


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """`serve(*script)` -> Server; short waits, an empty cache in tmp_path / "cache", no proxies."""
    monkeypatch.setenv("FOCALNETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    for name in ("FOCALNETS_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transfer, "WAITS", (0.01, 0.02))
    servers = []

    def start(*script):
        servers.append(Server(*script))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def files(folder):
    """All files below a folder, without lock files."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def raised(kind, function, *arguments, **options):
    """The text of the error that must come: one line, fit for a terminal."""
    with pytest.raises(kind) as caught:
        function(*arguments, **options)
    text = str(caught.value)
    assert text.isprintable()
    assert "Errno" not in text
    return text


def child(code, *arguments):
    """Another process that runs `code`; its program is called focalnets, so that it needs no keras."""
    start = "import sys; sys.argv[0] = 'focalnets'; from focalnets.hub import download; "
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(focalnets.__file__).parents[1])}
    command = [sys.executable, "-c", start + code, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


# From the server to the cache


def test_a_file_is_downloaded_once(serve, tmp_path):
    server = serve(file())
    path = download(server.url, sha256=SHA256.upper(), size=len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert path.name == "weights.pth"
    assert path.is_relative_to(tmp_path / "cache")
    assert download(server.url, sha256=SHA256) == path
    assert files(tmp_path / "cache") == ["weights.pth"]
    assert len(server.asked) == 1
    assert server.asked[0][1]["User-Agent"] == f"focalnets/{focalnets.__version__}"


def test_a_file_in_the_cache_must_be_the_one_that_is_asked_for(serve, tmp_path):
    server = serve(file(OTHER, '"old"'), file())
    path = download(server.url, tmp_path)
    assert path.read_bytes() == OTHER
    assert raised(ValueError, download, server.url, tmp_path, sha256="0" * 64)
    assert path.read_bytes() == OTHER, "a wrong hash of the user's must not cost a good file"
    assert download(server.url, tmp_path, sha256=SHA256) == path
    assert path.read_bytes() == CONTENT
    path.write_bytes(b"cut")
    assert download(server.url, tmp_path, size=len(CONTENT)).read_bytes() == CONTENT


def test_equal_names_of_two_urls_do_not_collide(serve):
    first, second = serve(file()), serve(file(OTHER))
    paths = [download(first.url), download(second.url), download(first.url + "?v=2")]
    assert len(set(paths)) == 3
    assert [path.read_bytes() for path in paths] == [CONTENT, OTHER, CONTENT]


def test_without_a_length_the_file_goes_to_the_end(serve):
    assert download(serve(file(length=False)).url).read_bytes() == CONTENT
    assert download(serve(file(b"")).url).read_bytes() == b""


# Broken connections


@pytest.mark.parametrize("version", ['"one"', f"{DAY} 00:00:00 GMT"])
@pytest.mark.parametrize("length", [True, False])
def test_a_broken_download_goes_on_where_it_was(serve, version, length):
    server = serve(file(version=version, cut=250_000), file(version=version, length=length))
    assert download(server.url).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=250000-"]
    assert server.asked[1][1]["If-Range"] == version


def test_a_server_without_ranges_is_asked_for_all_of_it(serve):
    server = serve(file(cut=250_000), file(ranges=False))
    assert download(server.url).read_bytes() == CONTENT


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("versions", [('"one"', '"two"'), (f"{DAY} 00:00:00 GMT", f"{DAY} 00:00:09 GMT")])
def test_a_file_that_changed_meanwhile_is_fetched_anew(serve, versions, if_range):
    server = serve(file(version=versions[0], cut=250_000), file(OTHER, versions[1], if_range=if_range))
    assert download(server.url).read_bytes() == OTHER


@pytest.mark.parametrize("version", [None, 'W/"weak"', '"a"\r\n b'])
def test_without_a_usable_version_nothing_is_continued(serve, version):
    server = serve(file(version=version, cut=250_000), file(version=version))
    assert download(server.url).read_bytes() == CONTENT
    assert server.ranges() == [None, None]


def test_attempts_that_bring_much_are_not_counted(serve, monkeypatch):
    monkeypatch.setattr(transfer, "_ADVANCE", 50_000)
    server = serve(file(cut=60_000))
    assert download(server.url).read_bytes() == CONTENT
    assert len(server.asked) == 11
    server = serve(file(cut=60_000, ranges=False))
    assert "in 3 attempts" in raised(OSError, download, server.url)


def test_a_body_shorter_than_said_is_no_file(serve, tmp_path):
    server = serve(file(length=len(CONTENT) + 5))
    text = raised(OSError, download, server.url)
    assert "600001" in text
    assert "600006" in text
    assert "600001 bytes are kept for the next" in text
    assert files(tmp_path) == ["weights.pth.part", "weights.pth.part.json"]


def test_a_stalled_server_counts_as_broken(serve, monkeypatch):
    monkeypatch.setattr(addresses, "STALL", 0.2)
    start = time.monotonic()
    server = serve(file(cut=250_000, wait=True), file())
    assert download(server.url).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=250000-"]
    silent = serve(lambda handler: handler.server.go_on.wait(10))
    assert "no byte came for 0.2 s" in raised(OSError, download, silent.url)
    assert time.monotonic() - start < 5


def test_a_killed_process_leaves_what_another_goes_on_with(serve, tmp_path):
    server = serve(file(cut=300_000, wait=True), file())
    killed = child("download(sys.argv[1])", server.url)
    part = None
    for _ in range(1000):
        part = next((tmp_path / "cache").rglob("*.part"), None)
        if part and part.stat().st_size > 250_000:
            break
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    held = part.stat().st_size
    assert held > 250_000
    assert files(tmp_path) == ["weights.pth.part", "weights.pth.part.json"]
    assert download(server.url, sha256=SHA256).read_bytes() == CONTENT
    assert server.ranges() == [None, f"bytes={held}-"]
    assert files(tmp_path) == ["weights.pth"]


def test_a_process_killed_before_the_renaming_needs_no_second_download(serve, tmp_path):
    server = serve(file())
    path = download(server.url)
    path.rename(f"{path}.part")
    write_json(f"{path}.part.json", {"url": server.url, "version": '"one"', "size": len(CONTENT)})
    assert download(server.url).read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "memory",
    [
        "",
        "[]",
        '{"url": "URL"}',
        '{"url": "URL", "version": "x\\r\\nHost: y", "size": 600001}',
        '{"url": "http://other", "version": "\\"one\\"", "size": 600001}',
        '{"url": "URL", "version": "\\"one\\"", "size": 7}',
        '{"url": "URL", "version": "\\"one\\"", "size": "600001"}',
    ],
)
def test_a_damaged_memory_is_not_believed(serve, memory):
    server = serve(file())
    path = download(server.url)
    path.rename(f"{path}.part")
    pathlib.Path(f"{path}.part.json").write_text(memory.replace("URL", server.url))
    server.asked.clear()
    assert download(server.url).read_bytes() == CONTENT
    assert server.ranges() == [None]


def test_two_processes_download_one_file_once(serve):
    server = serve(file(cut=300_000, wait=True))
    code = "print('here', flush=True); print(download(sys.argv[1]))"
    both = [child(code, server.url), child(code, server.url)]
    assert [process.stdout.readline() for process in both] == ["here\n"] * 2
    time.sleep(0.3)  # enough for the second to come to the lock
    server.go_on.set()
    paths = {process.communicate()[0].strip() for process in both}
    assert len(paths) == 1
    assert pathlib.Path(paths.pop()).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_who_waits_for_a_lock_is_told(monkeypatch, tmp_path):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(_io.time, "monotonic", itertools.count().__next__)
    held = []

    def wait():
        with _io.locked(tmp_path / "lock", "downloading x"):
            held.append("at last")

    with _io.locked(tmp_path / "lock", "downloading x"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        while not terminal.getvalue():
            time.sleep(0.01)
        assert held == []
    waiting.join()
    assert terminal.getvalue() == "waiting for another process that is downloading x\n"
    assert held == ["at last"]


def test_where_locks_are_only_pretended_the_damage_is_seen(serve, tmp_path):
    def disturbed(handler):
        with next(tmp_path.rglob("*.part")).open("ab") as part:
            part.write(b"by another process")
        file()(handler)

    server = serve(file(cut=250_000), disturbed, file())
    assert download(server.url).read_bytes() == CONTENT
    assert server.ranges() == [None, "bytes=250000-", None]


# Files that are not what was expected


def test_a_wrong_hash_leaves_nothing(serve, tmp_path):
    server = serve(file(OTHER))
    text = raised(ValueError, download, server.url, sha256=SHA256)
    assert SHA256 in text
    assert hashlib.sha256(OTHER).hexdigest() in text
    assert "run again" in text
    assert files(tmp_path) == []
    assert "64 hexadecimal digits" in raised(ValueError, download, server.url, sha256="abc")


@pytest.mark.parametrize(("length", "found"), [(True, "600001"), (False, "more")])
def test_a_wrong_size_leaves_nothing(serve, tmp_path, length, found):
    server = serve(file(length=length))
    text = raised(ValueError, download, server.url, size=1000)
    assert f"expected 1000 bytes, the server has {found}" in text
    assert files(tmp_path) == []
    short = serve(file(length=False))
    assert "at byte 600001 of 600002" in raised(OSError, download, short.url, size=600_002)


# What servers say instead


@pytest.mark.parametrize(
    ("code", "hint"),
    [(404, "says 404 Not Found. Check the address"), (403, "says 403 Forbidden. It may ask for a login")],
)
def test_a_refusal_is_not_repeated(serve, tmp_path, code, hint):
    server = serve(status(code))
    text = raised(OSError, download, server.url)
    assert hint in text
    assert server.url in text
    assert f"other means to {tmp_path}" in text
    assert len(server.asked) == 1


def test_a_passing_failure_is_tried_again(serve):
    server = serve(status(500), status(503), file())
    assert download(server.url).read_bytes() == CONTENT
    assert "500 Internal Server Error" in raised(OSError, download, serve(status(500)).url)
    assert "status 204" in raised(OSError, download, serve(status(204)).url)


def test_the_words_of_a_server_do_not_reach_the_terminal(serve):
    def answer(handler):
        handler.wfile.write(b"HTTP/1.0 404 \x1b[31mred\r\n\r\n")

    def nonsense(handler):
        handler.wfile.write(b"\x1b[31mred\r\n\r\n")

    assert "red" not in raised(OSError, download, serve(answer).url)
    assert "?[31mred" in raised(OSError, download, serve(nonsense).url)


def test_nobody_there(serve, monkeypatch):
    server = serve(file())
    server.stop()
    assert "refused" in raised(OSError, download, server.url).lower()

    def unknown(*_, **__):  # so that it does not depend on this machine's own network
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    text = raised(OSError, download, "http://no-such-host.invalid/weights.pth")
    assert text.startswith(
        "http://no-such-host.invalid/weights.pth: there is no such host. Check the address"
    )


def test_redirects_are_followed_with_the_range(serve):
    behind = serve(file(cut=250_000), file())
    server = serve(status(302, Location=behind.url + "?signed"))
    path = download(server.url)
    assert path.read_bytes() == CONTENT
    assert path.name == "weights.pth"
    assert behind.ranges() == [None, "bytes=250000-"]


def test_redirects_in_a_circle_end(serve):
    assert "in a circle" in raised(OSError, download, serve(status(301, Location="/weights.pth")).url)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/weights.pth"])
def test_redirects_lead_to_http_only(serve, tmp_path, target):
    server = serve(status(302, Location=target))
    with pytest.raises((OSError, ValueError), match=r"something else than http|not followed"):
        download(server.url)
    assert files(tmp_path) == []


def test_no_redirect_leads_from_https_to_http():
    redirects, request = addresses._Redirects(), urllib.request.Request("https://a.example/x")
    follow = functools.partial(redirects.redirect_request, request, io.BytesIO(), 302, "", {})
    with pytest.raises(ValueError, match=r"https://a.example/x leads to 'http://b.example/x'"):
        follow("http://b.example/x")
    assert follow("https://b.example/x").full_url == "https://b.example/x"


# Addresses


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "file:///etc/passwd", "host/x", "http:///x", "http://h:99999/x", "http://a b/x"]
)
def test_other_addresses_are_refused_by_name(serve, url):
    assert repr(url) in raised(ValueError, download, url)


def test_passwords_are_not_repeated():
    assert "secret" not in raised(ValueError, download, "https://me:secret@host/x")


def test_what_needs_quoting_is_quoted(serve):
    server = serve(file())
    path = download(server.url + "/mein Gewicht ü.pth?a=b c\r\nX: y#part")
    assert path.name == "mein_Gewicht__.pth"
    assert server.asked[0][0] == "/weights.pth/mein%20Gewicht%20%C3%BC.pth?a=b%20cX:%20y"
    assert "X" not in server.asked[0][1]


@pytest.mark.parametrize(
    "path",
    ["", "/", "/..", "/%2e%2e", "/a/%2e%2e%2f%2e%2e%2fb", "/..%5cb", "/.bashrc", "/%00", "/" + "x" * 999],
)
def test_no_address_leads_out_of_its_folder(serve, tmp_path, path):
    server = serve(file(b"x"))
    found = download(server.url.removesuffix("/weights.pth") + path, tmp_path)
    assert found.resolve().parents[1] == tmp_path / "downloads"
    assert not found.name.startswith(".")
    assert len(found.name) <= 100


@pytest.mark.parametrize("name", ["con", "NUL.pth", "com1.tar.gz"])
def test_names_that_windows_keeps_for_itself_are_not_used(serve, name):
    url = serve(file(b"x")).url
    first, *rest = name.split(".")
    assert download(url.replace("weights.pth", name)).name == ".".join([f"{first}_", *rest])
    assert download(url.replace("weights.pth", "console.pth")).name == "console.pth"


def test_the_name_a_server_proposes_is_ignored(serve):
    def answer(handler):
        handler.send(200, {"Content-Disposition": 'attachment; filename="../../evil"'}, b"x")

    assert download(serve(answer).url).name == "weights.pth"


# The cache


def test_the_cache_is_where_the_system_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FOCALNETS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for platform, folder in (("linux", ".cache"), ("darwin", "Library/Caches")):
        monkeypatch.setattr(sys, "platform", platform)
        assert cache_directory() == tmp_path / folder / "focalnets"
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "focalnets"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory() == tmp_path / ".cache" / "focalnets"
    monkeypatch.setenv("FOCALNETS_CACHE", "~/own")
    assert cache_directory() == tmp_path / "own"
    monkeypatch.setenv("FOCALNETS_CACHE", "~nobody-of-that-name/own")
    assert "set FOCALNETS_CACHE" in raised(OSError, cache_directory)


def test_a_cache_that_cannot_be_written(serve, tmp_path):
    (tmp_path / "cache").write_text("a file")
    text = raised(OSError, download, serve(file()).url)
    assert "set FOCALNETS_CACHE" in text


def test_links_in_the_cache_are_not_written_through(serve, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    server = serve(file())
    path = download(server.url)
    path.unlink()
    pathlib.Path(f"{path}.part").symlink_to(victim)
    assert "cannot be written" in raised(OSError, download, server.url)
    path.with_name(".lock").unlink()
    path.with_name(".lock").symlink_to(victim)
    assert "cannot be made or locked" in raised(OSError, download, server.url)
    assert victim.read_text() == "precious"


def test_a_full_disk(serve, tmp_path):
    server = serve(file(length=10**17))
    assert "Make room" in raised(OSError, download, server.url)
    assert files(tmp_path) == []
    resource = pytest.importorskip("resource")
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, {resource.RLIM_INFINITY}))"
    code = f"{limit}\ntry: download(sys.argv[1])\nexcept OSError as error: print(error)"
    server = serve(file())
    assert "cannot be written (File too large)" in child(code, server.url).communicate()[0]
    assert files(tmp_path) == ["weights.pth.part", "weights.pth.part.json"]
    assert download(server.url, sha256=SHA256).read_bytes() == CONTENT
    assert server.ranges()[1] == "bytes=200000-"


# Offline


@pytest.mark.parametrize("variable", ["FOCALNETS_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_the_cache_is_used(serve, monkeypatch, variable):
    server = serve(file())
    path = download(server.url)
    monkeypatch.setenv(variable, "1")
    assert download(server.url) == path
    text = raised(OSError, download, server.url + "?other")
    for part in ("weights.pth", str(cache_directory()), f"{variable} forbids", "other means"):
        assert part in text
    assert "has another sha256" in raised(OSError, download, server.url, sha256="0" * 64)
    assert len(server.asked) == 1
    monkeypatch.setenv(variable, "0")
    assert download(server.url + "?other").read_bytes() == CONTENT


def test_a_file_put_by_hand_where_the_message_says(serve, monkeypatch):
    monkeypatch.setenv("FOCALNETS_OFFLINE", "1")
    url = "https://example.org/weights.pth"
    place = pathlib.Path(raised(OSError, download, url).rpartition("other means to ")[2].removesuffix("."))
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert download(url, sha256=SHA256) == place


# The hub


def hub(contents, commit="c" * 40):
    """As much of the hub's interface as its client asks for: the listing, and the files of "main"."""

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
def test_the_weights_of_a_repository_are_chosen(serve_hub, names, chosen, tmp_path):
    serve_hub({name: name.encode() for name in names})
    path = local_file("hf://timm/focalnet")
    assert path.read_text() == chosen
    assert path.is_relative_to(tmp_path / "cache" / "huggingface")


def test_a_repository_becomes_the_network_that_its_files_describe(serve_hub, tmp_path):
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
    assert main(["convert", str(tmp_path / "net"), str(tmp_path / "theirs"), "--to", "transformers"]) == 0
    serve_hub({path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()})
    again = focalnets.FocalNetImageClassifier.from_preset("hf://timm/focalnet")
    assert again.class_names == ("ant", "bee", "cat")
    assert (again.image_converter.mean, again.image_converter.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype("uint8")
    x = again.image_converter.prepare(image)[None]
    np.testing.assert_array_equal(x[0], converter.prepare(image))
    np.testing.assert_allclose(again.predict(x, verbose=0), net.predict(x, verbose=0), rtol=1e-5, atol=1e-5)


def test_a_file_of_a_repository(serve_hub):
    serve_hub({"model.safetensors": b"1", "deep/config.json": b"2"})
    for source in ("hf://timm/focalnet/deep/config.json", "hf://timm/focalnet@main/deep/config.json"):
        assert local_file(source).read_bytes() == b"2"


def test_what_the_hub_refuses(serve_hub):
    serve_hub({"b.pth": b"", "a.bin": b"", "\x1b[31m.pth": b""})
    text = raised(ValueError, fetch_hugging_face, "timm/focalnet")
    assert "there are: \\x1b[31m.pth, a.bin, b.pth." in text
    for source, expected in (
        ("hf://timm/other", "hf://timm/other is not there, or private"),
        ("hf://gated/focalnet/x.bin", "is gated: accept its conditions"),
        ("hf://timm/focalnet@v9", "has no revision 'v9'"),
        ("hf://timm/focalnet/no.bin", "has no file 'no.bin'"),
    ):
        assert expected in raised(OSError, local_file, source)


def test_no_name_leads_out_of_the_hubs_cache(serve_hub, tmp_path):
    server = serve_hub({"../../../evil.pth": b"evil"})
    assert "is no file or revision" in raised(ValueError, fetch_hugging_face, "timm/focalnet")
    server.asked.clear()
    for name in ("../evil.pth", "/etc/passwd", "a\\..\\b", "C:/x", "a//b", ""):
        assert "is no file or revision" in raised(ValueError, fetch_hugging_face, "timm/focalnet", name)
        assert "is no file or revision" in raised(ValueError, fetch_hugging_face, "timm/focalnet", "x", name)
    for name in ("../focalnet", "timm/..", "timm", "timm/a/b", "timm/--x--"):
        assert "is no repository" in raised(ValueError, fetch_hugging_face, name, "x.bin")
    assert server.asked == []
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["ETag", "X-Linked-ETag", "X-Repo-Commit"])
@pytest.mark.parametrize("first", [0, 1])
def test_the_hub_cannot_name_files_outside_of_its_cache(serve, monkeypatch, tmp_path, name, first):
    """The client makes paths of these headers; a mirror may send good ones to whoever looks first."""
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
        assert "which must not become a file name" in text
    assert not list(tmp_path.rglob("*evil*"))


def _endless(handler, path="/"):
    handler.send_response(200)
    for key, value in {"X-Repo-Commit": "c" * 40, "ETag": '"abc"', "Transfer-Encoding": "chunked"}.items():
        handler.send_header(key, value)
    handler.end_headers()
    while handler.command == "GET" and not handler.server.go_on.is_set():
        handler.wfile.write(b"10000\r\n" + b"[" * 0x10000 + b"\r\n")


def test_endless_bodies_are_cut(serve, monkeypatch, tmp_path):
    monkeypatch.setattr(transfer, "LARGEST", 1_000_000)
    monkeypatch.setattr(Handler, "protocol_version", "HTTP/1.1")
    server = serve(_endless)
    text = raised(ValueError, download, server.url)
    assert "does not say how long the file is, and sent more than 1000000 bytes" in text
    assert files(tmp_path) == []
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hugging_face, "_LARGEST_LISTING", 1_000_000)
    monkeypatch.setenv("HF_ENDPOINT", server.url.removesuffix("/weights.pth"))
    text = raised(OSError, fetch_hugging_face, "timm/focalnet", "x.bin")
    assert "does not say how long the file is" in text
    assert "more than 1000000 bytes of text" in raised(OSError, fetch_hugging_face, "timm/focalnet")
    assert not [path for path in files(tmp_path) if "abc" in path and not path.endswith(".lock")]


def test_a_chunked_body_that_breaks_off_is_no_file(serve, monkeypatch, tmp_path):
    def cut(handler):
        handler.send(200, {"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n5\r\nhe")
        handler.close_connection = True

    monkeypatch.setattr(Handler, "protocol_version", "HTTP/1.1")
    assert "in 3 attempts" in raised(OSError, download, serve(cut).url)
    assert not list(tmp_path.rglob("weights.pth"))


@pytest.mark.parametrize("kind", ["url", "hub"])
@pytest.mark.parametrize("verb", ["predict", "convert"])
def test_a_damaged_download_is_not_cached_for_good(serve, monkeypatch, tmp_path, capsys, kind, verb):
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
    assert broken.exists(), "the user's own file"


def test_a_whole_revision_reaches_the_hub(serve_hub, caplog):
    server = serve_hub({"model.safetensors": b""})
    with pytest.raises(OSError, match="has no revision 'refs/pr/3'"):
        focalnets.FocalNetImageClassifier.from_preset("hf://timm/focalnet@refs/pr/3/model.safetensors")
    paths = [path for path, _ in server.asked if "resolve" in path]
    assert paths
    assert all("/resolve/refs%2Fpr%2F3/" in path for path in paths)


def test_a_failed_download_from_the_hub_is_one_line(serve, monkeypatch, capsys, caplog):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_ENDPOINT", serve(status(500)).url.removesuffix("/weights.pth"))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert main(["predict", "hf://timm/focalnet/model.safetensors", "docs/seven.png"]) == 1
    text = capsys.readouterr().err + caplog.text
    assert len(text.strip().splitlines()) == 1, text


def test_the_hub_offline(serve_hub, monkeypatch):
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


@pytest.mark.parametrize("variable", ["FOCALNETS_OFFLINE", "HF_HUB_OFFLINE"])
def test_the_hub_offline_in_a_new_process(tmp_path, variable):
    """In this one, all modules of the client may be imported already."""
    command = [sys.executable, "-m", "focalnets", "predict", "hf://foo/bar", "docs/seven.png"]
    root = pathlib.Path(focalnets.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HOME": str(tmp_path), variable: "1"}
    environment.pop("FOCALNETS_CACHE", None)
    ran = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True)
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert f"weights of hf://foo/bar is not in the cache {tmp_path / 'hub'}, and {variable} forbids" in line


def test_the_hub_is_not_there(serve_hub, monkeypatch):
    serve_hub({}).stop()
    monkeypatch.setattr(time, "sleep", lambda _: None)  # the client waits half a minute in all
    for source in ("hf://timm/focalnet", "hf://timm/focalnet/x.bin"):
        text = raised(OSError, local_file, source)
        assert "could not be fetched" in text
        assert "HF_ENDPOINT" in text


def test_what_to_install_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'focalnets\[hub\]'"):
        local_file("hf://timm/focalnet")


# All of them


def test_local_files_are_themselves(serve, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"x")
    assert local_file(tmp_path / "weights.pth") == tmp_path / "weights.pth"
    assert local_file(str(tmp_path)) == tmp_path
    assert local_file(serve(file()).url).read_bytes() == CONTENT
    for source in ("", "no-such-file.pth", "ftp://host/x", "hf://timm", "x\0y", "a" * 9999):
        text = raised(ValueError, local_file, source)
        for form in ("path of a file", "hf://organization/name", "https://", "http://"):
            assert form in text


@pytest.mark.parametrize(("options", "code"), [({}, 1), ({"size": 7}, 2)])
def test_the_command_line_says_it(serve, monkeypatch, capsys, options, code):
    answer = file() if options else status(404)
    url = serve(answer).url
    monkeypatch.setattr(presets, "run", lambda _: download(url, **options))
    assert main(["presets"]) == code
    printed = capsys.readouterr()
    assert printed.err.startswith(f"focalnets: {url}")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_the_bar_counts_bytes(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    clock = iter([0.0, 1.0, 3.0])
    monkeypatch.setattr(_io.time, "monotonic", lambda: next(clock, 4.0))
    blocks = [b"ab", b"cde", b"f"]
    assert list(_io.progress(blocks, "weights.pth", total=10, done=4, size=len)) == blocks
    assert "weights.pth" in terminal.getvalue()
    assert "9/10 bytes" in terminal.getvalue()
    assert " 0%" not in terminal.getvalue(), "or what was there before would count as speed"
    assert list(_io.progress(blocks, "weights.pth", size=len)) == blocks


def test_the_module_is_light():
    code = "print([name for name in ('keras', 'torch', 'huggingface_hub', 'rich') if name in sys.modules])"
    assert child(code).communicate()[0] == "[]\n"
    assert "huggingface_hub" not in vars(hugging_face)
