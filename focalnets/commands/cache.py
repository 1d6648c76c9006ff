"""`focalnets cache`."""

from focalnets.data.cache import square, write_cache
from focalnets.data.datasets import open_dataset
from focalnets.data.find import report_skipped
from focalnets.data.inputs import data_paths
from focalnets.names import plural, say


def run(arguments):
    """Resize a data set once, for epochs that decode nothing."""
    dataset = open_dataset(
        arguments.data,
        1 if arguments.grayscale else 3,
        square(arguments.image_size),
        arguments.on_bad_image,
        cache_images="stream",
    )
    inputs = data_paths(arguments.data)
    write_cache(dataset, arguments.out, arguments.data, arguments.force, inputs)
    for name, split in dataset.splits.items():
        print(f"{name}: {len(split)} {plural(len(split), 'image')}")
    report_skipped(dataset.bad)
    say(f"cache: {arguments.out}")
