"""Checks that every request passes before it is read (token, queue), and its log."""

import asyncio
import hmac
import logging
import time

import msgspec

_log = logging.getLogger("focalnets.serve")
_PUBLIC = ("/v2/health/live", "/v2/health/ready", "/")  # the page asks its reader for the token
_SECONDS_BEFORE_REFUSAL = 0.1  # of clients that try again at once: a refusal takes time from good requests
RETRY_AFTER = "1"  # seconds


class Guard:
    """ASGI application around another one.

    Args:
        app: ASGI application.
        state: `State` of the server.
        token: str or None. Every request needs it, except those for health and the page.
        access_log: bool. Log each request.
    """

    def __init__(self, app, state, token=None, access_log=True):
        self._app, self._state, self._access_log = app, state, access_log
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def sending(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._state.draining:
                    message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        try:
            await self._answer(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - started
            endpoint = scope.get("endpoint_name", "other")
            self._state.measurements.request(endpoint, status, seconds)
            self._state.measurements.waiting.set(len(self._state.turns))
            if self._access_log:
                facts = {"method": scope["method"], "path": scope["path"], "status": status}
                _log.info("request", extra={**facts, "ms": round(1000 * seconds, 2)})

    async def _answer(self, scope, receive, send):
        if scope["path"] in _PUBLIC:
            await self._app(scope, receive, send)
        elif self._expected is not None and not self._is_known(scope):
            headers = [(b"www-authenticate", b"Bearer"), (b"connection", b"close")]
            await answer(send, 401, "This server needs a token: Authorization: Bearer TOKEN.", headers)
        elif scope["method"] == "POST" and self._state.turns.full:
            await asyncio.sleep(_SECONDS_BEFORE_REFUSAL)
            await answer(
                send, 503, "Too many requests are waiting.", [(b"retry-after", RETRY_AFTER.encode())]
            )
        else:
            await self._app(scope, receive, send)

    def _is_known(self, scope):
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, self._expected)


async def answer(send, status, error, headers=()):
    """Send a JSON object with an error."""
    body = msgspec.json.encode({"error": error})
    length = (b"content-length", str(len(body)).encode())
    start = [(b"content-type", b"application/json"), length, *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
