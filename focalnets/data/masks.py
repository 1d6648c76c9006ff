"""Detection of segmentation masks, which are stored beside the images and are not training images."""

import collections
import re

_MASK_FOLDERS = {
    *("mask", "masks", "segmentation", "segmentations", "annotation", "annotations"),
    *("label", "labels", "gt", "groundtruth"),
}
_IMAGE_FOLDERS = {"image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "rgb"}
_MASK_FILE = re.compile(r"(.+?)[ _-](?:mask|masks|segmentation)(?:[ _-]?\d+)?", re.IGNORECASE)


def find_masks(images):
    """Find masks, and folders whose only purpose is to separate images from masks.

    Masks are in a folder `masks` (or a similar name) beside a folder `images` or inside a class folder, or in
    files `x_mask.png` beside `x.png`.

    Args:
        images: list of tuples of str. Parts of the name of each image.

    Returns:
        Tuple (set of indices of masks, set of folders). Each folder is a tuple of str.

    >>> from focalnets.data.masks import find_masks
    >>> find_masks([("flu", "images", "1.png"), ("flu", "masks", "1.png"), ("well", "2.png")])
    ({1}, {('flu', 'images')})
    """
    files = collections.defaultdict(list)
    for index, parts in enumerate(images):
        files[parts[:-1]].append(index)
    children = collections.defaultdict(set)
    for folder in files:
        for depth, part in enumerate(folder):
            children[folder[:depth]].add(part)
    of_masks, of_images = set(), set()
    for parent, names in children.items():
        masks = {name for name in names if _plain(name) in _MASK_FOLDERS}
        image_folders = {name for name in names if _plain(name) in _IMAGE_FOLDERS}
        if masks and (len(image_folders) == 1 or (parent in files and parent and masks == names)):
            of_masks |= {(*parent, name) for name in masks}
            of_images |= {(*parent, name) for name in image_folders}
    found = set()
    for folder, indices in files.items():
        if any(folder[: depth + 1] in of_masks for depth in range(len(folder))):
            found.update(indices)
        else:
            found |= _mask_files({index: images[index][-1].rpartition(".")[0] for index in indices})
    return found, of_images


def _plain(name):
    return re.sub(r"[\s_-]", "", name.casefold())


def _mask_files(stems):
    """Indices of the files of a folder whose stem is that of another file followed by "_mask"."""
    present = set(stems.values())
    matches = {index: _MASK_FILE.fullmatch(stem) for index, stem in stems.items() if stem}
    return {index for index, match in matches.items() if match and match[1] in present}
