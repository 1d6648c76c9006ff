"""Downloads: local files of paths, URLs and hf:// addresses.

A file is downloaded once to `cache_directory()` and used from there, also offline. Downloads need the extra
`hub`, which installs pooch for URLs, and the client of the Hugging Face hub.
"""

import hashlib
import os
import pathlib
import re
import urllib.parse

from focalnets.files import locked, reason
from focalnets.hub import hugging_face, urls

_HUB_ID = re.compile(
    r"hf://(?P<repository>[^/@]+/[^/@]+)"
    r"(@(?P<revision>refs/(pr|convert)/[^/]+|[^/]+))?"  # the hub's own names of revisions with a slash
    r"(/(?P<filename>.+))?"
)


def local_file(source):
    """Return the local file of a source. Download it if necessary.

    Args:
        source: str or path. An existing path, "hf://organization/name[@revision][/file]", "https://host/file"
            or "http://host/file".

    Returns:
        `pathlib.Path` of a file, or of a directory if `source` is its path.

    Raises:
        ImportError: if the download needs a package that is not installed.
        OSError: if the file cannot be downloaded or written to the cache.
        ValueError: if `source` does not exist and is not an address.

    >>> import tempfile
    >>> from focalnets.hub import local_file
    >>> with tempfile.NamedTemporaryFile(suffix=".pth") as file:
    ...     print(local_file(file.name).suffix)
    .pth
    """
    text = os.fspath(source)
    if os.path.exists(text):
        return pathlib.Path(text)
    if re.match("https?://", text, re.IGNORECASE):
        return download(text)
    if (address := hub_address(text)) is not None:
        return fetch_hugging_face(**address)
    raise ValueError(
        f"File not found: {text!r}. Expected the path of a file, "
        "hf://organization/name[@revision][/file], https://host/file or http://host/file."
    )


def hub_address(text):
    """Repository, revision and file name of an hf:// address, as a dict. None for other texts.

    >>> from focalnets.hub import hub_address
    >>> hub_address("hf://timm/focalnet@refs/pr/3/deep/model.bin")
    {'repository': 'timm/focalnet', 'revision': 'refs/pr/3', 'filename': 'deep/model.bin'}
    """
    found = _HUB_ID.fullmatch(text)
    return None if found is None else found.groupdict()


def cache_directory():
    """Directory of downloads, conversions and exports: `$FOCALNETS_CACHE`, or the user's cache directory.

    Returns:
        Absolute `pathlib.Path`. The directory may not exist yet.

    Raises:
        OSError: if the home directory is unknown.

    >>> from focalnets.hub import cache_directory
    >>> cache_directory().is_absolute()
    True
    """
    try:
        if chosen := os.environ.get("FOCALNETS_CACHE"):
            return pathlib.Path(chosen).expanduser().absolute()
        import platformdirs

        return pathlib.Path(platformdirs.user_cache_dir("focalnets", appauthor=False)).expanduser().absolute()
    except RuntimeError as error:
        raise OSError(
            "The home directory, which contains the cache, is unknown. Set FOCALNETS_CACHE to a directory."
        ) from error


def private_directory(name):
    """A directory in the cache that only this user can write.

    In a shared cache, it may belong to another user. Then the user ID is appended to its name.

    Args:
        name: str. Name of the directory.

    Returns:
        `pathlib.Path` of an existing directory.

    Raises:
        OSError: if the directory cannot be made.
    """
    for chosen in (name, f"{name}-{os.getuid()}") if hasattr(os, "getuid") else (name,):
        path = cache_directory() / chosen
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not hasattr(os, "getuid"):
            return path
        if {path.lstat().st_uid, path.stat().st_uid} == {os.getuid()}:  # of a link and of its target
            if path.stat().st_mode & 0o077:  # only then: a finished cache may be read-only
                path.chmod(0o700)
            return path
    raise OSError(f"{path} belongs to another user. Set FOCALNETS_CACHE to a directory of your own.")


def download(url):
    """Return the file of a URL. Download it if it is not in the cache.

    Delete the file to download it again. If two processes need the same file, the second waits for the first.

    Args:
        url: str. An http:// or https:// address. Redirects are followed, except from https to http.

    Returns:
        `pathlib.Path` of the complete file, in `cache_directory()`/downloads/<hash of the URL>/.

    Raises:
        ImportError: if pooch is not installed.
        OSError: if the file cannot be downloaded or written, or FOCALNETS_OFFLINE=1 forbids it.
        ValueError: if the URL is invalid, or the server does not state the size of a file.

    >>> from focalnets.hub import download
    >>> path = download("https://example.org/weights.pth")  # doctest: +SKIP
    >>> download("ftp://example.org/weights.pth")
    Traceback (most recent call last):
    ...
    ValueError: 'ftp://example.org/weights.pth' cannot be downloaded. Expected http:// or https://.
    """
    url = urls.checked_url(url)
    target = _cached_path(url)
    if target.is_file():
        return target
    if variable := offline():
        raise OSError(
            f"{target.name} is not in the cache, and {variable} forbids downloading {url}. Unset {variable}, "
            f"or copy the file to {target}."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(".lock"), f"downloading {target.name}"):
            if not target.is_file():  # another process may have downloaded it
                for left in target.parent.glob("tmp*"):  # by a process that was killed
                    left.unlink()
                urls.fetch(url, target)
    except OSError as error:
        if str(error).startswith(url):
            raise
        raise OSError(
            f"The cache {target.parent} cannot be written ({reason(error)}). Set FOCALNETS_CACHE to a "
            "writable directory."
        ) from error
    return target


def fetch_hugging_face(repository, filename=None, revision=None):
    """Return a file of the Hugging Face hub. Download it with the hub's client if it is not in the cache.

    The cache is that of the client, so that files downloaded by timm or transformers are reused. `HF_HOME`,
    `HF_TOKEN` and `HF_ENDPOINT` work as usual. If FOCALNETS_CACHE is set, its subdirectory huggingface is the
    cache.

    Args:
        repository: str. "organization/name".
        filename: str. Path in the repository. Defaults to model.safetensors, pytorch_model.bin, or the only
            file with the suffix .safetensors, .pth or .bin.
        revision: str. Branch, tag or commit. Defaults to the main branch.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ImportError: if `huggingface_hub` is not installed.
        OSError: if the file cannot be downloaded. The message distinguishes wrong names, missing logins and
            network errors.
        ValueError: if a name is malformed, or the repository has no file of weights or several.

    >>> from focalnets.hub import fetch_hugging_face
    >>> path = fetch_hugging_face("timm/focalnet_tiny_srf.ms_in1k")  # doctest: +SKIP
    >>> fetch_hugging_face("focalnet_tiny_srf")
    Traceback (most recent call last):
    ...
    ValueError: 'focalnet_tiny_srf' is not a repository of the hub. Expected organization/name.
    """
    own = cache_directory() / "huggingface" if os.environ.get("FOCALNETS_CACHE") else None
    return hugging_face.fetch(repository, filename, revision, own, offline())


def _cached_path(url):
    """Path of the file of a URL in the cache."""
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
    name = re.sub("[^A-Za-z0-9._-]", "_", name)[-100:].strip(".")  # the end, for its suffix
    reserved = r"^(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)"  # on Windows
    name = re.sub(reserved, r"\1_", name, flags=re.IGNORECASE) or "download"
    # 80 bits: nobody can find another URL with the same directory.
    return cache_directory().absolute() / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:20] / name


def offline():
    """Name of the environment variable that forbids network access, or None."""
    for name in ("FOCALNETS_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "TRUE", "YES"):
            return name
    return None
