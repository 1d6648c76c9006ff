"""Files and pictures: the only helper module. It knows neither keras nor any other part of focalnets."""

import contextlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")

# Checked before any pixel is decoded; Pillow's own limit raises from 179 megapixels on only.
MAX_PIXELS = 64_000_000


def read_image(source, channels=3, name=None):
    """Decode one picture.

    Args:
        source: path or binary file object.
        channels: 3 for RGB, 1 for grey.
        name: how errors call it; the path where None.

    Returns:
        uint8 array (H, W, channels). The rules: EXIF orientation is applied; transparency is laid on
        white; palette, grey and CMYK become RGB (or grey) by Pillow's conversion; 16-bit grey keeps its
        high byte; of an animation the first frame is read; 32-bit pixels are refused, since nothing says
        what their range is.

    Raises:
        ValueError: if it is no picture, is damaged, or has more than `MAX_PIXELS` pixels.
    """
    name = str(source) if name is None else name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is the lower one
            opened = Image.open(source)
        with opened as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"{image.width} x {image.height} pixels are more than the limit of "
                    f"{MAX_PIXELS / 1e6:g} million"
                )
            image.draft("RGB" if channels == 3 else "L", None)
            ImageOps.exif_transpose(image, in_place=True)
            return _to_uint8(image, channels)
    except UnidentifiedImageError as error:  # its own text names the stream object
        empty = not (pathlib.Path(source).stat().st_size if _is_path(source) else source.seek(0, os.SEEK_END))
        why = "an empty file" if empty else "not a picture, whatever its name says"
        raise ValueError(f"{name}: {why}") from error
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: {reason(error)}") from error


def _is_path(source):
    return isinstance(source, str | os.PathLike)


def reason(error):
    """What went wrong, in words for the person whose picture it is."""
    if isinstance(error, FileNotFoundError):
        return "no such file (or a link to one that is gone)"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a picture"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _to_uint8(image, channels):
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no known range; save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    return pixels.reshape(*pixels.shape[:2], channels)


def progress(items, text, total=None):
    """Yield `items`, with a bar on a terminal's standard error once two seconds have passed.

    Args:
        items: iterable.
        text: what is being done, for the bar.
        total: how many items; their length if None.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    import rich.console
    import rich.progress

    total = len(items) if total is None else total
    bar, task, start = None, None, time.monotonic()
    try:
        for done, item in enumerate(items):
            if bar is None and time.monotonic() - start > 2:
                bar = rich.progress.Progress(console=rich.console.Console(stderr=True), transient=True)
                bar.start()
                task = bar.add_task(text, total=total)
            if bar is not None:
                bar.update(task, completed=done)
            yield item
    finally:
        if bar is not None:
            bar.stop()


def read_json(path):
    """The value in a JSON file; ValueError naming the file if it is not JSON."""
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error


def write_json(path, value):
    """Write `value` as indented JSON, by write-then-rename."""
    path = pathlib.Path(path)
    partial = path.with_name(f"partial-{path.name}")
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


@contextlib.contextmanager
def atomic_directory(directory):
    """Yield a temporary directory that becomes `directory` when the block ends without an error.

    Raises:
        FileExistsError: if `directory` exists.
    """
    directory = pathlib.Path(directory)
    if directory.exists():
        raise FileExistsError(f"{directory} exists already; choose another name or remove it.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp's is for the owner alone
        partial.rename(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def new_run_directory(directory, force=False):
    """Make an empty directory for a run.

    Args:
        directory: its path; parents are made.
        force: replace what is there, if it is a run or preset directory.

    Raises:
        FileExistsError: if it exists and is not empty, unless `force`.
        ValueError: if `force` would delete a directory that focalnets did not write.
    """
    directory = pathlib.Path(directory)
    _refuse_file(directory)
    if directory.is_dir() and any(directory.iterdir()):
        if not force:
            raise FileExistsError(f"{directory} is not empty; give another --out, or --force to replace it.")
        if not _is_run(directory):
            raise ValueError(f"{directory} does not look like a run; --force will not delete it.")
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def new_output_directory(directory, force=False):
    """Make a directory for results; its files are replaced one by one, and nothing else is touched.

    Raises:
        FileExistsError: if it exists and is not empty, unless `force`.
    """
    directory = pathlib.Path(directory)
    _refuse_file(directory)
    if directory.is_dir() and any(directory.iterdir()) and not force:
        raise FileExistsError(f"{directory} is not empty; give another --out, or --force to write into it.")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _refuse_file(directory):
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} exists and is a file; give another --out.")


def _is_run(directory):
    """Whether focalnets wrote that directory: other tools call files config.json, too."""
    for name, key in (("recipe.json", "architecture"), ("config.json", "focalnets_version")):
        with contextlib.suppress(OSError, ValueError):
            content = read_json(directory / name)
            if isinstance(content, dict) and key in content:
                return True
    return False
