"""Image formats: which ones are opened, and how a file's first bytes tell them apart.

The content decides the decoder. A suffix is a hint only: it says which files of a folder are meant to be
images, and names the few formats that have no signature.
"""

import pathlib
import re

# Bytes that `identify` needs: a HEIF container lists its brands here.
HEAD = 64

# Pillow format -> what its files start with. Left out on purpose: EPS and WMF (Pillow hands them to another
# program), BUFR, GRIB, HDF5 and MPEG (Pillow has no decoder), IPTC (a container that opens any format), FITS,
# MCIDAS and SPIDER (measurements without a known range), and IM, IMT, PCD and XVTHUMB (out of use).
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

# Formats without a signature, or with one that other files start with as well.
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

# Every Pillow format that is opened. HEIF needs the package pillow-heif (the extra `heic`).
FORMATS = tuple(dict.fromkeys((*_PATTERNS, *_BY_SUFFIX.values())))

# What often lies under the name of an image, by what it starts with in lower case.
_OTHERS = {
    rb"<!doctype html|<html": "a web page, perhaps of a failed download",
    rb"%!ps|\xc5\xd0\xd3\xc6": "PostScript, which is not read because it is a program",
    rb"%pdf": "a PDF; export its pages as PNG",
    rb"<\?xml|<svg": "XML, perhaps a vector image (SVG); export it as PNG",
    rb"version https://git-lfs": "a pointer of Git LFS; fetch the file with `git lfs pull`",
    rb".{4}ftyp|\x1a\x45\xdf\xa3": "a video",
    rb"pk\x03\x04": "a zip archive",
    rb"\xff\x0a|\x00\x00\x00\x0cjxl ": "JPEG XL, which is not supported; save it as PNG or JPEG",
    rb"simple  =": "FITS, whose pixels have no known range; save it with 8 or 16 bits",
}

# Suffixes of files that are meant to be images.
IMAGE_SUFFIXES = frozenset(
    """
    .jpg .jpeg .jpe .jfif .mpo .png .apng .gif .webp .avif .avifs .heic .heif .hif .bmp .dib .tif .tiff
    .jp2 .j2k .jpc .jpf .jpx .j2c .pbm .pgm .ppm .pnm .tga .icb .vda .vst .ico .cur .icns .psd .qoi
    .sgi .rgb .rgba .bw .ras .pcx .dcx .dds .xbm .xpm .msp .blp .ftc .ftu .pxr .fli .flc .gbr
    """.split()  # noqa: SIM905
)


def identify(head, name=""):
    """Pillow's name of an image format.

    Args:
        head: bytes. The first `HEAD` bytes of a file, or all of a shorter file.
        name: str. Name of the file. Its suffix decides where the content cannot. Defaults to "".

    Returns:
        A member of `FORMATS`, or None if the file is not an image that is opened.

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
    """What the content of a file is that `identify` does not know, for an error message.

    >>> from focalnets.images.formats import describe
    >>> describe(b"")
    'an empty file'
    >>> describe(b"%!PS-Adobe-3.0 EPSF-3.0")
    'not an image, whatever its name says: PostScript, which is not read because it is a program'
    """
    if not head:
        return "an empty file"
    start = head[:HEAD].lstrip().lower()
    known = next((text for pattern, text in _OTHERS.items() if re.match(pattern, start, re.DOTALL)), None)
    return "not an image, whatever its name says" + (f": {known}" if known else "")


def is_image(head):
    """Whether a file is an image, told from its first `HEAD` bytes.

    Formats without a signature (TGA, for instance) are known by their suffix only: see `IMAGE_SUFFIXES`.

    >>> from focalnets.images.formats import is_image
    >>> is_image(b"\\xff\\xd8\\xff\\xe0"), is_image(b"label,path"), is_image(b"")
    (True, False, False)
    """
    return identify(head) is not None
