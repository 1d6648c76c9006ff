"""EXIF orientation of images, and removal of metadata from files whose damaged metadata prevent decoding."""

import re
import struct

_ORIENTATION = 0x0112  # Exif 2.3, section 4.6.4; the same tag as in TIFF

# TIFF tags that affect the pixels (TIFF 6.0, part 1 and sections 14 to 23). All other tags are descriptions.
_TIFF_PIXELS = {254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 280, 281, 284, 292, 293, 317}
_TIFF_PIXELS |= {320, 322, 323, 324, 325, 338, 339, 347, 512, 513, 514, 515, 517, 519, 520, 521, 529, 530}
_TIFF_PIXELS |= {531, 532}

# Bytes at the start of a HEIF file that are searched for the list of items.
_HEIF_HEAD = 65_536


def orientation(info):
    """EXIF orientation of an opened PIL image.

    Only the first directory is read. Pillow's `getexif` reads all directories, and fails if one is damaged.

    Args:
        info: dict. `info` of the image. It holds EXIF as "exif" (bytes) or as "Raw profile type exif"
            (hexadecimal text that ImageMagick writes into PNG), and XMP as "xmp" or "XML:com.adobe.xmp".

    Returns:
        int. 1 to 8. It is 1 if the metadata have no orientation or are damaged.
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
        for offset in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", data, offset)
            if tag == _ORIENTATION:
                letter = {1: "B", 3: "H", 4: "I"}.get(kind)
                return struct.unpack_from(f"{order}{letter}", data, offset + 8)[0] if letter else None
    except struct.error:  # the directory is shorter than its stated length
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
    """Remove all data from an image file that the pixels do not need.

    Args:
        data: bytes. Content of the file.
        format_: str. Pillow's name of the format.

    Returns:
        bytes, or None if the format is not handled or the structure of the file is damaged.
    """
    remove = {"JPEG": _jpeg, "PNG": _png, "WEBP": _webp, "TIFF": _tiff, "AVIF": _heif, "HEIF": _heif}
    if format_ not in remove:
        return None
    try:
        return remove[format_](data)
    except (struct.error, IndexError):
        return None


def _jpeg(data):
    """Remove segments APP1 to APP13, APP15 and COM, and APP0 and APP14 if they are too short to be read."""
    kept, offset = [data[:2]], 2
    while True:
        marker, length = struct.unpack_from(">HH", data, offset)
        if marker == 0xFFDA:  # the scan
            return b"".join([*kept, data[offset:]])
        if marker < 0xFFC0 or length < 2:
            return None
        required = {0xFFE0: 16, 0xFFEE: 14}.get(marker)  # lengths; JFIF and Adobe determine the colors
        is_metadata = 0xFFE0 <= marker <= 0xFFEF or marker == 0xFFFE
        if not is_metadata or (required is not None and length >= required):
            kept.append(data[offset : offset + 2 + length])
        offset += 2 + length


def png_chunks(data):
    """Yield (type, bytes of the whole chunk) for each chunk of a PNG, which may be truncated."""
    offset = 8
    while offset + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, offset)
        yield data[offset + 4 : offset + 8], data[offset : offset + 12 + length]
        offset += 12 + length


def _png(data):
    needed = (b"IHDR", b"PLTE", b"tRNS", b"sBIT", b"IDAT", b"IEND")
    return data[:8] + b"".join(chunk for kind, chunk in png_chunks(data) if kind in needed)


def _webp(data):
    kept, offset = [], 12
    while offset + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, offset)
        chunk = data[offset : offset + 8 + length + length % 2]
        if kind == b"VP8X":  # its flags announce ICC, EXIF and XMP
            chunk = chunk[:8] + bytes([chunk[8] & ~0x2C]) + chunk[9:]
        if kind not in (b"ICCP", b"EXIF", b"XMP "):
            kept.append(chunk)
        offset += 8 + length + length % 2
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff(data):
    """Reduce a TIFF to its first directory with the tags in `_TIFF_PIXELS`. BigTIFF is not handled."""
    order = "<" if data[:2] == b"II" else ">"
    version, start = struct.unpack_from(f"{order}HI", data, 2)
    if version != 42:
        return None
    (count,) = struct.unpack_from(f"{order}H", data, start)
    end = min(start + 2 + 12 * count, len(data) - 11)
    entries = [data[offset : offset + 12] for offset in range(start + 2, end, 12)]
    entries = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in _TIFF_PIXELS]
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    return data[:start] + directory + data[start + len(directory) :]


def _heif(data):
    """Rename the item types Exif and mime (XMP), so that decoders ignore them."""
    items = rb"(infe(?:\x02.{7}|\x03.{9}))(?:Exif|mime)"  # versions 2 and 3 of ISO 14496-12, 8.11.6
    return re.sub(items, rb"\1none", data[:_HEIF_HEAD], flags=re.DOTALL) + data[_HEIF_HEAD:]
