"""`focalnets recipes`."""

import dataclasses
import json
import os

from focalnets.files import expanded
from focalnets.names import say
from focalnets.output.paths import make_directory
from focalnets.training.recipe import load_recipe, recipe_file, recipe_names


def run(arguments):
    """List the recipes, print one, or copy its file."""
    if arguments.action == "list":
        width = max(map(len, recipe_names()))
        for name in recipe_names():
            text = recipe_file(name).read_text(encoding="utf-8")
            print(f"{name:<{width}}  {text.split(chr(10))[0].strip(chr(34))}")
        return
    if arguments.name is None:
        raise ValueError(f"No recipe given. Available recipes: {', '.join(recipe_names())}.")
    if arguments.action == "show":
        print(json.dumps(dataclasses.asdict(load_recipe(arguments.name)), indent=2))
        return
    if arguments.to is None:
        raise ValueError("No file given. Use focalnets recipes copy RECIPE FILE.py.")
    target = expanded(arguments.to)
    if target.suffix != ".py":
        raise ValueError(f"Expected a file name that ends in .py; got {arguments.to!r}.")
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists already. Choose another name.")
    make_directory(target.parent)
    with open(target, "xb") as file:  # fails if the file was created in the meantime
        file.write(recipe_file(arguments.name).read_bytes())
    say(f"recipe: {target}. Use it with --recipe {target}")
