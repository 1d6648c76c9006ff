"""Every example in a docstring and every block of the README runs."""

import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re
import shlex
import tempfile

import pytest

import focalnets
from focalnets.cli import main

README = pathlib.Path(__file__).parents[1] / "README.md"
MODULES = [
    module.name
    for module in pkgutil.walk_packages(focalnets.__path__, "focalnets.")
    if not module.name.endswith(("_ops", "__main__"))  # other backends' files cannot be imported
]


@pytest.mark.parametrize("name", ["focalnets", *MODULES])
def test_docstring_examples(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # examples remove nothing
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


def test_every_public_name_has_an_example():
    for name in focalnets.__all__:
        value = getattr(focalnets, name)
        if (inspect.isclass(value) and name != "Recipe") or inspect.isfunction(value):
            assert ">>>" in value.__doc__, name
            assert len(value.__doc__) > 100, name


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def run_page(page, name):
    """The `focalnets` lines of a page, in order, then its Python."""
    lines = [line for block in blocks("bash", page) for line in block.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("focalnets")]
    for command in commands:
        if "cifar10.zip" not in command:  # not ours to ship
            assert main(command) == 0, command
    code = blocks("python", page)
    for block in code:
        exec(compile(block, name, "exec"), {})
    return commands, code


def test_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(README.parent / "docs")
    commands, code = run_page(README, "README.md")
    assert len(commands) >= 2
    assert code


@pytest.mark.parametrize("page", sorted((README.parent / "docs").glob("*.md")), ids=lambda p: p.name)
def test_pages(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert any(run_page(page, page.name))
