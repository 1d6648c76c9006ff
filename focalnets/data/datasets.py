"""open_dataset: a word, a folder, an archive or a table -> splits of uint8 images with labels."""

import contextlib
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from focalnets.data import arrays
from focalnets.data.files import Listing, file_name
from focalnets.data.find import describe_bad
from focalnets.data.left_out import LeftOut, report
from focalnets.data.naming import SPLITS, checked_class_names, equal_but_for_case
from focalnets.data.sources import read_source
from focalnets.data.splits import FileImages, Split, join, stratified_draw
from focalnets.data.survey import SAMPLE, survey_array, survey_files
from focalnets.images.decode import as_pixels
from focalnets.names import listed, plural
from focalnets.progress import progress
from focalnets.threads import cores, parallel_map

# Share of the images that becomes the test split where a folder or table does not name splits.
TEST_FRACTION = 0.2

# Prepared images of more bytes than this are not kept in memory, but read anew every epoch.
IN_MEMORY_BYTES = 2 * 2**30

# Images of fewer pixels are read by one thread: they spend more time in Python, which runs one thread
# at a time, than in the decoder.
_WORTH_THREADS = 128 * 128


@dataclass(frozen=True, repr=False)
class ImageDataset:
    """Images and labels of a source.

    Attributes:
        splits: dict of `Split`: "train", "test", maybe "val".
        class_names: tuple of str, which labels index.
        bad: list of str. What is wrong with each unreadable image that was left out.
        survey: function that returns the `survey.Survey` of the stored images.
        left_out: tuple of `LeftOut`. What else the source holds and the splits do not, by reason. The same
            lines are logged.
        drawn_from: int. Number of images from which the test split was drawn; None if the source names
            splits.
    """

    splits: dict[str, Split]
    class_names: tuple[str, ...]
    bad: list[str] = field(default_factory=list)
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
        """The `Split` of all images of all splits."""
        return join(list(self.splits.values()))


