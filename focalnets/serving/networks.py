"""The served networks by name, and their replacement when an export directory changes."""

import asyncio
import contextlib
import ctypes
import logging

from focalnets.names import unknown_name
from focalnets.serving.network import ServedNetwork, stamp

_log = logging.getLogger("focalnets.serve")


class Networks:
    """Networks by name. The first is the default.

    Args:
        exports: dict of name -> `pathlib.Path` of an export directory.
        engine, streams: See `ServedNetwork`.
    """

    def __init__(self, exports, engine="auto", streams=1):
        self._exports, self._options = exports, (engine, streams)
        self._stamps = {name: stamp(path) for name, path in exports.items()}
        self._seen = dict(self._stamps)
        self._networks = {name: _load(path, *self._options) for name, path in exports.items()}

    def __iter__(self):
        return iter(self._networks)

    def get(self, name=None):
        """(name, `ServedNetwork`). KeyError with a message if there is no network of this name."""
        if name is None:
            name = next(iter(self._networks))
        if name not in self._networks:
            raise KeyError(unknown_name("network", name, list(self._networks)))
        return name, self._networks[name]

    async def watch(self, seconds):
        """Replace networks whose directories change. Requests that have started keep their network.

        A directory is read when it was the same at two checks. If it is incomplete, the network stays, and
        the directory is read again after its next change.
        """
        is_replaced = False
        while True:
            await asyncio.sleep(seconds)
            if is_replaced:  # at the check before: the requests of that network have ended since
                await asyncio.to_thread(return_memory)
                is_replaced = False
            for name, directory in self._exports.items():
                found = await asyncio.to_thread(stamp, directory)
                is_stable, self._seen[name] = found == self._seen[name], found
                if found is None or found == self._stamps[name] or not is_stable:
                    continue
                self._stamps[name] = found
                try:
                    network = await asyncio.to_thread(_load, directory, *self._options)
                except Exception as error:  # runtimes raise many types for damaged files
                    _log.error("reload failed", extra={"model": name, "error": str(error)})
                    continue
                before, self._networks[name] = self._networks[name].version, network
                is_replaced = True
                _log.info("reloaded", extra={"model": name, "version": network.version, "before": before})


def return_memory():
    """Return freed memory to the system.

    glibc keeps the memory of a replaced network in blocks that are too small for the next one: 20 MB for each
    replacement of a network of 5 MB.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems have no `malloc_trim`
        ctypes.CDLL(None).malloc_trim(0)


def _load(directory, engine, streams):
    network = ServedNetwork(directory, engine, streams)
    network.warm_up()
    return network
