"""Listings of tables: CSV files with paths of images, and optionally labels and splits."""

import csv
import io
import os
import re

from focalnets.data.files import Listing, head_of_file, list_tree, path_parts
from focalnets.data.left_out import REPEATED, LeftOutCounter
from focalnets.data.naming import SPLITS, class_name, split_for
from focalnets.files import open_regular

_DELIMITERS = ",;\t|"

# Common alternative names of the columns. The name of the column itself takes precedence.
_OTHER_NAMES = {
    "path": (
        *("file", "filename", "file_name", "filepath", "file_path"),
        *("image", "image_file", "image_name", "image_path", "img", "img_name", "img_path"),
    ),
    "label": ("class", "class_name", "label_name", "category", "target"),
    "split": ("set", "subset", "partition"),
}


def list_table(path):
    """`Listing` of a CSV file with a column `path`, relative to the file, and optionally `label` and `split`.

    Without a column `label`, the paths are interpreted like those of a folder. Columns are separated by
    commas, semicolons, tabs or vertical bars. A line that repeats an image with the same label and split is
    left out, because the image could be drawn into two splits.

    Args:
        path: `pathlib.Path`.

    Raises:
        ValueError: if the table cannot be read, has no column of paths, or lists an image with two labels or
            in two splits.
    """
    lines, columns = _read(path)
    left_out, rows, first = LeftOutCounter(), [], {}
    for number, line in lines:
        name = line["path"]
        target = _split(path, number, line), class_name(line.get("label", ""))
        full = os.path.normpath(path.parent / name)
        if first.setdefault(full, (number, target)) == (number, target):
            rows.append((*target, str(path.parent / name), name))
        elif first[full][1] == target:
            left_out.add(REPEATED, name)
        else:
            first_number, first_target = first[full]
            raise ValueError(
                f"{path} lists {name!r} twice: in line {first_number} as {_describe(*first_target)}, in line "
                f"{number} as {_describe(*target)}. Expected one label and one split per image. Remove one "
                "of the lines."
            )
    if "label" in columns or not rows:
        return Listing([row[:3] for row in rows], open_regular, left_out=left_out.result())
    if "split" in columns:
        raise ValueError(f"{path} has a column split, but no column label. Add the column label.")
    found = [(path_parts(name), full) for *_, full, name in rows]
    return list_tree(str(path), found, head_of_file, open_regular, left_out=left_out)


def _describe(split, label):
    words = [f"the class {label!r}"] if label else []
    return " of ".join(words + [f"the split {split}"] * bool(split))


def _split(path, number, line):
    text = line.get("split", "")
    split = split_for(text) if text else ""
    if split is None:
        raise ValueError(
            f"{path}, line {number}: the split is {text!r}; expected {', '.join(SPLITS)}, or a synonym such "
            "as validation."
        )
    return split


def _read(path):
    """Tuple (list of (number, dict) of the lines that are not empty, names of the columns)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text. Save it again as CSV in UTF-8.") from error
    lines, number = [], 1
    try:
        names, delimiter = _heading(path, text)
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        next(rows)
        for row in rows:
            number = rows.line_num
            if not row:
                continue
            line = {name: cell.strip() for name, cell in zip(names, row, strict=False)}
            if not all(line.get(column) for column in {"path", "label"} & set(names)):
                raise ValueError(f"{path}, line {number}: path or label is missing.")
            if "/" not in line["path"]:  # a table from Windows
                line["path"] = line["path"].replace("\\", "/")
            lines.append((number, line))
    except csv.Error as error:
        raise ValueError(f"{path}, line {number}: {error}.") from error
    return lines, _with_split(names, lines)


def _heading(path, text):
    """Names of the columns and delimiter, from the first line."""
    for delimiter in _DELIMITERS:
        cells = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), [])
        names = [re.sub(r"[\s-]+", "_", cell.strip().lower()) for cell in cells]
        for column in ("path", "label"):
            others = [name for name in names if name in _OTHER_NAMES[column]]
            if column not in names and len(others) > 1:
                raise ValueError(
                    f"{path} has the columns {' and '.join(others)}. Expected one column for the {column}. "
                    f"Rename the right column to {column}."
                )
            if column not in names and others:
                names[names.index(others[0])] = column
        if "path" in names:
            return names, delimiter
    first = text.split("\n", 1)[0].strip()[:200]
    raise ValueError(
        f"{path} needs a first line with the columns path and label (optionally split); it has: "
        f"{first or 'nothing'}."
    )


def _with_split(names, lines):
    """Names of the columns, with `split` added if an alternative column contains names of splits."""
    for name in set(names) & set(_OTHER_NAMES["split"]) if "split" not in names else ():
        if any(split_for(line.get(name, "")) for _, line in lines):
            for _, line in lines:
                line["split"] = line.get(name, "")
            return [*names, "split"]
    return names
