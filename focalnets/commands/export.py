"""`focalnets export`."""

from focalnets.deployment.export import export
from focalnets.names import say


def run(arguments):
    """Export, and say how it was verified."""
    done = export(arguments.preset, arguments.out, arguments.force)
    print(f"verified with {done.runtime}: logits differ by at most {done.difference:.1e} of the largest")
    say(f"written: {done.directory}")
