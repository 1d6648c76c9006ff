"""Rules that find splits and classes in a tree of files. Folders, archives and lists of paths share them.

The rules in order of application (docs/data.md has examples):

1. `masks` beside `images`, and `x_mask.png` beside `x.png`, are segmentation masks and are left out.
2. A single folder that contains everything else is skipped. This is repeated.
3. Folders with the name of a split (`naming.split_folders`) are splits. They may be doubled
   (`seg_train/seg_train`) or inside each class folder (`cat/train`). Images beside them are left out.
4. The next folder is the class. Images in its subfolders belong to it.
5. A tree that can be interpreted in two ways is an error that shows the tree.
"""

import collections
from dataclasses import dataclass

from focalnets.data.left_out import (
    DEEPER,
    EMPTY,
    MASKS,
    NO_CLASS,
    OUTSIDE,
    LeftOut,
    LeftOutCounter,
)
from focalnets.data.masks import find_masks
from focalnets.data.naming import class_name, split_folders, split_for
from focalnets.data.tree import draw_tree
from focalnets.names import printable

EXPECTED = "<class>/<image>, or train/<class>/<image> and test/<class>/<image>"


@dataclass(frozen=True)
class Layout:
    """Splits and classes of the images of a tree.

    Attributes:
        rows: list of (split, class, index). The split is "" if the tree has no splits. The index is the
            position of the image in the argument of `read_layout`.
        left_out: tuple of `LeftOut`.
    """

    rows: list[tuple[str, str, int]]
    left_out: tuple[LeftOut, ...]


class _Folder:
    """Images directly in one folder.

    Attributes:
        source: Parts of the path of the folder in the tree.
        parts: Parts that are not interpreted yet. In the end, these are the class and its subfolders.
        above: Number of leading parts of `source` that are interpreted.
    """

    def __init__(self, source):
        self.source = self.parts = source
        self.above = 0
        self.images = []
        self.split = ""

    def strip(self):
        self.parts, self.above = self.parts[1:], self.above + 1


def read_layout(images, others=(), folders=(), source="The data"):
    """Find splits and classes in the names of a tree.

    Args:
        images: list of tuples of str. Parts of the name of each image, such as ("train", "cat", "1.jpg").
        others: list of tuples of str. Parts of the names of other files. Defaults to `()`.
        folders: list of tuples of str. Existing folders. Empty folders are reported. Defaults to `()`.
        source: str. Name of the tree in errors. Defaults to "The data".

    Returns:
        A `Layout`.

    Raises:
        ValueError: if the tree has no classes, or can be interpreted in two ways. The message shows the tree.

    >>> from focalnets.data.layout import read_layout
    >>> read_layout([("data", "Training", "cat", "1.jpg"), ("data", "Testing", "cat", "2.jpg")]).rows
    [('train', 'cat', 0), ('test', 'cat', 1)]
    """

    def fail(why, how=""):
        raise ValueError(f"{source} {why}. Found:\n{draw_tree(images, others)}\nExpected: {EXPECTED}.{how}")

    if not images:
        fail("holds no images of the form train/<class>/<image> or <class>/<image>", _unpack(others))
    left_out = LeftOutCounter()
    found = _image_folders(images, left_out)
    _skip_outer_folders(found)
    has_splits, parents = _read_splits(found, fail)
    used = []
    for folder in found:
        if has_splits and not folder.split:
            _count(folder, images, OUTSIDE, left_out)
        elif not folder.parts:
            _count(folder, images, NO_CLASS, left_out)
        else:
            used.append(folder)
    if not used:
        fail("has no class folders")
    without_class = sum(len(folder.images) for folder in found if not folder.parts and not folder.split)
    if not has_splits and without_class > sum(len(folder.images) for folder in used):
        fail("has most images outside the class folders")
    _check_deeper(used, images, left_out, fail)
    parents |= {folder.source[: folder.above] for folder in used}
    _count_empty({*folders, *(parts[:-1] for parts in others)}, parents, images, left_out)
    rows = [(folder.split, class_name(folder.parts[0]), index) for folder in used for index in folder.images]
    return Layout(sorted(rows, key=lambda row: row[2]), left_out.result())


def _unpack(others):
    archives = [
        parts[-1] for parts in others if parts[-1].lower().endswith((".zip", ".tar", ".gz", ".rar", ".7z"))
    ]
    return f" Unpack {', '.join(map(printable, archives[:3]))} first." if archives else ""


def _count(folder, images, reason, left_out):
    for index in folder.images:
        left_out.add(reason, "/".join(images[index]))


def _image_folders(images, left_out):
    """List of `_Folder`, one per folder that contains images other than masks."""
    masks, transparent = find_masks(images)
    found = {}
    for index, parts in enumerate(images):
        if index in masks:
            left_out.add(MASKS, "/".join(parts))
            continue
        source = parts[:-1]
        if source not in found:
            found[source] = _Folder(source)
        found[source].images.append(index)
    if transparent:
        for source, folder in found.items():
            read = [source[: depth + 1] in transparent for depth in range(len(source))]
            folder.parts = tuple(part for part, skip in zip(source, read, strict=True) if not skip)
            folder.above = int(read[:1] == [True])
    return list(found.values())


