"""The check of the text itself: `tools/prose.py` finds the phrases of its table, and nothing in good text."""

import importlib.util
import pathlib

import pytest

PATH = pathlib.Path(__file__).parents[1] / "tools" / "prose.py"
_specification = importlib.util.spec_from_file_location("prose", PATH)
prose = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(prose)


@pytest.mark.parametrize(
    "line",
    [
        "A panel for each picture",
        "the net computes",
        "A bad image stops it",
        "weights in the box",
        "This is no preset",
        "so many stages",
        "it goes on from there",
        "the likeliest classes",
        "computed in pieces",
        "equal to the bit",
        "made anew",
        "the colour of a grey image, normalised",
        "images a second",
    ],
)
@pytest.mark.parametrize("form", ["# {}\n", '"""A module.\n\n{}\n"""\n', 'raise ValueError("{}")\n'])
def test_prose_finds_phrases_in_comments_docstrings_and_texts(line, form, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(form.format(line))
    assert list(prose.problems(path))


def test_prose_finds_docstrings_that_start_with_a_question(tmp_path):
    path = tmp_path / "module.py"
    path.write_text('def f():\n    """What it does."""\n')
    assert [(line, word) for line, word, _ in prose.problems(path)] == [(1, "What")]


def test_prose_accepts_plain_text(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("There is no such stage. `net` is code.\n```\nthe net of a picture\n```\n")
    assert list(prose.problems(path)) == []
