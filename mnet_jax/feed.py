"""How the batches of a job reach the step: as indices of images that lie on the devices, or as images read ahead.

Either way `dataset` is what all runs of the job share on the devices, and the batches of a chunk have the axes
[S, T, B, ...]: runs, steps, images of a batch (`mnet_jax.step.Batches`).
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mnet_jax import sharding
from mnet_jax.data import pipeline
from mnet_jax.data.dataset import Dataset, epoch_order, sizes, split

CHUNK_STEPS = 50
"""Most updates between two looks at the clock, the checkpoint's age and the stop signal."""

CHUNK_BYTES = 1 << 28
"""Most bytes of images that are put on the devices at once, where the data set is not there as a whole."""

Batches = dict[str, Any]


class Chunk(NamedTuple):
    """The updates `first` to `first + count` of the T in `batches`."""

    batches: Batches
    first: int
    count: int


class DeviceFeed:
    """All images lie on every device; each run has the order of its batches, {"index": [S, T, B]}."""

    def __init__(self, dataset: Dataset, data: Any, seeds: Sequence[int], batch_size: int, mesh: Mesh):
        self.seeds, self.batch_size, self.mesh = seeds, batch_size, mesh
        self.splits = [split(dataset, seed, *sizes(data)) for seed in seeds]
        self.steps_per_epoch = len(epoch_order(0, 0, self.splits[0].train, batch_size))
        self.dataset = _on_devices(dataset, mesh)
        self.corrupt = 0  # every image in memory could be read
        columns = zip(*(_whole_batches(split.test, batch_size) for split in self.splits), strict=True)
        self._held_out = {
            name: self._put(np.stack(column)) for name, column in zip(("index", "mask"), columns, strict=True)
        }
        self._epoch: tuple[int, Batches] = (-1, {})

    def next_chunk(self, step: int) -> Chunk:
        """What comes after `step` updates: at most CHUNK_STEPS of the same epoch."""
        epoch, first = divmod(step, self.steps_per_epoch)
        if self._epoch[0] != epoch:
            runs = zip(self.seeds, self.splits, strict=True)
            orders = [epoch_order(seed, epoch, split.train, self.batch_size) for seed, split in runs]
            self._epoch = epoch, {"index": self._put(np.stack(orders))}
        return Chunk(self._epoch[1], first, min(CHUNK_STEPS, self.steps_per_epoch - first))

    def shapes(self) -> tuple[Batches, Batches]:
        """Shapes of a chunk's batches and of one piece of the held-out images, to compile for."""
        index = jax.ShapeDtypeStruct((len(self.seeds), self.steps_per_epoch, self.batch_size), np.int32)
        return {"index": index}, jax.tree.map(_shape, self._held_out)

    def held_out(self) -> Iterator[Batches]:
        """Every held-out image once, in one piece."""
        yield self._held_out

    def close(self) -> None:
        """There is nothing to end."""

    def _put(self, array: np.ndarray) -> jax.Array:
        return sharding.put(self.mesh, sharding.BATCHES, array)


