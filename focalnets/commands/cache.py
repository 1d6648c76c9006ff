"""`focalnets cache`."""

from focalnets.data.resize import cache
from focalnets.names import plural, say


def run(arguments):
    """Write a cache of resized images, and print the sizes of its splits."""
    dataset = cache(
        arguments.data,
        arguments.out,
        image_size=arguments.image_size,
        grayscale=arguments.grayscale,
        on_bad_image=arguments.on_bad_image,
        force=arguments.force,
    )
    for name, split in dataset.splits.items():
        print(f"{name}: {len(split)} {plural(len(split), 'image')}")
    say(f"cache: {arguments.out}")
