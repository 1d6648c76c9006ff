"""open_dataset: a word, a folder, an archive or a table -> splits of uint8 images with labels."""

import csv
import pathlib
import zipfile
from dataclasses import dataclass, field

import numpy as np

from focalnets._io import IMAGE_SUFFIXES, progress
from focalnets.data.pictures import describe_bad, is_picture, try_picture

SPLITS = ("train", "val", "test")

# Names that Keras' own loaders serve; they download once and cache below ~/.keras/datasets.
KERAS_DATASETS = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "cifar100": None,
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        *("t-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "boot"),
    ),
}

# Share of the images that becomes the test split where a folder or table does not name splits.
TEST_FRACTION = 0.2


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
    """Splits by name ("train", "test", maybe "val"), the class names that labels index, and what was
    wrong with each picture that was left out."""

    splits: dict[str, Split]
    class_names: tuple[str, ...]
    bad: list[str] = field(default_factory=list)


def open_dataset(spec, channels=3, prepare=None, on_bad_image="error"):
    """Read a data set into memory.

    Args:
        spec: one of
            - "digits": scikit-learn's 1,797 real handwritten digits, 8 x 8, grey; a fixed split of 1,438
              to train and 359 to test;
            - "cifar10", "cifar100", "mnist", "fashion_mnist": through Keras, which downloads them once;
            - a folder or zip of `<split>/<class>/<image>`, splits being train, test and maybe val;
            - a folder or zip of `<class>/<image>`: a fifth of every class, by a fixed draw, is the test
              split;
            - a `.csv` with the columns path and label, and maybe split; paths are relative to it;
            - a `.npz` with x_train, y_train, x_test, y_test (and maybe x_val, y_val), and maybe
              class_names.
            Classes are sorted by name.
        channels: 3 for RGB, 1 for grey.
        prepare: function from one uint8 image (H, W, C) to one of the wanted size, such as
            `ImageConverter.prepare`; None if all images have one size already.
        on_bad_image: "error" to name all pictures that cannot be read, "skip" to leave them out.

    Raises:
        ValueError: if `spec` is none of these, has no images, mixes image sizes, or pictures are bad.
        ImportError: naming the extra to install.

    >>> from focalnets import open_dataset
    >>> open_dataset("digits", channels=1).splits["test"].images.shape
    (359, 8, 8, 1)
    """
    path = pathlib.Path(spec).expanduser()
    if spec == "digits":
        return _from_arrays(*_digits(), channels, prepare)
    if spec in KERAS_DATASETS and not path.exists():
        return _from_arrays(*_keras_dataset(spec), channels, prepare)
    if path.is_dir():
        return _from_files(path, _files_of_folder(path), channels, prepare, on_bad_image)
    if path.is_file() and path.suffix == ".npz":
        return _from_arrays(*_npz(path), channels, prepare)
    if path.is_file() and path.suffix == ".csv":
        return _from_files(path, _files_of_table(path), channels, prepare, on_bad_image)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _from_files(path, _files_of_zip(archive), channels, prepare, on_bad_image)
    known = ", ".join(("digits", *KERAS_DATASETS))
    raise ValueError(
        f"{str(spec)!r} is not a data set: give {known}, a folder or zip of train/<class>/<image> and "
        "test/<class>/<image> (or of <class>/<image>), a .csv of path,label, or an .npz."
    )


def split_validation(split, fraction, seed):
    """Take `fraction` of a split for validation, the same share of every class, by a seeded draw.

    Returns:
        (train, validation), two `Split`s without a common row.
    """
    chosen = _stratified_draw(split.labels, fraction, seed)
    return split.take(np.setdiff1d(np.arange(len(split)), chosen)), split.take(chosen)


def _stratified_draw(labels, fraction, seed):
    """Sorted indices of `fraction` of every class."""
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        # Small classes, too, are worth one image, as long as another one remains.
        least = 1 if fraction > 0 and len(rows) > 1 else 0
        chosen.append(rows[: max(round(fraction * len(rows)), least)])
    return np.sort(np.concatenate(chosen))


# === Arrays: each source gives ({split: (images, labels)}, class names) ===


def _digits():
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("The digits come with scikit-learn: pip install 'focalnets[digits]'.") from error
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype("uint8")  # pixels are 0..16
    everything = Split(images, digits.target)
    # The data come in order of writers, so that a plain cut would test on writers never seen; this
    # stratified draw is fixed for ever, whatever the seed of a run.
    train, test = split_validation(everything, fraction=0.2, seed=0)
    parts = {"train": (train.images, train.labels), "test": (test.images, test.labels)}
    return parts, [str(digit) for digit in range(10)]


def _keras_dataset(name):
    import keras

    train, test = getattr(keras.datasets, name).load_data()
    names = KERAS_DATASETS[name] or [f"class {label:02}" for label in range(100)]
    return {"train": train, "test": test}, names


