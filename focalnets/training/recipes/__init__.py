"""One short file per experiment. Its docstring gives the command, and the result where it was run."""

import pkgutil


def recipe_names():
    """Names of the recipes that ship with focalnets, without importing them.

    >>> from focalnets.training.recipes import recipe_names
    >>> "digits" in recipe_names()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
