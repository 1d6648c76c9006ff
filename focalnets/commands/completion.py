"""`focalnets completion`: a script with which bash or zsh complete verbs, options, names and paths.

The script is static: TAB starts no program. Libraries do less: tyro's script starts Python for every TAB and
does not complete positional words, and shtab's does not complete `--out=runs/` or quoted paths.
"""

import shlex
import typing
from dataclasses import dataclass

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from focalnets.cli import VERBS
from focalnets.commands.arguments import arguments_for
from focalnets.data.names import NAMES
from focalnets.presets.architectures import ARCHITECTURES
from focalnets.presets.checkpoints import CHECKPOINTS, bundled_directory
from focalnets.training.recipes import recipe_names


@dataclass(frozen=True)
class Word:
    """Words that an option or positional argument accepts.

    Attributes:
        kind: str. "paths", "directories", "python" (Python files) or "" for no paths.
        names: tuple of str. Accepted names.
    """

    kind: str = ""
    names: tuple[str, ...] = ()


def run(options):
    """Print the completion script of one shell."""
    print({"bash": bash_script, "zsh": zsh_script}[options.shell]())


def words_for(verb):
    """Words that can follow a verb.

    Returns:
        Tuple: dict of option to `Word` (None for a flag), list of the `Word` of each positional argument, and
        whether the last positional argument repeats.
    """
    options, positionals, repeats = {"--help": None}, [], False
    hints = typing.get_type_hints(arguments_for(verb), include_extras=True)
    for field, hint in hints.items():
        kind, *extras = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        if tyro.conf.Positional in extras:
            positionals.append(_word(kind, extras))
            repeats = any(getattr(extra, "nargs", None) == "*" for extra in extras)
            continue
        named = [extra.name for extra in extras if getattr(extra, "name", None)]
        flag = "--" + (named[0] if named else field.replace("_", "-"))
        options[flag] = None if kind is bool else _word(kind, extras)
    return options, positionals, repeats


def _word(kind, extras):
    if typing.get_origin(kind) is typing.Literal:
        return Word(names=typing.get_args(kind))
    spec = next((extra for extra in extras if isinstance(extra, PrimitiveConstructorSpec)), None)
    if spec is None:
        return Word()
    return Word(names=spec.choices) if spec.choices else _kinds().get(spec.metavar, Word())


def _kinds():
    published = [name for name, row in CHECKPOINTS.items() if row.source or bundled_directory(name)]
    return {
        "PRESET": Word("paths", tuple(published)),
        "DATA": Word("paths", NAMES),
        "RECIPE": Word("python", tuple(recipe_names())),
        "ARCHITECTURE": Word("", tuple(ARCHITECTURES)),
        "DIR": Word("directories"),
        "FILE": Word("paths"),
        "IMAGE...": Word("paths"),
        "PATH": Word("paths"),
        "SPLIT": Word("", ("train", "val", "test")),
    }


def bash_script():
    """Script for bash 3.2 (the version of macOS) and newer."""
    options, valued, places = [], [], {}
    for verb in VERBS:
        flags, positionals, repeats = words_for(verb)
        options.append(f"    {verb}) names={shlex.quote(' '.join(flags))} ;;")
        valued += [f"{verb}:{flag}" for flag, word in flags.items() if word is not None]
        for flag, word in flags.items():
            places.setdefault(word, []).append(f"{verb}:{flag}")
        for place, word in enumerate(positionals):
            last = repeats and place == len(positionals) - 1
            places.setdefault(word, []).append(f"{verb}:[{place}-9]*" if last else f"{verb}:{place}")
    cases = [
        f"    {'|'.join(patterns)})\n      kind={word.kind} names={shlex.quote(' '.join(word.names))} ;;"
        for word, patterns in places.items()
        if word not in (None, Word())
    ]
    script = _BASH.replace("@VERBS@", " ".join(VERBS)).replace("@VALUED@", "|".join(valued))
    return script.replace("@OPTIONS@", "\n".join(options)).replace("@PLACES@", "\n".join(cases))


_BASH = r"""# Completion of focalnets for bash, without starting a program.
# Use: eval "$(focalnets completion bash)"
_focalnets_takes_value() {
  case $1 in
    @VALUED@) return 0 ;;
  esac
  return 1
}
_focalnets() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} verb=${COMP_WORDS[1]}
  local kind= names= place=0 word before= i
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W '@VERBS@ --help --version' -- "$cur"))
    return
  fi
  # bash splits --out=runs into three words.
  if [[ $cur == = ]]; then cur=; elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
  for ((i = 2; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    if [[ $word == = ]]; then continue; fi
    if _focalnets_takes_value "$verb:$before"; then
      before=
    else
      before=$word
      if [[ $word != -* ]]; then ((place += 1)); fi
    fi
  done
  if _focalnets_takes_value "$verb:$prev"; then
    place=$prev
  elif [[ $cur == -* ]]; then
    place=
    case $verb in
@OPTIONS@
    esac
  fi
  case $verb:$place in
@PLACES@
  esac
  COMPREPLY=($(compgen -W "$names" -- "$cur"))
  # Without matches, readline completes paths (-o default), with quotes and ~.
  case $kind in
    paths|python)
      if ((${#COMPREPLY[@]})); then
        compopt -o filenames 2>/dev/null
        while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$cur")
      fi ;;
    directories) compopt -o dirnames +o default +o bashdefault 2>/dev/null ;;
    *) compopt +o default +o bashdefault 2>/dev/null ;;
  esac
}
complete -o bashdefault -o default -F _focalnets focalnets"""


def zsh_script():
    """Script for zsh with an initialized completion system (`compinit`)."""
    verbs = " ".join(shlex.quote(f"{verb}:{text}") for verb, text in VERBS.items())
    cases, functions = [], {}

    def action(word):
        return functions.setdefault(word, f"_focalnets_{len(functions)}")

    for verb in VERBS:
        options, positionals, repeats = words_for(verb)
        specs = [
            f"{flag}[]" if word is None else f"{flag}=[]:{flag.strip('-')}:{action(word)}"
            for flag, word in options.items()
        ]
        for place, word in enumerate(positionals, start=1):
            last = repeats and place == len(positionals)
            specs.append(f"{'*' if last else place}:word:{action(word)}")
        cases.append(f"    {verb}) _arguments {' '.join(map(shlex.quote, specs))} ;;")
    bodies = "\n".join(f"{name}() {{ {_zsh_body(word)} }}" for word, name in functions.items())
    return _ZSH.replace("@VERBS@", verbs).replace("@FUNCTIONS@", bodies).replace("@CASES@", "\n".join(cases))


def _zsh_body(word):
    paths = {"paths": "_files", "python": '_files -g "*.py"', "directories": "_files -/"}.get(word.kind)
    names = f"names:name:({' '.join(word.names)})" if word.names else ""
    found = [shlex.quote(one) for one in (names, paths and f"files:file:{paths}") if one]
    return f"_alternative {' '.join(found)}" if found else "_message value"


_ZSH = r"""#compdef focalnets
# Completion of focalnets for zsh, without starting a program.
# Use: eval "$(focalnets completion zsh)", after compinit
@FUNCTIONS@
_focalnets() {
  local verb=$words[2]
  local -a verbs=(@VERBS@)
  if ((CURRENT == 2)); then
    _describe verb verbs
    return
  fi
  shift words
  ((CURRENT--))
  case $verb in
@CASES@
  esac
}
if [[ $funcstack[1] == _focalnets ]]; then _focalnets "$@"; else compdef _focalnets focalnets; fi"""
