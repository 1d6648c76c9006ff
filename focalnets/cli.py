"""Entry point of the command line. The module of a verb is imported only when the verb runs."""

import contextlib
import importlib
import io
import os
import re
import sys

from focalnets import __version__, process
from focalnets.names import printable_lines, unknown_name

# Verb -> line of the help. commands/<verb>.py has its code, and <Verb>Arguments in commands/arguments.py its
# arguments.
VERBS = {
    "train": "train a classifier on images",
    "recipes": "list, show and copy recipes",
    "evaluate": "measure accuracy on labeled images",
    "predict": "classify images",
    "embed": "write the features of images",
    "explain": "draw gates and modulators over images",
    "convert": "convert weights from and to other libraries",
    "export": "write a network for runtimes without Keras",
    "serve": "answer requests over HTTP with exported networks",
    "cache": "resize a data set once",
    "presets": "list architectures and published weights",
    "completion": "print a script for shell completion",
}

# Verbs that only print. They stop when the reader of a pipe leaves, while other verbs finish their files.
_PRINTING = ("recipes", "predict", "presets", "completion")

_HELP = f"""focalnets {__version__}: Focal Modulation Networks for Keras 3

usage: focalnets VERB [options]

{chr(10).join(f"  {verb:<12}{text}" for verb, text in VERBS.items())}

Use focalnets VERB --help for the options of a verb, and focalnets --version for the version.
Start here: focalnets train --recipe digits --out runs/digits

Exit codes: 0 success, 1 failure, 2 invalid arguments or data, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP,
141 closed pipe (predict ... | head -1).
"""


def main(argv=None):
    """Run a command line.

    Args:
        argv: list of str. Words after the name of the program. Defaults to those of this process.

    Returns:
        int. Exit code, as listed by `focalnets --help`.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    process.open_missing_streams()
    with process.stopping_in_order():
        try:
            code = _run(argv)
            sys.stdout.flush()
        except SystemExit as end:  # from tyro, after help and errors
            code = end.code or 0
        except process.Terminated as end:
            code = _complain("stopped.", 128 + end.number)
        except KeyboardInterrupt:
            code = _complain("stopped.", 130)
        except BrokenPipeError:
            process.drop_output()
            code = process.READER_LEFT
        except OSError as error:  # from `flush`
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
    if verb in ("train", "evaluate", "predict", "embed"):
        process.keep_freed_memory()
    try:
        if verb != "completion":  # shells run it at every start
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
    """Escape control characters in tyro's errors, which repeat words such as file names."""
    found = io.StringIO()
    try:
        with contextlib.redirect_stderr(found):
            yield
    finally:
        color = re.compile(r"(\x1b\[[0-9;]*m)")
        parts = color.split(found.getvalue())
        sys.stderr.write("".join(part if color.match(part) else printable_lines(part) for part in parts))


def _in_words(error):
    """Message and exit code for an exception."""
    code = 2 if isinstance(error, (ValueError, FileExistsError)) else 1
    if isinstance(error, OSError) and error.strerror:  # Python's text starts with "[Errno 28]"
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}.", code
    if code == 2:
        return error, code
    if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "jax", "tensorflow"):
        return f"Keras backend {error.name} is not installed: pip install 'focalnets[{error.name}]'.", 1
    if isinstance(error, (ImportError, OSError, FloatingPointError)):
        return error, 1
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    kind = type(error).__name__ + (f": {text}" if text else "")
    if _is_out_of_memory(error):
        return f"out of memory ({kind}). Use a smaller batch size, smaller images or a smaller network.", 1
    return (
        f"unexpected error ({kind}). This is probably a bug in focalnets. Run the command again with --debug "
        "and report the traceback.",
        1,
    )


def _is_out_of_memory(error):
    """Whether an exception means that memory is exhausted. Backends raise different types."""
    words = ("out of memory", "can't allocate memory", "RESOURCE_EXHAUSTED")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _complain(message, code):
    with contextlib.suppress(BrokenPipeError):  # standard error is closed, too
        print(f"focalnets: {printable_lines(message)}", file=sys.stderr)
    return code
