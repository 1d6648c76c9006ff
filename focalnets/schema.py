"""Reader for JSON files from untrusted sources, with limits and type checks.

A preset, run, cache or export can come from a download, a shared folder or an editor. `read_record` accepts
only regular files of limited size with strict JSON. Each value must have the declared type and range before
memory is allocated for it.

Source of the types: msgspec, https://jcristharif.com/msgspec/constraints.html.
"""

import collections
import contextlib
import dataclasses
import json
import math
import os
import re
import stat
import types
import typing

from focalnets.names import unknown_name

LARGEST_FILE = 2**24  # bytes. The names of 22,000 classes take 2**20.
_DEEPEST = 32  # levels of lists and objects. The files of focalnets have 4.
_MOST_DIGITS = 30


def read_record(path, kind, hint="", limit=LARGEST_FILE):
    """Read a JSON file and check it against a type.

    Args:
        path: str or `pathlib.Path`. Path of the file.
        kind: type. Type for `msgspec.convert`: a `msgspec.Struct`, a dataclass, `list[str]`.
        hint: str. Sentence that says how to fix the file. Defaults to "".
        limit: int. Largest size of the file in bytes. Defaults to 16 MiB.

    Returns:
        Instance of `kind`.

    Raises:
        ValueError: if the file is not strict JSON, or a value has another type or range. The message has the
            file, the field, the value and the expected type.
        OSError: if the file does not exist or cannot be read.

    >>> import pathlib, tempfile
    >>> from typing import Annotated
    >>> import msgspec
    >>> from focalnets.schema import read_record
    >>> class Size(msgspec.Struct):
    ...     side: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "size.json"
    >>> _ = path.write_text('{"side": 1000000000}')
    >>> read_record(path, Size)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: ...size.json: `side` is 1000000000, expected an integer from 1 to 8192.
    """
    return checked(read_json(path, limit), kind, path, hint)


def read_json(path, limit=LARGEST_FILE, finite=True):
    """Read a JSON file within limits, without checking types.

    Args:
        path: str or `pathlib.Path`. Path of the file. A byte order mark is skipped.
        limit: int. Largest size of the file in bytes. Defaults to 16 MiB.
        finite: bool. Whether to reject NaN and infinite numbers. Defaults to `True`.

    Raises:
        ValueError: if the file is not a regular file, too large, not UTF-8, or not strict JSON: equal keys,
            more than 32 levels, or numbers of more than 30 digits.
        OSError: if the file does not exist or cannot be read.
    """
    return parse_json(_text(path, limit), path, finite)


def parse_json(text, name, finite=True):
    """Parse JSON text like `read_json`. Errors start with `name`, the origin of the text."""
    options = {"parse_int": _integer, "object_pairs_hook": _object}
    if finite:
        options |= {"parse_float": _number, "parse_constant": _number}
    try:
        value = json.loads(text, **options)
        _check_depth(value)
    except RecursionError:
        raise ValueError(f"{name} is not valid JSON: {_TOO_DEEP}.") from None
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {_printable(str(error))}.") from error
    return value


def checked(value, kind, name, hint=""):
    """Convert a value from `json` to the type `kind`, see `read_record`."""
    import msgspec  # imported here, so that `--help` is fast

    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problem = _explained(str(error), value, msgspec.inspect.type_info(kind))
    raise ValueError(_printable(f"{name}: {problem}. {hint}".strip()))


def check_fields(record):
    """Check every field of a dataclass instance against its annotation.

    Called by `__post_init__`, so that the same limits apply in Python, on the command line and in files.

    Raises:
        ValueError: with the first field that is out of range.
    """
    import msgspec

    for name, kind in typing.get_type_hints(type(record), include_extras=True).items():
        value = getattr(record, name)
        if dataclasses.is_dataclass(kind):
            fits = isinstance(value, kind)  # its own `__post_init__` has checked it
        elif isinstance(value, float) and not math.isfinite(value):
            fits = False
        else:
            try:
                msgspec.convert(value.item() if hasattr(value, "item") else value, kind)  # NumPy scalars
                fits = True
            except msgspec.ValidationError:
                fits = False
        if not fits:
            if typing.get_origin(kind) is typing.Literal:
                expected = " or ".join(typing.get_args(kind))
            else:
                expected = _described(msgspec.inspect.type_info(kind))
            shown = repr(value[:60]) if isinstance(value, str) else _shown(value)
            raise ValueError(_printable(f"{name} must be {expected}; got {shown}."))


