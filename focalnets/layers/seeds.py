"""Independent random generators that derive from one seed per network."""

import random

import numpy as np


def resolve_seed(seed):
    """`seed`, or a new one from Python's generator, which `keras.utils.set_random_seed` seeds.

    >>> from focalnets.layers.seeds import resolve_seed
    >>> resolve_seed(7)
    7
    """
    return random.randint(0, 2**31 - 1) if seed is None else int(seed)


def child_seed(seed, *path):
    """Integer seed that is hashed from `seed` and the integers in `path`.

    Keras on torch adds the number of calls to the seed. Layers with the seeds 0, 1 and 2 would therefore
    repeat each other's masks one step later. Hashed seeds give independent streams.

    >>> from focalnets.layers.seeds import child_seed
    >>> child_seed(0, 1) != child_seed(0, 2) != child_seed(1, 2)
    True
    """
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0] >> 1)
