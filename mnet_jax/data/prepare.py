"""Brings a data set into the form that training reads: `python -m mnet_jax.data.prepare NAME`.

Only here is anything downloaded, and TensorFlow needed: TFDS downloads (or takes from `--manual_dir`) the original
files, checks them against its checksums and writes array_record. Then every image is read once, which verifies the data
and measures what training must know. The result takes its place, or that of a damaged one, only when it is whole;
an interrupted command is simply repeated.
"""

import argparse
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mnet_jax import config
from mnet_jax.data import pixels, sources, stored

AHEAD = 512
"""Images that threads work on at a time."""
QUALITY = 95
"""Of the JPEGs that are stored smaller."""


def main(arguments: Sequence[str]) -> None:
    door = argparse.ArgumentParser(prog="python -m mnet_jax.data.prepare", description=__doc__.split("\n\n")[0])
    door.add_argument("name", help="fashion_mnist, cifar10, imagenet2012 or another image classification set of TFDS")
    door.add_argument("--data_dir", default="", help="default $MNET_DATA_DIR or ~/.cache/mnet_jax")
    door.add_argument("--manual_dir", type=Path, help="original files by their original names, taken before a download")
    door.add_argument("--short_side", type=int, default=0, help="also store JPEGs of this short side, as NAME/short_N")
    door.add_argument("--again", action="store_true", help="read every image again; rebuild what is damaged")
    door.add_argument("--preview", type=Path, metavar="FILE", help="draw augmented examples into a picture")
    flags = door.parse_args(arguments)
    if flags.short_side < 0:
        raise ValueError(f"--short_side {flags.short_side}; allowed: pixels, or 0")
    source = prepare(flags.name, sources.root(flags.data_dir), flags.manual_dir, flags.short_side, flags.again)
    print(describe(source))
    if flags.preview:
        from mnet_jax import figures

        flags.preview.parent.mkdir(parents=True, exist_ok=True)
        figures.contact_sheet(examples(source)).savefig(flags.preview)
        print(flags.preview)


def prepare(
    name: str, root: Path, manual_dir: Path | None = None, short_side: int = 0, again: bool = False
) -> sources.Source:
    """Makes `root/name` whole, and `root/name/short_N` if a short side is wanted; what is whole is left alone.

    Raises ValueError for a name TFDS does not know, and where packages or files are missing.
    """
    folder = root / name
    store = stored.find(folder, name)
    if name == "digits" or (store is None and not manual_dir and not short_side and _original(name, root)):
        return sources.load(name, str(root))
    if store is None or not _whole(store, again):
        if isinstance(store, stored.Folder):
            _measure(store)
        else:
            manual = manual_dir or (folder if folder.exists() else None)
            store = _install(root, name, lambda work: _build(name, work, manual))
    if short_side:
        large, name = store, f"{store.name}/short_{short_side}"
        store = stored.find(root / name, name)
        if store is None or not _whole(store, again):
            store = _install(root, name, lambda work: _shrink(large, work, short_side))
    return sources.from_store(store)


def _original(name: str, root: Path) -> bool:
    try:
        sources.load(name, str(root))
    except ValueError:
        return False
    return True


def _whole(store: stored.Store, again: bool) -> bool:
    """Whether the data need nothing; measures them if they were not, or `again`."""
    try:
        if again or stored.read_facts(store) is None:
            _measure(store)
    except ValueError as error:
        print(f"{error}: prepared anew", file=sys.stderr)
        return False
    return True


def _install(root: Path, name: str, build: Callable[[Path], None]) -> stored.Store:
    """Builds in a folder beside, measures there, and only then moves the result to its place."""
    work = root / f".preparing-{name.replace('/', '-')}"
    for stale in work.glob("**/incomplete.*"):
        shutil.rmtree(stale, ignore_errors=True)
    build(work)
    store = stored.find(work / name, name)
    assert store is not None
    if stored.read_facts(store) is None:
        _measure(store)
    place = root / store.path.relative_to(work)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(work / "replaced")
    store.path.rename(place)
    shutil.rmtree(work)
    store = stored.find(root / name, name)
    assert store is not None
    return store


