"""Which pictures a folder, archive, table or library's data set holds, and how to open each."""

import csv
import io
import itertools
import logging
import pathlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from focalnets.data.pictures import is_picture

SPLITS = ("train", "val", "test")

# What others call them -> what they are called here.
SPLIT_NAMES = {name: name for name in SPLITS} | dict.fromkeys(("validation", "valid", "dev"), "val")

_log = logging.getLogger("focalnets")


@dataclass(frozen=True)
class Listing:
    """Attributes:
    rows: (split or "" where it is not named, class, name) of each picture.
    opener: function name -> binary stream.
    class_names: where the source knows their order; None to sort them.
    """

    rows: list[tuple[str, str, str]]
    opener: Callable
    class_names: tuple[str, ...] | None = None


def list_folder(folder):
    """`<split>/<class>/<image>` or `<class>/<image>`, maybe with one folder around everything."""
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    if len(inside) == 1 and inside[0].name not in SPLIT_NAMES:
        directly = any(path.is_file() and is_picture((path.name,)) for path in inside[0].iterdir())
        if not directly:  # one folder around everything, not a single class
            folder = inside[0]
            inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    # Named like a split, a folder is one if it holds folders, or if all are named so: "train" may be a class.
    has_splits = all(path.name in SPLIT_NAMES for path in inside) or any(
        path.is_dir() for split in SPLIT_NAMES for path in folder.glob(f"{split}/*")
    )
    rows, others = [], set()
    for path in sorted(folder.glob("*/*/*" if has_splits else "*/*")):
        parts = path.relative_to(folder).parts
        if not is_picture(parts):
            continue
        if has_splits and parts[0] not in SPLIT_NAMES:
            others.add(parts[0])
        else:
            rows.append((SPLIT_NAMES[parts[0]] if has_splits else "", parts[-2], str(path)))
    _tell_left_out(others)
    return Listing(rows, _open_file)


def _tell_left_out(others):
    if others:
        _log.warning("left out, because they are no splits: %s", ", ".join(sorted(others)))


def list_zip(path):
    """The same in an archive, in which several folders may stand around everything."""
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if is_picture(pathlib.PurePosixPath(name).parts)]
    parts = {name: pathlib.PurePosixPath(name).parts for name in names}
    # Splits are meant if they lie where everything begins, or hold most of the pictures: a folder deep within
    # may have any name.
    in_splits = [p[:-3] for p in parts.values() if len(p) >= 3 and p[-3] in SPLIT_NAMES]
    levels = zip(*(p[:-1] for p in parts.values()), strict=False)
    begin = tuple(level[0] for level in itertools.takewhile(lambda level: len(set(level)) == 1, levels))
    has_splits = begin in in_splits or len(in_splits) > len(names) / 2
    rows, others = [], set()
    for name in sorted(names):
        *above, _ = parts[name]
        if has_splits and (len(above) < 2 or above[-2] not in SPLIT_NAMES):
            others.add("/".join(above[-2:]) or name)
        elif above:
            rows.append((SPLIT_NAMES[above[-2]] if has_splits else "", above[-1], name))
    _tell_left_out(others)

    def open_member(name):
        # Read whole: decoders seek, which in a compressed member means to start over.
        try:
            return io.BytesIO(archive.read(name))
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # the last: encrypted
            raise OSError(str(error)) from error

    return Listing(rows, open_member)


def list_table(path):
    """A CSV with the columns path and label, and maybe split; paths are relative to it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; save it anew as CSV in UTF-8.") from error
    rows = []
    with io.StringIO(text, newline="") as file:
        lines = csv.DictReader(file)
        if not {"path", "label"} <= set(lines.fieldnames or ()):
            raise ValueError(
                f"{path} needs a first line with the columns path and label (and maybe split); it has: "
                f"{', '.join(lines.fieldnames or ['nothing'])}."
            )
        for line in lines:
            if not line["path"] or not line["label"]:
                raise ValueError(f"{path}, line {lines.line_num}: path or label is missing.")
            split = line.get("split") or ""
            if split and split not in SPLITS:
                raise ValueError(f"{path}: split must be train, val or test; got {split!r}.")
            rows.append((split, line["label"], str(path.parent / line["path"])))
    return Listing(rows, _open_file)


def _open_file(name):
    return open(name, "rb")
