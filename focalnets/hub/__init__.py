"""A path, URL or hub id -> a local file: other people's weights, downloaded once.

What has been downloaded lies in `cache_directory()` and is used from there, also without a network. The
library needs nothing but Python's own for URLs; ids of the Hugging Face hub need its client, the extra `hub`.
"""

import contextlib
import hashlib
import os
import pathlib
import re
import sys
import urllib.parse

from focalnets._io import locked, reason
from focalnets.hub import hugging_face, transfer
from focalnets.hub.addresses import checked_url

_HUB_ID = re.compile(
    r"hf://(?P<repository>[^/@]+/[^/@]+)"
    r"(@(?P<revision>refs/(pr|convert)/[^/]+|[^/]+))?"  # the hub's own names of revisions with a slash
    r"(/(?P<filename>.+))?"
)


def local_file(source):
    """The local file that `source` names, downloaded if need be.

    Args:
        source: an existing path; "hf://organization/name", with "@revision" and "/file" after it or not;
            "https://..." or "http://...".

    Returns:
        `pathlib.Path`: of a file, or what is at the path given.

    Raises:
        ImportError: for hf:// without `huggingface_hub`.
        OSError: if it cannot be had, or the cache not be written.
        ValueError: if it is none of these.

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
    """The repository, revision and filename (or None) of an hf:// address, as a dict; None if it is none.

    >>> from focalnets.hub import hub_address
    >>> hub_address("hf://timm/focalnet@refs/pr/3/deep/model.bin")
    {'repository': 'timm/focalnet', 'revision': 'refs/pr/3', 'filename': 'deep/model.bin'}
    """
    found = _HUB_ID.fullmatch(text)
    return None if found is None else found.groupdict()


def cache_directory():
    """Where downloads are kept: `$FOCALNETS_CACHE`, or "focalnets" in the user's folder for caches.

    That folder is `$XDG_CACHE_HOME` or ~/.cache, on macOS ~/Library/Caches, on Windows `%LOCALAPPDATA%`.

    Returns:
        `pathlib.Path`, absolute; whether it exists or not.

    Raises:
        OSError: if the user has no home directory.

    Source: XDG Base Directory Specification, version 0.8.

    >>> from focalnets.hub import cache_directory
    >>> cache_directory().is_absolute()
    True
    """
    try:
        if os.environ.get("FOCALNETS_CACHE"):
            return pathlib.Path(os.environ["FOCALNETS_CACHE"]).expanduser().absolute()
        if sys.platform == "win32":
            convention, otherwise = os.environ.get("LOCALAPPDATA", ""), "~/AppData/Local"
        elif sys.platform == "darwin":
            convention, otherwise = "", "~/Library/Caches"
        else:
            convention, otherwise = os.environ.get("XDG_CACHE_HOME", ""), "~/.cache"
        # The specification wants relative paths ignored.
        folder = convention if os.path.isabs(convention) else otherwise
        return pathlib.Path(folder).expanduser() / "focalnets"
    except RuntimeError as error:
        raise OSError("There is no home directory to keep downloads in: set FOCALNETS_CACHE.") from error


def private_directory(name):
    """A folder of the cache that only this user can write, for what is used without being downloaded.

    A cache may be shared. What another user put there is not used: where the folder is another's, this user
    gets one of their own beside it.

    Args:
        name: str. Name of the folder in the cache.

    Returns:
        `pathlib.Path` of an existing folder.

    Raises:
        OSError: if no such folder can be made.
    """
    for chosen in (name, f"{name}-{os.getuid()}") if hasattr(os, "getuid") else (name,):
        path = cache_directory() / chosen
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not hasattr(os, "getuid"):
            return path
        if {path.lstat().st_uid, path.stat().st_uid} == {os.getuid()}:  # of a link, and of what it names
            if path.stat().st_mode & 0o077:  # not in any case: a finished cache may be read only
                path.chmod(0o700)
            return path
    raise OSError(f"{path} belongs to another user: set FOCALNETS_CACHE to a folder of your own.")


def download(url, directory=None, sha256=None, size=None):
    """The file of a URL, from the cache or over the network.

    A download that breaks off, or whose process is killed, goes on from there. Delete the file to have it
    anew. Two processes do not download one file at once: the second waits for the first by a lock file,
    which the system frees whatever becomes of the first, so that `.part` can have one name that the next
    process finds. (Names of their own for each would leave orphans that nobody may continue.)

    Args:
        url: http:// or https://. Redirects are followed, but none from https to http.
        directory: the cache; `cache_directory()` if None. Files lie in <directory>/downloads/<hash of the
            URL>/, under the URL's own name as far as that is a name that every system takes.
        sha256: hexadecimal digits that the file must have, also if it is in the cache; None if not known.
        size: bytes that it must have; None if not known.

    Returns:
        `pathlib.Path` of the complete file.

    Raises:
        OSError: if it cannot be had or written, or the network is forbidden by FOCALNETS_OFFLINE=1.
        ValueError: if the URL is not taken, or what came is not the file of that hash and size.

    Source: RFC 9110 sections 13.1.5 (If-Range) and 14 (Range).

    >>> from focalnets.hub import download
    >>> path = download("https://example.org/weights.pth", size=113_850_411)  # doctest: +SKIP
    >>> download("ftp://example.org/weights.pth")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: 'ftp://example.org/weights.pth' cannot be downloaded: expected http:// or https://, got ftp...
    """
    url = checked_url(url)
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256 := sha256.lower()):
        raise ValueError(f"sha256 must be 64 hexadecimal digits; got {sha256!r}.")
    target = _place(url, cache_directory() if directory is None else pathlib.Path(directory))
    if _is_there(target, sha256, size):
        return target
    if variable := _offline():
        state = "has another sha256 or size than expected" if target.is_file() else "is not there"
        raise OSError(
            f"{target.name} {state} in the cache {target.parents[2]}, and {variable} forbids to download "
            f"{url}. Unset it, or bring the file by other means to {target}."
        )
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(target.with_name(".lock"), f"downloading {target.name}"))
        except OSError as error:
            raise OSError(
                f"{target.parent} cannot be made or locked ({reason(error)}): set FOCALNETS_CACHE to a "
                "folder that you may write to, on a disk of this machine."
            ) from error
        if not _is_there(target, sha256, size):  # which another process has brought meanwhile
            transfer.fetch(url, target, sha256, size)
    return target


def fetch_hugging_face(repository, filename=None, revision=None):
    """A file of the Hugging Face hub, by its own client and through its own cache.

    Files that timm or transformers have brought serve here, too, and `HF_HOME`, `HF_TOKEN` and `HF_ENDPOINT`
    are obeyed. Where FOCALNETS_CACHE is set, files lie in its subfolder huggingface instead.

    Args:
        repository: "organization/name".
        filename: path in the repository; if None, model.safetensors or pytorch_model.bin or the only
            file that ends in .safetensors, .pth or .bin.
        revision: branch, tag or commit; the main branch if None.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ImportError: if `huggingface_hub` is not installed.
        OSError: if the file cannot be had; the text says whether it is the name, the login or the network.
        ValueError: if a name is malformed, or no file or more than one could be meant.

    >>> from focalnets.hub import fetch_hugging_face
    >>> path = fetch_hugging_face("timm/focalnet_tiny_srf.ms_in1k")  # doctest: +SKIP
    >>> fetch_hugging_face("focalnet_tiny_srf")
    Traceback (most recent call last):
    ...
    ValueError: 'focalnet_tiny_srf' is no repository of the hub: expected organization/name.
    """
    own = cache_directory() / "huggingface" if os.environ.get("FOCALNETS_CACHE") else None
    return hugging_face.fetch(repository, filename, revision, own, _offline())


def _place(url, cache):
    """Where in the cache the file of a URL belongs."""
    name = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
    name = re.sub("[^A-Za-z0-9._-]", "_", name)[-100:].strip(".")  # the end, for its suffix
    name = re.sub(
        r"^(con|prn|aux|nul|com\d|lpt\d)(?=\.|$)", r"\1_", name, flags=re.IGNORECASE
    )  # Windows' own
    # So many digits that nobody can make a URL whose file would be taken for another's.
    return (
        cache.absolute() / "downloads" / hashlib.sha256(url.encode()).hexdigest()[:20] / (name or "download")
    )


def _is_there(target, sha256, size):
    if not target.is_file() or size not in (None, target.stat().st_size):
        return False
    return sha256 is None or transfer.file_sha256(target) == sha256


def _offline():
    """The environment variable that forbids to use the network; None if none does."""
    for name in ("FOCALNETS_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").upper() in ("1", "ON", "TRUE", "YES"):
            return name
    return None
