"""`focalnets export`."""

from focalnets.deployment.export import export
from focalnets.names import say


def run(arguments):
    """Export a network and print the largest difference of the verification."""
    done = export(arguments.preset, arguments.out, force=arguments.force, explain=arguments.explain)
    print(f"verified with {done.runtime}: largest difference of logits {done.difference:.1e}, relative")
    if done.evidence_difference is not None:
        print(f"largest difference of the evidence {done.evidence_difference:.1e}, relative")
    say(f"written: {done.directory}")
