"""Downloads from http:// and https:// addresses by pooch."""

import http.client
import re
import shutil
import sys
import urllib.parse

from focalnets import __version__
from focalnets.files import reason
from focalnets.names import printable

STALL = 30.0  # seconds without data after which a download fails

_HINTS = {
    401: "It requires a login.",
    403: "It may require a login, or consent to a license.",
    404: "Check the address.",
    410: "The file was removed.",
}


def checked_url(url):
    """A valid http:// or https:// URL, percent-encoded and without its fragment.

    Raises:
        ValueError: if `url` is not such a URL, or contains a user name or password.
    """
    try:
        parts = urllib.parse.urlsplit(url.strip())
        has_host = bool(parts.hostname) and parts.port != 0  # `port` raises ValueError, too
    except ValueError as error:
        raise ValueError(f"{url!r} is not a URL ({error}). Expected https://host/file.") from error
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{url!r} cannot be downloaded. Expected http:// or https://.")
    if "@" in parts.netloc:  # the message must not show the password
        raise ValueError(
            "The URL contains a user name or password. Expected a URL without them. Download the file by "
            "other means and give its path."
        )
    if not has_host or not parts.netloc.isprintable() or re.search(r"[\s\\]", parts.netloc):
        raise ValueError(f"{url!r} has no host. Expected https://host/file.")
    path, query = (urllib.parse.quote(text, safe="%/:?[]@!$&'()*+,;=~") for text in (parts.path, parts.query))
    return parts._replace(path=path, query=query, fragment="").geturl()


def fetch(url, target):
    """Download a file. It gets its name when it is complete.

    Args:
        url: str. Return value of `checked_url`.
        target: `pathlib.Path` in an existing directory.

    Raises:
        ImportError: if pooch is not installed.
        OSError: if the file cannot be downloaded or written.
        ValueError: if the server does not state the size of the file, or redirects from https to http.
    """
    try:
        import pooch
        import requests
    except ImportError as error:
        raise ImportError("Downloads need pooch: pip install 'focalnets[hub]'.") from error
    pooch.get_logger().setLevel("ERROR")
    responses = []

    def check(response, **_):
        responses.append(response)
        _check(response, target.parent)

    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(),
        chunk_size=2**18,
        timeout=STALL,
        headers={"User-Agent": f"focalnets/{__version__}", "Accept-Encoding": "identity"},
        hooks={"response": check},
    )
    advice = "Try again later, or download the file by other means and give its path"
    try:
        pooch.retrieve(url, known_hash=None, fname=target.name, path=target.parent, downloader=downloader)
    except requests.HTTPError as error:
        code = error.response.status_code
        # The server's own phrase is not printed, because it may contain anything.
        status = f"the server answered {code} {http.client.responses.get(code, '')}".rstrip()
        raise OSError(f"{url} could not be downloaded: {status}. {_HINTS.get(code, f'{advice}.')}") from error
    except requests.RequestException as error:
        raise OSError(f"{url} could not be downloaded: {in_words(error)}. {advice}.") from error
    except OSError as error:
        raise OSError(
            f"{url} could not be downloaded to {target.parent} ({reason(error)}). Free disk space, or set "
            "FOCALNETS_CACHE to a directory on another disk."
        ) from error
    finally:
        for response in responses:
            response.close()


def _check(response, directory):
    """Check a response before its body is read."""
    if response.is_redirect:
        response.raw.close()  # otherwise requests reads a body of any length
        to = urllib.parse.urljoin(response.url, response.headers["location"])
        if response.url.startswith("https:") and not to.startswith("https:"):
            raise ValueError(
                f"{response.url} redirects to {printable(to)!r}, which is not encrypted. Ask its publisher "
                "for an https:// address."
            )
    elif response.ok:
        length = response.headers.get("Content-Length", "")
        if response.status_code != 200 or not re.fullmatch("[0-9]{1,18}", length):
            raise ValueError(
                f"{response.url}: the server does not state the size of a file (status "
                f"{response.status_code}). Check the address, or download the file by other means and give "
                "its path."
            )
        free = shutil.disk_usage(directory).free
        if int(length) > free:
            raise OSError(f"the file has {length} bytes, but only {free} bytes are free")


def in_words(error):
    """The cause of a failed download, on one line that is safe to print."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if "Timeout" in kinds or "TimeoutError" in kinds or "Read timed out" in str(error):
        return f"no data received for {STALL:g} s"
    text = (reason(error).strip().splitlines() or [""])[0]
    if "Caused by" in text:  # requests wraps urllib3's error, which wraps that of the system
        text = text.rpartition(": ")[2].rstrip("'\")")
    text = printable(re.sub(r"\[Errno -?\d+\] ", "", text))
    return text.rstrip(". ")[:300] or type(error).__name__
