"""Metadata of an image file: only the orientation is used, and damaged metadata never costs an image."""

import re
import struct

_ORIENTATION = 0x0112  # Exif 2.3, section 4.6.4; the same tag as in TIFF

# TIFF tags that decide about pixels (TIFF 6.0, part 1 and sections 14 to 23). All others are descriptions.
_TIFF_PIXELS = {254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 280, 281, 284, 292, 293, 317}
_TIFF_PIXELS |= {320, 322, 323, 324, 325, 338, 339, 347, 512, 513, 514, 515, 517, 519, 520, 521, 529, 530}
_TIFF_PIXELS |= {531, 532}

# The list of items of a HEIF container lies before its images, in so many bytes.
_HEIF_HEAD = 65_536


def orientation(info):
    """EXIF orientation of an opened Pillow image, 1 to 8; 1 if its metadata have none or are damaged.

    Only the entries of the first directory are looked at. Pillow's `getexif` reads, and fails at, all others.

    Args:
        info: dict. The image's `info`. It holds EXIF as "exif" (bytes) or as "Raw profile type exif"
            (hexadecimal text that ImageMagick writes into PNG), and XMP as "xmp" or "XML:com.adobe.xmp".
    """
    exif = info.get("exif")
    if exif is None and "Raw profile type exif" in info:
        exif = _from_hexadecimal(info["Raw profile type exif"])
    found = _from_exif(exif) if isinstance(exif, bytes) else None
    if found is None:
        found = _from_xmp(info.get("XML:com.adobe.xmp") or info.get("xmp"))
    return found if found in range(1, 9) else 1


def _from_exif(data):
    data = re.sub(rb"^(Exif\0\0)+", b"", data)
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", data, place)
            if tag == _ORIENTATION:
                letter = {1: "B", 3: "H", 4: "I"}.get(kind)
                return struct.unpack_from(f"{order}{letter}", data, place + 8)[0] if letter else None
    except struct.error:  # the directory ends before it says so
        return None
    return None


def _from_hexadecimal(text):
    try:
        return bytes.fromhex("".join(str(text).split("\n")[3:]))
    except ValueError:
        return None


def _from_xmp(xmp):
    text = xmp.decode("latin-1") if isinstance(xmp, bytes) else str(xmp)
    match = re.search(r'tiff:Orientation(?:="|>)([0-9])', text)
    return None if match is None else int(match[1])


def without_metadata(data, format_):
    """The bytes of an image file without what the pixels do not need.

    Args:
        data: bytes. The whole file.
        format_: str. Pillow's name of its format.

    Returns:
        bytes, or None if there is nothing to remove in files of this format, or the file's own structure is
        damaged.
    """
    remove = {
        "JPEG": _jpeg,
        "PNG": _png,
        "WEBP": _webp,
        "TIFF": _tiff,
        "AVIF": _heif,
        "HEIF": _heif,
    }.get(format_)
    if remove is None:
        return None
    try:
        return remove(data)
    except (struct.error, IndexError):
        return None


def _jpeg(data):
    """Drop the segments APP1 to APP13, APP15 and COM, and APP0 and APP14 that are too short to be read."""
    kept, place = [data[:2]], 2
    while True:
        marker, length = struct.unpack_from(">HH", data, place)
        if marker == 0xFFDA:  # the scan
            return b"".join([*kept, data[place:]])
        if marker < 0xFFC0 or length < 2:
            return None
        least = {0xFFE0: 16, 0xFFEE: 14}.get(marker)  # JFIF and Adobe decide about the colors
        told = 0xFFE0 <= marker <= 0xFFEF or marker == 0xFFFE
        if not told or (least is not None and length >= least):
            kept.append(data[place : place + 2 + length])
        place += 2 + length


def png_chunks(data):
    """Yield (type, the whole chunk) of a PNG's bytes, as far as they go."""
    place = 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        yield data[place + 4 : place + 8], data[place : place + 12 + length]
        place += 12 + length


def _png(data):
    needed = (b"IHDR", b"PLTE", b"tRNS", b"sBIT", b"IDAT", b"IEND")
    return data[:8] + b"".join(chunk for kind, chunk in png_chunks(data) if kind in needed)


def _webp(data):
    kept, place = [], 12
    while place + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        chunk = data[place : place + 8 + length + length % 2]
        if kind == b"VP8X":  # its flags announce ICC, EXIF and XMP
            chunk = chunk[:8] + bytes([chunk[8] & ~0x2C]) + chunk[9:]
        if kind not in (b"ICCP", b"EXIF", b"XMP "):
            kept.append(chunk)
        place += 8 + length + length % 2
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff(data):
    """Leave only the pixels' tags in the first directory, and no second one. Not for BigTIFF."""
    order = "<" if data[:2] == b"II" else ">"
    version, start = struct.unpack_from(f"{order}HI", data, 2)
    if version != 42:
        return None
    (count,) = struct.unpack_from(f"{order}H", data, start)
    end = min(start + 2 + 12 * count, len(data) - 11)
    entries = [data[place : place + 12] for place in range(start + 2, end, 12)]
    entries = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in _TIFF_PIXELS]
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    return data[:start] + directory + data[start + len(directory) :]


def _heif(data):
    """Rename the item types Exif and mime (XMP), so that no decoder looks at them."""
    items = rb"(infe(?:\x02.{7}|\x03.{9}))(?:Exif|mime)"  # versions 2 and 3 of ISO 14496-12, 8.11.6
    return re.sub(items, rb"\1none", data[:_HEIF_HEAD], flags=re.DOTALL) + data[_HEIF_HEAD:]
