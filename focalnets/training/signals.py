"""HeldSignals: delays Ctrl-C and termination until the batch is done and a snapshot is written."""

import contextlib
import os
import signal
import threading
import time

# Sent by Ctrl-C, by `kill` and cluster schedulers, and by a closed terminal.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

# `timeout` and some schedulers send each signal twice. Only a later signal counts as a second one.
_REPEATED_SECONDS = 2.0

_NOTE = "focalnets: writing a snapshot, then stopping. Send the signal again to stop at once.\n"


class HeldSignals:
    """Context manager that holds the first signal to stop. A second one, 2 seconds later, acts at once.

    Handlers are replaced in the main thread only, and restored at the end of the block. Ignored signals stay
    ignored. `deliver` passes the held signal to the previous handler, which raises KeyboardInterrupt or ends
    the process. The end of the block delivers it, too.

    Attributes:
        received: int or None. Number of the held signal.

    >>> import signal
    >>> from focalnets.training.signals import HeldSignals
    >>> try:
    ...     with HeldSignals() as held:
    ...         signal.raise_signal(signal.SIGINT)
    ...         print("the batch is completed")
    ...         held.deliver()
    ... except KeyboardInterrupt:
    ...     print("stopped")
    the batch is completed
    stopped
    """

    def __init__(self):
        self.received = None
        self._handlers = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if handler is not None and handler != signal.SIG_IGN:  # None: not installed from Python
                    self._handlers[number] = handler
                    signal.signal(number, self._hold)
        return self

    def __exit__(self, *_):
        self.deliver()

    def deliver(self):
        """Restore the handlers and pass them the held signal, if any."""
        self._restore()
        number, self.received = self.received, None
        if number is not None:
            signal.raise_signal(number)

    def _hold(self, number, _):
        if self.received is None:
            self.received, self._since = number, time.monotonic()
            with contextlib.suppress(OSError):  # the terminal may be closed
                os.write(2, _NOTE.encode())  # `print` is not reentrant
        elif time.monotonic() - self._since > _REPEATED_SECONDS:
            self._restore()
            signal.raise_signal(number)

    def _restore(self):
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._hold:  # not replaced in the meantime
                signal.signal(number, handler)
        self._handlers = {}
