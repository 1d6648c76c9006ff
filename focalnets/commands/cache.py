"""`focalnets cache`."""

from focalnets.data.resize import cache
from focalnets.names import plural, say


def run(arguments):
    """Write a cache of resized images, and print the sizes of its splits."""
    dataset = cache(
        arguments.data,
        arguments.out,
        arguments.image_size,
        arguments.grayscale,
        arguments.on_bad_image,
        arguments.force,
    )
    for name, split in dataset.splits.items():
        print(f"{name}: {len(split)} {plural(len(split), 'image')}")
    say(f"cache: {arguments.out}")
