"""Decoding of one image that is stored in many forms: equal pixels within rounding, or an error."""

import io
import pathlib
import struct

import numpy as np
import pillow_heif
import pytest
from image_writers import (
    ALPHA,
    GRAY,
    HEIGHT,
    RGB,
    WIDTH,
    bmp,
    others,
    png,
    pnm,
    psd,
    scaled,
    sgi,
    tga16,
    tga32,
    tiff,
)
from PIL import Image

from focalnets.images import bit_depth
from focalnets.images.decode import check_image, read_image

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "images"
FORMS, ERRORS = {}, {}  # name -> (bytes, pixels, tolerance); name -> (bytes, part of the message)


def same(name, data, pixels, tolerance=1):
    FORMS[name] = (data, np.asarray(pixels, float), tolerance)


def error(name, data, text):
    ERRORS[name] = (data, text)


def at(pixels, bits):
    """The pixels rounded to this many bits."""
    return scaled(pixels, bits) / (2**bits - 1) * 255


def on_white(pixels, alpha=ALPHA):
    return 255 - alpha / 255 * (255.0 - pixels)


def by_pillow(pixels, format_, **options):
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, format_, **options)
    return file.getvalue()


def ramp(bits):
    """A color map (2**bits, 3)."""
    count = 2**bits
    return np.stack(
        [np.linspace(0, 255, count), np.linspace(255, 0, count), np.linspace(30, 200, count)], 1
    ).round()


EIGHT, TEN, TWELVE, THIRTEEN, FOURTEEN = (f"look like unscaled {bits}-bit" for bits in (8, 10, 12, 13, 14))
UNSUPPORTED = "not supported"

# === PNG ===
for bits in (1, 2, 4, 8, 16):
    samples = scaled(GRAY, bits)
    same(f"gray{bits}.png", png(samples, bits, 0), at(GRAY, bits))
    clear = int(samples[12, 7, 0])
    same(
        f"gray{bits}-transparent.png",
        png(samples, bits, 0, transparency=struct.pack(">H", clear)),
        np.where(samples == clear, 255, at(GRAY, bits)),
    )
for bits in (8, 16):
    samples = scaled(RGB, bits)
    same(f"rgb{bits}.png", png(samples, bits, 2), RGB)
    same(
        f"rgb{bits}-transparent.png",
        png(samples, bits, 2, transparency=struct.pack(">HHH", *samples[12, 7])),
        np.where((samples == samples[12, 7]).all(-1, keepdims=True), 255, RGB),
    )
    same(f"gray{bits}-alpha.png", png(scaled(np.dstack([GRAY, ALPHA]), bits), bits, 4), on_white(GRAY))
    same(f"rgb{bits}-alpha.png", png(scaled(np.dstack([RGB, ALPHA]), bits), bits, 6), on_white(RGB))
for bits in (1, 2, 4, 8):
    samples, alpha = scaled(GRAY, bits), np.linspace(0, 255, 2**bits).round().astype("uint8")
    colors = ramp(bits)[samples[..., 0]]
    same(f"palette{bits}.png", png(samples, bits, 3, ramp(bits)), colors)
    same(
        f"palette{bits}-transparent.png",
        png(samples, bits, 3, ramp(bits), alpha.tobytes()),
        on_white(colors, alpha[samples]),
    )
