"""Damaged image files: damaged metadata are ignored, and other damage raises a ValueError in bounded time."""

import collections
import io
import os
import random
import resource
import socket
import struct
import sys
import time

import numpy as np
import pillow_heif
import pytest
from image_writers import GRAY, RGB, png_chunk
from PIL import Image, PngImagePlugin
from test_formats import SUFFIXES, WRITTEN, written
from test_image_forms import FORMS, by_pillow

from focalnets.cli import main
from focalnets.data.datasets import open_dataset
from focalnets.images.decode import check_image, open_image, read_image
from focalnets.images.metadata import png_chunks

pillow_heif.register_heif_opener()  # needed to write HEIF

# EXIF orientation -> pixels of the upright image.
UPRIGHT = {
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.transpose(1, 0, 2),
    6: np.rot90(RGB, -1),
    7: np.rot90(RGB, 2).transpose(1, 0, 2),
    8: np.rot90(RGB),
}
LOSSLESS = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "HEIF": {"quality": -1, "chroma": 444, "matrix_coefficients": 0},
}
# Orientation 6, and a resolution unit that is text instead of a number, which Pillow fails to write.
PHONE = (
    b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\x28\x01\x02\0\x02\0\0\0"
    + b"2\0\0\0\0\0\0\0"
)


def near(found, expected, tolerance=8):
    return found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("turned", UPRIGHT)
