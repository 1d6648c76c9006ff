"""The endpoints of `focalnets serve`.

GET  /                              a page that explains images of its reader
POST /predict                       image files -> classes and probabilities; ?explain=1 adds the evidence
GET  /v2/health/live, /ready        Open Inference Protocol, version 2
GET  /v2, /v2/models/NAME[/ready]
POST /v2/models/NAME/infer          JSON, and the binary extension
GET  /metrics                       Prometheus
GET  /openapi.json                  all of this for programs
"""

import asyncio
import base64
import contextlib
import functools
import logging
import math
import time
from dataclasses import dataclass

import msgspec
import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from focalnets import __version__
from focalnets.serving.guards import RETRY_AFTER, Guard
from focalnets.serving.measurements import Measurements
from focalnets.serving.openapi import openapi
from focalnets.serving.page import explored, page
from focalnets.serving.protocol import HEADER_LENGTH, model_metadata, read_inference, write_inference
from focalnets.serving.turns import OverloadedError, Turn, Turns

_log = logging.getLogger("focalnets.serve")
_CLOSE = {"Connection": "close"}
_SECONDS_BEFORE_WATCHING = 0.1  # whether the client leaves
_CLIENT_LEFT = 499  # nobody reads it: for the log and the measurements, as nginx counts it


@dataclass(frozen=True)
class Limits:
    """Limits of requests.

    Attributes:
        body: int. Bytes of a body.
        images: int. Images in a request.
        seconds: float. Time for the body to arrive, and time until the answer.
    """

    body: int
    images: int
    seconds: float


class State:
    """Objects that the endpoints share.

    Attributes:
        networks: `Networks`.
        limits: `Limits`.
        turns: `Turns`, made with the other arguments.
        measurements: `Measurements`.
        draining: bool. The server is about to stop: it is not ready, and closes connections.
    """

    def __init__(self, networks, limits, threads, waiting, max_batch, max_delay):
        self.networks, self.limits, self.draining = networks, limits, False
        self.measurements = Measurements()
        self.turns = Turns(threads, waiting, max_batch, max_delay, self.measurements.turn)


