"""Which pictures a folder, archive, table or library's data set holds, and how to open each."""

import csv
import io
import pathlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from focalnets.data.pictures import is_picture

SPLITS = ("train", "val", "test")


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
    if len(inside) == 1 and inside[0].name not in SPLITS:
        directly = any(path.is_file() and is_picture((path.name,)) for path in inside[0].iterdir())
        if not directly:  # one folder around everything, not a single class
            folder = inside[0]
    # A folder val/ alone, such as ImageNet's, is a split if it holds folders: there might be a class "val".
    has_splits = (folder / "train").is_dir() or any(
        path.is_dir() for split in SPLITS for path in folder.glob(f"{split}/*")
    )
    rows = []
    for path in sorted(folder.glob("*/*/*" if has_splits else "*/*")):
        parts = path.relative_to(folder).parts
        if is_picture(parts) and (not has_splits or parts[0] in SPLITS):
            rows.append((parts[0] if has_splits else "", parts[-2], str(path)))
    return Listing(rows, _open_file)


def list_zip(path):
    """The same in an archive. Folders above the split's, or above the class's, are ignored."""
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if is_picture(pathlib.PurePosixPath(name).parts)]
    parts = {name: pathlib.PurePosixPath(name).parts for name in names}
    has_splits = any(len(p) >= 3 and p[-3] == "train" for p in parts.values())
    rows = []
    for name in sorted(names):
        if has_splits and (len(parts[name]) < 3 or parts[name][-3] not in SPLITS):
            continue
        if len(parts[name]) >= 2:
            rows.append((parts[name][-3] if has_splits else "", parts[name][-2], name))

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
