"""Progress bar on a terminal, drawn by rich."""

import sys
import time


def progress(items, text, total=None):
    """Yield `items`. After two seconds, show a bar on standard error, if that is a terminal.

    Args:
        items: Iterable.
        text: str. Label of the bar, such as "reading images".
        total: int. Number of items. Defaults to `len(items)`.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    import rich.console
    import rich.progress

    total = len(items) if total is None else total
    bar, start = None, time.monotonic()
    try:
        for done, item in enumerate(items):
            if bar is None and time.monotonic() - start > 2:
                bar = rich.progress.Progress(console=rich.console.Console(stderr=True), transient=True)
                bar.start()
                task = bar.add_task(text, total=total)
            if bar is not None:
                bar.update(task, completed=done)
            yield item
    finally:
        if bar is not None:
            bar.stop()
