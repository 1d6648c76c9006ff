"""The function `open_dataset`, which reads all kinds of data sets."""

import contextlib
import functools
import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from focalnets.data import arrays
from focalnets.data.file_images import FileImages
from focalnets.data.files import file_name
from focalnets.data.find import describe_unreadable
from focalnets.data.left_out import LeftOut, report
from focalnets.data.naming import SPLITS, checked_class_names, equal_but_for_case
from focalnets.data.shards.images import ShardImages
from focalnets.data.shards.listing import ShardListing
from focalnets.data.sources import read_source
from focalnets.data.splits import Split, join, stratified_draw
from focalnets.data.survey import SAMPLE, survey_array, survey_files
from focalnets.images.decode import as_pixels
from focalnets.names import listed, plural
from focalnets.progress import progress
from focalnets.threads import cores, parallel_map

# Fraction of the images that becomes the test split if a folder or table has no splits.
TEST_FRACTION = 0.2

# Prepared images of more bytes than this are streamed instead of stored in memory.
IN_MEMORY_BYTES = 2 * 2**30

# Images of up to this many pixels are decoded in one thread, because most of their time is spent in Python,
# which runs one thread at a time.
_WORTH_THREADS = 128 * 128


@dataclass(frozen=True, repr=False)
class ImageDataset:
    """Images and labels of a source.

    Attributes:
        splits: dict. "train", "val" or "test" -> `Split`.
        class_names: tuple of str, one per label.
        unreadable: list of str. Errors of the unreadable images that were left out. Defaults to `[]`.
        survey: Function that returns the `survey.Survey` of the stored images. Defaults to `None`.
        left_out: tuple of `LeftOut`. Other files that are not in the splits, by reason. They are also logged.
            Defaults to `()`.
        drawn_from: int. Number of images from which the test split was drawn. Defaults to `None`, which means
            that the source has splits.
    """

    splits: dict[str, Split]
    class_names: tuple[str, ...]
    unreadable: list[str] = field(default_factory=list)
    survey: Callable | None = None
    left_out: tuple[LeftOut, ...] = ()
    drawn_from: int | None = None

    def __repr__(self):
        sizes = {name: len(split) for name, split in self.splits.items()}
        splits = ", ".join(f"{name}: {size} {plural(size, 'image')}" for name, size in sizes.items())
        count = len(self.class_names)
        classes = plural(count, "class", "classes")
        return f"ImageDataset({splits}; {count} {classes}: {listed(self.class_names, 5)})"

    def everything(self):
        """`Split` of all images of all splits."""
        return join(list(self.splits.values()))


def open_dataset(spec, channels=3, prepare=None, on_bad_image="error", cache_images="auto", only=None):
    """Read a data set.

    Args:
        spec: str or path. One of:
            - "digits": 1,797 handwritten digits, included, 8 x 8 pixels, grayscale. The split is fixed:
              1,438 images for training, 359 for testing.
            - "cifar10", "cifar100", "mnist" or "fashion_mnist": data sets that Keras downloads once.
            - a folder, zip or tar of `<split>/<class>/<image>`, with the splits train, test and optionally
              val (or synonyms such as Training, test_set and validation, see `naming.split_for`).
            - a folder, zip or tar of `<class>/<image>`. A fifth of each class becomes the test split. It is
              drawn by file name.
            - a `.csv` with the columns path and label, and optionally split. Paths are relative to the file.
              Without labels, the paths are interpreted like those of a folder.
            - an `.npz` with x_train, y_train, x_test, y_test, and optionally x_val, y_val, class_names.
            - a directory of resized images that `focalnets cache` wrote.
            - a folder of shards, as of WebDataset (`train-0000.tar`) or Parquet files, or a `.txt` that lists
              shards, local or remote. See `shards.listing.list_shards`.
            - "hf://<name>" or "tfds:<name>": data sets of Hugging Face or TensorFlow Datasets.
            Classes are sorted by name if the source has no order of classes.
        channels: int. 3 for RGB, 1 for grayscale. Defaults to 3.
        prepare: Function from one image (PIL image or uint8 (H, W, C)) to a uint8 array of the wanted size,
            such as `FocalNetImageConverter.prepare`. Defaults to `None`, for images of one size.
        on_bad_image: str. "error" lists unreadable images and stops, "skip" leaves them out. Defaults to
            "error".
        cache_images: str. "memory" reads and prepares all images now. "stream" does so on demand, in each
            epoch, and first checks the start and end of every file (with "skip", it decodes every file).
            "auto" streams if the prepared images exceed 2 GiB (`IN_MEMORY_BYTES`). Defaults to "auto".
        only: list of str. Names of the splits to read. Defaults to `None`, all splits.

    Returns:
        An `ImageDataset`.

    Raises:
        ValueError: if `spec` is unknown, has no images, can be interpreted in two ways, mixes image sizes, or
            has unreadable images.
        OSError: if a download fails.
        ImportError: if a package is missing. The message has the extra to install.

    >>> from focalnets import open_dataset
    >>> open_dataset("digits", channels=1).splits["test"].images.shape
    (359, 8, 8, 1)
    """
    source = read_source(spec)
    if isinstance(source, arrays.ArraySource):
        return _from_arrays(source, channels, prepare, cache_images, only)
    read = _list_shards if isinstance(source, ShardListing) else _list_files
    found = read(os.fspath(spec), source, channels, only)
    return _from_files(os.fspath(spec), found, prepare, on_bad_image, cache_images, only)


