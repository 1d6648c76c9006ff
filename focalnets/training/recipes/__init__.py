"""One short file per recipe. The docstring gives the command and, where it was run, the result."""

import pkgutil


def recipe_names():
    """Sorted names of the recipes that ship with the package, without importing them.

    >>> from focalnets.training.recipes import recipe_names
    >>> "digits" in recipe_names()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
