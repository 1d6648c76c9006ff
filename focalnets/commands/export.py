"""`focalnets export`."""

from focalnets.deployment.export import export
from focalnets.names import say


def run(arguments):
    """Export a network and print the largest difference of the verification."""
    done = export(
        arguments.preset,
        arguments.out,
        format=arguments.format,
        force=arguments.force,
        explain=arguments.explain,
        data=arguments.data,
        any_size=arguments.any_size,
        quantize=arguments.quantize,
        most_loss=arguments.most_loss,
    )
    print(done)
    say(f"written: {done.directory}")