def _build(name: str, work: Path, manual_dir: Path | None) -> None:
    tfds = _tfds()
    try:
        builder = tfds.builder(name, data_dir=work, file_format="array_record", try_gcs=False)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(f"no data set {name!r}: {str(error).strip()}") from None
    there = {path.name for path in manual_dir.iterdir()} if manual_dir else set()
    absent = [info.filename for info in (builder.url_infos or {}).values() if info.filename not in there]
    if absent:
        print(f"to be downloaded (not in --manual_dir): {', '.join(absent)}", file=sys.stderr)
    options = tfds.download.DownloadConfig(
        manual_dir=manual_dir, extract_dir=work / "extracted", try_download_gcs=False
    )
    try:
        builder.download_and_prepare(download_dir=work / "downloads", download_config=options)
    except (ImportError, AssertionError, tfds.download.DownloadError) as error:
        raise ValueError(f"{name}: {error}") from error


def _shrink(large: stored.Store, work: Path, short_side: int) -> None:
    tfds = _tfds()
    image = tfds.features.Image(shape=(None, None, large.channels), encoding_format="jpeg")

    with tfds.core.registered.skip_registration():

        class Shrunk(tfds.core.GeneratorBasedBuilder):
            name = large.name.replace("/", "_")
            VERSION = tfds.core.Version(large.version if large.version[0].isdigit() else "1.0.0")
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=f"short_{short_side}")]  # noqa: RUF012

            def _info(self) -> Any:
                features = {"image": image, "label": tfds.features.ClassLabel(names=large.class_names)}
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                    disable_shuffling=True,
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {split: self._generate_examples(split) for split in large.sizes}

            def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
                def shrunk(index: int) -> tuple[bytes, int]:
                    data, label = large.read(split, index)
                    return smaller(data, large.channels, short_side), label

                for index, (data, label) in enumerate(_parallel(shrunk, large.sizes[split])):
                    yield index, {"image": io.BytesIO(data), "label": label}

    options = tfds.download.DownloadConfig(try_download_gcs=False)
    Shrunk(data_dir=work, file_format="array_record").download_and_prepare(download_config=options)


def smaller(data: bytes, channels: int, short_side: int) -> bytes:
    """The image as JPEG with this short side; one that is no larger, or cannot be read, stays as it is."""
    from PIL import Image

    try:
        image = Image.fromarray(pixels.decode(data, 3))
    except pixels.Damaged:
        return data
    scale = short_side / min(image.size)
    if scale >= 1:
        return data
    size = round(image.width * scale), round(image.height * scale)
    small, file = image.resize(size, Image.Resampling.LANCZOS), io.BytesIO()
    (small if channels == 3 else small.convert("L")).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _tfds() -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ValueError(f"preparing needs TFDS and TensorFlow: pip install 'mnet_jax[prepare]' ({error})") from None
    return tfds


