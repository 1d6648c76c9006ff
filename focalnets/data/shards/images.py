"""`ShardImages`: labeled images in shards, read in chunks of neighbors. `Reading` reads them in advance."""

import collections
import concurrent.futures
import functools
import io
import logging
import threading

import numpy as np

from focalnets.data.file_images import FileImages, spread
from focalnets.data.shards.order import lane_order
from focalnets.data.shards.parquet import images_of_group
from focalnets.data.shards.stores import opened, read_range
from focalnets.data.shards.tars import images_in
from focalnets.files import reason

_log = logging.getLogger("focalnets")

# A chunk of a tar file: up to this many bytes, which a disk or an object store returns in one go, and about
# this many images, so that small images are shuffled well. In a Parquet file, a chunk is a row group.
_CHUNK_BYTES, _CHUNK_IMAGES = 2 * 2**20, 64

# Half of these bytes is for the window of the shuffle, half for the chunks of the lanes that are being read.
SHUFFLE_BYTES = 512 * 2**20
_MOST_LANES, _MOST_WINDOW = 64, 16_384

# Bytes that are read before their batch is computed.
_AHEAD_BYTES = 64 * 2**20
# Reads at a time, which hide the latency of a store, and their bytes. Decoding a row group takes four times
# its size.
_MOST_READS, _READ_BYTES = 8, 32 * 2**20

# Chunks that are kept after images were read without a `Reading`.
_RECENT = 8


