"""open_dataset: a word, a folder or a zip -> splits of uint8 images with labels and class names."""

import pathlib
import zipfile
from dataclasses import dataclass

import numpy as np

from focalnets._io import IMAGE_SUFFIXES, read_image

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, H, W, C) and labels int32 (N,), in a fixed order."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.labels)

    def take(self, indices):
        """The split of those rows only."""
        return Split(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class ImageDataset:
    """Splits by name ("train", "test", maybe "val") and the class names that labels index."""

    splits: dict[str, Split]
    class_names: tuple[str, ...]


def open_dataset(spec, channels=3, prepare=None):
    """Read a data set into memory.

    Args:
        spec: "digits" (scikit-learn's 1,797 real handwritten digits, 8 x 8, grey; a fixed split of 1,438
            to train and 359 to test), or the path of a folder or zip file that holds
            `train/<class>/<image>` and `test/<class>/<image>`, and maybe `val/<class>/<image>`. Classes
            are the sorted names of the folders below `train`.
        channels: 3 for RGB, 1 for grey.
        prepare: function from one uint8 image (H, W, C) to one of the wanted size, such as
            `ImageConverter.prepare`; None if all images have one size already.

    Raises:
        ValueError: if `spec` is neither, has no images, mixes image sizes, or an image is damaged.
        ImportError: naming the extra to install.

    >>> from focalnets import open_dataset
    >>> open_dataset("digits", channels=1).splits["test"].images.shape
    (359, 8, 8, 1)
    """
    path = pathlib.Path(spec).expanduser()
    if spec == "digits":
        dataset = _digits(channels, prepare)
    elif path.is_dir():
        dataset = _read_files(path, _files_of_folder(path), channels, prepare)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            dataset = _read_files(path, _files_of_zip(archive), channels, prepare)
    else:
        raise ValueError(
            f"{str(spec)!r} is not a data set: give 'digits', or an existing folder or zip file with "
            "train/<class>/<image> and test/<class>/<image>."
        )
    return dataset


def split_validation(split, fraction, seed):
    """Take `fraction` of a split for validation, the same share of every class, by a seeded draw.

    Returns:
        (train, validation), two `Split`s without a common row.
    """
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(split.labels):
        rows = generator.permutation(np.flatnonzero(split.labels == label))
        chosen.append(rows[: round(fraction * len(rows))])
    chosen = np.sort(np.concatenate(chosen))
    return split.take(np.setdiff1d(np.arange(len(split)), chosen)), split.take(chosen)


def _digits(channels, prepare):
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("The digits come with scikit-learn: pip install 'focalnets[digits]'.") from error
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype("uint8")[..., None]  # pixels are 0..16
    images = np.repeat(images, channels, axis=-1)
    if prepare is not None:
        images = np.stack([prepare(image) for image in images])
    everything = Split(images, digits.target.astype("int32"))
    # The data come in order of writers, so that a plain cut would test on writers never seen; this
    # stratified draw is fixed for ever, whatever the seed of a run.
    train, test = split_validation(everything, fraction=0.2, seed=0)
    return ImageDataset({"train": train, "test": test}, tuple(str(digit) for digit in range(10)))


def _files_of_folder(folder):
    """(split, class, name, opener) of every image below a folder, or below its only subfolder."""
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if len(inside) == 1 and inside[0].name not in SPLITS:
        folder = inside[0]
    for split in SPLITS:
        for path in sorted((folder / split).glob("*/*")):
            if path.suffix.lower() in IMAGE_SUFFIXES and not _hidden(path.relative_to(folder)):
                yield split, path.parent.name, str(path), path.open


def _files_of_zip(archive):
    """The same of a zip file; folders above the split's are ignored."""
    for name in sorted(archive.namelist()):
        path = pathlib.PurePosixPath(name)
        parts = path.parts
        if len(parts) < 3 or parts[-3] not in SPLITS or _hidden(path):
            continue
        if path.suffix.lower() in IMAGE_SUFFIXES:
            yield parts[-3], parts[-2], name, lambda mode, name=name: archive.open(name)


def _hidden(path):
    """What systems and editors leave beside pictures: .ipynb_checkpoints, ._photo.jpg, __MACOSX."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _read_files(source, files, channels, prepare):
    files = list(files)
    class_names = tuple(sorted({label for split, label, *_ in files if split == "train"}))
    if not class_names:
        raise ValueError(f"{source} holds no images of the form train/<class>/<image>.")
    unknown = sorted({label for _, label, *_ in files} - set(class_names))
    if unknown:
        raise ValueError(f"{source} has classes without training images: {', '.join(unknown)}.")

    def read(file):
        _, _, name, opener = file
        try:
            with opener("rb") as stream:
                image = read_image(stream, channels, name)
        except (zipfile.BadZipFile, RuntimeError) as error:  # damaged or encrypted member
            raise ValueError(f"{source}: {error}.") from error
        return image if prepare is None else prepare(image)

    # One thread: on pictures of a few kilobytes, threads that wait for Python's lock are slower than none.
    splits = {}
    for split in SPLITS:
        members = [file for file in files if file[0] == split]
        if not members:
            continue
        images = [read(file) for file in members]
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise ValueError(
                f"Images of {source} differ in size, for instance {sorted(shapes)[:3]}; choose an "
                "image size to bring them to."
            )
        labels = [class_names.index(label) for _, label, *_ in members]
        splits[split] = Split(np.stack(images), np.asarray(labels, "int32"))
    return ImageDataset(splits, class_names)
