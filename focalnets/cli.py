"""The command line: verb -> its arguments and its file in `commands/`, imported only when the verb runs."""

import contextlib
import importlib
import io
import os
import re
import sys

from focalnets import __version__, process
from focalnets.names import printable_lines, unknown_name

# Verb -> what it does, a line of the help. Its file is commands/<verb>.py, and its arguments are the class
# <Verb>Arguments of commands/arguments.py.
VERBS = {
    "train": "train a classifier on images",
    "recipes": "list, show and copy recipes",
    "evaluate": "measure accuracy on labeled images",
    "predict": "classify images",
    "explain": "draw gates and modulators over images",
    "convert": "convert weights from and to other libraries",
    "export": "write a network for runtimes without Keras",
    "cache": "resize a data set once",
    "presets": "list architectures and published weights",
    "completion": "print a script for completion in the shell",
}

# Verbs whose result is what they print: they stop when its reader leaves. The others finish their files.
_PRINTING = ("recipes", "predict", "presets", "completion")

_HELP = f"""focalnets {__version__}: Focal Modulation Networks for Keras 3

usage: focalnets VERB [options]

{chr(10).join(f"  {verb:<12}{text}" for verb, text in VERBS.items())}

Run focalnets VERB --help for the options of a verb, and focalnets --version for the version.
Start here: focalnets train --recipe digits --out runs/digits

Exit codes: 0 success, 1 failure, 2 wrong arguments or data, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP,
141 when the reader of the printed results left (predict ... | head -1).
"""


def main(argv=None):
    """Run a command line.

    Args:
        argv: list of str. Words after the program's name. Defaults to those of this process.

    Returns:
        int. Exit code: 0 for success, 1 for a failure, 2 for misuse; as a shell reports it, 130 after Ctrl-C,
        143 after SIGTERM, 129 after SIGHUP, and 141 when the reader of the printed result left.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    process.open_missing_streams()
    with process.stopping_in_order():
        try:
            code = _run(argv)
            sys.stdout.flush()
        except SystemExit as end:  # of tyro's help and its errors
            code = end.code or 0
        except process.Terminated as end:
            code = _complain("stopped.", 128 + end.number)
        except KeyboardInterrupt:
            code = _complain("stopped.", 130)
        except BrokenPipeError:
            process.drop_output()
            code = process.READER_LEFT
        except OSError as error:  # of `flush`
            process.drop_output()
            code = _complain(*_in_words(error))
    return code


def _run(argv):
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if argv[0] == "--version":
        print(f"focalnets {__version__}")
        return 0
    if argv[0] not in VERBS:
        return _complain(unknown_name("verb", argv[0], VERBS), 2)

    import tyro

    from focalnets.commands.arguments import arguments_for

    verb = argv[0]
    with _printable_errors():
        options = tyro.cli(
            arguments_for(verb),
            args=argv[1:],
            prog=f"focalnets {verb}",
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    process.prepare_streams(finish=verb not in _PRINTING)
    if verb in ("train", "evaluate", "predict"):
        process.keep_freed_memory()
    try:
        if verb != "completion":  # which shells run whenever they start
            from focalnets.commands.checks import check

            check(verb, options)
        if getattr(options, "backend", None):
            os.environ["KERAS_BACKEND"] = options.backend
        importlib.import_module(f"focalnets.commands.{verb}").run(options)
    except BrokenPipeError:
        raise
    except Exception as error:
        if options.debug:
            raise
        return _complain(*_in_words(error))
    return 0


@contextlib.contextmanager
def _printable_errors():
    """tyro repeats words of the command line, which may be names of files that a pattern has found."""
    found = io.StringIO()
    try:
        with contextlib.redirect_stderr(found):
            yield
    finally:
        color = re.compile(r"(\x1b\[[0-9;]*m)")
        parts = color.split(found.getvalue())
        sys.stderr.write("".join(part if color.match(part) else printable_lines(part) for part in parts))


def _in_words(error):
    """(message, exit code) for an error of a job."""
    code = 2 if isinstance(error, (ValueError, FileExistsError)) else 1
    if isinstance(error, OSError) and error.strerror:  # Python's own text begins with "[Errno 28]"
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}.", code
    if code == 2:
        return error, code
    if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "jax", "tensorflow"):
        return f"the Keras backend {error.name} is not installed: pip install 'focalnets[{error.name}]'.", 1
    if isinstance(error, (ImportError, OSError, FloatingPointError)):
        return error, 1
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    kind = type(error).__name__ + (f": {text}" if text else "")
    if _is_out_of_memory(error):
        return f"out of memory ({kind}). Use a smaller batch size, smaller images or a smaller network.", 1
    return (
        f"unexpected error ({kind}). This is probably a bug in focalnets: run the command again with --debug "
        "for the traceback, and report it.",
        1,
    )


def _is_out_of_memory(error):
    """Each backend has an exception of its own for it, or only words."""
    words = ("out of memory", "can't allocate memory", "RESOURCE_EXHAUSTED")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _complain(message, code):
    with contextlib.suppress(BrokenPipeError):  # nobody reads that, either
        print(f"focalnets: {printable_lines(message)}", file=sys.stderr)
    return code
