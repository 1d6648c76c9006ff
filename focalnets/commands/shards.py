"""Options for shards of images, which `predict`, `embed` and `evaluate` share."""

from focalnets.files import expanded
from focalnets.names import say


def shard_options(arguments):
    """Keyword arguments of `predict_shards`, `embed_shards` and `evaluate_shards` from a command line."""
    return {
        "manifest": arguments.manifest,
        "out": arguments.out,
        "shard": None if arguments.shard is None else tuple(map(int, arguments.shard.split("/"))),
        "engine": arguments.engine if arguments.backend is None else "keras",
        "ray": _pool(arguments),
    }


def merge(arguments):
    """Write the rows of all shards to the file of --merge."""
    from focalnets.prediction.bulk import merge_shards

    result = merge_shards(arguments.manifest, arguments.out, arguments.merge)
    print_result(result, arguments.merge)


def print_result(result, path):
    """Print a `BulkResult` and where its rows are."""
    from focalnets.prediction.bulk import in_words

    print(in_words(result))
    say(f"rows: {expanded(path)}")


def _pool(arguments):
    if arguments.ray is None:
        return None
    from focalnets.prediction.ray_pool import RayPool

    return RayPool(arguments.ray, arguments.ray_cpus, arguments.ray_gpus)