class HostFeed:
    """Images are read, cropped and put on the devices one chunk ahead; every process reads its rows of each batch."""

    dataset: tuple[()] = ()

    def __init__(self, dataset: Dataset, data: Any, seeds: Sequence[int], batch_size: int, mesh: Mesh):
        self.mesh, self.batch_size = mesh, batch_size
        self.splits = [split(dataset, seed, *sizes(data)) for seed in seeds]
        shard = jax.process_index(), jax.process_count()
        runs = zip(seeds, self.splits, strict=True)
        self.feeds = [pipeline.Feed(dataset, split, data, seed, batch_size, shard) for seed, split in runs]
        self.steps_per_epoch = self.feeds[0].steps_per_epoch
        bytes_per_step = len(self.feeds) * batch_size * data.size**2 * dataset.shape[-1]
        self.chunk_steps = max(1, min(CHUNK_STEPS, self.steps_per_epoch, CHUNK_BYTES // bytes_per_step))
        self._ahead = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Chunk]] | None = None
        self._batches: list[Iterator[pipeline.Batch]] = []

    @property
    def corrupt(self) -> int:
        """Corrupt images that were skipped in what this process read."""
        return sum(feed.corrupt for feed in self.feeds)

    def next_chunk(self, step: int) -> Chunk:
        """What comes after `step` updates; reading the chunk after that begins."""
        if self._next is None or self._next[0] != step:
            self._batches = [feed.batches(step) for feed in self.feeds]
            self._next = step, self._ahead.submit(self._read, step)
        chunk = self._next[1].result()
        after = step + chunk.count
        self._next = after, self._ahead.submit(self._read, after)
        return chunk

    def shapes(self) -> tuple[Batches, Batches]:
        """Shapes of a chunk's batches and of one piece of the held-out images, to compile for."""
        size, dataset = self.feeds[0].data["size"], self.feeds[0].dataset

        def shapes(steps: int) -> Batches:
            axes = (len(self.feeds), steps, self.batch_size)
            targets = {
                name: jax.ShapeDtypeStruct((*axes, *array.shape[1:]), array.dtype)
                for name, array in dataset.targets.items()
            }
            images = jax.ShapeDtypeStruct((*axes, size, size, dataset.shape[-1]), np.uint8)
            return {"images": images, "targets": targets}

        mask = jax.ShapeDtypeStruct((len(self.feeds), 1, self.batch_size), np.float32)
        return shapes(self.chunk_steps), {**shapes(1), "mask": mask}

    def held_out(self) -> Iterator[Batches]:
        """Every held-out image once, a batch a piece."""
        for batches in zip(*(feed.held_out() for feed in self.feeds), strict=True):
            yield self._put([batches])

    def close(self) -> None:
        """Ends what reads ahead."""
        self._ahead.shutdown(cancel_futures=True)
        self._batches = []

    def _read(self, step: int) -> Chunk:
        count = min(self.chunk_steps, self.steps_per_epoch - step % self.steps_per_epoch)
        batches = [tuple(map(next, self._batches)) for _ in range(count)]
        batches += batches[-1:] * (self.chunk_steps - count)  # of an epoch's last chunk; no step uses them
        return Chunk(self._put(batches), 0, count)

    def _put(self, batches: Sequence[Sequence[pipeline.Batch]]) -> Batches:
        """[T][S] batches of this process's rows as global arrays."""

        def put(*rows_TS: np.ndarray) -> jax.Array:
            runs = len(self.feeds)
            local_STb = np.stack([np.stack(rows_TS[run::runs]) for run in range(runs)])
            shape = (*local_STb.shape[:2], self.batch_size, *local_STb.shape[3:])
            return sharding.put_rows(self.mesh, sharding.BATCHES, local_STb, shape)

        return jax.tree.map(put, *(batch for step in batches for batch in step))


def make(dataset: Dataset, data: Any, seeds: Sequence[int], batch_size: int, mesh: Mesh) -> DeviceFeed | HostFeed:
    """The feed of a job's runs by the config's section `data`."""
    return (HostFeed if data.size else DeviceFeed)(dataset, data, seeds, batch_size, mesh)


@functools.lru_cache(maxsize=2)
def _on_devices(dataset: Dataset, mesh: Mesh) -> tuple[jax.Array, dict[str, jax.Array]]:
    arrays = dataset.in_memory(), dict(dataset.targets)
    put: Callable[[np.ndarray], jax.Array] = functools.partial(sharding.put, mesh, sharding.EVERYWHERE)
    return jax.tree.map(put, arrays)


def _shape(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _whole_batches(indices: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """index_NB and mask_NB over all of `indices`, each exactly once; the last batch is filled up with masked images."""
    batches = -(-len(indices) // batch)
    index, mask = np.zeros(batches * batch, np.int32), np.zeros(batches * batch, np.float32)
    index[: len(indices)], mask[: len(indices)] = indices, 1
    return index.reshape(batches, batch), mask.reshape(batches, batch)
