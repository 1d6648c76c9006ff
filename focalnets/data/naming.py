"""Rules for the names of splits, classes and system files. All readers of data sets use them."""

import collections
import logging
import re
import unicodedata

from focalnets.names import repeated

_log = logging.getLogger("focalnets")

SPLITS = ("train", "val", "test")
ALL = "all"  # name of the images of all splits together

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "develop"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}

# Words without a meaning beside the name of a split: "seg_train", "Test Images".
_FILLERS = {"set", "split", "data", "dataset", "image", "images", "img", "imgs", "seg", "the", "my", "x", "y"}
_SUFFIX = re.compile(r"(?:set|split|data|images|imgs)$")

# Compared in lower case. Synology creates "@eaDir" and "#recycle", and ext4 creates "lost+found".
_SYSTEM = frozenset(
    (
        *("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
        *("@eadir", "#recycle", "@recycle", "#snapshot", "@tmp", "@__thumb"),
        *("$recycle.bin", "recycler", "system volume information", "lost+found"),
        *("__pycache__", "network trash folder", "temporary items"),
    )
)


def is_system_name(part):
    """Check if a name is hidden, or created by an operating system, network drive or editor.

    >>> from focalnets.data.naming import is_system_name
    >>> [is_system_name(part) for part in ("._cat.jpg", "Thumbs.db", "@eaDir", "cat.jpg")]
    [True, True, True, False]
    """
    return part.startswith(".") or part.lower() in _SYSTEM


def split_for(name):
    """Split that a name denotes: "train", "val", "test", or None.

    The name is split at spaces, dots, hyphens and underscores. Case is ignored. One of the words must denote
    a split, alone or followed by "set", "data" or "images". All other words must be fillers such as "set",
    "images" or a year.

    >>> from focalnets.data.naming import split_for
    >>> [split_for(name) for name in ("Training", "test_set", "seg_train", "valid", "x_dev", "train2017")]
    ['train', 'test', 'train', 'val', 'val', 'train']
    >>> split_for("freight train"), split_for("tests")
    (None, None)
    """
    split, others = _parse(name)
    return split if all(word in _FILLERS or _is_year(word) for word in others) else None


def named_splits(names, source):
    """Map splits to names in a source. Returns ({split: name}, names that do not denote a split).

    Raises:
        ValueError: if two names denote the same split.

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
            raise ValueError(f"{source} has two names for the split {split}: {found[split]} and {name}.")
        else:
            found[split] = name
    return found, others


def split_folders(names):
    """Names of neighboring folders that denote splits: name -> split.

    In addition to `split_for`, names that differ only in the word for the split denote splits, such as
    "chest_xray_train" and "chest_xray_test".

    >>> from focalnets.data.naming import split_folders
    >>> split_folders(["birds_train", "birds_test", "toy_train", "labels"])
    {'birds_train': 'train', 'birds_test': 'test'}
    """
    found, alike = {}, collections.defaultdict(dict)
    for name in names:
        split, others = _parse(name)
        if split is not None:
            alike[others][name] = split
        if split_for(name) is not None:
            found[name] = split
    for group in alike.values():
        if len(set(group.values())) > 1:
            found |= group
    return found


def _parse(name):
    """Tuple (split, other words). The split is None if no word or more than one word denotes a split."""
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
    """Normalize a label: Unicode NFC, without outer white space, and with single spaces. Case is preserved.

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
    """Tuple of class names, each normalized by `class_name`.

    Raises:
        ValueError: if two classes have the same name.

    >>> from focalnets.data.naming import distinct_class_names
    >>> distinct_class_names(["cat ", "hot  dog"])
    ('cat', 'hot dog')
    """
    names = tuple(class_name(name) for name in names)
    twice = repeated(names)
    if twice:
        raise ValueError(
            f"Duplicate class names: {', '.join(twice[:5])}. Expected class names that differ in more than "
            "white space. Rename or merge these classes."
        )
    return names


def checked_class_names(names):
    """`distinct_class_names`, with a warning about names that differ only in case or white space."""
    names = distinct_class_names(names)
    alike = equal_but_for_case(names)
    if alike:
        shown = "; ".join(" and ".join(map(repr, group)) for group in alike[:3])
        shown += f" and {len(alike) - 3} more" if len(alike) > 3 else ""
        _log.warning("Class names that differ only in case or white space are separate classes: %s.", shown)
    return names
