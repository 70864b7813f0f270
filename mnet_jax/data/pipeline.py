"""Batches of images that do not fit on the device: (seed, step) -> batch is a pure function, and Grain runs ahead.

A batch depends on nothing else, so a run goes on at any step, and threads, processes and hosts do not change it: each
host makes its own rows of every batch. The host crops, resizes and does RandAugment; all else happens in the step
(`augment.batch`), so what leaves here is uint8.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mnet_jax.data import pixels, sources

Batch = dict[str, np.ndarray]
"""{"images": uint8 [b, H, W, C], "labels": int32 [b]}, of b = batch size / hosts; held out also "mask": float32 [b]."""


def open(data: Any, seed: int, batch_size: int, shard: tuple[int, int] = (0, 1)) -> "Feed":
    """The feed of a seed by the knobs `data`, as host `shard[0]` of `shard[1]` sees it."""
    source = sources.load(data.source, data.dir, data.train_split, data.test_split)
    return Feed(source, sources.split(source, seed, data.train_size, data.holdout), data, seed, batch_size, shard)


class Feed:
    """The training batches of one seed in order, from any step on, and its held-out images.

    `skipped` counts the damaged images that were left out of what came so far (`data.corrupt` = "skip").
    """

    def __init__(
        self,
        source: sources.Source,
        split: sources.Split,
        data: Any,
        seed: int,
        batch_size: int,
        shard: tuple[int, int] = (0, 1),
    ):
        host, hosts = shard
        if batch_size % hosts:
            raise ValueError(f"batch_size={batch_size}; allowed: a multiple of the {hosts} hosts")
        self.source, self.split, self.data, self.seed, self.batch_size = source, split, data.to_dict(), seed, batch_size
        self.rows = slice(host * batch_size // hosts, (host + 1) * batch_size // hosts)
        self.steps_per_epoch = len(sources.epoch_order(seed, 0, split.train, batch_size))
        self.held_out_batches = -(-len(split.test) // batch_size)
        self.skipped = 0
        self._orders: dict[int, np.ndarray] = {}

    def batches(self, first_step: int = 0, stop: int = 1 << 40) -> Iterator[Batch]:
        """The batches of the steps from `first_step` up to `stop`, this host's rows."""
        return self._ahead(self.batch, first_step, stop)

    def held_out(self) -> Iterator[Batch]:
        """Every held-out image once, over all hosts; rows beyond the last one are black and have "mask" 0."""
        return self._ahead(self.held_out_batch, 0, self.held_out_batches)

    def batch(self, step: int) -> Batch:
        """The batch of `step`, this host's rows; "skipped" is how many damaged images others stand in for."""
        epoch, number = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        batch = self._empty()
        for row, place in enumerate(range(self.batch_size)[self.rows]):
            place += number * self.batch_size
            for _ in range(100):
                index = int(order[place % len(order)])
                image_HWC = self._read(index)
                if image_HWC is not None:
                    break
                batch["skipped"] += 1
                place += 1
            else:
                raise ValueError(f"{self.source.name}: 100 damaged images in a row, the last one is image {index}")
            batch["images"][row] = self._augmented(image_HWC, epoch, index)
            batch["labels"][row] = self.source.labels_N[index]
        return batch

    def held_out_batch(self, number: int) -> Batch:
        """A batch of held-out images, this host's rows; a damaged image that is skipped has "mask" 0, too."""
        batch = self._empty()
        batch["mask"] = np.zeros(len(batch["labels"]), np.float32)
        indices = self.split.test[number * self.batch_size :][: self.batch_size][self.rows]
        for row, index in enumerate(indices.tolist()):
            image_HWC = self._read(index)
            batch["skipped"] += image_HWC is None
            if image_HWC is not None:
                batch["images"][row] = pixels.center_crop(image_HWC, self.data["size"], self.data["eval_crop"])
                batch["labels"][row] = self.source.labels_N[index]
                batch["mask"][row] = 1
        return batch

    def _order(self, epoch: int) -> np.ndarray:
        orders = self._orders
        if epoch not in orders:  # threads may be at work on two epochs
            order = sources.epoch_order(self.seed, epoch, self.split.train, self.batch_size).ravel()
            self._orders = orders = {near: orders[near] for near in orders if abs(near - epoch) == 1} | {epoch: order}
        return orders[epoch]

    def _empty(self) -> Batch:
        size, rows = self.data["size"], self.rows.stop - self.rows.start
        images = np.zeros((rows, size, size, self.source.shape[-1]), np.uint8)
        return {"images": images, "labels": np.zeros(rows, np.int32), "skipped": np.zeros((), np.int32)}

    def _read(self, index: int) -> np.ndarray | None:
        try:
            return self.source.image(index)
        except pixels.Damaged:
            if self.data["corrupt"] == "error":
                raise
            return None

    def _augmented(self, image_HWC: np.ndarray, epoch: int, index: int) -> np.ndarray:
        """The draws of an example follow from (seed, epoch, index): the key and the counter's higher words."""
        operations, magnitude = self.data["randaugment"]
        key = np.array([self.seed, int.from_bytes(b"augment")], np.uint64)
        bits = np.random.Philox(key=key, counter=np.array([0, 0, index, epoch], np.uint64))
        crop = 4 * pixels.TRIES
        draws = ((bits.random_raw(crop + 2 * operations) >> np.uint64(11)) * 2.0**-53).tolist()
        image = pixels.random_crop(image_HWC, self.data["size"], self.data["area"], self.data["aspect"], draws[:crop])
        return pixels.randaugment(image, operations, magnitude, draws[crop:]) if operations else image

    def _ahead(self, make: Callable[[int], Batch], first: int, stop: int) -> Iterator[Batch]:
        """make(first), make(first + 1), ... in order, made ahead by threads, or by worker processes with threads."""
        try:
            import grain
        except ImportError as error:
            raise ValueError(f"data.size > 0 needs grain: pip install 'mnet_jax[data]' ({error})") from None
        from absl import flags

        threads = self.data["threads"] or os.cpu_count() or 1
        batches = grain.MapDataset.range(first, stop).map(make)
        batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 2))
        if self.data["workers"]:
            flags.FLAGS.is_parsed() or flags.FLAGS.mark_as_parsed()  # Grain's processes ask for them
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.data["workers"]))
        for batch in batches:
            self.skipped += int(batch.pop("skipped"))
            yield batch
