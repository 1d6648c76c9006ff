"""`.npz` and `.npy` files, whose declared sizes are compared with the file's before anything is allocated."""

import math
import pathlib
import zipfile

import numpy as np


def read_npz(path):
    """Read the arrays of an uncompressed `.npz` file, as `numpy.savez` writes it.

    Args:
        path: `pathlib.Path` or text. Path of the file.

    Returns:
        Dict of name to array. Nothing is unpickled.

    Raises:
        ValueError: if the file is damaged, is compressed, holds objects, or declares more than it holds.

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
        # Opened here: where the file is not a zip, NumPy leaves it open.
        with path.open("rb") as stream:
            _check(stream, path.stat().st_size)
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                return dict(file)
    except Exception as error:  # NumPy and zipfile raise six types, by what a flipped bit hits
        raise ValueError(f"{path} is damaged: {str(error) or type(error).__name__}.") from error


def _check(stream, size):
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > size:
            raise ValueError("its arrays are compressed, or larger than the file")
        for member in members:
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                if version == (1, 0):
                    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                else:
                    shape, _, dtype = np.lib.format.read_array_header_2_0(file)
            if dtype.hasobject or math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError(f"{member.filename} holds objects, or declares more than the file has")