def read_changes(texts, kinds, noun):
    """Read texts NAME=VALUE, such as the words of `--set`.

    Args:
        texts: iterable of str. Sequences are separated by commas, None is written as "none".
        kinds: dict of name to type: bool, int, float, str, a `Literal`, or a tuple of these, with None or
            without.
        noun: str. What a name is, in the singular, for errors.

    Returns:
        dict of name to value.

    Raises:
        ValueError: if a name is unknown, or a text is not a value of its type.

    >>> from focalnets.schema import read_changes
    >>> read_changes(["epochs=5", "mean=0.5,0.25"], {"epochs": int, "mean": tuple[float, ...]}, "field")
    {'epochs': 5, 'mean': (0.5, 0.25)}
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"Expected NAME=VALUE; got {text!r}.")
        if name not in kinds:
            raise ValueError(unknown_name(noun, name, kinds))
        try:
            values[name] = _parsed(kinds[name], value)
        except ValueError as error:
            raise ValueError(f"{name} must be {error}; got {value!r}.") from error
    return values


def _parsed(kind, text):
    """Convert text to a type. The ValueError names what was expected."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if text.lower() == "none":
            return None
        return _parsed(next(part for part in arguments if part is not type(None)), text)
    if origin is tuple:
        return tuple(_parsed(arguments[0], part) for part in text.split(","))
    if origin is typing.Literal and text not in arguments:
        raise ValueError(" or ".join(arguments))
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("true or false")
        return text.lower() == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError("a whole number" if kind is int else "a number") from None
    return text


_TOO_DEEP = f"lists and objects are nested more than {_DEEPEST} levels deep"


def _text(path, limit):
    # O_NONBLOCK: opening a named pipe would wait for its writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is not a regular file. Expected a JSON file.")
    with open(descriptor, "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"{path} is larger than {limit} bytes, the limit for JSON files.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: byte {error.start} is not UTF-8.") from error


def _integer(text):
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _number(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:_MOST_DIGITS]} is NaN or infinite")
    return value


def _object(pairs):
    value = dict(pairs)
    if len(value) < len(pairs):
        key, _ = collections.Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {key[:40]!r} occurs twice in one object")
    return value


def _check_depth(value):
    level = [value]
    for _ in range(_DEEPEST + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    if level:
        raise ValueError(_TOO_DEEP)


def _explained(text, value, kind):
    """Rewrite a message of msgspec as "`field` is VALUE, expected TYPE"."""
    text, _, where = text.partition(" - at ")
    where = where.replace("`", "").removeprefix("key in ").removeprefix("$")
    keys = re.findall(r"\[(\d+|\.\.\.)\]|\.([^.\[]+)", where)
    path = "".join(f"[{index}]" if index else f".{name}" for index, name in keys).removeprefix(".")
    missing = re.fullmatch(r"Object missing required field `(.*)`", text, re.DOTALL)
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL)
    if missing or unknown:
        word, found = ("is missing", missing) if missing else ("is not a known field", unknown)
        return f"`{path + '.' if path else ''}{found[1][:60]}` {word}"
    with contextlib.suppress(KeyError, IndexError, TypeError, AttributeError):
        for index, name in keys:
            kind = _inside(kind, name)
            value = value[int(index) if index else name]  # fails if msgspec does not report the key
        return f"{f'`{path}`' if path else 'the content'} is {_shown(value)}, expected {_described(kind)}"
    return f"`{path}`: {text[:1].lower()}{text[1:]}" if path else text.rstrip(".")


def _inside(kind, name):
    """Type of a field, or of the items of a list if `name` is empty."""
    import msgspec.inspect as inspect

    for one in kind.types if isinstance(kind, inspect.UnionType) else (kind,):
        if name and hasattr(one, "fields"):
            return {field.encode_name: field.type for field in one.fields}[name]
        if not name and hasattr(one, "item_type"):
            return one.item_type
    raise KeyError(name)


def _described(kind):
    import msgspec.inspect as inspect

    if isinstance(kind, inspect.UnionType):
        kinds = [one for one in kind.types if "Unset" not in type(one).__name__]
        return " or ".join(_described(one) for one in kinds)
    if isinstance(kind, inspect.LiteralType):
        return f"one of {', '.join(map(str, kind.values))}"
    words = {
        inspect.IntType: "an integer",
        inspect.FloatType: "a number",
        inspect.StrType: "a text",
        inspect.BoolType: "true or false",
        inspect.NoneType: "null",
    }
    if type(kind) in words:
        return words[type(kind)] + _range(kind)
    if hasattr(kind, "item_type"):
        least, most = getattr(kind, "min_length", None), getattr(kind, "max_length", None)
        count = least if least == most else f"{least or 0} to {most}"
        return f"a list{'' if most is None else f' of {count}'}, each {_described(kind.item_type)}"
    return f"a list of {len(kind.item_types)}" if hasattr(kind, "item_types") else "an object"


def _range(kind):
    least, most = getattr(kind, "ge", None), getattr(kind, "le", None)
    above, below = getattr(kind, "gt", None), getattr(kind, "lt", None)
    if least is not None and most is not None:
        return f" from {least:g} to {most:g}" if most < 1e6 else f" from {least} to {most}"
    words = []
    for bound, word in ((least, "at least"), (above, "above"), (most, "at most"), (below, "below")):
        words += [] if bound is None else [f"{word} {bound}"]
    if getattr(kind, "max_length", None) is not None:
        words.append(f"of at most {kind.max_length} characters")
    return f" {' and '.join(words)}" if words else ""


def _shown(value):
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _printable(text):
    """Replace control characters, so that text from a file can be printed to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
