"""Names in data sets: splits, classes, and what systems leave behind. Every reader uses these rules."""

import collections
import logging
import re
import unicodedata

from focalnets.names import repeated

_log = logging.getLogger("focalnets")

SPLITS = ("train", "val", "test")
ALL = "all"  # word for the images of all splits together

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "develop"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}

# Words that may stand beside a split word without a meaning of their own: "seg_train", "Test Images".
_FILLERS = {"set", "split", "data", "dataset", "image", "images", "img", "imgs", "seg", "the", "my", "x", "y"}
_SUFFIX = re.compile(r"(?:set|split|data|images|imgs)$")

# Compared without case. "@eaDir" and "#recycle" are Synology's, "lost+found" is ext4's.
_SYSTEM = frozenset(
    (
        *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
        *("@eadir", "#recycle", "@recycle", "#snapshot", "@tmp", "@__thumb"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
        *("__pycache__", "network trash folder", "temporary items"),
    )
)


def is_system_name(part):
    """Whether a name is hidden, or left by an operating system, network drive or editor.

    >>> from focalnets.data.naming import is_system_name
    >>> [is_system_name(part) for part in ("._cat.jpg", "Thumbs.db", "@eaDir", "cat.jpg")]
    [True, True, True, False]
    """
    return part.startswith(".") or part.lower() in _SYSTEM


def split_for(name):
    """The split that a name stands for: "train", "val" or "test", or None.

    The name is taken apart at spaces, points, hyphens and underscores, without regard to case. One of the
    words must name a split, alone or with "set", "data" or "images" attached to it. All others must be
    fillers such as "set", "images" or a year.

    >>> from focalnets.data.naming import split_for
    >>> [split_for(name) for name in ("Training", "test_set", "seg_train", "valid", "x_dev", "train2017")]
    ['train', 'test', 'train', 'val', 'val', 'train']
    >>> split_for("freight train"), split_for("tests")
    (None, None)
    """
    split, others = _taken_apart(name)
    return split if all(word in _FILLERS or _is_year(word) for word in others) else None


def named_splits(names, source):
    """Splits that a source lists by name: ({split: its name in the source}, names that are none of ours).

    Raises:
        ValueError: if two names stand for the same split.

    >>> from focalnets.data.naming import named_splits
    >>> named_splits(["train", "validation", "extra"], "The data")
    ({'train': 'train', 'val': 'validation'}, ['extra'])
    """
    found, others = {}, []
    for name in names:
        split = split_for(name)
        if split is None:
            others.append(name)
        elif split in found:
            raise ValueError(f"{source} has two splits that mean {split}: {found[split]} and {name}.")
        else:
            found[split] = name
    return found, others


def split_folders(names):
    """Which of some neighboring names stand for splits: name -> split.

    Beyond `split_for`, names that differ only in the word of the split are splits: "chest_xray_train" and
    "chest_xray_test".

    >>> from focalnets.data.naming import split_folders
    >>> split_folders(["birds_train", "birds_test", "toy_train", "labels"])
    {'birds_train': 'train', 'birds_test': 'test'}
    """
    found, alike = {}, collections.defaultdict(dict)
    for name in names:
        split, others = _taken_apart(name)
        if split is not None:
            alike[others][name] = split
        if split_for(name) is not None:
            found[name] = split
    for group in alike.values():
        if len(set(group.values())) > 1:
            found |= group
    return found


def _taken_apart(name):
    """(split or None, the other words), None as well where two words name splits."""
    split, others = None, []
    for word in re.split(r"[\s._-]+", name.casefold()):
        meaning = _SPLIT_WORDS.get(word) or _SPLIT_WORDS.get(_SUFFIX.sub("", _without_year(word)))
        if meaning is None:
            others.append(word)
        elif split is None:
            split = meaning
        else:
            return None, ()
    return split, tuple(word for word in others if word)


def _is_year(word):
    return re.fullmatch(r"(19|20)\d\d", word) is not None


def _without_year(word):
    return re.sub(r"(19|20)\d\d$", "", word)


def class_name(text):
    """A label in the form in which it is compared and stored: Unicode NFC, no white space around it, single
    spaces within. Case is kept.

    >>> from focalnets.data.naming import class_name
    >>> class_name("  big \\t cat "), class_name("e\\u0301tude") == "\\u00e9tude"
    ('big cat', True)
    """
    return " ".join(unicodedata.normalize("NFC", str(text)).split())


def equal_but_for_case(names):
    """Groups of class names that differ in case or white space only.

    >>> from focalnets.data.naming import equal_but_for_case
    >>> equal_but_for_case(["cat", "Cat", "hot dog", "hotdog", "bird"])
    [('Cat', 'cat'), ('hot dog', 'hotdog')]
    """
    groups = collections.defaultdict(list)
    for name in sorted(names):
        groups["".join(name.casefold().split())].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def distinct_class_names(names):
    """Class names as a tuple, each in the form of `class_name`.

    Raises:
        ValueError: if two classes have the same name: nothing could tell their images apart.

    >>> from focalnets.data.naming import distinct_class_names
    >>> distinct_class_names(["cat ", "hot  dog"])
    ('cat', 'hot dog')
    """
    names = tuple(class_name(name) for name in names)
    twice = repeated(names)
    if twice:
        raise ValueError(
            f"The classes have a name twice: {', '.join(twice[:5])}. Expected class names that differ in "
            "more than white space. Rename one of the two, or merge them."
        )
    return names


def checked_class_names(names):
    """`distinct_class_names`. Those that differ only in case stay two classes (letters), and are reported."""
    names = distinct_class_names(names)
    alike = equal_but_for_case(names)
    if alike:
        shown = "; ".join(" and ".join(map(repr, group)) for group in alike[:3])
        shown += f" and {len(alike) - 3} more" if len(alike) > 3 else ""
        _log.warning(
            "Classes whose names differ only in case or white space stay separate classes: %s.", shown
        )
    return names
