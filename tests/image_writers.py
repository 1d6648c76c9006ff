"""Writers of image files in forms that Pillow does not write: bit depths, byte orders and color spaces."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

# The test image. All corners differ, and every channel reaches 0 and 255.
HEIGHT, WIDTH = 24, 20
_Y, _X = np.mgrid[0:HEIGHT, 0:WIDTH]
GRAY = np.uint8(np.round((_X / (WIDTH - 1) * 0.6 + _Y / (HEIGHT - 1) * 0.4) * 255))[..., None]
RGB = np.dstack([GRAY, GRAY[::-1], np.uint8(255 * _X / (WIDTH - 1))])
ALPHA = np.uint8(255 * _Y / (HEIGHT - 1))[..., None]


def scaled(pixels, bits, maximum=None):
    """Scale uint8 values to this many bits, or to `maximum`."""
    return np.round(pixels / 255 * (maximum or 2**bits - 1)).astype("uint32")


def packed(rows, bits, order=">"):
    """Pack samples (rows, n) into bytes. Each row starts with a new byte, highest bits first."""
    rows = np.asarray(rows)
    if bits in (8, 16, 32):
        return rows.astype(f"{order}u{bits // 8}").tobytes()
    unpacked = (rows[..., None].astype("uint32") >> np.arange(bits)[::-1]) & 1
    return np.packbits(unpacked.reshape(len(rows), -1).astype("uint8"), axis=1).tobytes()


def png(samples, bits, color_type, palette=None, transparency=None, chunks=()):
    """PNG of samples (H, W, C). `chunks`, pairs (type, bytes), are written before the pixels."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, -1)
    data = b"".join(b"\0" + packed(row[None], bits) for row in rows)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)), *chunks]
    if palette is not None:
        parts.append((b"PLTE", palette.astype("uint8").tobytes()))
    if transparency is not None:
        parts.append((b"tRNS", transparency))
    parts += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff(
    samples,
    bits,
    photometric,
    order="<",
    sample_format=1,
    planar=1,
    tile=None,
    extra=(),
    deflate=False,
    tags=(),
):
    """TIFF of samples (H, W, C), which are packed to `bits` if they are unsigned integers.

    `tags` are triples (number, type, values) with the types 3 (SHORT), 4 (LONG) and 7 (bytes).
    """
    height, width, channels = samples.shape
    planes = [samples] if planar == 1 else [samples[..., c : c + 1] for c in range(channels)]
    pieces = []
    for plane in planes:
        if tile is None:
            pieces.append(plane)
            continue
        whole = np.pad(plane, ((0, -height % tile), (0, -width % tile), (0, 0)))
        for top in range(0, height, tile):
            pieces += [whole[top : top + tile, left : left + tile] for left in range(0, width, tile)]
    if samples.dtype.kind == "u":
        pieces = [packed(piece.reshape(len(piece), -1), bits, order) for piece in pieces]
    else:
        pieces = [piece.astype(piece.dtype.newbyteorder(order)).tobytes() for piece in pieces]
    if deflate:
        pieces = [zlib.compress(piece) for piece in pieces]
    offsets = np.cumsum([8, *(len(piece) for piece in pieces)])
    entries = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * channels),
        259: (3, [8 if deflate else 1]),
        262: (3, [photometric]),
        277: (3, [channels]),
        284: (3, [planar]),
        339: (3, [sample_format] * channels),
    }
    where = {324: offsets[:-1], 325: [len(piece) for piece in pieces]}
    if tile is None:
        where = {273: where[324], 279: where[325], 278: [height]}
    else:
        where |= {322: [tile], 323: [tile]}
    entries |= {number: (4, values) for number, values in where.items()}
    if extra:
        entries[338] = (3, list(extra))
    entries |= {number: (kind, values) for number, kind, values in tags}
    letters = {3: "H", 4: "I", 7: "B"}
    start = int(offsets[-1])
    after, directory = start + 2 + 12 * len(entries) + 4, b""
    beyond = b""
    for number, (kind, values) in sorted(entries.items()):
        data = struct.pack(f"{order}{len(values)}{letters[kind]}", *(int(value) for value in values))
        if len(data) > 4:
            data, beyond = struct.pack(f"{order}I", after + len(beyond)), beyond + data
        directory += struct.pack(f"{order}HHI", number, kind, len(values)) + data.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    count = struct.pack(f"{order}H", len(entries))
    return head + b"".join(pieces) + count + directory + bytes(4) + beyond


