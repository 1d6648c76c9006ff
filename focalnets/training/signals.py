"""HeldSignals: Ctrl-C and termination wait until the batch is done, so that a snapshot can be written."""

import contextlib
import os
import signal
import threading
import time

# Ctrl-C; what `kill` and cluster schedulers send; what a closed terminal sends.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

# `timeout` and some schedulers send each signal twice. Only a later one is a second wish.
_REPEATED_SECONDS = 2.0

_NOTE = "focalnets: writing a snapshot, then stopping. Send the signal again to stop at once.\n"


class HeldSignals:
    """Context manager that holds back the first signal to stop. A second one, 2 seconds later, acts at once.

    Handlers are replaced in the main thread only, and restored at the end of the block. Signals that are
    ignored stay ignored. `deliver` hands the signal to the handler that was installed before, which raises
    KeyboardInterrupt or ends the process. A signal that is still held at the end of the block is delivered
    there.

    Attributes:
        received: int or None. Number of the signal that is held.

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
        """Restore the handlers, and hand them the signal that is held, if there is one."""
        self._restore()
        number, self.received = self.received, None
        if number is not None:
            signal.raise_signal(number)

    def _hold(self, number, _):
        if self.received is None:
            self.received, self._since = number, time.monotonic()
            with contextlib.suppress(OSError):  # the terminal may be closed
                os.write(2, _NOTE.encode())  # print must not be called by a handler that may interrupt it
        elif time.monotonic() - self._since > _REPEATED_SECONDS:
            self._restore()
            signal.raise_signal(number)

    def _restore(self):
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._hold:  # nobody else has replaced it meanwhile
                signal.signal(number, handler)
        self._handlers = {}