def open_dataset(spec, channels=3, prepare=None, on_bad_image="error", cache_images="auto", only=None):
    """Read a data set.

    Args:
        spec: one of
            - "digits": scikit-learn's 1,797 real handwritten digits, 8 x 8, gray; a fixed split of 1,438
              to train and 359 to test;
            - "cifar10", "cifar100", "mnist", "fashion_mnist": through Keras, which downloads them once;
            - a folder, zip or tar of `<split>/<class>/<image>`, splits being train, test and maybe val (also
              Training, test_set, validation and the like, see `naming.split_for`);
            - a folder, zip or tar of `<class>/<image>`: a fifth of every class, drawn by the names of the
              files, is the test split;
            - a `.csv` with the columns path and label, and maybe split; paths are relative to it. Without a
              label, the paths are read like a folder;
            - a `.npz` with x_train, y_train, x_test, y_test (and maybe x_val, y_val), and maybe
              class_names;
            - a directory that `focalnets cache` wrote: resized images, memory-mapped;
            - "hf://<name>" or "tfds:<name>", through Hugging Face's `datasets` or TensorFlow Datasets.
            Classes are sorted by name, where the source gives them no order.
        channels: 3 for RGB, 1 for gray.
        prepare: function from one image (PIL image or uint8 (H, W, C)) to uint8 of the wanted size,
            such as `FocalNetImageConverter.prepare`; None if all images have one size already.
        on_bad_image: "error" to name the images that cannot be read, "skip" to leave them out.
        cache_images: "memory" to read and prepare everything now; "stream" to read and prepare images anew
            whenever they are asked for; "auto" for "stream" if the prepared images would take more than
            2 GiB (`IN_MEMORY_BYTES`). A set to be streamed is checked first: head and end of every file,
            or, with "skip", a full decoding.
        only: names of the splits that are wanted; None for all.

    Raises:
        ValueError: if `spec` is none of these, has no images, can be read in two ways, mixes image sizes, or
            has unreadable images.
        OSError: if a download fails.
        ImportError: naming the extra to install.

    >>> from focalnets import open_dataset
    >>> open_dataset("digits", channels=1).splits["test"].images.shape
    (359, 8, 8, 1)
    """
    source = read_source(spec)
    if isinstance(source, Listing):
        return _from_listing(os.fspath(spec), source, channels, prepare, on_bad_image, cache_images, only)
    return _from_arrays(source, channels, prepare, cache_images, only)


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
        if not len(sample):  # a copy, so that images that were resized do not stay in memory
            sample = np.array(images[:: max(1, len(images) // SAMPLE)])
    survey = functools.partial(survey_array, sample)
    return ImageDataset(splits, class_names, survey=survey, left_out=source.left_out)


def _fits(split, cache_images):
    return cache_images == "memory" or split.batch([0]).nbytes * len(split) <= IN_MEMORY_BYTES


def _from_listing(source, listing, channels, prepare, on_bad_image, cache_images, only):
    rows = listing.rows
    report(listing.left_out)
    if not rows:
        raise ValueError(f"{source} holds no images.")
    named = bool(rows[0][0])
    if any(bool(split) != named for split, *_ in rows):
        raise ValueError(f"{source} names a split for some images only; name it for all or for none.")
    _check_wanted(
        only, sorted({split for split, *_ in rows}, key=SPLITS.index) if named else ("train", "test")
    )
    # To evaluate, validation images alone will do.
    trained = {label for split, label, _ in rows if not named or split == "train"}
    class_names = listing.class_names or sorted(trained or {label for _, label, _ in rows})
    class_names = checked_class_names(class_names)
    unknown = sorted({label for _, label, _ in rows} - set(class_names))
    if unknown:
        alike = [group for group in equal_but_for_case({*unknown, *class_names}) if set(group) & set(unknown)]
        meant = f" Rename them to agree: {' and '.join(map(repr, alike[0]))}." if alike else ""
        raise ValueError(f"{source} has classes without training images: {listed(unknown)}.{meant}")
    if named and only is not None:
        rows = [row for row in rows if row[0] in only]

    files = FileImages([name for *_, name in rows], listing.opener, channels)
    first = _first_good(files)
    large = first is not None and _prepared(first, prepare).nbytes * len(files) > IN_MEMORY_BYTES
    if cache_images == "stream" or (cache_images == "auto" and large):
        bad = files.problems if on_bad_image == "skip" else _quick_check(files)
        good = np.array([index for index in range(len(rows)) if index not in bad], int)
        everything = Split(files, _labels(rows, good, class_names), good, prepare)
    else:
        threads = cores() if first is not None and first.width * first.height > _WORTH_THREADS else 0
        images, good, bad = _read_into_memory(source, files, prepare, threads)
        everything = Split(images, _labels(rows, good, class_names))
    if bad and on_bad_image == "error":
        raise ValueError(describe_bad(list(bad.values())))
    if len(good) == 0 and bad:
        raise ValueError(f"No image of {source} can be read ({len(bad)} tried); {next(iter(bad.values()))}.")

    if named:
        of = np.array([rows[index][0] for index in good])
        chosen = {split: np.flatnonzero(of == split) for split in SPLITS}
    else:
        names = [file_name(rows[index][-1]) for index in good]
        test = stratified_draw(everything.labels, TEST_FRACTION, names=names)
        chosen = {"train": np.setdiff1d(np.arange(len(good)), test), "test": test}
    for split in only or ():
        if len(chosen[split]) == 0:
            raise ValueError(
                f"The split {split} of {source} is empty"
                + (
                    "."
                    if named
                    else ": no class has a second image to put there. Use --split all for every image."
                )
            )
    splits = {
        split: everything.take(places)
        for split, places in chosen.items()
        if len(places) and (only is None or split in only)
    }
    survey = functools.partial(survey_files, FileImages(files.names, listing.opener, channels=3))
    drawn_from = None if named else len(good)
    return ImageDataset(splits, class_names, list(bad.values()), survey, listing.left_out, drawn_from)


def _check_wanted(only, there):
    for split in only or ():
        if split not in there:
            raise ValueError(
                f"The data have no split {split!r}; they have: {', '.join(there)}. To evaluate, use --split "
                f"{next(iter(there))}, or --split all for every image."
            )


def _labels(rows, good, class_names):
    places = {name: place for place, name in enumerate(class_names)}
    return np.array([places[rows[index][1]] for index in good], "int32")


def _first_good(files):
    """The first image that can be read, None without one."""
    for index in range(len(files)):
        with contextlib.suppress(ValueError):
            return files.read(index)
    return None


def _prepared(image, prepare):
    return as_pixels(image) if prepare is None else prepare(image)


def _quick_check(files):
    """What is wrong with each unreadable image, by index, as far as heads and ends of files tell."""

    def problem(index):
        try:
            files.check(index)
        except ValueError as error:
            return str(error)

    found = progress(map(problem, range(len(files))), "checking images", len(files))
    return {index: text for index, text in enumerate(found) if text is not None}


def _read_into_memory(source, files, prepare, threads):
    """(uint8 (good, H, W, C), indices of the good ones, what is wrong with each bad one by index)."""

    def read(index):
        try:
            return _prepared(files.read(index), prepare)
        except ValueError as error:
            return str(error)

    images, good, bad, shapes = None, [], {}, set()
    found = parallel_map(read, range(len(files)), threads)
    for index, image in enumerate(progress(found, "reading images", len(files))):
        if isinstance(image, str):
            bad[index] = image
            continue
        shapes.add(image.shape)
        if images is None:  # filled in place: a list of images and then their stack would take twice as much
            images = np.empty((len(files), *image.shape), "uint8")
        if len(shapes) == 1:
            images[len(good)] = image
        good.append(index)
    if len(shapes) > 1:
        raise ValueError(
            f"Images of {source} differ in size, for instance {sorted(shapes)[:3]}; choose an "
            "image size to bring them to."
        )
    return images if images is None else images[: len(good)], np.array(good, int), bad