twelve = [(b"sBIT", b"\x0c")]
same("gray-12-of-16-stated.png", png(scaled(GRAY, 12), 16, 0, chunks=twelve), GRAY)
same("gray-12-of-16-scaled.png", png(scaled(GRAY, 12) << 4, 16, 0, chunks=twelve), GRAY)
same("dark-12-of-16-scaled.png", png(scaled(GRAY // 20, 12) << 4, 16, 0, chunks=twelve), GRAY // 20)
same("black16.png", png(0 * scaled(GRAY, 16), 16, 0), 0 * GRAY)
error("gray-12-of-16.png", png(scaled(GRAY, 12), 16, 0), "16-bit pixels of at most 4095 of 65535 " + TWELVE)
error("rgb-12-of-16.png", png(scaled(RGB, 12), 16, 2), TWELVE)
error("rgb-8-of-16.png", png(scaled(RGB, 8), 16, 2), EIGHT)
for bits, text in ((8, EIGHT), (10, TEN), (13, THIRTEEN), (14, FOURTEEN)):
    error(f"gray-{bits}-of-16.png", png(scaled(GRAY, bits), 16, 0), text)
error("rgb-10-of-16.png", png(scaled(RGB, 10), 16, 2), TEN)
dark = GRAY // 5  # at most 51
for bits in (8, 10, 12):
    same(f"dark-{bits}-shifted-to-16.png", png(scaled(dark, bits) << (16 - bits), 16, 0), dark)
    same(f"dark-{bits}-stretched-to-16.png", png(scaled(dark, bits) * 65535 // (2**bits - 1), 16, 0), dark)
same("darker-8-stretched-to-16.png", png(scaled(GRAY // 20, 8) * 257, 16, 0), GRAY // 20)
sixteen = [(b"sBIT", b"\x10")]
same("darker-16-stated.png", png(scaled(GRAY // 20, 16) + 99, 16, 0, chunks=sixteen), GRAY // 20)
same("darker-rgb-16-stated.png", png(scaled(RGB // 20, 16) + 99, 16, 2, chunks=sixteen), RGB // 20)
same("dark-16.png", png(scaled(dark, 16) + 99, 16, 0), dark)
error("rgb-alpha-12-of-16.png", png(scaled(np.dstack([RGB, ALPHA + 99]), 12), 16, 6), TWELVE)

# === TIFF ===
for order in "<>":
    for deflate in (False, True):
        form = f"{'little' if order == '<' else 'big'}{'-deflate' * deflate}"

        def form_of(samples, bits, photometric, order=order, deflate=deflate, **options):
            return tiff(samples, bits, photometric, order, deflate=deflate, **options)

        for bits in (1, 2, 4, 8, 16):
            samples = scaled(GRAY, bits)
            same(f"gray{bits}-{form}.tif", form_of(samples, bits, 1), at(GRAY, bits))
            inverse = form_of(2**bits - 1 - samples, bits, 0)
            same(f"white-is-zero{bits}-{form}.tif", inverse, at(GRAY, bits))
        for bits in (8, 16):
            for planar in (1, 2):
                for tile in (None, 16):
                    same(
                        f"rgb{bits}-planar{planar}-tile{tile}-{form}.tif",
                        form_of(scaled(RGB, bits), bits, 2, planar=planar, tile=tile),
                        RGB,
                    )
            for kind, name in enumerate(("unspecified", "multiplied", "alpha")):
                for pixels, photometric, color in ((GRAY, 1, "gray"), (RGB, 2, "rgb")):
                    stored = np.round(pixels * (ALPHA / 255)) if name == "multiplied" else pixels
                    data = form_of(scaled(np.dstack([stored, ALPHA]), bits), bits, photometric, extra=(kind,))
                    if color == "gray" and bits == 16:
                        error(f"{color}{bits}-{name}-{form}.tif", data, UNSUPPORTED)
                    else:
                        expected = pixels if name == "unspecified" else on_white(pixels)
                        # Division by a small alpha increases rounding errors of the stored samples.
                        same(f"{color}{bits}-{name}-{form}.tif", data, expected, 3)
            inks = np.dstack([255 - RGB, 0 * GRAY])
            same(f"cmyk{bits}-{form}.tif", form_of(scaled(inks, bits), bits, 5), RGB)
        for bits in (1, 2, 4, 8):
            samples = scaled(GRAY, bits)
            for factor in (257, 256, 1):  # 16-bit maps, and 8-bit maps, which violate the standard
                tags = [(320, 3, (ramp(bits) * factor).T.ravel())]
                expected = ramp(bits)[samples[..., 0]]
                same(f"palette{bits}-{factor}-{form}.tif", form_of(samples, bits, 3, tags=tags), expected)
        luma = np.asarray(Image.fromarray(RGB).convert("YCbCr")).astype("uint32")
        full = [(530, 3, [1, 1])]
        same(f"ycbcr-{form}.tif", form_of(luma, 8, 6, tags=full), RGB, 4)
        twelve = scaled(GRAY, 12)
        same(f"gray-12-of-16-stated-{form}.tif", form_of(twelve, 16, 1, tags=[(281, 3, [4095])]), GRAY)
        error(f"gray-12-of-16-{form}.tif", form_of(twelve, 16, 1), TWELVE)
        error(f"rgb-12-of-16-{form}.tif", form_of(scaled(RGB, 12), 16, 2), TWELVE)
        error(f"rgb-8-of-16-{form}.tif", form_of(scaled(RGB, 8), 16, 2), EIGHT)
        error(f"gray-14-of-16-{form}.tif", form_of(scaled(GRAY, 14), 16, 1), FOURTEEN)
        same(f"gray12-{form}.tif", form_of(twelve, 12, 1), GRAY)
        signed = GRAY.astype(int) - 128
        for samples, bits in ((np.int8(signed), 8), (np.int16(signed * 256), 16), (np.int32(signed), 32)):
            text = UNSUPPORTED if order == ">" and bits == 8 else "signed pixels"
            error(f"int{bits}-{form}.tif", form_of(samples, bits, 1, sample_format=2), "signed pixels")
        text = "32-bit pixels" if order == "<" else UNSUPPORTED
        error(f"uint32-{form}.tif", form_of(np.uint32(GRAY) * 16843009, 32, 1), text)
        error(f"float32-{form}.tif", form_of(np.float32(GRAY / 255), 32, 1, sample_format=3), "32-bit pixels")
        error(f"float16-{form}.tif", form_of(np.float16(GRAY / 255), 16, 1, sample_format=3), UNSUPPORTED)
        error(f"rgb-float32-{form}.tif", form_of(np.float32(RGB / 255), 32, 2, sample_format=3), UNSUPPORTED)
        error(f"lab-{form}.tif", form_of(scaled(RGB, 8), 8, 8), "CIE Lab")
    reversed_bits = np.uint32([int(f"{value:08b}"[::-1], 2) for value in GRAY.ravel()]).reshape(GRAY.shape)
    same(f"fill-order-{order}.tif", tiff(reversed_bits, 8, 1, order, tags=[(266, 3, [2])]), GRAY)
    # The default subsampling stores the luma of 2 x 2 pixels before their common chroma.
    data = tiff(luma, 8, 6, order)
    error(f"subsampled-{order}.tif", data, "subsampled chroma")
for compression in ("tiff_lzw", "packbits", "lzma", "zstd"):
    same(f"rgb-{compression}.tif", by_pillow(RGB, "TIFF", compression=compression), RGB)
same("rgb-jpeg.tif", by_pillow(RGB, "TIFF", compression="jpeg", quality=100), RGB, 12)

# === PGM, PPM: the file states its maximum ===
for maximum in (1, 7, 100, 255, 1000, 4095, 65535):
    for plain in (False, True):
        for pixels, suffix in ((GRAY, "pgm"), (RGB, "ppm")):
            samples = scaled(pixels, 0, maximum)
            name = f"{maximum}{'-plain' * plain}.{suffix}"
            same(name, pnm(samples, maximum, plain), samples / maximum * 255)
error("12-of-16.pgm", pnm(scaled(GRAY, 12), 65535), TWELVE)
error("12-of-16.ppm", pnm(scaled(RGB, 12), 65535), TWELVE)

# === TGA, BMP, ICO: empty alpha, 1-bit alpha, masks ===
for bit in (0, 1):
    for described in (0, 1):
        same(f"rgb15-bit{bit}-{described}.tga", tga16(RGB, described, bit), at(RGB, 5))
for alpha in (0, 255):
    for described in (0, 8):
        same(f"rgb32-alpha{alpha}-{described}.tga", tga32(RGB, described, alpha), RGB)
red, green, blue = (RGB[..., channel].astype("uint32") for channel in range(3))
fifth, sixth = scaled(RGB, 5), scaled(green, 6)
same("rgb15.bmp", bmp(fifth[..., 0] << 10 | fifth[..., 1] << 5 | fifth[..., 2], 16), at(RGB, 5))
same(
    "rgb16.bmp",
    bmp(fifth[..., 0] << 11 | sixth << 5 | fifth[..., 2], 16, (0xF800, 0x7E0, 0x1F)),
    np.dstack([at(red, 5), at(green, 6), at(blue, 5)]),
)
words, masks = red << 16 | green << 8 | blue, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
same("rgb32.bmp", bmp(words, 32), RGB)
same("rgb32-masks.bmp", bmp(words, 32, masks[:3]), RGB)
error("bgr32-masks.bmp", bmp(blue << 16 | green << 8 | red, 32, masks[2::-1]), "bitfields")
for header in (56, 108, 124):
    alpha = ALPHA[..., 0].astype("uint32") << 24
    same(f"rgb32-{header}-alpha.bmp", bmp(words | alpha, 32, masks, header), on_white(RGB))
    same(f"rgb32-{header}-empty-alpha.bmp", bmp(words, 32, masks, header), RGB)
same("png.ico", by_pillow(RGB, "ICO", sizes=[(WIDTH, HEIGHT)]), RGB)
icon = by_pillow(np.dstack([RGB, ALPHA]), "ICO", sizes=[(WIDTH, HEIGHT)], bitmap_format="bmp")
same("bmp.ico", icon, on_white(RGB))

# === Photoshop, Silicon Graphics, and formats that Pillow writes ===
same("gray.psd", psd(GRAY, 1), GRAY)
same("rgb.psd", psd(RGB, 3), RGB)
same("rgb-alpha.psd", psd(np.dstack([RGB, ALPHA]), 3), on_white(RGB))
same("cmyk.psd", psd(np.dstack([RGB, 0 * GRAY + 255]), 4), RGB)
same("palette.psd", psd(GRAY, 2, colors=ramp(8).T.astype("uint8").tobytes()), ramp(8)[GRAY[..., 0]])
error("gray16.psd", psd(scaled(GRAY, 16), 1, 16), UNSUPPORTED)
error("bitmap.psd", psd(1 - scaled(GRAY, 1), 0, 1), "1-bit Photoshop images")
error("lab.psd", psd(RGB, 9), "CIE Lab")
for bits in (8, 16):
    same(f"gray{bits}.sgi", sgi(scaled(GRAY, bits), bits), GRAY)
    same(f"rgb{bits}.sgi", sgi(scaled(RGB, bits), bits), RGB)
error("rgb-12-of-16.sgi", sgi(scaled(RGB, 12), 16), TWELVE)
for format_ in ("BMP", "DDS", "DIB", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF"):
    same(f"rgb.{format_.lower()}", by_pillow(RGB, format_), RGB)
    if format_ != "QOI":
        same(f"gray.{format_.lower()}", by_pillow(GRAY, format_), GRAY)
same("gray.gif", by_pillow(GRAY, "GIF"), GRAY)
frames = [Image.fromarray(frame.squeeze()) for frame in (GRAY, 0 * GRAY)]
for format_ in ("GIF", "PNG", "TIFF", "WEBP"):
    same(
        f"frames.{format_.lower()}",
        by_pillow(GRAY, format_, save_all=True, append_images=frames[1:], lossless=True),
        GRAY,
    )
wide = GRAY.astype("uint16") * 257
for format_ in ("PNG", "TIFF", "JPEG2000"):
    same(f"gray16-by-pillow.{format_.lower()}", by_pillow(wide, format_), GRAY)

for name, data in others().items():
    expected = {"x.cur": on_white(RGB), "x.dcx": RGB}.get(name, GRAY)
    same(name, data, expected)

# === Lossy formats ===
same("rgb.webp", by_pillow(RGB, "WEBP", lossless=True), RGB)
same("rgb.jpg", by_pillow(RGB, "JPEG", quality=100, subsampling=0), RGB, 6)
same("rgb-untransformed.jpg", by_pillow(RGB, "JPEG", quality=100, keep_rgb=True), RGB, 6)
same("gray.jpg", by_pillow(GRAY, "JPEG", quality=100), GRAY, 4)
file = io.BytesIO()
Image.fromarray(inks, "CMYK").save(file, "JPEG", quality=100)
same("cmyk.jpg", file.getvalue(), RGB, 6)
same("rgb.avif", by_pillow(RGB, "AVIF", quality=100, subsampling="4:4:4"), RGB, 8)
same("gray.avif", by_pillow(GRAY, "AVIF", quality=100), GRAY, 8)
for path in sorted(FIXTURES.iterdir()):
    if path.name not in ("jp2_12_rgb.jp2", "jp2_signed_gray.jp2", "jpeg12_gray.jpg"):
        bits = int(path.name.split("_")[1]) if path.name.startswith("jp2") else 8
        expected = at(GRAY if "gray" in path.name else RGB, bits)
        same(path.name, path.read_bytes(), expected, 1 if path.suffix.startswith(".j2") else 8)
error("rgb12.jp2", (FIXTURES / "jp2_12_rgb.jp2").read_bytes(), "12-bit JPEG 2000 colors")
error("signed.jp2", (FIXTURES / "jp2_signed_gray.jp2").read_bytes(), "signed pixels")
error("gray12.jpg", (FIXTURES / "jpeg12_gray.jpg").read_bytes(), "12-bit layers")


def heic(pixels, bits, mode):
    samples = pixels if bits == 8 else (scaled(pixels, bits) << (16 - bits)).astype("uint16")
    image = pillow_heif.from_bytes(mode if bits == 8 else f"{mode};16", (WIDTH, HEIGHT), samples.tobytes())
    file = io.BytesIO()
    saved = pillow_heif.options.SAVE_HDR_TO_12_BIT
    pillow_heif.options.SAVE_HDR_TO_12_BIT = bits == 12
    try:
        image.save(file, quality=-1, chroma=444, matrix_coefficients=0)
    finally:
        pillow_heif.options.SAVE_HDR_TO_12_BIT = saved
    return file.getvalue()


for bits in (8, 10, 12):
    same(f"gray{bits}.heic", heic(GRAY, bits, "L" if bits == 8 else "I"), GRAY, 2)
    same(f"rgb{bits}.heic", heic(RGB, bits, "RGB"), RGB, 2)
    same(f"rgb{bits}-alpha.heic", heic(np.dstack([RGB, ALPHA]), bits, "RGBA"), on_white(RGB), 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_read_image_decodes_equal_pixels_from_every_form(name):
    data, expected, tolerance = FORMS[name]
    found = read_image(io.BytesIO(data), expected.shape[-1], name)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance
    check_image(io.BytesIO(data), name)


@pytest.mark.parametrize("color_type", [0, 2])
def test_read_image_warns_once_of_dark_16_bit_images(color_type, monkeypatch, caplog):
    """Dark images cannot be distinguished from unscaled 14-bit images that are in color or not saturated."""
    monkeypatch.setattr(bit_depth, "_reported_dark", set())
    samples = scaled(GRAY if color_type == 0 else RGB, 0, 15_000)
    for name in ("first.png", "second.png"):
        read_image(io.BytesIO(png(samples, 16, color_type)), name=name)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("first.png: 16-bit pixels of at most ")
    assert "unscaled 13-bit or 14-bit values, multiply all images by 8 or 4" in caplog.messages[0]


@pytest.mark.parametrize("name", ERRORS)
def test_read_image_rejects_unsupported_samples(name):
    data, text = ERRORS[name]
    with pytest.raises(ValueError, match=text) as caught:
        read_image(io.BytesIO(data), name=name)
    assert str(caught.value).startswith(f"{name}: ")


def test_forms_and_errors_are_collected():
    assert len(FORMS) > 280
    assert len(ERRORS) > 50
