"""Checks of HDF5 files of weights, before their values are read. Free of Keras.

In HDF5, a dataset can consist of the bytes of any other file on the disk (external storage, virtual datasets,
external links). An untrusted file could thereby copy a private file into weights that the user shares. A file
can also declare terabytes of values in a kilobyte. Keras does not use these features.
"""

import math
import pathlib

# Keras does not compress weights. Compression saves a tenth, but the data of a bomb shrink a thousandfold.
_MOST_EXPANSION, _ALLOWANCE = 4, 2**20  # multiple of the file size, and bytes above it
_MOST_OBJECTS = 200_000
_DEEPEST = 64


def check_hdf5(path):
    """Refuse an HDF5 file that reads other files, declares more than it holds, or is damaged.

    Args:
        path: str or path. Path of the file.

    Returns:
        int. Number of elements of all floating-point datasets.

    Raises:
        ValueError: if the file is damaged, has links, external storage, virtual datasets or data that are not
            numbers, or declares more data than it holds.

    >>> from focalnets.presets.checkpoints import bundled_directory
    >>> from focalnets.presets.hdf5 import check_hdf5
    >>> check_hdf5(bundled_directory("focalnet_micro_cifar10") / "model.weights.h5")
    1319068
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is not a regular file. Expected weights in HDF5.")
    import h5py

    try:
        with h5py.File(path, "r") as root:
            return _check_group(path, root, path.stat().st_size)
    except _RefusedError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # h5py raises errors of eight types for damaged files
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} is damaged or not an HDF5 file ({reason[:200]}). Copy or save it again."
        ) from error


class _RefusedError(Exception):
    """A file that is refused although it is not damaged."""


def _check_group(name, root, size):
    import h5py

    waiting, seen, objects, declared, elements = [("", root, 0)], set(), 0, 0, 0
    while waiting:
        prefix, group, depth = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen or depth > _DEEPEST:
            raise _RefusedError(
                f"{name}: the group {prefix or '/'} contains itself or is nested too deeply. {_ADVICE}"
            )
        seen.add(address)
        for key in group:
            path = f"{prefix}/{key}"
            link = group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise _RefusedError(
                    f"{name}: {path} is a link to another object or file ({type(link).__name__}). Links are "
                    f"refused, because they could copy the bytes of any file. {_ADVICE}"
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
                raise _RefusedError(f"{name} holds more than {_MOST_OBJECTS} objects. {_ADVICE}")
            if declared > _MOST_EXPANSION * size + _ALLOWANCE:
                raise _RefusedError(_bomb(name, path, declared, size))
    return elements


def _check_dataset(name, path, dataset):
    """(number of elements, bytes per element) of a dataset."""
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise _RefusedError(f"{name}: {path} is neither a group nor a dataset. {_ADVICE}")
    if dataset.external or dataset.is_virtual:
        kind = "external storage" if dataset.external else "virtual storage"
        raise _RefusedError(
            f"{name}: the values of {path} are in another file ({kind}). This is refused: it could copy "
            f"the bytes of any file. {_ADVICE}"
        )
    if dataset.dtype.kind not in "fiub":
        raise _RefusedError(f"{name}: {path} holds {dataset.dtype}; expected numbers. {_ADVICE}")
    return math.prod(dataset.shape or (0,)), dataset.dtype.itemsize


_ADVICE = "Download the file again from its publisher, or do not use it."


def _bomb(name, path, declared, size):
    return (
        f"{name} has {size} bytes but declares {declared} bytes of values (at {path}). It is damaged or made "
        f"to fill the memory. {_ADVICE}"
    )
