"""The processes and sockets of `focalnets serve`."""

import asyncio
import contextlib
import ctypes
import datetime
import logging
import multiprocessing
import os
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from dataclasses import dataclass

import msgspec
import prometheus_client.multiprocess
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from focalnets.serving.app import Limits, State, make_app
from focalnets.serving.network import check_export
from focalnets.serving.networks import Networks
from focalnets.threads import cores

_log = logging.getLogger("focalnets.serve")
_MOST_HEADER_BYTES = 65_536
_EMPTY_BACKLOG_SECONDS = 0.2
_FIRST_REQUEST_SECONDS = 2.0
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27  # of Linux; Python has no names for them
_EARLY_SECONDS, _MOST_EARLY_ENDS = 10, 5
_FACTS = ("method", "path", "status", "ms", "model", "version", "before", "address", "networks", "ended")
_FACTS += ("error", "process")


@dataclass(frozen=True)
class Settings:
    """Settings of a server, see `ServeArguments` in commands/arguments.py.

    Attributes:
        exports: dict of name -> path of an export directory.
        host, port: Address. Port 0 chooses a free one.
        workers: int. Number of processes.
        threads: int or None. Cores that a process uses. `None` divides all cores among the processes.
        queue: int. Requests that wait, per process.
        max_batch: int. Requests in a batch.
        max_delay: float. Seconds that a request waits for its batch.
        seconds: float. Time limit of a request.
        body_bytes, images: int. Limits of a request.
        lame_duck: float. Seconds between the signal to stop and the end.
        reload: float. Seconds between checks for changed exports, 0 for none.
        token: str or None.
        engine: str. "onnxruntime", "openvino" or "auto".
        access_log: bool.
    """

    exports: dict
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    threads: int | None = None
    queue: int = 64
    max_batch: int = 8
    max_delay: float = 0.0
    seconds: float = 10.0
    body_bytes: int = 20_000_000
    images: int = 64
    lame_duck: float = 5.0
    reload: float = 2.0
    token: str | None = None
    engine: str = "auto"
    access_log: bool = True


def serve(settings):
    """Serve until SIGTERM or SIGINT.

    Raises:
        OSError: if the address is in use.
        ValueError: if an export cannot be served.
    """
    networks = None
    if settings.workers == 1:
        networks = _load(settings)
    else:
        for path in settings.exports.values():
            check_export(path, settings.engine)  # an error here is clearer than one in each process
    with _listen(settings.host, settings.port) as listening:
        _serve_on(listening, networks, settings)


def _serve_on(listening, networks, settings):
    host, port = listening.getsockname()[:2]
    log_as_json()
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    _log.info("starting", extra={"address": address, "networks": list(settings.exports)})
    if settings.workers == 1:
        _run(settings, listening, networks)
        return
    with tempfile.TemporaryDirectory(prefix="focalnets-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        _supervise(settings, listening)


def _listen(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError:
        listening.close()
        raise
    return listening


def _threads(settings):
    return settings.threads or max(1, cores() // settings.workers)


def _load(settings):
    return Networks(settings.exports, settings.engine, _threads(settings))


def application(settings, networks=None):
    """(ASGI application, its `State`) for a server of one process, here or of another library.

    The exports are loaded and warmed up. The application serves without lifespan events, too, and then does
    not look for new versions.

    Args:
        settings: `Settings`.
        networks: `Networks`. Defaults to `None`, those of the settings.

    Raises:
        ValueError: if an export cannot be served.
    """
    limits = Limits(settings.body_bytes, settings.images, settings.seconds)
    # One thread more than cores: a thread that reads images or waits for Python's lock leaves its core idle.
    turns = (_threads(settings) + 1, settings.queue, settings.max_batch, settings.max_delay)
    state = State(networks or _load(settings), limits, *turns)
    return make_app(state, settings.reload, settings.token, settings.access_log), state


def _run(settings, listening, networks):
    """Serve in this process."""
    app, state = application(settings, networks)
    config = uvicorn.Config(
        app,
        http=_Patient.with_limit(settings.seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the log has no addresses of clients
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(settings.seconds)),
        limit_concurrency=4096,
    )
    _Server(config, state, settings.lame_duck).run([listening])


class _Server(uvicorn.Server):
    """Server that stops in order.

    After a signal, it is not ready, but answers for `lame_duck` seconds and closes each connection after its
    response, so that load balancers turn to other servers. A second signal ends this time. Connections that
    clients have opened by then are still accepted and answered.
    """

    def __init__(self, config, state, lame_duck):
        super().__init__(config)
        self._state, self._lame_duck, self._end, self._is_logged = state, lame_duck, None, False

    def handle_exit(self, sig, frame):
        if self._end is None:
            self._state.draining = True
            self._end = time.monotonic() + self._lame_duck
        else:
            self.should_exit = True

    async def startup(self, sockets=None):
        await super().startup(sockets)
        for one in sockets or ():
            _accept_clients(one)
        _log.info("ready")

    async def on_tick(self, counter):
        if self._end is not None and not self._is_logged:  # not in `handle_exit`, which may interrupt the log
            self._is_logged = True
            _log.info("draining")
        if self._end is not None and time.monotonic() > self._end:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets=None):
        for one in sockets or ():
            _ignore_new_clients(one)
        await asyncio.sleep(_EMPTY_BACKLOG_SECONDS)
        for server in self.servers:
            server.close()
        end = time.monotonic() + _FIRST_REQUEST_SECONDS
        while time.monotonic() < end and any(one.cycle is None for one in self.server_state.connections):
            await asyncio.sleep(0.01)  # uvicorn would close a connection whose first request is on its way
        await super().shutdown(sockets)
        _log.info("stopped")


def _ignore_new_clients(listening):
    """Drop segments that open a connection: their clients repeat them a second later, to a closed port.

    Closing the port alone would reset connections that clients have opened, but the server has not accepted.
    """
    if sys.platform != "linux":
        listening.listen(0)
        return
    # Classic BPF on a TCP header: byte 13 has the flags, of which SYN (2) without ACK (16) returns length 0.
    program = [(0x30, 0, 0, 13), (0x54, 0, 0, 18), (0x15, 0, 1, 2), (0x06, 0, 0, 0), (0x06, 0, 0, 2**32 - 1)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in program))
    listening.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code))
    )


