"""`focalnets convert`."""

import sys

from focalnets.conversion.job import convert
from focalnets.conversion.options import read_config_overrides
from focalnets.names import say


def run(arguments):
    """Convert weights, and print the result with all assumptions."""
    done = convert(
        arguments.source,
        arguments.out,
        to=arguments.to,
        variant=arguments.variant,
        config_overrides=read_config_overrides(arguments.set),
        entry=arguments.entry,
        labels=arguments.labels,
        focal_window=arguments.window,
        focal_levels=arguments.levels,
        half=arguments.half,
        force=arguments.force,
    )
    for line in str(done).splitlines():
        say(line)
    if done.assumptions:
        print("Check these settings: a wrong one gives wrong outputs without an error.", file=sys.stderr)
        for note in done.assumptions:
            print(f"  {note}", file=sys.stderr)
