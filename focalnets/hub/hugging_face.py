"""Downloads from the Hugging Face hub by its client. No other module imports the client."""

import contextlib
import logging
import os
import pathlib
import re

from focalnets.hub.urls import in_words

_SAFE_NAME = re.compile(r'(W/)?"?[A-Za-z0-9_-]{1,128}"?')  # of a blob or commit, possibly in quotes
_LARGEST_FILE, _LARGEST_LISTING = 2**34, 2**26  # bytes. The largest published network has 3 * 2**30.
_MOST_ANSWERS = 1000
_FIRST_CHOICES = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".pth", ".bin", ".pth.tar")


def fetch(repository, filename, revision, cache, offline):
    """Implementation of `focalnets.hub.fetch_hugging_face`.

    Args:
        repository: str. "organization/name".
        filename: str or None. Path in the repository. `None` chooses the weights.
        revision: str or None. Branch, tag or commit. `None` is the main branch.
        cache: Path of the cache. None is the cache of the client.
        offline: str or None. Name of the environment variable that forbids network access.
    """
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository, re.ASCII):
        raise ValueError(f"{repository!r} is not a repository of the hub. Expected organization/name.")
    for path in (filename, revision):  # both become paths in the cache
        _refuse_outside(path)
    try:
        from huggingface_hub import HfApi, constants  # the package imports its modules lazily
    except ImportError as error:
        raise ImportError("hf:// addresses need huggingface_hub: pip install 'focalnets[hub]'.") from error
    cache = pathlib.Path(constants.HF_HUB_CACHE) if cache is None else cache
    # The client reads HF_ENDPOINT only when it is imported.
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
        f"hf://{repository} has {len(weights) or 'no'} files of weights. Expected one. Choose a file, as in "
        f"hf://{repository}/<file>. Its files: {', '.join(shown[:20]) or 'none'}{more}."
    )


def _refuse_outside(path):
    """Refuse names of files outside the cache, which some versions of the client accept."""
    parts = [] if path is None else re.split(r"[/\\:]", path)
    if any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise ValueError(
            f"{path!r} is not a file or revision of a repository. Expected a name such as deep/model.bin."
        )


@contextlib.contextmanager
def _explained(where, filename, cache, offline):
    """Replace the client's errors, which have several lines and types that depend on its version."""
    try:
        with _guarded():
            yield
    except Exception as error:
        raise _explanation(error, f"hf://{where['repo_id']}", where, filename, cache, offline) from error


@contextlib.contextmanager
def _guarded():
    """Check each response before the client uses it, and silence the client's log of retries.

    The client uses the ETag and the commit that a server sends as file names, without checking them.
    """
    from huggingface_hub.utils import get_session

    session, logger, answers = get_session(), logging.getLogger("huggingface_hub"), []

    def check(response):
        answers.append(response.url)
        if len(answers) > _MOST_ANSWERS:
            raise OSError(f"the server sent more than {_MOST_ANSWERS} pages")
        for name in ("ETag", "X-Linked-ETag", "X-Repo-Commit"):
            value = response.headers.get(name)
            if value is not None and not _SAFE_NAME.fullmatch(value):
                raise OSError(f"the server sent {name} {value[:60]!r}, which is not a safe file name")
        if "/api/" in response.url.path or response.status_code >= 300:
            _limit_body(response, _LARGEST_LISTING)
        elif response.request.method == "GET":
            length = response.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > _LARGEST_FILE:
                raise OSError("the server does not state the size of the file, or the file is too large")

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
                    raise OSError(f"the server sent more than {most} bytes of text")
                yield block

        def close(self):
            stream.close()

    response.stream = Limited()


def _explanation(error, name, where, filename, cache, offline):
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return ValueError(f"{name} is not a repository of the hub: {in_words(error)}.")
    if offline and isinstance(error, errors.LocalEntryNotFoundError):
        return OSError(
            f"No {filename} of {name} in the cache {cache}, and {offline} forbids downloading. Unset "
            f"{offline}, or copy the cache from a machine that has the file."
        )
    login = "log in with `hf auth login` or HF_TOKEN"
    if not isinstance(error, errors.LocalEntryNotFoundError):  # a subclass of EntryNotFoundError
        for kind, text in (  # the first is a subclass of the second
            (errors.GatedRepoError, f"is gated. Accept its conditions on its page, then {login}."),
            (errors.RepositoryNotFoundError, f"does not exist or is private. Check the name, or {login}."),
            (errors.RevisionNotFoundError, f"has no revision {where['revision']!r}. See its page."),
            (errors.EntryNotFoundError, f"has no file {filename!r}. See its page."),
        ):
            if isinstance(error, kind):
                return OSError(f"{name} {text}")
    elif error.__cause__ is not None:
        error = error.__cause__  # why the client could not reach the server
    return OSError(
        f"{filename} of {name} could not be downloaded: {in_words(error)}. Check the connection and "
        f"HF_ENDPOINT, try again later, or set FOCALNETS_OFFLINE=1 if the file is in the cache {cache}."
    )