# === Splits ===


def _skip_outer_folders(found):
    """Skip folders that contain everything else, which archives often have."""
    while len(tops := _tops(found)) == 1:
        inside = [folder for folder in found if folder.parts]
        children = {folder.parts[1] for folder in inside if len(folder.parts) > 1}
        splits = set(split_folders(children).values())
        direct = sum(len(folder.images) for folder in inside if len(folder.parts) == 1)
        below = sum(len(folder.images) for folder in inside) - direct
        if not children or (split_for(*tops) and len(splits) < 2):
            return  # a class, or a split
        if direct and not splits and (len(children) == 1 or direct > below):
            return  # a class with a few images in subfolders
        for folder in inside:
            folder.strip()


def _tops(found):
    return {folder.parts[0] for folder in found if folder.parts}


def _read_splits(found, fail):
    """Set the split of each folder. Returns (True if there are splits, set of parents of split folders)."""
    tops = _tops(found)
    splits = split_folders(tops)
    deep = {folder.parts[0] for folder in found if len(folder.parts) > 1}
    # A single folder "train" without subfolders among class folders may be the class of railway trains.
    if splits and (set(splits) == tops or deep & set(splits)):
        for split in set(splits.values()):
            names = sorted(name for name, meaning in splits.items() if meaning == split)
            if len(names) > 1:
                fail(
                    f"has {len(names)} folders for the split {split} ({', '.join(map(printable, names))})",
                    " Remove or rename all but one of them.",
                )
        chosen = [folder for folder in found if folder.parts and folder.parts[0] in splits]
        parents = {folder.source[: folder.above] for folder in chosen}
        for folder in chosen:
            folder.split = splits[folder.parts[0]]
            folder.strip()
        _skip_inner_folders(chosen)
        return True, parents
    inside = [folder for folder in found if folder.parts]
    seconds = {folder.parts[1] for folder in inside if len(folder.parts) > 1}
    splits = split_folders(seconds)
    if seconds and set(splits) == seconds and all(len(folder.parts) > 1 for folder in inside):
        for folder in inside:
            folder.split = splits[folder.parts[1]]
            folder.parts = (folder.parts[0], *folder.parts[2:])
        return True, {folder.source[: folder.above + 1] for folder in inside}
    nested = sorted({part for folder in inside for part in folder.parts[1:] if split_for(part)})
    if nested:
        fail(
            f"has split folders ({', '.join(map(printable, nested[:3]))}) inside other folders",
            " Pass the parent folder of train/ and test/ to --data, or move other images away.",
        )
    return False, set()


def _skip_inner_folders(found):
    """Skip folders between split and class: a doubled split folder, or a single folder in every split."""
    by_split = collections.defaultdict(list)
    for folder in found:
        by_split[folder.split].append(folder)
    for split, inside in by_split.items():
        outer = {folder.source[folder.above - 1] for folder in inside}
        while len(tops := _tops(inside)) == 1 and (split_for(*tops) == split or tops == outer):
            _strip_all(inside)
    while all(
        len(_tops(inside)) == 1 and not any(len(folder.parts) == 1 for folder in inside)
        for inside in by_split.values()
    ):
        _strip_all(found)


def _strip_all(found):
    for folder in found:
        if folder.parts:
            folder.strip()


# === Classes ===


def _check_deeper(used, images, left_out, fail):
    """Count images in subfolders of class folders. Fail if the subfolders may be the classes."""
    if not any(len(folder.parts) == 1 for folder in used):
        inner = collections.defaultdict(set)
        for folder in used:
            inner[folder.parts[0]].add(folder.parts[1])
        single = all(len(names) == 1 for names in inner.values())
        alike = len(set(map(frozenset, inner.values()))) == 1
        if single and (alike or all(names == {outer} for outer, names in inner.items())):
            return
        outer = ", ".join(map(printable, sorted(inner)[:3]))
        below = ", ".join(map(printable, sorted(set().union(*inner.values()))[:3]))
        fail(
            f"has two levels of folders that could be the classes: {outer} or {below}",
            " Remove one level of folders, or list the images in a .csv with the columns path and label.",
        )
    for folder in used:
        if len(folder.parts) > 1:
            _count(folder, images, DEEPER, left_out)


def _count_empty(folders, parents, images, left_out):
    """Report folders without images beside the folders of classes and splits."""
    filled = {parts[:depth] for parts in {parts[:-1] for parts in images} for depth in range(len(parts) + 1)}
    empty = set()
    for folder in folders:
        for depth in range(1, len(folder) + 1):
            if folder[: depth - 1] in parents and folder[:depth] not in filled:
                empty.add(folder[:depth])
    for folder in sorted(empty):
        left_out.add(EMPTY, "/".join(folder))
