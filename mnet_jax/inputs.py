"""What the steps of a job are fed with: indices of images that lie on the device, or windows of images made ahead.

Either way `shared` arrays are the same for all runs of the job, and own arrays have the axes [S, T, B, ...]: runs,
steps, images of a batch (`mnet_jax.step`).
"""

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mnet_jax import sharding
from mnet_jax.data import dataset, pipeline

CHUNK_STEPS = 50
"""Updates between two looks at the clock, the checkpoint's age and the stop signal, at most."""

WINDOW_BYTES = 1 << 28
"""Of images that are made and put on the devices at once, where they do not all fit there."""

Arrays = tuple[jax.Array, ...]


class Window(NamedTuple):
    """The updates `first` to `first + count` of the T in `own`."""

    own: Arrays
    first: int
    count: int


class Resident:
    """All images on every device; each run has the order of its batches, (index_STB,), and (index_SNB, mask_SNB)."""

    def __init__(self, source: dataset.Dataset, data: Any, seeds: Sequence[int], batch_size: int, mesh: Mesh):
        self.seeds, self.batch_size, self.mesh = seeds, batch_size, mesh
        self.splits = [dataset.split(source, seed, data.train_size, data.holdout) for seed in seeds]
        self.per_epoch = len(dataset.epoch_order(0, 0, self.splits[0].train, batch_size))
        self.shared = _on_devices(source, mesh)
        self.skipped = 0  # images in memory are whole
        held_out = [_whole_batches(split.test, batch_size) for split in self.splits]
        self._held_out = tuple(self._put(np.stack(column)) for column in zip(*held_out, strict=True))
        self._epoch: tuple[int, Arrays] = (-1, ())

    def window(self, step: int) -> Window:
        """What comes after `step` updates: the rest of the epoch, or as many as are made between two looks."""
        epoch, first = divmod(step, self.per_epoch)
        if self._epoch[0] != epoch:
            runs = zip(self.seeds, self.splits, strict=True)
            orders = [dataset.epoch_order(seed, epoch, split.train, self.batch_size) for seed, split in runs]
            self._epoch = epoch, (self._put(np.stack(orders)),)
        return Window(self._epoch[1], first, min(CHUNK_STEPS, self.per_epoch - first))

    def shapes(self) -> tuple[Any, Any]:
        """Of what a window and a piece of the held-out images hold, to compile for."""
        order_STB = jax.ShapeDtypeStruct((len(self.seeds), self.per_epoch, self.batch_size), np.int32)
        return (order_STB,), tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in self._held_out)

    def held_out(self) -> Iterator[Arrays]:
        """Every held-out image once, in one piece."""
        yield self._held_out

    def close(self) -> None:
        """Ends what runs ahead."""

    def _put(self, array: np.ndarray) -> jax.Array:
        return sharding.put(self.mesh, sharding.BATCHES, array)


class Streamed:
    """Images read, cropped and put on the devices one window ahead: (images_STBHWC, labels_STB), and with mask_SNB.

    Every process reads its rows of each batch.
    """

    shared: Arrays = ()

    def __init__(self, source: dataset.Dataset, data: Any, seeds: Sequence[int], batch_size: int, mesh: Mesh):
        self.mesh, self.batch_size = mesh, batch_size
        self.splits = [dataset.split(source, seed, data.train_size, data.holdout) for seed in seeds]
        shard = jax.process_index(), jax.process_count()
        runs = zip(seeds, self.splits, strict=True)
        self.feeds = [pipeline.Feed(source, split, data, seed, batch_size, shard) for seed, split in runs]
        self.per_epoch = self.feeds[0].steps_per_epoch
        bytes_a_step = len(self.feeds) * batch_size * data.size**2 * source.shape[-1]
        self.steps = max(1, min(CHUNK_STEPS, self.per_epoch, WINDOW_BYTES // bytes_a_step))
        self._ahead = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Window]] | None = None
        self._batches: list[Iterator[pipeline.Batch]] = []

    @property
    def skipped(self) -> int:
        """Corrupt images that this process skipped."""
        return sum(feed.corrupt for feed in self.feeds)

    def window(self, step: int) -> Window:
        """What comes after `step` updates; the window after that is begun."""
        if self._next is None or self._next[0] != step:
            self._batches = [feed.batches(step) for feed in self.feeds]
            self._next = step, self._ahead.submit(self._make, step)
        window = self._next[1].result()
        after = step + window.count
        self._next = after, self._ahead.submit(self._make, after)
        return window

    def shapes(self) -> tuple[Any, Any]:
        """Of what a window and a piece of the held-out images hold, to compile for."""
        runs, (*_, channels), size = len(self.feeds), self.feeds[0].dataset.shape, self.feeds[0].data["size"]

        def shaped(steps: int) -> list[jax.ShapeDtypeStruct]:
            batches = (runs, steps, self.batch_size)
            images = jax.ShapeDtypeStruct((*batches, size, size, channels), np.uint8)
            return [images, jax.ShapeDtypeStruct(batches, np.int32)]

        mask = jax.ShapeDtypeStruct((runs, 1, self.batch_size), np.float32)
        return tuple(shaped(self.steps)), (*shaped(1), mask)

    def held_out(self) -> Iterator[Arrays]:
        """Every held-out image once, a batch a piece."""
        for batches in zip(*(feed.held_out() for feed in self.feeds), strict=True):
            yield self._put([batches], ("images", "labels", "mask"))

    def close(self) -> None:
        """Ends what runs ahead."""
        self._ahead.shutdown(cancel_futures=True)
        self._batches = []

    def _make(self, step: int) -> Window:
        count = min(self.steps, self.per_epoch - step % self.per_epoch)
        made = [tuple(map(next, self._batches)) for _ in range(count)]
        made += made[-1:] * (self.steps - count)  # of an epoch's last window; never looked at
        return Window(self._put(made, ("images", "labels")), 0, count)

    def _put(self, batches: Sequence[Sequence[pipeline.Batch]], names: Sequence[str]) -> Arrays:
        """[T][S] batches of this process's rows as global arrays."""

        def rows(batch: pipeline.Batch, name: str) -> np.ndarray:
            return batch["targets"]["labels"] if name == "labels" else batch[name]

        def put(name: str) -> jax.Array:
            local_STb = np.stack(
                [np.stack([rows(batch, name) for batch in of_run]) for of_run in zip(*batches, strict=True)]
            )
            whole = (*local_STb.shape[:2], self.batch_size, *local_STb.shape[3:])
            return sharding.put_rows(self.mesh, sharding.BATCHES, local_STb, whole)

        return tuple(map(put, names))


def of(source: dataset.Dataset, data: Any, seeds: Sequence[int], batch_size: int, mesh: Mesh) -> Resident | Streamed:
    """The inputs of a job's runs by the knobs `data`."""
    return (Streamed if data.size else Resident)(source, data, seeds, batch_size, mesh)


@functools.cache
def _on_devices(source: dataset.Dataset, mesh: Mesh) -> Arrays:
    arrays = source.in_memory(), source.labels_N
    return tuple(sharding.put(mesh, sharding.EVERYWHERE, array) for array in arrays)


def _whole_batches(indices: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """index_NB and mask_NB over all of `indices`, each exactly once; the last batch is filled up with masked images."""
    batches = -(-len(indices) // batch)
    index, mask = np.zeros(batches * batch, np.int32), np.zeros(batches * batch, np.float32)
    index[: len(indices)], mask[: len(indices)] = indices, 1
    return index.reshape(batches, batch), mask.reshape(batches, batch)
