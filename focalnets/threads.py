"""Threads, and a description of the processor."""

import collections
import concurrent.futures
import itertools
import os
import pathlib
import platform


def parallel_map(function, items, workers, ahead=None):
    """Yield `function(item)` for each item, in order. Threads compute the next results in advance.

    Args:
        function: Function of one item, called in threads. Its errors are raised at the position of the item.
        items: Iterable. At most `ahead` items are read before their results are yielded.
        workers: int. Number of threads. 0 computes without threads.
        ahead: int. Number of results computed in advance, which bounds memory. Defaults to twice `workers`.

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


_limit = None  # cores that a cluster lends to this process, see `limit_cores`


def cores():
    """Number of cores that this process may use."""
    if _limit is not None:
        return _limit
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_cores(count):
    """Set the number of cores that this process uses, for processes that share a machine.

    Args:
        count: int or None. Result of `cores` from now on. `None` removes the limit. Open engines keep their
            threads.

    >>> from focalnets.threads import cores, limit_cores
    >>> limit_cores(1)
    >>> cores()
    1
    >>> limit_cores(None)  # no limit
    """
    global _limit
    _limit = count


def machine():
    """Short description of the processor and the usable cores, such as "x86_64-2cores-amx".

    The last part names the fastest instructions for matrix multiplication: amx, avx512bf16, avx512 or avx2.
    It is missing if the processor has none of these, or if they are unknown.
    """
    word = f"{platform.machine()}-{cores()}cores"
    try:
        flags = set(pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        flags = set()
    units = {"amx_bf16": "amx", "avx512_bf16": "avx512bf16", "avx512f": "avx512", "avx2": "avx2"}
    unit = next((name for flag, name in units.items() if flag in flags), None)
    return word if unit is None else f"{word}-{unit}"