def _accept_clients(listening):
    """Undo `_ignore_new_clients` of a process that was replaced, and shared the socket."""
    if sys.platform == "linux":
        with contextlib.suppress(FileNotFoundError):  # no filter
            listening.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


class _Patient(HttpToolsProtocol):
    """HTTP whose headers have to arrive in time, and within 64 KiB."""

    seconds = 10.0

    @classmethod
    def with_limit(cls, seconds):
        return type(cls.__name__, (cls,), {"seconds": seconds})

    def connection_made(self, transport):
        super().connection_made(transport)
        self._in_headers, self._header_bytes = True, 0
        self._timer = self.loop.call_later(self.seconds, transport.abort)

    def connection_lost(self, exc):
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data):
        super().data_received(data)
        if self._in_headers:
            self._header_bytes += len(data)
            if self._header_bytes > _MOST_HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response("The headers are too long.")

    def on_message_begin(self):
        super().on_message_begin()
        self._timer.cancel()
        self._timer = self.loop.call_later(self.seconds, self.transport.abort)
        self._in_headers = True

    def on_headers_complete(self):
        self._timer.cancel()
        self._in_headers, self._header_bytes = False, 0
        super().on_headers_complete()


# === Several processes ===


def _supervise(settings, listening):
    """Run `settings.workers` processes on one socket, and replace those that die."""
    context, stopping = multiprocessing.get_context("spawn"), threading.Event()
    started, early = {}, 0

    def start():
        process = context.Process(target=_worker, args=(settings, listening))
        process.start()
        started[process] = time.monotonic()
        return process

    processes = [start() for _ in range(settings.workers)]

    def stop(number, _):
        stopping.set()
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not stopping.wait(0.2):
            for index, process in enumerate(processes):
                if not process.is_alive() and not stopping.is_set():
                    _log.error("a process ended", extra={"ended": process.pid, "status": process.exitcode})
                    prometheus_client.multiprocess.mark_process_dead(process.pid)
                    early = early + 1 if time.monotonic() - started.pop(process) < _EARLY_SECONDS else 0
                    if early >= _MOST_EARLY_ENDS:
                        raise RuntimeError("the processes end soon after their start; see the log above")
                    processes[index] = start()
    finally:
        if not stopping.is_set():
            stop(signal.SIGTERM, None)
        for process in processes:
            process.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def _worker(settings, listening):
    os.setsid()  # Ctrl-C of a terminal reaches the first process alone, which forwards it

    def end_with_parent():
        multiprocessing.parent_process().join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    log_as_json()
    _run(settings, listening, _load(settings))


# === Log ===


class _Json(logging.Formatter):
    """One JSON object per line."""

    def format(self, record):
        row = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **{name: getattr(record, name) for name in _FACTS if hasattr(record, name)},
        }
        if record.exc_info:
            row["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(row).decode()


def log_as_json():
    """Write the log of the server to standard error, one JSON object per line."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json())
    for name, level in (("focalnets.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