def make_app(state, reload_seconds, token=None, access_log=True):
    """Make the ASGI application.

    Args:
        state: `State`.
        reload_seconds: float. Time between checks for changed exports. 0 does not check.
        token: str or None. See `Guard`.
        access_log: bool. See `Guard`.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app):
        watching = None
        if reload_seconds:
            watching = asyncio.create_task(state.networks.watch(reload_seconds))
        yield
        if watching is not None:
            watching.cancel()
        await asyncio.to_thread(state.turns.close)

    def route(path, endpoint, method="GET"):
        name = endpoint.__name__.strip("_")

        @functools.wraps(endpoint)
        async def run(request):
            request.scope["endpoint_name"] = name
            return await endpoint(state, request)

        return Route(path, run, methods=[method])

    model = "/v2/models/{name}"
    app = Starlette(
        routes=[
            route("/", _page),
            route("/explore", _explore, "POST"),
            route("/predict", _predict, "POST"),
            route("/v2/health/live", _live),
            route("/v2/health/ready", _ready),
            route("/v2", _server),
            *(
                one
                for base in (model, f"{model}/versions/{{version}}")
                for one in (
                    route(base, _model),
                    route(f"{base}/ready", _model_ready),
                    route(f"{base}/infer", _infer, "POST"),
                )
            ),
            route("/metrics", _metrics),
            route("/openapi.json", _openapi),
        ],
        exception_handlers={HTTPException: _http_error, Exception: _unexpected_error},
        lifespan=lifespan,
    )
    return Guard(app, state, token, access_log)


# === Endpoints ===


async def _predict(state, request):
    name, network = _network(state, request.query_params.get("model"))
    top = _number(request, "top", 5, len(network.class_names))
    explain = _number(request, "explain", 0, 1, least=0) == 1
    if explain:
        _explaining(state, request)
    files = await _files(request, state.limits)

    def read():
        return [network.decode(content, file) for file, content in files]

    run = network.explain if explain else network.classify
    results = await _take_turn(state, request, Turn(name, read, run, state.limits.seconds))
    predictions = [
        _prediction(file, network, top, *result) for (file, _), result in zip(files, results, strict=True)
    ]
    return _json({"model": name, "version": network.version, "predictions": predictions})


def _prediction(file, network, top, probabilities, logits, evidence=None, totals=None):
    if not math.isfinite(logits.sum()):
        raise HTTPException(500, "The network has logits that are not finite.")
    best = np.argsort(-probabilities, kind="stable")[:top].tolist()
    row = {
        "name": file,
        "classes": [network.class_names[index] for index in best],
        "probabilities": probabilities[best].tolist(),
    }
    if evidence is not None:
        row["evidence"] = {
            "class": network.class_names[int(np.argmax(logits))],
            "shape": list(evidence.shape),
            "data": base64.b64encode(np.ascontiguousarray(evidence, "<f4")).decode(),
            "levels": {
                block: {"windows": network.windows[block], "totals": values}
                for block, values in totals.items()
            },
        }
    return row


async def _page(state, request):
    name, network = _explaining(state, request)
    headers = {
        "Content-Security-Policy": "default-src 'unsafe-inline' 'self' data:",
        "Cache-Control": "no-cache",
    }
    return Response(page(name, network), headers=headers, media_type="text/html")


async def _explore(state, request):
    name, network = _explaining(state, request)
    _, content = (await _files(request, state.limits))[0]
    file = request.query_params.get("name", "image")[:200]
    images = []

    def read():
        images.append(network.decode(content, file))
        return images

    (answer,) = await _take_turn(state, request, Turn(name, read, network.explore, state.limits.seconds))
    return _json(explored(file, network, images[0], answer))


def _explaining(state, request):
    name, network = _network(state, request.query_params.get("model"))
    if not network.explains:
        raise HTTPException(400, f"The export {name} has no explain.onnx. Export it with --explain.")
    return name, network


async def _live(state, request):
    return _json({"live": True})


async def _ready(state, request):
    return _json({"ready": not state.draining}, 503 if state.draining else 200)


async def _server(state, request):
    return _json({"name": "focalnets", "version": __version__, "extensions": ["binary_tensor_data"]})


async def _model(state, request):
    return _json(model_metadata(*_named(state, request)))


async def _model_ready(state, request):
    name, _ = _named(state, request)
    return _json({"name": name, "ready": not state.draining}, 503 if state.draining else 200)


async def _infer(state, request):
    name, network = _named(state, request)
    body = await _body(request, state.limits)
    most = state.limits.images
    try:
        length = request.headers.get(HEADER_LENGTH)
        inference = read_inference(body, length, network.image_shape, most)
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    turn = Turn(name, lambda: list(inference.images), network.classify, state.limits.seconds)
    results = await _take_turn(state, request, turn)
    arrays = dict(zip(("probabilities", "logits"), map(np.stack, zip(*results, strict=True)), strict=True))
    content, length = write_inference(inference, name, network.version, arrays)
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, headers={HEADER_LENGTH: str(length)}, media_type="application/octet-stream")


async def _metrics(state, request):
    content, media_type = state.measurements.text()
    return Response(content, media_type=media_type)


async def _openapi(state, request):
    return _json(openapi(list(state.networks), state.limits))


# === Parts of requests ===


def _network(state, name):
    try:
        return state.networks.get(name)
    except KeyError as error:
        raise HTTPException(404, error.args[0]) from error


def _named(state, request):
    name, network = _network(state, request.path_params["name"])
    version = request.path_params.get("version")
    if version is not None and version != network.version:
        raise HTTPException(404, f"{name} has the version {network.version}; got {version!r}.")
    return name, network


def _number(request, name, default, most, least=1):
    """A whole number of the query."""
    text = request.query_params.get(name)
    if text is None:
        return min(default, most)
    if not (text.isascii() and text.isdigit() and len(text) < 9 and least <= int(text) <= most):
        raise HTTPException(400, f"{name} must be a whole number from {least} to {most}; got {text[:40]!r}.")
    return int(text)


async def _body(request, limits):
    """The body. A length over the limit is refused before the body is read, if it is declared."""
    refusal = f"A body has at most {limits.body} bytes."
    declared = request.headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared) > limits.body:
        raise HTTPException(413, refusal, headers=_CLOSE)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.seconds):
            async for part in request.stream():
                size += len(part)
                if size > limits.body:
                    raise HTTPException(413, refusal, headers=_CLOSE)
                parts.append(part)
    except TimeoutError as error:
        message = f"The body did not arrive within {limits.seconds:g} seconds."
        raise HTTPException(408, message, headers=_CLOSE) from error
    except ClientDisconnect as error:
        raise HTTPException(_CLIENT_LEFT, "The client has left.", headers=_CLOSE) from error
    if not size:
        raise HTTPException(400, "The body is empty.")
    return b"".join(parts)


async def _files(request, limits):
    """List of (name, bytes) of the image files in a request."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        if not kind.startswith("image/") and kind != "application/octet-stream":
            raise HTTPException(
                415,
                "Send the bytes of an image file (Content-Type: image/jpeg, image/png, image/webp or "
                f"application/octet-stream), or multipart/form-data; got {kind[:80]!r}.",
            )
        return [("image", await _body(request, limits))]
    body = await _body(request, limits)

    async def stream():
        yield body

    parser = MultiPartParser(request.headers, stream(), max_files=limits.images, max_fields=limits.images)
    parser.spool_max_size = limits.body  # never on disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from error
    except Exception as error:  # a damaged header of a part
        raise HTTPException(400, "The multipart body is damaged.") from error
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(form.close)
        files = [part for _, part in form.multi_items() if hasattr(part, "read")]
        if not files:
            raise HTTPException(400, "The form has no file.")
        return [(part.filename or f"image {index}", await part.read()) for index, part in enumerate(files)]


