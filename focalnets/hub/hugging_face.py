"""Files of the Hugging Face hub, by its own client, which is imported only here."""

import contextlib
import logging
import os
import pathlib
import re

from focalnets.hub import transfer
from focalnets.hub.addresses import in_words

_NAME = re.compile(r'(W/)?"?[A-Za-z0-9_-]{1,128}"?')  # of a blob or a commit: hexadecimal digits, with quotes
_LARGEST_LISTING = 2**26  # bytes
_MOST_ANSWERS = 1000
_FIRST_CHOICES = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".pth", ".bin", ".pth.tar")


def fetch(repository, filename, revision, cache, offline):
    """See `focalnets.hub.fetch_hugging_face`, the public way here.

    Args:
        repository: "organization/name".
        filename: path in it, None to choose the weights.
        revision: branch, tag or commit, None for the main branch.
        cache: directory, None for the client's own.
        offline: name of the environment variable that forbids to use the network, None if none does.
    """
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository, re.ASCII):
        raise ValueError(f"{repository!r} is no repository of the hub: expected organization/name.")
    for path in (filename, revision):  # the client makes paths in its cache of both
        _refuse_outside(path)
    try:
        from huggingface_hub import HfApi, constants  # the package itself has not imported its modules
    except ImportError as error:
        raise ImportError("hf:// needs Hugging Face's client: pip install 'focalnets[hub]'.") from error
    cache = pathlib.Path(constants.HF_HUB_CACHE) if cache is None else cache
    # Asked for each time: the client itself reads the variable only when it is imported.
    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    where = {"repo_id": repository, "revision": revision}
    if filename is None:
        with _explained(where, "weights", cache, offline):
            names = _cached_names(hub, where, cache) if offline else hub.list_repo_files(**where)
        filename = _weights_among(names, repository)
    with _explained(where, filename, cache, offline):
        path = hub.hf_hub_download(
            filename=filename, cache_dir=cache, local_files_only=bool(offline), **where
        )
    return pathlib.Path(path)


def _cached_names(hub, where, cache):
    patterns = [f"*{suffix}" for suffix in _SUFFIXES]
    folder = hub.snapshot_download(cache_dir=cache, local_files_only=True, allow_patterns=patterns, **where)
    return [path.relative_to(folder).as_posix() for path in pathlib.Path(folder).rglob("*") if path.is_file()]


def _weights_among(names, repository):
    for name in _FIRST_CHOICES:
        if name in names:
            return name
    weights = [name for name in names if name.endswith(_SUFFIXES)]
    if len(weights) == 1:
        _refuse_outside(weights[0])  # a hub may list anything
        return weights[0]
    shown = [ascii(name)[1:-1] for name in sorted(weights or names)]
    more = f" and {len(shown) - 20} more" if len(shown) > 20 else ""
    raise ValueError(
        f"hf://{repository} has {len(weights) or 'no'} files of weights, and which is meant is not clear. "
        f"Name one, as in hf://{repository}/<file>; there are: {', '.join(shown[:20]) or 'none'}{more}."
    )


def _refuse_outside(path):
    """The client forbids what leads out of its cache as well, in some versions and not in others."""
    parts = [] if path is None else re.split(r"[/\\:]", path)
    if any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise ValueError(f"{path!r} is no file or revision of a repository; expected such as deep/model.bin.")


@contextlib.contextmanager
def _explained(where, filename, cache, offline):
    """Turn the client's errors into ours: they are of many lines, and of another library in each version."""
    try:
        with _guarded():
            yield
    except Exception as error:
        raise _explanation(error, f"hf://{where['repo_id']}", where, filename, cache, offline) from error


@contextlib.contextmanager
def _guarded():
    """Check each response before the client uses it, and keep its reports of retries from the terminal.

    The client makes file names of the ETag and the commit that a server sends, as they come.
    """
    from huggingface_hub.utils import get_session

    session, logger, answers = get_session(), logging.getLogger("huggingface_hub"), []

    def check(response):
        answers.append(response.url)
        if len(answers) > _MOST_ANSWERS:
            raise OSError("the server sends more and more pages")
        for name in ("ETag", "X-Linked-ETag", "X-Repo-Commit"):
            value = response.headers.get(name)
            if value is not None and not _NAME.fullmatch(value):
                raise OSError(f"the server sent {name} {value[:60]!r}, which must not become a file name")
        if "/api/" in response.url.path or response.status_code >= 300:
            _limit_body(response, _LARGEST_LISTING)
        elif response.request.method == "GET":
            length = response.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > transfer.LARGEST:
                raise OSError("the server does not say how long the file is, or it is too long")

    hooks, level = session.event_hooks, logger.level
    session.event_hooks = {**hooks, "response": [*hooks.get("response", []), check]}
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        session.event_hooks = hooks
        logger.setLevel(level)


def _limit_body(response, most):
    stream = response.stream

    class Limited(type(stream)):
        def __init__(self):
            pass

        def __iter__(self):
            count = 0
            for block in stream:
                count += len(block)
                if count > most:
                    raise OSError(f"the server sends more than {most} bytes of text")
                yield block

        def close(self):
            stream.close()

    response.stream = Limited()


def _explanation(error, name, where, filename, cache, offline):
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return ValueError(f"{name} is no repository of the hub: {in_words(error)}.")
    if offline and isinstance(error, errors.LocalEntryNotFoundError):
        return OSError(
            f"{filename} of {name} is not in the cache {cache}, and {offline} forbids to download it. "
            "Unset it, or copy that folder from a machine that has the file, or give a path instead of hf://."
        )
    login = "log in with `hf auth login` or HF_TOKEN"
    if not isinstance(error, errors.LocalEntryNotFoundError):  # which is an EntryNotFoundError, too
        for kind, text in (  # the first is a kind of the second
            (errors.GatedRepoError, f"is gated: accept its conditions on its page, then {login}."),
            (errors.RepositoryNotFoundError, f"is not there, or private: check the name, or {login}."),
            (errors.RevisionNotFoundError, f"has no revision {where['revision']!r}: see its page."),
            (errors.EntryNotFoundError, f"has no file {filename!r}: see its page, or leave the file out."),
        ):
            if isinstance(error, kind):
                return OSError(f"{name} {text}")
    elif error.__cause__ is not None:
        error = error.__cause__  # why it did not look further than the cache
    return OSError(
        f"{filename} of {name} could not be fetched: {in_words(error)}. Check the connection and "
        f"HF_ENDPOINT, try again later, or set FOCALNETS_OFFLINE=1 if it is in the cache {cache}."
    )
