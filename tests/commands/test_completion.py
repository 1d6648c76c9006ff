"""Shell completion in interactive bash and zsh on a pseudo-terminal."""

import contextlib
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import time

import pytest

from focalnets.cli import VERBS, main
from focalnets.commands.completion import words_for
from focalnets.data.names import NAMES
from focalnets.presets.checkpoints import CHECKPOINTS
from focalnets.training.recipes import recipe_names

SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        "bind 'set enable-bracketed-paste off'; bind 'set bell-style none'; PS1='> '\n",
    ),
    "zsh": (["zsh", "-f", "-i"], "PS1='> '; autoload -Uz compinit; compinit -u -D\n"),
}
FILES = ["runs", "my photos", "cat.jpg", "set.zip", "recipe of mine.py"]

# (line typed before TAB, words that the program receives after Enter).
TYPED = [
    ("focalnets eval", ["evaluate"]),
    ("focalnets completion ba", ["completion", "bash"]),
    ("focalnets predict --js", ["predict", "--json"]),
    ("focalnets predict runs/m", ["predict", "runs/mine/"]),
    ("focalnets predict runs/mine/ my\\ ph", ["predict", "runs/mine/", "my photos/"]),
    ("focalnets predict runs/mine/ 'my photos/tw", ["predict", "runs/mine/", "my photos/two words.jpg"]),
    ("focalnets predict --top 3 runs/mine/ ca", ["predict", "--top", "3", "runs/mine/", "cat.jpg"]),
    ("focalnets predict focalnet_mic", ["predict", "focalnet_micro_cifar10"]),
    ("focalnets evaluate --data fash", ["evaluate", "--data", "fashion_mnist"]),
    ("focalnets evaluate runs/mine --data set", ["evaluate", "runs/mine", "--data", "set.zip"]),
    ("focalnets train --recipe dig", ["train", "--recipe", "digits"]),
    ("focalnets train --recipe rec", ["train", "--recipe", "recipe of mine.py"]),
    ("focalnets train --out runs/o", ["train", "--out", "runs/other/"]),
    ("focalnets train --out=runs/o", ["train", "--out=runs/other/"]),
    ("focalnets train --backend te", ["train", "--backend", "tensorflow"]),
    ("focalnets recipes sh", ["recipes", "show"]),
    ("focalnets recipes copy finet", ["recipes", "copy", "finetune"]),
    ("focalnets convert runs/mine --to tim", ["convert", "runs/mine", "--to", "timm"]),
    (
        "focalnets convert weights.pth --variant focalnet_pi",
        ["convert", "weights.pth", "--variant", "focalnet_pico"],
    ),
    ("focalnets cache dig", ["cache", "digits"]),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Working directory with runs, images and a recipe."""
    for name in ("runs/mine", "runs/other", "my photos"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("my photos/two words.jpg", "cat.jpg", "set.zip", "recipe of mine.py", "runs/only-a-file"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def type_lines(shell, lines, script, folder):
    """Type each line, TAB and Enter in an interactive shell, and return what the shell prints."""
    command, settings = SHELLS[shell]
    (folder / ".completion").write_text(script)
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="dumb", HOME=str(folder), LC_ALL="C.UTF-8")
        os.execvp(command[0], command)
    try:
        program = "focalnets() { printf '[%s]' \"$@\"; echo; }\n"
        os.write(terminal, f"{settings}{program}. ./.completion; echo sta''rted\n".encode())
        read_until(terminal, "started")
        found = []
        for number, line in enumerate(lines):
            os.write(terminal, f"{line}\t".encode())
            time.sleep(0.05)  # zsh does not complete while more keys are pending
            os.write(terminal, f"\recho end''ed{number}\r".encode())
            found.append(read_until(terminal, f"ended{number}"))
        return found
    finally:
        os.kill(child, 9)
        os.close(terminal)
        os.waitpid(child, 0)


def read_until(terminal, text, seconds=60):
    found, end = "", time.monotonic() + seconds
    while text not in found:
        assert time.monotonic() < end, found
        if select.select([terminal], [], [], 1)[0]:
            found += os.read(terminal, 65536).decode(errors="replace")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS)
def test_completion_in_interactive_shell(shell, folder, capsys):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert main(["completion", shell]) == 0
    lines = [line for line, _ in TYPED]
    printed = type_lines(shell, lines, capsys.readouterr().out, folder)
    for (line, words), text in zip(TYPED, printed, strict=True):
        expected = "".join(f"[{word.rstrip('/')}]" for word in words)
        assert expected in text.replace("/]", "]"), (line, text)  # zsh removes the slash after a folder


# (words of the command line, offered completions of the last word).
OFFERED = [
    (["focalnets", ""], {*VERBS, "--help", "--version"}),
    (["focalnets", "train", "--recipe", ""], {*recipe_names(), *FILES}),
    (["focalnets", "train", "--data", ""], {*NAMES, *FILES}),
    (["focalnets", "predict", "focalnet_n"], {"focalnet_nano_cifar10"}),
    (["focalnets", "train", "--backend", ""], {"torch", "jax", "tensorflow"}),
    (["focalnets", "train", "--cache-images", "=", ""], {"auto", "memory", "stream"}),
    (["focalnets", "evaluate", "runs/mine", "--split", ""], {"train", "val", "test"}),
    (["focalnets", "recipes", ""], {"list", "show", "copy"}),
    (["focalnets", "recipes", "show", "dig"], {"digits"}),
    (["focalnets", "completion", "--debug", ""], {"bash", "zsh"}),
    (["focalnets", "train", "--epochs", ""], set()),
    (["focalnets", "presets", ""], set()),
    (["focalnets", "trian", "--"], set()),
]


@pytest.mark.parametrize(("words", "offered"), OFFERED, ids=[" ".join(words) for words, _ in OFFERED])
def test_bash_completion_offers_words(words, offered, folder, capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    setup = f"\nCOMP_WORDS=({' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}\n"
    code = f"{script}{setup}PATH=/nowhere; _focalnets 2>/dev/null; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    ran = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert set(ran.stdout.split("\n")) - {""} == offered, ran.stderr


def test_words_for_has_every_option_of_help(capsys):
    for verb in VERBS:
        with contextlib.suppress(SystemExit):
            main([verb, "--help"])
        help_text = capsys.readouterr().out
        options = set(re.findall(r"^\W+ (--[a-z0-9-]+)", help_text, re.MULTILINE)) | {"--help"}
        assert set(words_for(verb)[0]) == options, verb


def test_completion_offers_available_presets_only(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    unavailable = {name for name in CHECKPOINTS if name.endswith("_iso_imagenet1k")}
    for name in CHECKPOINTS:
        assert (name in script) == (name not in unavailable)