@pytest.mark.parametrize("format_", LOSSLESS)
def test_read_image_applies_orientation_once(format_, turned):
    exif = Image.Exif()
    exif[0x0112] = turned
    data = by_pillow(RGB, format_, exif=exif.tobytes(), **LOSSLESS[format_])
    assert near(read_image(io.BytesIO(data)), UPRIGHT[turned])
    if format_ == "TIFF":  # also with the decoder of libtiff
        data = by_pillow(RGB, format_, exif=exif, compression="tiff_lzw")
        assert near(read_image(io.BytesIO(data)), UPRIGHT[turned])


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("exif", "turned"),
    [
        (PHONE, 6),
        (b"Exif\0\0", 1),
        (b"Exif\0\0not a TIFF file at all", 1),
        (b"Exif\0\0II*\0\xff\xff\xff\xff", 1),
        (b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", 1),
        (b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x09\0\0\0\0\0\0", 1),  # 9 is invalid
        (b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x07\0\0\0\x01\x06\0\0\0\0\0\0\0", 1),  # an invalid type
        (b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\0", 8),  # type LONG
        (b"Exif\0\0Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0", 3),
    ],
)
def test_read_image_ignores_damaged_exif(format_, exif, turned):
    data = by_pillow(RGB, format_, exif=exif, **LOSSLESS[format_])
    assert near(read_image(io.BytesIO(data)), UPRIGHT[turned])
    check_image(io.BytesIO(data), "x")


def test_read_image_reads_orientation_from_xmp_and_hexadecimal_text():
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(PHONE):8}\n{PHONE.hex()}\n")
    assert near(read_image(io.BytesIO(by_pillow(RGB, "PNG", pnginfo=info))), UPRIGHT[6])
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n   4\nno hexadecimal digits\n")
    assert near(read_image(io.BytesIO(by_pillow(RGB, "PNG", pnginfo=info))), UPRIGHT[1])
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="3"/>'
    assert near(read_image(io.BytesIO(by_pillow(RGB, "WEBP", xmp=xmp, lossless=True))), UPRIGHT[3])


def test_open_image_reduces_large_jpeg_with_damaged_exif():
    data = by_pillow(np.tile(RGB, (20, 20, 1)), "JPEG", exif=PHONE)
    small = open_image(io.BytesIO(data), smallest=lambda height, width: (height // 4, width // 4))
    assert (small.width, small.height) == (120, 100)


# === Mutations of metadata, which must not prevent decoding ===


def with_metadata():
    """Yield (name, bytes, ranges of bytes that hold metadata)."""
    exif = Image.Exif()
    exif[0x010E], exif[0x8769], exif[0x8825] = "a description", {0x927C: b"maker note" * 5}, {1: "N"}
    exif[0x0112] = 6
    raw, icc = exif.tobytes(), bytes(range(256))
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><tiff:Orientation>1</tiff:Orientation></x:xmpmeta>'
    text = PngImagePlugin.PngInfo()
    text.add_text("zipped", "v" * 500, zip=True)
    text.add_itxt("international", "v" * 200, zip=True)
    options = {"exif": raw, "icc_profile": icc}

    data = by_pillow(RGB, "JPEG", **options, xmp=xmp, comment=b"hello", quality=95)
    ranges, place = [], 2
    while data[place : place + 2] != b"\xff\xda":
        marker, length = struct.unpack_from(">HH", data, place)
        if 0xFFE0 <= marker <= 0xFFEF or marker == 0xFFFE:
            ranges.append((place + 4, place + 2 + length))
        place += 2 + length
    yield "x.jpg", data, ranges

    data, ranges, place = by_pillow(RGB, "PNG", **options, pnginfo=text), [], 8
    for kind, chunk in png_chunks(data):
        if kind not in (b"IHDR", b"IDAT", b"IEND"):
            ranges.append((place + 8, place + len(chunk)))
        place += len(chunk)
    yield "x.png", data, ranges

    data, ranges, place = by_pillow(RGB, "WEBP", **options, xmp=xmp, lossless=True), [], 12
    while place < len(data):
        kind, length = struct.unpack_from("<4sI", data, place)
        if kind in (b"ICCP", b"EXIF", b"XMP "):
            ranges.append((place + 8, place + 8 + length))
        place += 8 + length + length % 2
    yield "x.webp", data, ranges

    for compression in (None, "tiff_lzw"):
        tags = {700: xmp, 270: "a long description", 305: "the name of software"}
        data = by_pillow(RGB, "TIFF", exif=exif, icc_profile=icc, compression=compression, tiffinfo=tags)
        (start,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, start)
        places = range(start + 2, start + 2 + 12 * count, 12)
        described = [
            at for at in places if struct.unpack_from("<H", data, at)[0] in (270, 305, 700, 34665, 34853)
        ]
        yield f"x-{compression}.tif", data, [(at + 2, at + 12) for at in described]

    for format_ in ("AVIF", "HEIF"):
        data = by_pillow(RGB, format_, exif=raw, xmp=xmp, quality=90)
        first = data.index(b"a description") - 40
        yield (
            f"x.{format_.lower()}",
            data,
            [(first, first + 120), (data.index(xmp), data.index(xmp) + len(xmp))],
        )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "data", "ranges"), list(with_metadata()), ids=lambda value: str(value)[:12])
def test_read_image_decodes_files_with_mutated_metadata(name, data, ranges):
    chance = random.Random(name)
    whole = read_image(io.BytesIO(data), name=name)
    upright = [np.rot90(one, turn) for one in (whole, whole[::-1]) for turn in range(4)]
    for _ in range(150):
        changed = bytearray(data)
        start, end = chance.choice(ranges)
        for _ in range(chance.choice((1, 1, 2, 5, 40))):
            changed[chance.randrange(start, end)] = chance.choice((0, 1, 127, 255, chance.randrange(256)))
        if name == "x.png" and chance.random() < 0.7:  # repair the checksums
            chunks = [png_chunk(kind, chunk[8:-4]) for kind, chunk in png_chunks(bytes(changed))]
            changed = changed[:8] + b"".join(chunks)
        found = read_image(io.BytesIO(changed), name=name)
        assert any(np.array_equal(found, one) for one in upright), name  # the orientation may have changed
        check_image(io.BytesIO(changed), name)


# === Mutations of whole files, which give an image or a ValueError in bounded time and memory ===

SEEDS = {f"{format_}{SUFFIXES.get(format_, '.x')}": written(format_) for format_ in WRITTEN}
SEEDS |= {name: data for name, (data, *_) in FORMS.items()}
FILES = 4000


def mutated(data, chance):
    data = bytearray(data)
    place = chance.randrange(len(data))
    how = chance.randrange(6)
    if how == 0:  # bits
        for _ in range(chance.choice((1, 1, 3, 10))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif how == 1:  # truncation
        del data[place:]
    elif how == 2:  # insertion
        data[place:place] = chance.randbytes(chance.choice((1, 4, 100)))
    elif how == 3:  # the end of another file
        other = chance.choice(list(SEEDS.values()))
        data[place:] = other[chance.randrange(len(other)) :]
    elif how == 4:  # sizes, offsets and tags in the head
        place %= 200
        data[place : place + chance.choice((1, 2, 4))] = chance.choice(
            (bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff")
        )
    else:  # deletion
        del data[place : place + chance.randrange(1, 60)]
    return bytes(data)


def verdict(function, data, name):
    """Text of the ValueError that the function raises for the file, or None. Other errors are not caught."""
    try:
        function(io.BytesIO(data), name=name)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damaged TIFF tags
def test_read_image_raises_only_documented_error_for_fuzzed_files():
    chance, names = random.Random(20), sorted(SEEDS)
    counts = collections.Counter()
    slowest, start = 0, time.process_time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for index in range(FILES):
        name = names[index % len(names)]
        data = mutated(SEEDS[name], chance)
        before = time.process_time()
        decoded = verdict(read_image, data, name)
        slowest = max(slowest, time.process_time() - before)
        checked = verdict(check_image, data, name)
        # Streamed sets are checked and sets in memory are decoded, so both must refuse the same files.
        assert checked is None or checked == decoded, name
        assert decoded is None or decoded.startswith(f"{name}: ")
        counts[decoded is None] += 1
    seconds = time.process_time() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    print(
        f"{FILES} files, {counts[False]} refused, {seconds:.1f} s, slowest {slowest:.2f} s, {memory:.0f} MiB"
    )
    assert min(counts[True], counts[False]) > FILES / 10
    assert slowest < 10
    assert memory < 2000


def test_dataset_in_memory_and_streamed_reject_the_same_truncated_files(tmp_path):
    jpeg, png, gif = (by_pillow(RGB, format_) for format_ in ("JPEG", "PNG", "GIF"))
    whole = {
        "much-behind.jpg": jpeg + bytes(100_000),  # as in phone photos with an appended video
        "no-end.png": png[:-12],
        "behind.png": png + bytes(5000),
        "behind.gif": gif + bytes(5000),
        "no-end.gif": gif[:-1],
    }
    cut = {"cut.jpg": jpeg[:-60], "no-end.jpg": jpeg[:-2], "cut.png": png[:-60], "cut.gif": gif[:-60]}
    for name, data in (whole | cut).items():
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_bytes(data)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "b.png").write_bytes(png)
    bad = {}
    for cache_images in ("memory", "stream"):
        with pytest.raises(ValueError, match="4 unreadable images:") as caught:
            open_dataset(str(tmp_path), cache_images=cache_images)
        bad[cache_images] = str(caught.value)
        assert all(f"{name}: the file is truncated" in bad[cache_images] for name in cut)
    assert bad["memory"] == bad["stream"]


# === Files that are not regular, programs, formats that need an optional package ===


@pytest.fixture
def not_files(tmp_path):
    """Folder of a named pipe, a folder, a device and a socket with names of images."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket.jpg"))  # the absolute path may be too long
        yield tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pipe.jpg", "a named pipe, not a regular file"),
        ("device.jpg", "a device, not a regular file"),
        ("socket.jpg", "a socket, not a regular file"),
        ("folder.jpg", "a folder, not a file"),
        ("nowhere.jpg", "no such file"),
    ],
)
def test_read_image_opens_only_regular_files(not_files, name, text):
    for function in (read_image, check_image):
        with pytest.raises(ValueError, match=rf"{name}: {text}"):
            function(not_files / name)


@pytest.mark.slow
def test_read_image_does_not_run_postscript(tmp_path, monkeypatch, capsys):
    endless = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n"
    (tmp_path / "cat.jpg").write_bytes(endless)
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was run"))
    with pytest.raises(
        ValueError, match=r"cat\.jpg: not a supported image: PostScript, which is not decoded"
    ):
        read_image(tmp_path / "cat.jpg")
    assert main(["predict", str(tmp_path / "cat.jpg")]) == 2
    assert "PostScript" in capsys.readouterr().err


def test_read_image_registers_heif_decoder_and_names_missing_package(monkeypatch):
    data = by_pillow(RGB, "HEIF", quality=-1)
    monkeypatch.delitem(Image.OPEN, "HEIF")
    assert read_image(io.BytesIO(data)).shape == RGB.shape
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ValueError, match=r"pip install 'focalnets\[heic\]'"):
        read_image(io.BytesIO(data))


def test_read_image_describes_content_that_is_not_an_image():
    for data, text in [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><title>404</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\0\0\0\x18ftypisom\0\0\0\0iso2mp41", "a video"),
    ]:
        with pytest.raises(ValueError, match=text):
            read_image(io.BytesIO(data), name="x.jpg")


def test_read_image_limits_size_of_files_read_completely(monkeypatch):
    monkeypatch.setattr("focalnets.images.decode.MAX_BYTES", 2**20)
    data = by_pillow(RGB, "WEBP", lossless=True)
    data += bytes(2**20)
    with pytest.raises(ValueError, match="file size 2 MiB exceeds the limit of 1 MiB"):
        read_image(io.BytesIO(data + bytes(2**20)))


# === One damaged file of each kind in every command ===


@pytest.mark.slow
def test_every_command_lists_or_skips_damaged_images(tmp_path, capsys, caplog):
    avif = bytearray(by_pillow(RGB, "AVIF"))
    avif[-200:-100] = bytes(100)
    bad = {
        "phone.jpg": by_pillow(RGB, "JPEG", exif=PHONE)[:-80],
        "damaged.avif": bytes(avif)[:300],
        "any.png": bytes(avif)[:300],
        "dark.png": by_pillow(GRAY.astype("uint16"), "PNG"),
        "large.png": by_pillow(RGB, "PNG").replace(b"\0\0\0\x14\0\0\0\x18", b"\0\0\xff\xff\0\0\xff\xff"),
    }
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(4):
            (tmp_path / "data" / label / f"{index}.jpg").write_bytes(by_pillow(RGB, "JPEG", exif=PHONE))
    for name, data in bad.items():
        (tmp_path / "data" / "a" / name).write_bytes(data)
    few = tmp_path / "few"
    few.mkdir()
    for name, data in {**bad, "good.jpg": by_pillow(RGB, "JPEG", exif=PHONE)}.items():
        (few / name).write_bytes(data)
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    quickly = ["--set", "image_size=16", "--monitor-every", "0", "--epochs", "1"]
    for command in (
        ["predict", "focalnet_micro_cifar10", str(few)],
        ["explain", "focalnet_micro_cifar10", str(few), "--stage", "1", "--out", str(tmp_path / "explained")],
        ["train", "--data", data, "--recipe", "cifar10_small", *quickly, "--out", run],
        ["evaluate", run, "--data", data, "--out", str(tmp_path / "evaluated")],
        ["cache", data, "--image-size", "16", "--out", str(tmp_path / "cached")],
    ):
        assert main(command) == 2, command
        text = capsys.readouterr().err
        assert "Traceback" not in text
        # `cache` streams, so it first checks only the start and end of each file.
        named = [name for name in bad if name in text]
        assert named == list(bad) or (command[0] == "cache" and named), (command, text)
        caplog.clear()
        assert main([*command, "--on-bad-image", "skip"]) == 0, (command, capsys.readouterr().err)
        assert all(name in caplog.text for name in bad), command