async def _take_turn(state, request, turn):
    """Results of a request. It is given up when its time is over, or when the client leaves."""
    try:
        state.turns.add(turn)
    except OverloadedError as error:
        raise _overloaded(error) from error
    leaving = None

    def watch():
        nonlocal leaving
        leaving = asyncio.ensure_future(_left(request, turn.future))

    # Most requests are answered sooner, so that no task is made for them.
    loop = asyncio.get_running_loop()
    timers = [loop.call_later(_SECONDS_BEFORE_WATCHING, watch)]
    timers.append(loop.call_later(max(0.0, turn.deadline - time.monotonic()), turn.future.cancel))
    try:
        results = await turn.future
    except asyncio.CancelledError as error:
        if asyncio.current_task().cancelling():  # the server stops, and not only the future was canceled
            raise
        if leaving is not None and leaving.done():
            raise HTTPException(_CLIENT_LEFT, "The client has left.") from error
        raise _overloaded("no answer within the time limit") from error
    except OverloadedError as error:
        raise _overloaded(error) from error
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    finally:
        for timer in timers:
            timer.cancel()
        if leaving is not None:
            leaving.cancel()
    state.measurements.images(turn.name, len(results))
    return results


async def _left(request, answer):
    """Cancel the future of the answer when the client leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    answer.cancel()


def _overloaded(error):
    return HTTPException(503, f"Overloaded: {error}.", headers={"Retry-After": RETRY_AFTER})


# === Responses ===


def _json(content, status=200, headers=None):
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


async def _http_error(request, error):
    return _json({"error": error.detail}, error.status_code, error.headers)


async def _unexpected_error(request, error):
    _log.error("unexpected error", exc_info=error, extra={"path": request.url.path})
    return _json({"error": "Unexpected error. The log of the server has the details."}, 500)
