"""Error messages for unknown names, and safe printing of names from untrusted sources."""

import collections
import difflib
import json
import unicodedata

# Zero-width non-joiner and joiner, needed by Persian and Indic scripts and by emoji.
_JOINERS = "\u200c\u200d"

# A spreadsheet may run cells that start with one of these as a formula.
# Source: OWASP, "CSV Injection", https://owasp.org/www-community/attacks/CSV_Injection.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def unknown_name(kind, name, known, listing=None):
    """Error message for an unknown name.

    Args:
        kind: str. Singular noun, such as "recipe".
        name: str. Name that was received.
        known: iterable of str. Available names.
        listing: str or None. Sentence that replaces a long list of names. Defaults to `None`, which lists all
            of `known`.

    Returns:
        str. Sentences with the received name, the available names, and the closest names.

    >>> from focalnets.names import unknown_name
    >>> unknown_name("recipe", "digts", ["cifar100", "digits"])
    "Unknown recipe 'digts'. Available recipes: cifar100, digits. Did you mean 'digits'?"
    """
    known = list(known)
    available = f"Available {kind}s: {', '.join(known)}." if listing is None else listing
    return f"Unknown {kind} {name!r}. {available}{did_you_mean(name, known)}"


def did_you_mean(name, known):
    """Question with the known names closest to `name`, after a space, or "" if none is close.

    Args:
        name: str. Name that was received.
        known: iterable of str. Available names.

    >>> from focalnets.names import did_you_mean
    >>> did_you_mean("Digits", ["digits", "mnist"])
    " Did you mean 'digits'?"
    """
    by_folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(str(name).casefold(), by_folded, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(by_folded[one]) for one in near)}?" if near else ""


def repeated(names):
    """List the names that occur more than once.

    Args:
        names: iterable of str.

    Returns:
        list of str. Each name once, in order of appearance.

    >>> from focalnets.names import repeated
    >>> repeated(["cat", "dog", "cat", "cat"])
    ['cat']
    """
    return [name for name, count in collections.Counter(names).items() if count > 1]


def sibling_names(path):
    """Paths of all files and folders in the parent of a path that does not exist, for `did_you_mean`.

    Args:
        path: `pathlib.Path`.

    Returns:
        list of str. Empty if the parent does not exist.
    """
    try:
        return [str(path.with_name(child.name)) for child in path.parent.iterdir()]
    except (OSError, ValueError):  # the parent does not exist, or the path has no name
        return []


def listed(names, most=10):
    """Join the first names for a message, and count the rest.

    >>> from focalnets.names import listed
    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    text = ", ".join(names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def plural(count, one, several=None):
    """Noun in singular or plural for a count.

    Args:
        count: int.
        one: str. Singular.
        several: str or None. Plural. Defaults to `None`, which adds an s.

    >>> from focalnets.names import plural
    >>> [f"{count} {plural(count, 'class', 'classes')}" for count in (0, 1, 2)]
    ['0 classes', '1 class', '2 classes']
    """
    return one if count == 1 else several or f"{one}s"


def printable(text):
    r"""Replace characters that control a terminal by backslash escapes.

    Names of files and classes come from archives and downloads. An escape sequence could rewrite the screen,
    a line break could fake a line, and a change of writing direction could hide a suffix.

    Args:
        text: str. Name, or message that contains names.

    Returns:
        str. Control characters, line separators, invisible format characters and undecodable bytes are
        replaced. Zero-width joiners are kept.

    >>> from focalnets.names import printable
    >>> print(printable("cat\x1b[2J\n.jpg"))
    cat\x1b[2J\n.jpg
    """
    return "".join(character if _is_harmless(character) else _escaped(character) for character in str(text))


def printable_lines(text):
    """Apply `printable` to each line of a message."""
    return "\n".join(printable(line) for line in str(text).split("\n"))


def say(text, file=None):
    """Print one line of text after `printable`.

    Args:
        text: str.
        file: file object. Defaults to standard output.
    """
    print(printable(text), file=file)


def json_text(value):
    r"""Indented JSON that is exact and safe to print to a terminal.

    Args:
        value: JSON-serializable value.

    Returns:
        str. Letters of all languages are unchanged. JSON escapes replace what `printable` escapes.

    >>> from focalnets.names import json_text
    >>> print(json_text("Kätzchen\x9b2J"))
    "Kätzchen\u009b2J"
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(one if one == "\n" or _is_harmless(one) else json.dumps(one)[1:-1] for one in text)


def csv_cell(text):
    """CSV cell that a spreadsheet does not run as a formula.

    Args:
        text: str.

    Returns:
        str. `text` with a leading apostrophe if it starts with `=`, `+`, `-`, `@`, a tab or a line break
        (OWASP's rule). Otherwise `text`.

    >>> from focalnets.names import csv_cell
    >>> csv_cell("=1+2.jpg"), csv_cell("cat.jpg")
    ("'=1+2.jpg", 'cat.jpg')
    """
    return f"'{text}" if str(text).startswith(_FORMULA_STARTS) else text


def _is_harmless(character):
    if character.isprintable() or character in _JOINERS:
        return True
    return unicodedata.category(character) in ("Zs", "Co", "Cn")  # spaces, private use, unassigned


def _escaped(character):
    return character.encode("unicode_escape").decode("ascii")