class ShardImages(FileImages):
    """Images of shards, decoded on demand. Threads may use it concurrently.

    Args:
        shards: list of str. Paths and addresses.
        rows: list of `ShardRows`, one per shard. There must be an image.
        channels: int. 3 for RGB, 1 for grayscale.
    """

    def __init__(self, shards, rows, channels):
        self._shards = shards
        self._is_parquet = np.array([shard.lower().endswith(".parquet") for shard in shards])
        self._ends = np.cumsum([len(one) for one in rows])
        self._starts = np.concatenate([one.starts for one in rows])
        self._sizes = np.concatenate([one.sizes for one in rows])
        self._firsts = np.concatenate(
            [
                begin + _first_rows(one, parquet)
                for one, parquet, begin in zip(rows, self._is_parquet, [0, *self._ends[:-1]], strict=True)
            ]
        )
        super().__init__(_Names(shards, self._ends), None, channels)
        self._chunks, self._recent = {}, collections.OrderedDict()
        self._chunk_lock = threading.Lock()
        self._chunk_sizes = np.add.reduceat(self._sizes, self._firsts)
        largest = int(self._chunk_sizes.argmax())
        if self._chunk_sizes[largest] > SHUFFLE_BYTES:
            _log.warning(
                "A row group of %s has %.0f MB, which are read at once. Write row groups of 100 images.",
                shards[_shard_of(self._firsts[largest], self._ends)],
                self._chunk_sizes[largest] / 1e6,
            )

    @property
    def quick_problems(self):
        """No problems: a check would read all shards. Their headers were read, so they are complete."""
        return {}

    def identity(self, rows):
        """Yield bytes that identify images: their sizes, and the start of 32 images."""
        yield self._sizes[rows].tobytes()
        for row in spread(rows, 32):
            yield self.beginning(row)

    def read_or_list_unreadable(self, index, smallest=None):
        """`read`. Listing all unreadable images would read all shards."""
        try:
            return self.read(index, smallest)
        except ValueError as error:
            hint = "Repair the shard, or leave out unreadable images with --on-bad-image skip."
            raise ValueError(f"{error}. {hint}") from error

    def _stream(self, index):
        try:
            data = self._image(int(index))
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.names[index]}: {reason(error)}") from error
        if data is None:
            raise ValueError(f"{self.names[index]}: the row has no image")
        return io.BytesIO(data)

    # === Order ===

    def order(self, rows, batch_size, generator):
        """Order of images in an epoch, see `lane_order`.

        Args:
            rows: int array (N,). The images.
            batch_size: int. Images per batch of all processes.
            generator: NumPy generator or None. See `lane_order`.

        Returns:
            int array (N,), a permutation.
        """
        chunks = self.chunks(rows)
        sizes = self._chunk_sizes[np.unique(chunks)]
        largest, mean = int(sizes.max(initial=1)), max(1, int(self._sizes[rows].mean()) if len(rows) else 1)
        lanes = 2 ** int(np.log2(np.clip(SHUFFLE_BYTES // 2 // largest, 1, min(_MOST_LANES, batch_size))))
        return lane_order(chunks, batch_size, lanes, generator, min(SHUFFLE_BYTES // 2 // mean, _MOST_WINDOW))

    def reading(self, rows, batches):
        """`Reading` of images, in the order of use, with the batch of each."""
        return Reading(self, self.chunks(rows), batches)

    def chunks(self, rows):
        """Chunk of each image."""
        return np.searchsorted(self._firsts, rows, side="right") - 1

    # === Chunks in memory ===

    def hold(self, chunk):
        """Read a chunk in the background, and keep it until `release` was called as often as `hold`."""
        with self._chunk_lock:
            found = self._chunks.get(chunk)
            if found is None:
                found = self._chunks[chunk] = [self._pool.submit(self._read_chunk, chunk), 0]
            found[1] += 1
            return found[0]

    def release(self, chunk):
        """Drop a chunk that nobody else holds."""
        with self._chunk_lock:
            found = self._chunks[chunk]
            found[1] -= 1
            if not found[1]:
                found[0].cancel()
                del self._chunks[chunk]

    @functools.cached_property
    def _pool(self):
        reads = int(np.clip(_READ_BYTES // self._chunk_sizes.max(), 2, _MOST_READS))
        return concurrent.futures.ThreadPoolExecutor(reads, "focalnets-shards")

    def _image(self, row):
        chunk = int(self.chunks(row))
        with self._chunk_lock:
            found = self._chunks.get(chunk)
        future = self._recently(chunk) if found is None else found[0]
        try:
            images = future.result()
        except concurrent.futures.CancelledError:  # another thread released it
            images = self._read_chunk(chunk)
        return images[row - self._firsts[chunk]]

    def _recently(self, chunk):
        """Future of a chunk that no `Reading` holds. The last ones are kept, for images read in order."""
        future = self.hold(chunk)
        with self._chunk_lock:
            is_new = chunk not in self._recent
            self._recent[chunk] = None
            old = [] if len(self._recent) <= _RECENT else [self._recent.popitem(last=False)[0]]
        for one in old if is_new else (chunk, *old):
            self.release(one)
        return future

    def _read_chunk(self, chunk):
        """Image files of a chunk, as a list of bytes or memoryviews, or None for missing ones."""
        first = int(self._firsts[chunk])
        shard = _shard_of(first, self._ends)
        end = int(self._firsts[chunk + 1]) if chunk + 1 < len(self._firsts) else len(self._sizes)
        if self._is_parquet[shard]:
            with opened(self._shards[shard]) as file:
                images = images_of_group(file, int(self._starts[first]))
            if len(images) != end - first:
                raise ValueError("the shard has changed. Start again")
            return images
        starts, sizes = self._starts[first:end], self._sizes[first:end]
        data = read_range(self._shards[shard], int(starts[0]), int(starts[-1] + sizes[-1] - starts[0]))
        return images_in(data, starts, sizes)


class Reading:
    """Reads the chunks of an epoch in the order of their use, in the background, and drops them after it.

    Args:
        images: `ShardImages`.
        chunks, batches: int arrays (M,). Chunk and batch of each image, in the order of use.
    """

    def __init__(self, images, chunks, batches):
        self._images = images
        used, first = np.unique(chunks, return_index=True)
        last = np.zeros(len(used), "int64")
        np.maximum.at(last, np.searchsorted(used, chunks), batches)
        order = np.argsort(first, kind="stable")
        self._used, self._last = used[order], last[order]
        self._first = batches[first[order]]
        self._bytes = np.concatenate([[0], np.cumsum(images._chunk_sizes[self._used])])
        self._next, self._held = 0, {}  # chunk -> last batch

    def advance(self, batch, until):
        """Drop the chunks before a batch, and start to read those of the batches to `until`, and more."""
        for chunk in [chunk for chunk, last in self._held.items() if last < batch]:
            del self._held[chunk]
            self._images.release(chunk)
        needed = np.searchsorted(self._first, until, side="right")
        end = np.searchsorted(self._bytes, self._bytes[needed] + _AHEAD_BYTES, side="right") - 1
        for index in range(self._next, min(max(needed, end), len(self._used))):
            if self._last[index] >= batch:
                self._images.hold(int(self._used[index]))
                self._held[int(self._used[index])] = int(self._last[index])
            self._next = index + 1

    def close(self):
        """Drop all chunks."""
        for chunk in self._held:
            self._images.release(chunk)
        self._held = {}


class _Names:
    """Names of images in errors. There may be millions, so they are computed on demand."""

    def __init__(self, shards, ends):
        self._shards, self._ends = shards, ends

    def __len__(self):
        return int(self._ends[-1])

    def __getitem__(self, row):
        shard = _shard_of(row, self._ends)
        begin = int(self._ends[shard - 1]) if shard else 0
        return f"{self._shards[shard]}, image {int(row) - begin}"


def _shard_of(row, ends):
    """Index of the shard of an image, from the ends of the shards."""
    return int(np.searchsorted(ends, row, side="right"))


def _first_rows(rows, parquet):
    """First row of each chunk of a shard, int array."""
    if not len(rows):
        return np.zeros(0, "int64")
    blocks = rows.starts
    if not parquet:
        mean = max(1, int(rows.starts[-1] + rows.sizes[-1] - rows.starts[0]) // len(rows))
        blocks = (rows.starts - rows.starts[0]) // min(_CHUNK_BYTES, _CHUNK_IMAGES * mean)
    return np.flatnonzero(np.diff(blocks, prepend=-1))
