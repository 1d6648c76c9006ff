"""Names from outside: suggestions for unknown names, and safe ways to print hostile ones."""

import collections
import difflib
import json
import unicodedata

# Zero-width joiner and non-joiner: spelling in Persian and Indic scripts, and inside emoji.
_JOINERS = "\u200c\u200d"

# Cells that a spreadsheet may run as a formula start with one of these.
# Source: OWASP, "CSV Injection", https://owasp.org/www-community/attacks/CSV_Injection.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def unknown_name(kind, name, known, listing=None):
    """The error message for a name that does not exist.

    Args:
        kind: str. What the name should have named, in the singular, such as "recipe".
        name: str. The name that was given.
        known: iterable of str. The names that exist.
        listing: str or None. Sentence that says where all names are listed, for long lists. Defaults to
            None, which lists all of `known`.

    Returns:
        str. Up to three sentences: what was received, what exists, and the nearest names.

    >>> from focalnets.names import unknown_name
    >>> unknown_name("recipe", "digts", ["cifar100", "digits"])
    "Unknown recipe 'digts'. Available recipes: cifar100, digits. Did you mean 'digits'?"
    """
    known = list(known)
    available = f"Available {kind}s: {', '.join(known)}." if listing is None else listing
    return f"Unknown {kind} {name!r}. {available}{did_you_mean(name, known)}"


def did_you_mean(name, known):
    """A question that names the known names nearest to `name`, after a space; "" if none is near.

    Args:
        name: str. The name that was given.
        known: iterable of str. The names that exist.

    >>> from focalnets.names import did_you_mean
    >>> did_you_mean("Digits", ["digits", "mnist"])
    " Did you mean 'digits'?"
    """
    by_folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(str(name).casefold(), by_folded, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(by_folded[one]) for one in near)}?" if near else ""


def repeated(names):
    """The names that occur more than once.

    Args:
        names: iterable of str.

    Returns:
        list of str. Each once, in the order of the names.

    >>> from focalnets.names import repeated
    >>> repeated(["cat", "dog", "cat", "cat"])
    ['cat']
    """
    return [name for name, count in collections.Counter(names).items() if count > 1]


def sibling_names(path):
    """Names beside a path that does not exist, written as that path is, for `did_you_mean`.

    Args:
        path: `pathlib.Path`.

    Returns:
        list of str. Empty if there is no such folder.
    """
    try:
        return [str(path.with_name(child.name)) for child in path.parent.iterdir()]
    except (OSError, ValueError):  # the folder does not exist either, or the path has no name
        return []


def listed(names, most=10):
    """The first of some names for a message, the rest counted.

    >>> from focalnets.names import listed
    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    text = ", ".join(names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def plural(count, one, several=None):
    """The noun for a number of things, without the number.

    Args:
        count: int.
        one: str. The noun for 1.
        several: str or None. The noun for all other numbers. Defaults to None, which adds an s.

    >>> from focalnets.names import plural
    >>> [f"{count} {plural(count, 'class', 'classes')}" for count in (0, 1, 2)]
    ['0 classes', '1 class', '2 classes']
    """
    return one if count == 1 else several or f"{one}s"


def printable(text):
    r"""`text` with everything that could steer a terminal replaced by a backslash escape.

    Names of files and classes come from archives and downloads: an escape sequence in one could rewrite the
    screen, a line break could fake a line, and a change of writing direction could hide a suffix.

    Args:
        text: str. A name, or a message that contains names.

    Returns:
        str. Control characters, line separators, invisible format characters and undecodable bytes are
        replaced. Joiners that spelling and emoji need are kept.

    >>> from focalnets.names import printable
    >>> print(printable("cat\x1b[2J\n.jpg"))
    cat\x1b[2J\n.jpg
    """
    return "".join(character if _is_harmless(character) else _escaped(character) for character in str(text))


def printable_lines(text):
    """`printable` for a message of several lines: its line breaks are kept."""
    return "\n".join(printable(line) for line in str(text).split("\n"))


def say(text, file=None):
    """Print one line of text that contains names, `printable`.

    Args:
        text: str. The line.
        file: file object. Where to print. Defaults to standard output.
    """
    print(printable(text), file=file)


def json_text(value):
    r"""`value` as indented JSON that is readable and exact, and steers no terminal.

    Args:
        value: a value that JSON knows.

    Returns:
        str. Letters of all languages stand as they are; what `printable` would escape is a JSON escape.

    >>> from focalnets.names import json_text
    >>> print(json_text("Kätzchen\x9b2J"))
    "Kätzchen\u009b2J"
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(one if one == "\n" or _is_harmless(one) else json.dumps(one)[1:-1] for one in text)


def csv_cell(text):
    """A name as a CSV cell that no spreadsheet runs as a formula.

    Args:
        text: str. A name.

    Returns:
        str. `text` after an apostrophe if it starts with `=`, `+`, `-`, `@`, a tab or a line break (OWASP's
        rule), and unchanged otherwise.

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
