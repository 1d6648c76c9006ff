"""One seed for a whole network, many independent generators inside it."""

import random

import numpy as np


def resolve_seed(seed):
    """`seed` itself, or a fresh one from Python's generator, which `keras.utils.set_random_seed` sets.

    >>> from focalnets.layers.seeds import resolve_seed
    >>> resolve_seed(7)
    7
    """
    return random.randint(0, 2**31 - 1) if seed is None else int(seed)


def child_seed(seed, *path):
    """A well-mixed integer seed for the generator at `path` (integers) below `seed`.

    Keras on torch adds the seed and the call counter, so layers seeded 0, 1, 2 would draw one another's
    masks a step later. Mixing keeps all streams apart.

    >>> from focalnets.layers.seeds import child_seed
    >>> child_seed(0, 1) != child_seed(0, 2) != child_seed(1, 2)
    True
    """
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0] >> 1)
