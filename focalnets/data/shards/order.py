"""`lane_order`: an order of images that needs few of them in memory, and that processes share.

The images of a data set are read in chunks: neighbors in a file. Each batch is divided into lanes, such as
64 lanes of two rows. Every lane has a part of the chunks, in random order, and reads it from start to end.
An image moves within its lane by a random distance of up to a window. So at any time, only the chunks within
the windows are in memory, and a process that computes some rows of each batch reads only the chunks of their
lanes.

The order depends on the seed, the epoch and the batch size, not on the number of processes.
"""

import numpy as np


def lane_order(chunks, batch_size, lanes, generator=None, window=0):
    """Order of the images of an epoch.

    Args:
        chunks: int array (N,). Chunk of each image.
        batch_size: int. Images of all processes per batch. The last batch may be smaller.
        lanes: int. Number of parts of a batch that read different chunks.
        generator: NumPy generator. Draws the order of the chunks and the distances. Defaults to `None`, the
            order of the chunks, without distances.
        window: int. Number of images of all lanes within which images are shuffled. Defaults to 0.

    Returns:
        int64 array (N,), a permutation.

    >>> import numpy as np
    >>> from focalnets.data.shards.order import lane_order
    >>> lane_order(np.arange(8) // 2, batch_size=4, lanes=2).tolist()
    [0, 1, 4, 5, 2, 3, 6, 7]
    """
    count = len(chunks)
    places = np.arange(count)
    in_batch, batch = places % batch_size, places // batch_size
    rows = np.minimum(batch_size, count - batch * batch_size)
    lane = in_batch * lanes // rows
    if generator is None:
        stream = np.argsort(chunks, kind="stable")
    else:
        different, chunks = np.unique(chunks, return_inverse=True)
        stream = np.argsort(generator.permutation(len(different))[chunks], kind="stable")
        # In every lane, the distance is added to the place in the lane. Lanes stay apart.
        ends = np.cumsum(np.bincount(lane, minlength=lanes))
        own = np.searchsorted(ends, places, side="right")
        moved = places + generator.random(count) * (window / lanes)
        stream = stream[np.lexsort((moved, own))]
    order = np.empty(count, "int64")
    order[np.argsort(lane, kind="stable")] = stream
    return order