def _npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except ValueError as error:
        raise ValueError(f"{path} holds objects, not plain arrays; save it anew without them.") from error
    parts = {
        split: (arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in SPLITS if f"x_{split}" in arrays
    }
    if "train" not in parts:
        raise ValueError(f"{path} holds {', '.join(sorted(arrays))}; it needs x_train and y_train.")
    classes = 1 + int(np.max(parts["train"][1], initial=0))
    names = arrays.get("class_names", [f"class {label}" for label in range(classes)])
    return parts, [str(name) for name in names]


def _from_arrays(parts, class_names, channels, prepare):
    splits = {}
    for name, (images, labels) in parts.items():
        images = np.asarray(images)
        if images.dtype != np.uint8:
            raise ValueError(f"Images must be uint8, 0..255; got {images.dtype} in the split {name}.")
        if images.ndim == 3:
            images = images[..., None]
        if images.shape[-1] != channels:
            images = _with_channels(images, channels)
        if prepare is not None:
            images = np.stack([prepare(image) for image in images])
        splits[name] = Split(images, _checked_labels(name, labels, len(images), len(class_names)))
    return ImageDataset(splits, tuple(class_names))


def _checked_labels(split, labels, images, classes):
    labels = np.asarray(labels)
    if labels.shape not in ((images,), (images, 1)) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"Labels must be one integer an image; the split {split} has {images} images and labels of "
            f"shape {labels.shape}, {labels.dtype}."
        )
    if images and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"Labels of the split {split} run from {labels.min()} to {labels.max()}; with {classes} classes "
            f"they must be in 0..{classes - 1}."
        )
    return labels.reshape(-1).astype("int32")


def _with_channels(images, channels):
    if images.shape[-1] == 1 and channels == 3:
        return np.repeat(images, channels, axis=-1)
    if channels == 1 and images.shape[-1] == 3:  # ITU-R 601, as Pillow
        return np.round(images @ np.array([0.299, 0.587, 0.114])).astype("uint8")[..., None]
    raise ValueError(f"Images have {images.shape[-1]} channels; the network takes {channels}.")


# === Files: each source gives rows (split or "", class, name, function that opens it) ===


def _files_of_folder(folder):
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if len(inside) == 1 and inside[0].name not in SPLITS:
        directly = any(path.is_file() and is_picture((path.name,)) for path in inside[0].iterdir())
        if not directly:  # one folder around everything, not a single class
            folder = inside[0]
    has_splits = (folder / "train").is_dir()
    for path in sorted(folder.glob("*/*/*" if has_splits else "*/*")):
        parts = path.relative_to(folder).parts
        if is_picture(parts) and (not has_splits or parts[0] in SPLITS):
            yield parts[0] if has_splits else "", parts[-2], str(path), lambda path=path: path.open("rb")


def _files_of_zip(archive):
    """Folders above the split's, or above the class's, are ignored."""
    names = [name for name in archive.namelist() if is_picture(pathlib.PurePosixPath(name).parts)]
    parts = {name: pathlib.PurePosixPath(name).parts for name in names}
    has_splits = any(len(p) >= 3 and p[-3] == "train" for p in parts.values())
    for name in sorted(names):
        if has_splits and (len(parts[name]) < 3 or parts[name][-3] not in SPLITS):
            continue
        if len(parts[name]) >= 2:
            split = parts[name][-3] if has_splits else ""
            yield split, parts[name][-2], name, lambda name=name: archive.open(name)


def _files_of_table(path):
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if not {"path", "label"} <= set(rows.fieldnames or ()):
            raise ValueError(
                f"{path} needs a first line with the columns path and label (and maybe split); it has: "
                f"{', '.join(rows.fieldnames or ['nothing'])}."
            )
        for row in rows:
            if not row["path"] or not row["label"]:
                raise ValueError(f"{path}, line {rows.line_num}: path or label is missing.")
            picture = path.parent / row["path"]
            split = row.get("split") or ""
            if split and split not in SPLITS:
                raise ValueError(f"{path}: split must be train, val or test; got {split!r}.")
            yield split, row["label"], str(picture), lambda picture=picture: picture.open("rb")


def _from_files(source, files, channels, prepare, on_bad_image):
    # One thread: on pictures of a few kilobytes, threads that wait for Python's lock are slower than none.
    rows, bad = [], []
    files = list(files)
    for split, label, name, opener in progress(files, "reading pictures"):
        picture, problem = try_picture((name, opener), channels)
        if problem is None:
            pixels = picture.pixels if prepare is None else prepare(picture.pixels)
            rows.append((split, label, pixels))
        else:
            bad.append(problem)
    if bad and on_bad_image == "error":
        raise ValueError(describe_bad(bad))
    if not rows:
        raise ValueError(
            f"{source} holds no images of the form train/<class>/<image> or <class>/<image> "
            f"({', '.join(IMAGE_SUFFIXES)})."
        )
    if len({bool(split) for split, *_ in rows}) > 1:
        raise ValueError(f"{source} names a split for some images only; name it for all or for none.")
    return _in_splits(source, rows, bad)


def _in_splits(source, rows, bad):
    named = bool(rows[0][0])
    class_names = tuple(sorted({label for split, label, _ in rows if not named or split == "train"}))
    unknown = sorted({label for _, label, _ in rows} - set(class_names))
    if unknown:
        raise ValueError(f"{source} has classes without training images: {', '.join(unknown)}.")
    shapes = {image.shape for *_, image in rows}
    if len(shapes) > 1:
        raise ValueError(
            f"Images of {source} differ in size, for instance {sorted(shapes)[:3]}; choose an "
            "image size to bring them to."
        )
    labels = np.asarray([class_names.index(label) for _, label, _ in rows], "int32")
    images = np.stack([image for *_, image in rows])
    if named:
        places = {split: [i for i, row in enumerate(rows) if row[0] == split] for split in SPLITS}
    else:
        test = _stratified_draw(labels, TEST_FRACTION, seed=0)
        places = {"train": np.setdiff1d(np.arange(len(rows)), test), "test": test}
    everything = Split(images, labels)
    splits = {split: everything.take(chosen) for split, chosen in places.items() if len(chosen)}
    return ImageDataset(splits, class_names, bad)
