"""The queue of requests, and the threads that run the networks.

Each thread runs a network on one core at a time. On a CPU, this uses the cores as well as one call on all
cores, and short requests do not wait for long ones. A batch is formed from requests that wait for the same
network. The network itself gains nothing from it, but the locks and wakings of Python are then paid once per
batch.
"""

import asyncio
import collections
import threading
import time

import numpy as np

_BATCH_SECONDS = 0.03  # longer batches save nothing, but the requests in them wait for each other
_SMOOTHING = 0.2


class OverloadedError(Exception):
    """The queue is full, or a request has waited too long."""


class Turn:
    """One request in the queue.

    Args:
        name: str. Name of the network, for the measurements.
        read: Function without arguments that returns a list of images, uint8 (H, W, channels). It is called
            in a thread, and its ValueErrors are those of the request.
        run: Method of a network, of images (N, H, W, channels), that returns a list of N results. Requests
            with the same method may share a batch.
        seconds: float. Time limit. A request that has waited longer is not computed.
    """

    def __init__(self, name, read, run, seconds):
        self.name, self.read, self.run = name, read, run
        self.arrived = time.monotonic()
        self.deadline = self.arrived + seconds
        self._loop = asyncio.get_running_loop()
        self.future = self._loop.create_future()

    def finish(self, results=None, error=None):
        """Give the results or an error to the waiting request. Called in a thread."""
        self._loop.call_soon_threadsafe(self._finish, results, error)

    def _finish(self, results, error):
        if self.future.done():  # the client has left
            return
        if error is None:
            self.future.set_result(results)
        else:
            self.future.set_exception(error)


class Turns:
    """Bounded queue with its threads.

    Args:
        threads: int. Number of threads.
        limit: int. Largest number of requests in the queue.
        max_batch: int. Largest number of requests in a batch. A batch of images that are slow to
            compute has fewer, so that it takes at most 0.03 s.
        max_delay: float. Seconds that a request waits for others to share its batch.
        measure: Function of (name of the network, seconds in the queue, images in the batch), called for
            each request that is computed. Defaults to `None`.
    """

    def __init__(self, threads, limit, max_batch=1, max_delay=0.0, measure=None):
        self.limit, self.max_batch, self.max_delay, self._measure = limit, max_batch, max_delay, measure
        self._queue, self._changed, self._closed = collections.deque(), threading.Condition(), False
        self._forming = False  # a thread waits for more requests of its batch
        self._image_seconds = {}  # of each method of each network
        self._threads = [
            threading.Thread(target=self._work, name=f"focalnets-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self):
        return len(self._queue)

    @property
    def full(self):
        return len(self._queue) >= self.limit

    def add(self, turn):
        """Put a request into the queue. `OverloadedError` if the queue is full."""
        with self._changed:
            if self.full:
                raise OverloadedError("too many requests are waiting")
            self._queue.append(turn)
            if self._forming:
                self._changed.notify_all()  # one of them forms a batch, and the others cannot start
            else:
                self._changed.notify()

    def close(self):
        """Compute what waits, then stop the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self):
        while True:
            with self._changed:
                while self._forming or not (self._queue or self._closed):
                    self._changed.wait()
                if not self._queue:
                    return
                turns = self._take()
            self._run(turns)
            del turns  # a thread that waits keeps no network that was replaced

    def _take(self):
        """Take the first request, and others that may share its batch."""
        turns = [self._queue.popleft()]
        until = turns[0].arrived + self.max_delay
        most = self._most(turns[0])
        while len(turns) < most:
            other = next((one for one in self._queue if one.run == turns[0].run), None)
            if other is not None:
                self._queue.remove(other)
                turns.append(other)
            elif self._closed or time.monotonic() >= until:
                break
            else:
                self._forming = True
                self._changed.wait(until - time.monotonic())
                self._forming = False
                self._changed.notify_all()
        if self._queue:
            self._changed.notify()
        return turns

    def _most(self, turn):
        """Largest number of requests in the batch of a request."""
        seconds = self._image_seconds.get(_method(turn))
        if seconds is None:
            return self.max_batch
        return max(1, min(self.max_batch, int(_BATCH_SECONDS / seconds)))

    def _compute(self, turn, images):
        began = time.monotonic()
        results = _by_shape(turn.run, images)
        seconds = (time.monotonic() - began) / len(images)
        method = _method(turn)
        before = self._image_seconds.get(method, seconds)
        self._image_seconds[method] = before + _SMOOTHING * (seconds - before)
        return results

    def _run(self, turns):
        started, found = time.monotonic(), []  # pairs of a request and its images
        for turn in turns:
            if turn.future.done():
                continue
            if started > turn.deadline:
                turn.finish(error=OverloadedError("the request waited too long"))
                continue
            try:
                found.append((turn, turn.read()))
            except Exception as error:
                turn.finish(error=error)
        images = [image for _, group in found for image in group]
        if self._measure is not None:
            for turn, _ in found:
                self._measure(turn.name, started - turn.arrived, len(images))
        try:
            results = iter(self._compute(found[0][0], images) if images else ())
            parts = [[next(results) for _ in group] for _, group in found]
        except Exception as error:
            for turn, _ in found:
                turn.finish(error=error)
        else:
            for (turn, _), part in zip(found, parts, strict=True):
                turn.finish(part)


def _method(turn):
    return turn.name, turn.run.__name__


def _by_shape(run, images):
    """Results of `run` for images of any shapes, in their order."""
    groups, results = collections.defaultdict(list), [None] * len(images)
    for index, image in enumerate(images):
        groups[image.shape].append(index)
    for indices in groups.values():
        found = run(np.stack([images[index] for index in indices]))
        for index, result in zip(indices, found, strict=True):
            results[index] = result
    return results