def _from_arrays(source, channels, prepare, cache_images, only):
    parts, splits, sample = source.parts, {}, []
    class_names = checked_class_names(source.class_names)
    report(source.left_out)
    _check_wanted(only, parts)
    for name, (images, labels) in parts.items():
        if only is not None and name not in only:
            continue
        if len(images) == 0 and only is None:
            continue
        if len(images) == 0:
            raise ValueError(f"The split {name} is empty.")
        labels = arrays.checked_labels(name, labels, len(images), len(class_names))
        split = Split(arrays.checked_images(name, images, channels), labels, prepare=prepare)
        if prepare is not None and cache_images != "stream" and _fits(split, cache_images):
            split = Split(split.images, labels)
        splits[name] = split
        if not len(sample):  # a copy, because a view would keep the original images in memory
            sample = np.array(images[:: max(1, len(images) // SAMPLE)])
    survey = functools.partial(survey_array, sample)
    return ImageDataset(splits, class_names, survey=survey, left_out=source.left_out)


def _fits(split, cache_images):
    return cache_images == "memory" or split.batch([0]).nbytes * len(split) <= IN_MEMORY_BYTES


@dataclass(frozen=True)
class _Found:
    """Labeled images of a source, with the splits that are wanted.

    Attributes:
        files: `FileImages`.
        splits: int8 array (N,). Index into `SPLITS`, or -1 if the source has no splits.
        labels: int32 array (N,). Index into `class_names`, or -1 for images without a label.
        class_names: tuple of str.
        left_out: tuple of `LeftOut`.
        names: list of str, by which the test split is drawn. Without it, the order of the images counts.
    """

    files: FileImages
    splits: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    names: list[str] | None = None


def _list_files(source, listing, channels, only):
    """`_Found` of a `Listing`."""
    rows = listing.rows
    report(listing.left_out)
    if not rows:
        raise ValueError(f"{source} holds no images.")
    named = bool(rows[0][0])
    if any(bool(split) != named for split, *_ in rows):
        raise ValueError(f"{source} has a split for some images only. Set it for all images or for none.")
    _check_wanted(
        only, sorted({split for split, *_ in rows}, key=SPLITS.index) if named else ("train", "test")
    )
    trained = {label for split, label, _ in rows if not named or split == "train"}
    class_names = _checked_classes(source, listing.class_names, trained, {label for _, label, _ in rows})
    if named and only is not None:
        rows = [row for row in rows if row[0] in only]
    codes = {name: label for label, name in enumerate(class_names)}
    return _Found(
        FileImages([name for *_, name in rows], listing.opener, channels),
        np.array([SPLITS.index(split) if named else -1 for split, *_ in rows], "int8"),
        np.array([codes[label] for _, label, _ in rows], "int32"),
        class_names,
        listing.left_out,
        [file_name(name) for *_, name in rows],
    )


def _list_shards(source, listing, channels, only):
    """`_Found` of a `ShardListing`. Shards of other splits are left out."""
    report(listing.left_out)
    if not len(listing.labels):
        raise ValueError(f"{source} holds no images.")
    named = bool(listing.splits[0] >= 0)
    found = [SPLITS[index] for index in np.unique(listing.splits)] if named else ("train", "test")
    _check_wanted(only, found)
    used = listing.labels >= 0
    trained = used & (listing.splits <= SPLITS.index("train"))
    names = [{listing.names[code] for code in np.unique(listing.labels[rows])} for rows in (trained, used)]
    class_names = _checked_classes(source, listing.class_names, *names)
    codes = {name: label for label, name in enumerate(class_names)}
    codes = np.array([codes.get(name, -1) for name in listing.names] + [-1], "int32")
    ends = np.cumsum([0, *map(len, listing.rows)])
    wanted = [
        index
        for index, (begin, end) in enumerate(itertools.pairwise(ends))
        if begin < end and (only is None or not named or SPLITS[listing.splits[begin]] in only)
    ]
    kept = np.concatenate([np.arange(ends[index], ends[index + 1]) for index in wanted])
    shards, rows = ([some[index] for index in wanted] for some in (listing.shards, listing.rows))
    return _Found(
        ShardImages(shards, rows, channels),
        listing.splits[kept],
        codes[listing.labels[kept]],
        class_names,
        listing.left_out,
    )


def _checked_classes(source, class_names, trained, used):
    """Class names of a source. A source without training images can be evaluated, so all images count then.

    Args:
        source: str. Name of the source in errors.
        class_names: tuple of str, or None to sort the names.
        trained, used: sets of str. Names of the classes of the training images, and of all images.
    """
    class_names = checked_class_names(class_names or sorted(trained or used))
    if unknown := sorted(used - set(class_names)):
        alike = [group for group in equal_but_for_case({*unknown, *class_names}) if set(group) & set(unknown)]
        hint = f" Give them the same name: {' and '.join(map(repr, alike[0]))}." if alike else ""
        raise ValueError(f"{source} has classes without training images: {listed(unknown)}.{hint}")
    return class_names


def _from_files(source, found, prepare, on_bad_image, cache_images, only):
    files, rows = found.files, np.flatnonzero(found.labels >= 0)
    first = _first_readable(files, rows)
    large = first is not None and _prepared(first, prepare).nbytes * len(rows) > IN_MEMORY_BYTES
    if cache_images == "stream" or (cache_images == "auto" and large):
        unreadable = files.problems if on_bad_image == "skip" else files.quick_problems
        good = rows[~np.isin(rows, list(unreadable))] if unreadable else rows
        everything = Split(files, found.labels[good], good, prepare)
    else:
        threads = cores() if first is not None and first.width * first.height > _WORTH_THREADS else 0
        images, good, unreadable = _read_into_memory(source, files, rows, prepare, threads)
        everything = Split(images, found.labels[good])
    if unreadable and on_bad_image == "error":
        raise ValueError(describe_unreadable(list(unreadable.values())))
    if len(good) == 0 and unreadable:
        first = next(iter(unreadable.values()))
        raise ValueError(f"All {len(unreadable)} images of {source} are unreadable: {first}.")

    named = bool((found.splits >= 0).all())
    if named:
        parts = found.splits[good]
        chosen = {split: np.flatnonzero(parts == index) for index, split in enumerate(SPLITS)}
    else:
        names = None if found.names is None else [found.names[index] for index in good]
        test = stratified_draw(everything.labels, TEST_FRACTION, names=names)
        chosen = {"train": np.setdiff1d(np.arange(len(good)), test), "test": test}
    for split in only or ():
        if len(chosen[split]) == 0:
            why = "" if named else ", because no class has a second image. Use --split all for all images"
            raise ValueError(f"The split {split} of {source} is empty{why}.")
    splits = {
        split: everything.take(indices)
        for split, indices in chosen.items()
        if len(indices) and (only is None or split in only)
    }
    survey = functools.partial(survey_files, files.with_channels(3))
    drawn_from = None if named else len(good)
    problems = list(unreadable.values())
    return ImageDataset(splits, found.class_names, problems, survey, found.left_out, drawn_from)


def _check_wanted(only, available):
    for split in only or ():
        if split not in available:
            raise ValueError(
                f"The data have no split {split!r}. Available splits: {', '.join(available)}. Use --split "
                f"{next(iter(available))}, or --split all for all images."
            )


def _first_readable(files, rows):
    """First readable image, or None."""
    for row in rows:
        with contextlib.suppress(ValueError):
            return files.read(row)
    return None


def _prepared(image, prepare):
    return as_pixels(image) if prepare is None else prepare(image)


def _read_into_memory(source, files, rows, prepare, threads):
    """Tuple (images, uint8 (N, H, W, C), indices of readable images, dict index -> error of the others)."""

    def read(index):
        try:
            return _prepared(files.read(index), prepare)
        except ValueError as error:
            return str(error)

    images, good, unreadable, shapes = None, [], {}, set()
    found = progress(parallel_map(read, rows, threads), "reading images", len(rows))
    for index, image in zip(rows, found, strict=True):
        if isinstance(image, str):
            unreadable[index] = image
            continue
        shapes.add(image.shape)
        if images is None:  # filled in place, because stacking a list would double the peak memory
            images = np.empty((len(rows), *image.shape), "uint8")
        if len(shapes) == 1:
            images[len(good)] = image
        good.append(index)
    if len(shapes) > 1:
        raise ValueError(
            f"Images of {source} differ in size, for example {sorted(shapes)[:3]}; expected one size. Set an "
            "image size."
        )
    return images if images is None else images[: len(good)], np.array(good, int), unreadable
