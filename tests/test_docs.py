"""Examples of all docstrings, and all blocks of the README and of docs/."""

import doctest
import importlib
import inspect
import json
import pathlib
import pkgutil
import re
import shlex
import shutil
import tempfile

import pytest

import focalnets
from focalnets.cli import main

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
MODULES = [
    module.name
    for module in pkgutil.walk_packages(focalnets.__path__, "focalnets.")
    if not module.name.endswith(("_ops", "_processes", "__main__", "triton_kernels"))  # need other packages
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["focalnets", *MODULES])
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # examples remove nothing
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_public_names_have_examples():
    for name in focalnets.__all__:
        value = getattr(focalnets, name)
        if (inspect.isclass(value) and name != "Recipe") or inspect.isfunction(value):
            assert ">>>" in value.__doc__, name
            assert len(value.__doc__) > 100, name


# A line that ends with this comment is skipped, and a whole block that starts with it. The comment gives the
# reason: a download, an installation, or more than a minute.
NOT_TESTED = re.compile(r"# not tested: \w.*")


def pages():
    """README.md, then the pages of docs/ in the order of its links."""
    linked = dict.fromkeys(re.findall(r"\(docs/(\w+\.md)\)", README.read_text()))
    assert set(linked) == {path.name for path in (ROOT / "docs").glob("*.md")}, "README links every page"
    return [README, *(ROOT / "docs" / name for name in linked)]


def blocks(page):
    """List of (number of the first line, language, text) of the blocks of code of a page."""
    language, found = None, []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if not line.startswith("```"):
            if language is not None:
                found[-1][2].append(line)
        elif language is None:
            language = line[3:]
            found.append((number + 1, language, []))
        else:
            language = None
    assert language is None, f"{page.name}: a block is not closed"
    return [(number, language, "\n".join(lines)) for number, language, lines in found]


def commands(text):
    """Words of each tested command of a bash block."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#") and not NOT_TESTED.search(line):
            yield shlex.split(line, comments=True)


def run_block(language, text):
    if language == "python":
        exec(compile(text, "block", "exec"), {"__name__": "__main__"})
        return
    for words in commands(text):
        assert words[0] == "focalnets", f"{words}: not a verb of focalnets; say `# not tested: <why>`"
        assert main(words[1:]) == 0, words


@pytest.mark.slow
def test_pages_run_block_by_block(tmp_path, monkeypatch):
    """In one directory, in the order of the pages and blocks."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.md"))
    for page in pages():
        for number, language, text in blocks(page):
            assert language in ("bash", "python", "text"), f"{page.name}, line {number}: {language!r}"
            if language == "text" or NOT_TESTED.match(text):
                continue
            try:
                run_block(language, text)
            except BaseException as error:
                raise AssertionError(f"{page.name}, block of line {number}: {error!r}") from error
    # The first training of the README.
    assert json.loads((tmp_path / "runs" / "first" / "evaluation.json").read_text())["top1"] > 0.9


def test_untested_blocks_are_few_and_have_a_reason():
    left_out = [
        line
        for page in pages()
        for _, language, text in blocks(page)
        for line in text.splitlines()
        if language in ("bash", "python") and "not tested" in line.lower()
    ]
    for line in left_out:
        assert NOT_TESTED.search(line), line
        assert re.search("download|install|hours|minutes|environment", line), line
    assert len(left_out) <= 12
