"""Threads, and the processor that they run on."""

import collections
import concurrent.futures
import itertools
import os
import pathlib
import platform


def parallel_map(function, items, workers, ahead=None):
    """Yield `function(item)` for each item, in order, computed by threads a bounded number ahead.

    Args:
        function: called in threads; its errors are raised here, at the place of their item.
        items: iterable; it is read no further than `ahead` items before the one that is yielded.
        workers: threads; 0 to compute without any.
        ahead: how many results may wait; twice the threads if None. This bounds the memory.

    >>> from focalnets.threads import parallel_map
    >>> list(parallel_map(str.upper, "abc", workers=2))
    ['A', 'B', 'C']
    """
    if workers == 0:
        yield from map(function, items)
        return
    items, waiting = iter(items), collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="focalnets")
    try:
        for item in itertools.islice(items, 2 * workers if ahead is None else ahead):
            waiting.append(pool.submit(function, item))
        while waiting:
            result = waiting.popleft().result()
            for item in itertools.islice(items, 1):
                waiting.append(pool.submit(function, item))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine():
    """A word for the processor and the cores that this process may use: "x86_64-2cores-amx".

    The last part is what decides how fast it multiplies: amx, avx512bf16, avx512 or avx2, nothing if there
    is none of them or nobody says so.
    """
    word = f"{platform.machine()}-{cores()}cores"
    try:
        flags = set(pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        flags = set()
    units = {"amx_bf16": "amx", "avx512_bf16": "avx512bf16", "avx512f": "avx512", "avx2": "avx2"}
    unit = next((name for flag, name in units.items() if flag in flags), None)
    return word if unit is None else f"{word}-{unit}"
