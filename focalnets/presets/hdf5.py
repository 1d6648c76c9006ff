"""HDF5 files of weights, checked before anything reads them. Free of Keras.

HDF5 can make a dataset of the bytes of any file on the disk (external storage, virtual datasets, external
links), so that a weights file from elsewhere could copy a private file into weights that its user shares. It
can also declare terabytes in a file of a kilobyte. Keras writes none of these.
"""

import math
import pathlib

# Keras does not compress weights. Whoever compresses them saves a tenth; a bomb saves a thousandfold.
_MOST_EXPANSION, _ALLOWANCE = 4, 2**20  # times the file's size, plus bytes
_MOST_OBJECTS = 200_000
_DEEPEST = 64


def check_hdf5(path):
    """Refuse an HDF5 file that reads other files, declares more than it holds, or is damaged.

    Args:
        path: `pathlib.Path` or text. Path of the file.

    Returns:
        Number of elements of all floating-point datasets.

    Raises:
        ValueError: on links, external storage, virtual datasets, data that are not plain numbers, declared
            sizes beyond the file's, or a damaged file. The text names the object in the file.

    >>> from focalnets.presets.checkpoints import bundled_directory
    >>> from focalnets.presets.hdf5 import check_hdf5
    >>> check_hdf5(bundled_directory("focalnet_micro_cifar10") / "model.weights.h5")
    1319068
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist, or is not a regular file; expected weights in HDF5.")
    import h5py

    try:
        with h5py.File(path, "r") as root:
            return _check_group(path, root, path.stat().st_size)
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # h5py raises eight types, by what a flipped bit hits
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} is damaged, or belongs to another format than HDF5 ({reason[:200]}). "
            "Copy or write it anew."
        ) from error


class _RefusedError(Exception):
    """A file that is whole, and is not to be read."""


def _check_group(name, root, size):
    import h5py

    waiting, seen, objects, declared, elements = [("", root, 0)], set(), 0, 0, 0
    while waiting:
        prefix, group, depth = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen or depth > _DEEPEST:
            raise _RefusedError(f"{name}: the group {prefix or '/'} contains itself, or lies too deep.")
        seen.add(address)
        for key in group:
            path = f"{prefix}/{key}"
            link = group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise _RefusedError(
                    f"{name}: {path} is a link to another place or file ({type(link).__name__}). Weights "
                    f"with links are not read: they could show the bytes of any file. {_ADVICE}"
                )
            item = group[key]
            if isinstance(item, h5py.Group):
                waiting.append((path, item, depth + 1))
            else:
                count, width = _check_dataset(name, path, item)
                declared += count * width
                elements += count if item.dtype.kind == "f" else 0
            objects += 1
            if objects > _MOST_OBJECTS:
                raise _RefusedError(f"{name} holds more than {_MOST_OBJECTS} objects, too many for weights.")
            if declared > _MOST_EXPANSION * size + _ALLOWANCE:
                raise _RefusedError(_bomb(name, path, declared, size))
    return elements


def _check_dataset(name, path, dataset):
    """(elements, bytes of each) that a dataset declares."""
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise _RefusedError(f"{name}: {path} is neither a group nor a dataset. {_ADVICE}")
    if dataset.external or dataset.is_virtual:
        kind = "external storage" if dataset.external else "virtual storage"
        raise _RefusedError(
            f"{name}: the values of {path} lie in another file ({kind}). Such weights are not read: they "
            f"could copy the bytes of any file. {_ADVICE}"
        )
    if dataset.dtype.kind not in "fiub":
        raise _RefusedError(f"{name}: {path} holds {dataset.dtype}, expected numbers. {_ADVICE}")
    return math.prod(dataset.shape or (0,)), dataset.dtype.itemsize


_ADVICE = "Get the file from its publisher again, or do not use it."


def _bomb(name, path, declared, size):
    return (
        f"{name} has {size} bytes and declares {declared} bytes of values up to {path}. It is damaged, or "
        f"made to fill the memory. {_ADVICE}"
    )