def _parallel(function: Callable[[int], Any], count: int) -> Iterator[Any]:
    """function(0), ..., function(count - 1), in order."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, count, AHEAD):
            yield from threads.map(function, range(start, min(start + AHEAD, count)))


def _measure(store: stored.Store) -> None:
    """Reads every image and writes the facts beside them. An image that cannot be decoded is reported, no more.

    Raises ValueError, with its index, for a record that cannot be read at all.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    labels: dict[str, np.ndarray] = {}
    shapes, damaged = set(), []
    count, total_C, squares_C = 0, np.zeros(store.channels), np.zeros(store.channels)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress:
        for split, size in store.sizes.items():
            labels[split] = np.empty(size, np.int32)

            def read(index: int, split: str = split) -> tuple[int, Any]:
                try:
                    data, label = store.read(split, index)
                except Exception as error:  # a file format raises what it likes
                    raise ValueError(f"{store.where(split, index)} cannot be read: {error}") from error
                try:
                    image_HWC = pixels.decode(data, store.channels)
                except pixels.Damaged as error:
                    return label, f"{store.where(split, index)}: {error}"
                flat = image_HWC.reshape(-1, store.channels).astype(np.float64)  # holds these sums exactly
                return label, (image_HWC.shape, len(flat), flat.sum(0), np.einsum("nc,nc->c", flat, flat))

            for index, (label, sums) in enumerate(progress.track(_parallel(read, size), size, description=split)):
                labels[split][index] = label
                if isinstance(sums, str):
                    damaged.append(sums)
                    continue
                shapes.add(sums[0])
                if split == "train":
                    count, total_C, squares_C = count + sums[1], total_C + sums[2], squares_C + sums[3]
    for line in damaged:
        print(f"damaged: {line}", file=sys.stderr)
    if damaged:
        print(f"{len(damaged)} images cannot be used: train with --config.data.corrupt=skip", file=sys.stderr)
    if not count:
        raise ValueError(f"{store.path} holds no split 'train' with images; it has {dict(store.sizes)}")
    mean_C = total_C / count
    facts = stored.Facts(
        name=store.name,
        version=store.version,
        class_names=store.class_names,
        sizes=dict(store.sizes),
        labels={split: stored.digest(labels_N) for split, labels_N in labels.items()},
        shape=shapes.pop() if len(shapes) == 1 else (0, 0, store.channels),
        mean=tuple((mean_C / 255).tolist()),
        std=tuple((np.sqrt(squares_C / count - mean_C**2) / 255).tolist()),
    )
    stored.write_facts(store, facts, labels)


def describe(source: sources.Source) -> str:
    H, W, C = source.shape
    size = f"{H}x{W}x{C}" if H else f"of many sizes, {C} channels"
    held = "the seed holds out some of them" if source.one_pool else f"{len(source.test_pool):,} to test"
    numbers = (" ".join(f"{value:.5f}" for value in values) for values in (source.mean, source.std))
    return (
        f"{source.name}: images {size}, {source.classes} classes, {len(source.train_pool):,} to train, {held}; "
        "mean {}, std {}; fingerprint {}".format(*numbers, source.fingerprint)
    )


def examples(source: sources.Source, images: int = 8) -> dict[str, np.ndarray]:
    """What each augmentation makes of the same training images: {words: uint8 [images, H, W, C]}."""
    import jax
    import jax.numpy as jnp

    from mnet_jax.data import augment, pipeline

    settings = config.default().data
    rows: dict[str, np.ndarray] = {}
    indices = sources.epoch_order(0, 0, source.train_pool, images)[0]
    if source.shape[0]:
        rows["original"] = np.stack([source.image(int(index)) for index in indices])
    else:
        settings.size = 224
        train = np.sort(indices)
        split = sources.Split(train, sources.epoch_order(0, 0, train, images)[0], "")
        rows["held out"] = pipeline.Feed(source, split, settings, 0, images).held_out_batch(0)["images"]
        rows["random crop"] = pipeline.Feed(source, split, settings, 0, images).batch(0)["images"]
        settings.randaugment = (2, 9)
        rows["RandAugment (2, 9)"] = pipeline.Feed(source, split, settings, 0, images).batch(0)["images"]
    plain = next(iter(rows.values()))
    mean_C, std_C = np.array(source.mean, np.float32), np.array(source.std, np.float32)
    on_device = (
        {"shift": max(1, plain.shape[1] // 8), "flip": True},
        *({name: value} for name, value in (("jitter", 0.4), ("erase", 1.0), ("mixup", 1.0), ("cutmix", 1.0))),
    )
    for knobs in on_device:
        data = config.default().data
        for name, value in knobs.items():
            data[name] = value
        images_BHWC, labels_B = jnp.asarray(plain), jnp.zeros(images, jnp.int32)
        x_BHWC, _ = augment.batch(jax.random.key(0), images_BHWC, labels_B, data, 2, source.mean, source.std)
        levels = (np.asarray(x_BHWC) * std_C + mean_C) * 255
        words = ", ".join(f"{name} {value}" for name, value in knobs.items())
        rows[words] = levels.clip(0, 255).round().astype(np.uint8)
    return rows


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