def pnm(samples, maximum, plain=False):
    kind = {1: 2, 3: 3}[samples.shape[-1]] + (0 if plain else 3)
    head = f"P{kind}\n# a comment\n{samples.shape[1]} {samples.shape[0]}\n{maximum}\n".encode()
    if plain:
        return head + " ".join(str(value) for value in samples.ravel()).encode()
    return head + samples.astype("u1" if maximum < 256 else ">u2").tobytes()


def tga16(pixels, alpha_bits=0, alpha=0):
    """TGA with 15-bit colors, stored from the top, whose attribute bit is `alpha`."""
    fifth = scaled(pixels, 5).astype("uint16")
    words = alpha << 15 | fifth[..., 0] << 10 | fifth[..., 1] << 5 | fifth[..., 2]
    return _tga_head(pixels, 16, alpha_bits) + words.astype("<u2").tobytes()


def tga32(pixels, alpha_bits, alpha):
    samples = np.dstack([pixels[..., ::-1], np.full(pixels.shape[:2], alpha)])
    return _tga_head(pixels, 32, alpha_bits) + samples.astype("u1").tobytes()


def _tga_head(pixels, bits, alpha_bits):
    height, width = pixels.shape[:2]
    return struct.pack("<BBB5xHHHHBB", 0, 0, 2, 0, 0, width, height, bits, 0x20 | alpha_bits)


def bmp(words, bits, masks=None, header=40):
    """BMP of words (H, W), with optional masks of red, green, blue and alpha."""
    height, width = words.shape
    line = width * bits // 8
    rows = [row.astype(f"<u{bits // 8}").tobytes().ljust(-(-line // 4) * 4, b"\0") for row in words[::-1]]
    compression = 0 if masks is None else 3
    info = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, 0, 2835, 2835, 0, 0)
    beyond = b"" if masks is None else struct.pack(f"<{len(masks)}I", *masks)
    info = (info + beyond).ljust(header, b"\0")
    if header == 40 and masks is not None:
        info = info[:40] + beyond
    start = 14 + len(info)
    data = b"".join(rows)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + data


def psd(samples, mode, bits=8, colors=b""):
    height, width, channels = samples.shape
    head = b"8BPS" + struct.pack(">H6xHIIHHI", 1, channels, height, width, bits, mode, len(colors))
    planes = b"".join(packed(samples[..., channel], bits) for channel in range(channels))
    return head + colors + bytes(10) + planes


def sgi(samples, bits):
    height, width, channels = samples.shape
    head = struct.pack(
        ">hBBHHHHii", 474, 0, bits // 8, 2 if channels == 1 else 3, width, height, channels, 0, 65535
    )
    return head.ljust(512, b"\0") + packed(samples[::-1].transpose(2, 0, 1).reshape(-1, width), bits)


def others():
    """Dict name -> bytes of small files in formats that Pillow reads but does not write."""
    height, width = GRAY.shape[:2]
    icon = io.BytesIO()
    Image.fromarray(np.dstack([RGB, ALPHA])).save(icon, "ICO", sizes=[(width, height)], bitmap_format="bmp")
    pcx = io.BytesIO()
    Image.fromarray(RGB).save(pcx, "PCX")
    xpm = [f"{width} {height} 256 2", *(f"{value:02x} c #{3 * f'{value:02x}'}" for value in range(256))]
    xpm += ["".join(f"{value:02x}" for value in row) for row in GRAY[..., 0]]
    quoted = ",\n".join(f'"{line}"' for line in xpm)
    sun = struct.pack(">8I", 0x59A66A95, width, height, 8, GRAY.size, 1, 0, 0)
    brush = struct.pack(">5I4sI", 28, 2, width, height, 1, b"GIMP", 10)
    return {
        "x.cur": icon.getvalue()[:2] + b"\2" + icon.getvalue()[3:],
        "x.dcx": struct.pack("<III", 0x3ADE68B1, 12, 0) + pcx.getvalue(),
        "x.gbr": brush + GRAY.tobytes(),
        "x.ras": sun + GRAY.tobytes(),
        "x.xpm": f"/* XPM */\nstatic char *x[] = {{\n{quoted}\n}};\n".encode(),
    }
