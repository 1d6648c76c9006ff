"""Reading of untrusted `.npz` files. Declared sizes are checked before memory is allocated."""

import math
import pathlib
import zipfile

import numpy as np


def read_npz(path, expansion=1, allowance=0):
    """Read the arrays of an `.npz` file.

    Args:
        path: str or path. Path of the file.
        expansion: int. Limit of the size of all arrays as a multiple of the file size. Defaults to 1, which
            refuses the compressed files of `numpy.savez_compressed`.
        allowance: int. Size of all arrays in bytes that is always allowed. Defaults to 0.

    Returns:
        dict. Name -> NumPy array. Nothing is unpickled.

    Raises:
        ValueError: if the file is damaged, holds objects, or declares more data than it holds.

    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from focalnets.npz import read_npz
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "x.npz"
    >>> np.savez(path, a=np.arange(3))
    >>> read_npz(path)["a"].tolist()
    [0, 1, 2]
    """
    path = pathlib.Path(path)
    try:
        if not path.is_file():
            raise ValueError("it is not a regular file")
        # Opened here, because NumPy does not close a file that is not a zip.
        with path.open("rb") as stream:
            _check(stream, max(expansion * path.stat().st_size, allowance))
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                return dict(file)
    except Exception as error:  # NumPy and zipfile raise six types, depending on the damage
        raise ValueError(f"{path} is damaged: {str(error) or type(error).__name__}.") from error


def _check(stream, limit):
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        declared = sum(member.file_size for member in members)
        if declared > limit:
            raise ValueError(f"it declares {declared} bytes of arrays, more than the limit of {limit}")
        for member in members:
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                if version == (1, 0):
                    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                else:
                    shape, _, dtype = np.lib.format.read_array_header_2_0(file)
            if dtype.hasobject:
                raise ValueError(f"{member.filename} holds objects, not plain arrays")
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(f"{member.filename} declares {shape} {dtype}, more than the file has")
