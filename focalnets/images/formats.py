"""Supported image formats, and their identification by the first bytes of a file.

The content selects the decoder. The suffix only decides if a file of a folder is expected to be an image,
and identifies the few formats without a signature.
"""

import pathlib
import re

# Number of bytes that `identify` needs. They include the list of brands of a HEIF container.
HEAD = 64

# Pillow format -> signature. Not included: EPS and WMF (Pillow runs another program), BUFR, GRIB, HDF5 and
# MPEG (Pillow has no decoder), IPTC (a container of any format), FITS, MCIDAS and SPIDER (samples without a
# known range), and IM, IMT, PCD and XVTHUMB (obsolete).
_SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF.{4}WEBP",
    "AVIF": rb".{4}ftyp(avi[fs]|(mif1|msf1).*avi[fs])",
    "HEIF": rb".{4}ftyp(hei[cxms]|hev[cxms]|mif1|msf1)",
    "JPEG2000": rb"\xff\x4f\xff\x51|\x00\x00\x00\x0cjP  \r\n\x87\n",
    "TIFF": rb"II(\*\x00|\+\x00|\x00\*)|MM(\x00\*|\x00\+|\*\x00)",
    "BMP": rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00",
    "PPM": rb"P[1-6][\s#]",
    "ICO": rb"\x00\x00\x01\x00[^\x00]\x00.{4}[\x00\x01]\x00",
    "ICNS": rb"icns",
    "PSD": rb"8BPS\x00\x01",
    "QOI": rb"qoif",
    "SGI": rb"\x01\xda[\x00\x01][\x01\x02]",
    "SUN": rb"\x59\xa6\x6a\x95",
    "PCX": rb"\n[\x00\x02\x03\x05]\x01[\x01\x02\x04\x08]",
    "DCX": rb"\xb1\x68\xde\x3a",
    "DDS": rb"DDS \x7c\x00\x00\x00",
    "XPM": rb"/\* XPM \*/",
    "MSP": rb"DanM|LinS",
    "BLP": rb"BLP[12]",
    "FTEX": rb"FTEX",
    "PIXAR": rb"\x80\xe8\x00\x00",
}
_PATTERNS = {name: re.compile(pattern, re.DOTALL) for name, pattern in _SIGNATURES.items()}

# Formats without a signature, or whose signature is not unique.
_BY_SUFFIX = {
    **dict.fromkeys((".tga", ".icb", ".vda", ".vst"), "TGA"),
    **dict.fromkeys((".fli", ".flc"), "FLI"),
    ".bmp": "BMP",
    ".cur": "CUR",
    ".dib": "DIB",
    ".gbr": "GBR",
    ".ico": "ICO",
    ".xbm": "XBM",
}

# All supported Pillow formats. HEIF needs the package pillow-heif (the extra `heic`).
FORMATS = tuple(dict.fromkeys((*_PATTERNS, *_BY_SUFFIX.values())))

# Signature in lower case -> description of other content that often has the suffix of an image.
_OTHERS = {
    rb"<!doctype html|<html": "a web page, perhaps from a failed download. Download the image again",
    rb"%!ps|\xc5\xd0\xd3\xc6": "PostScript, which is not decoded because it is a program. Save it as PNG",
    rb"%pdf": "a PDF. Export its pages as PNG",
    rb"<\?xml|<svg": "XML, perhaps a vector image (SVG). Export it as PNG",
    rb"version https://git-lfs": "a Git LFS pointer. Fetch the file with `git lfs pull`",
    rb".{4}ftyp|\x1a\x45\xdf\xa3": "a video",
    rb"pk\x03\x04": "a zip archive",
    rb"\xff\x0a|\x00\x00\x00\x0cjxl ": "JPEG XL. Save it as PNG or JPEG",
    rb"simple  =": "FITS, whose pixels have no known range. Save it with 8 or 16 bits, as PNG or TIFF",
}

# Suffixes of files that are expected to be images.
IMAGE_SUFFIXES = frozenset(
    """
    .jpg .jpeg .jpe .jfif .mpo .png .apng .gif .webp .avif .avifs .heic .heif .hif .bmp .dib .tif .tiff
    .jp2 .j2k .jpc .jpf .jpx .j2c .pbm .pgm .ppm .pnm .tga .icb .vda .vst .ico .cur .icns .psd .qoi
    .sgi .rgb .rgba .bw .ras .pcx .dcx .dds .xbm .xpm .msp .blp .ftc .ftu .pxr .fli .flc .gbr
    """.split()  # noqa: SIM905
)


def identify(head, name=""):
    """Identify the format of an image.

    Args:
        head: bytes. The first `HEAD` bytes of a file, or all bytes of a shorter file.
        name: str. Name of the file. Its suffix identifies formats without a signature. Defaults to "".

    Returns:
        str. Pillow's name of the format, a member of `FORMATS`, or None if the format is not supported.

    >>> from focalnets.images.formats import identify
    >>> identify(b"GIF89a")
    'GIF'
    >>> identify(bytes(18), "scan.TGA")
    'TGA'
    """
    for format_, pattern in _PATTERNS.items():
        if pattern.match(head[:HEAD]):
            return format_
    return _BY_SUFFIX.get(pathlib.PurePath(name).suffix.lower())


def describe(head):
    """Describe the content of a file that `identify` does not know, for an error message.

    >>> from focalnets.images.formats import describe
    >>> describe(b"")
    'an empty file'
    >>> describe(b"%PDF-1.4")
    'not a supported image: a PDF. Export its pages as PNG'
    """
    if not head:
        return "an empty file"
    start = head[:HEAD].lstrip().lower()
    known = (text for pattern, text in _OTHERS.items() if re.match(pattern, start, re.DOTALL))
    return f"not a supported image: {next(known, 'its content has no known image format')}"


def is_image(head):
    """Check if the first `HEAD` bytes of a file are those of an image.

    Formats without a signature, such as TGA, are known by their suffix only. See `IMAGE_SUFFIXES`.

    >>> from focalnets.images.formats import is_image
    >>> is_image(b"\\xff\\xd8\\xff\\xe0"), is_image(b"label,path"), is_image(b"")
    (True, False, False)
    """
    return identify(head) is not None
