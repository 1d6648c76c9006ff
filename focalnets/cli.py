"""The command line: verb -> argument dataclass and "module:function", imported only when the verb runs."""

import contextlib
import importlib
import os
import sys

from focalnets import __version__, config

VERBS = {
    "train": ("TrainArguments", "focalnets.training.command:run", "train a network on images"),
    "recipes": ("RecipesArguments", "focalnets.training.command:run_recipes", "list, show and copy recipes"),
    "evaluate": (
        "EvaluateArguments",
        "focalnets.inference.evaluate_command:run",
        "accuracy and confusion on labelled images",
    ),
    "predict": (
        "PredictArguments",
        "focalnets.inference.command:run",
        "say what is on pictures",
    ),
    "explain": (
        "ExplainArguments",
        "focalnets.explain.command:run",
        "draw gates and modulators over pictures",
    ),
    "convert": (
        "ConvertArguments",
        "focalnets.convert.command:run",
        "weights of other libraries, in and out",
    ),
    "cache": ("CacheArguments", "focalnets.data.command:run_cache", "resize a data set once"),
    "presets": (
        "PresetsArguments",
        "focalnets.presets.command:run",
        "list architectures and published weights",
    ),
    "completion": ("CompletionArguments", "focalnets.cli:print_completion", "let the shell complete words"),
}

_HELP = f"""focalnets {__version__}: Focal Modulation Networks for Keras 3

usage: focalnets VERB [options]

{chr(10).join(f"  {verb:<12}{text}" for verb, (_, _, text) in VERBS.items())}

focalnets VERB --help tells the options of a verb; focalnets --version the version.
Start here: focalnets train --recipe digits --out runs/digits
"""


def main(argv=None):
    """Run a command line; returns the exit code: 0, 1 for a failure, 2 for misuse, 130 for Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if argv[0] == "--version":
        print(f"focalnets {__version__}")
        return 0
    if argv[0] not in VERBS:
        return _complain(f"there is no verb {argv[0]!r}; there are: {', '.join(VERBS)}.", 2)

    import tyro

    from focalnets import arguments

    verb, (arguments_class, target, _) = argv[0], VERBS[argv[0]]
    options = tyro.cli(
        getattr(arguments, arguments_class),
        args=argv[1:],
        prog=f"focalnets {verb}",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    _take_any_names()
    if verb in ("train", "evaluate", "predict"):
        config.keep_freed_memory()
    if getattr(options, "backend", None):
        os.environ["KERAS_BACKEND"] = options.backend
    try:
        module, function = target.split(":")
        getattr(importlib.import_module(module), function)(options)
    except KeyboardInterrupt:
        return _complain("stopped.", 130)  # as a shell reports an interrupted program
    except (ValueError, FileExistsError) as error:
        if options.debug:
            raise
        return _complain(error, 2)
    except (ImportError, OSError, FloatingPointError) as error:
        if options.debug:
            raise
        if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "jax", "tensorflow"):
            extra = f"pip install 'focalnets[{error.name}]'"
            return _complain(f"the Keras backend {error.name} is not installed: {extra}.", 1)
        return _complain(error, 1)
    return 0


def print_completion(options):
    """Print the completion script of one shell, for all verbs and their options."""
    import tyro

    from focalnets import arguments

    verbs = {verb: getattr(arguments, name) for verb, (name, _, _) in VERBS.items()}
    with contextlib.suppress(SystemExit):  # it prints and exits
        tyro.extras.subcommand_cli_from_dict(
            verbs,
            prog="focalnets",
            args=["--tyro-print-completion", options.shell],
            config=(tyro.conf.FlagCreatePairsOff,),
        )


def _take_any_names():
    """Names of files may be no text of the terminal's encoding; files and pipes get UTF-8 on every system."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            chosen = stream.isatty() or "PYTHONIOENCODING" in os.environ
            stream.reconfigure(errors="backslashreplace", encoding=None if chosen else "utf-8")


def _complain(message, code):
    print(f"focalnets: {message}", file=sys.stderr)
    return code
