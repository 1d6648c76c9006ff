"""Find phrases that the glossary in CONTRIBUTING.md replaces. `python tools/prose.py` prints them.

It reads what a person reads: docstrings, comments and texts of Python files, and Markdown pages. The table is
the list of the commonest relapses, not a grammar.
"""

import ast
import io
import pathlib
import re
import subprocess
import sys
import tokenize

ROOT = pathlib.Path(__file__).parents[1]

# Pattern -> what to write instead. Case is ignored.
PHRASES = {
    r"\bpictures?\b": "image",
    r"\bunreadable pictures?\b|\bbad (picture|image)s?\b": "unreadable image",
    r"\bnets?\b(?!work)(?![-_.(/])": "network or model",
    r"\bin the box\b": "ships with the package",
    r"\b(is|are|was|were) no (?!longer|more\b|larger|smaller|less|other|need|place|such|room|effect|match)"
    r"(?<!there is no )(?<!there are no )(?<!there was no )(?<!there were no )": "is not a ...",
    r"\bso many\b|\bas many as\b": "N, this many, up to N",
    r"\b(is|are) (told|said)\b": "is printed, is reported",
    r"\bgo(es)? on\b|\bgoing on\b|\bgone on\b|\btaken? up\b": "continue, resume",
    r"\blearn(t|ed|s)? by heart\b": "overfits",
    r"\bsurest\b|\bhow sure\b": "most confident, confidence",
    r"\blikeliest\b": "most probable",
    r"\bproducts? of matrices\b|\bmatrix products?\b": "matrix multiplication",
    r"\bin pieces\b": "in chunks",
    r"\bdear(est)?\b": "expensive",
    r"\bis not there\b|\bis left over\b": "does not exist, remains",
    r"\bto the bit\b": "bit for bit identical",
    r"\btheirs\b|\bof it\b|\bwhatever\b|\bwherever\b": "the noun",
    r"\banew\b": "again",
    r"\bturns? out\b|\bturned out\b": "is",
    r"\bone a (stage|picture|image|class|line|block)\b|\bimages a second\b": "one per ..., images per second",
    r"\bvariations?\b": "augmentation",
    r"\bgrow(s|n|ing)? (the )?(focal )?(windows?|levels?)\b": "expand",
    r"\btaken for\b": "confused with",
    r"\bas is best\b|\bas it likes\b": "how, in the field's words",
    # American spelling
    r"\b\w*(colour|behaviour|favour|neighbour)\w*\b": "-or",
    r"\b(licence|centre|metre)s?\b": "license, center, meter",
    r"\bgrey\b": "gray, grayscale",
    r"\b(normal|optim|initial|recogn|organ|serial|visual|summar|rematerial|quant|standard)is"
    r"(e|ed|es|er|ers|ing|ation)\b": "-ize",
    r"\b(labell|modell|cancell)(ed|ing)\b": "labeled, modeled, canceled",
}
_QUESTION = re.compile(r"(What|Which|Where|How|Who)\b")

# Names of other people's, and data: not our words.
IGNORED = (
    "CHANGELOG.md",
    "tests/fixtures",
    "benchmarks/results",
    "tools/prose.py",
    "tests/test_prose.py",
)
ALLOWED = re.compile(
    r"HOUSE|`[^`]*`|https?://\S+|\bAs many as\b|colour_jitter|backbone__colour|[\"'](pictures?|net)[\"']"
)


def texts(path):
    """Yield (line, text) of comments, docstrings and strings of a Python file, or lines of a page."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        fenced = False
        for number, line in enumerate(source.splitlines(), 1):
            fenced ^= line.lstrip().startswith("```")
            if not fenced:
                yield number, line
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING) or token.type == getattr(
            tokenize, "FSTRING_MIDDLE", -1
        ):
            for offset, line in enumerate(token.string.splitlines()):
                if not line.lstrip().startswith((">>>", "...")):
                    yield token.start[0] + offset, line


def docstring_starts(path):
    """Yield (line, first word) of docstrings that start with a question word."""
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(node)
            if text and (found := _QUESTION.match(text)):
                yield getattr(node, "lineno", 1), found[0]


def problems(path):
    """Yield (line, phrase, advice) of a file."""
    for number, line in texts(path):
        cleaned = ALLOWED.sub("", line)
        for pattern, advice in PHRASES.items():
            for found in re.finditer(pattern, cleaned, re.IGNORECASE):
                yield number, found[0], advice
    for number, word in docstring_starts(path):
        yield number, word, "start a docstring with a noun phrase or a verb"


def files():
    """Paths of the tracked Python files and pages."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if not name.startswith(IGNORED) and (ROOT / name).is_file():
            yield ROOT / name


def main():
    """Print all problems; return the exit code."""
    count = 0
    for path in files():
        for number, phrase, advice in problems(path):
            count += 1
            print(f"{path.relative_to(ROOT)}:{number}: {phrase!r}: {advice}")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
