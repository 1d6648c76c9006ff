"""`focalnets embed`."""

from focalnets.commands.shards import merge, print_result, shard_options
from focalnets.presets.checkpoints import DEFAULT


def run(arguments):
    """Write the features of the images in the shards of a manifest, or merge them."""
    from focalnets.prediction.bulk import embed_shards

    if arguments.merge is not None:
        merge(arguments)
        return
    result = embed_shards(arguments.preset or DEFAULT, **shard_options(arguments))
    print_result(result, arguments.out)
