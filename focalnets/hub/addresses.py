"""Which addresses are taken, and one request to one of them: a response, or why there is none in words."""

import http.client
import re
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request

from focalnets import __version__
from focalnets._io import reason

STALL = 30.0  # seconds without a byte after which a connection counts as broken

_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_HINTS = {
    401: "It asks for a login",
    403: "It may ask for a login or the acceptance of a license, or allow only so many downloads",
    404: "Check the address",
    410: "The file was taken away",
}

# What may stand in If-Range: a strong ETag (RFC 9110 section 8.8.3), or a date.
_VERSION = re.compile(r'"[\x21\x23-\x7e]*"|[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT')


class AttemptError(Exception):
    """What another attempt may mend; `anew` if it must not build upon the bytes that have come."""

    def __init__(self, text, anew=False):
        super().__init__(text)
        self.anew = anew


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, new_url):
        file.close()  # or urllib reads its body to an end that a hostile server need not send
        refuse_redirect(request.full_url, new_url)
        return super().redirect_request(request, file, code, message, headers, new_url)


def refuse_redirect(old, new):
    """ValueError if a server that sends us from URL `old` to URL `new` is not to be followed."""
    before, after = (urllib.parse.urlsplit(url).scheme for url in (old, new))
    if after not in ("http", "https") or (before == "https" and after == "http"):
        raise ValueError(
            f"{old} leads to {new!r}, which is not followed: on the way from {before}:// to {after}:// "
            "the file could be exchanged. Ask its publisher for another address."
        )


def checked_url(url):
    """`url` with all quoted that needs it and without fragment; ValueError if it is not http or https."""
    try:
        parts = urllib.parse.urlsplit(url.strip())
        named = bool(parts.hostname) and parts.port != 0  # `port` raises ValueError, too
    except ValueError as error:
        raise ValueError(f"{url!r} is no URL ({error}); check how it is written.") from error
    if parts.scheme not in ("http", "https"):
        raise ValueError(
            f"{url!r} cannot be downloaded: expected http:// or https://, got {parts.scheme or 'neither'}. "
            "Of a file on this machine, give the path."
        )
    if "@" in parts.netloc:  # not printed: it may be a secret
        raise ValueError(
            "A URL that holds a user's name or password is not taken: both would lie open in messages and in "
            "the cache. Download the file by other means and give its path."
        )
    if not named or not parts.netloc.isprintable() or re.search(r"[\s\\]", parts.netloc):
        raise ValueError(f"{url!r} names no host; expected http://host/file or https://host/file.")
    path, query = (urllib.parse.quote(text, safe="%/:?[]@!$&'()*+,;=~") for text in (parts.path, parts.query))
    return parts._replace(path=path, query=query, fragment="").geturl()


def open_url(url, headers):
    """The response to a GET request, redirects followed.

    Raises:
        AttemptError: if it failed in a way that passes.
        OSError: if it failed in a way that stays; the text is a sentence without its end.
        ValueError: if a redirect is refused.
    """
    request = urllib.request.Request(url, headers={"User-Agent": f"focalnets/{__version__}", **headers})
    try:
        return urllib.request.build_opener(_Redirects).open(request, timeout=STALL)
    except urllib.error.HTTPError as error:
        error.close()
        # Not the server's own phrase: that may hold anything, and goes to a terminal.
        status = f"the server says {error.code} {http.client.responses.get(error.code, '')}".rstrip()
        if error.code == 416:
            raise AttemptError("the server has no such part of the file", anew=True) from error
        if error.code in _TRANSIENT:
            raise AttemptError(status) from error
        if 300 <= error.code < 400:
            status = "its redirects lead in a circle, or to something else than http"
        raise OSError(f"{url}: {status}. {_HINTS.get(error.code, 'Check the address')}") from error
    except urllib.error.URLError as error:
        cause = error.reason if isinstance(error.reason, Exception) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            text = f"its certificate is not to be trusted ({cause.verify_message})"
            raise OSError(f"{url}: {text}. Check the date of this machine") from error
        if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
            text = "there is no such host. Check the address and the connection"
            raise OSError(f"{url}: {text}") from error
        raise AttemptError(in_words(cause)) from error
    except (OSError, http.client.HTTPException) as error:
        raise AttemptError(in_words(error)) from error


def version_of(headers):
    """The server's word for this version of a file, for If-Range; None if it gave none that serves."""
    words = (headers.get("ETag"), headers.get("Last-Modified"))
    return next((word for word in words if is_version(word)), None)


def is_version(word):
    """Whether `word` may be sent as If-Range."""
    return isinstance(word, str) and _VERSION.fullmatch(word) is not None


def in_words(error):
    """What broke a connection, in one line that may go to a terminal whatever the server wrote into it."""
    if isinstance(error, TimeoutError):
        return f"no byte came for {STALL:g} s"
    line = (reason(error).strip().splitlines() or [""])[0]
    text = re.sub(r"\[Errno -?\d+\] ", "", "".join(c if c.isprintable() else "?" for c in line))
    return text.rstrip(". ") or type(error).__name__
