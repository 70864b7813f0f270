"""Batches of images that do not fit on the device: a batch is a pure function of (seed, step), read ahead by Grain.

A batch depends on nothing else, so a run can resume at any step, and the number of threads, processes and hosts does
not change it: each host makes its rows of every batch. The host crops, resizes and does RandAugment; the step does the
rest of the augmentation (`augment.batch`), so images leave here as uint8.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mnet_jax.data import transforms
from mnet_jax.data.dataset import Dataset, Split, epoch_order
from mnet_jax.errors import UserError

Batch = dict[str, Any]
"""{"images": uint8 [b, H, W, C], "targets": {name: array [b, ...]}}, of b = batch size / hosts rows.

Held-out batches also have "mask": float32 [b].
"""


class Feed:
    """The training batches of one seed in order, from any step on, and its held-out images.

    `data` are the config's fields of that name; this is host `shard[0]` of `shard[1]`. `corrupt` counts the corrupt
    images that were skipped so far (`data.corrupt` = "skip").
    """

    def __init__(
        self,
        dataset: Dataset,
        split: Split,
        data: Any,
        seed: int,
        batch_size: int,
        shard: tuple[int, int] = (0, 1),
    ):
        host, hosts = shard
        if batch_size % hosts:
            raise UserError(f"batch_size={batch_size}; allowed: a multiple of the {hosts} hosts")
        self.dataset, self.split, self.data = dataset, split, data.to_dict()
        self.seed, self.batch_size = seed, batch_size
        self.rows = slice(host * batch_size // hosts, (host + 1) * batch_size // hosts)
        self.steps_per_epoch = len(epoch_order(seed, 0, split.train, batch_size))
        self.held_out_batches = -(-len(split.test) // batch_size)
        self.corrupt = 0
        self._orders: dict[int, np.ndarray] = {}

    def batches(self, first_step: int = 0, stop: int = 1 << 40) -> Iterator[Batch]:
        """The batches of the steps from `first_step` up to `stop`, this host's rows."""
        return self._prefetched(self.batch, first_step, stop)

    def held_out(self) -> Iterator[Batch]:
        """Every held-out image once, over all hosts; rows beyond the last one are black and have "mask" 0."""
        return self._prefetched(self.held_out_batch, 0, self.held_out_batches)

    def batch(self, step: int) -> Batch:
        """The batch of `step`, this host's rows; "corrupt" counts the corrupt images that the next ones replace."""
        epoch, number = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        batch = self._empty()
        for row, position in enumerate(range(self.batch_size)[self.rows]):
            position += number * self.batch_size
            for _ in range(100):
                index = int(order[position % len(order)])
                image_HWC = self._read(index)
                if image_HWC is not None:
                    break
                batch["corrupt"] += 1
                position += 1
            else:
                raise UserError(f"{self.dataset.name}: 100 corrupt images in a row, the last one is image {index}")
            self._fill(batch, row, index, self._augmented(image_HWC, epoch, index))
        return batch

    def held_out_batch(self, number: int) -> Batch:
        """A batch of held-out images, this host's rows; a corrupt image that is skipped has "mask" 0, too."""
        batch = self._empty()
        batch["mask"] = np.zeros(len(batch["images"]), np.float32)
        indices = self.split.test[number * self.batch_size :][: self.batch_size][self.rows]
        for row, index in enumerate(indices.tolist()):
            image_HWC = self._read(index)
            batch["corrupt"] += image_HWC is None
            if image_HWC is not None:
                cropped_HWC = transforms.center_crop(image_HWC, self.data["size"], self.data["eval_crop"])
                self._fill(batch, row, index, cropped_HWC)
                batch["mask"][row] = 1
        return batch

    def _order(self, epoch: int) -> np.ndarray:
        orders = self._orders
        if epoch not in orders:  # at the end of an epoch, threads need the orders of both
            order = epoch_order(self.seed, epoch, self.split.train, self.batch_size).ravel()
            self._orders = orders = {near: orders[near] for near in orders if abs(near - epoch) == 1} | {epoch: order}
        return orders[epoch]

    def _empty(self) -> Batch:
        size, rows = self.data["size"], self.rows.stop - self.rows.start
        images_bHWC = np.zeros((rows, size, size, self.dataset.shape[-1]), np.uint8)
        targets = {
            name: np.zeros_like(array, shape=(rows, *array.shape[1:])) for name, array in self.dataset.targets.items()
        }
        return {"images": images_bHWC, "targets": targets, "corrupt": np.zeros((), np.int32)}

    def _fill(self, batch: Batch, row: int, index: int, image_HWC: np.ndarray) -> None:
        batch["images"][row] = image_HWC
        for name, array in self.dataset.targets.items():
            batch["targets"][name][row] = array[index]

    def _read(self, index: int) -> np.ndarray | None:
        try:
            return self.dataset.image(index)
        except transforms.CorruptImage:
            if self.data["corrupt"] == "error":
                raise
            return None

    def _augmented(self, image_HWC: np.ndarray, epoch: int, index: int) -> np.ndarray:
        """A random crop and RandAugment; key and counter hold (seed, epoch, index), which decide every number."""
        operations, magnitude = self.data["randaugment"]
        key = np.array([self.seed, int.from_bytes(b"augment")], np.uint64)
        bits = np.random.Philox(key=key, counter=np.array([0, 0, index, epoch], np.uint64))
        crop = 4 * transforms.TRIES
        uniforms = ((bits.random_raw(crop + 2 * operations) >> np.uint64(11)) * 2.0**-53).tolist()
        image = transforms.random_crop(
            image_HWC, self.data["size"], self.data["area"], self.data["aspect"], uniforms[:crop]
        )
        return transforms.randaugment(image, operations, magnitude, uniforms[crop:]) if operations else image

    def _prefetched(self, make: Callable[[int], Batch], first: int, stop: int) -> Iterator[Batch]:
        """make(first), make(first + 1), ... in order; threads, or processes with threads each, call ahead."""
        try:
            import grain
        except ImportError as error:
            raise UserError(f"data.size > 0 needs grain: pip install 'mnet_jax[data]' ({error})") from None
        from absl import flags

        threads = self.data["threads"] or os.cpu_count() or 1
        batches = grain.MapDataset.range(first, stop).map(make)
        batches = batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 2))
        if self.data["workers"]:
            flags.FLAGS.is_parsed() or flags.FLAGS.mark_as_parsed()  # Grain's processes read absl's flags
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.data["workers"]))
        for batch in batches:
            self.corrupt += int(batch.pop("corrupt"))
            yield batch
