"""The function `cache`, which resizes a data set once."""

from focalnets.data.cache import square, write_cache
from focalnets.data.datasets import open_dataset
from focalnets.data.find import report_skipped
from focalnets.data.inputs import data_paths


def cache(data, out, image_size=256, grayscale=False, on_bad_image="error", force=False):
    """Resize a data set once to memory-mapped arrays, so that training on it decodes nothing.

    The function behind `focalnets cache`.

    Args:
        data: str or path. Data set, see `open_dataset`.
        out: str or path. Directory to create. Give it as the data set of later trainings.
        image_size: int. Side of the square images in pixels. The shorter side is resized to it and the center
            is cropped. Defaults to 256.
        grayscale: bool. Store one channel instead of three. Defaults to `False`.
        on_bad_image: str. "error" lists unreadable images and stops, "skip" leaves them out. Defaults to
            "error".
        force: bool. Replace the cache in the directory `out`. Defaults to `False`.

    Returns:
        An `ImageDataset` of the resized images.

    Raises:
        FileExistsError: if `out` exists, unless `force`.
        ValueError: if the data set cannot be read.

    >>> import tempfile
    >>> import focalnets
    >>> digits = focalnets.cache("digits", tempfile.mkdtemp() + "/digits", image_size=16, grayscale=True)
    >>> digits.splits["test"].images.shape
    (359, 16, 16, 1)
    """
    channels = 1 if grayscale else 3
    dataset = open_dataset(data, channels, square(image_size), on_bad_image, cache_images="stream")
    write_cache(dataset, out, data, force, data_paths(data))
    report_skipped(dataset.unreadable)
    return open_dataset(out, channels)
