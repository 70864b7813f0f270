"""How fast training data are made, beside tf.data and PyTorch's DataLoader on the same files: `--data` of the bench.

Images per CPU-second: the pipelines take turns in one process, and what all its threads consume is counted, so that a
busy machine changes little. Flipping and normalizing are left out everywhere: here they happen in the step, on the
device.
"""

import argparse
import contextlib
import io
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnet_jax import config, flags
from mnet_jax.bench import harness
from mnet_jax.bench.harness import InProcess, Run, Settings
from mnet_jax.data import augment, load, pipeline, prepare
from mnet_jax.data.dataset import Split, epoch_order
from mnet_jax.errors import UserError
from mnet_jax.table import Table

SIZE, BATCH = 224, 64
Pipelines = Mapping[str, Run]
"""{pipeline: run}, a call of which makes one batch."""


def main(arguments: Sequence[str]) -> None:
    """Prints the tables of the input pipelines."""
    parser = argparse.ArgumentParser(prog="python -m mnet_jax.bench --data", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--source", default="", help="a folder of images; default: parts of scikit-learn's two photographs"
    )
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=5, help=f"of {BATCH} images, a round and pipeline")
    args = parser.parse_args(arguments)
    flags.check_number("--rounds", args.rounds, 1)
    flags.check_number("--batches", args.batches, 1)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        name = args.source or "photographs"
        if not args.source:
            _photographs(root / name, 3 * BATCH)
            prepare.prepare(name, root)
        folder = root / name if not args.source else load.data_dir(args.data_dir) / name
        files = sorted((folder / "train").glob("*/*.jp*g"))
        if len(files) < BATCH:
            raise UserError(f"{folder}/train holds {len(files)} JPEGs; allowed: a folder with {BATCH} or more")
        _shrunk(files, root / "small" / "train" / "all", 256)
        prepare.prepare("small", root)
        ours, small = _feed(name, folder.parent), _feed("small", root)
        growth = _growth(ours, 8 * len(files) // BATCH)  # before the peers, whose peak would hide it
        print(f"ours: peak memory grows by {growth:.1f} MiB from the first quarter of 8 epochs to their end\n")
        kilobytes = sum(file.stat().st_size for file in files) / len(files) / 1000
        title = f"{SIZE}-pixel random resized crops of {len(files)} JPEGs of {kilobytes:.0f} kB"
        peers = _installed((_torch_files, _tfdata_files), files)
        _compare(title, {"ours": ours, **peers}, args.rounds, args.batches)
        title = "ours on the same images stored at short side 256, the peers on the originals"
        _compare(title, {"ours, stored at short side 256": small, **peers}, args.rounds, args.batches)
    images_NHWC = np.random.default_rng(0).integers(0, 256, (10_000, 32, 32, 3), np.uint8)
    peers = _installed((_torch_memory, _tfdata_memory), images_NHWC)
    title = "32-pixel images in memory, padded by 4 and cropped"
    _compare(title, {"ours, in the step": _on_device(images_NHWC), **peers}, args.rounds, 30 * args.batches)


def _installed(builders: Sequence[Callable[[Any], Pipelines]], images: Any) -> Pipelines:
    """The pipelines whose libraries are installed."""
    pipelines: dict[str, Run] = {}
    for build in builders:
        with contextlib.suppress(ImportError):
            pipelines |= build(images)
    return pipelines


def _compare(title: str, pipelines: Pipelines, rounds: int, batches: int) -> None:
    """Prints images per CPU-second, and the first pipeline's as a multiple of each, with the range over the rounds.

    A turn makes `batches` batches.
    """

    def contender(run: Run) -> InProcess:
        return InProcess(lambda calls: run(calls * batches), time.process_time)

    contenders = {name: contender(run) for name, run in pipelines.items()}
    times = harness.run_rounds(contenders, Settings(rounds, turn_seconds=0.0), title)
    first, rows = next(iter(times.values())), []
    for name, entry in times.items():
        if entry.failed or first.failed:
            rows.append((name, entry.failed, "", ""))
            continue
        faster = harness.ratio(entry, first)
        rate = f"{batches * BATCH / entry.median:,.0f}"
        rows.append((name, rate, f"{faster.median:.2f}", f"{faster.low:.2f} - {faster.high:.2f}"))
    header = ("", "images per CPU-second", "first / this", "min - max")
    print(Table(title, header, rows).section(), flush=True)


def _growth(take: Run, batches: int) -> float:
    """MiB by which the process's peak grows after the first quarter of the batches."""
    take(batches // 4)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    take(batches - batches // 4)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit


def _drain(batches: Iterable[Any], count: int) -> None:
    iterator = iter(batches)
    for _ in range(count):
        next(iterator)


def _photographs(folder: Path, count: int) -> None:
    """JPEGs of ImageNet's usual size, 500 x 375 and about 110 kB, each another part of a photograph."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / "train" / str(number % 2) / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = photographs[number % 2]
        left, top = rng.integers(0, 40, 2).tolist()
        part = image.crop((left, top, left + 570, top + 380)).resize((500, 375), Image.Resampling.LANCZOS)
        part.save(path, quality=90)


def _shrunk(files: Sequence[Path], folder: Path, short_side: int) -> None:
    folder.mkdir(parents=True)
    for number, file in enumerate(files):
        (folder / f"{number:06}.jpg").write_bytes(prepare.shrink(file.read_bytes(), 3, short_side))


def _feed(name: str, root: Path) -> Run:
    data = config.default().data
    data.source, data.dir, data.size, data.threads = name, str(root), SIZE, 2
    dataset = load.from_name(name, str(root))
    split = Split(dataset.train_indices, dataset.train_indices[:1], "", "nothing")
    return lambda count: _drain(pipeline.Feed(dataset, split, data, 0, BATCH).batches(stop=count), count)


def _torch_files(files: Sequence[Path]) -> Pipelines:
    import torch
    from PIL import Image
    from torchvision import transforms

    torch.set_num_threads(1)
    change = transforms.Compose([transforms.RandomResizedCrop(SIZE), transforms.PILToTensor()])

    class Files(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> Any:
            return change(Image.open(io.BytesIO(files[index].read_bytes())).convert("RGB"))

    def take(count: int) -> None:
        sampler = torch.utils.data.RandomSampler(Files(), num_samples=count * BATCH, replacement=True)
        _drain(torch.utils.data.DataLoader(Files(), BATCH, sampler=sampler), count)

    return {"torch DataLoader (Pillow), in process": take}


def _tfdata_files(files: Sequence[Path]) -> Pipelines:
    import tensorflow as tf

    def crop(path: Any) -> Any:
        data = tf.io.read_file(path)
        box = tf.constant([0.0, 0.0, 1.0, 1.0], shape=[1, 1, 4])
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(data),
            box,
            min_object_covered=0.1,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.stack([begin[0], begin[1], extent[0], extent[1]])
        image = tf.image.decode_and_crop_jpeg(data, window, channels=3)
        return tf.cast(tf.image.resize(image, (SIZE, SIZE)), tf.uint8)

    def take(count: int) -> None:
        paths = tf.data.Dataset.from_tensor_slices([str(file) for file in files]).shuffle(len(files)).repeat()
        batches = paths.take(count * BATCH).map(crop, tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)
        _drain(batches, count)

    return {"tf.data": take}


def _on_device(images_NHWC: np.ndarray) -> Run:
    """The resident path: an epoch's order from the host; gather, crop and normalize inside one program."""
    import jax
    import jax.numpy as jnp

    images = jnp.asarray(images_NHWC)
    mean, std = (0.5,) * 3, (0.25,) * 3

    @jax.jit
    def step(order_TB: jax.Array, index: jax.Array) -> jax.Array:
        x_BHWC = augment.shift_flip(jax.random.key(index), images[order_TB[index]], 4, False)
        return augment.normalize(x_BHWC, mean, std)

    def take(count: int) -> None:
        everything = np.arange(len(images_NHWC))
        per_epoch = len(everything) // BATCH
        for epoch in range(-(-count // per_epoch)):
            order_TB = jnp.asarray(epoch_order(0, epoch, everything, BATCH))
            for index in range(min(per_epoch, count - epoch * per_epoch)):
                step(order_TB, jnp.int32(index)).block_until_ready()

    return take


def _torch_memory(images_NHWC: np.ndarray) -> Pipelines:
    import torch
    from torchvision import transforms

    images = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).contiguous()
    change = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.ConvertImageDtype(torch.float32),
            transforms.Normalize((0.5,) * 3, (0.25,) * 3),
        ]
    )

    class Memory(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> Any:
            return change(images[index])

    def take(count: int) -> None:
        _drain(torch.utils.data.DataLoader(Memory(), BATCH, shuffle=True), count)

    return {"torch DataLoader, per image": take}


def _tfdata_memory(images_NHWC: np.ndarray) -> Pipelines:
    import tensorflow as tf

    def normalized(x: Any) -> Any:
        return (tf.cast(x, tf.float32) / 255 - 0.5) / 0.25

    def one(image: Any) -> Any:
        return normalized(tf.image.random_crop(tf.pad(image, ((4, 4), (4, 4), (0, 0))), (32, 32, 3)))

    def many(index: Any) -> Any:
        padded = tf.pad(tf.gather(everything, index), ((0, 0), (4, 4), (4, 4), (0, 0)))
        offset = tf.random.uniform((2, BATCH, 1), 0, 9, tf.int32)
        rows, columns = tf.range(32)[None] + offset[0], tf.range(32)[None] + offset[1]
        cropped = tf.gather(tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)
        return normalized(cropped)

    with tf.device("CPU"):
        everything = tf.constant(images_NHWC)
    order = tf.data.Dataset.range(len(images_NHWC)).shuffle(len(images_NHWC)).repeat()

    def per_image(count: int) -> None:
        chosen = order.take(count * BATCH).map(lambda i: one(everything[i]), tf.data.AUTOTUNE)
        _drain(chosen.batch(BATCH).prefetch(tf.data.AUTOTUNE), count)

    def per_batch(count: int) -> None:
        _drain(order.take(count * BATCH).batch(BATCH).map(many, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE), count)

    return {"tf.data, per image": per_image, "tf.data, one call a batch": per_batch}
