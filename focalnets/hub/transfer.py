"""One URL into one file: continued where it broke off, and complete or not there at all.

While `weights.pth` is on its way, `weights.pth.part` holds the bytes that have come, and
`weights.pth.part.json` what they are a part of: the URL, the server's word for that version of the file
(its ETag, or the date of its last change) and its size. Only bytes of which that is known are continued.
"""

import hashlib
import http.client
import os
import re
import shutil
import time

from focalnets._io import no_links, progress, read_json, reason
from focalnets.hub.addresses import AttemptError, in_words, is_version, open_url, version_of
from focalnets.output.files import write_json

WAITS = (0.5, 1.0, 2.0, 4.0)  # seconds before each further attempt

LARGEST = 2**34  # bytes of a download whose size nobody states; the largest published network has 3 * 2**30

_BLOCK = 1 << 18
_ADVANCE = 1 << 20  # an attempt that brought so many new bytes has not failed, it was cut short


def fetch(url, target, sha256=None, size=None):
    """Bring the file of a URL to the path `target`. The caller keeps other processes away meanwhile.

    Args:
        url: from `checked_url`.
        target: `pathlib.Path` in a folder that exists. It is replaced once the new file is complete.
        sha256: hexadecimal digits of the whole file, None if not known.
        size: of the whole file in bytes, None if not known.

    Raises:
        OSError: if the file cannot be had, or not be written; what has come stays for the next call.
        ValueError: if it is not the file of that size or hash, or a redirect is refused.

    Source: RFC 9110 sections 13.1.5 (If-Range) and 14 (Range).
    """
    part = target.with_name(f"{target.name}.part")
    failures, furthest = 0, _length(part)
    while True:
        try:
            _attempt(url, part, size)
            break
        except AttemptError as error:
            if error.anew:
                _discard(part)
            failures += 1
            if _length(part) >= furthest + _ADVANCE:
                failures, furthest = 1, _length(part)
            if failures > len(WAITS):
                held, _ = _left_behind(url, part)
                raise OSError(
                    f"{url} could not be downloaded in {failures} attempts: {error}. Of the file, {held} "
                    f"bytes are kept for the next. Try again later, or bring it by other means to {target}."
                ) from error
            time.sleep(WAITS[failures - 1])
    _verify(url, part, sha256, size)
    with open(part, "rb+", opener=no_links) as file:
        os.fsync(file.fileno())  # or a power failure might leave the name without the bytes
    os.replace(part, target)
    _memory(part).unlink(missing_ok=True)


def file_sha256(path):
    """The hexadecimal sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _attempt(url, part, size):
    """One request, from the first byte that is missing; `part` holds the whole file if it returns."""
    held, known = _left_behind(url, part)
    if held and held == known["size"]:
        return  # a process ended between the last byte and the new name
    headers = {"Range": f"bytes={held}-", "If-Range": known["version"]} if held else {}
    try:
        response = open_url(url, headers)
    except OSError as error:
        raise OSError(f"{error}, or bring the file by other means to {part.with_suffix('')}.") from error
    with response:
        if response.status == 206:
            total = _continued_total(response, held, known)
        elif response.status == 200:  # the whole, since all is missing, it has changed, or Range is ignored
            held, total = 0, _number(response.headers.get("Content-Length"))
        else:
            raise OSError(f"{url}: the server sent no file (status {response.status}). Check the address.")
        if None not in (total, size) and total != size:
            _discard(part)
            raise ValueError(_wrong_length(url, total, size))
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - held > free:
            raise OSError(
                f"{url} needs {total - held} more bytes, and {part.parent} has {free} free. Make room and "
                "run again, or set FOCALNETS_CACHE to a folder on another disk."
            )
        _write(url, response, part, held, total, size, min(LARGEST, free // 2))


def _write(url, response, part, held, total, size, largest):
    try:
        with open(part, "ab" if held else "wb", opener=no_links) as file:
            if not held:  # only now that the bytes are gone of which the old one speaks
                memory = {"url": url, "version": version_of(response.headers), "size": total}
                write_json(_memory(part), memory)
            blocks = _blocks(response, held, total, size)
            for block in progress(blocks, part.stem, total, done=held, size=len):
                file.write(block)
                if total is None and file.tell() > largest:
                    raise _EndlessError
        if total is not None and _length(part) != total:
            # Seen where a file system only pretends to lock.
            raise AttemptError("another process wrote to the same file", anew=True)
    except _EndlessError:
        _discard(part)
        raise ValueError(
            f"{url}: the server does not say how long the file is, and sent more than {largest} bytes. "
            "Nothing was kept. Check the address, or bring the file by other means and give its path."
        ) from None
    except OSError as error:
        raise OSError(
            f"{part} cannot be written ({reason(error)}). Make room and run again, which goes on from there; "
            "or remove it and set FOCALNETS_CACHE to a folder on another disk."
        ) from error


class _EndlessError(Exception):
    """A body without a stated length goes on and on."""


def _blocks(response, held, total, size):
    """Yield the bytes of a response as they come; `AttemptError` if it ends too soon."""
    # Where the server does not say how much it will send, one byte too many is enough to see it.
    most = size + 1 if total is None and size is not None else total
    while most is None or held < most:
        try:
            block = response.read1(_BLOCK if most is None else min(_BLOCK, most - held))
        except (OSError, http.client.HTTPException) as error:
            raise AttemptError(in_words(error)) from error
        if not block:
            break
        held += len(block)
        yield block
    least = size if total is None else total
    if least is not None and held < least:
        raise AttemptError(f"the connection broke off at byte {held} of {least}")


def _continued_total(response, held, known):
    """The size of the file of which a response holds the rest; `AttemptError` if it is another part."""
    given = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    fits = held and given and _number(given[1]) == held
    if fits:  # and is of the same version: there are servers that know Range and ignore If-Range
        total, version = _number(given[2]), known["version"]
        said = response.headers.get("ETag" if version.startswith('"') else "Last-Modified")
        fits = said in (None, version) and (None in (total, known["size"]) or total == known["size"])
    if not fits:
        raise AttemptError("the server sent a part of another file", anew=True)
    return known["size"] if total is None else total


def _left_behind(url, part):
    """(bytes that can be continued, what is known of them); (0, {}) where all has to be fetched."""
    try:
        held, known = _length(part), read_json(_memory(part))
    except (OSError, ValueError):
        return 0, {}
    if not isinstance(known, dict) or known.get("url") != url or not is_version(known.get("version")):
        return 0, {}
    size = known.setdefault("size", None)
    if size is not None and (not isinstance(size, int) or size < held):
        return 0, {}
    return held, known


def _verify(url, part, sha256, size):
    found = _length(part)
    if size is not None and found != size:
        _discard(part)
        raise ValueError(_wrong_length(url, "more" if found > size else found, size))
    if sha256 is not None and (found := file_sha256(part)) != sha256:
        _discard(part)
        raise ValueError(
            f"{url} came with the sha256 {found}, expected {sha256}. It was removed: run again, in case it "
            "was damaged on its way. If the same comes again, it is not the file that was meant: do not use "
            "it before its publisher confirms the new hash."
        )


def _wrong_length(url, found, size):
    return (
        f"{url}: expected {size} bytes, the server has {found}. Nothing was kept: it is another version of "
        "the file, or a page that wants an answer. Open the address in a browser."
    )


def _memory(part):
    return part.with_name(f"{part.name}.json")


def _discard(part):
    part.unlink(missing_ok=True)
    _memory(part).unlink(missing_ok=True)


def _length(path):
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _number(text):
    return int(text) if text is not None and re.fullmatch("[0-9]{1,18}", text) else None
