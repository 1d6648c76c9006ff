"""The queue of requests."""

import asyncio
import threading
import time

import numpy as np
import pytest

from focalnets.serving.turns import OverloadedError, Turn, Turns


class Network:
    """Sums each image. The first call waits until `go` is set."""

    def __init__(self):
        self.go, self.started, self.batches = threading.Event(), threading.Event(), []

    def run(self, images):
        self.started.set()
        self.go.wait(5)
        self.batches.append(len(images))
        return [int(image.sum()) for image in images]


def image(value, side=2):
    return np.full((side, side, 1), value, "uint8")


async def _five(network, **options):
    """Five requests, the last four while the first is computed."""
    turns = Turns(1, 4, **options)
    asked = []
    for value in range(5):
        asked.append(Turn("it", lambda value=value: [image(value)], network.run, 60))
        turns.add(asked[-1])
        if value == 0:
            await asyncio.to_thread(network.started.wait, 5)
    with pytest.raises(OverloadedError, match="too many"):
        turns.add(asked[0])
    network.go.set()
    found = [await one.future for one in asked]
    turns.close()
    return found


@pytest.mark.parametrize(("most", "batches"), [(1, [1] * 5), (3, [1, 3, 1])])
def test_turns_answer_in_order_and_in_batches(most, batches):
    network = Network()
    assert asyncio.run(_five(network, max_batch=most)) == [[0], [4], [8], [12], [16]]
    assert network.batches == batches


@pytest.mark.parametrize("threads", [1, 3])
def test_turns_wait_for_a_batch(threads):
    network = Network()
    network.go.set()

    async def two():
        turns = Turns(threads, 4, max_batch=2, max_delay=5.0)
        asked = []
        for value in (1, 2):
            asked.append(Turn("it", lambda value=value: [image(value)], network.run, 60))
            turns.add(asked[-1])
            await asyncio.sleep(0.1)
        return [await one.future for one in asked]

    assert asyncio.run(two()) == [[4], [8]]
    assert network.batches == [2]


@pytest.mark.parametrize(("seconds", "largest"), [(0.2, 1), (0.11, 2)])
def test_batches_of_slow_images_are_short(monkeypatch, seconds, largest):
    monkeypatch.setattr("focalnets.serving.turns._BATCH_SECONDS", 0.3)
    batches = []

    class Slow:
        def run(self, images):
            time.sleep(seconds * len(images))
            batches.append(len(images))
            return [0] * len(images)

    async def many():
        turns, network = Turns(1, 99, max_batch=8), Slow()
        asked = [Turn("it", lambda: [image(0)], network.run, 60) for _ in range(6)]
        turns.add(asked[0])
        await asked[0].future
        for one in asked[1:]:
            turns.add(one)
        await asyncio.gather(*(one.future for one in asked))

    asyncio.run(many())
    assert max(batches) == largest


def test_turns_run_shapes_separately_and_report_errors():
    network = Network()

    def damaged():
        raise ValueError("not an image")

    async def mixed():
        turns = Turns(1, 8, max_batch=8)
        reads = [lambda: [image(1)], lambda: [image(1, 3), image(2)], damaged, lambda: [image(3)]]
        asked = [Turn("it", lambda: [image(0)], network.run, 60)]
        turns.add(asked[0])
        await asyncio.to_thread(network.started.wait, 5)
        asked += [Turn("it", read, network.run, 60) for read in reads]
        for one in asked[1:]:
            turns.add(one)
        network.go.set()
        return await asyncio.gather(*(one.future for one in asked), return_exceptions=True)

    *found, error, last = asyncio.run(mixed())
    assert (found, last) == ([[0], [4], [9, 8]], [12])
    assert str(error) == "not an image"
    assert network.batches == [1, 3, 1]


def test_turns_drop_late_requests_and_those_of_clients_that_left():
    network = Network()

    async def late():
        turns = Turns(1, 4)
        first = Turn("it", lambda: [image(0)], network.run, 60)
        turns.add(first)
        await asyncio.to_thread(network.started.wait, 5)
        slow, left = (Turn("it", lambda: [image(1)], network.run, 0.05) for _ in range(2))
        turns.add(slow)
        turns.add(left)
        left.future.cancel()
        await asyncio.sleep(0.1)
        network.go.set()
        with pytest.raises(OverloadedError, match="too long"):
            await slow.future
        turns.close()

    asyncio.run(late())
    assert network.batches == [1]


def test_turns_run_in_several_threads():
    def slow(images):
        time.sleep(0.3)
        return [0] * len(images)

    async def both():
        turns, started = Turns(2, 4), time.monotonic()
        asked = [Turn("it", lambda: [image(0)], slow, 60) for _ in range(2)]
        for one in asked:
            turns.add(one)
        await asyncio.gather(*(one.future for one in asked))
        return time.monotonic() - started

    assert asyncio.run(both()) < 0.55  # 0.6 one after the other
