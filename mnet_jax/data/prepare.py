"""Brings a data set into the form that training reads: `python -m mnet_jax.data.prepare NAME`.

Only this command downloads, and only it needs TensorFlow: TFDS downloads the original files (or takes them from
`--manual_dir`), compares them with its checksums and writes array_record. Then every image is read once, which verifies
the data and measures `disk.DatasetInfo`. The result replaces a corrupt one only when it is complete; repeat an
interrupted command to resume it.
"""

import argparse
import hashlib
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
from mnet_jax.data import disk, load, transforms
from mnet_jax.data.dataset import Dataset, Split, epoch_order
from mnet_jax.errors import UserError
from mnet_jax.flags import check_file, check_folder, check_number

AHEAD = 512
"""Images that threads work on at a time."""
PREVIEWS = (".pdf", ".png", ".svg")
"""Suffixes of pictures."""
QUALITY = 95
"""Of the JPEGs that are stored smaller."""


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m mnet_jax.data.prepare", description=__doc__.split("\n\n")[0])
    parser.add_argument("name", help="fashion_mnist, cifar10, imagenet2012 or another image classification set of TFDS")
    parser.add_argument("--data_dir", default="", help="default $MNET_DATA_DIR or ~/.cache/mnet_jax")
    parser.add_argument(
        "--manual_dir", type=Path, help="original files by their original names, taken before a download"
    )
    parser.add_argument(
        "--short_side", type=int, default=0, help="also store JPEGs of this short side, as NAME/short_N"
    )
    parser.add_argument(
        "--holdout",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of a folder NAME/CLASS/*: this share of each class becomes NAME/test, the rest NAME/train",
    )
    parser.add_argument("--again", action="store_true", help="read every image again; rebuild what is corrupt")
    parser.add_argument("--preview", type=Path, metavar="FILE", help="draw augmented examples into a picture")
    flags = parser.parse_args(arguments)
    if flags.short_side < 0:
        raise UserError(f"--short_side {flags.short_side}; allowed: pixels, or 0")
    if flags.holdout:
        check_number("--holdout", flags.holdout, 0.01, 0.9)
        split_folder(load.data_dir(flags.data_dir) / flags.name, flags.holdout)
    if flags.preview:
        check_folder("--preview", flags.preview.parent)
        check_file("--preview", flags.preview, PREVIEWS)
    dataset = prepare(flags.name, flags.data_dir, flags.manual_dir, flags.short_side, flags.again)
    print(describe(dataset))
    if flags.preview:
        from mnet_jax import figures

        figures.contact_sheet(examples(dataset)).savefig(flags.preview)
        print(flags.preview)


def prepare(
    name: str, data_dir: str | Path = "", manual_dir: Path | None = None, short_side: int = 0, again: bool = False
) -> Dataset:
    """Completes `data_dir/name`, and `data_dir/name/short_N` for a short side of N; what is complete is left alone.

    Raises UserError for a name that TFDS does not know, and where packages or files are missing.
    """
    if name == "digits":
        if short_side:
            raise UserError(f"--short_side {short_side} of digits, which are 8 x 8 pixels; allowed: larger images")
        return load.from_name(name)
    root = load.data_dir(data_dir)
    folder = root / name
    images = disk.find(folder, name)
    if images is None and not manual_dir and not short_side and _has_original_files(name, root):
        return load.from_name(name, root)
    if images is None or not _complete(images, again):
        if isinstance(images, disk.ImageFolder):
            _measure(images)
        else:
            if flat := disk.flat_classes(folder):
                raise UserError(
                    f"{folder} holds images as CLASS/* ({', '.join(list(flat)[:4])}), but no train/ and test/; "
                    "--holdout 0.2 makes them, with a fifth of each class as test/"
                )
            manual = manual_dir or (folder if folder.exists() else None)
            images = _install(root, name, lambda work: _build(name, work, manual))
    if short_side:
        large, name = images, f"{images.name}/short_{short_side}"
        images = disk.find(root / name, name)
        if images is None or not _complete(images, again) or not _same_labels(large, images):
            images = _install(root, name, lambda work: _shrink(large, work, short_side))
    return load.from_disk(images)


def split_folder(folder: Path, holdout: float) -> None:
    """Makes `train/CLASS/*` and `test/CLASS/*` out of `CLASS/*`, by hard links, or copies where there are none.

    Of each class the share `holdout` is held out, at least one image and at most all but one; which ones follows from
    their names alone. The files of `CLASS/*` stay. Raises UserError where a split is there already, and where the
    folder holds no classes of two images.
    """
    if there := [part for part in disk.SPLITS if (folder / part).exists()]:
        raise UserError(f"--holdout {holdout:g}: {folder / there[0]} is there already; allowed: a folder without it")
    classes = disk.flat_classes(folder)
    small = [name for name, files in classes.items() if len(files) < 2]
    if not classes or small:
        came = f"fewer than two images in {', '.join(small)}" if small else "no folder with images"
        raise UserError(f"--holdout {holdout:g}: {folder} holds {came}; allowed: two images or more in CLASS/*")
    work = folder / ".splitting"
    shutil.rmtree(work, ignore_errors=True)
    for name, files in classes.items():
        order = sorted(files, key=lambda file: hashlib.sha256(os.fsencode(file.name)).digest())
        held = min(max(1, round(holdout * len(order))), len(order) - 1)
        for part, chosen in (("test", order[:held]), ("train", order[held:])):
            (work / part / name).mkdir(parents=True)
            for file in chosen:
                _link_or_copy(file, work / part / name / file.name)
    for part in ("test", "train"):
        (work / part).rename(folder / part)
    work.rmdir()


def _link_or_copy(file: Path, place: Path) -> None:
    try:
        os.link(file, place)
    except OSError:  # a file system without hard links
        shutil.copy2(file, place)


def _has_original_files(name: str, root: Path) -> bool:
    try:
        load.from_name(name, root)
    except UserError:
        return False
    return True


def _complete(images: disk.DiskDataset, again: bool) -> bool:
    """Whether the data set can be used as it is; measures it if it was not measured yet, or `again`."""
    try:
        if again or disk.read_info(images) is None:
            _measure(images)
    except UserError as error:
        print(f"{error}: prepared anew", file=sys.stderr)
        return False
    return True


def _same_labels(a: disk.DiskDataset, b: disk.DiskDataset) -> bool:
    """Whether the images of two measured data sets have the same labels and class names."""
    labels = []
    for images in (a, b):
        measured = disk.read_info(images)
        assert measured is not None
        labels.append((measured[0].class_names, measured[0].labels))
    return labels[0] == labels[1]


def _install(root: Path, name: str, build: Callable[[Path], None]) -> disk.DiskDataset:
    """Builds and measures in a temporary folder under `root`, and only then moves the result to its place."""
    work = root / f".preparing-{name.replace('/', '-')}"
    for stale in work.glob("**/incomplete.*"):
        shutil.rmtree(stale, ignore_errors=True)
    build(work)
    built = disk.find(work / name, name)
    assert built is not None
    if disk.read_info(built) is None:
        _measure(built)
    place = root / built.path.relative_to(work)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        place.rename(work / "replaced")
    built.path.rename(place)
    shutil.rmtree(work)
    images = disk.find(root / name, name)
    assert images is not None
    return images


def _build(name: str, work: Path, manual_dir: Path | None) -> None:
    tfds = _tfds()
    try:
        builder = tfds.builder(name, data_dir=work, file_format="array_record", try_gcs=False)
    except ValueError as error:  # no such name, or none that can be parsed
        raise UserError(f"{work.parent / name} holds no train/CLASS/*, and TFDS has no data set {name!r}") from error
    present = {path.name for path in manual_dir.iterdir()} if manual_dir else set()
    absent = [info.filename for info in (builder.url_infos or {}).values() if info.filename not in present]
    if absent:
        print(f"to be downloaded (not in --manual_dir): {', '.join(absent)}", file=sys.stderr)
    options = tfds.download.DownloadConfig(
        manual_dir=manual_dir, extract_dir=work / "extracted", try_download_gcs=False
    )
    try:
        builder.download_and_prepare(download_dir=work / "downloads", download_config=options)
    except (ImportError, AssertionError, tfds.download.DownloadError) as error:
        raise UserError(f"{name}: {error}") from error


def _shrink(large: disk.DiskDataset, work: Path, short_side: int) -> None:
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
                    return shrink(data, large.channels, short_side), label

                for index, (data, label) in enumerate(_parallel(shrunk, large.sizes[split])):
                    yield index, {"image": io.BytesIO(data), "label": label}

    options = tfds.download.DownloadConfig(try_download_gcs=False)
    Shrunk(data_dir=work, file_format="array_record").download_and_prepare(download_config=options)


def shrink(data: bytes, channels: int, short_side: int) -> bytes:
    """The encoded image as JPEG with this short side; a smaller or corrupt image stays as it is."""
    from PIL import Image

    try:
        image = Image.fromarray(transforms.decode(data, 3))
    except transforms.CorruptImage:
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
        raise UserError(f"preparing needs TFDS and TensorFlow: pip install 'mnet_jax[prepare]' ({error})") from None
    return tfds


def _parallel(function: Callable[[int], Any], count: int) -> Iterator[Any]:
    """function(0), ..., function(count - 1), in order."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for start in range(0, count, AHEAD):
            yield from threads.map(function, range(start, min(start + AHEAD, count)))


def _measure(images: disk.DiskDataset) -> None:
    """Reads every image and writes `disk.DatasetInfo` beside them. Corrupt images are printed and left out of the sums.

    Raises UserError, with its index, for a record that cannot be read at all.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    labels: dict[str, np.ndarray] = {}
    shapes, corrupt = set(), []
    count, total_C, squares_C = 0, np.zeros(images.channels), np.zeros(images.channels)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress:
        for split, size in images.sizes.items():
            labels[split] = np.empty(size, np.int32)

            def read(index: int, split: str = split) -> tuple[int, Any]:
                try:
                    data, label = images.read(split, index)
                except Exception as error:  # file formats raise errors of many types
                    raise UserError(f"{images.location(split, index)} cannot be read: {error}") from error
                try:
                    image_HWC = transforms.decode(data, images.channels)
                except transforms.CorruptImage as error:
                    return label, f"{images.location(split, index)}: {error}"
                flat = image_HWC.reshape(-1, images.channels).astype(np.float64)  # holds these sums exactly
                return label, (image_HWC.shape, len(flat), flat.sum(0), np.einsum("nc,nc->c", flat, flat))

            for index, (label, sums) in enumerate(progress.track(_parallel(read, size), size, description=split)):
                labels[split][index] = label
                if isinstance(sums, str):
                    corrupt.append(sums)
                    continue
                shapes.add(sums[0])
                if split == "train":
                    count, total_C, squares_C = count + sums[1], total_C + sums[2], squares_C + sums[3]
    for path in images.ignored if isinstance(images, disk.ImageFolder) else ():
        print(f"ignored, not an image file: {path}", file=sys.stderr)
    for line in corrupt:
        print(f"corrupt: {line}", file=sys.stderr)
    if corrupt:
        print(f"{len(corrupt)} images cannot be used: train with --config.data.corrupt=skip", file=sys.stderr)
    if not count:
        raise UserError(f"{images.path} holds no split 'train' with images; it has {dict(images.sizes)}")
    mean_C = total_C / count
    info = disk.DatasetInfo(
        name=images.name,
        version=images.version,
        class_names=images.class_names,
        sizes=dict(images.sizes),
        labels={split: disk.labels_digest(labels_N) for split, labels_N in labels.items()},
        listing=images.listing,
        shape=shapes.pop() if len(shapes) == 1 else (0, 0, images.channels),
        mean=tuple((mean_C / 255).tolist()),
        std=tuple((np.sqrt(squares_C / count - mean_C**2) / 255).tolist()),
    )
    disk.write_info(images, info, labels)


def describe(dataset: Dataset) -> str:
    """One line of facts about a data set."""
    H, W, C = dataset.shape
    size = f"{H}x{W}x{C}" if H else f"of many sizes, {C} channels"
    held = f"{len(dataset.test_indices):,} to test" if dataset.has_fixed_test_set else "the seed holds out some of them"
    numbers = (" ".join(f"{value:.5f}" for value in values) for values in (dataset.mean, dataset.std))
    return (
        f"{dataset.name}: images {size}, {dataset.classes} classes, {len(dataset.train_indices):,} to train, {held}; "
        "mean {}, std {}; fingerprint {}".format(*numbers, dataset.fingerprint)
    )


def examples(dataset: Dataset, images: int = 8) -> dict[str, np.ndarray]:
    """The same training images under each augmentation: {its name: uint8 [images, H, W, C]}."""
    import jax
    import jax.numpy as jnp

    from mnet_jax.data import augment, pipeline

    settings = config.default().data
    rows: dict[str, np.ndarray] = {}
    indices = epoch_order(0, 0, dataset.train_indices, images)[0]
    if dataset.shape[0]:
        rows["original"] = np.stack([dataset.image(int(index)) for index in indices])
    else:
        settings.size = 224
        train = np.sort(indices)
        split = Split(train, epoch_order(0, 0, train, images)[0], "", "nothing")
        rows["held out"] = pipeline.Feed(dataset, split, settings, 0, images).held_out_batch(0)["images"]
        rows["random crop"] = pipeline.Feed(dataset, split, settings, 0, images).batch(0)["images"]
        settings.randaugment = (2, 9)
        rows["RandAugment (2, 9)"] = pipeline.Feed(dataset, split, settings, 0, images).batch(0)["images"]
    plain = next(iter(rows.values()))
    mean_C, std_C = np.array(dataset.mean, np.float32), np.array(dataset.std, np.float32)
    on_device = (
        {"shift": max(1, plain.shape[1] // 8), "flip": True},
        *({name: value} for name, value in (("jitter", 0.4), ("erase", 1.0), ("mixup", 1.0), ("cutmix", 1.0))),
    )
    for knobs in on_device:
        data = config.default().data
        for name, value in knobs.items():
            data[name] = value
        targets = {"labels": jnp.zeros(images, jnp.int32)}
        x_BHWC, _ = augment.batch(jax.random.key(0), jnp.asarray(plain), targets, data, 2, dataset.mean, dataset.std)
        levels = (np.asarray(x_BHWC) * std_C + mean_C) * 255
        words = ", ".join(f"{name} {value}" for name, value in knobs.items())
        rows[words] = levels.clip(0, 255).round().astype(np.uint8)
    return rows


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
