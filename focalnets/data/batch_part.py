"""`BatchPart`: the part of a batch that belongs to one process."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BatchPart:
    """Consecutive rows of a batch. Every process gets the same number of rows.

    If the rows of a batch are not divisible, padding fills up the last parts: copies of the first image, with
    targets and weights of zero.

    Args:
        rank, count: int. Number of the process from 0, and number of processes.
        devices: int. Number of devices of each process, which divides its number of rows. Defaults to 1.

    >>> import numpy as np
    >>> from focalnets.data.batch_part import BatchPart
    >>> [BatchPart(rank, 2).of(np.array([5, 6, 7])).tolist() for rank in range(2)]
    [[5, 6], [7, 5]]
    """

    rank: int
    count: int
    devices: int = 1

    def size(self, rows):
        """Number of rows of each process, for a batch of this number of rows."""
        return -(-rows // (self.count * self.devices)) * self.devices

    def of(self, rows):
        """Rows of this process, of an array of the rows of a batch."""
        size = self.size(len(rows))
        own = rows[self.rank * size : (self.rank + 1) * size]
        return np.concatenate([own, np.repeat(rows[:1], size - len(own))])

    def padded(self, targets, weights, rows):
        """Targets and weights of this process, with zeros for padding.

        Args:
            targets: array (size, ...) of the rows that `of` returned.
            weights: array (size,) of factors on their losses, or None.
            rows: int. Number of rows of the batch.

        Returns:
            Tuple of targets and float32 weights.
        """
        size = self.size(rows)
        own = max(0, min(size, rows - self.rank * size))
        weights = np.ones(size, "float32") if weights is None else weights.astype("float32")
        targets = targets.copy()
        targets[own:], weights[own:] = 0, 0
        return targets, weights
